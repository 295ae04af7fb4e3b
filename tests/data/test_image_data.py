"""What a dataset must be, and what is refused at its door."""

import pytest
import torch

from evalib.data.image_data import ImageData, Split


def split(count, num_classes=3, size=32):
    return Split(torch.zeros(count, 3, size, size, dtype=torch.uint8), torch.arange(count) % num_classes)


def data(**changes):
    values = {
        "name": "d", "classes": ("a", "b", "c"), "train": split(30), "test": split(9),
        "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2),
    }  # fmt: skip
    return ImageData(**(values | changes))


def test_properties():
    found = data()
    assert (found.num_classes, found.image_size, len(found.train), len(found.test)) == (3, 32, 30, 9)
    assert list(found.splits()) == ["train", "test"]


def test_labels_outside_the_classes():
    with pytest.raises(ValueError, match=r"Labels of the test split of 'd' must lie in 0..2 .*got 0..3"):
        data(test=split(9, num_classes=4))
    with pytest.raises(ValueError, match=r"got -1..0"):
        data(train=Split(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([-1, 0])))


def test_an_empty_split():
    with pytest.raises(ValueError, match="The train split of 'd' has no image"):
        data(train=split(0))


def test_splits_of_different_sizes():
    with pytest.raises(ValueError, match=r"one image size: train has \(32, 32\), test has \(28, 28\)"):
        data(test=split(9, size=28))


def test_wrong_tensors():
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\) uint8"):
        Split(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(2,\) int64, one per image"):
        Split(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(3, dtype=torch.long))


def numbered():
    """Training images whose pixels tell their number."""
    images = torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(60, 3, 32, 32).contiguous()
    return data(train=Split(images, torch.arange(60) % 3))


def test_validation_is_split_off_the_training_images_alone():
    whole = numbered()
    parts = whole.split_validation(0.2, seed=1)
    taken, kept = (part.images[:, 0, 0, 0].tolist() for part in (parts.val, parts.train))
    assert sorted(taken + kept) == list(range(60))
    assert parts.val.labels.bincount().tolist() == [4, 4, 4]
    assert parts.test is whole.test
    assert parts.val.images[:, 0, 0, 0].remainder(3).tolist() == parts.val.labels.tolist()
    again = whole.split_validation(0.2, seed=1)
    assert torch.equal(again.val.images, parts.val.images)
    assert not torch.equal(whole.split_validation(0.2, seed=2).val.images, parts.val.images)


def test_validation_needs_enough_images_and_happens_once():
    with pytest.raises(ValueError, match="Class 'a' has 10 training images: too few to split off 1%"):
        data().split_validation(0.01, seed=1)
    with pytest.raises(ValueError, match="has a validation split of 12 images already"):
        numbered().split_validation(0.2, seed=1).split_validation(0.2, seed=1)
    with pytest.raises(ValueError, match=r"`fraction` must lie in \(0, 1\): got 1"):
        data().split_validation(1, seed=1)


def test_take_keeps_the_first_images_of_each_class():
    fewer = numbered().take(train=6)
    assert fewer.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert len(fewer.test) == 9
    whole = numbered()
    assert whole.take(train=60, test=1000) is whole
