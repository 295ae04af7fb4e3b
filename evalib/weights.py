"""Files of weights, evalib's and those of other projects: read safely, found under their names, loaded strictly."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from evalib.files import DamagedFileError, replacing

# Where projects put the weights in their files: kuangliu/pytorch-cifar, timm and Lightning, torchvision's references,
# KonWski/CAM_Stanford_Cars, evalib
WEIGHT_KEYS = ("net", "state_dict", "model", "model_state_dict", "weights")
FORMAT = "evalib-checkpoint-2"  # a dict of this "format" stands only in files that end in a seal
_SEAL = f"{FORMAT} sha256:".encode()  # followed by the SHA-256 of all bytes before it, 64 hexadecimal digits
_DIGITS = 64

# What state dicts are made of. torch's own list is longer: it also lets a few bytes ask for any amount of memory.
_HARMLESS = re.compile(
    r"collections (OrderedDict|Counter)|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
    r"|torch(\.cuda|\.storage)? \w+Storage|torch (Size|device|[a-z]+\d+\w*)|torch\.nn\.parameter Parameter"
)


def write_weights_file(path: Path, values: dict[str, Any], keep: Path | None = None) -> None:
    """Write a file that `read_weights_file` verifies: of `torch.save`, with a SHA-256 as its zip comment.

    It is written whole or not at all, as `evalib.files.replacing` does it.

    Args:
        path: the file.
        values: tensors and plain values, "format" being `FORMAT`.
        keep: as `replacing` takes it.

    Raises:
        OSError: if there is no space, or no right to write.
    """
    content = io.BytesIO()  # torch writing to a full disk raises no OSError
    torch.save(values, content)
    content.seek(-2, os.SEEK_END)  # the last two bytes are the length of the comment, so far 0
    content.write(struct.pack("<H", len(_SEAL) + _DIGITS) + _SEAL)
    with replacing(path, keep) as temporary, open(temporary, "wb") as file:
        file.write(content.getbuffer())
        file.write(hashlib.sha256(content.getbuffer()).hexdigest().encode())


def read_weights_file(path: str | Path) -> Any:
    """What a file of `torch.save` holds, on the CPU: tensors and plain values; nothing in the file is executed.

    A file that ends in a SHA-256 is verified before anything in it is interpreted. One called *.safetensors is read as
    such.

    Raises:
        FileNotFoundError: if it is not there.
        ImportError: if it is of safetensors, and that is not installed.
        DamagedFileError: a ValueError, if it is damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    try:
        with open(path, "rb") as file:
            return read(file)
    except ImportError:
        raise
    except Exception as error:  # whatever the bytes lead to
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the disk, not the bytes
        raise DamagedFileError(f"Cannot read the checkpoint {path}: {_reason(error)}.") from error


