"""Files from mirrors, checked by their digest and continued where they broke off."""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
from collections import deque
from collections.abc import Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from evalib.copying import within
from evalib.file_lock import only_one
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
    max_bytes: int


class Digest(NamedTuple):
    """What the bytes of a file must add up to."""

    algorithm: str  # "md5" or "sha256"
    digits: str  # hexadecimal, in small letters: all 32 of an MD5, at least the first 8 of a SHA-256

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read "md5:..." or "sha256:..."; ValueError for anything else."""
        if not re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{8,64}", text.lower()):
            rule = '"md5:" and 32 hexadecimal digits, or "sha256:" and at least the first 8'
            raise ValueError(f"`digest` must be {rule}: got {text!r}.")
        return cls(*text.lower().split(":"))

    def of(self, path: Path) -> str:
        """All digits of a file."""
        found = hashlib.new(self.algorithm, usedforsecurity=False)
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
        return found.hexdigest()

    def fits(self, path: Path) -> bool:
        """Whether a file has this digest."""
        return self.of(path).startswith(self.digits)

    @property
    def name(self) -> str:
        """The algorithm as people write it."""
        return {"md5": "MD5", "sha256": "SHA-256"}[self.algorithm]

    def __str__(self) -> str:
        whole = len(self.digits) == {"md5": 32, "sha256": 64}[self.algorithm]
        return f"its {self.name} must {'be' if whole else 'begin with'} {self.digits}"


def verify(path: Path, digest: str) -> None:
    """Return if the file has this digest, written as for `download`.

    Raises:
        ValueError: if it has another one; the message names the file and both.
    """
    wanted = Digest.parse(digest)
    if not (found := wanted.of(path)).startswith(wanted.digits):
        raise ValueError(f"`{path}` is damaged or another file: {wanted}, found {found}. Delete it and get it again.")


def download(
    mirrors: Sequence[str],
    path: Path,
    *,
    digest: str,
    max_bytes: int = 1 << 32,
    min_bytes_per_second: float = 200_000,
    stall_seconds: float = 15.0,
    timeout: float = 15.0,
    progress: bool = True,
) -> Path:
    """The path of a file with the given digest, fetched from the first mirror that gives it fast enough.

    A file that is there already costs no network call. Otherwise the bytes go to `<name>.part`, from which the next
    mirror or call goes on; only the right digest earns the final name. A mirror is left if it refuses, sends a web
    page, a cut, wrong or endless file, is silent for `timeout`, or stays below `min_bytes_per_second` over
    `stall_seconds`. When all are left, those that gave some bytes are tried once more, the fastest first and at any
    speed: so a slow line gets the file too. Of several processes that want one path the first fetches it, the others
    wait and take it.

    Args:
        mirrors: http(s) addresses of byte-identical files, the preferred one first.
        path: where the file goes; its folder is made.
        digest: "md5:" and 32 hexadecimal digits, or "sha256:" and at least the first 8 of 64.
        max_bytes: more than this is not the file; it is not written to the disk.
        min_bytes_per_second: the speed below which a mirror counts as slow; 0 switches the rule off.
        stall_seconds: the time, in seconds, over which the speed is taken.
        timeout: seconds without an answer or a byte after which a mirror counts as silent.
        progress: show a progress bar.

    Raises:
        DownloadError: if every mirror failed (with the reason of each), or the file cannot be written.
        ValueError, TypeError: if an argument is unusable.
    """
    path, wanted = Path(path), Digest.parse(digest)
    _check_arguments(mirrors, path, min(stall_seconds, timeout, max_bytes))
    if path.exists() and wanted.fits(path):
        return path
    part = path.with_name(path.name + ".part")
    limits = _Limits(min_bytes_per_second, stall_seconds, timeout, max_bytes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with only_one(part, progress):  # it also shows a read-only folder, before any network call
            there = path.exists() and wanted.fits(path)  # by now, from another process
            reasons = {} if there or wanted.fits(part) else _try_all(mirrors, part, wanted, limits, progress)
            if not reasons and not there:
                os.replace(part, path)
            elif there or part.stat().st_size == 0:
                part.unlink()
    except OSError as error:
        advice = "Free some space, or choose a folder that you may write to."
        raise DownloadError(f"`{path}` cannot be written: {error}. {advice}") from error
    if reasons:
        raise DownloadError(_advice(path, part, wanted, reasons))
    return path


def _check_arguments(mirrors: Sequence[str], path: Path, smallest: float) -> None:
    if isinstance(mirrors, str):
        raise TypeError(f"`mirrors` must be a sequence of addresses: got one string; write [{mirrors!r}].")
    wrong = [url for url in mirrors if urlsplit(url).scheme not in ("http", "https")]
    if wrong or not mirrors:
        raise ValueError(f"`mirrors` must be http(s) addresses, at least one: got {wrong or 'none'}.")
    if path.is_dir():
        raise ValueError(f"`path` must name a file: `{path}` is a folder.")
    if smallest <= 0:
        raise ValueError(f"`stall_seconds`, `timeout` and `max_bytes` must be above 0: got {smallest}.")


def _advice(path: Path, part: Path, wanted: Digest, reasons: dict[str, str]) -> str:
    """What failed, and what a person can do about it."""
    lines = [f"`{path.name}` could not be downloaded. Every mirror failed:"]
    lines += [f"  - {url}\n      {reason}" for url, reason in reasons.items()]
    if part.exists():
        lines.append(f"{part.stat().st_size:,} bytes are kept in `{part}`: the next try goes on from there.")
    if path.exists():
        found = f"its {wanted.name} is {wanted.of(path)}"
        lines.append(f"The file that is there now is damaged or another one: {found}.")
    lines.append("To place the file by hand, get it in a browser or from somebody who has it, and save it as")
    return "\n".join([*lines, f"  {path.absolute()}", f"I{str(wanted)[1:]}. Then repeat the call."])


def _try_all(mirrors: Sequence[str], part: Path, wanted: Digest, limits: _Limits, progress: bool) -> dict[str, str]:
    """Complete `part` from any mirror: the reason of every mirror if none could, nothing if one did."""
    reasons: dict[str, str] = {}
    speeds: dict[str, float] = {}
    for once_more in ("", "; once more, at any speed: "):
        for url in sorted(mirrors, key=lambda url: -speeds.get(url, 0)):  # at first in their own order
            failure = _try(url, part, wanted, limits, progress)
            if failure is None:
                return {}
            reasons[url], speeds[url] = f"{reasons.get(url, '')}{once_more}{failure}", failure.speed
        mirrors = [url for url in reasons if speeds[url] > 0]
        limits = limits._replace(min_bytes_per_second=0)
    return reasons


def _try(url: str, part: Path, wanted: Digest, limits: _Limits, progress: bool) -> _MirrorError | None:
    """Complete `part` from one mirror: the reason if it could not."""
    try:
        while True:
            continued = _receive(url, part, limits, progress)
            if (found := wanted.of(part)).startswith(wanted.digits):
                return None
            part.write_bytes(b"")
            if not continued:  # else the bytes of an earlier try may be the wrong ones: now without them
                return _MirrorError(f"wrong content: {wanted}, found {found}")
    except _MirrorError as error:
        return None if wanted.fits(part) else error  # it may be whole: a mirror can promise more than there is


def _receive(url: str, part: Path, limits: _Limits, progress: bool) -> bool:
    """Append to `part` what it lacks: True if it went on from bytes that were there, False if from none."""
    have = part.stat().st_size
    with _open(url, have, limits.timeout) as response:
        start, total = _range(response, have)
        if (total or 0) > limits.max_bytes:
            raise _MirrorError(f"offers {total:,} bytes, which is not the file: that has at most {limits.max_bytes:,}")
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
        # The time-out of a socket starts anew with every byte: headers that drip in would last for ever.
        return within(4 * timeout, lambda: urlopen(Request(url, headers=headers), timeout=timeout))
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
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", told.strip())
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
        have, now = have + len(chunk), time.monotonic()
        if have > limits.max_bytes:
            file.truncate(0)
            raise _MirrorError(f"sent more than the {limits.max_bytes:,} bytes that the file has at most")
        file.write(chunk)
        bar.update(len(chunk))
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
