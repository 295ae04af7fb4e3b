"""Archives that want out of their folder, that are damaged, and that are larger than the disk."""

from __future__ import annotations

import contextlib
import copy
import errno
import gzip
import io
import lzma
import os
import random
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from evalib.archives import extract_tar, extract_zip

FILES = {"top/a.txt": b"a" * 3000, "top/deep/b.bin": random.Random(0).randbytes(5000), "c.txt": b"c"}


def make_tar(path: Path, members: dict[str, bytes] = FILES, *extra: tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid = len(content), 0o4777, 12345
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: files with their content, folders with None."""
    entries = sorted(folder.rglob("*"))
    return {str(entry.relative_to(folder)): entry.read_bytes() if entry.is_file() else None for entry in entries}


@pytest.fixture(params=[True, False], ids=["filter", "no filter"])
def data_filter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python with tarfile's `data` filter, and as it was before 3.10.12."""
    if not request.param:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)


@pytest.mark.usefixtures("data_filter")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Python 3.12 and 3.13, for want of a filter
@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("there", [True, False])
def test_extraction(mode: str, there: bool, tmp_path: Path) -> None:
    dots = [member("./", tarfile.DIRTYPE), member("./top/empty", tarfile.DIRTYPE)]
    archive = make_tar(tmp_path / "a.tar", FILES, *dots, mode=mode)
    folder = tmp_path / "x" / "out"
    if there:
        folder.mkdir(parents=True)
        (folder / "mine.txt").write_bytes(b"mine")
    extract_tar(archive, folder)
    mine: dict[str, bytes | None] = {"mine.txt": b"mine"} if there else {}
    assert tree(folder) == {**FILES, **mine, "top": None, "top/deep": None, "top/empty": None}
    assert [entry.name for entry in folder.parent.iterdir()] == ["out"]
    status = (folder / "c.txt").stat()
    assert status.st_mode & 0o7777 == 0o644
    assert status.st_uid == folder.stat().st_uid


@pytest.mark.usefixtures("data_filter")
@pytest.mark.parametrize(
    ("evil", "fault"),
    [
        (member("../evil"), "leads outside"),
        (member("top/../../evil"), "leads outside"),
        (member("..\\evil"), "leads outside"),
        (member("/absolute/evil"), "leads outside"),
        (member("C:\\evil"), "leads outside"),
        (member("../evil", tarfile.DIRTYPE), "leads outside"),
        (member("link", tarfile.SYMTYPE, "../.."), "is a link"),
        (member("link", tarfile.SYMTYPE, "top/a.txt"), "is a link"),
        (member("link", tarfile.LNKTYPE, "../../secret"), "is a link"),
        (member("pipe", tarfile.FIFOTYPE), "is a device"),
        (member("null", tarfile.CHRTYPE), "is a device"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else "",
)
def test_an_archive_that_leads_outside_writes_nothing(evil: tarfile.TarInfo, fault: str, tmp_path: Path) -> None:
    """The good members before it are not written either."""
    evil = copy.copy(evil)
    evil.name = evil.name.replace("/absolute", str(tmp_path))
    archive = make_tar(tmp_path / "bad.tar.gz", FILES, evil, member("after.txt"))
    (tmp_path / "secret").write_text("secret")
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=f"bad.tar.gz.*{re.escape(repr(evil.name))} {fault}"):
        extract_tar(archive, tmp_path / "x" / "out")
    assert tree(tmp_path) == before


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-4],
        lambda content: flipped(content, -6),  # in the checksum of gzip
        lambda content: flipped(content, len(content) // 2),
        lambda content: b"",
        lambda content: b"<html>503</html>",
        lambda content: gzip.compress(flipped(gzip.decompress(content), 512 + 3072)),  # second header
        lambda content: gzip.compress(gzip.decompress(content)[:6000]),
    ],
    ids=["half", "end", "checksum", "middle", "empty", "page", "header", "short"],
)
def test_a_damaged_archive_writes_nothing(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "damaged.tar.gz")
    archive.write_bytes(damage(archive.read_bytes()))
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"damaged\.tar\.gz` is damaged or no tar archive"):
        extract_tar(archive, tmp_path / "out")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("there", [True, False])
