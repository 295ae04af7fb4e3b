"""The seam towards the hardware, as far as a CPU shows it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evalib.execution import SingleDevice, bare_step_speed, memory_format
from evalib.models import build_model


def test_a_step_is_plain_sgd():
    model = nn.Linear(3, 2)
    expected = model.weight.detach().clone()
    images, labels = torch.eye(3), torch.tensor([0, 1, 1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loss = F.cross_entropy(model(images), labels)
    expected -= 0.5 * torch.autograd.grad(loss, [model.weight], retain_graph=True)[0]
    assert SingleDevice("cpu", "float32").step(loss, optimizer) is True
    torch.testing.assert_close(model.weight.detach(), expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_logits_are_float32_in_every_precision(tiny_model, precision):
    execution = SingleDevice("cpu", precision)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    execution.prepare(tiny_model).eval()
    with torch.no_grad():
        logits = execution.logits(tiny_model, images)
        plain = tiny_model(images)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, plain, atol=1e-6 if precision == "float32" else 0.1, rtol=0)
    assert all(parameter.dtype == torch.float32 for parameter in tiny_model.parameters())


@pytest.mark.parametrize(
    ("width", "device", "layout"),
    [(8, "cpu", torch.contiguous_format), (16, "cpu", torch.channels_last), (8, "cuda", torch.channels_last)],
)
def test_channels_are_last_but_where_onednn_computes_wrongly(width, device, layout):
    assert memory_format(build_model("resnet18", 10, width=width), torch.device(device)) is layout


def test_narrow_networks_get_the_gradients_of_float64():
    """A batch of odd size, on two threads: channels last, oneDNN gives wrong gradients here, or ends the process."""
    execution = SingleDevice("cpu", "float32")
    model = execution.prepare(build_model("resnet18", 10, width=8, seed=1)).train()
    shortcut = next(m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))
    seen = []
    shortcut.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous()))
    exact = build_model("resnet18", 10, width=8, seed=1).double().train()
    images = torch.rand(29, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(29) % 10
    loss = F.cross_entropy(execution.logits(model, images.to(memory_format=torch.channels_last)), labels)
    assert seen == [True]  # before the backward pass, which could end the process
    found = torch.autograd.grad(loss, list(model.parameters()))
    expected = torch.autograd.grad(F.cross_entropy(exact(images.double()), labels), list(exact.parameters()))
    for gradient, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient.double(), truth, rtol=1e-3, atol=1e-4 * float(truth.abs().max()))


def test_the_bare_step_leaves_the_network_alone(tiny_model):
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    images, labels = torch.zeros(4, 3, 32, 32), torch.zeros(4, dtype=torch.long)
    speed = bare_step_speed(tiny_model, images, labels, execution=SingleDevice("cpu", "float32"), steps=1)
    assert speed > 0
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())


def test_one_process_exchanges_nothing(tiny_model):
    execution = SingleDevice("cpu", "float32")
    rows = torch.arange(6.0).reshape(3, 2)
    assert (execution.rank, execution.world, execution.is_main) == (0, 1, True)
    assert execution.replicated(tiny_model) is tiny_model
    assert execution.weighted(rows, 3) is execution.reduce(rows) is execution.gather(rows) is rows
    execution.average([rows])
    assert torch.equal(rows, torch.arange(6.0).reshape(3, 2))
    assert execution.from_main(lambda: 7) == 7
    with execution.first_on_host(), pytest.raises(KeyError):
        execution.from_main({}.popitem)
    execution.close()
