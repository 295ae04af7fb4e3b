"""The time that a training will take: a clock moved by hand, and times added up by hand."""

from __future__ import annotations

import io
import sys

import pytest
import torch

from evalib.data import sample
from evalib.engine import fit
from evalib.models import build_model
from evalib.recipes import recipes
from evalib.time_estimate import TimeEstimate, in_words


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def after(self, seconds: float) -> Clock:
        self.now += seconds
        return self


def said(estimate: TimeEstimate, clock: Clock, steps: int, seconds: float) -> list[str]:
    lines = []
    for _ in range(steps):
        clock.after(seconds)
        lines.append(estimate.after_step())
    return lines


def test_after_five_seconds_of_steps_the_first_two_not_counted():
    """20 epochs of 100 steps of 0.5 s and a test of 30 batches at a third of a step's time: 20 * (50 + 5) = 1100 s."""
    clock = Clock()
    estimate = TimeEstimate(20, 100, 30, clock)
    assert said(estimate, clock, 2, 40.0) == ["", ""], "warming up says nothing of the rest"
    assert said(estimate, clock, 9, 0.5) == [""] * 9, "4.5 s"
    assert said(estimate, clock, 1, 0.5) == ["20 epochs: about 18 min"]
    assert estimate.seconds == pytest.approx(1100)
    assert said(estimate, clock, 3, 9.0) == ["20 epochs: about 18 min"] * 3, "it does not flicker"


def test_the_first_epoch_replaces_what_is_off_by_more_than_a_quarter():
    for last, expected in ((0.0, 1100.0), (60.0, 20 * 120.0)):
        clock = Clock()
        estimate = TimeEstimate(20, 100, 30, clock)
        said(estimate, clock, 100, 0.5)
        clock.after(10.0 + last)  # the test, and what the checkpoint took
        estimate.after_epoch()
        assert estimate.seconds == pytest.approx(expected)
    said(estimate, clock, 100, 0.5)
    clock.after(10.0)
    assert estimate.after_epoch() == "20 epochs: about 40 min", "two epochs in 180 s are 1800 s: within a quarter"


def test_a_short_training_says_nothing():
    clock = Clock()
    estimate = TimeEstimate(2, 20, 10, clock)
    lines = said(estimate, clock, 20, 0.6)
    assert estimate.seconds == pytest.approx(2 * 0.6 * (20 + 10 / 3))
    assert set(lines) == {""}
    assert estimate.after_epoch() == ""


def test_epochs_too_short_for_steps_to_say_anything_speak_for_themselves():
    clock = Clock()
    estimate = TimeEstimate(40, 3, 3, clock)
    assert set(said(estimate, clock, 3, 1.0)) == {""}
    assert estimate.after_epoch() == "40 epochs: about 2 min"


def test_a_run_that_continues_within_an_epoch():
    """Half an epoch and two whole ones are left: the half took 30 s, so 2.5 take 150 s."""
    clock = Clock()
    estimate = TimeEstimate(2.5, 100, 0, clock)
    said(estimate, clock, 50, 0.6)
    assert estimate.seconds == pytest.approx(150)
    estimate.after_epoch()
    assert estimate.seconds == pytest.approx(150)
    assert str(estimate) == "2.5 epochs: about 2 min"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (31, "30 s"),
        (86, "90 s"),
        (91, "2 min"),
        (1440, "24 min"),
        (5399, "90 min"),
        (5760, "1.6 h"),
        (36_000, "10.0 h"),
    ],
)
def test_words(seconds, words):
    assert in_words(seconds) == words


def test_fit_says_it_in_its_bar_from_the_epochs_that_are_left(monkeypatch, tmp_path):
    """With a clock that gains 9 s at every look: after three steps, and for two of three epochs once it continues."""
    clock = Clock()
    monkeypatch.setattr("evalib.engine.TimeEstimate", lambda *args: TimeEstimate(*args, clock=lambda: clock.after(9)()))
    data, recipe = sample().take(train=60, test=20), recipes["demo"].replace(epochs=3, batch_size=10, width=8)
    monkeypatch.setattr(sys, "stderr", text := io.StringIO())

    def stop_after_one(history):
        if len(history.epochs) == 1:
            raise KeyboardInterrupt

    for on_epoch in (stop_after_one, None):
        model = build_model("resnet18", data.num_classes, width=8, seed=1)
        with torch.random.fork_rng():
            fit(model, data, recipe, run_dir=tmp_path, device="cpu", progress=True, on_epoch=on_epoch)
    # 3 or 2 epochs, each 6 steps and a test of 20 images, which are 2 batches of 10, of 9 s
    first, second = 3 * 9 * (6 + 2 / 3), 2 * 9 * (6 + 2 / 3)
    assert f"3 epochs: about {in_words(first)}" in text.getvalue()
    assert f"2 epochs: about {in_words(second)}" in text.getvalue()
