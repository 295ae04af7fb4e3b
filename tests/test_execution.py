"""The seam towards the hardware, as far as a CPU shows it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evalib.execution import SingleDevice, bare_step_speed


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
