"""The recipe's optimizer, learning-rate schedule and penalty terms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR

from evalib.recipes import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer over all trainable parameters; ValueError if there is none."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("`model` has no trainable parameter: all are frozen.")
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
        )
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)


def make_scheduler(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> LRScheduler:
    """The recipe's learning-rate schedule, to be stepped after every optimizer step."""
    total = recipe.epochs * steps_per_epoch
    if recipe.schedule == "step":
        return StepLR(optimizer, recipe.step_epochs * steps_per_epoch, recipe.gamma)
    if recipe.schedule == "cosine":
        return CosineAnnealingLR(optimizer, total)
    if recipe.schedule == "one_cycle" and total > 2:  # fewer steps have no way up and down
        warmup = max(recipe.warmup, 2 / total)
        return OneCycleLR(
            optimizer, recipe.lr, total_steps=total, pct_start=warmup, anneal_strategy="linear", cycle_momentum=False
        )
    return ConstantLR(optimizer, factor=1.0)


def penalty(model: nn.Module, l1: float, l2: float) -> Tensor | float:
    """l1 * sum |p| + l2 / 2 * sum p^2 over all trainable parameters; with SGD, l2 equals weight decay."""
    total: Tensor | float = 0.0
    if l1 or l2:
        for parameter in model.parameters():
            if parameter.requires_grad:
                total = total + l1 * parameter.abs().sum() + l2 / 2 * parameter.square().sum()
    return total
