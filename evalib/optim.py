"""The recipe's optimizer, learning-rate schedule and penalty terms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR, StepLR

from evalib.cam_networks import convolutions
from evalib.muon import MuonSGD
from evalib.recipes import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer over all trainable parameters; ValueError if there is none."""
    groups = parameter_groups(model, recipe)
    if not groups:
        raise ValueError("`model` has no trainable parameter: all are frozen.")
    settings: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=recipe.nesterov, **settings)
    if recipe.optimizer == "muon":
        return MuonSGD(groups, momentum=recipe.momentum, nesterov=recipe.nesterov, **settings)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, **settings)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """The trainable parameters in groups that differ in learning rate or weight decay; the first has the recipe's own.

    Muon gets all convolutions but the first, whose few input channels make no matrix worth the name.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    norm_biases = {layer.bias for layer in norms if layer.bias is not None}
    filters = {layer.weight for layer in convolutions(model)[1:]} if recipe.optimizer == "muon" else set()
    plain: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    shifts: list[nn.Parameter] = []
    muon: list[nn.Parameter] = []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if parameter in norm_biases and recipe.bias_lr_factor != 1:
            shifts.append(parameter)
        elif parameter.dim() < 2 and not recipe.decay_all:
            undecayed.append(parameter)
        else:
            (muon if parameter in filters else plain).append(parameter)
    factor = recipe.bias_lr_factor
    groups: list[dict[str, Any]] = [
        {"params": plain},
        {"params": undecayed, "weight_decay": 0.0},
        {"params": shifts, "lr": recipe.lr * factor, "weight_decay": recipe.weight_decay / factor},
        {"params": muon, "lr": recipe.muon_lr, "weight_decay": recipe.muon_decay, "muon": True},
    ]
    return [group for group in groups if group["params"]]


def make_scheduler(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> LRScheduler:
    """The recipe's learning-rate schedule, to be stepped after every optimizer step."""
    total = recipe.epochs * steps_per_epoch
    if recipe.schedule == "step":
        return StepLR(optimizer, recipe.step_epochs * steps_per_epoch, recipe.gamma)
    if recipe.schedule == "cosine":
        return CosineAnnealingLR(optimizer, total)
    if recipe.schedule == "triangle":
        return LambdaLR(optimizer, lambda step: _triangle(step, total, recipe.warmup))
    if recipe.schedule == "one_cycle" and total > 2:  # fewer steps have no way up and down
        warmup = max(recipe.warmup, 2 / total)
        peaks = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(
            optimizer, peaks, total_steps=total, pct_start=warmup, anneal_strategy="linear", cycle_momentum=False
        )
    return ConstantLR(optimizer, factor=1.0)


def _triangle(step: int, total: int, warmup: float) -> float:
    """From 0.2 up to 1 at `warmup` of all steps, then down to 0 at the end, in straight lines."""
    progress = step / total
    return 0.2 + 0.8 * progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)


def penalty(model: nn.Module, l1: float, l2: float) -> Tensor | float:
    """l1 * sum |p| + l2 / 2 * sum p^2 over all trainable parameters; with SGD, l2 equals weight decay."""
    total: Tensor | float = 0.0
    if l1 or l2:
        for parameter in model.parameters():
            if parameter.requires_grad:
                total = total + l1 * parameter.abs().sum() + l2 / 2 * parameter.square().sum()
    return total
