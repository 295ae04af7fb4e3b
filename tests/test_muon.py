"""Muon against torch's own, against the singular values, and SGD's part against SGD."""

import pytest
import torch
from torch import nn

from evalib.muon import MuonSGD, orthogonalized


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 144), (2, 40, 9)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, values, vh = torch.linalg.svd(matrices, full_matrices=False)
    in_the_old_frame = u.mT @ orthogonalized(matrices) @ vh.mT
    diagonal = in_the_old_frame.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(in_the_old_frame, torch.diag_embed(diagonal), atol=1e-9, rtol=0)
    # five steps reach singular values from a hundredth of the norm on
    reached = diagonal[values > 0.01 * matrices.norm(dim=(1, 2))[:, None]]
    assert reached.numel() > 0
    assert (reached > 0.65).all()
    assert (reached < 1.25).all()


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 16, 144), (2, 40, 9)])
@pytest.mark.parametrize("smallest", [1.0, 1e-6, 0.0])
def test_singular_values_go_through_the_quintic_five_times(shape, smallest):
    """In float32, and also those that are tiny or 0, as of filters that learn alike."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, values, vh = torch.linalg.svd(matrices, full_matrices=False)
    values[:, 4:] *= smallest
    truth = values / values.norm(dim=1, keepdim=True)
    for _ in range(5):
        truth = 3.4445 * truth - 4.7750 * truth**3 + 2.0315 * truth**5
    found = orthogonalized((u @ torch.diag_embed(values) @ vh).float())
    torch.testing.assert_close(found.double(), u @ torch.diag_embed(truth) @ vh, atol=1e-3, rtol=0)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_matrices_move_as_with_torchs_muon(shape, nesterov):
    start = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.1, "momentum": 0.8, "nesterov": nesterov, "weight_decay": 0.2}
    pairs = [
        (ours, MuonSGD([{"params": [ours], "muon": True}], **settings)),
        (theirs, torch.optim.Muon([theirs], **settings)),
    ]
    for step in range(4):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(2 + step))
        for parameter, optimizer in pairs:
            parameter.grad = gradient.clone()
            optimizer.step()
    # torch computes the iteration in bfloat16, with a relative precision of 1/256, we on a CPU in float32
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved


def test_a_filter_bank_moves_as_its_matrix():
    start = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    bank = nn.Parameter(start.clone(memory_format=torch.channels_last))
    matrix = nn.Parameter(start.flatten(1).clone())
    for parameter in (bank, matrix):
        parameter.grad = torch.ones_like(parameter).cumsum(0) * start.reshape(parameter.shape)
        MuonSGD([{"params": [parameter], "muon": True}], lr=0.1).step()
    torch.testing.assert_close(bank.detach().flatten(1), matrix.detach())
    assert bank.is_contiguous(memory_format=torch.channels_last)


def test_other_groups_move_as_with_sgd_and_at_their_own_rate():
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    filters = nn.Parameter(torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(1)))
    settings = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    optimizers = (
        MuonSGD([{"params": [ours], "lr": 0.5}, {"params": [filters], "muon": True}], lr=0.1, **settings),
        torch.optim.SGD([theirs], lr=0.5, **settings),
    )
    for step in range(3):
        for parameter in (ours, theirs, filters):
            parameter.grad = parameter.detach().clone() + step
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_its_state_can_be_saved_and_taken_up_again():
    def made(start):
        parameters = [nn.Parameter(start.clone()), nn.Parameter(torch.ones(3))]
        groups = [{"params": parameters[1:]}, {"params": parameters[:1], "muon": True}]
        return parameters, MuonSGD(groups, lr=0.1)

    def train(parameters, optimizer, steps):
        for step in steps:
            for parameter in parameters:
                parameter.grad = (parameter.detach() + step).sin()
            optimizer.step()

    start = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    whole, optimizer = made(start)
    train(whole, optimizer, range(6))
    first, before = made(start)
    train(first, before, range(3))
    second, after = made(start)
    after.load_state_dict(before.state_dict())
    for mine, stored in zip(second, first, strict=True):
        mine.data.copy_(stored.data)
    train(second, after, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))


def test_parameters_without_a_gradient_stay_and_a_closure_is_refused():
    parameter = nn.Parameter(torch.ones(2, 2, 3, 3))
    optimizer = MuonSGD([{"params": [parameter], "muon": True}], lr=0.1, weight_decay=0.5)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(2, 2, 3, 3))
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: 0.0)
