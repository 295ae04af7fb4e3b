"""Which files are images of which class and split; counts by hand, invariants of the split for any folder."""

import hashlib
import os
import re
import shutil
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evalib.data import folder as folder_module
from evalib.data.folder import image_folder
from evalib.data.folder_layout import choose_test, content_digest, folder_files
from evalib.data.image_files import DecodedFiles, ImageFiles
from evalib.transforms import Geometry


def touch(root, *names):
    """Files of distinct bytes that nobody decodes."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(name).encode())


def names(files, split):
    return [files.name(path) for path in files.files(split)]


# --- folders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("training", "testing"), ("Train", "VAL"), ("train", "valid"), ("train", "validation")],
)
def test_given_splits_by_their_usual_names(tmp_path, train, test):
    touch(
        tmp_path, f"{train}/ant/1.jpg", f"{train}/bee/2.PNG", f"{test}/ant/3.webp", f"{test}/bee/4.gif", "notes/5.jpg"
    )
    files = folder_files(tmp_path)
    assert (files.classes, files.ours) == (("ant", "bee"), False)
    assert names(files, "train") == [f"{train}/ant/1.jpg", f"{train}/bee/2.PNG"]
    assert (names(files, "test"), files.labels("test")) == ([f"{test}/ant/3.webp", f"{test}/bee/4.gif"], [0, 1])


def test_a_third_folder_is_to_validate_on(tmp_path):
    touch(tmp_path, *(f"{split}/{name}/1.jpg" for split in ("train", "test", "val") for name in ("ant", "bee")))
    assert list(folder_files(tmp_path).splits) == ["train", "test", "val"]
    for path in tmp_path.glob("*/*/*.jpg"):
        Image.new("RGB", (8, 8), (len(path.parent.parent.name) * 10, 0, 0)).save(path)
    data = image_folder(tmp_path)
    assert len(data.val) == 2


def test_two_folders_for_one_split(tmp_path):
    touch(tmp_path, *(f"{split}/ant/1.jpg" for split in ("train", "training", "test")))
    with pytest.raises(ValueError, match=r"train and .*training may both be the train images\. Rename or remove one"):
        folder_files(tmp_path)


def test_folders_of_classes_alone_are_split(tmp_path):
    touch(
        tmp_path, *(f"ant/{i}.jpg" for i in range(10)), *(f"bee/{i}.jpg" for i in range(5)), *("cow/1.jpg", "cow/2.jpg")
    )
    files = folder_files(tmp_path)
    assert files.ours
    assert [len(paths) for paths in files.splits["test"]] == [2, 1, 1]
    assert [len(paths) for paths in files.splits["train"]] == [8, 4, 1]
    assert [len(paths) for paths in folder_files(tmp_path, test_fraction=0.5).splits["test"]] == [5, 2, 1]
    assert names(folder_files(tmp_path, seed=2), "test") != names(files, "test")
    assert sorted(names(files, "train") + names(files, "test")) == sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*.jpg")
    )


def test_training_images_alone_are_split(tmp_path):
    touch(tmp_path, *(f"train/{name}/{i}.jpg" for name in ("ant", "bee") for i in range(5)))
    files = folder_files(tmp_path)
    assert (files.classes, files.ours, len(files.files("test"))) == (("ant", "bee"), True, 2)


def test_a_class_may_be_called_train(tmp_path):
    touch(tmp_path, *(f"{name}/{i}.jpg" for name in ("bus", "train") for i in range(5)))
    assert folder_files(tmp_path).classes == ("bus", "train")


def test_images_at_any_depth_and_what_is_left_out(tmp_path):
    touch(tmp_path, "ant/1.jpg", "ant/2020/2.jpg", "ant/2020/May/3.jpg", "ant/notes.txt", "ant/4.HEIC", "ant/5.heic")
    touch(tmp_path, "ant/.hidden.jpg", "ant/.ipynb_checkpoints/1.jpg", "ant/__MACOSX/._1.jpg", "__MACOSX/ant/1.jpg")
    touch(tmp_path, "bee/1.jpg", "bee/2.jpg", "cover.jpg", "README", ".git/1.jpg")
    files = folder_files(tmp_path)
    assert sorted(names(files, "train") + names(files, "test")) == [
        "ant/1.jpg", "ant/2020/2.jpg", "ant/2020/May/3.jpg", "bee/1.jpg", "bee/2.jpg",
    ]  # fmt: skip
    assert files.left_out == {".heic": 2, ".txt": 1, "images in no class folder": 1}


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ([], r"has no class folder, and no image\. It needs one folder of images per class, as .*cat and .*dog"),
        (["1.jpg", "2.jpg"], r"has no class folder, but 2 images, whose classes nothing tells"),
        (["ant/1.jpg", "ant/2.jpg"], r"has one class folder, 'ant': a classifier needs at least two\.$"),
        (
            ["pets/ant/1.jpg", "pets/bee/1.jpg"],
            r"one class folder, 'pets'.* If ant, bee are the classes, pass .*pets.$",
        ),
        (
            ["ant/1.jpg", "ant/2.jpg", "bee/1.jpg"],
            r"class folder .*bee needs at least 2 different images.*it has 1\. Add",
        ),
        (["ant/1.jpg", "ant/2.jpg", "bee/x.heic"], r"class folder .*bee has no image \(\.jpg.*\), but 1 \.heic\. Add"),
        (["ant/1.jpg", "ant/2.jpg", "bee/x/y/"], r"class folder .*bee has no image"),
        (["ant\n/1.jpg", "bee/1.jpg"], r"class folder '.*ant\\\\n' has a name with characters that cannot be printed"),
        ([" ant/1.jpg", "bee/1.jpg"], r"or spaces around it\. Rename it"),
        (["train/ant/1.jpg", "test/bee/1.jpg"], r"train and test need the same classes; .* one of them only: ant, bee"),
    ],
)
def test_folders_that_will_not_do(tmp_path, present, message):
    for name in present:
        (tmp_path / name).mkdir(parents=True) if name.endswith("/") else touch(tmp_path, name)
    with pytest.raises(ValueError, match=message):
        folder_files(tmp_path)


def test_what_is_no_folder_and_what_is_no_fraction(tmp_path):
    touch(tmp_path, "pets.zip")
    with pytest.raises(FileNotFoundError, match=r"pets\.zip is a file\. A dataset needs a folder with one folder of"):
        folder_files(tmp_path / "pets.zip")
    with pytest.raises(FileNotFoundError, match="There is no folder .*nowhere"):
        folder_files(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"`test_fraction` must lie in \(0, 1\): got 1"):
        folder_files(tmp_path, test_fraction=1)


def test_class_names_of_all_kinds_but_unprintable_ones(tmp_path):
    odd = ("<img src=x onerror=alert(1)>", "$\\alpha$", "Grüße aus 東京", "a b", "100%", "-rf", "{x}", "it's")
    safe = [name for name in odd if "/" not in name]
    touch(tmp_path, *(f"{name}/{i}.jpg" for name in safe for i in range(2)))
    assert folder_files(tmp_path).classes == tuple(sorted(safe))


# --- the split --------------------------------------------------------------------------------------

few_or_many = st.lists(st.integers(2, 40), min_size=2, max_size=4)


def contents(counts):
    return [[f"{label}-{index}" for index in range(count)] for label, count in enumerate(counts)]


@settings(deadline=None, max_examples=60)
@given(counts=few_or_many, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_every_class_is_split_by_its_quota(counts, fraction, seed):
    for flags, count in zip(choose_test(contents(counts), fraction, seed), counts, strict=True):
        assert len(flags) == count
        assert sum(flags) == min(max(round(fraction * count), 1), count - 1)


@settings(deadline=None, max_examples=60)
@given(counts=few_or_many, added=st.integers(0, 1), seed=st.integers(0, 5))
def test_a_file_more_moves_at_most_one_other(counts, added, seed):
    before = contents(counts)
    after = [[*members, "new"] if label == added else members for label, members in enumerate(before)]
    was, now = choose_test(before, 0.2, seed), choose_test(after, 0.2, seed)
    for label, flags in enumerate(was):
        moved = sum(a != b for a, b in zip(flags, now[label], strict=False))
        assert moved <= (label == added)


@settings(deadline=None, max_examples=60)
@given(digests=st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=12), min_size=2, max_size=3),
       seed=st.integers(0, 3))  # fmt: skip
def test_the_same_bytes_are_on_one_side(digests, seed):
    sides: dict[str, set[bool]] = {}
    for members, flags in zip(digests, choose_test(digests, 0.3, seed), strict=True):
        assert not all(flags)
        own = set(members) - {digest for other in digests if other is not members for digest in other}
        assert any(flags) == bool(own and len(set(members)) > 1), "some to test on wherever that can be"
        for digest, tested in zip(members, flags, strict=True):
            sides.setdefault(digest, set()).add(tested)
    assert all(len(found) == 1 for found in sides.values())
    in_two = {digest for digest, count in Counter(d for members in digests for d in set(members)).items() if count > 1}
    assert not any(sides[digest] == {True} for digest in in_two), "what has two labels is never tested on"


def test_the_order_of_names_does_not_matter(tmp_path):
    touch(tmp_path / "a", *(f"{name}/{i}.jpg" for name in ("ant", "bee") for i in range(20)))
    tested = {path.read_bytes() for path in folder_files(tmp_path / "a").files("test")}
    for path in sorted((tmp_path / "a").glob("*/*.jpg")):
        path.rename(path.with_name(f"{99 - int(path.stem)}-renamed.jpg"))
    assert {path.read_bytes() for path in folder_files(tmp_path / "a").files("test")} == tested


def test_planted_copies_stay_together(tmp_path):
    touch(tmp_path, *(f"{name}/{i:02d}.jpg" for name in ("ant", "bee") for i in range(10)))
    for i in range(10):
        shutil.copy(tmp_path / f"ant/{i:02d}.jpg", tmp_path / f"ant/copy{i}.jpg")
    shutil.copy(tmp_path / "bee/03.jpg", tmp_path / "ant/liar.jpg")
    files = folder_files(tmp_path)
    by_split = {split: {path.read_bytes() for path in files.files(split)} for split in files.splits}
    assert not by_split["train"] & by_split["test"]
    assert b"bee/03.jpg" in by_split["train"]
    assert len(names(files, "test")) == 6, "2 of 10 bees; 4 of 21 ants: 2 images, each twice"


def test_copies_of_one_image_are_no_class(tmp_path):
    touch(tmp_path, "ant/1.jpg", "bee/1.jpg", "bee/2.jpg")
    for i in range(2, 5):
        shutil.copy(tmp_path / "ant/1.jpg", tmp_path / f"ant/{i}.jpg")
    with pytest.raises(ValueError, match=r"ant needs at least 2 different images.* it has 1 \(in 4 files\)\. Add"):
        folder_files(tmp_path)


def test_the_digest_is_that_of_the_bytes(tmp_path):
    touch(tmp_path, "a.jpg")
    assert content_digest(tmp_path / "a.jpg") == hashlib.sha256(b"a.jpg").hexdigest()
    (tmp_path / "a.jpg").write_bytes(b"other bytes")
    assert content_digest(tmp_path / "a.jpg") == hashlib.sha256(b"other bytes").hexdigest()
    assert content_digest(tmp_path / "b.jpg") != content_digest(tmp_path / "c.jpg")


@pytest.mark.timeout(30)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "not a file" in content_digest(tmp_path / "pipe.jpg")


# --- images of a folder -------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """Two classes of 10 photos of two sizes, each of its own color."""
    for label, name in enumerate(("ant", "bee")):
        for i in range(10):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 48) if i % 2 else (48, 64), (10 * i, 100 * label, 50)).save(path)
    return tmp_path / "photos"


def test_photos_are_decoded_once_and_know_their_files(photos):
    data = image_folder(photos, image_size=16, geometry="center_crop", seed=3)
    images = data.train.images
    assert isinstance(images, DecodedFiles)
    assert images.shape == (16, 3, 16, 16)
    assert data.geometry == Geometry("center_crop", 16)
    for index, path in enumerate(images.files):
        expected = Image.open(path).getpixel((0, 0))
        assert images[index][:, 8, 8].tolist() == list(expected)
        assert data.train.labels[index] == data.classes.index(path.parent.name)
    assert data.origin.options["seed"] == 3
    assert data.train.select(torch.tensor([3, 1])).images.files == (images.files[3], images.files[1])
    assert isinstance(data.train.with_geometry(Geometry("resize", 32)).images, ImageFiles)
    assert data.train.with_geometry(Geometry("center_crop", 16)).images is images
    assert sorted(map(tuple, images.sizes(torch.arange(16)).unique(dim=0).tolist())) == [(48, 64), (64, 48)]


def test_another_split_or_geometry_is_not_taken_from_the_cache(photos):
    first = image_folder(photos, image_size=16)
    assert image_folder(photos, image_size=16, seed=5).train.images.files != first.train.images.files
    assert image_folder(photos, image_size=24).image_size == 24
    again = image_folder(photos, image_size=16)
    assert torch.equal(again.train.images[:], first.train.images[:])
    assert again.train.images.files == first.train.images.files


def test_a_large_folder_stays_files(photos, monkeypatch):
    kept = image_folder(photos, image_size=16)
    monkeypatch.setattr(folder_module, "MOST_IN_MEMORY", 3 * 16 * 16 * 20 - 1)
    data = image_folder(photos, image_size=16)
    assert isinstance(data.train.images, ImageFiles)
    every = torch.arange(16)
    assert torch.equal(data.train.images[every], kept.train.images[every])
    (photos / "ant" / "bad.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 21 images of photos cannot be decoded:\n.*bad\.jpg: an empty file"):
        image_folder(photos, image_size=16)
    assert len(image_folder(photos, image_size=16, damaged="skip").skipped) == 1


def test_damaged_photos_are_skipped_by_name(photos):
    (photos / "ant" / "bad.jpg").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"1 of 21 images of .* cannot be decoded:\n  ant.bad\.jpg: "):
        image_folder(photos, image_size=16)
    data = image_folder(photos, image_size=16, damaged="skip")
    assert re.match(r"ant.bad\.jpg: ", data.skipped[0])
    assert len(data.train) + len(data.test) == 20
