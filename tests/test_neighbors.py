"""Nearest training images by hand, against a search of all pairs in NumPy, and what the search leaves behind."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalib.data.image_data import ImageData, Split
from evalib.mistakes import Mistakes
from evalib.neighbors import Neighbors, features_of, nearest_images
from evalib.transforms import normalize

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 50, 0), (0, 100, 100), (20, 5, 0))


class MeanColor(nn.Module):
    """Its features are the mean of every channel, that of blue doubled."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.classifier, self.first = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.diag(torch.tensor([1.0, 1.0, 2.0])))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.first(images.mean(dim=(2, 3))))


@pytest.fixture
def colors() -> ImageData:
    """Training images of one color each; a dark red and a red test image, both labeled 1."""
    train = torch.tensor(COLORS, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 4, 4).contiguous()
    test = torch.tensor([(100, 0, 0), (0, 90, 0)], dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 4, 4)
    return ImageData(
        "colors", ("warm", "cold"), Split(train, torch.tensor([0, 1, 1, 0, 1, 0])),
        Split(test.contiguous(), torch.tensor([1, 0])), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0),
    )  # fmt: skip


def mistakes_of(split: Split, indices: list[int], num_classes: int = 2) -> Mistakes:
    true = split.labels[indices]
    return Mistakes(torch.tensor(indices), true, (true + 1) % num_classes, torch.full((len(indices),), 0.6))


def test_neighbors_by_hand(colors):
    found = nearest_images(MeanColor(), colors, mistakes_of(colors.test, [0, 1]), k=4)
    # red: itself, then (200, 50, 0) and (20, 5, 0) at an equal angle of which the cosine is 4 / sqrt(17)
    assert found.indices[0, 0] == 0
    assert set(found.indices[0, 1:3].tolist()) == {3, 5}
    assert found.similarity[0].tolist() == pytest.approx([1, 4 / 17**0.5, 4 / 17**0.5, 0], abs=1e-6)
    assert found.indices[1, :2].tolist() == [1, 4]
    assert found.similarity[1, :2].tolist() == pytest.approx([1, 0.2**0.5], abs=1e-6)
    assert torch.equal(found.labels, colors.train.labels[found.indices])


def test_agreement_is_the_share_of_a_label():
    labels = torch.tensor([[0, 0, 1, 2], [1, 1, 1, 1]])
    neighbors = Neighbors(torch.zeros(2, 4, dtype=torch.int64), torch.ones(2, 4), labels)
    assert neighbors.agreement(torch.tensor([0, 1])).tolist() == [0.5, 1.0]
    assert neighbors.agreement(torch.tensor([2, 0])).tolist() == [0.25, 0.0]
    chosen = neighbors.select([1])
    assert (len(neighbors), len(chosen), chosen.labels.tolist()) == (2, 1, [[1, 1, 1, 1]])


def test_a_training_image_is_not_its_own_neighbor(colors):
    mistakes = mistakes_of(colors.train, [1, 4])
    found = nearest_images(MeanColor(), colors, mistakes, k=5, split="train", batch_size=2)
    assert found.indices[0, 0] == 4
    assert found.indices[1, :2].tolist() == [2, 1]
    assert all(index not in row for index, row in zip([1, 4], found.indices.tolist(), strict=True))
    with pytest.raises(ValueError, match="`k` needs 1 to 5, .*: got 6"):
        nearest_images(MeanColor(), colors, mistakes, k=6, split="train")


def test_the_same_as_comparing_all_pairs(tiny_model, tiny_data):
    """The features of a ResNet are the means of its last feature map, here taken from a hook of the test."""
    maps: list[Tensor] = []
    hook = tiny_model.layer4.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    tiny_model.eval()
    with torch.no_grad():
        for split in (tiny_data.test, tiny_data.train):
            tiny_model(normalize(split.images, tiny_data.mean, tiny_data.std))
    hook.remove()
    queries, others = (m.mean(dim=(2, 3)).double().numpy() for m in maps)
    cosines = queries @ others.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(others, axis=1)
    mistakes = mistakes_of(tiny_data.test, [7, 2, 11], 3)
    for batch_size in (None, 5, 24):
        found = nearest_images(tiny_model, tiny_data, mistakes, k=6, batch_size=batch_size)
        np.testing.assert_array_equal(found.indices.numpy(), np.argsort(-cosines[[7, 2, 11]], axis=1)[:, :6])
        np.testing.assert_allclose(found.similarity.numpy(), -np.sort(-cosines[[7, 2, 11]], axis=1)[:, :6], atol=1e-5)


def test_the_network_is_left_as_it_was(tiny_model, tiny_data):
    tiny_model.train()
    state = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    stopped = features_of(tiny_model, iter([torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 32, 32)]))
    assert next(stopped).shape == (2, 64)
    with pytest.raises(ValueError, match="must be"):
        list(features_of(tiny_model, [torch.zeros(2, 4, 32, 32)]))
    assert tiny_model.training
    assert not any(module._forward_pre_hooks for module in tiny_model.modules())
    assert all(torch.equal(value, state[name]) for name, value in tiny_model.state_dict().items())


def test_features_have_length_one_but_for_a_network_that_sees_nothing(tiny_model):
    (found,) = features_of(tiny_model, [torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))])
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    (found,) = features_of(MeanColor(), [torch.zeros(2, 3, 4, 4)])
    assert found.abs().max() == 0, "no direction, and no NaN"


class PlaceByPlace(nn.Module):
    """A linear layer for every place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(2).transpose(1, 2)).mean(dim=1)


@pytest.mark.parametrize(
    ("net", "came"), [(nn.Sequential(nn.Conv2d(3, 2, 4), nn.Flatten()), "none runs"), (PlaceByPlace(), "(2, 16, 3)")]
)
def test_networks_without_such_features_are_refused(net, came, colors):
    with pytest.raises(ValueError, match="needs a last linear layer") as error:
        nearest_images(net, colors, mistakes_of(colors.test, [0, 1]), k=1)
    assert came in str(error.value)


@pytest.mark.parametrize("k", [0, 7])
def test_the_number_of_neighbors_is_checked(colors, k):
    with pytest.raises(ValueError, match=f"`k` needs 1 to 6, .*: got {k}"):
        nearest_images(MeanColor(), colors, mistakes_of(colors.test, [0]), k=k)


def test_mistakes_of_other_images_are_refused(colors):
    mistakes = mistakes_of(colors.test, [0, 1])
    other = dataclasses.replace(colors, test=Split(colors.test.images, torch.tensor([0, 0])))
    with pytest.raises(ValueError, match="its labels at the indices of the mistakes are other ones"):
        nearest_images(MeanColor(), other, mistakes, k=1)
