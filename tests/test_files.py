"""Files are whole or not there, whatever stops their writer."""

import os

import pytest

from evalib.files import check_writable, remove_parts, replacing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_replacing_writes_whole_files_or_none(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("one")
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half of tw")
        raise KeyError
    assert path.read_text() == "one"
    assert names(path.parent) == ["file.txt"]


def test_the_older_file_is_kept_under_another_name(tmp_path):
    path, older = tmp_path / "last.txt", tmp_path / "previous.txt"
    for text in ("one", "two", "three"):
        with replacing(path, keep=older) as temporary:
            temporary.write_text(text)
    assert (path.read_text(), older.read_text()) == ("three", "two")
    with pytest.raises(KeyError), replacing(path, keep=older):
        raise KeyError
    assert (path.read_text(), older.read_text()) == ("three", "two")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names of open files stand in /proc")
def test_content_reaches_the_disk_before_its_name_does(tmp_path, monkeypatch):
    """fsync of the file, the renames, fsync of the folder: any other order can lose both after a power cut."""
    calls, real_sync, real_replace = [], os.fsync, os.replace

    def sync(descriptor):
        calls.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        real_sync(descriptor)

    def rename(old, new):
        calls.append(f"{os.path.basename(old)} -> {os.path.basename(new)}")
        real_replace(old, new)

    (tmp_path / "last.pt").write_text("one")
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    with replacing(tmp_path / "last.pt", keep=tmp_path / "previous.pt") as temporary:
        temporary.write_text("two")
    part = f".last.{os.getpid()}.part.pt"
    assert calls == [f"sync {part}", "last.pt -> previous.pt", f"{part} -> last.pt", f"sync {tmp_path.name}"]


def test_a_system_that_cannot_flush_folders(tmp_path, monkeypatch):
    real_open = os.open

    def opening(path, *arguments, **named):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied")
        return real_open(path, *arguments, **named)

    monkeypatch.setattr(os, "open", opening)
    with replacing(tmp_path / "file.txt") as temporary:
        temporary.write_text("one")
    assert (tmp_path / "file.txt").read_text() == "one"


def test_parts_of_dead_writers_are_removed(tmp_path):
    for name in (".last.111.part.pt", ".last.222.part.pt", ".run.2.333.part", "a.part.pt", ".b.part.pt", "last.pt"):
        (tmp_path / name).write_text("x")
    asked = []
    remove_parts(tmp_path, in_use=lambda name, process: asked.append((name, process)) or process == 222)
    assert names(tmp_path) == [".b.part.pt", ".last.222.part.pt", "a.part.pt", "last.pt"]
    assert sorted(asked) == [("last.pt", 111), ("last.pt", 222), ("run.2", 333)]


def test_check_writable_names_the_folder(tmp_path):
    assert check_writable(tmp_path / "a" / "b").is_dir()
    assert names(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Cannot write to .*file.inside.*Choose another folder"):
        check_writable(tmp_path / "file" / "inside")


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write everywhere")
def test_check_writable_refuses_a_read_only_folder(tmp_path):
    (tmp_path / "sealed").mkdir(mode=0o500)
    with pytest.raises(OSError, match="Cannot write to"):
        check_writable(tmp_path / "sealed")
