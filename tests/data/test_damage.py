"""Image files checked before training: all damaged ones named, or left out; remembered only while it is true."""

import errno
import os

import numpy as np
import pytest
import torch
from PIL import Image

from evalib.data import damage as damage_module
from evalib.data.damage import attempts, check_images
from evalib.data.decoding import Failure, decode_image
from evalib.data.image_data import ImageData, Split
from evalib.data.image_files import ImageFiles
from evalib.transforms import Geometry

RESIZE = Geometry("resize", 24)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """The folder of what is remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evalib"


@pytest.fixture
def files(tmp_path):
    """Twelve image files; numbers 3 and 7 are damaged."""
    generator, paths = np.random.default_rng(0), []
    for number in range(12):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(paths[-1])
    paths[3].write_bytes(paths[3].read_bytes()[:-500])
    paths[7].write_bytes(b"<html>")
    return paths


def dataset(files, test=None):
    def split(paths):
        return Split(ImageFiles(paths, RESIZE), torch.arange(len(paths)) % 3)

    return ImageData("set", ("a", "b", "c"), split(files), split(test or files[:3]), (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_attempts_give_what_can_be_decoded_and_why_the_rest_cannot(files, workers):
    batches = list(attempts(ImageFiles(files, RESIZE), batch_size=5, workers=workers))
    assert [len(failures) for _, failures in batches] == [5, 5, 2]
    failures = [failure for _, batch in batches for failure in batch]
    assert [index for index, failure in enumerate(failures) if failure] == [3, 7]
    assert failures[7].name == str(files[7])
    assert failures[7].reason.endswith("it begins with b'<html>'")
    whole = [path for index, path in enumerate(files) if index not in (3, 7)]
    expected = [torch.from_numpy(decode_image(path, "", RESIZE)).permute(2, 0, 1) for path in whole]
    assert torch.equal(torch.cat([images for images, _ in batches]), torch.stack(expected))


def test_a_batch_of_damaged_images_only(files, monkeypatch):
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a single batch needs no worker process"))
    ((images, failures),) = attempts(ImageFiles(files[7:8], RESIZE))
    assert images.shape == (0, 3, 24, 24)
    assert len(failures) == 1


def test_stop_names_all_damaged_images(files):
    with pytest.raises(ValueError, match=r"^2 of 15 images of set cannot be decoded:\n  .*3\.png: .*\n  .*7\.png: "):
        check_images(dataset(files))
    with pytest.raises(ValueError, match="leave them out with `damaged='skip'`"):
        check_images(dataset(files), "stop")
    for path in files[:3]:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"13 of 20 images(.|\n)*and 3 more\n") as caught:
        check_images(dataset(3 * files[:3] + files[7:8], 2 * files[:1] + files[4:12]), workers=0)
    assert len(str(caught.value).splitlines()) == 1 + 10 + 1 + 1
    with pytest.raises(ValueError, match="Unknown damaged 'ignore'. Known: stop, skip"):
        check_images(dataset(files), "ignore")


def test_skip_leaves_them_out_and_says_so(files):
    data = check_images(dataset(files), "skip")
    kept = torch.tensor([0, 1, 2, 4, 5, 6, 8, 9, 10, 11])
    assert data.train.images.files == tuple(files[index] for index in kept)
    assert torch.equal(data.train.labels, kept % 3)
    assert len(data.test) == 3
    assert [line.partition(": ")[0] for line in data.skipped] == [str(files[3]), str(files[7])]
    assert data.take(train=3).skipped == data.skipped
    assert check_images(data, "stop").skipped == data.skipped, "nothing else is damaged"
    data.train.images[torch.arange(10)]


def test_a_whole_set_stays_what_it_is(files, tiny_data):
    whole = dataset(files[:3])
    assert check_images(whole).train is whole.train
    assert check_images(tiny_data).train is tiny_data.train
    assert check_images(tiny_data, "skip").skipped == ()


def test_a_split_without_any_image_left(files):
    with pytest.raises(ValueError, match="The test split of 'set' has no image"):
        check_images(dataset(files, files[7:8]), "skip")


def refuse(*arguments, **more):
    raise AssertionError("what is remembered was not used")


def test_what_was_found_is_remembered_until_a_file_changes(files, monkeypatch, own_cache):
    first = check_images(dataset(files), "skip")
    with monkeypatch.context() as patched:
        patched.setattr(damage_module, "attempts", refuse)
        assert check_images(dataset(files), "skip").skipped == first.skipped
        with pytest.raises(ValueError, match="2 of 15 images"):
            check_images(dataset(files), "stop")
        with pytest.raises(AssertionError, match="was not used"):
            check_images(dataset(files), "skip", cache=False)
    files[7].write_bytes(files[0].read_bytes())
    assert len(check_images(dataset(files), "skip").skipped) == 1
    files[0].write_bytes(b"")
    assert len(check_images(dataset(files), "skip").skipped) == 3, "of both splits"
    files[0].unlink()
    assert len(check_images(dataset(files), "skip").skipped) == 3
    for remembered in own_cache.iterdir():
        remembered.write_bytes(b"[0]" if remembered.stat().st_size % 2 else b"\xff{")
    files[0].write_bytes(files[1].read_bytes())
    assert len(check_images(dataset(files), "skip").skipped) == 1


@pytest.mark.parametrize("content", [b"", b"[0]", b"\xff", b'{"x": 1}', b'{"3": "a"', b"null"])
def test_a_damaged_memory_is_not_used(files, own_cache, content):
    first = check_images(dataset(files), "skip")
    assert len(list(own_cache.iterdir())) == 2
    for remembered in own_cache.iterdir():
        remembered.write_bytes(content)
    assert check_images(dataset(files), "skip").skipped == first.skipped


def test_what_could_not_be_read_is_looked_at_again(files, monkeypatch):
    """A drive that is away for a moment must not cost these images in all later runs."""
    real = ImageFiles.file

    def away(self, index):
        if self.files[index] == files[1]:
            raise damage_module.ImageError(Failure("1.png", os.strerror(errno.EIO), damaged=False))
        return real(self, index)

    with monkeypatch.context() as patched:
        patched.setattr(ImageFiles, "file", away)
        assert len(check_images(dataset(files), "skip", workers=0).skipped) == 4
    assert len(check_images(dataset(files), "skip", workers=0).skipped) == 2


def test_without_a_place_to_remember_in(files, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    assert len(check_images(dataset(files), "skip").skipped) == 2


def test_rows_of_a_table(files):
    datasets = pytest.importorskip("datasets")
    from evalib.data.hugging_face import hugging_face

    features = datasets.Features(image=datasets.Image(decode=False), label=datasets.ClassLabel(names=["a", "b"]))
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in files] + [None]
    table = datasets.Dataset.from_dict({"image": rows, "label": [0, 1] * 6 + [0]}, features=features)
    data = hugging_face(datasets.DatasetDict(train=table, test=table.select([0, 1])), geometry=RESIZE)
    with pytest.raises(ValueError, match="3 of 15 images"):
        check_images(data)
    checked = check_images(data, "skip")
    assert len(checked.train) == 10
    assert checked.skipped[0].startswith("in row 3 of the dataset (3.png): ")
    assert checked.skipped[2] == "in row 12 of the dataset: there is none in 'image'"
