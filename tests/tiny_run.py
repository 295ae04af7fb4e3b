"""A run of a tiny network on folders of random pixels, whose data can be found again from its directory alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from evalib.data.folder import image_folder
from evalib.engine import fit
from evalib.models import model_for
from evalib.recipes import Recipe

RECIPE = Recipe(name="tiny", width=8, epochs=1, batch_size=8, lr=0.05)


def make_run(folder: Path, classes: tuple[str, ...], size: int = 32) -> Path:
    """A run directory beside its images, 8 training and 12 test images of each class."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 12)):
        for name in classes:
            place = folder / "photos" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    data = image_folder(folder / "photos", cache=False)
    fit(model_for(RECIPE, len(classes)), data, RECIPE, run_dir=folder / "run", progress=False, device="cpu")
    return folder / "run"
