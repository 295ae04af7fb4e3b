"""Worker processes: an error arrives as it was raised, a killed worker is one clear error, soon."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from torch.utils.data import Dataset

from evalib.data.workers import FromWorkers, in_workers, naming_killed_workers

CPU = torch.device("cpu")


class Numbers(Dataset):
    """Batches of one number; some are refused."""

    def __init__(self, refused=(), killed=()):
        self.refused, self.killed = refused, killed

    def __getitem__(self, item):
        if item in self.refused:
            raise ValueError(f"Cannot decode the image {item}.png (no reason). Replace it.")
        if item in self.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.full((2, 3, 4, 4), item), torch.tensor([item, item])


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_in_order_again_and_again(workers):
    batches = in_workers(Numbers(), range(5), workers, CPU)
    assert len(batches) == 5
    for _ in range(2):
        assert [labels.tolist() for _, labels in batches] == [[number, number] for number in range(5)]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_raised_as_it_was(workers):
    """One line that names the image: no traceback of another process in it."""
    seen = []
    with pytest.raises(ValueError, match=r"^Cannot decode the image 3.png \(no reason\). Replace it.$"):
        for _, labels in in_workers(Numbers(refused=[3]), range(5), workers, CPU):
            seen.append(int(labels[0]))
    assert seen == [0, 1, 2]


def test_a_killed_worker_ends_in_one_clear_error_soon():
    """In a process of its own: torch tells of it wherever the main process is, were it in another test's fixture."""
    code = (
        "from evalib.data.workers import FromWorkers, in_workers, naming_killed_workers\n"
        "from tests.data.test_workers import CPU, Numbers\n"
        "try:\n"
        "    with naming_killed_workers():  # as `fit` has it around a whole run\n"
        "        list(in_workers(Numbers(killed=[2]), range(5), 1, CPU))\n"
        "except ChildProcessError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "most often memory ran out. Use fewer workers" in run.stdout, run.stderr


def test_a_worker_killed_in_the_middle_of_a_batch_is_the_same_error():
    """What torch raises then depends on the moment; neither may reach a user."""
    for error in (ConnectionResetError(104, "Connection reset by peer"), EOFError()):

        class Loader:
            def __iter__(self, error=error):
                yield torch.zeros(1), torch.zeros(1)
                raise error

        with pytest.raises(ChildProcessError, match="most often memory ran out"):
            list(FromWorkers(Loader()))


def test_a_killed_worker_is_named_wherever_torch_tells_of_it():
    """Its error comes out of whatever the main process is doing when the worker ends."""
    with pytest.raises(ChildProcessError, match="most often memory ran out"), naming_killed_workers():
        raise RuntimeError("DataLoader worker (pid 10215) is killed by signal: Killed.")
    with pytest.raises(RuntimeError, match="^another$"), naming_killed_workers():
        raise RuntimeError("another")


def test_errors_of_the_caller_stay_its_own():
    with pytest.raises(RuntimeError, match="mine"):
        for _ in in_workers(Numbers(), range(5), 0, CPU):
            raise RuntimeError("mine")
