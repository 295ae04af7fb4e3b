"""Mirrors that fail in every way we could think of, on 127.0.0.1, and archives that want out of their folder."""

from __future__ import annotations

import contextlib
import copy
import errno
import gzip
import hashlib
import http.client
import http.server
import io
import random
import re
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evalib import download as module
from evalib.download import DownloadError, download, extract_tar, md5_of, verify_md5

PAYLOAD = random.Random(0).randbytes(200_000)
MD5 = hashlib.md5(PAYLOAD).hexdigest()
QUICK: dict[str, Any] = {"md5": MD5, "stall_seconds": 0.3, "timeout": 20.0, "progress": False}
IMPATIENT = {**QUICK, "timeout": 0.4}  # only where a server is silent: a busy machine is slow to answer too


class Handler(http.server.BaseHTTPRequestHandler):
    """Behaves as the first word of the path says; GET /good sends the payload, with Range."""

    server: Mirrors

    def log_message(self, *args: object) -> None:
        """Keep stderr clean."""

    def do_GET(self) -> None:
        name = self.path.split("/")[1]
        self.server.requests.append((name, self.headers.get("Range")))
        self.behavior = name
        getattr(self, f"send_{name.replace('-', '_')}")()

    def write(self, data: bytes) -> None:
        # counted first: the client may look as soon as it has the last byte
        self.server.served[self.behavior] = self.server.served.get(self.behavior, 0) + len(data)
        self.wfile.write(data)

    def reply(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()

    def begin(self) -> bytes:
        """Headers of a right answer; the body that belongs to them."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        if start >= len(PAYLOAD):
            self.reply(416, 0, Content_Range=f"bytes */{len(PAYLOAD)}")
            return b""
        body = PAYLOAD[start:]
        told = {"Content_Range": f"bytes {start}-{len(PAYLOAD) - 1}/{len(PAYLOAD)}"} if asked else {}
        self.reply(206 if asked else 200, len(body), Content_Type="application/x-tar", **told)
        return body

    def send_good(self) -> None:
        self.write(self.begin())

    def send_again(self) -> None:
        self.send_good()

    def send_star(self) -> None:
        start = int(self.headers["Range"][6:-1])
        body = PAYLOAD[start:]
        self.reply(206, len(body), Content_Range=f"bytes {start}-{len(PAYLOAD) - 1}/*")
        self.write(body)

    def send_norange(self) -> None:
        self.reply(200, len(PAYLOAD))
        self.write(PAYLOAD)

    def send_nolength(self) -> None:
        self.reply(200, None)
        self.write(PAYLOAD)

    def send_chunked(self) -> None:
        self.protocol_version = "HTTP/1.1"
        self.reply(200, None, Transfer_Encoding="chunked", Connection="close")
        for start in range(0, len(PAYLOAD), 30_000):
            chunk = PAYLOAD[start : start + 30_000]
            self.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.write(b"0\r\n\r\n")

    def send_cut(self) -> None:
        body = self.begin()
        self.write(body[: len(body) // 2])

    def send_trickle(self, at_once: int = 1000) -> None:
        body = self.begin()
        self.write(body[:at_once])
        for start in range(at_once, len(body), 50):
            if self.server.stop.wait(0.02):
                return
            self.write(body[start : start + 50])

    def send_burst(self) -> None:
        self.send_trickle(150_000)

    def send_silent(self) -> None:
        self.write(self.begin()[:1000])
        self.server.stop.wait(30)

    def send_mute(self) -> None:
        self.server.stop.wait(30)

    def throttled(self, pause: float) -> None:
        body = self.begin()
        for start in range(0, len(body), 10_000):
            self.write(body[start : start + 10_000])
            self.server.stop.wait(pause)

    def send_slow(self) -> None:
        self.throttled(0.02)

    def send_slower(self) -> None:
        self.throttled(0.08)

    def send_404(self) -> None:
        self.send_error(404)

    def send_503(self) -> None:
        page = b"<!doctype html><title>503</title>overloaded"
        self.reply(503, len(page), Content_Type="text/html")
        self.write(page)

    def send_page(self) -> None:
        page = b"<!doctype html><title>Log in to this network</title>"
        self.reply(200, len(page), Content_Type="text/html; charset=utf-8")
        self.write(page)

    def send_wrong(self) -> None:
        page = b"<html>a page that calls itself a file</html>"
        self.reply(200, len(page), Content_Type="application/octet-stream")
        self.write(page)

    def send_shifted(self) -> None:
        self.reply(206, 10, Content_Range=f"bytes 0-9/{len(PAYLOAD)}")
        self.write(PAYLOAD[:10])

    def send_loop(self) -> None:
        self.reply(302, 0, Location=self.path)

    def send_moved(self) -> None:
        self.reply(302, 0, Location="/good/data.tar")


class Mirrors(http.server.ThreadingHTTPServer):
    """A server that remembers what was asked and how many bytes of bodies it sent."""

    daemon_threads = False  # so that `server_close` waits for them and no socket is left open

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.served: dict[str, int] = {}
        self.stop = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what many of these tests are about."""

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}/data.tar"

    @property
    def asked(self) -> list[str]:
        return [name for name, _ in self.requests]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirrors]:
    monkeypatch.setenv("no_proxy", "*")
    server = Mirrors()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to make any further use of a socket an error."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    def switch() -> None:
        monkeypatch.setattr(socket, "socket", refuse)
        monkeypatch.setattr(socket, "create_connection", refuse)

    return switch


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "data.tar"


