"""Tar and zip archives unpacked into their folder, and nothing outside it."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PureWindowsPath
from typing import Any


def extract_tar(archive: Path, folder: Path) -> None:
    """Extract a tar archive, compressed or not, into `folder`, and nothing outside it.

    All members are checked before the first byte is written: only files and folders with names that stay inside, each
    file once, and not more bytes than the disk has left. They are written beside their place and then renamed: half of
    it never looks whole.

    Args:
        archive: the archive.
        folder: where its members go; made if it is not there. Its other files stay.

    Raises:
        ValueError: if the archive is damaged, or holds a link, a device, a name that leads outside or comes twice, or
            more than fits on the disk.
        FileExistsError: if `folder` has something of the name of a member already.
        FileNotFoundError: if there is no such archive.
    """
    archive, folder = Path(archive), Path(folder)
    with archive.open("rb") as file:
        try:
            tar = tarfile.open(fileobj=file)  # noqa: SIM115, closed below
            members = _all_members(tar)
        except Exception as error:  # of many kinds, by the compression and by what is damaged
            raise ValueError(f"`{archive}` is damaged or no tar archive: {error!r}. Get it again.") from error
        with tar:
            if fault := _fault(members):
                raise ValueError(f"`{archive}` is refused, nothing written: {fault}.")
            _check_space(archive, sum(member.size for member in members), folder)
            for place in {folder / part for member in members for part in Path(member.name).parts[:1]}:
                if os.path.lexists(place):
                    raise FileExistsError(f"`{place}` is there already: move it away to extract `{archive}`.")
            _extract(tar, members, folder)


def extract_zip(archive: Path, folder: Path) -> None:
    """Extract a zip archive into a new `folder`, and nothing outside it.

    As with `extract_tar` all members are checked first, and none is seen before all are there. What they say of their
    size is held against what they have.

    Args:
        archive: the archive.
        folder: where its members go; must not be there yet.

    Raises:
        ValueError: if the archive is damaged or encrypted, or holds a link, a name that leads outside or comes twice,
            or more than fits on the disk.
        FileExistsError: if `folder` is there already.
        FileNotFoundError: if there is no such archive.
    """
    archive, folder = Path(archive), Path(folder)
    if os.path.lexists(folder):
        raise FileExistsError(f"`{folder}` is there already: move it away to extract `{archive}`.")
    with archive.open("rb") as file:
        try:
            unpacked = zipfile.ZipFile(file)
        except Exception as error:  # of several kinds, by what is damaged
            raise ValueError(f"`{archive}` is damaged or no zip archive: {error!r}. Get it again.") from error
        with unpacked:
            members = unpacked.infolist()
            if fault := _fault([_as_in_tar(member) for member in members]):
                raise ValueError(f"`{archive}` is refused, nothing written: {fault}.")
            if any(member.flag_bits & 1 for member in members):
                raise ValueError(f"`{archive}` is encrypted: unpack it yourself, and give the folder.")
            _check_space(archive, sum(member.file_size for member in members), folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".extract-", dir=folder.parent) as temporary:
                inside = Path(temporary) / "inside"
                inside.mkdir()
                for member in members:
                    _write_member(unpacked, member, inside, archive)
                os.replace(inside, folder)


def _as_in_tar(member: zipfile.ZipInfo) -> tarfile.TarInfo:
    """The same member, for the checks that both kinds of archive share."""
    found = tarfile.TarInfo(member.filename)
    mode = member.external_attr >> 16
    if stat.S_ISLNK(mode):
        found.type = tarfile.SYMTYPE
    elif member.is_dir():
        found.type = tarfile.DIRTYPE
    return found


def _write_member(unpacked: zipfile.ZipFile, member: zipfile.ZipInfo, inside: Path, archive: Path) -> None:
    place = inside.joinpath(*PureWindowsPath(member.filename).parts)
    if member.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with unpacked.open(member) as content, place.open("wb") as file:
            shutil.copyfileobj(content, file)  # never more bytes than the member says; then its CRC is compared
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"`{archive}` is damaged, nothing written: {member.filename!r}: {error}. Get it again."
        ) from error


def _all_members(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    members = tar.getmembers()
    # To the last byte: gzip compares its checksum there, and tarfile takes a damaged header for the end.
    while tar.fileobj and (rest := tar.fileobj.read(1 << 20)):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("a header cannot be read")
    return members


def _fault(members: list[tarfile.TarInfo]) -> str:
    """Why these members are not to be extracted; empty if they may be."""
    files: set[tuple[str, ...]] = set()
    folders: set[tuple[str, ...]] = set()
    for member in members:
        path = PureWindowsPath(member.name)  # takes / and \ for separators, and knows drives
        name = tuple(part.casefold() for part in path.parts)  # some disks know no capitals
        if path.anchor or ".." in name or (not name and not member.isdir()):
            return f"its member {member.name!r} leads outside the folder"
        if not (member.isreg() or member.isdir()):
            return f"its member {member.name!r} is {'a link' if member.issym() or member.islnk() else 'a device'}"
        folders |= {name[:length] for length in range(1, len(name) + member.isdir())}
        if member.isreg() and name in files:
            return f"its member {member.name!r} comes twice"
        files |= {name} if member.isreg() else set()
    both = files & folders
    return f"its member {'/'.join(min(both))!r} is a file and a folder" if both else ""


def _check_space(archive: Path, needed: int, folder: Path) -> None:
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ValueError(
            f"`{archive}` is refused, nothing written: it holds {needed:,} bytes, the disk of `{there}` has {free:,} "
            "left. Free some space, or choose another folder."
        )


def _extract(tar: tarfile.TarFile, members: list[tarfile.TarInfo], folder: Path) -> None:
    """Extract harmless members beside their place, then rename."""
    new = not folder.exists()
    home = folder.parent if new else folder
    home.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    for member in members:  # what the filter does; Python before 3.10.12 has none
        member.mode = 0o755 if member.isdir() else 0o644
        member.uid, member.gid, member.uname, member.gname = -1, -1, "", ""
    with tempfile.TemporaryDirectory(prefix=".extract-", dir=home, ignore_cleanup_errors=True) as temporary:
        inside = Path(temporary) / (folder.name or "root")
        inside.mkdir()
        tar.extractall(inside, members, **options)
        for entry in [inside] if new else list(inside.iterdir()):
            try:
                os.replace(entry, home / entry.name)
            except OSError as error:
                if not (home / entry.name).exists():
                    raise
                # another process extracted it meanwhile
                raise FileExistsError(f"`{home / entry.name}` is there already: move it away.") from error
