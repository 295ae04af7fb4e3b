"""What all map methods share. How `grad_cam` and `classic_cam` use it is tested with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from evalib.cam_maps import empty_maps, explaining, finish, logits_and_classes, unwrap


def images_of(height: int, width: int, number: int = 1) -> Tensor:
    return torch.zeros(number, 3, height, width)


def test_finish_by_hand() -> None:
    """A row of 0 and 8 enlarged to 4 pixels is 0, 2, 6, 8: pixel centers, and no extrapolation at the edges."""
    maps = finish(torch.tensor([[[0.0, 8.0]]]), images_of(1, 4), "it")
    torch.testing.assert_close(maps, torch.tensor([[[0.0, 0.25, 0.75, 1.0]]]))


def test_finish_cuts_negative_evidence_before_it_enlarges() -> None:
    # after ReLU 0 and 8; before it the enlarged row would be -8, -4, 4, 8, and 0, 0, 4, 8 cut
    maps = finish(torch.tensor([[[-8.0, 8.0]]]), images_of(1, 4), "it")
    torch.testing.assert_close(maps, torch.tensor([[[0.0, 0.25, 0.75, 1.0]]]))


def test_finish_scales_each_map_by_itself_however_small() -> None:
    maps = torch.tensor([[[1.0, 3.0], [2.0, 1.0]], [[5e-30, 6e-30], [5e-30, 5e-30]]])
    expected = torch.tensor([[[0.0, 1.0], [0.5, 0.0]], [[0.0, 1.0], [0.0, 0.0]]])
    torch.testing.assert_close(finish(maps, images_of(2, 2, 2), "it"), expected)


@pytest.mark.parametrize("value", [0.0, 7.0, -7.0, 1e-30, 1e30])
@pytest.mark.parametrize("size", [(1, 1), (3, 3)])
def test_finish_makes_flat_maps_zero(value: float, size: tuple[int, int]) -> None:
    maps = finish(torch.full((2, *size), value), images_of(5, 7, 2), "it")
    assert torch.equal(maps, torch.zeros(2, 5, 7))


def test_finish_makes_flat_but_for_rounding_zero() -> None:
    maps = 0.1 + 1e-7 * torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert len(maps.unique()) > 1
    assert finish(maps, images_of(8, 8), "it").count_nonzero() == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_finish_refuses_what_is_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match="`model.layer4` gives a map that is not finite"):
        finish(torch.tensor([[[0.0, value]]]), images_of(1, 4), "`model.layer4`")


def test_empty_maps() -> None:
    cams = torch.zeros(2, 3, 4, 4)
    cams[0, 1, 3, 3] = cams[1, 2] = 1.0
    assert empty_maps(cams).tolist() == [[True, False, True], [True, True, False]]


def test_empty_maps_needs_four_dimensions() -> None:
    with pytest.raises(ValueError, match=r"`cams` needs shape \(L, N, H, W\).*got \(2, 4, 4\)"):
        empty_maps(torch.zeros(2, 4, 4))


def test_unwrap_to_the_innermost_network() -> None:
    network = nn.Linear(1, 1)
    compiled = torch.compile(nn.DataParallel(network), backend="eager")
    assert unwrap(nn.DataParallel(compiled)) is network  # type: ignore[arg-type]
    assert unwrap(network) is network


def test_explaining_sets_and_puts_back() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout()).train()
    model[1].eval()
    before = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(KeyError, match="inside"), explaining(model):
            assert not model.training
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
            torch.rand(1)
            raise KeyError("inside")
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == [True, True, False]


def test_logits_and_classes() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(3, 2, bias=False)).double()
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    images = torch.tensor([[3.0, 1.0, 0.0], [-1.0, 2.0, 0.0]])[:, :, None, None]
    logits, classes = logits_and_classes(model, images, None)
    assert logits.tolist() == [[3.0, 1.0], [0.0, 2.0]]
    assert classes.tolist() == [0, 1]
    assert images[1, 0, 0, 0] == -1  # the in-place operation had a copy
    assert logits_and_classes(model, images, 1)[1].tolist() == [1, 1]
    assert logits_and_classes(model, images, [1, 0])[1].tolist() == [1, 0]
