"""Muon: SGD with momentum whose update of a convolution filter bank is made orthogonal; plain SGD for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.sgd import sgd

# The quintic of Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon): steep at 0, so that five steps bring
# every singular value near 1.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5


def orthogonalized(matrices: Tensor) -> Tensor:
    """Matrices with the same singular vectors and singular values near 1 (0.7 to 1.2), by Newton-Schulz iteration.

    Args:
        matrices: (B, rows, columns), computed in bfloat16 on CUDA and as they are elsewhere.

    Returns:
        (B, rows, columns) in the dtype of `matrices`.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x  # the smaller Gram matrix
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    # Half precision is too coarse for the Gram matrices' eigenvalues, which grow with every step.
    # And a CPU's threads share the products of one matrix better than a batch of matrices.
    x = _iterated(x) if x.dtype == torch.bfloat16 else torch.stack([_iterated_by_gram(matrix) for matrix in x])
    return (x.mT if tall else x).to(matrices.dtype)


def _iterated(x: Tensor) -> Tensor:
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x


def _iterated_by_gram(x: Tensor) -> Tensor:
    """The same for one matrix: polynomials in x @ x.T all commute, so that x is needed but at the start and the end.

    "Gram Newton-Schulz", Zhang, Amsel, Chen and Dao 2026 (https://tridao.me/blog/2026/gram-newton-schulz/). A third of
    the arithmetic for 512 filters of 512 x 3 x 3.
    """
    gram = x @ x.T
    product = polynomial = _polynomial(gram)
    for _ in range(_STEPS - 1):
        gram = polynomial @ gram @ polynomial
        polynomial = _polynomial(gram)
        product = polynomial @ product
    return product @ x


def _polynomial(gram: Tensor) -> Tensor:
    result = _B * gram + _C * gram @ gram
    result.diagonal().add_(_A)
    return result


class MuonSGD(Optimizer):
    """Muon for groups marked `muon`, SGD with Nesterov momentum for the others: one optimizer, one schedule.

    A filter bank (out, in, h, w) is taken as a matrix (out, in * h * w). Its update is the orthogonalized momentum,
    times the square root of rows / columns where there are more rows; its weight decay is decoupled: a step takes away
    lr * weight_decay of the weights.
    `torch.optim.Muon` does the same for matrices and refuses filter banks.

    Args:
        groups: parameter groups; `muon=True` marks those of filter banks or matrices.
        lr: learning rate of groups that name none.
        momentum: of both.
        nesterov: Nesterov's form of it, for both.
        weight_decay: of groups that name none; added to the gradient in SGD's groups.
    """

    def __init__(
        self, groups: Iterable[Any], lr: float, momentum: float = 0.9, nesterov: bool = True, weight_decay: float = 0.0
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "muon": False}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step over all parameters that have a gradient; `closure` is not supported."""
        if closure is not None:
            raise ValueError("`closure` is not supported: call `backward` before `step`.")
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                (self._muon if group["muon"] else self._sgd)(group, parameters)

    def _sgd(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        buffers = [self.state[parameter].get("momentum_buffer") for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters]
        settings = {name: group[name] for name in ("lr", "momentum", "nesterov", "weight_decay")}
        sgd(parameters, gradients, buffers, dampening=0.0, maximize=False, **settings)  # type: ignore[arg-type]
        for parameter, buffer in zip(parameters, buffers, strict=True):
            self.state[parameter]["momentum_buffer"] = buffer

    def _muon(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        same_shape = defaultdict(list)  # a stage's filter banks in one batch of matrices: few large products
        for parameter in parameters:
            same_shape[parameter.shape].append(parameter)
        for shape, alike in same_shape.items():
            updates = torch.stack([self._momentum(group, parameter).flatten(1) for parameter in alike])
            rows, columns = updates.shape[1:]
            rate = group["lr"] * max(1.0, rows / columns) ** 0.5
            for parameter, update in zip(alike, orthogonalized(updates), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.reshape(shape), alpha=rate)

    def _momentum(self, group: dict[str, Any], parameter: Tensor) -> Tensor:
        """The gradient averaged over steps, as SGD would add it to the parameter."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        buffer = state.setdefault("momentum_buffer", torch.zeros_like(gradient))
        buffer.lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
