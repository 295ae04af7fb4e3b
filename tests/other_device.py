"""A device that is not the CPU, without a GPU: what mixes the two is an error, as on CUDA; the CPU computes.

Tensors that say `device="meta"` hold one on the CPU inside. An operation on them computes inside and gives such a
tensor again. One that also gets a tensor of the CPU with a dimension is refused, but for those that CUDA allows:
copies, and indices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

OTHER = torch.device("meta")
_aten = torch.ops.aten
_MAY_MIX = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class Elsewhere(Tensor):
    """A tensor on the other device."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            inside.shape,
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=OTHER,
        )
        made.inside = inside
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.inside!r})"

    def tolist(self) -> Any:
        return self.inside.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of another device to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(function, args, kwargs or {})


class _OnOtherDevice(TorchDispatchMode):
    """Sees what no tensor of the other device takes part in: making one."""

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(function, args, kwargs or {})


def _computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in given if isinstance(tensor, Elsewhere)]
    name = function.overloadpacket.__name__
    if there and name not in _MAY_MIX and (strange := [t for t in given if t.dim() and not isinstance(t, Elsewhere)]):
        raise RuntimeError(
            f"aten::{name}: expected all tensors on one device: {len(there)} on {OTHER}, "
            f"{[tuple(tensor.shape) for tensor in strange]} on the CPU."
        )
    to = kwargs.get("device")
    target = torch.device(to) if to is not None else OTHER if there else torch.device("cpu")
    if name in ("index", "_unsafe_index") and not isinstance(args[0], Elsewhere):
        if there:
            raise RuntimeError(f"aten::{name}: indices should be on the CPU, as the indexed tensor.")
        target = torch.device("cpu")
    if to is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    kwargs.pop("pin_memory", None)
    args, kwargs = tree_map(_inside, (args, kwargs))
    found = function(*args, **kwargs)
    by_identity = {id(tensor.inside): tensor for tensor in there}

    def outside(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in by_identity:  # changed in place
            return by_identity[id(value)]
        return Elsewhere(value) if target.type == OTHER.type else value

    if name == "copy_" and not isinstance(given[0], Elsewhere):
        return found
    return tree_map(outside, found)


def _inside(value: Any) -> Any:
    return value.inside if isinstance(value, Elsewhere) else value


@contextmanager
def other_device() -> Iterator[torch.device]:
    """While it lasts, tensors can be made on the device, which is its value, and moved to and from it."""
    with pytest.MonkeyPatch.context() as patch:
        autocast, get_dtype, is_enabled = torch.autocast, torch.get_autocast_dtype, torch.is_autocast_enabled

        def without_other(device_type: str, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
            return nullcontext() if device_type == OTHER.type else autocast(device_type, *args, **kwargs)

        def moved(maker: Callable[..., Tensor]) -> Callable[..., Tensor]:
            """`torch.tensor` and the like fill a tensor before any mode sees it: made on the CPU, then moved."""

            def make(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
                made = maker(*args, **kwargs)
                return made if device is None else made.to(device)

            return make

        patch.setattr(torch, "autocast", without_other)
        patch.setattr(
            torch, "get_autocast_dtype", lambda kind: torch.float32 if kind == OTHER.type else get_dtype(kind)
        )
        patch.setattr(torch, "is_autocast_enabled", lambda kind: kind != OTHER.type and is_enabled(kind))
        # Tensors of our own cannot be made in inference mode.
        patch.setattr(torch, "inference_mode", lambda mode=True: torch.no_grad() if mode else nullcontext())
        for name in ("tensor", "as_tensor"):
            patch.setattr(torch, name, moved(getattr(torch, name)))
        with _OnOtherDevice():
            yield OTHER
