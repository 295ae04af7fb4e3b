"""One image by its http(s) address: its bytes, within limits of size and time, or one line that says why not."""

from __future__ import annotations

import re
import time
from http.client import HTTPException, HTTPResponse
from urllib.error import HTTPError
from urllib.parse import SplitResult, quote, urljoin, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

import evalib
from evalib.copying import within

MAX_BYTES = 20_000_000
CONNECT_SECONDS = 10.0  # also the longest silence
TOTAL_SECONDS = 30.0
MAX_REDIRECTS = 5


class RemoteImageError(OSError):
    """An address that gave no image; `reason` says why, and nothing says what stands behind the address's `?`."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"Cannot get an image from {shown_address(url)}: {reason}.")
        self.reason = reason


def is_address(source: str) -> bool:
    """Whether a text is an address and no path: "http://...", "file://...", "data:image/...", and so on."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|data:", source) is not None


def shown_address(url: str) -> str:
    """An address for messages: without user, password, and what follows `?` or `#`, which may be secret."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:  # brackets of an IPv6 address that do not fit
        return f"{url.partition(':')[0]}:..."
    if parts.scheme == "data":
        return "data:..."
    more = "?..." if parts.query or parts.fragment else ""
    return f"{parts.scheme}://{host}{parts.path[:200]}{more}"


def fetch_image(
    url: str,
    *,
    max_bytes: int = MAX_BYTES,
    connect_seconds: float = CONNECT_SECONDS,
    total_seconds: float = TOTAL_SECONDS,
) -> bytes:
    """The bytes behind an http(s) address; that they are an image shows when they are decoded.

    Args:
        url: without user name and password, as are the addresses that it redirects to.
        max_bytes: more are not taken, whatever the server promises.
        connect_seconds: the longest time without an answer or another byte.
        total_seconds: the longest time for everything, redirects included.

    Raises:
        ValueError: if the address is not one of http(s), or names a user.
        RemoteImageError: an OSError, if there is no answer, an error, a web page, too much, too little or too late.
    """
    problem = _problem(url)
    if problem:
        raise ValueError(f"Cannot open {shown_address(url)}: {problem}.")
    deadline = time.monotonic() + total_seconds

    def work() -> bytes:
        with _answer(url, connect_seconds) as response:
            return _body(response, max_bytes, deadline)

    late = f"it took longer than {total_seconds:g} s"
    try:
        # The time-out of a socket starts anew with every byte: headers that drip in would last for ever.
        return within(total_seconds + 0.5, work)
    except _Refused as error:
        reason = str(error)
    except TimeoutError:
        reason = late if time.monotonic() >= deadline else f"no answer for {connect_seconds:g} s"
    except (OSError, HTTPException, ValueError) as error:
        cause = getattr(error, "reason", error)
        timed_out = isinstance(cause, TimeoutError)
        reason = f"no answer for {connect_seconds:g} s" if timed_out else f"no answer ({_plain(cause)})"
    raise RemoteImageError(url, reason)


class _Refused(Exception):
    """Why what a server sends is not taken."""


def _answer(url: str, connect_seconds: float) -> HTTPResponse:
    """The answer of the last of the addresses that lead to each other; every one is checked.

    Python's own redirects would go to ftp, too, and read all that is sent along with one.
    """
    opener = OpenerDirector()  # knows no scheme but http and https; proxies as the environment names them
    for handler in (ProxyHandler(), HTTPHandler(), HTTPSHandler(), HTTPDefaultErrorHandler(), HTTPErrorProcessor()):
        opener.add_handler(handler)
    headers = {"User-Agent": f"evalib/{evalib.__version__}", "Accept": "image/*"}
    for _ in range(MAX_REDIRECTS + 1):
        try:
            answer: HTTPResponse = opener.open(Request(_quoted(url), headers=headers), timeout=connect_seconds)
            return answer
        except HTTPError as error:
            error.close()
            target = error.headers.get("Location")
            if error.code not in (301, 302, 303, 307, 308) or not target:
                raise _Refused(f"HTTP {error.code} {_plain(error.reason)}".strip()) from error
        url = urljoin(url, target)
        if problem := _problem(url):
            raise _Refused(f"it redirects to {shown_address(url)}: {problem}")
    raise _Refused(f"it redirects more than {MAX_REDIRECTS} times")


def _problem(url: str) -> str:
    """Why an address is not opened; empty if it is."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "it is no valid address"
    if parts.scheme not in ("http", "https"):
        return "only http:// and https:// are opened; of a file give its path"
    if "@" in parts.netloc:
        return "addresses with a user name or password are not opened"
    return "" if host else "it names no host"


def _quoted(url: str) -> str:
    """An address as a person may paste it, with spaces and letters of any language, as servers want it."""
    parts = urlsplit(url.strip())
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode()
    host = f"[{host}]" if ":" in host else host
    keep = "%/:=&?~+!$,;'@()*[]"
    place = f"{host}:{parts.port}" if parts.port else host
    return SplitResult(parts.scheme, place, quote(parts.path, keep), quote(parts.query, keep), "").geturl()


def _body(response: HTTPResponse, max_bytes: int, deadline: float) -> bytes:
    """Everything that a server sends, counted and timed while it comes."""
    if response.headers.get_content_type() == "text/html":
        raise _Refused(
            "it is a web page, not an image. Open the image alone in a browser and take the address from there"
        )
    expected = response.length  # None where the server does not say
    if expected is not None and expected > max_bytes:
        raise _Refused(f"it has {expected:,} bytes, more than {max_bytes:,}")
    content = bytearray()
    while chunk := response.read1(1 << 16):
        content += chunk
        if len(content) > max_bytes:
            raise _Refused(f"it has more than {max_bytes:,} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    if expected is not None and len(content) < expected:
        raise _Refused(f"the connection was cut at byte {len(content):,} of {expected:,}")
    return bytes(content)


def _plain(cause: object) -> str:
    """A cause in words; an address in it could hold what is secret."""
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return " ".join(re.sub(r"\w+://\S+", "...", str(text)).split())[:200]
