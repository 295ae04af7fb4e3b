"""Cascading randomization: do maps depend on the weights? Layer after layer of a copy becomes random."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evalib.cam_maps import check_inputs, explaining, unwrap
from evalib.map_likeness import rank_correlation, ssim
from evalib.map_makers import make_in_batches
from evalib.perturbation import flat_maps
from evalib.runtime import derived_seed
from evalib.scores import MapMaker, Score, Scores, scores_table
from evalib.tables import Table, Tabular


@dataclass(frozen=True, eq=False, repr=False)
class Randomization(Tabular):
    """How much of each map is left while the network's layers become random, from the logits down.

    Attributes:
        stages: by the name of the part that became random, in that order; all parts named before are random, too.
            "rank correlation" and "SSIM" of each map with that of the trained network, low is good, as
            `evalib.map_likeness` defines them; NaN where the trained network's map is flat. Their `flat` counts the
            maps of the random network that are flat: their rank correlation is 0.
    """

    stages: Mapping[str, Scores]

    @property
    def final(self) -> Scores:
        """The figures with all layers random."""
        return list(self.stages.values())[-1]

    def table(self) -> Table:
        """A row per stage."""
        table = scores_table(self.stages)
        rows = [{"random from the logits to": row["maps"], **row} for row in table.rows]
        rows = [{name: value for name, value in row.items() if name != "maps"} for row in rows]
        return Table(rows, table.formats, [*table.notes, "Between maps of the trained network and of the random one."])


def randomize_layers(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    make_maps: MapMaker,
    *,
    seed: int = 1,
    stages: Sequence[str] | None = None,
    batch_size: int = 64,
) -> Randomization:
    """Cascading randomization (Adebayo et al. 2018, arXiv:1810.03292): do maps depend on the weights?

    Layers of a private copy are initialized again as PyTorch does it, one stage after the other from the logits down,
    and the maps of the same classes made again. Maps that explain the network lose their likeness to the trained ones.

    Args:
        model: classifier as for `evalib.explain.explain`; neither it nor the random state is changed.
        images: (N, 3, H, W) floating point, normalized as in training, H and W at least 11.
        classes: (N,) int64, the classes that the maps explain.
        make_maps: is given the copy, and has to use it.
        seed: of the random weights.
        stages: names of modules, each with all that is inside, in the order in which they become random; "" is the
            whole network. None for all blocks, the one that the network defines last first: "linear", "layer4.1", ...
        batch_size: images explained at once.

    Raises:
        ValueError: if a stage is no module with parameters, or images, classes or maps do not fit.
    """
    model = unwrap(model)
    check_inputs(model, images)
    known = _blocks(model)
    chosen = known if stages is None else list(stages)
    modules = dict(model.named_modules())
    for name in chosen:
        if name not in modules or next(modules[name].parameters(), None) is None:
            raise ValueError(f"`stages` needs modules with parameters, such as {known[:3]}: got {name!r}.")
    if not chosen:
        raise ValueError("`stages` needs at least one module: got none.")
    found = {}
    with explaining(model):
        trained = make_in_batches(model, images, classes, make_maps, batch_size)
        private = copy.deepcopy(model)
        for name in chosen:
            start = time.perf_counter()
            _initialize(private, name, seed)
            cams = make_in_batches(private, images, classes, make_maps, batch_size)
            figures = {"rank correlation": rank_correlation(trained, cams), "SSIM": ssim(trained, cams)}
            figures["SSIM"][figures["rank correlation"].isnan()] = torch.nan
            seconds, flat = time.perf_counter() - start, int(flat_maps(cams).sum())
            found[name] = Scores(Score(key, values, "low", flat, seconds / 2) for key, values in figures.items())
    return Randomization(found)


def _blocks(model: nn.Module) -> list[str]:
    """Parts that hold all parameters, last first: modules by the first two words of their names, as "layer4.1"."""
    names = [name for name, part in model.named_modules() if next(part.parameters(recurse=False), None) is not None]
    return list(dict.fromkeys(".".join(name.split(".")[:2]) for name in reversed(names)))


def _initialize(model: nn.Module, name: str, seed: int) -> None:
    """New weights for a part of the network; on the CPU, so that they are the same on every device.

    The random state is the caller's to keep.
    """
    part = model.get_submodule(name)
    device = next(part.parameters()).device
    part.cpu()
    torch.default_generator.manual_seed(derived_seed(seed, "random weights", name))
    with torch.no_grad():
        for module in part.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
                continue
            for weight in module.parameters(recurse=False):  # one of no known initialization keeps mean and spread
                weight.normal_(weight.mean().item(), weight.std(correction=0).item())
    part.to(device)
