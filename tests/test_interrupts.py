"""Ctrl-C as a request: noted once, raised the second time, the handler put back."""

import os
import signal
import threading

import pytest
from conftest import ROOT

from evalib.interrupts import Stopped, StopRequest, stop_on_interrupt


def press():
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_is_noted_the_second_raised_and_the_handler_put_back():
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt() as stop:
        stop.check()
        press()
        assert stop.asked
        with pytest.raises(Stopped):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        press()


def test_the_handler_is_put_back_after_an_exception():
    with pytest.raises(KeyError), stop_on_interrupt():
        raise KeyError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_items_end_where_somebody_asked():
    stop, seen = StopRequest(), []

    def ask_at(number):
        for item in range(5):
            stop.asked = item == number
            yield item

    assert list(stop.between(ask_at(9))) == [0, 1, 2, 3, 4]
    with pytest.raises(Stopped):
        for item in stop.between(ask_at(3)):
            seen.append(item)
    assert seen == [0, 1, 2]


def test_a_handler_of_the_program_itself_stays():
    calls = []
    previous = signal.signal(signal.SIGINT, lambda *arguments: calls.append(1))
    try:
        with stop_on_interrupt() as stop:
            press()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert calls == [1]
    assert not stop.asked


def test_in_another_thread_and_if_not_wanted_nothing_is_changed():
    found = []

    def work():
        with stop_on_interrupt() as stop:
            found.append(stop.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt(enabled=False):
        press()


CELL = """
import torch
from evalib.data import sample
from evalib.engine import fit
from evalib.models import build_model
from evalib.recipes import recipes

recipe = recipes["fast"].replace(width=8, batch_size=40, epochs=12, test_views=1)
model = build_model("resnet18", 10, width=8, seed=1)
history = fit(model, sample().take(train=200, test=20), recipe, run_dir={run_dir!r}, device="cpu",
              on_epoch=lambda history: print("epoch", len(history.epochs), flush=True))
"""


def test_an_interrupted_cell_returns_its_history_and_continues_when_run_again(tmp_path):
    """A real kernel, interrupted as the stop button does it."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", env=os.environ | {"PYTHONPATH": str(ROOT)})
    printed = []

    def run(code, interrupt_after=None):
        """The status of a cell; the kernel is interrupted when it prints some text."""

        def hear(message):
            content = message["content"]
            text = content.get("text", "") or "".join(content.get("traceback", ()))
            printed.append(text)
            if interrupt_after is not None and interrupt_after in text:
                manager.interrupt_kernel()

        return client.execute_interactive(code, timeout=120, output_hook=hear)["content"]["status"]

    try:
        cell = CELL.format(run_dir=str(tmp_path))
        assert run(cell, interrupt_after="epoch 2\n") == "ok", printed
        assert run("assert history.interrupted and 2 <= len(history.epochs) < 12") == "ok"
        assert run("found = model(torch.zeros(2, 3, 32, 32)).isfinite().all(); assert found") == "ok"
        assert run(cell) == "ok", printed
        assert run("assert not history.interrupted and len(history.epochs) == 12; print(history.notes)") == "ok"
        assert "Continued after epoch" in printed[-1] or "Continued after epoch" in "".join(printed)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
