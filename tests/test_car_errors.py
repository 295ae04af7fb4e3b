"""Mistakes about cars: sorted by hand, counted image by image, and by the spelling of the names."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from evalib.car_errors import KINDS, CarErrors, car_errors
from evalib.data.car_names import CAR_CLASSES, CarName, parse_car_name
from evalib.evaluation import Evaluation

RIGHT, YEAR, BRAND, TYPE, NOTHING = KINDS
CARS = (
    "Audi A4 Sedan 2007",
    "Audi A4 Sedan 2012",
    "Audi A4 Wagon 2012",
    "Audi Q5 SUV 2012",
    "BMW M3 Sedan 2012",
    "BMW X5 SUV 2007",
)
# (true, predicted, kind)
IMAGES = (
    (0, 0, RIGHT),
    (0, 0, RIGHT),
    (5, 5, RIGHT),
    (0, 1, YEAR),
    (1, 0, YEAR),
    (1, 0, YEAR),
    (1, 2, BRAND),  # another body
    (0, 3, BRAND),  # another model
    (4, 5, BRAND),
    (0, 4, TYPE),  # another year, too
    (3, 5, TYPE),
    (4, 1, TYPE),
    (3, 4, NOTHING),
    (2, 5, NOTHING),
)


def evaluation_of(labels, predictions, num_classes: int) -> Evaluation:
    logits = F.one_hot(torch.as_tensor(predictions), num_classes).float()
    return Evaluation(loss=0.0, accuracy=0.0, logits=logits, labels=torch.as_tensor(labels))


@pytest.fixture
def errors() -> CarErrors:
    true, predicted, _ = zip(*IMAGES, strict=True)
    return car_errors(evaluation_of(true, predicted, len(CARS)), CARS)


@pytest.fixture(scope="module")
def many() -> tuple[torch.Tensor, torch.Tensor, CarErrors]:
    """4,000 guesses over the 196 classes, most of them close by in the list, where brands and models stand together."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(196, (4000,), generator=generator)
    predictions = (labels + torch.randint(-2, 3, (4000,), generator=generator)) % 196
    predictions[:1000] = torch.randint(196, (1000,), generator=generator)
    return labels, predictions, car_errors(evaluation_of(labels, predictions, 196), CAR_CLASSES)


def test_every_image_is_of_the_kind_it_was_sorted_into_by_hand(errors):
    assert errors.counts == {RIGHT: 3, YEAR: 3, BRAND: 3, TYPE: 3, NOTHING: 2}
    for true, predicted, kind in IMAGES:
        assert car_errors(evaluation_of([true], [predicted], len(CARS)), CARS).counts[kind] == 1


def test_shares_are_parts_of_all_images(errors):
    assert list(errors.shares) == list(KINDS)
    assert errors.shares[NOTHING] == 2 / 14
    assert sum(errors.shares.values()) == pytest.approx(1)


def test_accuracies_count_an_attribute_that_is_right_in_a_wrong_class(errors):
    # brand: all but the five of another brand; type: all but (1, 2), (0, 3), (4, 5), (3, 4), (2, 5)
    assert errors.accuracies["brand"] == 9 / 14
    assert errors.accuracies["type"] == 9 / 14
    # year: three right ones, (1, 2), (4, 1), (3, 4)
    assert errors.accuracies["year"] == 6 / 14


def test_the_most_frequent_attribute_is_counted_over_the_images_not_over_the_classes(errors):
    # three of six classes are sedans, but ten of fourteen images
    counted = Counter(true for true, _, _ in IMAGES)
    assert [counted[i] for i in range(6)] == [5, 3, 1, 2, 2, 1]
    assert errors.most_frequent == {"brand": 11 / 14, "type": 10 / 14, "year": 8 / 14}


def test_every_image_is_of_exactly_one_kind(many):
    labels, predictions, errors = many
    assert len(errors) == 4000 == sum(errors.counts.values())
    assert errors.counts[RIGHT] == int((labels == predictions).sum())
    assert min(errors.counts.values()) > 0


