"""What a dataset must be, and what is refused at its door."""

from pathlib import Path

import pytest
import torch

from evalib.data.image_data import ImageData, Split
from evalib.data.image_files import ImageFiles, ResizedImages
from evalib.recipes import Recipe
from evalib.transforms import IMAGENET_MEAN, IMAGENET_STD, Geometry


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


# --- images in files, boxes, geometry --------------------------------------------------------------

RESIZE = Geometry("resize", 48)


def lazy(**changes):
    """12 training and 6 test images in files that do not exist: whoever opens one fails. Boxes tell their number."""

    def files(name, count):
        images = ImageFiles([Path("nowhere") / name / f"{number}.jpg" for number in range(count)], RESIZE)
        numbers = torch.arange(count)
        boxes = torch.stack([numbers, numbers, numbers + 10, numbers + 20], dim=1).float()
        return Split(images, numbers % 3, boxes)

    return data(train=files("train", 12), test=files("test", 6), **changes)


def numbers(split):
    """Which images a split of `lazy` has, by their files and by their boxes, which must agree."""
    found = [int(path.stem) for path in split.images.files]
    assert split.boxes[:, 0].tolist() == found
    assert (split.labels == torch.tensor(found) % 3).all()
    return found


def test_selecting_taking_and_splitting_open_no_file_and_keep_the_boxes():
    whole = lazy()
    assert (whole.image_size, whole.geometry, len(whole.train)) == (48, RESIZE, 12)
    assert numbers(whole.train.select(torch.tensor([7, 2, 2]))) == [7, 2, 2]
    assert numbers(whole.take(train=6).train) == [0, 1, 2, 3, 4, 5]
    assert numbers(whole.take(test=3).test) == [0, 1, 2]
    parts = whole.split_validation(0.25, seed=1)
    assert sorted(numbers(parts.train) + numbers(parts.val)) == list(range(12))
    assert len(parts.val) == 3
    assert parts.geometry == parts.val.geometry == RESIZE


def test_data_in_memory_keep_their_boxes_too():
    boxes = torch.arange(12.0).reshape(3, 4)
    part = Split(torch.zeros(3, 3, 32, 32, dtype=torch.uint8), torch.zeros(3, dtype=torch.long), boxes)
    assert torch.equal(part.select(torch.tensor([2, 0])).boxes, boxes[[2, 0]])
    assert torch.equal(part.with_geometry(RESIZE).boxes, boxes)
    assert split(3).select(torch.tensor([0])).boxes is None


def test_boxes_are_one_per_image():
    images, labels = torch.zeros(3, 3, 32, 32, dtype=torch.uint8), torch.zeros(3, dtype=torch.long)
    for shape in ((2, 4), (3, 2), (4,)):
        with pytest.raises(ValueError, match=r"`boxes` must be \(3, 4\), one per image"):
            Split(images, labels, torch.zeros(shape))


def test_boxes_in_pixels_of_the_input():
    """Images of 40 x 20 pixels: as they are, squeezed to 80 x 80, and the middle 7 x 7 of 16 x 8."""
    boxes = torch.tensor([[4.0, 2.0, 20.0, 10.0], [0.0, 0.0, 0.0, 0.0], [10.0, 0.0, 30.0, 20.0]])
    stored = Split(torch.zeros(3, 3, 20, 40, dtype=torch.uint8), torch.zeros(3, dtype=torch.long), boxes)
    assert torch.equal(stored.input_boxes(), boxes)
    assert torch.equal(stored.input_boxes(torch.tensor([2])), boxes[2:])
    squeezed = stored.with_geometry(Geometry("resize", 80))
    assert squeezed.input_boxes().tolist() == [[8, 8, 40, 40], [0, 0, 0, 0], [20, 0, 60, 80]]
    middle = stored.with_geometry(Geometry("center_crop", 7)).input_boxes(torch.tensor([2]))
    # 0.4 of it; 4 of 16 columns are cut off at the left, as torchvision rounds (16 - 7) / 2, and none of 8 rows
    torch.testing.assert_close(middle, torch.tensor([[0.0, 0.0, 7.0, 7.0]]))
    with pytest.raises(ValueError, match="has no boxes"):
        split(3).input_boxes()


def test_preparing_gives_all_splits_the_recipes_geometry_and_statistics():
    whole = numbered().split_validation(0.2, seed=1)
    assert whole.geometry == Geometry()
    wanted = Recipe(name="r", geometry="center_crop", image_size=64, statistics="imagenet")
    found = whole.prepared_for(wanted)
    assert (found.mean, found.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert found.image_size == 64
    for name, part in found.splits().items():
        assert part.geometry == Geometry("center_crop", 64)
        assert part.images.shape == (len(part), 3, 64, 64)
        assert part.labels is whole.splits()[name].labels
        # the training images are of one gray level each, its number: a resize keeps it
        if name != "test":
            assert torch.equal(
                part.images[torch.arange(len(part))][:, 0, 5, 9], whole.splits()[name].images[:, 0, 0, 0]
            )
    assert list(found.splits()) == ["train", "test", "val"]
    again = found.prepared_for(wanted)
    assert (again.geometry, again.mean, again.image_size) == (found.geometry, found.mean, 64)


def test_preparing_for_images_as_they_are_changes_nothing():
    whole = numbered()
    found = whole.prepared_for(Recipe(name="r"))
    assert found.train.images is whole.train.images
    assert (found.mean, found.std) == (whole.mean, whole.std)
    assert lazy().prepared_for(Recipe(name="r")).geometry == RESIZE, "files have no size but that of their geometry"


def test_preparing_opens_no_file_and_keeps_filters():
    found = lazy(filters={"brand": ("BMW",)}).prepared_for(Recipe(name="r", geometry="resize", image_size=96))
    assert found.train.images.shape == (12, 3, 96, 96)
    assert found.filters == {"brand": ("BMW",)}
    assert numbers(found.train) == list(range(12))


def test_resized_images_are_not_made_before_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(Geometry, "batch", lambda self, images: pytest.fail("resized all images"))
    found = numbered().prepared_for(Recipe(name="r", geometry="resize", image_size=64))
    parts = found.take(train=30).split_validation(0.2, seed=1)
    assert isinstance(parts.train.images, ResizedImages)
    assert (parts.image_size, len(parts.train), len(parts.val)) == (64, 24, 6)


def test_splits_with_another_geometry_differ_in_size():
    whole = lazy()
    with pytest.raises(ValueError, match=r"one image size: train has \(48, 48\), test has \(32, 32\)"):
        data(train=whole.train, test=whole.test.with_geometry(Geometry("resize", 32)))
