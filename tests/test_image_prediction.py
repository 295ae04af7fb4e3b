"""The value that `predict` returns: its words, its pixels and its figure."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from evalib.image_prediction import ImagePrediction

pytestmark = pytest.mark.usefixtures("nothing_leaks")
PIXELS = torch.arange(3 * 4 * 4, dtype=torch.uint8).reshape(3, 4, 4) * 5
CAM = torch.linspace(0, 1, 16).reshape(4, 4)
SHARES = torch.tensor([0.75, 0.05, 0.2])


def made(cam: torch.Tensor | None = CAM, name: str = "bee") -> ImagePrediction:
    about = {} if cam is None else {"cam": cam, "explained": name, "layer": "layer4", "method": "grad_cam"}
    return ImagePrediction("a.png", (name, "ant"), (0.75, 0.2), "", PIXELS, SHARES, **about)


def test_what_it_says():
    assert str(made(None)) == "a.png  bee 75.0%, ant 20.0%"
    assert repr(made()) == str(made()) == "a.png  bee 75.0%, ant 20.0%  (map of bee: layer4, grad_cam)"
    assert str(made(torch.zeros(4, 4))).endswith("(map of bee: layer4, grad_cam): flat, no place speaks for it")


def test_the_overlay_is_half_image_and_half_map():
    """Jet begins at (0, 0, 0.5) and ends at (0.5, 0, 0)."""
    overlay = made().overlay()
    assert overlay.dtype == np.uint8
    assert overlay.shape == (4, 4, 3)
    np.testing.assert_allclose(overlay[0, 0], PIXELS[:, 0, 0].numpy() / 2 + [0, 0, 63.75], atol=1)
    np.testing.assert_allclose(overlay[3, 3], PIXELS[:, 3, 3].numpy() / 2 + [63.75, 0, 0], atol=1)


def test_a_flat_map_is_the_plain_image():
    flat = made(torch.zeros(4, 4))
    assert flat.is_flat
    assert not made().is_flat
    assert not made(None).is_flat
    np.testing.assert_array_equal(flat.overlay(), PIXELS.permute(1, 2, 0).numpy())
    assert "no evidence" in [text.get_text() for text in flat.plot().axes[1].texts]


def test_the_overlay_as_a_file_is_large_enough_to_see(tmp_path):
    path = made().save_overlay(tmp_path / "deep" / "a.png") if (tmp_path / "deep").mkdir() is None else None
    with Image.open(path) as image:
        assert image.size == (224, 224)
        np.testing.assert_array_equal(np.asarray(image)[::56, ::56], made().overlay())
    with pytest.raises(ValueError, match="has no map: call `predict` with `cam=True`"):
        made(None).save_overlay(tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_the_figure_has_the_image_the_map_and_the_words():
    axes = made(name="$\\frac{<b>").plot().axes
    assert [len(one.images) for one in axes] == [1, 1]
    np.testing.assert_array_equal(axes[0].images[0].get_array(), PIXELS.permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(axes[1].images[0].get_array(), made().overlay())
    assert axes[0].get_title() == "$\\frac{<b> 75.0%\nant 20.0%"
    assert axes[1].get_title() == "what speaks for $\\frac{<b>\nlayer4, grad_cam"
    assert len(made(None).plot().axes) == 1


def test_a_notebook_shows_the_figure():
    with Image.open(io.BytesIO(made(name="$\\frac{<b>")._repr_png_())) as image:
        assert image.format == "PNG"
        assert image.width > image.height > 200
