"""Facts about folders: counted by hand, and copies planted by the test."""

import shutil

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from evalib.data import inspection
from evalib.data.inspection import inspect_folder


def photo(seed, size=(80, 60)):
    """A smooth picture of its own: large blobs, as photos have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def root(tmp_path):
    """Given splits: 8 ants and 2 bees to train on, 2 and 1 to test on, all different."""
    counts = {("train", "ant"): 8, ("train", "bee"): 2, ("test", "ant"): 2, ("test", "bee"): 1}
    seed = 0
    for (split, name), count in counts.items():
        for index in range(count):
            save(tmp_path / "set" / split / name / f"{index}.png", photo(seed, (80 + 10 * seed, 60)))
            seed += 1
    return tmp_path / "set"


def test_counts_sizes_and_the_most_frequent_class(root):
    facts = inspect_folder(root)
    assert facts.classes == ("ant", "bee")
    assert facts.counts == {"train": (8, 2), "test": (2, 1)}
    assert (facts.num_images, facts.imbalance, facts.most_frequent) == (13, 4.0, "ant")
    assert facts.baseline == 2 / 3
    assert (facts.median_size, facts.smallest_size) == ((140, 60), (80, 60))
    assert facts.copies == facts.two_classes == facts.copies_across == facts.look_alikes == facts.unreadable == ()
    text = str(facts)
    for part in (
        "set: 13 images of 2 classes, 10 to train and 3 to test on, as given",
        "median 140 x 60 pixels, smallest 80 x 60",
        "always naming 'ant', the most frequent class, would be right for 66.7% of the test images",
        "imbalance: the largest class has 4.0 times the images of the smallest",
        "duplicates: none found",
    ):
        assert part in text, text


def test_balanced_classes_are_not_called_unbalanced(root):
    for index in range(2, 8):
        (root / "train" / "ant" / f"{index}.png").unlink()
    facts = inspect_folder(root)
    assert facts.imbalance == 1
    assert "imbalance" not in str(facts)


def test_planted_copies_of_every_kind(root):
    shutil.copy(root / "train/ant/0.png", root / "train/ant/again.png")  # on one side
    shutil.copy(root / "train/ant/1.png", root / "test/ant/leak.png")  # across
    shutil.copy(root / "train/bee/0.png", root / "train/ant/liar.png")  # two labels
    facts = inspect_folder(root)
    assert facts.copies == (
        ("test/ant/leak.png", "train/ant/1.png"),
        ("train/ant/0.png", "train/ant/again.png"),
        ("train/ant/liar.png", "train/bee/0.png"),
    )
    assert facts.copies_across == (("test/ant/leak.png", "train/ant/1.png"),)
    assert facts.two_classes == (("train/ant/liar.png", "train/bee/0.png"),)
    assert facts.look_alikes == (), "what is the same byte by byte is told once"
    text = str(facts)
    assert "one label is wrong: 1\n  train/ant/liar.png = train/bee/0.png" in text
    assert "to train and to test on: 1\n  test/ant/leak.png = train/ant/1.png" in text
    assert "on one side: 1\n  train/ant/0.png = train/ant/again.png" in text


def test_copies_stay_on_one_side_of_our_own_split(tmp_path):
    for name, seed in (("ant", 0), ("bee", 20)):
        for index in range(10):
            save(tmp_path / name / f"{index}.png", photo(seed + index))
            shutil.copy(tmp_path / name / f"{index}.png", tmp_path / name / f"copy{index}.png")
    facts = inspect_folder(tmp_path)
    assert (len(facts.copies), facts.copies_across) == (20, ())
    assert "chosen at random from each class" in str(facts)


@pytest.mark.parametrize("change", ["jpeg", "half", "brighter"])
def test_a_photo_saved_anew_looks_like_itself(root, change):
    image = Image.open(root / "train/bee/1.png")
    if change == "half":
        image = image.resize((image.width // 2, image.height // 2))
    if change == "brighter":
        image = ImageEnhance.Brightness(image).enhance(0.8)
    name = "anew.jpg" if change == "jpeg" else "anew.png"
    save(root / "test/ant" / name, image, **({"quality": 50} if change == "jpeg" else {}))
    ((test, train, bits),) = inspect_folder(root).look_alikes
    assert (test, train) == (f"test/ant/{name}", "train/bee/1.png")
    assert 0 <= bits <= 8
    assert f"test images that look like a training image: 1\n  test/ant/{name} like train/bee/1.png" in str(
        inspect_folder(root)
    )
    assert inspect_folder(root, near=False).look_alikes is None


def test_more_images_than_are_compared(root, monkeypatch):
    monkeypatch.setattr(inspection, "MOST_COMPARED", 12)
    facts = inspect_folder(root)
    assert facts.look_alikes is None
    assert "none found, byte by byte; images that look alike were not searched for" in str(facts)


def test_what_cannot_be_read_or_is_left_out_is_said(root):
    (root / "train/ant/bad.jpg").write_bytes(b"<html>")
    (root / "train/ant/phone.heic").write_bytes(b"x")
    facts = inspect_folder(root)
    assert facts.unreadable[0].startswith("train/ant/bad.jpg: no JPEG")
    assert facts.median_size == (140, 60)
    assert "cannot be read, 1:\n  train/ant/bad.jpg: no JPEG" in str(facts)
    assert str(facts).endswith("left out: 1 .heic")


def test_a_folder_without_any_image_that_can_be_read(root):
    for path in root.glob("*/*/*.png"):
        path.write_bytes(str(path).encode())
    facts = inspect_folder(root)
    assert (facts.median_size, len(facts.unreadable)) == ((0, 0), 13)
    str(facts)


def test_many_classes_are_not_listed(tmp_path):
    for label in range(26):
        for index in range(2):
            save(tmp_path / f"c{label:02d}" / f"{index}.png", photo(100 * label + index, (16, 16)))
    text = str(inspect_folder(tmp_path, near=False))
    assert "classes: 1 to 1 training images each" in text
    assert "c07" not in text
