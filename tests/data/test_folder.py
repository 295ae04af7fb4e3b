"""Folders of images: decoded right, cached safely, and refused with the file's name."""

import errno
import os
import random

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
        FileNotFoundError,
        match=r"There is no folder .*nowhere\. A dataset needs a folder with one folder of",
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


# --- damaged images -----------------------------------------------------------------------------------


@pytest.fixture
def damaged_root(root):
    """As `root`, with two damaged images in train and one in test."""
    (root / "train" / "ant" / "page.jpg").write_bytes(b"<html></html>")
    whole = (root / "train" / "bee" / "1.png").read_bytes()
    (root / "train" / "bee" / "1.png").write_bytes(whole[: len(whole) // 2])
    (root / "test" / "bee" / "empty.gif").write_bytes(b"")
    return root


def test_stop_names_all_damaged_images(damaged_root):
    for _ in range(2):  # the second time from the cache
        with pytest.raises(ValueError, match=r"^3 of 12 images of .*set cannot be decoded:\n") as caught:
            image_folder(damaged_root)
        lines = str(caught.value).splitlines()
        assert [line.partition(": ")[0] for line in lines[1:4]] == [
            "  train/ant/page.jpg",
            "  train/bee/1.png",
            "  test/bee/empty.gif",
        ]
        assert lines[4] == "Replace or remove these files, or leave them out with `damaged='skip'`."
    for number in range(20):
        (damaged_root / "train" / "ant" / f"bad{number:02d}.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"23 of 32 images(.|\n)*bad09.jpg: an empty file\n  and 13 more\nReplace"):
        image_folder(damaged_root)


def test_skip_leaves_them_out_and_says_so(damaged_root, monkeypatch):
    first = image_folder(damaged_root, damaged="skip")
    assert first.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert first.test.labels.tolist() == [0, 0, 1, 1]
    names = ["ant/0", "ant/1", "ant/2", "bee/0", "bee/2"]
    for image, name in zip(first.train.images, names, strict=True):
        path = damaged_root / "train" / f"{name}.png"
        assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(np.array(Image.open(path))))
    assert [line.partition(": ")[0] for line in first.skipped] == [
        "train/ant/page.jpg",
        "train/bee/1.png",
        "test/bee/empty.gif",
    ]
    monkeypatch.setattr(folder_module, "decode_image", refuse_decoding)
    second = image_folder(damaged_root, damaged="skip")
    assert second.skipped == first.skipped
    assert torch.equal(second.train.images, first.train.images)
    assert second.split_validation(0.34, 0).take(test=2).skipped == first.skipped


def test_a_repaired_image_is_taken_again(damaged_root):
    image_folder(damaged_root, damaged="skip")
    write_image(damaged_root / "train" / "bee" / "1.png", seed=3)
    data = image_folder(damaged_root, damaged="skip")
    assert (len(data.train), len(data.skipped)) == (6, 2)
    (damaged_root / "train" / "ant" / "page.jpg").unlink()
    (damaged_root / "test" / "bee" / "empty.gif").unlink()
    assert image_folder(damaged_root).skipped == ()


def test_what_could_not_be_read_is_not_in_the_cache(root, monkeypatch):
    """A drive that is away for a moment must not cost these images in all later runs."""
    real, path = os.stat, root / "train" / "ant" / "1.png"

    def away(file, **more):
        if file == path and not more:
            raise OSError(errno.EIO, "Input/output error")
        return real(file, **more)

    with monkeypatch.context() as patched:
        patched.setattr("evalib.data.decoding.os.stat", away)
        data = image_folder(root, damaged="skip")
    assert data.skipped == ("train/ant/1.png: Input/output error",)
    assert len(image_folder(root).train) == 6


def test_a_class_without_any_image_left(root):
    for path in (root / "train" / "bee").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"No image in .*train.bee can be decoded"):
        image_folder(root, damaged="skip")
    for path in root.glob("*/*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"No image in .*train.ant can be decoded"):
        image_folder(root, damaged="skip")
    with pytest.raises(ValueError, match="Unknown damaged 'leave'"):
        image_folder(root, damaged="leave")


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_but_named_like_one(root):
    ant = root / "train" / "ant"
    (ant / "folder.jpg").mkdir()
    os.mkfifo(ant / "pipe.jpg")
    (ant / "dangling.jpg").symlink_to("nowhere")
    (ant / "loop.jpg").symlink_to("loop.jpg")
    write_image(ant / "Grüße aus 東京 1.png", seed=8)
    for _ in range(2):
        data = image_folder(root, damaged="skip")
        assert len(data.train) == 7
        assert list(data.skipped) == [
            "train/ant/dangling.jpg: No such file or directory",
            "train/ant/folder.jpg: a folder",
            "train/ant/loop.jpg: Too many levels of symbolic links",
            "train/ant/pipe.jpg: not a regular file",
        ]
    write_image(ant.parent / "target.png", seed=9)
    (ant / "dangling.jpg").unlink()
    (ant / "dangling.jpg").symlink_to("../target.png")
    assert len(image_folder(root, damaged="skip").train) == 8


def test_names_that_are_no_text(root):
    try:
        write_image(root / "train" / "ant" / os.fsdecode(b"\xff\xfe.png"), seed=8)
        (root / "train" / "ant" / os.fsdecode(b"\xff\xff.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has text as names only")
    for _ in range(2):
        data = image_folder(root, damaged="skip")
        assert len(data.train) == 7
        assert data.skipped == ("train/ant/\\udcff\\udcff.png: an empty file",)


def test_any_damage_of_the_cache_is_harmless(root):
    """Damaged it is not used; where the damage does not matter it gives what the images give."""
    expected = image_folder(root, damaged="skip")
    cache, generator = root / CACHE_NAME, random.Random(0)
    whole = cache.read_bytes()
    for trial in range(120):
        content = bytearray(whole)
        if trial % 3 == 0:
            content = content[: generator.randrange(len(content))]
        else:  # the headers of the arrays and of the zip file are at both ends
            place = generator.choice(
                (generator.randrange(600), -1 - generator.randrange(600), generator.randrange(len(content)))
            )
            content[place] ^= 1 << generator.randrange(8)
        cache.write_bytes(bytes(content))
        found = image_folder(root, damaged="skip")
        assert torch.equal(found.train.images, expected.train.images)
        assert torch.equal(found.test.labels, expected.test.labels)
        assert found.skipped == ()
