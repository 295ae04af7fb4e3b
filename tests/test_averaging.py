"""Lookahead against arithmetic by hand."""

import copy

import pytest
import torch
from torch import nn

from evalib.averaging import EVERY, Lookahead


def one_number(value):
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(value)
    return model


def test_the_weights_are_set_back_to_their_average():
    """A weight that is raised by 1 before every step, as a recursion on paper has it."""
    total, model = 20, one_number(0.0)
    averaging, slow, fast, found, expected = Lookahead(model, total), 0.0, 0.0, [], []
    for step in range(1, total + 1):
        model.weight.data += 1
        averaging.step()
        fast += 1
        if step % 5 == 0:
            slow += (1 - 0.95**5 * (step / total) ** 3) * (fast - slow)
            fast = slow
        found.append(model.weight.item())
        expected.append(fast)
    assert found == pytest.approx(expected)
    assert found[-1] < total - 3  # it does hold back


def test_the_last_step_averages_too_whatever_its_number():
    model = one_number(1.0)
    averaging = Lookahead(model, EVERY + 2)
    for step in range(1, EVERY + 3):
        model.weight.data.fill_(float(step))
        averaging.step()
    at_five = 0.0 + (1 - 0.95**5 * (5 / 7) ** 3) * (5 - 1) + 1
    assert model.weight.item() == pytest.approx(at_five + (1 - 0.95**5) * (7 - at_five))


def test_running_statistics_are_averaged_and_counters_left_alone():
    norm = nn.BatchNorm1d(2)
    averaging = Lookahead(norm, EVERY)
    norm.running_mean.fill_(1.0)
    norm.num_batches_tracked.fill_(7)
    for _ in range(EVERY):
        averaging.step()
    assert norm.running_mean.tolist() == pytest.approx([1 - 0.95**5] * 2)
    assert norm.num_batches_tracked == 7


def test_saved_in_the_middle_and_taken_up_again():
    def advance(model, averaging, steps):
        for _ in range(steps):
            model.weight.data += 1
            averaging.step()

    whole = one_number(0.0)
    advance(whole, Lookahead(whole, 20), 20)
    model = one_number(0.0)
    averaging = Lookahead(model, 20)
    advance(model, averaging, 12)
    state = copy.deepcopy(averaging.state_dict())
    continued = copy.deepcopy(model)
    again = Lookahead(continued, 20)
    again.load_state_dict(state)
    advance(continued, again, 8)
    assert torch.equal(whole.weight, continued.weight)
