"""Folders of images: decoded right, cached safely, and refused with the file's name."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from evalib.data import folder as folder_module
from evalib.data.decoding import decode_image
from evalib.data.folder import CACHE_NAME, channel_statistics, image_folder


def write_image(path, seed, size=(32, 32)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def root(tmp_path):
    """Two classes, 3 + 2 images each, as PNG, so that their pixels are known."""
    for split, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("ant", "bee")):
            for index in range(count):
                write_image(tmp_path / "set" / split / name / f"{index}.png", seed=hash((split, label, index)) % 1000)
    return tmp_path / "set"


def test_images_and_labels_in_sorted_order(root):
    data = image_folder(root)
    assert data.classes == ("ant", "bee")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for position, path in enumerate(sorted((root / "train").glob("*/*.png"))):
        assert torch.equal(data.train.images[position].permute(1, 2, 0), torch.from_numpy(np.array(Image.open(path))))


def test_statistics_equal_numpys(root):
    data = image_folder(root)
    pixels = data.train.images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, pixels.mean(axis=(0, 2, 3)), atol=1e-9)
    np.testing.assert_allclose(data.std, pixels.std(axis=(0, 2, 3)), atol=1e-9)


def test_a_constant_set_has_no_zero_deviation():
    assert channel_statistics(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))[1] == (1 / 255,) * 3


def refuse_decoding(*arguments):
    raise AssertionError("the cache was not used")


def test_the_second_call_reads_the_cache(root, monkeypatch):
    first = image_folder(root)
    monkeypatch.setattr(folder_module, "decode_image", refuse_decoding)
    second = image_folder(root)
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.labels, second.test.labels)


def test_a_changed_file_makes_a_new_cache(root):
    image_folder(root)
    pixels = write_image(root / "train" / "ant" / "1.png", seed=99)
    assert torch.equal(image_folder(root).train.images[1].permute(1, 2, 0), torch.from_numpy(pixels))
    (root / "train" / "bee" / "0.png").unlink()
    assert len(image_folder(root).train) == 5


@pytest.mark.parametrize("damage", ["truncate", "flip", "foreign", "empty"])
def test_a_damaged_cache_is_not_used(root, damage):
    expected = image_folder(root)
    cache = root / CACHE_NAME
    content = bytearray(cache.read_bytes())
    if damage == "flip":
        content[len(content) // 3] ^= 1
    replaced = {"truncate": content[: len(content) // 2], "flip": content, "foreign": b"<html>", "empty": b""}[damage]
    cache.write_bytes(bytes(replaced))
    assert torch.equal(image_folder(root).train.images, expected.train.images)
    assert cache.stat().st_size > 1000, "the cache is written anew"


def test_an_unwritable_folder_caches_elsewhere(root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    (root / CACHE_NAME).mkdir()  # a place that cannot be written, for root too
    first = image_folder(root)
    assert len(list((tmp_path / "user-cache" / "evalib").iterdir())) == 1
    monkeypatch.setattr(folder_module, "decode_image", refuse_decoding)
    assert torch.equal(image_folder(root).train.images, first.train.images)


def test_resizing(root):
    write_image(root / "train" / "ant" / "wide.png", seed=1, size=(40, 32))
    with pytest.raises(ValueError, match=r"All images need one size: .*wide.png is 40x32 pixels.*Pass `image_size`"):
        image_folder(root)
    assert image_folder(root, image_size=48).train.images.shape == (7, 3, 48, 48)


def test_missing_and_empty_folders(root, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"There is no folder .*nowhere.train.*train/<class>/ and test/<class>/"
    ):
        image_folder(tmp_path / "nowhere")
    (tmp_path / "hollow" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no class folder"):
        image_folder(tmp_path / "hollow")


def test_a_class_without_images(root):
    for path in (root / "train" / "bee").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(ValueError, match=r"The class folder .*train.bee has no image"):
        image_folder(root)


def test_splits_with_other_classes(root):
    os.rename(root / "test" / "bee", root / "test" / "wasp")
    with pytest.raises(ValueError, match="in one of them only: bee, wasp"):
        image_folder(root)


@pytest.mark.parametrize("content", ["truncated", "html", "empty"])
def test_a_damaged_image_is_named(root, content):
    path = root / "train" / "ant" / "bad.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "html": b"<html></html>", "empty": b""}[content])
    with pytest.raises(ValueError, match=r"1 of 11 images of .*set cannot be decoded:\n  train.ant.bad.jpg: "):
        image_folder(root)


def test_modes_transparency_and_orientation(tmp_path):
    gray = tmp_path / "gray.png"
    Image.new("L", (4, 4), 77).save(gray)
    assert decode_image(gray, "gray").tolist() == [[[77] * 3] * 4] * 4

    clear = tmp_path / "clear.png"
    Image.new("RGBA", (4, 4), (200, 0, 0, 0)).save(clear)
    assert decode_image(clear, "clear").min() == 255, "transparent pixels are white, not their hidden color"

    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[274] = 6  # rotate by 90 degrees to display
    Image.new("RGB", (8, 4)).save(turned, exif=exif)
    assert decode_image(turned, "turned").shape == (8, 4, 3)


def test_the_jpeg_copy_is_cifar10(jpeg_copy):
    data = image_folder(jpeg_copy, cache=False)
    assert data.train.labels.bincount().tolist() == [5000] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    np.testing.assert_allclose(data.mean, (0.4914, 0.4822, 0.4465), atol=1e-3)  # published for CIFAR-10's training set
