"""One step: gradients of halves are those of the whole, memory that runs out, losses that are not finite."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evalib.execution import SingleDevice
from evalib.training_step import LossWatch, NonFiniteLossError, TrainingStep


def network():
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def batch(count=8):
    generator = torch.Generator().manual_seed(4)
    return torch.randn(count, 3, 2, 2, generator=generator), torch.arange(count) % 3


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.5)


class Full(nn.Module):
    """A network for which memory runs out beyond some number of images at once, or at the first so many calls."""

    def __init__(self, most, error=torch.OutOfMemoryError):
        super().__init__()
        self.inside, self.most, self.error, self.sizes = network(), most, error, []

    def forward(self, images):
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise self.error("CUDA out of memory. Tried to allocate 20.00 MiB")
        return self.inside(images)


@pytest.mark.parametrize("count", [8, 7])
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError, MemoryError, RuntimeError],
    ids=["gpu", "python", "named"],
)
def test_out_of_memory_gives_one_retry_in_halves(count, error):
    """The same step as of a network that has room for the whole batch: by a loop by hand, in float64."""
    images, labels = batch(count)
    expected = network().double()
    penalty = sum(parameter.square().sum() for parameter in expected.parameters())
    (F.cross_entropy(expected(images.double()), labels) + 0.01 / 2 * penalty).backward()
    sgd(expected).step()
    model = Full(4, error).double()
    model.inside.double()
    step = TrainingStep(model, sgd(model), penalties=(0.0, 0.01))
    totals = step(images.double(), labels)
    assert model.sizes == [count, 4, count - 4]
    assert step.part_size == 4
    for one, two in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)  # logits are float32
    logits = network().double()(images.double())
    plain = [F.cross_entropy(logits, labels, reduction="sum").item(), (logits.argmax(1) == labels).sum().item(), count]
    assert totals.tolist() == pytest.approx(plain, abs=1e-5)
    step(images.double(), labels)  # from now on in halves, without trying the whole
    assert model.sizes == [count, 4, count - 4, 4, count - 4]


def test_memory_short_of_a_half_ends_with_advice():
    model = Full(3)
    before = copy.deepcopy(model.state_dict())
    step = TrainingStep(model, sgd(model))
    wanted = "batch of 8 images, also in halves of 4. Choose a smaller `batch_size`, such as 2"
    with pytest.raises(MemoryError, match=wanted):
        step(*batch())
    with pytest.raises(MemoryError, match=wanted):
        step(*batch())
    assert model.sizes == [8, 4, 4]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_failed_try_holds_no_tensor_when_the_halves_begin():
    """What the network computed before memory ran out is free again: an error's traceback would keep it."""
    alive = []

    class Keeps(Full):
        def forward(self, images):
            result = super().forward(images[: self.most]) if len(images) <= self.most else images * 2
            alive.append(torch.utils.weak.WeakTensorKeyDictionary({result: 1}))
            if len(images) > self.most:
                raise torch.OutOfMemoryError("out of memory")
            assert len(alive[0]) == 0
            return result

    model = Keeps(4)
    TrainingStep(model, sgd(model))(*batch())
    assert len(alive) == 3


def test_small_batches_and_several_processes_are_not_halved():
    model = Full(1)
    with pytest.raises(MemoryError, match="Not enough memory for a batch of 3 images. Choose"):
        TrainingStep(model, sgd(model))(*batch(3))
    execution = SingleDevice("cpu", "float32")
    execution.world = 2
    model = Full(4)
    with pytest.raises(MemoryError, match="Not enough memory for a batch of 8 images. Choose"):
        TrainingStep(model, sgd(model), execution=execution)(*batch())
    assert model.sizes == [8]


def test_other_errors_are_not_taken_for_lack_of_memory():
    model = Full(4, RuntimeError)
    model.forward = lambda images: images @ torch.zeros(7, 7)
    with pytest.raises(RuntimeError, match="Expected size"):
        TrainingStep(model, sgd(model))(*batch())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_no_weight(bad):
    model, images = network(), batch()[0]
    before = copy.deepcopy(model.state_dict())
    images[3] = bad
    with pytest.raises(NonFiniteLossError, match="loss became nan .learning rate 0.5.. Lower") as caught:
        TrainingStep(model, sgd(model))(images, batch()[1])
    assert (caught.value.lr, caught.value.late) == (0.5, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_on_a_gpu_a_loss_is_looked_at_one_step_later(monkeypatch):
    """The order of events, with a stand-in for the GPU's clock: never is a loss waited for that was just begun."""
    waited = []

    class Event:
        def record(self):
            self.number = len(waited)

        def synchronize(self):
            waited.append(self.number)

    class OnGpu(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(torch.cuda, "Event", Event)
    real_empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False: real_empty(*size))
    watch = LossWatch()
    losses = [torch.tensor(value).as_subclass(OnGpu) for value in (1.0, math.nan, 2.0)]
    watch.see(losses[0], 0.1)
    assert waited == []
    watch.see(losses[1], 0.2)
    assert len(waited) == 1
    with pytest.raises(NonFiniteLossError) as caught:
        watch.see(losses[2], 0.3)
    assert (caught.value.lr, caught.value.late) == (0.2, True)
    watch.flush()
    watch.see(losses[1], 0.4)
    with pytest.raises(NonFiniteLossError):
        watch.flush()
    watch.flush()


def test_an_overflow_of_float16_moves_neither_schedule_nor_averaging():
    """A scaler whose scale is too large: gradients overflow, the step is skipped, and the scale halved."""
    model, steps = network(), []
    execution = SingleDevice("cpu", "float32")
    execution.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, enabled=True)
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    class Averaging:
        def step(self):
            steps.append(1)

    followers = {"scheduler": scheduler, "averaging": Averaging()}
    steep = {"loss_fn": lambda logits, labels: 1e3 * F.cross_entropy(logits, labels)}
    step = TrainingStep(model, optimizer, execution=execution, **followers, **steep)
    before = copy.deepcopy(model.state_dict())
    step(*batch())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (scheduler.last_epoch, steps) == (0, [])
    assert execution.scaler.get_scale() == 2.0**126
    execution.scaler = torch.amp.GradScaler("cpu", init_scale=2.0, enabled=True)
    step(*batch())
    assert (scheduler.last_epoch, steps) == (1, [1])
