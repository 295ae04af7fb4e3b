"""Mistakes: counted by hand, probabilities by plain arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

from evalib.data.image_data import ImageData, Split
from evalib.engine import Evaluation
from evalib.mistakes import Mistakes, find_mistakes


def evaluation_of(logits: list[list[float]], labels: list[int]) -> Evaluation:
    """An evaluation as `evaluate` returns it; loss is of no interest here."""
    scores, truth = torch.tensor(logits).reshape(len(labels), -1), torch.tensor(labels)
    share = (scores.argmax(dim=1) == truth).float().mean().item()
    return Evaluation(loss=0.0, accuracy=share, logits=scores, labels=truth)


@pytest.fixture
def mistakes() -> Mistakes:
    """Images 0 and 3 are right; 1, 2, 4 and 5 are wrong, 2 and 5 equally and most confidently so."""
    logits = [[5.0, 0, 0], [0, 1, 0], [0, 0, 3], [0, 2, 0], [2, 0, 0], [3, 0, 0]]
    return find_mistakes(evaluation_of(logits, [0, 0, 1, 1, 1, 2]))


def softmax_of(top: float) -> float:
    """Probability of a class with this logit against two classes with logit 0."""
    return math.exp(top) / (math.exp(top) + 2)


def test_mistakes_stand_in_dataset_order_with_their_classes(mistakes):
    assert len(mistakes) == 4
    assert mistakes.indices.tolist() == [1, 2, 4, 5]
    assert mistakes.true.tolist() == [0, 1, 1, 2]
    assert mistakes.predicted.tolist() == [1, 2, 0, 0]


def test_probability_is_the_softmax_of_the_predicted_class(mistakes):
    expected = [softmax_of(1), softmax_of(3), softmax_of(2), softmax_of(3)]
    assert mistakes.probability.dtype == torch.float32
    assert mistakes.probability.tolist() == pytest.approx(expected, rel=1e-6)


def test_number_of_mistakes_is_the_missing_accuracy_and_every_call_agrees():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(500, 10, generator=generator)
    labels = torch.randint(10, (500,), generator=generator)
    right = int((logits.argmax(dim=1) == labels).sum())
    evaluation = Evaluation(loss=0.0, accuracy=right / 500, logits=logits, labels=labels)
    first, second = find_mistakes(evaluation), find_mistakes(evaluation)
    assert len(first) == 500 - right
    assert (first.predicted != first.true).all()
    assert (first.indices.diff() > 0).all()
    for name in ("indices", "true", "predicted", "probability"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_head_takes_the_first_and_never_more_than_there_are(mistakes):
    assert mistakes.head(3).indices.tolist() == [1, 2, 4]
    assert mistakes.head(3).predicted.tolist() == [1, 2, 0]
    assert mistakes.head(100).indices.tolist() == [1, 2, 4, 5]


@pytest.mark.parametrize("n", [0, -1])
def test_head_of_no_image_is_an_error(mistakes, n):
    with pytest.raises(ValueError, match=f"`n` needs to be 1 or more: got {n}"):
        mistakes.head(n)


@pytest.mark.parametrize("rows", [[3, 0], torch.tensor([3, 0]), slice(3, None, None)], ids=["list", "tensor", "slice"])
def test_select_takes_rows_of_all_columns(mistakes, rows):
    chosen = mistakes.select(rows)
    expected = [3, 0] if not isinstance(rows, slice) else [3]
    for name in ("indices", "true", "predicted", "probability"):
        assert getattr(chosen, name).tolist() == [getattr(mistakes, name).tolist()[row] for row in expected]


def test_select_takes_a_mask(mistakes):
    assert mistakes.select(mistakes.true == 1).indices.tolist() == [2, 4]
    assert len(mistakes.select([])) == 0


def test_batches_are_normalized_images_in_the_order_of_the_mistakes(mistakes):
    pixels = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1).expand(6, 3, 4, 4) * 51
    split = Split(pixels, torch.tensor([0, 0, 1, 1, 1, 2]))
    train = Split(pixels[:1], torch.tensor([0]))
    data = ImageData("six", ("a", "b", "c"), train, split, (0.0, 0.5, 1.0), (1.0, 0.5, 2.0))
    parts = list(mistakes.by_confidence().batches(data, batch_size=3))
    assert [part.indices.tolist() for part, _ in parts] == [[2, 5, 4], [1]]
    assert [len(part) for part, _ in mistakes.batches(data)] == [4]
    images = torch.cat([images for _, images in parts])[:, :, 0, 0]
    values = torch.tensor([0.4, 1.0, 0.8, 0.2])
    torch.testing.assert_close(images, torch.stack([values, (values - 0.5) / 0.5, (values - 1) / 2], dim=1))
    for wrong, message in (({"split": "val"}, "no split 'val'"), ({"split": "train"}, "labels at the indices")):
        with pytest.raises(ValueError, match=message):
            list(mistakes.batches(data, **wrong))
    with pytest.raises(ValueError, match="No misclassified image"):
        list(mistakes.select([]).batches(data))


def test_by_confidence_sorts_all_columns_and_keeps_ties_in_order(mistakes):
    ordered = mistakes.by_confidence()
    assert ordered.indices.tolist() == [2, 5, 4, 1]
    assert ordered.true.tolist() == [1, 2, 1, 0]
    assert ordered.predicted.tolist() == [2, 0, 0, 1]
    assert ordered.probability.tolist() == sorted(mistakes.probability.tolist(), reverse=True)
    assert mistakes.indices.tolist() == [1, 2, 4, 5]  # the original is left alone


def test_ties_are_stable_beyond_the_size_where_unstable_sorts_begin():
    logits = torch.zeros(3000, 2)
    logits[:, 1] = 4.0
    labels = torch.zeros(3000, dtype=torch.int64)
    evaluation = Evaluation(loss=0.0, accuracy=0.0, logits=logits, labels=labels)
    assert find_mistakes(evaluation).by_confidence().indices.tolist() == list(range(3000))


def test_images_are_those_of_the_split(mistakes):
    pixels = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1).expand(6, 3, 4, 4)
    split = Split(pixels, torch.tensor([0, 0, 1, 1, 1, 2]))
    assert mistakes.images(split)[:, 0, 0, 0].tolist() == [1, 2, 4, 5]
    assert mistakes.by_confidence().images(split)[:, 0, 0, 0].tolist() == [2, 5, 4, 1]
    assert mistakes.images(split).shape == (4, 3, 4, 4)


@pytest.mark.parametrize("labels", [[0, 0, 2, 1, 1, 2], [0, 0, 1, 1, 1], [0]], ids=["other", "short", "one"])
def test_images_of_another_split_are_an_error(mistakes, labels):
    split = Split(torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8), torch.tensor(labels))
    with pytest.raises(ValueError, match="its labels at the indices of the mistakes are other ones"):
        mistakes.images(split)


def test_a_perfect_model_has_no_mistakes():
    none = find_mistakes(evaluation_of([[1.0, 0.0], [0.0, 1.0]], [0, 1]))
    assert len(none) == len(none.head(5)) == len(none.by_confidence()) == 0
    split = Split(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
    assert none.images(split).shape == (0, 3, 4, 4)


def test_mistakes_cannot_be_changed(mistakes):
    with pytest.raises(AttributeError):
        mistakes.indices = torch.zeros(4)


def test_columns_of_different_lengths_are_an_error():
    two, three = torch.zeros(2, dtype=torch.int64), torch.zeros(3)
    with pytest.raises(ValueError, match=r"per mistake, all \(M,\): got \(2,\), \(2,\), \(2,\), \(3,\)"):
        Mistakes(two, two, two, three)
