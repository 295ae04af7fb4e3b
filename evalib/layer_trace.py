"""The modules of a network in one forward pass: what each returned, inside which other, and which may be explained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from evalib.cam_maps import check_inputs, explaining, logits_of
from evalib.layouts import Layout, fits, gradient_reaches_places, layout_of, same_memory

# In a transformer a linear layer gives queries, keys or values, a softmax places by places; the size of adaptive
# pooling is not that of the image.
_NO_MAPS = (nn.Linear, nn.Softmax, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass(eq=False)
class Call:
    """One run of a module, and those of others inside it.

    Attributes:
        name: the module's path.
        module: what ran.
        inputs: the first tensor that it was given.
        version: how often that had been written to before.
        calls: of the modules inside, in their order.
        output: what it returned.
        output_version: how often that had been written to by then.
        layout: of an output that may be explained, else None.
    """

    name: str
    module: nn.Module
    inputs: Tensor | None
    version: int
    calls: list[Call] = field(default_factory=list)
    output: object = None
    output_version: int = 0
    layout: Layout | None = None

    def within(self) -> Iterator[Call]:
        """All calls inside this one, in the order of their ends."""
        for call in self.calls:
            yield from call.within()
            yield call

    @property
    def passes_through(self) -> bool:
        """Whether the output is the input, seen as it was or in another shape: identity, dropout, permutation."""
        return (
            isinstance(self.output, Tensor)
            and self.inputs is not None
            and same_memory(self.output, self.inputs)
            and self.output_version == self.version
        )

    def gives_what(self, inner: Call) -> bool:
        """Whether this call returns the very output of an inner one."""
        mine, other = self.output, inner.output
        both = isinstance(mine, Tensor) and isinstance(other, Tensor) and same_memory(mine, other)
        return both and self.output_version == inner.output_version


def traced(model: nn.Module, images: Tensor) -> Call:
    """The calls of one forward pass as a tree; those whose output may be explained have a layout.

    A call may be explained if its module runs once, returns a map of at least 2 x 2 places whose size follows the
    image's (see `evalib.layouts`), and its places have influence on the logits.

    The first image is run through the network once, twice in a batch; network, images and random states stay as
    they are.

    Args:
        model: the network itself, see `evalib.cam_maps.unwrap`.
        images: (N, 3, H, W) floating point, normalized as in training.

    Returns:
        The root, which stands for the network itself; its output are the logits.

    Raises:
        ValueError: if images or network allow no map.
    """
    check_inputs(model, images)
    with explaining(model):
        return _traced(model, images)


def _traced(model: nn.Module, images: Tensor) -> Call:
    weight = next(model.parameters())
    # two, so that what has no batch dimension, or windows in its place, is told from what has
    batch = images[[0, 0]].detach().to(weight.device, weight.dtype)
    with _recorded(model) as root, torch.enable_grad():
        logits = logits_of(model(batch.requires_grad_().clone()), 2)
    root.output, root.output_version = logits, logits._version
    runs: dict[nn.Module, int] = {}
    for call in root.within():
        runs[call.module] = runs.get(call.module, 0) + 1
    candidates = []
    for call in root.within():
        if runs[call.module] == 1 and _may_be_explained(call, batch):
            call.layout = layout_of(call.output, batch.shape[2:], call.module)
            candidates.append(call)
    # not the plain sum of the logits, which is constant where a network returns probabilities
    score = (logits * torch.linspace(1, 2, logits.shape[1], device=logits.device)).sum()
    outputs = [call.output for call in candidates]
    gradients: Sequence[Tensor | None] = [None] * len(outputs)
    if score.requires_grad and outputs:
        gradients = torch.autograd.grad(score, outputs, allow_unused=True)  # type: ignore[arg-type]
    for call, gradient in zip(candidates, gradients, strict=True):
        if gradient is None or call.layout is None or not gradient_reaches_places(gradient, call.layout):
            call.layout = None
    return root


def _may_be_explained(call: Call, batch: Tensor) -> bool:
    output = call.output
    if not isinstance(output, Tensor) or output.dim() not in (3, 4) or len(output) != len(batch):
        return False
    if not output.requires_grad:
        return False
    if isinstance(call.module, _NO_MAPS) or call.passes_through or output.shape == batch.shape:
        return False
    layout = layout_of(output, batch.shape[2:], call.module)
    size = (layout.height, layout.width) if layout else (0, 0)
    return min(size) >= 2 and fits(size, batch.shape[2:])


@contextmanager
def _recorded(model: nn.Module) -> Iterator[Call]:
    """Record the calls of the modules of a network as a tree, whose root is no call."""
    root = Call("", model, None, 0)
    stack = [root]
    names = {module: name for name, module in model.named_modules()}

    def enter(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        inputs = tensors[0] if tensors else None
        call = Call(names[module], module, inputs, inputs._version if inputs is not None else 0)
        stack[-1].calls.append(call)
        stack.append(call)

    def leave(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> object:
        call = stack.pop()
        call.output = output
        if not isinstance(output, Tensor):
            return None
        call.output_version = output._version
        if output.requires_grad or not output.is_floating_point():
            return None
        with torch.enable_grad():  # a part that is frozen or under `no_grad`: the graph begins anew, as in `cam_pass`
            call.output = output.detach().requires_grad_()
            return call.output.clone()

    with ExitStack() as hooks:
        for module in names:
            if module is not model:
                hooks.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(leave, with_kwargs=True).remove)
        yield root
