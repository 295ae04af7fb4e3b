"""Writing beside the training: a private copy of a run's state, and one thread that writes it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, UntypedStorage

_PLAIN = (bool, int, float, str, type(None))


def snapshot(values: Any) -> Any:
    """A copy on the CPU of nested dicts, lists and tuples of tensors and plain values.

    Nothing that happens to the originals reaches it. Strides stay, and what shared memory shares it in the copy too.

    Raises:
        TypeError: for anything else, which a checkpoint could not be read with.
    """
    return _copied(values, {})


def _copied(value: Any, copies: dict[tuple[str, int], UntypedStorage]) -> Any:
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        place = str(storage.device), storage.data_ptr()
        if place not in copies:
            copies[place] = storage.clone() if storage.device.type == "cpu" else storage.cpu()
        empty = torch.empty(0, dtype=value.dtype)
        return empty.set_(copies[place], value.storage_offset(), value.size(), value.stride())
    if isinstance(value, dict):
        return {name: _copied(item, copies) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item, copies) for item in value)
    if type(value) not in _PLAIN:
        raise TypeError(f"A checkpoint holds tensors and plain values: got {value!r}, a {type(value).__name__}.")
    return value


class Saver:
    """Runs one write at a time in a thread of its own, which neither Ctrl-C nor an error in training cuts short.

    There is no thread between two writes, and nothing that a forked process could wait for.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Begin a write; `wait` must have been called since the one before."""

        def run() -> None:
            try:
                write()
            except Exception as error:  # told to the caller of `wait`
                self._error = error

        # Not a daemon: the interpreter ends after the write.
        self._thread = threading.Thread(target=run, name="evalib-saver")
        self._thread.start()

    def wait(self) -> Exception | None:
        """Wait for the write under way, if there is one; what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        return error
