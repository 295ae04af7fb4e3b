"""Batches as they come from a loader, drawn back in their colors."""

import numpy as np
import pytest
import torch

from evalib.input_plots import plot_batches
from evalib.transforms import normalize

pytestmark = pytest.mark.usefixtures("nothing_leaks")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def batch(count):
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return images, normalize(images, MEAN, STD)


def test_every_row_has_the_images_in_their_colors():
    few, few_normalized = batch(3)
    many, many_normalized = batch(6)
    figure = plot_batches({"few $x$": few_normalized, "many": many_normalized}, MEAN, STD)
    shown = [axes.get_images()[0].get_array() for axes in figure.axes]
    assert len(shown) == 6  # three to a row
    for pixels, image in zip(shown, torch.cat([few, many[:3]]), strict=True):
        np.testing.assert_allclose(pixels, image.permute(1, 2, 0).numpy() / 255, atol=1e-6)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["few $x$", "", "", "many", "", ""]


@pytest.mark.parametrize("batches", [{}, {"none": torch.empty(0, 3, 8, 8)}])
def test_nothing_to_show_is_an_error(batches):
    with pytest.raises(ValueError, match="needs at least one batch"):
        plot_batches(batches, MEAN, STD)