def test_half_an_extraction_leaves_nothing(there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_tar(tmp_path / "a.tar.gz")
    if there:
        (tmp_path / "out").mkdir()
    before = tree(tmp_path)

    def full(self: tarfile.TarFile, path: Path, members: object, **options: object) -> None:
        (path / "top").mkdir()
        (path / "top" / "a.txt").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    with pytest.raises(OSError, match="No space left"):
        extract_tar(archive, tmp_path / "out")
    assert tree(tmp_path) == before


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz")
    (tmp_path / "c.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match=r"c\.txt` is there already"):
        extract_tar(archive, tmp_path)
    assert tree(tmp_path) == before


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.tar"):
        extract_tar(tmp_path / "none.tar", tmp_path / "out")


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ([member("top/a.txt")], "'top/a.txt' comes twice"),
        ([member("./top//a.txt")], "'./top//a.txt' comes twice"),
        ([member("TOP/A.TXT")], "'TOP/A.TXT' comes twice"),
        ([member("c.txt/inside")], "'c.txt' is a file and a folder"),
        ([member("top")], "'top' is a file and a folder"),
        ([member("c.txt", tarfile.DIRTYPE)], "'c.txt' is a file and a folder"),
        ([member("")], "'' leads outside"),
        ([member("x", b"Z")], "'x' is a device"),
    ],
)
def test_names_that_come_twice_are_refused(extra: list[tarfile.TarInfo], fault: str, tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "bad.tar", FILES, *extra, mode="w")
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=f"is refused, nothing written: its member {re.escape(fault)}"):
        extract_tar(archive, tmp_path / "out")
    assert tree(tmp_path) == before


def test_folders_may_come_twice(tmp_path: Path) -> None:
    folders = [member("top", tarfile.DIRTYPE), member("top/", tarfile.DIRTYPE), member("top/deep", tarfile.DIRTYPE)]
    extract_tar(make_tar(tmp_path / "a.tar", FILES, *folders), tmp_path / "out")
    assert {name for name, content in tree(tmp_path / "out").items() if content} == set(FILES)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 MB of zeros in 8 kB, and a disk with 5 MB left."""
    archive = make_tar(tmp_path / "bomb.tar.gz", {"zeros": bytes(8_000_000)})
    assert archive.stat().st_size < 10_000
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5_000_000))
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"holds 8,000,000 bytes, the disk of `.*` has 5,000,000 left\. Free some"):
        extract_tar(archive, tmp_path / "new" / "out")
    assert tree(tmp_path) == before


def test_a_file_of_holes_counts_with_its_full_size(tmp_path: Path) -> None:
    """A sparse member of 2**50 bytes that takes one block in the archive."""
    header = bytearray(member("holes", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410] = b"00000000000\0", b"00000000000\0"  # where data stand, and how many
    header[483:495] = b"\x80" + (2**50).to_bytes(11, "big")  # the size with the holes
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    archive = tmp_path / "sparse.tar"
    archive.write_bytes(bytes(header) + bytes(1024))
    with tarfile.open(archive) as tar:
        assert tar.getmembers()[0].size == 2**50
    with pytest.raises(ValueError, match=f"holds {2**50:,} bytes"):
        extract_tar(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_process_may_have_been_quicker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, real = make_tar(tmp_path / "a.tar.gz"), tarfile.TarFile.extractall
    (tmp_path / "out").mkdir()

    def slow(self: tarfile.TarFile, *args: object, **options: object) -> None:
        real(self, *args, **options)  # type: ignore[arg-type]
        (tmp_path / "out" / "top").mkdir()
        (tmp_path / "out" / "top" / "theirs").write_text("theirs")

    monkeypatch.setattr(tarfile.TarFile, "extractall", slow)
    with pytest.raises(FileExistsError, match="top` is there already"):
        extract_tar(archive, tmp_path / "out")
    assert (tmp_path / "out" / "top" / "theirs").read_text() == "theirs"
    assert not list(tmp_path.glob("out/.extract*"))


def test_a_disk_that_fails_at_the_end_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = make_tar(tmp_path / "a.tar.gz")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        extract_tar(archive, tmp_path / "out")
    assert not isinstance(caught.value, FileExistsError)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_damage_at_random_never_leads_outside(tmp_path: Path) -> None:
    """150 archives with one to eight bytes changed, plain and in each compression: extracted or refused in words."""
    rng, plain = random.Random(1), gzip.decompress(make_tar(tmp_path / "a.tar.gz").read_bytes())
    packers: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, lzma.compress]
    home = tmp_path / "home"
    refused: list[ValueError | OSError] = []
    home.mkdir()
    outside = {name: content for name, content in tree(tmp_path).items() if not name.startswith("home")}
    for number in range(150):
        content = bytearray(plain)
        where = range(rng.choice([600, len(content)]))  # half of them in the first header
        for _ in range(rng.randint(1, 8)):
            content[rng.choice(where)] = rng.choice([0, 32, 46, 47, 49, 53, 92, 120, 255, rng.randrange(256)])
        packed = bytearray(packers[number % 3](bytes(content)))
        if number % 2:
            packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
        archive = home / "damaged.tar"
        archive.write_bytes(packed)
        try:
            extract_tar(archive, home / "out" / "put")
        except (ValueError, OSError) as error:
            refused.append(error)
        assert {name: content for name, content in tree(tmp_path).items() if not name.startswith("home")} == outside
        assert set(os.listdir(home)) <= {"damaged.tar", "out"}
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(home / "out")
    too_long = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)  # names that no disk takes
    for error in refused:
        assert "damaged.tar`" in str(error) or (isinstance(error, OSError) and error.errno in too_long)
    assert len(refused) > 40


