"""Files made to run code when they are read: each, if anything of it runs, makes a file, the sentinel."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evalib.checkpoint import load_checkpoint, load_model, load_weights
from evalib.rundir import RunDirectory
from evalib.weights import read_weights_file, write_weights_file
from tests.torture.child import DATA, RECIPES
from tests.torture.trials import Trials


class Malicious:
    """Unpickled, it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def hostile_files(sentinel: Path) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Writers of hostile files: each, if anything of it runs, makes the file `sentinel`."""
    code = f"open({str(sentinel)!r}, 'w').close()"
    calls = {
        "os.system": Malicious(os.system, f"touch {sentinel}"),
        "exec": Malicious(exec, code),
        "eval": Malicious(eval, code),
        "shutil.copyfile": Malicious(shutil.copyfile, __file__, str(sentinel)),
        "torch.save": Malicious(torch.save, {}, str(sentinel)),
    }
    for name, call in calls.items():
        yield f"pickle of {name}", lambda path, call=call: path.write_bytes(pickle.dumps(call))
        yield f"weights of {name}", lambda path, call=call: torch.save({"weights": call}, path)
        old: dict[str, Any] = {"_use_new_zipfile_serialization": False}
        yield f"old format of {name}", lambda path, call=call, old=old: torch.save({"net": call}, path, **old)
        sealed = {"format": "evalib-checkpoint-2", "weights": {"a": call}}
        yield f"right digest, {name}", lambda path, sealed=sealed: write_weights_file(path, sealed)
        yield f"tar of {name}", lambda path, call=call: _tar(path, pickle.dumps(call))
        yield f"zip of {name}", lambda path, call=call: _zip(path, pickle.dumps(call))


def _tar(path: Path, content: bytes) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _zip(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("archive/data.pkl", "archive/version", "archive/constants.pkl", "archive/code/evil.py"):
            archive.writestr(name, content)


def _as_run(path: Path) -> object:
    """Read it as the checkpoint of a run."""
    run_dir = path.with_suffix("")
    run_dir.mkdir()
    shutil.copy(path, run_dir / "last.pt")
    with RunDirectory(run_dir) as kept:
        return kept.begin(RECIPES["fast"], DATA)


def _as_weights(path: Path) -> object:
    """Read it as the weights of a network."""
    return load_weights(nn.Linear(2, 2), path)


WAYS: tuple[Callable[[Path], object], ...] = (load_checkpoint, load_model, read_weights_file, _as_weights, _as_run)


def hostile(folder: Path, trials: int, seed: int) -> Trials:
    """Each file by each way in: nothing of it runs, and one error says so. Their number is fixed."""
    result, begun, sentinel = Trials("hostile"), time.monotonic(), folder / "it-ran"
    for number, (name, write) in enumerate(hostile_files(sentinel)):
        path = folder / f"{number}.pt"
        write(path)
        for read in WAYS:
            result.trials += 1
            try:
                read(path)
                result.lost.append(f"{name}: {read.__name__} took it")
            except ValueError as error:
                result.finished += "\n" not in str(error)
            except Exception as error:
                result.lost.append(f"{name}: {read.__name__} raised {error!r}")
            if sentinel.exists():
                result.lost.append(f"{name}: {read.__name__} ran its code")
                sentinel.unlink()
    result.seconds = time.monotonic() - begun
    return result
