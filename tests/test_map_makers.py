"""Map makers are `explain`, and batches change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from evalib.explain import explain
from evalib.map_makers import logits_in_batches, make_in_batches, map_maker

CLASSES = torch.tensor([0, 1, 2])


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("method", "layer"), [("layer_cam", "layer3"), ("grad_cam", "layer4.1.conv2"), ("cam", None)])
def test_a_map_maker_is_explain(tiny_model, images, method: str, layer: str | None) -> None:
    expected = explain(tiny_model, images, layer, CLASSES, method=method)[0]
    assert map_maker(method, layer)(tiny_model, images, CLASSES).equal(expected)


def test_map_maker_errors() -> None:
    with pytest.raises(ValueError, match="`method` needs one of"):
        map_maker("gradcam", "layer3")
    with pytest.raises(ValueError, match="`layer` needs the name"):
        map_maker("grad_cam")


def test_batches(tiny_model, images) -> None:
    sizes: list[int] = []

    def make_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        sizes.append(len(images))
        return images[:, 0] + classes[:, None, None]

    cams = make_in_batches(tiny_model, images, CLASSES, make_maps, 2)
    assert sizes == [2, 1]
    assert cams.equal(images[:, 0] + CLASSES[:, None, None])


def test_logits_in_batches(tiny_model, images) -> None:
    tiny_model.eval()
    torch.testing.assert_close(logits_in_batches(tiny_model, images, 2), tiny_model(images))
