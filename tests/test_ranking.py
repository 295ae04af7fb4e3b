"""Rankings: figures as measured one by one, places by plain counting, what must not be chosen, and the reason."""

from __future__ import annotations

import math

import pytest
import torch

from evalib.explain import explain
from evalib.faithfulness import control_maps, deletion_insertion, road
from evalib.ranking import CENTER, WHOLE, Candidate, Ranking, rank_maps
from evalib.scores import Score, Scores
from tests.blobs import Blobs, blob_images

IMAGES, CLASSES, MASKS = blob_images()
LAYERS = ("relu", "pool")  # the maps of a layer of 1 x 1 place are flat


def by_name(ranking: Ranking, name: str) -> Candidate:
    return next(found for found in ranking.candidates if found.name == name)


@pytest.fixture(scope="module")
def ranking() -> Ranking:
    methods = ("grad_cam", "hires_cam", "layer_cam", "eigen_cam", "full_grad")
    return rank_maps(Blobs.trained(), IMAGES, methods=methods, layers=LAYERS, regions=MASKS)


def test_every_method_at_every_layer(ranking: Ranking) -> None:
    expected = [(method, layer) for method in ("grad_cam", "hires_cam", "layer_cam", "eigen_cam") for layer in LAYERS]
    assert [(found.method, found.layer) for found in ranking.candidates] == [*expected, ("full_grad", WHOLE)]
    assert [found.name for found in ranking.candidates][-2:] == ["eigen_cam pool", "full_grad"]
    assert all(found.seconds > 0 for found in ranking.candidates)
    assert ranking.figures == ("ROAD", "insertion - deletion", "pointing", "energy")


def test_figures_are_those_of_the_maps(ranking: Ranking) -> None:
    model = Blobs.trained()
    cams = explain(model, IMAGES, "relu", CLASSES, method="layer_cam")[0]  # the network is right about each image
    found = by_name(ranking, "layer_cam relu").scores
    assert found["ROAD"].values.equal(road(model, IMAGES, cams, CLASSES)["ROAD"].values)
    expected = deletion_insertion(model, IMAGES, cams, CLASSES).scores["insertion - deletion"]
    assert found["insertion - deletion"].values.equal(expected.values)
    inside = [(cam * mask).sum().item() / cam.sum().item() for cam, mask in zip(cams, MASKS, strict=True)]
    assert found["energy"].values.tolist() == pytest.approx(inside, abs=1e-5)


def test_controls_have_the_same_figures(ranking: Ranking) -> None:
    assert list(ranking.controls) == ["random", "random, blurred", CENTER, "grad_cam relu, blurred"]
    model = Blobs.trained()
    cams = explain(model, IMAGES, "relu", CLASSES, method="grad_cam")[0]
    controls = control_maps(cams)
    for name, key in (("random", "random"), ("grad_cam relu, blurred", "blurred")):
        expected = road(model, IMAGES, controls[key], CLASSES)["ROAD"].values
        assert ranking.controls[name]["ROAD"].values.equal(expected)
        assert set(ranking.figures) <= set(ranking.controls[name])


def test_problems_are_found_and_not_chosen(ranking: Ranking) -> None:
    problems = {found.name: set(found.problems) for found in ranking.candidates}
    assert problems["layer_cam relu"] == set()
    assert problems["layer_cam pool"] == {"too many flat maps", "not clearly better than noise"}
    assert "blind to the class" in problems["eigen_cam relu"]
    assert ranking.ranked[0] is ranking.best
    cams = ranking.ranked[0].make_maps(Blobs.trained(), IMAGES, CLASSES)
    assert cams.equal(explain(Blobs.trained(), IMAGES, "relu", CLASSES, method="grad_cam")[0])
    assert all(math.isnan(found.mean_place) == bool(found.problems) for found in ranking.candidates)


def test_places_by_counting(ranking: Ranking) -> None:
    good = [found for found in ranking.candidates if not found.problems]
    assert len({found.scores["ROAD"].mean for found in good}) >= 2
    for found in good:
        places = []
        for name in ranking.figures:
            means = sorted((f"{other.scores[name].mean:.3f}" for other in good), reverse=True)
            places.append(1 + means.index(f"{found.scores[name].mean:.3f}"))
        assert found.mean_place == pytest.approx(sum(places) / 4)
    # one formula on this network, but for rounding: the one that was asked for first
    assert by_name(ranking, "grad_cam relu").mean_place == by_name(ranking, "hires_cam relu").mean_place == 1
    assert ranking.best is by_name(ranking, "grad_cam relu")