def part_of(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    return part


def assert_whole(path: Path) -> None:
    assert path.read_bytes() == PAYLOAD
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


# --- one mirror -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["good", "nolength", "chunked", "moved"])
def test_the_file_comes_whole_and_a_second_call_needs_no_network(
    name: str, server: Mirrors, path: Path, no_sockets: Callable[[], None]
) -> None:
    assert download([server.url(name), server.url("again")], path, **QUICK) == path
    assert_whole(path)
    assert "again" not in server.asked
    no_sockets()
    assert download([server.url(name)], path, **QUICK) == path


@pytest.mark.parametrize("name", ["good", "star"])
def test_a_part_is_continued(name: str, server: Mirrors, path: Path) -> None:
    part_of(path, PAYLOAD[:150_000])
    download([server.url(name)], path, **QUICK)
    assert_whole(path)
    assert server.requests == [(name, "bytes=150000-")]
    assert server.served == {name: 50_000}


def test_a_server_that_ignores_range_begins_anew(server: Mirrors, path: Path) -> None:
    part_of(path, PAYLOAD[:150_000])
    download([server.url("norange")], path, **QUICK)
    assert_whole(path)
    assert server.served == {"norange": 200_000}


@pytest.mark.parametrize("poison", [PAYLOAD + b"too long", b"x" * len(PAYLOAD), b"other bytes"])
def test_a_wrong_part_does_not_condemn_the_mirror(poison: bytes, server: Mirrors, path: Path) -> None:
    """Longer than the file or as long: HTTP 416; shorter: a wrong MD5. Both times the mirror is asked anew."""
    part_of(path, poison)
    download([server.url("good")], path, **QUICK)
    assert_whole(path)
    assert server.requests == [("good", f"bytes={len(poison)}-"), ("good", None)]


def test_a_whole_part_only_needs_its_name(path: Path, no_sockets: Callable[[], None]) -> None:
    part_of(path, PAYLOAD)
    no_sockets()
    download(["http://127.0.0.1:1/data.tar"], path, **QUICK)
    assert_whole(path)


def test_a_damaged_file_is_replaced_only_by_a_right_one(server: Mirrors, path: Path) -> None:
    part_of(path, b"")
    path.write_bytes(b"damaged")
    with pytest.raises(DownloadError, match=f"damaged or another one: its MD5 is {md5_of(path)}"):
        download([server.url("404")], path, **QUICK)
    assert path.read_bytes() == b"damaged"
    download([server.url("good")], path, **QUICK)
    assert_whole(path)


def test_the_progress_bar_can_be_switched(server: Mirrors, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    download([server.url("good")], tmp_path / "quiet.tar", **QUICK)
    assert capsys.readouterr() == ("", "")
    download([server.url("good")], tmp_path / "shown.tar", **{**QUICK, "progress": True})
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "shown.tar from 127.0.0.1: 100%" in shown.err
    assert "200k/200k" in shown.err


# --- the next mirror ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("404", 0),
        ("503", 0),
        ("page", 0),
        ("wrong", 0),
        ("shifted", 0),
        ("loop", 0),
        ("mute", 0),
        ("cut", 100_000),
        ("silent", 1000),
    ],
)
def test_a_failing_mirror_is_followed_by_the_next(name: str, left: int, server: Mirrors, path: Path) -> None:
    """The next mirror is asked for what is missing only: all of it if the first one gave nothing of use."""
    if name == "shifted":  # wrong only for who asked for a later part
        part_of(path, PAYLOAD[:5000])
        left = 5000
    began = time.monotonic()
    options = IMPATIENT if name in ("mute", "silent") else QUICK
    download([server.url(name), server.url("good"), server.url("again")], path, **options)
    assert time.monotonic() - began < 10
    assert_whole(path)
    assert set(server.asked[:-1]) == {name}
    assert server.requests[-1] == ("good", f"bytes={left}-" if left else None)
    assert server.served["good"] == len(PAYLOAD) - left


