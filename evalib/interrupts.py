"""Ctrl-C as a request: work ends at the next place where nothing is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """Raised by `StopRequest.check` where work can be left off and taken up again."""


class StopRequest:
    """Whether somebody pressed Ctrl-C inside `stop_on_interrupt`."""

    asked = False

    def check(self) -> None:
        """Raise `Stopped` if somebody did."""
        if self.asked:
            raise Stopped

    def between(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; `Stopped` is raised before one of them if somebody asked for it."""
        for item in items:
            self.check()
            yield item


@contextmanager
def stop_on_interrupt(enabled: bool = True) -> Iterator[StopRequest]:
    """Inside the block the first Ctrl-C is only noted, the second one raises KeyboardInterrupt as ever.

    An optimizer step or the writing of a file is so never cut in the middle. The handler is put back afterwards. Where
    Python's own is not in use (another thread, a program that handles Ctrl-C itself), or with `enabled` False, nothing
    is changed.
    """
    request = StopRequest()
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not (enabled and in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
        yield request
        return

    def note(number: int, frame: Any) -> None:
        if request.asked:
            raise KeyboardInterrupt
        request.asked = True

    signal.signal(signal.SIGINT, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