def test_without_regions_and_with_classes() -> None:
    classes = (CLASSES + 1) % 3
    found = rank_maps(Blobs.trained(), IMAGES, classes, methods=["layer_cam"], layers=["relu", "relu"])
    assert found.figures == ("ROAD", "insertion - deletion")
    assert len(found.candidates) == 1
    cams = explain(Blobs.trained(), IMAGES, "relu", classes, method="layer_cam")[0]
    expected = road(Blobs.trained(), IMAGES, cams, classes)["ROAD"].values
    torch.testing.assert_close(found.candidates[0].scores["ROAD"].values, expected)


def test_layers_of_a_network_that_has_names_for_them(tiny_model) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = rank_maps(tiny_model, images, methods=["grad_cam"])
    assert [candidate.layer for candidate in found.candidates] == [f"layer{layer}" for layer in range(5)]


def test_errors() -> None:
    model = Blobs.trained()
    with pytest.raises(ValueError, match="at least two"):
        rank_maps(model, IMAGES[:1], layers=["relu"])
    for wrong in ({"methods": [], "layers": ["relu"]}, {"layers": []}):
        with pytest.raises(ValueError, match="`methods` and `layers` one"):
            rank_maps(model, IMAGES, **wrong)
    with pytest.raises(ValueError, match="`method` needs one of"):
        rank_maps(model, IMAGES, methods=["gradcam"], layers=["relu"])


# --- made by hand -------------------------------------------------------------------------------------------------


def scores(road_mean: float, insertion: float, spread: float = 0.01) -> Scores:
    """Figures of four images around a mean."""
    about = spread * torch.tensor([-1.0, 1.0, -1.0, 1.0])
    named = {"ROAD": road_mean + about, "insertion - deletion": insertion + about, "class correlation": about}
    return Scores(Score(name, values) for name, values in named.items())


def by_hand(candidates: dict[str, tuple[Scores, float]], problems: dict[str, tuple[str, ...]] | None = None) -> Ranking:
    found = tuple(
        Candidate("cam", layer, figures, 0.01, (problems or {}).get(layer, ()), place)
        for layer, (figures, place) in candidates.items()
    )
    controls = {"random": scores(0, 0), "random, blurred": scores(0, 0.1), CENTER: scores(0.1, 0.2)}
    controls |= {f"cam {layer}, blurred": scores(0, 0) for layer in candidates}
    return Ranking(found, controls, ("ROAD", "insertion - deletion"))


def test_the_order_is_by_mean_place_then_by_the_first_figure() -> None:
    found = by_hand(
        {
            "a": (scores(0.2, 0.5), 2.0),
            "b": (scores(0.3, 0.4), 2.0),
            "d": (scores(0.3001, 0.4), 2.0),  # as good as the one before it, to three digits
            "c": (scores(0.9, 0.9), math.nan),
        },
        {"c": ("blind to the class",)},
    )
    assert [candidate.layer for candidate in found.ranked] == ["b", "d", "a", "c"]
    rows = {row["maps"]: row for row in found.table().rows}
    assert list(rows)[:4] == ["cam b", "cam d", "cam a", "cam c"]
    assert [rows[f"cam {layer}"]["verdict"] for layer in "bac"] == ["best", "ok", "blind to the class"]
    assert rows["random"]["verdict"] == "control"
    assert rows["cam b"]["ms/image"] == 10


def test_the_reason_names_what_is_as_good_and_what_is_left_out() -> None:
    near, behind = scores(0.3, 0.395), scores(0.301, 0.2)
    near["insertion - deletion"].values[0] += 0.1  # not clearly behind then
    found = by_hand(
        {"a": (scores(0.3, 0.4), 1.0), "b": (near, 1.5), "c": (behind, 2.5), "d": (scores(0.9, 0.9), math.nan)},
        {"d": ("too many flat maps", "blind to the class")},
    )
    assert found.reason == (
        "cam a has the best mean place, 1.0 of 3: ROAD 0.300, insertion - deletion 0.400. "
        "These 4 images do not put it clearly before cam b. "
        "Left out as too many flat maps: cam d; as blind to the class: cam d."
    )
    assert found.reason in str(found)


def test_the_reason_warns_of_controls_that_do_as_well() -> None:
    found = by_hand({"a": (scores(0.1, 0.15), 1.0)})
    assert found.reason == (
        "cam a has the best mean place, 1.0 of 1: ROAD 0.100, insertion - deletion 0.150. "
        "At ROAD it is not clearly better than a map of the center, the same for all images. "
        "Clearly better at insertion - deletion, although a control: center."
    )
    assert found.table().rows[0]["verdict"] == "best, not clearly better than the center"


def test_nothing_to_choose() -> None:
    found = by_hand({"a": (scores(0.3, 0.4), math.nan)}, {"a": ("blind to the class",)})
    assert found.best is None
    assert found.reason == "None of the 1 may be used. Left out as blind to the class: cam a."
