"""Calibration: its error by hand, beside its definition written as a loop."""

import math

import pytest
import torch

from evalib.calibration import calibration
from evalib.engine import Evaluation


def evaluation_of(probabilities, labels):
    return Evaluation(0.0, 0.0, torch.tensor(probabilities, dtype=torch.float64).log(), torch.tensor(labels))


def test_by_hand():
    # confidences .95, .95, .65, .75; right: yes, no, yes, yes
    evaluation = evaluation_of([[0.95, 0.05], [0.05, 0.95], [0.65, 0.35], [0.25, 0.75]], [0, 0, 0, 1])
    found = calibration(evaluation, bins=10)
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 0, 2]
    assert found.error == pytest.approx((0.35 + 0.25 + 2 * 0.45) / 4)
    assert found.overconfidence == pytest.approx((-0.35 - 0.25 + 2 * 0.45) / 4)
    assert math.isnan(found.accuracy[0])


def test_equals_the_definition():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, 7, generator=generator), torch.randint(7, (500,), generator=generator)
    found = calibration(Evaluation(0.0, 0.0, logits, labels))
    confidence, predictions = logits.double().softmax(1).max(1)
    error = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            gap = (predictions == labels)[inside].double().mean() - confidence[inside].mean()
            error += inside.double().mean().item() * abs(gap.item())
    assert found.error == pytest.approx(error, abs=1e-9)
    assert int(found.counts.sum()) == 500


def test_certainty_is_in_the_last_bin():
    found = calibration(Evaluation(0.0, 0.0, torch.tensor([[1000.0, 0.0]]), torch.tensor([0])))
    assert found.counts.tolist()[-1] == 1
    assert found.error == 0.0


def test_bins():
    with pytest.raises(ValueError, match="at least 1"):
        calibration(evaluation_of([[1.0, 0.0]], [0]), bins=0)
