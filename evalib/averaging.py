"""Lookahead: a moving average of the weights in training, to which they are set back now and then."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

EVERY = 5  # steps between two averagings


class Lookahead:
    """A moving average of a network's weights, to which they are set back (Zhang et al. 2019, arXiv:1907.08610).

    At every fifth of the `total` steps the average moves towards the weights by a part that shrinks from 1 to
    1 - 0.95^5 = 0.23 with the cube of the run's progress, then the weights are set to it: early in a run that does
    nothing, late it averages over some twenty steps (Jordan 2024, arXiv:2404.00498, section 3). The running statistics
    of batch normalization are averaged too.

    Args:
        model: the network in training.
        total: optimizer steps of the whole run.
    """

    def __init__(self, model: nn.Module, total: int) -> None:
        self.total, self.steps = total, 0
        # the tensors that `model` trains, not copies of them
        self.fast = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
        self.slow = [tensor.clone() for tensor in self.fast]

    @torch.no_grad()
    def step(self) -> None:
        """To be called after every optimizer step."""
        self.steps += 1
        if self.steps % EVERY == 0 or self.steps == self.total:
            decay = 0.95**EVERY * (self.steps / self.total) ** 3
            torch._foreach_lerp_(self.slow, self.fast, 1 - decay)
            torch._foreach_copy_(self.fast, self.slow)

    def state_dict(self) -> dict[str, Any]:
        """Steps so far, and the slow weights."""
        return {"steps": self.steps, "slow": self.slow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.steps = state["steps"]
        with torch.no_grad():
            torch._foreach_copy_(self.slow, state["slow"])
