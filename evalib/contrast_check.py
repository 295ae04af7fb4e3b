"""Whether a contrast tells why: without the places that spoke for the wrong class, does the network choose right?

>>> check_contrast(model, data, mistakes, ["layer3", "layer4"])
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from evalib.cam_layers import Layers
from evalib.cam_maps import explaining, unwrap
from evalib.contrast import contrast
from evalib.data.image_data import ImageData
from evalib.faithfulness import control_maps
from evalib.imputation import impute
from evalib.map_makers import logits_in_batches
from evalib.mistakes import Mistakes
from evalib.perturbation import Part, flat_maps
from evalib.runtime import derived_seed
from evalib.tables import Table


def check_contrast(
    model: nn.Module,
    data: ImageData,
    mistakes: Mistakes,
    layers: Layers = None,
    *,
    method: str = "hires_cam",
    fraction: float = 0.1,
    split: str = "test",
    seed: int = 1,
) -> Table:
    """What becomes of mistakes when a part of the image is removed, by what was removed.

    If the difference of the maps tells why the wrong class won, then the network decides otherwise without the pixels
    where it is highest, and all the more for the wrong class without those where it is lowest. Beside them stand the
    map of the predicted class alone, and pixels chosen at random, singly and in patches. Removed pixels are filled in
    from those around them (`evalib.imputation.impute`).

    Fine maps of early layers go far here: a network is as sensitive to single pixels as they say. That the class
    changes without those pixels does not mean that a person would call them the reason.

    Args:
        model, layers, method: as for `evalib.contrast.contrast`.
        data: whose images the mistakes are.
        mistakes: M of them.
        fraction: of the pixels to remove, in (0, 1).
        split: the split that the mistakes are from.
        seed: of the random places and the order of equal values.

    Returns:
        A row for each way to choose pixels: `n` mistakes whose map is not flat; of them the share that is "right" now
        and that is "wrong otherwise", taken for a third class; and the mean "margin", the logit of the class predicted
        before less that of the true class.

    Raises:
        TypeError, ValueError: as `evalib.contrast.contrast_batches`, and if `fraction` lies outside.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`fraction` needs to lie in (0, 1): got {fraction}.")
    model = unwrap(model)
    found: dict[str, list[Tensor]] = {}
    first = 0  # of the batch, among the mistakes
    for part, images in mistakes.batches(data, split):
        for name, maps in _orders(model, images, part, layers, method, derived_seed(seed, "places", first)):
            outcomes = found.setdefault(name, [torch.empty(0, 3, dtype=torch.float64)])
            kept = (~flat_maps(maps)).nonzero().flatten()
            if len(kept) == 0:
                continue
            removed = Part(images[kept], maps[kept], (first + kept).tolist()).ranks(seed) < fraction * maps[0].numel()
            changed = images[kept] if name == _NOTHING else impute(images[kept], removed[:, None])[:, 0]
            outcomes.append(_outcomes(model, changed, part.select(kept)))
        first += len(part)
    rows = [{"removed": name, **_figures(torch.cat(outcomes))} for name, outcomes in found.items()]
    formats = {"n": "{:,}", "right": "{:.1%}", "wrong otherwise": "{:.1%}", "margin": "{:.2f}"}
    return Table(rows, formats, [f"{fraction:.0%} of the pixels removed, those where the map is highest."])


_NOTHING = "nothing"


def _orders(
    model: nn.Module, images: Tensor, part: Mistakes, layers: Layers, method: str, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Maps (B, H, W) whose highest places are to be removed, by what a row is called."""
    found = contrast(model, images, part.predicted, part.true, layers, method=method)
    controls = control_maps(found.difference[0], seed)
    yield _NOTHING, controls["random"]
    yield "random pixels", controls["random"]
    yield "random patches", controls["random, blurred"]
    for name, predicted, difference, flat in zip(found.layers, found.cams, found.difference, found.flat, strict=True):
        difference = difference * ~flat[:, None, None]  # rounding has no order
        yield f"{name}, predicted class", predicted
        yield f"{name}, difference", difference
        yield f"{name}, difference, lowest", -difference


def _outcomes(model: nn.Module, images: Tensor, part: Mistakes) -> Tensor:
    """(B, 3) float64: right (0 or 1), taken for a third class (0 or 1), and the margin in logits."""
    with explaining(model), torch.inference_mode():
        logits = logits_in_batches(model, images).cpu().double()
    chosen = logits.argmax(dim=1)
    margin = logits.gather(1, part.predicted[:, None]) - logits.gather(1, part.true[:, None])
    right, third = chosen == part.true, (chosen != part.true) & (chosen != part.predicted)
    return torch.cat([right[:, None].double(), third[:, None].double(), margin], dim=1)


def _figures(outcomes: Tensor) -> dict[str, float | int | None]:
    right, third, margin = outcomes.mean(dim=0).tolist() if len(outcomes) else (None, None, None)
    return {"n": len(outcomes), "right": right, "wrong otherwise": third, "margin": margin}
