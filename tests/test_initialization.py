"""Whitening against the covariance that it must give, identity blocks against their shortcuts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evalib.data import sample
from evalib.initialization import batch_norm_momentum, whiten, zero_gamma
from evalib.models import resnet18, resnet50
from evalib.transforms import normalize


@pytest.fixture(scope="module")
def photographs():
    data = sample()
    return normalize(data.train.images[:200], data.mean, data.std)


def test_filtered_patches_are_uncorrelated_and_of_one_variance(photographs):
    model = resnet18()
    random_part = model.conv1.weight[54:].clone()
    whiten(model, photographs)
    with torch.no_grad():
        out = F.conv2d(photographs.double(), model.conv1.weight.double())
    covariance = out.movedim(1, 0).flatten(1).cov()[:54:2, :54:2]  # one of each pair of signs
    variances = covariance.diagonal()
    torch.testing.assert_close(covariance, torch.diag(variances), atol=1e-4, rtol=0)
    assert variances[0] == pytest.approx(1, abs=1e-3)  # the strongest direction first
    assert (variances.diff() < 1e-6).all()
    assert 0 < variances[-1] < 1
    assert torch.equal(model.conv1.weight[0:54:2], -model.conv1.weight[1:54:2])
    assert torch.equal(model.conv1.weight[54:], random_part)


def test_a_narrow_network_gets_the_strongest_directions(photographs):
    wide, narrow = resnet18(), resnet18(width=16)
    whiten(wide, photographs)
    whiten(narrow, photographs)
    torch.testing.assert_close(narrow.conv1.weight, wide.conv1.weight[:16])


def test_a_network_that_cannot_be_whitened(photographs):
    with pytest.raises(ValueError, match="first convolution takes the images"):
        whiten(nn.Sequential(nn.Conv2d(1, 4, 3)), photographs)
    with pytest.raises(ValueError, match="first convolution takes the images"):
        whiten(nn.Linear(3, 3), photographs)


@pytest.mark.parametrize("build", [resnet18, resnet50])
def test_blocks_begin_as_their_shortcuts(build):
    model = build(width=8)
    zero_gamma(model)
    block, x = model.layer2[1].eval(), torch.rand(2, model.layer2[1].conv1.in_channels, 8, 8)
    assert torch.equal(block(x), x)  # the ReLU after it leaves positive numbers alone
    assert (model.bn1.weight == 1).all()  # the stem is no block


def test_momentum_of_batch_normalization_is_put_back(tiny_model):
    tiny_model.bn1.momentum = 0.3

    def momenta():
        return [m.momentum for m in tiny_model.modules() if isinstance(m, nn.BatchNorm2d)]

    before = momenta()
    with pytest.raises(RuntimeError, match="stop"), batch_norm_momentum(tiny_model, 0.5):
        assert set(momenta()) == {0.5}
        raise RuntimeError("stop")
    assert momenta() == before
    with batch_norm_momentum(tiny_model, 0):
        assert momenta() == before
