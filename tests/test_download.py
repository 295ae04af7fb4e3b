"""Mirrors that fail in every way we could think of, on 127.0.0.1."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import http.server
import io
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evalib import download as module
from evalib.download import Digest, DownloadError, download, verify

PAYLOAD = random.Random(0).randbytes(200_000)
MD5 = hashlib.md5(PAYLOAD).hexdigest()
QUICK: dict[str, Any] = {"digest": f"md5:{MD5}", "stall_seconds": 0.3, "timeout": 20.0, "progress": False}
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

    def send_drip(self) -> None:
        """Headers that never end, too fast for a time-out."""
        self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
        while not self.server.stop.wait(0.05):
            self.wfile.write(b"x")

    def send_endless(self) -> None:
        self.reply(200, None)
        while not self.server.stop.is_set():
            self.write(b"x" * 50_000)

    def send_huge(self) -> None:
        self.reply(200, 10**15)
        self.write(PAYLOAD)

    def send_long(self) -> None:
        self.reply(200, len(PAYLOAD) + 1000)
        self.write(PAYLOAD)

    def send_short(self) -> None:
        self.reply(200, 1000)
        self.write(PAYLOAD)

    def send_negative(self) -> None:
        self.reply(200, -5)
        self.write(PAYLOAD)

    def send_garbage(self) -> None:
        self.write(b"\0\xff no HTTP at all\r\n\r\n")

    def send_digits(self) -> None:
        self.reply(206, 10, Content_Range=f"bytes {'9' * 5000}-{'9' * 5000}/*")

    def send_older(self) -> None:
        """Half of another version of the file."""
        self.reply(200, len(PAYLOAD))
        self.write(b"older" * 20_000)

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
    with pytest.raises(
        DownloadError, match=f"damaged or another one: its MD5 is {hashlib.md5(b'damaged').hexdigest()}"
    ):
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
        ("drip", 0),
        ("endless", 0),
        ("huge", 0),
        ("short", 0),
        ("garbage", 0),
        ("digits", 0),
    ],
)
def test_a_failing_mirror_is_followed_by_the_next(name: str, left: int, server: Mirrors, path: Path) -> None:
    """The next mirror is asked for what is missing only: all of it if the first one gave nothing of use."""
    if name == "shifted":  # wrong only for who asked for a later part
        part_of(path, PAYLOAD[:5000])
        left = 5000
    began = time.monotonic()
    options = IMPATIENT if name in ("mute", "silent", "drip") else QUICK
    options = {**options, "max_bytes": len(PAYLOAD)}
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


@pytest.mark.parametrize("name", ["long", "negative"])
def test_a_wrong_length_does_not_matter_if_the_file_is_right(name: str, server: Mirrors, path: Path) -> None:
    download([server.url(name)], path, **QUICK)
    assert_whole(path)
    assert server.asked == [name]


def test_a_file_that_changed_between_two_ranges_is_fetched_anew(server: Mirrors, path: Path) -> None:
    """Half of an older version, then the rest of the newer one: wrong together, and asked for from the beginning."""
    download([server.url("older"), server.url("good")], path, **QUICK)
    assert_whole(path)
    assert server.requests == [("older", None), ("good", "bytes=100000-"), ("good", None)]


@pytest.mark.parametrize("name", ["endless", "huge"])
def test_an_endless_file_leaves_nothing_on_the_disk(name: str, server: Mirrors, path: Path) -> None:
    with pytest.raises(DownloadError, match=f"{len(PAYLOAD):,}") as caught:
        download([server.url(name)], path, **QUICK, max_bytes=len(PAYLOAD))
    assert "once more" not in str(caught.value)
    assert not list(path.parent.iterdir())


def test_the_first_digits_of_a_sha256_are_enough(server: Mirrors, path: Path, no_sockets: Callable[[], None]) -> None:
    """torchvision's files carry them in their names."""
    options = {**QUICK, "digest": f"sha256:{hashlib.sha256(PAYLOAD).hexdigest()[:8]}"}
    download([server.url("wrong"), server.url("good")], path, **options)
    assert_whole(path)
    other = path.with_name("other")
    with pytest.raises(DownloadError, match=r"wrong content: its SHA-256 must begin with 00000000, found [0-9a-f]{64}"):
        download([server.url("good")], other, **{**QUICK, "digest": "sha256:00000000"})
    assert not other.exists()
    no_sockets()
    assert download([server.url("good")], path, **options) == path