# --- zip ----------------------------------------------------------------------------------------------


def zipped(path: Path, members: dict[str, bytes], **options: int) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_zip_is_extracted(tmp_path: Path) -> None:
    members = {"pets/cat/1.jpg": b"one", "pets/Grüße/2.jpg": b"two" * 1000, "readme.txt": b""}
    archive = zipped(tmp_path / "pets.zip", members, compression=zipfile.ZIP_DEFLATED)
    extract_zip(archive, tmp_path / "new" / "folder")
    found = {
        str(path.relative_to(tmp_path / "new/folder")): path.read_bytes() for path in (tmp_path / "new").rglob("*.*")
    }
    assert found == members
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["folder"]
    with pytest.raises(FileExistsError, match="is there already: move it away"):
        extract_zip(archive, tmp_path / "new" / "folder")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../out.jpg", "leads outside"),
        ("/out.jpg", "leads outside"),
        ("a/../../out.jpg", "leads outside"),
        ("C:\\out.jpg", "leads outside"),
        ("a\\..\\..\\out.jpg", "leads outside"),
    ],
)
def test_a_zip_that_leads_outside_writes_nothing(name: str, fault: str, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "evil.zip", {"a/1.jpg": b"x", name: b"y"})
    with pytest.raises(ValueError, match=fault):
        extract_zip(archive, tmp_path / "deep" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.zip"]


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    member = zipfile.ZipInfo("link")
    member.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(ValueError, match="is a link"):
        extract_zip(tmp_path / "link.zip", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_zip_with_more_than_the_disk_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zipped(tmp_path / "bomb.zip", {"zeros": bytes(100_000)}, compression=zipfile.ZIP_DEFLATED)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("evalib.archives.shutil.disk_usage", lambda place: usage._replace(free=99_999))
    with pytest.raises(ValueError, match="it holds 100,000 bytes, the disk of .* has 99,999 left"):
        extract_zip(archive, tmp_path / "folder")


def test_a_zip_that_lies_about_its_size_writes_no_more(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "liar.zip", {"zeros": bytes(100_000)}, compression=zipfile.ZIP_DEFLATED)
    content = archive.read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged, nothing written: 'zeros'"):
        extract_zip(archive, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["liar.zip"]


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "bit"])
def test_a_damaged_zip_writes_nothing(damage: str, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "pets.zip", {"a.jpg": bytes(range(256)) * 20})
    content = bytearray(archive.read_bytes())
    content[len(content) // 3] ^= 1
    changed = {"text": b"<html></html>", "empty": b"", "cut": content[: len(content) // 2], "bit": content}[damage]
    archive.write_bytes(bytes(changed))
    with pytest.raises(ValueError, match="is damaged"):
        extract_zip(archive, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["pets.zip"]


def test_an_encrypted_zip_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "secret.zip", {"a.jpg": b"abc"})
    content = bytearray(archive.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="is encrypted: unpack it yourself, and give the folder"):
        extract_zip(archive, tmp_path / "folder")
