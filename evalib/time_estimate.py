"""How long a training will take, said after its first seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_SECONDS = 5.0  # of steps, before anything is said
WARM_UP = 2  # steps that are not counted: memory is allocated, kernels are chosen, workers start
SHORTEST = 30.0  # seconds in all, below which nothing is said
TOLERANCE = 0.25  # share by which a first word must be off to be replaced
FORWARD = 1 / 3  # of a training step's time is its forward pass, all that a test needs


class TimeEstimate:
    """The time of all epochs that are to come when it is made: from steps at first, then from whole epochs.

    Steps are timed from one to the next without waiting for the device. On a GPU the loop may be a step ahead of it,
    as the check of the loss comes one step late: over seconds of steps that is nothing.
    """

    def __init__(
        self, epochs: float, steps: int, test_steps: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """
        Args:
            epochs: to be trained; of a run that continues, what is left, 2.5 for instance.
            steps: of an epoch.
            test_steps: batches of the size of a training step that are tested after every epoch.
            clock: seconds.
        """
        self.epochs, self.steps, self.test_steps, self._clock = epochs, steps, test_steps, clock
        self.seconds = 0.0  # of all these epochs, as last said; 0 while nothing is known
        self._begin = self._warm = clock()
        self._count = self._epochs_done = 0

    def after_step(self) -> str:
        """What to say now, a line such as "20 epochs: about 24 min"; empty while nothing is known, or below 30 s."""
        self._count += 1
        now = self._clock()
        if self._count == WARM_UP:
            self._warm = now
        elif not self.seconds and self._count > WARM_UP and now - self._warm >= FIRST_SECONDS:
            per_step = (now - self._warm) / (self._count - WARM_UP)
            self.seconds = self.epochs * per_step * (self.steps + FORWARD * self.test_steps)
        return str(self)

    def after_epoch(self) -> str:
        """The same after an epoch, its test and its checkpoint: said anew only if it was off by more than a quarter."""
        self._epochs_done += 1
        # a run that continues within an epoch has not trained the whole of it
        trained = self._epochs_done - (-self.epochs % 1)
        seconds = (self._clock() - self._begin) * self.epochs / trained if trained else 0.0
        if abs(seconds - self.seconds) > TOLERANCE * self.seconds:
            self.seconds = seconds
        return str(self)

    def __str__(self) -> str:
        if self.seconds < SHORTEST:
            return ""
        epochs = f"{self.epochs:.3g}".removesuffix(".0")
        return f"{epochs} epoch{'' if self.epochs == 1 else 's'}: about {in_words(self.seconds)}"


def in_words(seconds: float) -> str:
    """A rough time: "50 s", "24 min", "1.6 h"."""
    if seconds < 90:
        return f"{10 * max(1, round(seconds / 10))} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