# --- two processes --------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from evalib.download import download
url, path, digest = sys.argv[1:]
print("ready", flush=True)
download([url], Path(path), digest=digest, stall_seconds=5, progress=False)
"""


def start(url: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, url, str(path), f"md5:{MD5}"]
    root = Path(__file__).resolve().parent.parent
    child = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def end(child: subprocess.Popen[str]) -> int:
    child.communicate(timeout=30)
    return child.returncode


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_two_processes_fetch_a_file_once(server: Mirrors, path: Path) -> None:
    children = [start(server.url("slow"), path) for _ in range(3)]
    assert [end(child) for child in children] == [0, 0, 0]
    assert server.asked == ["slow"]
    assert_whole(path)


def test_what_another_process_fetched_meanwhile_is_taken(
    path: Path, no_sockets: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    part_of(path, PAYLOAD[:1000])

    @contextlib.contextmanager
    def waited(part: Path, progress: bool) -> Iterator[None]:
        path.write_bytes(PAYLOAD)
        yield

    monkeypatch.setattr(module, "only_one", waited)
    no_sockets()
    download(["http://127.0.0.1:1/data.tar"], path, **QUICK)
    assert_whole(path)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_killed_process_leaves_its_bytes_to_the_one_that_waits(server: Mirrors, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    first = start(server.url("trickle"), path)
    until(lambda: part.exists() and part.stat().st_size >= 1000)
    second = start(server.url("good"), path)
    time.sleep(0.3)
    assert server.asked == ["trickle"]  # the second one waits
    first.kill()
    assert end(first) == -9
    assert end(second) == 0
    assert_whole(path)
    assert server.asked == ["trickle", "good"]
    assert int((server.requests[1][1] or "bytes=0-")[6:-1]) >= 1000


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
        server.url("wrong"): f"wrong content: its MD5 must be {MD5}, found",
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
        ({"digest": MD5}, ValueError, '`digest` must be "md5:" and 32 .* at least the first 8: got \''),
        ({"digest": f"md5:{MD5[:8]}"}, ValueError, "`digest` must"),
        ({"digest": "sha256:1234567"}, ValueError, "`digest` must"),
        ({"digest": "crc32:12345678"}, ValueError, "`digest` must"),
        ({"timeout": 0}, ValueError, "`timeout` and `max_bytes` must be above 0"),
        ({"max_bytes": 0}, ValueError, "`max_bytes` must be above 0"),
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


def test_digests(tmp_path: Path) -> None:
    """RFC 1321, appendix A.5, and FIPS 180-4, "abc"."""
    file = tmp_path / "abc"
    file.write_bytes(b"abc")
    md5, sha256 = "900150983cd24fb0d6963f7d28e17f72", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (Digest.parse(f"md5:{md5}").of(file), Digest.parse(f"sha256:{sha256}").of(file)) == (md5, sha256)
    for digest in (f"MD5:{md5.upper()}", f"sha256:{sha256[:8]}", f"sha256:{sha256}"):
        verify(file, digest)
    with pytest.raises(ValueError, match=f"abc`.*its MD5 must be {MD5}, found {md5}"):
        verify(file, f"md5:{MD5}")
    with pytest.raises(ValueError, match=f"its SHA-256 must begin with 7816bf8f, found {sha256}"):
        verify(file, "sha256:7816bf8f")
    with pytest.raises(ValueError, match=f"its SHA-256 must be {'0' * 64}, found"):
        verify(file, "sha256:" + "0" * 64)
