"""Optimizers and schedules against torch's own and arithmetic."""

import itertools

import pytest
import torch
from torch import nn

from evalib.optim import make_optimizer, make_scheduler, penalty
from evalib.recipes import Recipe, recipes


def rates(recipe, steps_per_epoch, steps):
    optimizer = make_optimizer(nn.Linear(2, 2), recipe)
    scheduler = make_scheduler(optimizer, recipe, steps_per_epoch)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_eva6_keeps_its_rate_for_20_epochs_and_would_halve_it_after_25():
    found = rates(recipes["eva6"], 2, 52)
    assert found[:50] == [0.01] * 50
    assert found[50:] == [0.005] * 2


def test_one_cycle_goes_up_and_down_in_straight_lines():
    recipe = Recipe(name="x", schedule="one_cycle", lr=0.4, warmup=0.25, epochs=4)
    found = rates(recipe, 10, 40)
    peak = max(range(40), key=found.__getitem__)
    assert peak == 9
    assert found[peak] == pytest.approx(0.4)
    for part in (found[: peak + 1], found[peak:]):
        slopes = [after - before for before, after in itertools.pairwise(part)]
        assert slopes == pytest.approx([slopes[0]] * len(slopes))
    assert found[-1] < 1e-5


def test_cosine_ends_at_zero_and_is_half_in_the_middle():
    found = rates(Recipe(name="x", schedule="cosine", lr=0.2, epochs=2), 10, 20)
    assert found[0] == pytest.approx(0.2)
    assert found[10] == pytest.approx(0.1)
    assert 0 < found[-1] < 0.002


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_one_cycle_with_hardly_a_step(steps):
    assert len(rates(Recipe(name="x", schedule="one_cycle", epochs=1), steps, steps)) == steps


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_optimizers_by_name(name, kind):
    optimizer = make_optimizer(nn.Linear(2, 2), Recipe(name="x", optimizer=name, lr=0.03, weight_decay=0.2))
    assert type(optimizer) is kind
    assert optimizer.defaults["lr"] == 0.03
    assert optimizer.defaults["weight_decay"] == 0.2


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert make_optimizer(model, recipes["eva6"]).param_groups[0]["params"] == [model.weight]
    model.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        make_optimizer(model, recipes["eva6"])


def test_penalty_by_arithmetic():
    model = nn.Linear(2, 1)
    model.weight.data = torch.tensor([[3.0, -4.0]])
    model.bias.data = torch.tensor([2.0])
    assert penalty(model, l1=0.1, l2=0.01).item() == pytest.approx(0.1 * 9 + 0.005 * 29)
    assert penalty(model, l1=0, l2=0) == 0
    with_l2 = torch.autograd.grad(penalty(model, l1=0, l2=0.01), [model.weight])[0]
    torch.testing.assert_close(with_l2, 0.01 * model.weight.detach())  # what SGD's weight decay adds


def test_triangle_goes_from_a_fifth_to_the_rate_and_to_zero():
    found = rates(Recipe(name="x", schedule="triangle", lr=0.5, warmup=0.2, epochs=5), 10, 50)
    assert found[0] == pytest.approx(0.1)
    assert found[10] == max(found) == pytest.approx(0.5)
    assert found[30] == pytest.approx(0.25)
    assert found[49] == pytest.approx(0.5 / 40)
    assert rates(Recipe(name="x", schedule="triangle", lr=0.5, warmup=0.0, epochs=1), 4, 4)[0] == 0.5


def test_a_schedule_scales_every_group_alike():
    for schedule in ("triangle", "one_cycle", "cosine"):
        recipe = Recipe(name="x", schedule=schedule, lr=0.1, epochs=2, bias_lr_factor=64.0, weight_decay=0.064)
        optimizer = make_optimizer(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), recipe)
        scheduler = make_scheduler(optimizer, recipe, 5)
        for _ in range(9):
            optimizer.step()
            scheduler.step()
            plain, shifts = optimizer.param_groups
            assert shifts["lr"] == pytest.approx(64 * plain["lr"])


def groups_of(model, **changes):
    """{name of a parameter: (lr, weight decay, muon)}."""
    optimizer = make_optimizer(model, Recipe(name="x", lr=0.1, weight_decay=0.064, momentum=0.9, **changes))
    of = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert parameter not in of
            of[parameter] = (group["lr"], group["weight_decay"], group.get("muon", False))
    return {name: of[parameter] for name, parameter in model.named_parameters()}


def test_groups_of_parameters(tiny_model):
    plain = (0.1, 0.064, False)
    assert set(groups_of(tiny_model).values()) == {plain}
    undecayed = groups_of(tiny_model, decay_all=False)
    for name, parameter in tiny_model.named_parameters():
        assert undecayed[name] == ((0.1, 0.0, False) if parameter.dim() == 1 else plain), name
    faster = groups_of(tiny_model, bias_lr_factor=64.0)
    biases = {name for name in faster if ("bn" in name or "shortcut.1" in name) and name.endswith("bias")}
    assert len(biases) == 20
    for name, found in faster.items():
        assert found == ((6.4, 0.001, False) if name in biases else plain), name
    muon = groups_of(tiny_model, optimizer="muon", muon_lr=0.03, muon_decay=0.2, nesterov=True)
    for name, parameter in tiny_model.named_parameters():
        banks = parameter.dim() == 4 and name != "conv1.weight"
        assert muon[name] == ((0.03, 0.2, True) if banks else plain), name
