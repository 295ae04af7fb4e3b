"""Folders of images from wherever they are; an upload in Colab is played by a module of that name."""

import sys
import types
import zipfile

import pytest
from PIL import Image

from evalib.data.folder_layout import folder_files
from evalib.data.inspection import inspect_folder
from evalib.own_folder import get_folder, sample_folder


def pets(path, inside=""):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("cat", "dog"):
            for index in range(3):
                archive.writestr(f"{inside}{name}/{index}.jpg", f"{name}{index}")
        archive.writestr("__MACOSX/._cat", "x")
    return path


def test_a_folder_is_itself(tmp_path):
    assert get_folder(tmp_path) == tmp_path
    with pytest.raises(
        FileNotFoundError, match=r"There is no folder or zip file .*nowhere\. In Colab, mount Google Drive"
    ):
        get_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("inside", ["", "pets/", "my photos/pets/"])
def test_a_zip_file_is_unpacked_once(tmp_path, inside):
    archive = pets(tmp_path / "pets.zip", inside)
    folder = get_folder(archive, tmp_path / "data")
    assert folder == (tmp_path / "data" / "pets" / inside)
    assert folder_files(folder).classes == ("cat", "dog")
    archive.write_bytes(archive.read_bytes()[:100])
    assert get_folder(archive, tmp_path / "data") == folder, "what is unpacked is taken as it is"


def test_folders_of_splits_and_single_classes_are_not_descended_into(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("train/cat/1.jpg", "x")
    assert get_folder(tmp_path / "a.zip", tmp_path / "data").name == "a"
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("cat/1.jpg", "x")
    with pytest.raises(ValueError, match="has one class folder, 'cat'"):
        folder_files(get_folder(tmp_path / "b.zip", tmp_path / "data"))


def test_without_a_source_it_is_the_sample(tmp_path):
    folder = get_folder(None, tmp_path)
    facts = inspect_folder(folder, near=False)
    assert facts.classes == ("airplane", "automobile", "ship")
    assert facts.counts == {"train": (48,) * 3, "test": (12,) * 3}
    assert facts.median_size == (32, 32)
    files = sorted(folder.glob("*/*.jpg"))
    before = files[0].stat().st_mtime_ns
    assert get_folder("", tmp_path) == folder
    assert files[0].stat().st_mtime_ns == before, "nothing is written twice"
    with Image.open(files[0]) as image:
        assert image.size == (32, 32)


def test_more_than_the_sample_has(tmp_path):
    with pytest.raises(ValueError, match="The sample has 500 images of 'cat': 501 are too many"):
        sample_folder(tmp_path, ("cat",), 501)
    with pytest.raises(ValueError, match="The sample has 0 images of 'cow'"):
        sample_folder(tmp_path, ("cow",), 1)


@pytest.fixture
def colab(monkeypatch):
    """What `google.colab.files.upload` gives is what is put into this dictionary."""
    given = {}
    files = types.ModuleType("google.colab.files")
    files.upload = lambda: given
    for name in ("google", "google.colab"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "google.colab.files", files)
    return given


def test_an_upload_in_colab(tmp_path, colab):
    colab["../pets.zip"] = pets(tmp_path / "pets.zip", "pets/").read_bytes()
    assert get_folder("sample", tmp_path / "data") == tmp_path / "data" / "sample"
    folder = get_folder(None, tmp_path / "data")
    assert folder == tmp_path / "data" / "pets" / "pets"
    assert folder_files(folder).classes == ("cat", "dog")


@pytest.mark.parametrize("names", [(), ("cat.jpg", "dog.jpg"), ("a.zip", "b.zip")])
def test_an_upload_of_something_else(tmp_path, colab, names):
    colab.update(dict.fromkeys(names, b""))
    with pytest.raises(ValueError, match=f"Upload one zip file .*: got {', '.join(names) or 'nothing'}"):
        get_folder(None, tmp_path)