def _read_torch(file: IO[bytes]) -> Any:
    sealed = _is_sealed(file)
    _check_content(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the error says it better
        values = torch.load(file, map_location="cpu", weights_only=True)
    if not sealed and isinstance(values, dict) and values.get("format") == FORMAT:
        raise ValueError("its SHA-256 is missing")
    return values


def _read_safetensors(file: IO[bytes]) -> dict[str, Tensor]:
    return safetensors_torch().load(file.read())


def safetensors_torch() -> Any:
    """The module `safetensors.torch`.

    Raises:
        ImportError: saying how to install it.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("Files of safetensors need that package: pip install 'evalib[export]'.") from error
    return safetensors.torch


def _is_sealed(file: IO[bytes]) -> bool:
    """Whether the file ends in a seal; ValueError if the digest in it is not that of the bytes before."""
    left = file.seek(0, os.SEEK_END) - _DIGITS
    file.seek(max(0, left - len(_SEAL)))
    tail = file.read()
    file.seek(0)
    if not tail.startswith(_SEAL):
        return False
    digest = hashlib.sha256()
    while left > 0 and (block := file.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
    if digest.hexdigest().encode() != tail[-_DIGITS:]:
        raise ValueError("its SHA-256 is not that of its content")
    return True


def _check_content(file: IO[bytes]) -> None:
    """UnpicklingError unless the file holds no more bytes than it has, and names nothing but parts of state dicts."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        if file.read(4) != b"PK\x03\x04":
            file.seek(0)
            for _ in range(5):  # the format before torch 1.6: so many pickles, then the numbers
                _check_names(file)
            return
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > size:
                raise ValueError("torch compresses nothing")
            for entry in entries:
                if entry.filename.endswith("data.pkl"):
                    _check_names(io.BytesIO(archive.read(entry)))
    except ValueError as error:
        raise pickle.UnpicklingError(str(error)) from error
    finally:
        file.seek(0)


def _check_names(pickled: IO[bytes]) -> None:
    """ValueError if a pickle names what no state dict needs, or is none; it is only looked at."""
    for opcode, name, _ in pickletools.genops(pickled):
        if opcode.name == "GLOBAL" and not _HARMLESS.fullmatch(str(name)):
            raise ValueError(f"it names {name}")


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):
        return "it is no checkpoint, or holds more than tensors and plain values, which evalib does not load"
    lines = str(error).splitlines()
    return f"it is damaged: {lines[0][:200].rstrip('.') if lines else type(error).__name__}"


def state_dict_in(values: Any, path: str | Path) -> dict[str, Tensor]:
    """The state dict in what `read_weights_file` gave, whatever the project that wrote it.

    It stands directly in the file or under one of `WEIGHT_KEYS`. The prefix "module." of DataParallel is removed, and
    the second level of KonWski/CAM_Stanford_Cars, whose features are all called `features.0.N`, becomes `features.N`.

    Args:
        values: the content of the file.
        path: the file, for the error message.

    Raises:
        ValueError: if there is none.
    """
    for key in WEIGHT_KEYS:
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
            break
    if not (isinstance(values, dict) and values and all(isinstance(value, Tensor) for value in values.values())):
        raise ValueError(
            f"{path} holds no state dict: it needs tensors by name, directly or under one of {', '.join(WEIGHT_KEYS)}."
        )
    weights = {str(name).removeprefix("module."): value for name, value in values.items()}
    features = [name for name in weights if name.startswith("features.")]
    if all(re.match(r"features\.0\.\d", name) for name in features):
        return {re.sub(r"^features\.0\.", "features.", name): value for name, value in weights.items()}
    return weights


def load_strictly(model: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Load a state dict into `model`, every name and shape; a model that it does not fit stays as it was.

    Args:
        model: the network.
        weights: as from `state_dict_in`.
        path: the file that they come from, for the error message.

    Raises:
        ValueError: naming the number of classes if that differs, whether it is another network, and the first weights
            that do not fit.
    """
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        model.load_state_dict(before)
        detail = " ".join(line.strip() for line in str(error).splitlines()[1:4])
        reason = _other_classes(model, weights) or _other_network(before, weights) + detail
        raise ValueError(f"The weights in {path} do not fit this {type(model).__name__}: {reason}") from error


def _other_classes(model: nn.Module, weights: dict[str, Tensor]) -> str:
    """What to say if the last linear layer has another number of rows in `weights`, and of rows only; else nothing."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    for name, layer in layers[-1:]:
        found = weights.get(f"{name}.weight")
        if found is not None and found.shape[1:] == layer.weight.shape[1:] and len(found) != layer.out_features:
            return (
                f"size mismatch for {name}.weight: the file holds a network for {len(found)} classes, this one has "
                f"{layer.out_features}. Build it for {len(found)}, or load another file."
            )
    return ""


def _other_network(mine: dict[str, Tensor], weights: dict[str, Tensor]) -> str:
    """What to say if fewer than half of a network's weights are in a file under their names; else nothing."""
    same = len(mine.keys() & weights.keys())
    if 2 * same >= len(mine):
        return ""
    return f"it is of another network, which has {same} of this one's {len(mine)} weights. "
