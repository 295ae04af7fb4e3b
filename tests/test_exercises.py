"""Every check against right and wrong answers."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from evalib.data.image_data import ImageData, Split
from evalib.engine import Evaluation
from evalib.exercises import (
    check_calibration,
    check_confused_pair,
    check_one_change,
    check_overfit,
    check_suspects,
    plant_wrong_labels,
)
from evalib.history import EpochRecord, History
from evalib.recipes import recipes
from evalib.rundir import HISTORY_NAME, RECIPE_NAME


class Reads(torch.nn.Module):
    """Predicts the class that the first pixel of the red channel holds, in steps of 10 gray levels."""

    def __init__(self) -> None:
        super().__init__()
        self.sharp = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, images):
        level = (images[:, 0, 0, 0] * 0.25 + 0.5) * 255 / 10
        return -self.sharp * (level[:, None] - torch.arange(3)) ** 2


def told(labels: torch.Tensor, says: torch.Tensor) -> Split:
    images = torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8)
    images[:, 0, 0, 0] = (10 * says).to(torch.uint8)
    return Split(images, labels)


def data_of(count: int, wrong: int = 0) -> ImageData:
    labels = torch.arange(count) % 3
    says = labels.clone()
    says[:wrong] = (says[:wrong] + 1) % 3
    split = told(labels, says)
    return ImageData("told", ("ant", "bee", "cow"), split, split, mean=(0.5,) * 3, std=(0.25,) * 3)


def failed(answer) -> list[str]:
    assert answer.passed is all(check.passed for check in answer.checks)
    assert ("passed." in str(answer)) is answer.passed
    return [check.question for check in answer.checks if not check.passed]


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (data_of(30), []),
        (data_of(30, wrong=1), ["known by heart"]),
        (data_of(15), ["enough images"]),
    ],
)
def test_overfit(data, wrong):
    assert failed(check_overfit(Reads(), data)) == wrong


def evaluation(confusions: dict[tuple[int, int], int], classes: int = 5) -> Evaluation:
    pairs = [pair for pair, count in confusions.items() for _ in range(count)]
    labels, predicted = torch.tensor(pairs).T
    logits = torch.nn.functional.one_hot(predicted, classes).float()
    return Evaluation(0.0, 0.0, logits, labels)


def test_confused_pair():
    names = ("a", "b", "c", "d", "e")
    seen = evaluation({(0, 1): 3, (1, 0): 4, (2, 3): 6, (3, 4): 2, (4, 4): 50})
    assert failed(check_confused_pair(("b", "a"), seen, names, top=1)) == []  # both directions count: 7
    assert failed(check_confused_pair(("c", "d"), seen, names, top=1)) == ["confused most"]
    assert failed(check_confused_pair(("d", "c"), seen, names, top=2)) == []
    assert failed(check_confused_pair(("a", "e"), seen, names, top=9)) == ["confused most"]  # never confused
    assert "10% by chance" in str(check_confused_pair(("a", "b"), seen, names, top=1))
    for pair in (("a", "a"), ("a", "x"), ("a",)):
        with pytest.raises(ValueError, match="two of the classes a, b, c, d, e"):
            check_confused_pair(pair, seen, names)
    with pytest.raises(ValueError, match="needs 1 to 9 of the 10 pairs"):
        check_confused_pair(("a", "b"), seen, names, top=10)


@pytest.fixture
def write_run(tmp_path):
    def write(name: str, accuracy: float, *, test_images: int = 1000, done: int = 2, **changes):
        recipe = recipes["demo"].replace(epochs=2, **changes)
        fields = {field.name: 0 for field in dataclasses.fields(EpochRecord) if field.default is dataclasses.MISSING}
        records = [
            EpochRecord(**{**fields, "epoch": epoch, "test_accuracy": accuracy, "seconds": 1.0})
            for epoch in range(1, done + 1)
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / RECIPE_NAME).write_text(recipe.to_json())
        History(epochs=records, train_images=5000, test_images=test_images).save(tmp_path / name / HISTORY_NAME)
        return tmp_path / name

    return write


def test_one_change(write_run):
    base, near = write_run("base", 0.60), write_run("near", 0.63, label_smoothing=0.3)
    far = write_run("far", 0.70, label_smoothing=0.3)
    assert failed(check_one_change(base, near, "cannot tell")) == []  # 2 x 0.0218 = 4.4 points
    assert failed(check_one_change(base, near, "second")) == ["the claim follows"]
    assert failed(check_one_change(base, far, "second")) == []
    assert failed(check_one_change(far, base, "first")) == []
    assert failed(check_one_change(base, far, "first")) == ["the claim follows"]
    two = write_run("two", 0.60, label_smoothing=0.3, width=8)
    seed = write_run("seed", 0.60, seed=2)
    short = write_run("short", 0.60, label_smoothing=0.3, done=1)
    other = write_run("other", 0.60, label_smoothing=0.3, test_images=500)
    same = write_run("same", 0.60)
    for run, wrong in ((two, "one change"), (seed, "one change"), (same, "one change"), (short, "both finished")):
        assert failed(check_one_change(base, run, "cannot tell")) == [wrong]
    assert failed(check_one_change(base, other, "cannot tell")) == ["the claim follows"]
    with pytest.raises(ValueError, match="got 'better'"):
        check_one_change(base, far, "better")


def test_calibration():
    """100 images at a confidence of 0.9, of which 70 are right: 0.2 too sure."""
    logits = torch.tensor([[9.0, 1.0]]).log().repeat(100, 1)
    seen = Evaluation(0.0, 0.7, logits, (torch.arange(100) >= 70).long())
    assert failed(check_calibration(0.2, "overconfident", seen)) == []
    assert failed(check_calibration(0.204, "overconfident", seen)) == []
    assert failed(check_calibration(0.21, "overconfident", seen)) == ["error"]
    assert failed(check_calibration(20.0, "underconfident", seen)) == ["error", "direction"]
    with pytest.raises(ValueError, match="'overconfident', 'underconfident'"):
        check_calibration(0.2, "sure", seen)


def test_planted_labels():
    data = data_of(200)
    planted, again = plant_wrong_labels(data, seed=3), plant_wrong_labels(data, seed=3)
    changed = (planted.test.labels != data.test.labels).nonzero().flatten()
    assert len(changed) == 10  # 5 %, each truly another class
    assert torch.equal(planted.test.labels, again.test.labels)
    assert not torch.equal(planted.test.labels, plant_wrong_labels(data, seed=4).test.labels)
    assert torch.equal(data.test.labels, torch.arange(200) % 3)
    assert planted.train is data.train
    for fraction in (0.0, 0.6, 0.001, float("nan")):
        with pytest.raises(ValueError, match="`fraction` needs"):
            plant_wrong_labels(data, fraction=fraction)


def test_suspects():
    data = data_of(200)
    wrong = (plant_wrong_labels(data, seed=3).test.labels != data.test.labels).nonzero().flatten()
    right = [index for index in range(200) if index not in wrong.tolist()]
    assert failed(check_suspects(wrong, data, seed=3)) == []
    assert failed(check_suspects(wrong[:3].tolist() + right[:15], data, seed=3)) == []  # 3 of 18, 3 of 10
    assert failed(check_suspects(wrong[:2], data, seed=3)) == ["recall"]
    assert failed(check_suspects(range(200), data, seed=3)) == ["precision"]
    assert failed(check_suspects([], data, seed=3)) == ["precision", "recall"]
    assert failed(check_suspects(right[:10], data, seed=3)) == ["precision", "recall"]
    for named in ([1, 1], [200], [-1]):
        with pytest.raises(ValueError, match="0 to 199, each once"):
            check_suspects(named, data, seed=3)
