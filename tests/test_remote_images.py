"""Images by address, from a server of this process that behaves as badly as any."""

from __future__ import annotations

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evalib.remote_images import RemoteImageError, fetch_image, is_address, shown_address

BODY = bytes(range(256)) * 40
LIMITS = {"max_bytes": 50_000, "connect_seconds": 2.0, "total_seconds": 3.0}


class Handler(BaseHTTPRequestHandler):
    """What each path does stands in `do_GET`."""

    def log_message(self, *arguments):
        """Nothing on the terminal."""

    def answer(self, status=200, body=BODY, **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": len(body), "Content-Type": "image/png"} | headers).items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked.append(self.path)
        try:
            if path.startswith("/to/"):  # the address stands in the query
                self.answer(302, b"", Location=self.path.partition("?")[2])
            elif path == "/endless":
                self.answer(**{"Content-Length": None})
                while not self.server.over:
                    self.wfile.write(BODY)
            elif path == "/endless-redirect":
                self.answer(302, Location="/good", **{"Content-Length": None})
                while not self.server.over:
                    self.wfile.write(BODY)
            elif path == "/drip":
                self.answer(body=b"", **{"Content-Length": 1000})
                while not self.server.over:
                    self.wfile.write(b".")
                    time.sleep(0.2)
            elif path == "/drip-head":
                while not self.server.over:
                    self.wfile.write(b"H")
                    time.sleep(0.2)
            elif path == "/silent":
                while not self.server.over:
                    time.sleep(0.05)
            elif path == "/cut":
                self.answer(**{"Content-Length": 2 * len(BODY)})
            elif path == "/large":
                self.answer(body=b"", **{"Content-Length": 50_001})
            elif path == "/no-length":
                self.answer(**{"Content-Length": None})
            elif path == "/page":
                self.answer(body=b"<html>", **{"Content-Type": "text/html; charset=utf-8"})
            elif path == "/loop":
                self.answer(302, b"", Location="/loop")
            elif path in ("/good", "/caf%C3%A9%20au%20lait.png"):
                self.answer()
            else:
                self.answer(404, b"no")
        except OSError:
            pass  # the other side has gone

    def finish(self):
        """As ever, but the other side may have gone."""
        with contextlib.suppress(OSError):
            super().finish()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Nothing on the terminal."""


@pytest.fixture(scope="module")
def server():
    with Server(("127.0.0.1", 0), Handler) as running:
        running.asked, running.over = [], False
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.over = True
        running.shutdown()
        thread.join(10)


@pytest.fixture
def root(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server.asked.clear()
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.mark.parametrize("path", ["/good", "/good?token=1#part", "/no-length", "/to/?/good", "/endless-redirect"])
def test_the_bytes_behind_an_address(root, path):
    assert fetch_image(root + path, **LIMITS) == BODY


def test_an_address_as_a_person_pastes_it(root, server):
    assert fetch_image(f" {root}/café au lait.png\n", **LIMITS) == BODY
    assert server.asked == ["/caf%C3%A9%20au%20lait.png"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/none", "HTTP 404 Not Found"),
        ("/page", "it is a web page, not an image"),
        ("/large", "it has 50,001 bytes, more than 50,000"),
        ("/endless", "it has more than 50,000 bytes"),
        ("/cut", "the connection was cut at byte 10,240 of 20,480"),
        ("/loop", "it redirects more than 5 times"),
        ("/to/?/none", "HTTP 404 Not Found"),
        ("/to/?file:///etc/hostname", "it redirects to file:///etc/hostname: only http:// and https:// are opened"),
        ("/to/?ftp://127.0.0.1/a.png", "it redirects to ftp://127.0.0.1/a.png: only http:// and https:// are opened"),
        ("/to/?data:image/png;base64,AAAA", "it redirects to data:...: only http"),
        ("/to/?http://me:secret@127.0.0.1/a.png", "addresses with a user name or password are not opened"),
        ("/to/?http://[::1/a.png", "it is no valid address|no answer"),
    ],
)
def test_what_gives_no_image_says_why(root, path, reason):
    with pytest.raises(RemoteImageError, match=reason) as caught:
        fetch_image(root + path, **LIMITS)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/drip", "/drip-head"])
def test_a_server_that_drips_ends_at_the_total_limit(root, path):
    start = time.monotonic()
    with pytest.raises(RemoteImageError, match="it took longer than 1 s"):
        fetch_image(root + path, connect_seconds=0.6, total_seconds=1)
    assert 0.9 < time.monotonic() - start < 2.5


def test_a_silent_server_ends_at_the_shorter_limit(root):
    start = time.monotonic()
    with pytest.raises(RemoteImageError, match="no answer for 0.3 s"):
        fetch_image(root + "/silent", connect_seconds=0.3, total_seconds=20)
    assert time.monotonic() - start < 5


def test_nobody_there():
    with pytest.raises(RemoteImageError, match=r"http://127\.0\.0\.1:9/a\.png: no answer \(.*refused"):
        fetch_image("http://127.0.0.1:9/a.png", **LIMITS)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/hostname", "ftp://127.0.0.1/a", "data:image/png;base64,AAAA", "http:///a.png", "http://h:x/a",
     "https://me:secret@127.0.0.1/a.png?secret=secret", "http://me@127.0.0.1/", "gopher://127.0.0.1/"],
)  # fmt: skip
def test_addresses_that_are_not_opened(url, root, server):
    with pytest.raises(ValueError, match="^Cannot open ") as caught:
        fetch_image(url)
    assert "secret" not in str(caught.value)
    assert server.asked == []


def test_secrets_behind_the_question_mark_are_not_told(root):
    with pytest.raises(RemoteImageError) as caught:
        fetch_image(f"{root}/none?signature=secret", **LIMITS)
    assert f"{root}/none?...: HTTP 404" in str(caught.value)
    assert shown_address("https://me:secret@host/a.png#secret") == "https://host/a.png?..."
    assert shown_address("data:image/png;base64,secret") == "data:..."


def test_what_is_an_address():
    assert all(map(is_address, ["http://a/b", "HTTPS://A", "file:///a", "data:image/png,a"]))
    assert not any(map(is_address, ["a.png", "/a/b.png", r"C:\photos\a.png", "http.png", "data/a.png", "a:b.png"]))