def test_kinds_agree_with_the_spelling_of_the_names(many):
    """Of two classes that are one car but for the year, the names agree up to the year."""
    labels, predictions, errors = many
    pairs = [(CAR_CLASSES[t], CAR_CLASSES[p]) for t, p in zip(labels.tolist(), predictions.tolist(), strict=True)]
    wrong_year = sum(a != b and a[:-5] == b[:-5] for a, b in pairs)
    same_brand = sum(a.split()[0] == b.split()[0] for a, b in pairs)  # the first word tells the 49 brands apart
    assert errors.counts[YEAR] == wrong_year
    assert errors.counts[RIGHT] + errors.counts[YEAR] + errors.counts[BRAND] == same_brand
    assert errors.accuracies["brand"] == pytest.approx(same_brand / 4000)
    assert errors.accuracies["year"] == pytest.approx(sum(a[-4:] == b[-4:] for a, b in pairs) / 4000)


def test_types_are_counted_image_by_image(many):
    labels, predictions, errors = many
    types = [parse_car_name(name).type for name in CAR_CLASSES]
    same = [types[t] == types[p] for t, p in zip(labels.tolist(), predictions.tolist(), strict=True)]
    assert errors.accuracies["type"] == pytest.approx(sum(same) / 4000)
    most = Counter(types[t] for t in labels.tolist()).most_common(1)[0][1]
    assert errors.most_frequent["type"] == pytest.approx(most / 4000)
    brands = [name.split()[0] for name in CAR_CLASSES]
    other_brand = [brands[t] != brands[p] for t, p in zip(labels.tolist(), predictions.tolist(), strict=True)]
    assert errors.counts[TYPE] == sum(a and b for a, b in zip(same, other_brand, strict=True))


def test_seven_cars_are_there_in_two_years():
    every = torch.cartesian_prod(torch.arange(196), torch.arange(196))
    errors = car_errors(evaluation_of(every[:, 0], every[:, 1], 196), CAR_CLASSES)
    assert errors.counts[YEAR] == 2 * 7
    assert errors.counts[RIGHT] == 196


def test_pairs_fall_in_number_and_stand_in_the_order_of_the_classes_where_they_are_equal(errors):
    assert errors.pairs(YEAR) == [(CARS[1], CARS[0], 2), (CARS[0], CARS[1], 1)]
    assert errors.pairs(YEAR, 1) == [(CARS[1], CARS[0], 2)]
    assert errors.pairs(TYPE) == [(CARS[0], CARS[4], 1), (CARS[3], CARS[5], 1), (CARS[4], CARS[1], 1)]


def test_pairs_of_a_kind_hold_all_its_images(many):
    errors = many[2]
    for kind in KINDS[1:]:
        assert sum(count for _, _, count in errors.pairs(kind, 196**2)) == errors.counts[kind]


@pytest.mark.parametrize(("kind", "n"), [(RIGHT, 5), ("wrong", 5), (YEAR, 0)])
def test_pairs_of_something_else_are_an_error(errors, kind, n):
    with pytest.raises(ValueError, match=f"`kind` needs to be one of .*, `n` 1 or more: got '{kind}' and {n}"):
        errors.pairs(kind, n)


def test_text(errors):
    assert str(errors).split("\n") == [
        "right                                  3   21.43%",
        "right car, wrong year                  3   21.43%",
        "right brand, other model or type       3   21.43%",
        "other brand, right type                3   21.43%",
        "other brand, other type                2   14.29%",
        "all test images                       14",
        "",
        "brand right: 64.29%; always the most frequent brand: 78.57%",
        "type right: 64.29%; always the most frequent type: 71.43%",
        "year right: 42.86%; always the most frequent year: 57.14%",
    ]


def test_names_that_were_taken_apart_already_are_used():
    names = [CarName("A", "x", "Sedan", 2000), CarName("A", "x", "Sedan", 2001)]
    errors = car_errors(evaluation_of([0, 1], [1, 1], 2), ["old", "new"], names)
    assert (errors.counts[YEAR], errors.counts[RIGHT]) == (1, 1)
    assert errors.pairs(YEAR) == [("old", "new", 1)]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["Audi", "BMW", "Ford"], "got 'Audi'"),
        (list(CARS[:2]), "for each of the network's 3 outputs: got 2 and 2"),
    ],
)
def test_classes_that_are_no_cars_or_too_few_are_an_error(classes, message):
    with pytest.raises(ValueError, match=message):
        car_errors(evaluation_of([0, 1], [1, 1], 3), classes)