def test_a_stalled_mirror_is_left_and_its_bytes_are_used(server: Mirrors, path: Path) -> None:
    began = time.monotonic()
    download([server.url("trickle"), server.url("good")], path, **QUICK)
    assert 0.3 <= time.monotonic() - began < 10
    assert_whole(path)
    assert server.asked == ["trickle", "good"]
    start = int((server.requests[1][1] or "bytes=0-")[6:-1])
    assert 1000 < start < 5000
    assert server.served["good"] == len(PAYLOAD) - start


def test_a_fast_beginning_does_not_hide_a_stall(server: Mirrors, path: Path) -> None:
    """The rule looks at the last seconds: the mean since the beginning would need 7.5 s to fall below it."""
    began = time.monotonic()
    download([server.url("burst"), server.url("good")], path, **{**QUICK, "min_bytes_per_second": 20_000})
    assert time.monotonic() - began < 5
    assert_whole(path)
    assert server.asked == ["burst", "good"]
    assert server.served["good"] < 50_000


def test_a_web_page_does_not_cost_the_bytes_that_are_there(server: Mirrors, path: Path) -> None:
    part = part_of(path, PAYLOAD[:150_000])
    with pytest.raises(DownloadError, match="web page"):
        download([server.url("page"), server.url("503")], path, **QUICK)
    assert part.read_bytes() == PAYLOAD[:150_000]


def test_slow_mirrors_are_better_than_none(server: Mirrors, path: Path) -> None:
    """Both break the rule of speed; then the faster one goes on from the bytes of both, and the rule is off."""
    options = {**QUICK, "stall_seconds": 0.1, "min_bytes_per_second": 1e9}
    download([server.url("404"), server.url("slower"), server.url("slow")], path, **options)
    assert_whole(path)
    assert server.asked == ["404", "slower", "slow", "slow"]
    starts = [int((asked or "bytes=0-")[6:-1]) for _, asked in server.requests]
    assert starts == sorted(starts)
    assert starts[-1] > starts[-2] > 0


def test_a_mirror_fast_enough_is_not_left(server: Mirrors, path: Path) -> None:
    options = {**QUICK, "stall_seconds": 0.1, "min_bytes_per_second": 30_000}
    download([server.url("slow"), server.url("good")], path, **options)
    assert server.asked == ["slow"]  # some 500 kB/s


