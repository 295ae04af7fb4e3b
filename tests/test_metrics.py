"""Metrics against arithmetic and scikit-learn."""

import math

import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from evalib.metrics import Mean, accuracy, confusion_matrix, per_class_accuracy, wilson_interval


def test_mean_weighs_samples_not_batches():
    mean = Mean()
    mean.add(1.0, 78 * 128)
    mean.add(0.0, 16)  # a short last batch, all wrong
    assert mean.value == pytest.approx(9984 / 10000, abs=1e-12)


def test_mean_of_nothing_is_not_a_number():
    assert math.isnan(Mean().value)


def test_accuracy_counts_right_images():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    assert accuracy(logits, torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)


def test_accuracy_needs_images():
    with pytest.raises(ValueError, match="same length of at least 1: got 0 and 0"):
        accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


def test_confusion_matrix_equals_sklearns():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (500,), generator=generator)
    predictions = torch.randint(0, 7, (500,), generator=generator)
    expected = sklearn_confusion_matrix(labels, predictions, labels=range(7))
    assert confusion_matrix(predictions, labels, 7).tolist() == expected.tolist()


def test_per_class_accuracy_with_an_absent_class():
    confusion = confusion_matrix(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 0]), 3)
    found = per_class_accuracy(confusion).tolist()
    assert found[:2] == pytest.approx([2 / 3, 1.0])
    assert math.isnan(found[2])


def test_confusion_matrix_refuses_classes_outside():
    with pytest.raises(ValueError, match=r"`labels` must lie in 0..2: got 0..3"):
        confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 3]), 3)
    with pytest.raises(ValueError, match="one shape"):
        confusion_matrix(torch.tensor([0]), torch.tensor([0, 1]), 3)


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (20, 40, 0.3520, 0.6480)],
)
def test_wilson_intervals_are_those_of_the_tables(correct, count, low, high):
    """Figures of Newcombe 1998 and of statsmodels' proportion_confint(method="wilson")."""
    assert wilson_interval(correct, count) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("correct", "count"), [(0, 5), (5, 5), (1, 1), (624, 1000), (8733, 10000), (3, 7)])
def test_wilson_intervals_are_scipys(correct, count):
    expected = binomtest(correct, count).proportion_ci(method="wilson")
    assert wilson_interval(correct, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_wilson_interval_is_where_the_score_test_turns():
    """The bounds solve |share - p| = z sqrt(p (1 - p) / n), from which Wilson derived them."""
    for correct, count in ((3, 7), (37, 40), (1, 1000)):
        for bound in wilson_interval(correct, count, 2.5):
            assert abs(correct / count - bound) == pytest.approx(2.5 * (bound * (1 - bound) / count) ** 0.5, rel=1e-9)


@pytest.mark.parametrize(("correct", "count"), [(1, 0), (-1, 5), (6, 5)])
def test_no_interval_of_impossible_counts(correct, count):
    with pytest.raises(ValueError, match=r"`correct` of `count` needs 0 <= correct <= count"):
        wilson_interval(correct, count)
