"""A private copy of what a run is, and one write at a time beside the training."""

import os
import threading
import time
from collections import OrderedDict

import numpy as np
import pytest
import torch

from evalib.averaging import Lookahead
from evalib.models import build_model
from evalib.saver import Saver, snapshot
from evalib.weights import FORMAT, read_weights_file, write_weights_file


def flat(values):
    """All tensors and plain values of nested ones, in their order."""
    if isinstance(values, dict):
        return [item for key in values for item in (key, *flat(values[key]))]
    if isinstance(values, list | tuple):
        return [item for value in values for item in flat(value)]
    return [values]


def equal(one, other):
    def same(a, b):
        return torch.equal(a, b) and a.stride() == b.stride() if isinstance(a, torch.Tensor) else a == b

    return len(flat(one)) == len(flat(other)) and all(map(same, flat(one), flat(other)))


def training(steps=3):
    """A network in channels_last, its optimizer, schedule and averaging, after some steps; and one more step."""
    model = build_model("resnet18", 3, width=16, seed=1).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    averaging = Lookahead(model, 10)

    def step():
        optimizer.zero_grad()
        images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        model(images.to(memory_format=torch.channels_last)).square().mean().backward()
        optimizer.step()
        scheduler.step()
        averaging.step()

    for _ in range(steps):
        step()
    parts = {"optimizer": optimizer, "scheduler": scheduler, "averaging": averaging}
    return model, parts, step


def state(model, parts):
    return {"weights": model.state_dict(), **{name: part.state_dict() for name, part in parts.items()}}


def test_later_steps_do_not_reach_it(tmp_path):
    model, parts, step = training()
    write_weights_file(tmp_path / "now.pt", {**state(model, parts), "format": FORMAT})
    copied = snapshot(state(model, parts))
    assert equal(copied, state(model, parts))
    for _ in range(3):
        step()
    then = read_weights_file(tmp_path / "now.pt")
    del then["format"]
    assert equal(copied, then)
    assert not equal(copied["optimizer"], parts["optimizer"].state_dict())


def test_a_run_continued_from_it_takes_the_same_steps(tmp_path):
    """Through a file: strides and all, since other strides mean other kernels and other roundings."""
    model, parts, step = training()
    write_weights_file(tmp_path / "last.pt", {**snapshot(state(model, parts)), "format": FORMAT})
    found = read_weights_file(tmp_path / "last.pt")
    again, others, step_again = training(0)
    again.load_state_dict(found["weights"])
    for name, part in others.items():
        part.load_state_dict(found[name])
    for _ in range(3):
        step()
        step_again()
    assert equal(state(again, others), state(model, parts))
    filters = model.layer1[0].conv1.weight
    assert filters.stride() == again.layer1[0].conv1.weight.stride() != filters.contiguous().stride()


def test_shared_memory_stays_shared_and_views_stay_views():
    whole = torch.arange(12.0).reshape(3, 4)
    values = {"whole": whole, "again": whole, "row": whole[1], "turned": whole.t(), "grown": whole[0, :1].expand(5)}
    copied = snapshot(values)
    assert equal(copied, values)
    copied["whole"][1, 1] = 77
    assert copied["again"][1, 1] == copied["row"][1] == copied["turned"][1, 1] == 77
    assert whole[1, 1] == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float64])
def test_dtypes_and_empty_tensors(dtype):
    values = [torch.tensor([0, 1, 1]).to(dtype), torch.tensor(1).to(dtype), torch.empty(0, 3, dtype=dtype)] * 2
    copied = snapshot(values)
    assert equal(copied, values)
    assert [tensor.dtype for tensor in copied] == [dtype] * 6


def test_parameters_lose_their_gradients():
    copied = snapshot([torch.nn.Parameter(torch.ones(2))])[0]
    assert type(copied) is torch.Tensor
    assert not copied.requires_grad


def test_plain_values_are_copied_with_their_containers():
    values = {"a": [1, {"b": (2.0, None, True)}], 5: OrderedDict(c="d")}
    copied = snapshot(values)
    values["a"][1]["b"] = 0
    assert copied == {"a": [1, {"b": (2.0, None, True)}], 5: {"c": "d"}}
    assert type(copied[5]) is dict


@pytest.mark.parametrize("value", [np.float64(1), np.ones(2), torch.__version__, object(), {1}, len])
def test_what_could_not_be_read_back_is_refused(value):
    with pytest.raises(TypeError, match="A checkpoint holds tensors and plain values: got"):
        snapshot({"metrics": [value]})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_from_a_gpu():
    whole = torch.arange(12.0, device="cuda").reshape(3, 4)
    copied = snapshot({"whole": whole, "turned": whole.t()})
    whole += 1
    assert copied["whole"].device.type == "cpu"
    assert torch.equal(copied["turned"], torch.arange(12.0).reshape(3, 4).t())
    assert copied["turned"].data_ptr() == copied["whole"].data_ptr()


def test_a_write_runs_beside_its_caller_and_leaves_no_thread():
    before, saver, go, done = threading.active_count(), Saver(), threading.Event(), []
    saver.start(lambda: done.append(go.wait(10)))
    assert done == []
    go.set()
    assert saver.wait() is None
    assert done == [True]
    assert saver.wait() is None
    assert threading.active_count() == before


def test_an_error_is_told_once():
    saver = Saver()
    error = OSError(28, "No space left on device")

    def fail():
        raise error

    saver.start(fail)
    assert saver.wait() is error
    assert saver.wait() is None
    saver.start(lambda: None)
    assert saver.wait() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_processes_forked_during_a_write_run_on(tmp_path):
    """DataLoader's workers are forked at any moment; what the thread holds then must not stop them."""
    saver, go = Saver(), threading.Event()

    def write():
        number = 0
        while not go.is_set():
            write_weights_file(tmp_path / "last.pt", {"format": FORMAT, "w": torch.full((10_000,), float(number))})
            number += 1

    saver.start(write)
    for number in range(20):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                write_weights_file(tmp_path / f"{number}.pt", {"format": FORMAT, "w": torch.ones(10_000) + number})
                saver.wait()  # the parent's thread does not exist here
                code = 0
            finally:
                os._exit(code)
        assert ended(child) == 0
    go.set()
    assert saver.wait() is None
    assert len(read_weights_file(tmp_path / "19.pt")["w"]) == 10_000


def ended(child):
    """The exit code of a process; fails the test if it hangs."""
    for _ in range(1000):
        process, status = os.waitpid(child, os.WNOHANG)
        if process:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("a forked process hangs")
