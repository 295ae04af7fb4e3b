"""The moments of a run at which a kill or a Ctrl-C would hurt: each is told before evalib goes on."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evalib.files
import evalib.run_lock
import evalib.training_run
import evalib.weights
from evalib.execution import SingleDevice

Tell = Callable[[str], None]


def announced(tell: Tell) -> None:
    """From now on, in this process, evalib tells before and after each operation on a file, and within a write.

    Also at every step and evaluation. For processes that end after it: nothing is put back.
    """
    system: Any = type("os", (), {"__getattr__": lambda self, name: getattr(os, name)})()
    system.fsync = _around(tell, "fsync", os.fsync, _of_descriptor)
    system.replace = _around(tell, "renaming to", os.replace, lambda source, target: named(target))
    evalib.files.os = system
    evalib.weights.open = _slow_open(tell)  # type: ignore[attr-defined]
    evalib.run_lock.open = _slow_open(tell)  # type: ignore[attr-defined]
    Path.write_text = _slow_write_text(tell)  # type: ignore[method-assign]
    Path.unlink = _around(tell, "removing", Path.unlink, lambda path, *more, **settings: named(path))  # type: ignore
    evaluate = evalib.training_run.evaluate
    evalib.training_run.evaluate = _around(tell, "evaluating", evaluate, lambda *a, **s: "")
    update = SingleDevice.update  # after it the weights are new, the schedule is not
    SingleDevice.update = _around(tell, "a step", update, lambda *a: "")  # type: ignore[method-assign]


def named(path: Any) -> str:
    """The name of a file; temporary ones, that hold the writer's id, as "last.pt (part)"."""
    return re.sub(r"^\.(.+)\.\d+\.part(\.\w+)?$", r"\1\2 (part)", Path(path).name)


def _of_descriptor(descriptor: int) -> str:
    path = Path(os.readlink(f"/proc/self/fd/{descriptor}")) if os.path.exists("/proc/self/fd") else Path("a file")
    return "the folder" if path.is_dir() else named(path)


def _around(tell: Tell, what: str, real: Callable[..., Any], of: Callable[..., str]) -> Callable[..., Any]:
    def call(*arguments: Any, **settings: Any) -> Any:
        name = f"{what} {of(*arguments, **settings)}".strip()
        tell(f"before {name}")
        result = real(*arguments, **settings)
        tell(f"after {name}")
        return result

    return call


def _slow_open(tell: Tell) -> Callable[..., Any]:
    def slow(file: Any, mode: str = "r", **settings: Any) -> Any:
        opened = open(file, mode, **settings)  # noqa: SIM115, the caller closes it
        if not set(mode) & set("wa+"):
            return opened
        return _InTwo(opened, named(file) if isinstance(file, str | Path) else _of_descriptor(file), tell)

    return slow


class _InTwo:
    """A file that is told of when it is half written."""

    def __init__(self, file: Any, name: str, tell: Tell) -> None:
        self._file, self._name, self._tell = file, name, tell

    def write(self, content: Any) -> None:
        half = len(content) // 2
        self._tell(f"before writing {self._name}")
        for part in (content[:half], content[half:]):
            self._file.write(part)
            self._file.flush()
            self._tell(f"within writing {self._name}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _InTwo:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def _slow_write_text(tell: Tell) -> Callable[..., Any]:
    def write_text(path: Path, text: str, *more: Any, **settings: Any) -> int:
        with _InTwo(open(path, "w"), named(path), tell) as file:
            file.write(text)
        return len(text)

    return write_text
