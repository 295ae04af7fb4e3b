"""Which mistakes a report shows, and their maps: predicted class, true class, difference, for every layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice, zip_longest

import torch
from torch import Tensor

from evalib.contrast import Contrast, contrast_mistakes
from evalib.data.image_data import Split
from evalib.data.image_files import DecodedFiles, ImageFiles
from evalib.html_facts import RunFacts
from evalib.html_scores import MapScores, score_maps
from evalib.mistake_groups import GROUPS, MistakeGroups, group_mistakes
from evalib.mistakes import Mistakes, find_mistakes
from evalib.neighbors import nearest_images
from evalib.runtime import derived_seed
from evalib.transforms import normalize

METHOD = "hires_cam"  # signed and linear in the logits: the difference of two maps is the map of the difference
PATIENCE = 45.0  # seconds that the search for suspects of wrong labels may take
_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "", "right")


@dataclass(frozen=True, eq=False)
class Gallery:
    """The mistakes of a run, and those of them that a report shows with their maps.

    Attributes:
        groups: all mistakes by kind.
        rows: (M,) int64, which of them are shown, in the order of the page.
        names: M times, what the user knows the image by.
        photos: (M, 3, S, S) uint8, the network's input.
        probabilities: (M, C) float32, of all classes.
        maps: of the M images; None if there are none.
        layer: the layer that is shown first; empty without maps.
        scores: what the maps are worth; or why that is not known, in words.
        notes: what a reader should know.
    """

    groups: MistakeGroups
    rows: Tensor
    names: list[str]
    photos: Tensor
    probabilities: Tensor
    maps: Contrast | None = None
    layer: str = ""
    scores: MapScores | str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def shown(self) -> Mistakes:
        """The mistakes that are shown."""
        return self.groups.mistakes.select(self.rows)

    def head(self, count: int, note: str) -> Gallery:
        """The same with fewer mistakes shown, and a note."""
        places = torch.arange(count)
        names = [self.names[place] for place in places.tolist()]
        maps = self.maps and _some(self.maps, places)
        return replace(self, rows=self.rows[places], names=names, photos=self.photos[places], maps=maps,
                       probabilities=self.probabilities[places], notes=[*self.notes, note])  # fmt: skip

    def kind(self, place: int) -> str:
        """The kind of the mistake at a place of the page."""
        return GROUPS[int(self.groups.group[self.rows[place]])]


def choose_mistakes(groups: MistakeGroups, count: int) -> Tensor:
    """(M,) rows of at most `count` mistakes, the kinds in turn, so that none is crowded out."""
    by_kind = [groups.rows(name).tolist() for name in groups.rules]
    in_turn = (row for rows in zip_longest(*by_kind) for row in rows if row is not None)
    return torch.tensor(list(islice(in_turn, count)), dtype=torch.int64)


def make_gallery(
    facts: RunFacts, *, count: int = 48, maps: bool = True, scores: int | None = None, seed: int = 1
) -> Gallery | None:
    """The mistakes of a run that was tested, with their maps.

    Args:
        facts: as from `evalib.html_facts.read_run`.
        count: how many to show at most.
        maps: whether to make maps, and to measure what they are worth.
        scores: how many test images to measure that on; None for as many as do not take long.
        seed: of the images that are measured.

    Returns:
        None if the run was not tested, or made no mistake.
    """
    groups, note = mistake_kinds(facts)
    if groups is None or facts.test is None or facts.data is None:
        return None
    rows = choose_mistakes(groups, count)
    shown, split = groups.mistakes.select(rows), facts.data.test
    photos = split.images[shown.indices] if len(rows) else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    names = [image_name(split, index) for index in shown.indices.tolist()]
    found = Gallery(groups, rows, names, photos, facts.test.evaluation.probabilities[shown.indices])
    found.notes.extend([note] if note else [])
    return _with_maps(facts, found, scores, seed) if maps and len(rows) else found


def mistake_kinds(facts: RunFacts) -> tuple[MistakeGroups | None, str]:
    """All mistakes of a run by kind, with suspects of wrong labels where the search for them does not take long.

    Returns:
        The groups, None if there are none; and what to know of them, often nothing.
    """
    if facts.test is None or facts.data is None or facts.model is None:
        return None, ""
    evaluation = facts.test.evaluation
    mistakes = find_mistakes(evaluation)
    if len(mistakes) == 0:
        return None, ""
    if len(mistakes) == len(evaluation.labels):
        return group_mistakes(evaluation, confident=0.5), "No image is named right: here 50 % count as confident."
    seconds = len(facts.data.train) / facts.test.images_per_second
    if seconds > PATIENCE:
        return group_mistakes(evaluation), (
            f"Suspects of wrong labels were not looked for: to compare with {len(facts.data.train):,} training images "
            f"takes about {seconds:.0f} s on this device. Notebook 05 shows how."
        )
    try:
        k = min(8, len(facts.data.train))
        neighbors = nearest_images(facts.model, facts.data, mistakes, k=k, progress=False)
    except ValueError as error:  # a network that does not end in a linear layer
        return group_mistakes(evaluation), f"Suspects of wrong labels were not looked for: {error}"
    return group_mistakes(evaluation, neighbors), ""


def _with_maps(facts: RunFacts, gallery: Gallery, scores: int | None, seed: int) -> Gallery:
    """The same with maps, or with a note why there are none."""
    model, data, test = facts.model, facts.data, facts.test
    if model is None or data is None or test is None:
        return gallery
    try:
        contrast = contrast_mistakes(model, data, gallery.shown, method=METHOD, progress=False)
    except (ValueError, TypeError) as error:  # a network whose layers are not known
        gallery.notes.append(f"There are no maps: {error}")
        return gallery
    generator = torch.Generator().manual_seed(derived_seed(seed, "images of the report's scores"))
    chosen = torch.randperm(len(data.test), generator=generator)[: max(32, scores or 0)]
    device = next(model.parameters()).device
    images = normalize(data.test.images[chosen], data.mean, data.std).to(device)
    classes = test.evaluation.predictions[chosen].to(device)
    measured = score_maps(model, images, classes, contrast.layers, method=METHOD, count=scores, seed=seed)
    layer = default_layer(contrast, measured)
    return replace(gallery, maps=contrast, layer=layer, scores=measured)


def _some(maps: Contrast, places: Tensor) -> Contrast:
    """The contrasts of some of the images."""
    cams, others, scale = (part[:, places] for part in (maps.cams, maps.other_cams, maps.scale))
    return Contrast(cams, others, scale, maps.classes[places], maps.other_classes[places], maps.layers)


def default_layer(contrast: Contrast, scores: MapScores | str) -> str:
    """The calmest layer that is as good as the best; where no score is known the last but one."""
    if isinstance(scores, MapScores) and scores.chosen is not None:
        return scores.chosen.layer
    return contrast.layers[max(0, len(contrast.layers) - 2)]


def image_name(split: Split, index: int) -> str:
    """What the user knows an image by: folder and name of its file, or its place among the test images."""
    images = split.images
    if isinstance(images, ImageFiles | DecodedFiles) and images.files:
        return "/".join(images.files[index].parts[-2:])
    return f"test image {index}"


def strongest_place(values: Tensor) -> str:
    """Where a map is strongest, in words.

    Args:
        values: (H, W), high where the image speaks for the class.

    Returns:
        As "upper left" or "middle"; "nowhere" if the map is flat or never above 0.
    """
    high = float(values.max())
    if high <= 1e-5 or high - float(values.min()) <= 1e-5:
        return "nowhere"
    place = int(values.argmax())
    height, width = values.shape
    row, column = 3 * (place // width) // height, 3 * (place % width) // width
    return f"{_ROWS[row]} {_COLUMNS[column]}".strip()
