"""How outputs are read as maps, against tensors whose places are numbered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from evalib.layouts import Layout, fits, gradient_reaches_places, layout_of

ANY = nn.Identity()
FIRST = torch.arange(2 * 9 * 3 * 4.0).reshape(2, 9, 3, 4)  # (N, C, h, w)
SIZE = (24, 32)


@pytest.mark.parametrize("prefix", [0, 1, 5, 9])
def test_tokens(prefix: int) -> None:
    tokens = torch.cat([torch.full((2, prefix, 9), -1.0), FIRST.flatten(2).mT], dim=1)
    layout = layout_of(tokens, SIZE, ANY)
    assert layout == Layout("tokens", 3, 4, prefix)
    assert torch.equal(layout.channels_first(tokens), FIRST)
    assert torch.equal(layout.with_map(tokens, FIRST), tokens)
    assert torch.equal(layout.with_map(tokens, FIRST + 1)[:, :prefix], tokens[:, :prefix])


def test_four_dimensions() -> None:
    last = FIRST.movedim(1, -1)
    layout = layout_of(last, SIZE, ANY)
    assert layout == Layout("channels last", 3, 4)
    assert torch.equal(layout.channels_first(last), FIRST)
    assert torch.equal(layout.with_map(last, FIRST), last)
    layout = layout_of(FIRST, SIZE, ANY)
    assert layout == Layout("channels first", 3, 4)
    assert layout.channels_first(FIRST) is FIRST


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(8, 8, 1), "channels first"),
        (nn.ReLU(), "channels first"),
        (nn.LayerNorm(8), None),
        (nn.Linear(4, 8), None),
    ],
)
def test_as_many_channels_as_places_a_side(layer: nn.Module, expected: str | None) -> None:
    layout = layout_of(torch.zeros(2, 8, 8, 8), (32, 32), layer)
    assert (layout and layout.kind) == expected


@pytest.mark.parametrize(
    "output",
    [
        torch.zeros(2, 5),
        torch.zeros(2, 40, 8),
        torch.zeros(2, 3, 4, dtype=torch.int64),
        (FIRST,),
        None,
        torch.zeros(2, 1, 8),
    ],
)
def test_what_is_no_map(output: object) -> None:
    assert layout_of(output, SIZE, ANY) is None


def test_a_number_of_tokens_with_two_readings() -> None:
    """12 x 12 pixels: 3 x 3 places after one token, or 2 x 2 after six, and 3 x 3 after none: the usual one counts."""
    assert layout_of(torch.zeros(2, 10, 8), (12, 12), ANY) == Layout("tokens", 3, 3, 1)
    assert layout_of(torch.zeros(2, 11, 8), (12, 12), ANY) is None  # two tokens and 3 x 3, or seven and 2 x 2


def test_fits() -> None:
    assert fits((7, 7), (224, 224))
    assert fits((8, 11), (299, 400))  # InceptionV3
    assert not fits((49, 64), (224, 224))
    assert not fits((40, 40), (32, 32))


def test_gradients_of_a_class_token_reach_no_place() -> None:
    layout = Layout("tokens", 2, 2, 1)
    gradient: Tensor = torch.zeros(1, 5, 3)
    assert gradient_reaches_places(gradient, layout)  # of random heads of zeros nothing can be said
    gradient[:, 0] = 1
    assert not gradient_reaches_places(gradient, layout)
    gradient[:, 4] = 1
    assert gradient_reaches_places(gradient, layout)
