"""What runs on the CPU runs on another device, with the same result: nothing on the way is left on the CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from evalib.contrast import contrast, contrast_mistakes
from evalib.data import sample
from evalib.data.loaders import eval_loader
from evalib.engine import fit
from evalib.evaluation import evaluate
from evalib.explain import METHODS, explain, explain_loader
from evalib.faithfulness import measure_faithfulness
from evalib.localization import measure_localization
from evalib.map_makers import map_maker
from evalib.mistakes import find_mistakes
from evalib.models import build_model
from evalib.neighbors import nearest_images
from evalib.ranking import rank_maps
from evalib.recipes import recipes
from evalib.rundir import RunDirectory
from evalib.sanity import max_sensitivity
from tests.other_device import Elsewhere, other_device

if TYPE_CHECKING:
    from evalib.data.image_data import ImageData
    from evalib.scores import Scores

CPU = torch.device("cpu")
CLASSES, OTHERS = torch.tensor([1, 2, 3]), torch.tensor([5, 6, 7])
BOXES = torch.tensor([[4.0, 4.0, 20.0, 20.0]]).expand(3, 4)


@pytest.fixture(scope="module")
def data() -> ImageData:
    """Every hundredth training image of the sample, every fiftieth test image."""
    whole = sample()
    rows = {"train": torch.arange(0, 5000, 100), "test": torch.arange(0, 1000, 50)}
    return dataclasses.replace(whole, **{name: getattr(whole, name).select(rows[name]) for name in rows})


def network(device: torch.device) -> nn.Module:
    return build_model("resnet18", 10, width=16, seed=1).to(device).eval()


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def maps() -> Tensor:
    return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))


def values(scores: Scores) -> Tensor:
    return torch.stack([score.values.cpu().double() for score in scores.values()])


def assert_same(job: Callable[[torch.device], Tensor]) -> None:
    expected = job(CPU)
    with other_device() as device:
        found = job(device).cpu()
    torch.testing.assert_close(found, expected.cpu(), atol=1e-5, rtol=1e-4, equal_nan=True)


def test_the_other_device_refuses_tensors_of_the_cpu():
    with other_device() as device:
        there = torch.ones(3, device=device)
        assert isinstance(there + 1, Elsewhere)
        assert (there + torch.tensor(1.0)).cpu().tolist() == [2, 2, 2]  # a number, as on CUDA
        assert there[torch.tensor([0, 1])].cpu().tolist() == [1, 1]  # indices of the CPU, as on CUDA
        for mixed in (
            lambda: there + torch.ones(3),
            lambda: torch.ones(3)[there.long()],
            lambda: torch.ones(3).add_(there),
        ):
            with pytest.raises(RuntimeError, match="on the CPU"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


@pytest.mark.parametrize("name", ["demo", "fast", "eva6"])
def test_training(data, name):
    recipe = recipes[name].replace(epochs=2, batch_size=25, width=16, precision="float32")

    def losses(device: torch.device) -> Tensor:
        model = build_model("resnet18", 10, width=16, seed=1)
        history = fit(model, data, recipe, device=device, progress=False)
        assert {parameter.device for parameter in model.parameters()} == {device}
        return torch.tensor([(epoch.train_loss, epoch.test_loss) for epoch in history.epochs])

    assert_same(losses)


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")  # it is copied: the device only says "meta"
def test_a_run_that_continues(data, tmp_path, monkeypatch):
    def snapshot(values: object) -> object:  # the package's own copies storages, which this device has none of
        return tree_map(lambda value: value.detach().cpu().clone() if isinstance(value, Tensor) else value, values)

    monkeypatch.setattr("evalib.rundir.snapshot", snapshot)
    recipe = recipes["fast"].replace(batch_size=25, width=16, precision="float32", epochs=1)

    def losses(device: torch.device) -> Tensor:
        folder = tmp_path / device.type
        fit(network(device), data, recipe, device=device, run_dir=folder, progress=False)
        more = RunDirectory(folder, accept_changes=True)
        history = fit(network(device), data, recipe.replace(epochs=2), device=device, run_dir=more, progress=False)
        return torch.tensor([(epoch.train_loss, epoch.test_loss) for epoch in history.epochs])

    assert_same(losses)


@pytest.mark.parametrize("method", METHODS)
def test_maps(method):
    assert_same(
        lambda device: explain(network(device), images().to(device), "layer4", CLASSES.to(device), method=method)
    )


@pytest.mark.parametrize("classes_there", [True, False])
def test_contrasts(classes_there):
    def difference(device: torch.device) -> Tensor:
        one, other = (value.to(device) if classes_there else value for value in (CLASSES, OTHERS))
        return contrast(network(device), images().to(device), one, other, ["layer3", "layer4"]).difference

    assert_same(difference)


def test_figures_of_removal():
    def removal(device: torch.device) -> Tensor:
        there = (value.to(device) for value in (images(), maps(), CLASSES))
        return values(measure_faithfulness(network(device), *there, steps=4))

    assert_same(removal)


@pytest.mark.parametrize("boxes_there", [True, False])
def test_localization(boxes_there):
    assert_same(
        lambda device: values(measure_localization(maps().to(device), BOXES.to(device) if boxes_there else BOXES))
    )


def test_sensitivity():
    make_maps = map_maker("grad_cam", "layer4")
    assert_same(
        lambda device: (
            max_sensitivity(network(device), images().to(device), CLASSES.to(device), make_maps, draws=2).values
        )
    )


def test_ranking():
    def figures(device: torch.device) -> Tensor:
        given = (images().to(device), CLASSES.to(device))
        found = rank_maps(network(device), *given, methods=["grad_cam"], layers=["layer3", "layer4"], regions=BOXES)
        return torch.cat([values(candidate.scores) for candidate in found.candidates])

    assert_same(figures)


def test_mistakes_and_their_neighbors(data):
    def found(device: torch.device) -> Tensor:
        model = network(device)
        mistakes = find_mistakes(evaluate(model, eval_loader(data))).head(4)
        near = nearest_images(model, data, mistakes, k=3, progress=False)
        both = contrast_mistakes(model, data, mistakes, ["layer4"]).difference
        return torch.cat([mistakes.probability.flatten(), near.similarity.flatten(), both.cpu().flatten()])

    assert_same(found)


def test_maps_of_a_loader(data):
    def cams(device: torch.device) -> Tensor:
        return explain_loader(network(device), eval_loader(data), ["layer4"], progress=False).cams

    assert_same(cams)