def test_the_last_pass_does_not_wait_for_silent_mirrors(server: Mirrors, path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(DownloadError, match=r"no more bytes.*once more, at any speed: no more bytes"):
        download([server.url("silent"), server.url("mute")], path, **IMPATIENT)
    assert time.monotonic() - began < 10
    assert server.asked == ["silent", "mute", "silent"]


def test_the_error_names_every_mirror_and_the_way_by_hand(server: Mirrors, path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/data.tar"
    reasons = {
        server.url("404"): "HTTP 404",
        server.url("503"): "HTTP 503",
        server.url("loop"): "too many redirects",
        server.url("page"): "web page",
        server.url("wrong"): "wrong content: MD5",
        server.url("mute"): "timed out",
        nobody: "refused",
        server.url("cut"): "connection cut (at byte 100,000 of 200,000); once more",
    }
    with pytest.raises(DownloadError) as caught:
        download(list(reasons), path, **IMPATIENT)
    message = str(caught.value)
    lines = [line.strip(" -") for line in message.splitlines()[1 : 1 + 2 * len(reasons)]]
    told = dict(zip(lines[::2], lines[1::2], strict=True))
    assert list(told) == list(reasons)
    for url, reason in reasons.items():
        assert reason in told[url]
    assert f"{path.absolute()}\n" in message
    assert MD5 in message.splitlines()[-1]
    assert "150,000 bytes are kept" in message  # half, and half of the other half
    assert isinstance(caught.value, OSError)


def test_nothing_is_left_when_nothing_came(server: Mirrors, path: Path) -> None:
    with pytest.raises(DownloadError, match="HTTP 404"):
        download([server.url("404"), server.url("wrong")], path, **QUICK)
    assert not list(path.parent.iterdir())


# --- this side ------------------------------------------------------------------------------------


def test_a_place_that_cannot_be_written_is_told_before_any_request(server: Mirrors, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DownloadError, match=r"data\.tar` cannot be written.*folder that you may write to"):
        download([server.url("good")], tmp_path / "file" / "data.tar", **QUICK)
    assert server.requests == []


def test_a_read_only_folder_is_told_before_any_request(
    server: Mirrors, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, mode: str = "r") -> io.BytesIO:  # chmod would not stop root
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DownloadError, match=r"cannot be written.*Permission denied"):
        download([server.url("good")], path, **QUICK)
    assert server.requests == []


def test_a_full_disk_is_not_the_mirrors_fault(server: Mirrors, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_copy", full)
    with pytest.raises(DownloadError, match=r"cannot be written.*No space left"):
        download([server.url("good"), server.url("again")], path, **QUICK)
    assert server.asked == ["good"]


def test_an_interrupt_keeps_the_bytes(server: Mirrors, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, calls = http.client.HTTPResponse.read1, iter(range(3))

    def interrupted(self: http.client.HTTPResponse, n: int = -1) -> bytes:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return read(self, n)

    with monkeypatch.context() as patch:
        patch.setattr(http.client.HTTPResponse, "read1", interrupted)
        with pytest.raises(KeyboardInterrupt):
            download([server.url("slow")], path, **QUICK)
    part = path.with_name(path.name + ".part")
    kept = part.read_bytes()
    assert 0 < len(kept) < len(PAYLOAD)
    assert PAYLOAD.startswith(kept)
    download([server.url("good")], path, **QUICK)
    assert_whole(path)
    assert server.requests[-1] == ("good", f"bytes={len(kept)}-")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"mirrors": []}, ValueError, "`mirrors`.*none"),
        ({"mirrors": "http://127.0.0.1/a"}, TypeError, "`mirrors` must be a sequence"),
        ({"mirrors": ["file:///etc/hosts"]}, ValueError, r"`mirrors`.*file:///etc/hosts"),
        ({"md5": "12"}, ValueError, "`md5`.*'12'"),
        ({"timeout": 0}, ValueError, "`timeout` must be above 0"),
    ],
)
def test_arguments_are_checked(change: dict[str, object], kind: type[Exception], message: str, path: Path) -> None:
    arguments = {"mirrors": ["http://127.0.0.1:1/a"], "path": path, **QUICK, **change}
    with pytest.raises(kind, match=message):
        download(**arguments)  # type: ignore[arg-type]
    assert not path.parent.exists()


def test_a_folder_is_no_place_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder"):
        download(["http://127.0.0.1:1/a"], tmp_path, **QUICK)


def test_md5(tmp_path: Path) -> None:
    """RFC 1321, appendix A.5."""
    file = tmp_path / "abc"
    file.write_bytes(b"abc")
    assert md5_of(file) == "900150983cd24fb0d6963f7d28e17f72"
    verify_md5(file, "900150983CD24FB0D6963F7D28E17F72")
    with pytest.raises(ValueError, match=f"abc`.*must be {MD5}, found 900150983cd24fb0d6963f7d28e17f72"):
        verify_md5(file, MD5)


# --- archives -------------------------------------------------------------------------------------

FILES = {"top/a.txt": b"a" * 3000, "top/deep/b.bin": PAYLOAD[:5000], "c.txt": b"c"}


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
