"""One pass for all layers: what it copies, what it frees, and the formulas by hand."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn

from evalib.cam_layers import find_layers
from evalib.cam_maps import explaining
from evalib.cam_pass import FORMULAS, Pass, layer_maps, one_pass


class Net(nn.Module):
    """Three convolutions, each followed by a module, global average pooling and a linear layer to 2 classes."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
            self.linear = nn.Linear(4, 2)
        self.relu_a, self.relu_b, self.relu_c = (nn.ReLU(inplace) for _ in range(3))

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu_a(self.a(images))
        x = self.relu_b(self.b(x))
        return self.linear(self.relu_c(self.c(x)).mean(dim=(2, 3)))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def run(model: nn.Module, images: Tensor, names: list[str], *, gradients: bool = True) -> Pass:
    labels = find_layers(model, names)[1]
    with explaining(model):
        return one_pass(model, images, labels, None, gradients=gradients)


def forward_passes(model: nn.Module) -> list[int]:
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


# --- copies ----------------------------------------------------------------------------------------------------


def test_nothing_is_copied_but_the_first_layer(images: Tensor) -> None:
    """What the next module gets lies where the activation lies."""
    model = Net()
    places: dict[str, int] = {}
    for name in ("relu_a", "relu_b", "relu_c"):
        getattr(model, name).register_forward_pre_hook(
            lambda _, inputs, name=name: places.update({name: inputs[0].data_ptr()})
        )
    calls = forward_passes(model)
    found = run(model, images, ["a", "b", "c"])
    assert places["relu_a"] != found.activations[model.a].data_ptr()
    assert places["relu_b"] == found.activations[model.b].data_ptr()
    assert places["relu_c"] == found.activations[model.c].data_ptr()
    assert len(calls) == 1


@pytest.mark.parametrize(("names", "passes"), [(["a"], 1), (["a", "b"], 2), (["b", "a", "c"], 2)])
def test_inplace_operations_cost_a_second_pass_and_change_nothing(
    images: Tensor, names: list[str], passes: int
) -> None:
    """Behind the first layer they write to the copy that it has anyway."""
    plain, inplace = Net(), Net(inplace=True)
    expected, calls = run(plain, images, names), forward_passes(inplace)
    found = run(inplace, images, names)
    assert len(calls) == passes
    for name in names:
        for kind in ("activations", "gradients"):
            theirs = getattr(expected, kind)[getattr(plain, name)]
            assert torch.equal(getattr(found, kind)[getattr(inplace, name)], theirs), (name, kind)
    assert torch.equal(found.logits, expected.logits)
    assert (found.activations[inplace.a] < 0).any()  # before its ReLU


def test_gradients_are_those_of_plain_autograd(images: Tensor) -> None:
    model = Net()
    found = run(model, images, ["a", "b", "c"])
    a = model.a(images)
    b = model.b(a.relu())
    c = model.c(b.relu())
    logits = model.linear(c.relu().mean(dim=(2, 3)))
    expected = torch.autograd.grad(logits.amax(dim=1).sum(), (a, b, c))
    for layer, activation, gradient in zip((model.a, model.b, model.c), (a, b, c), expected, strict=True):
        torch.testing.assert_close(found.activations[layer], activation)
        torch.testing.assert_close(found.gradients[layer], gradient)
    assert torch.equal(found.classes, logits.argmax(dim=1))


# --- the graph -------------------------------------------------------------------------------------------------


def test_what_comes_before_the_first_layer_is_freed(images: Tensor) -> None:
    """Its activations are needed for gradients of parameters only, and nobody asks for those."""
    model = Net()
    early: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []
    model.relu_a.register_forward_hook(lambda _module, _inputs, output: early.append(weakref.ref(output)))
    model.relu_c.register_forward_hook(lambda *_: alive.append(early[0]() is not None))
    run(model, images, ["b"])
    assert alive == [False]


def test_no_graph_without_gradients(images: Tensor) -> None:
    found = run(Net(), images, ["a", "b"], gradients=False)
    assert found.gradients == {}
    assert not found.logits.requires_grad
    assert not any(activation.requires_grad for activation in found.activations.values())


def test_the_graph_begins_anew_after_a_frozen_part(images: Tensor) -> None:
    class Branches(Net):
        def forward(self, images: Tensor) -> Tensor:
            x = self.a(images).relu()
            with torch.no_grad():
                y = self.b(x)
            return self.linear((y.relu_() + x[:, :, 1:-1, 1:-1]).mean(dim=(2, 3)))

    model = Net()
    model.__class__ = Branches
    found = run(model, images, ["a", "b"])
    before = model.b(model.a(images).relu()).detach()
    expected = model.linear.weight[found.classes, :, None, None] * (before > 0) / 36  # of a mean over 6 x 6 places
    torch.testing.assert_close(found.activations[model.b], before)
    torch.testing.assert_close(found.gradients[model.b], expected)


def test_layers_that_do_not_run(images: Tensor) -> None:
    model = Net()
    model.extra = nn.Conv2d(3, 3, 1)
    labels = find_layers(model, "extra")[1]
    found = run(model, images, ["extra"])
    with pytest.raises(ValueError, match=r"`layers\[0\]` \(extra: Conv2d\) does not run in the model's `forward`"):
        found.require(labels)


# --- formulas by hand ------------------------------------------------------------------------------------------

# one image, two channels of 1 x 2 places
A = torch.tensor([[[[1.0, 3.0]], [[2.0, 0.0]]]])
G = torch.tensor([[[[2.0, 4.0]], [[-1.0, 0.5]]]])
BY_HAND = {
    "grad_cam": [3 * 1 - 0.25 * 2, 3 * 3 - 0.25 * 0],  # means of G: 3 and -1/4
    "hires_cam": [2 * 1 - 1 * 2, 4 * 3],
    "element_wise_grad_cam": [2, 12],  # the -2 of the second channel is cut
    "layer_cam": [2 * 1, 4 * 3 + 0.5 * 0],
    # shares: (2 + 12) / 4 and (-2 + 0) / 2
    "xgrad_cam": [3.5 * 1 - 1 * 2, 3.5 * 3],
    # alphas: 4 / (8 + 4 * 8), 16 / (32 + 4 * 64) and, of the second channel, 0 and 0.25 / (0.5 + 2 * 0.125)
    "grad_cam_plus_plus": [
        (0.1 * 2 + 4 / 72 * 4) * 1 + (1 / 3 * 0.5) * 2,
        (0.1 * 2 + 4 / 72 * 4) * 3,
    ],
}


@pytest.mark.parametrize("method", FORMULAS)
def test_formulas_by_hand(method: str) -> None:
    torch.testing.assert_close(FORMULAS[method](A, G), torch.tensor([[BY_HAND[method]]]).float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", FORMULAS)
def test_formulas_of_a_dead_channel(method: str) -> None:
    """Zero activations, or zero gradients: no share, and no division by zero."""
    for a, g in ((A * 0, G), (A, G * 0)):
        assert torch.equal(FORMULAS[method](a, g), torch.zeros(1, 1, 2))


def test_layer_maps_computes_each_layer_once(images: Tensor) -> None:
    model, asked = Net(), []

    def raw(layer: nn.Module) -> Tensor:
        asked.append(layer)
        return torch.eye(3, dtype=torch.float64).expand(2, 3, 3)

    maps = layer_maps(raw, images, [model.b, model.a, model.b], {model.a: "a", model.b: "b"})
    assert asked == [model.a, model.b]
    assert maps.shape == (3, 2, 10, 10)
    assert maps.dtype == torch.float32
