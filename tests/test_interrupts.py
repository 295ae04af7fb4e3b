"""Ctrl-C as a request: noted once, raised the second time, the handler put back."""

import os
import signal
import threading

import pytest

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
