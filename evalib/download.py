"""Files from mirrors, checked by MD5 and continued where they broke off; archives kept in their folder."""

from __future__ import annotations

import hashlib
import math
import os
import re
import tarfile
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from evalib.progress import progress_bar


class DownloadError(OSError):
    """No mirror gave the file, or there is no place to put it; the message says how to place it by hand."""


class _MirrorError(Exception):
    """Why one mirror did not give the file; with its speed in bytes/s if it gave some of it, else 0."""

    def __init__(self, reason: str, speed: float = 0.0) -> None:
        super().__init__(reason)
        self.speed = speed


class _Limits(NamedTuple):
    min_bytes_per_second: float  # 0: any speed will do
    stall_seconds: float
    timeout: float


def md5_of(path: Path) -> str:
    """The MD5 of a file, 32 lowercase hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify_md5(path: Path, md5: str) -> None:
    """Return if the file has this MD5.

    Raises:
        ValueError: if it has another one; the message names the file and both.
    """
    if (found := md5_of(path)) != md5.lower():
        rule = f"its MD5 must be {md5.lower()}, found {found}"
        raise ValueError(f"`{path}` is damaged or another file: {rule}. Delete it and get it again.")


def download(
    mirrors: Sequence[str],
    path: Path,
    *,
    md5: str,
    min_bytes_per_second: float = 200_000,
    stall_seconds: float = 15.0,
    timeout: float = 15.0,
    progress: bool = True,
) -> Path:
    """The path of a file with the given MD5, fetched from the first mirror that gives it fast enough.

    A file that is there already costs no network call. Otherwise the bytes go to `<name>.part`, from which
    the next mirror or call goes on; only the right MD5 earns the final name. A mirror is left if it refuses,
    sends a web page, a cut or a wrong file, is silent for `timeout`, or stays below `min_bytes_per_second`
    over `stall_seconds`. When all are left, those that gave some bytes are tried once more, the fastest first
    and at any speed: so a slow line gets the file too. Two processes must not fetch one path at a time.

    Args:
        mirrors: http(s) addresses of byte-identical files, the preferred one first.
        path: where the file goes; its folder is made.
        md5: 32 hexadecimal digits.
        min_bytes_per_second: the speed below which a mirror counts as slow; 0 switches the rule off.
        stall_seconds: the time, in seconds, over which the speed is taken.
        timeout: seconds without an answer or a byte after which a mirror counts as silent.
        progress: show a progress bar.

    Raises:
        DownloadError: if every mirror failed (with the reason of each), or the file cannot be written.
        ValueError, TypeError: if an argument is unusable.
    """
    path, md5 = Path(path), md5.lower()
    _check_arguments(mirrors, path, md5, min(stall_seconds, timeout))
    if path.exists() and md5_of(path) == md5:
        return path
    part = path.with_name(path.name + ".part")
    limits = _Limits(min_bytes_per_second, stall_seconds, timeout)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.open("ab").close()  # a read-only folder shows here, before any network call
        reasons = {} if md5_of(part) == md5 else _try_all(mirrors, part, md5, limits, progress)
        if not reasons:
            os.replace(part, path)
            return path
        if part.stat().st_size == 0:
            part.unlink()
    except OSError as error:
        advice = "Free some space, or choose a folder that you may write to."
        raise DownloadError(f"`{path}` cannot be written: {error}. {advice}") from error
    raise DownloadError(_advice(path, part, md5, reasons))


def _check_arguments(mirrors: Sequence[str], path: Path, md5: str, shortest: float) -> None:
    if isinstance(mirrors, str):
        raise TypeError(f"`mirrors` must be a sequence of addresses: got one string; write [{mirrors!r}].")
    wrong = [url for url in mirrors if urlsplit(url).scheme not in ("http", "https")]
    if wrong or not mirrors:
        raise ValueError(f"`mirrors` must be http(s) addresses, at least one: got {wrong or 'none'}.")
    if path.is_dir():
        raise ValueError(f"`path` must name a file: `{path}` is a folder.")
    if not re.fullmatch(r"[0-9a-f]{32}", md5):
        raise ValueError(f"`md5` must be 32 hexadecimal digits: got {md5!r}.")
    if shortest <= 0:
        raise ValueError(f"`stall_seconds` and `timeout` must be above 0: got {shortest}.")


def _advice(path: Path, part: Path, md5: str, reasons: dict[str, str]) -> str:
    """What failed, and what a person can do about it."""
    lines = [f"`{path.name}` could not be downloaded. Every mirror failed:"]
    lines += [f"  - {url}\n      {reason}" for url, reason in reasons.items()]
    if part.exists():
        lines.append(f"{part.stat().st_size:,} bytes are kept in `{part}`: the next try goes on from there.")
    if path.exists():
        lines.append(f"The file that is there now is damaged or another one: its MD5 is {md5_of(path)}.")
    lines.append("To place the file by hand, get it in a browser or from somebody who has it, and save it as")
    return "\n".join([*lines, f"  {path.absolute()}", f"Its MD5 must be {md5}. Then repeat the call."])


def _try_all(mirrors: Sequence[str], part: Path, md5: str, limits: _Limits, progress: bool) -> dict[str, str]:
    """Complete `part` from any mirror: the reason of every mirror if none could, nothing if one did."""
    reasons: dict[str, str] = {}
    speeds: dict[str, float] = {}
    for once_more in ("", "; once more, at any speed: "):
        for url in sorted(mirrors, key=lambda url: -speeds.get(url, 0)):  # at first in their own order
            failure = _try(url, part, md5, limits, progress)
            if failure is None:
                return {}
            reasons[url], speeds[url] = f"{reasons.get(url, '')}{once_more}{failure}", failure.speed
        mirrors = [url for url in reasons if speeds[url] > 0]
        limits = limits._replace(min_bytes_per_second=0)
    return reasons


def _try(url: str, part: Path, md5: str, limits: _Limits, progress: bool) -> _MirrorError | None:
    """Complete `part` from one mirror: the reason if it could not."""
    try:
        while True:
            continued = _receive(url, part, limits, progress)
            if (found := md5_of(part)) == md5:
                return None
            part.write_bytes(b"")
            if not continued:  # else the bytes of an earlier try may be the wrong ones: now without them
                return _MirrorError(f"wrong content: MD5 {found} instead of {md5}")
    except _MirrorError as error:
        return error


def _receive(url: str, part: Path, limits: _Limits, progress: bool) -> bool:
    """Append to `part` what it lacks: True if it went on from bytes that were there, False if from none."""
    have = part.stat().st_size
    with _open(url, have, limits.timeout) as response:
        start, total = _range(response, have)
        title = f"{part.stem} from {urlsplit(url).hostname}"
        bar = progress_bar(progress, desc=title, total=total, initial=start, unit="B", unit_scale=True)
        with bar, part.open("ab") as file:
            file.truncate(start)
            _copy(response, file, bar, start, math.inf if total is None else total, limits)
    return start > 0


def _open(url: str, have: int, timeout: float) -> HTTPResponse:
    """The answer of a mirror, asked for the bytes from `have` on."""
    headers = {"User-Agent": "evalib", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        return urlopen(Request(url, headers=headers), timeout=timeout)  # type: ignore[no-any-return]
    except HTTPError as error:
        error.close()
        if error.code == 416 and have:  # more bytes are here than the file has: they are the wrong ones
            return _open(url, 0, timeout)
        reason = "too many redirects" if 300 <= error.code < 400 else error.reason
        raise _MirrorError(f"HTTP {error.code}: {reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _MirrorError(f"no answer: {getattr(error, 'reason', error)!r}") from error


def _range(response: HTTPResponse, have: int) -> tuple[int, int | None]:
    """The first byte that the answer holds, `have` or 0, and the size of the whole file if it is told."""
    if response.headers.get_content_type() == "text/html":  # an error page, or the log-in page of a network
        raise _MirrorError(f"sent a web page instead of the file (HTTP {response.status}, text/html)")
    if response.status == 200:  # the whole file: what a server sends that ignores Range
        return 0, response.length
    told = response.headers.get("Content-Range", "none")
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", told.strip())
    if response.status != 206 or not match or int(match[1]) != have:
        raise _MirrorError(f"asked from byte {have} on, sent HTTP {response.status}, Content-Range: {told}")
    return have, int(match[2]) + 1 if match[3] == "*" else int(match[3])


def _copy(body: HTTPResponse, file: BinaryIO, bar: Any, start: int, total: float, limits: _Limits) -> None:
    """Write the body to `file`; leave a mirror that is slow, silent or cut."""
    began = time.monotonic()
    marks = deque([(began, start)])  # (time, position) over the last `stall_seconds`, some fifty of them
    have, reason = start, ""
    while not reason and have < total:
        try:
            chunk = body.read1(int(min(1 << 16, total - have)))  # what is there so far, not all of it
        except (OSError, HTTPException) as error:
            chunk, reason = b"", f"no more bytes: {error!r}"
        if not chunk:
            reason = reason or ("connection cut" if total < math.inf else "")
            break
        file.write(chunk)
        bar.update(len(chunk))
        have, now = have + len(chunk), time.monotonic()
        if now - marks[-1][0] >= limits.stall_seconds / 50:
            marks.append((now, have))
        while len(marks) > 1 and marks[1][0] <= now - limits.stall_seconds:
            marks.popleft()
        window, received, needed = now - marks[0][0], have - marks[0][1], limits.min_bytes_per_second
        if window >= limits.stall_seconds and received < needed * window and have != total:
            reason = f"too slow: {received / window / 1e3:,.1f} kB/s, {needed / 1e3:,.1f} needed"
    if reason:
        speed = (have - start) / max(time.monotonic() - began, 1e-3)
        raise _MirrorError(f"{reason} (at byte {have:,} of {total:,})", speed)


def extract_tar(archive: Path, folder: Path) -> None:
    """Extract a tar archive, compressed or not, into `folder`, and nothing outside it.

    All members are checked before the first byte is written: only files and folders with names that stay
    inside are taken. They are written beside their place and then renamed: half of it never looks whole.

    Args:
        archive: the archive.
        folder: where its members go; made if it is not there. Its other files stay.

    Raises:
        ValueError: if the archive is damaged, or holds a link, a device or a name that leads outside.
        FileExistsError: if `folder` has something of the name of a member already.
        FileNotFoundError: if there is no such archive.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        with tarfile.open(archive) as tar:
            members = _checked_members(tar, archive)
            for place in {folder / part for member in members for part in Path(member.name).parts[:1]}:
                if os.path.lexists(place):
                    raise FileExistsError(f"`{place}` is there already: move it away to extract `{archive}`.")
            _extract(tar, members, folder)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"`{archive}` is damaged or no tar archive: {error}. Get it again.") from error


def _checked_members(tar: tarfile.TarFile, archive: Path) -> list[tarfile.TarInfo]:
    """All members, once each of them is known to be harmless and the archive to be whole."""
    try:
        members = tar.getmembers()
        # To the last byte: gzip compares its checksum there, and tarfile takes a damaged header for the end.
        while tar.fileobj and (rest := tar.fileobj.read(1 << 20)):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("a header cannot be read")
    except OSError as error:  # gzip's BadGzipFile is one
        raise tarfile.ReadError(str(error)) from error
    for member in members:
        name = PureWindowsPath(member.name)  # takes / and \ for separators, and knows drives
        fault = "leads outside the folder" if name.anchor or ".." in name.parts else ""
        if not (member.isreg() or member.isdir()):
            fault = "is a link" if member.issym() or member.islnk() else "is a device"
        if fault:
            raise ValueError(f"`{archive}` is refused, nothing written: its member {member.name!r} {fault}.")
    return members


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
            os.replace(entry, home / entry.name)
