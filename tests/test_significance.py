"""McNemar's test beside scipy's."""

import pytest
import torch
from scipy.stats import binomtest

from evalib.significance import compare_predictions, most_frequent_class


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (10, 3), (3, 10), (40, 40), (1200, 1000)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b):
    both, neither = 7, 5
    labels = torch.zeros(only_a + only_b + both + neither, dtype=torch.int64)
    a, b = labels.clone(), labels.clone()
    b[:only_a] = 1
    a[only_a : only_a + only_b] = 1
    a[-neither:], b[-neither:] = 1, 2
    found = compare_predictions(a, b, labels)
    assert (int(found.only_a.sum()), int(found.only_b.sum()), found.both, found.neither) == (only_a, only_b, 7, 5)
    assert found.agreement == pytest.approx(7 / len(labels))
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert found.p_value == pytest.approx(expected, rel=1e-9)


def test_predictions_of_other_images_are_refused():
    with pytest.raises(ValueError, match="one entry per image"):
        compare_predictions(torch.zeros(3), torch.zeros(2), torch.zeros(3))


def test_most_frequent_class():
    assert most_frequent_class(torch.tensor([2, 1, 1, 2]), 4) == (1, 0.5)
