"""Grad-CAM against plain autograd, classic CAM and grad-cam's own call; every guard; nothing left behind."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.cam import cam_layers, empty_maps, grad_cam
from evalib.cam_networks import VGG19CAM, AlexNetCAM
from evalib.models import resnet18


class TinyNet(nn.Module):
    """Three stages of 12, 6 and 3 pixels a side, global average pooling, a linear layer to 4 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.c = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.unused: nn.Module = nn.Conv2d(3, 3, 1)
        self.linear = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.c(self.b(self.a(images))).mean(dim=(2, 3)))

    @property
    def stages(self) -> list[nn.Module]:
        return [self.a, self.b, self.c]


@pytest.fixture
def net() -> TinyNet:
    """A net whose BatchNorm statistics are not the initial ones, in train mode as during a training run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = TinyNet()
        with torch.no_grad():
            for _ in range(3):
                net(torch.randn(16, 3, 12, 12))
    return net


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def unit_range(maps: Tensor) -> Tensor:
    """Min-max of each map, (..., H, W); zero maps stay zero."""
    maps = maps - maps.amin(dim=(-2, -1), keepdim=True)
    return maps / maps.amax(dim=(-2, -1), keepdim=True).clamp_min(1e-30)


def enlarged(maps: Tensor, size: int = 12) -> Tensor:
    maps = F.interpolate(unit_range(maps)[:, None], size=(size, size), mode="bilinear", align_corners=False)
    return unit_range(maps[:, 0])


def reference(logits: Tensor, activations: list[Tensor], classes: list[int]) -> Tensor:
    """Grad-CAM by its formula, from a graph that still holds: (L, N, 12, 12)."""
    score = logits[torch.arange(len(logits)), classes].sum()
    maps = []
    for activation, gradient in zip(activations, torch.autograd.grad(score, activations), strict=True):
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        maps.append(enlarged((weights * activation).sum(dim=1).relu()))
    return torch.stack(maps).detach()


def tiny_reference(net: TinyNet, images: Tensor, classes: list[int]) -> Tensor:
    net = copy.deepcopy(net).eval()
    a = net.a(images)
    b = net.b(a)
    c = net.c(b)
    return reference(net.linear(c.mean(dim=(2, 3))), [a, b, c], classes)


# --- the map is the right one --------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [[0, 0, 0], [1, 2, 3], [3, 0, 2]])
def test_equals_the_formula(net: TinyNet, images: Tensor, classes: list[int]) -> None:
    cams = grad_cam(net, images, net.stages, classes)
    assert cams.shape == (3, 3, 12, 12)
    assert cams.dtype == torch.float32
    torch.testing.assert_close(cams, tiny_reference(net, images, classes), atol=1e-5, rtol=0)


def test_equals_grad_cams_own_call_with_one_layer(net: TinyNet, images: Tensor) -> None:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    other, classes, expected = copy.deepcopy(net), [1, 0, 3], []
    for layer in other.stages:
        with GradCAM(model=other, target_layers=[layer]) as engine:
            targets = [ClassifierOutputTarget(c) for c in classes]
            expected.append(torch.from_numpy(engine(input_tensor=images, targets=targets)))
    cams = grad_cam(net, images, net.stages, classes)
    torch.testing.assert_close(cams, torch.stack(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("class_idx", [0, 1, 2, 3])
def test_equals_classic_cam_at_the_last_layer(net: TinyNet, images: Tensor, class_idx: int) -> None:
    """With global average pooling and one linear layer Grad-CAM is CAM (Zhou et al. 2016) up to scale."""
    frozen = copy.deepcopy(net).eval()
    with torch.no_grad():
        features = frozen.c(frozen.b(frozen.a(images)))
        expected = enlarged(torch.einsum("nchw,c->nhw", features, frozen.linear.weight[class_idx]).relu())
    torch.testing.assert_close(grad_cam(net, images, net.c, class_idx)[0], expected, atol=1e-5, rtol=0)


def test_class_idx_forms(net: TinyNet, images: Tensor) -> None:
    predicted = copy.deepcopy(net).eval()(images).argmax(dim=1)
    by_default = grad_cam(net, images, net.c)
    for same in (predicted, predicted.tolist(), tuple(predicted.int()), predicted.numpy().astype(np.uint8)):
        assert torch.equal(grad_cam(net, images, net.c, same), by_default)
    for zero in (0, torch.tensor(0), torch.tensor([0, 0, 0], dtype=torch.uint8)):
        assert torch.equal(grad_cam(net, images, net.c, zero), grad_cam(net, images, net.c, [0, 0, 0]))


def test_another_class_has_another_map(net: TinyNet, images: Tensor) -> None:
    predicted = copy.deepcopy(net).eval()(images).argmax(dim=1)
    difference = grad_cam(net, images, net.stages) - grad_cam(net, images, net.stages, (predicted + 1) % 4)
    assert (difference.abs().amax(dim=(2, 3)) > 0.05).all()


def test_order_and_repetition_of_layers(net: TinyNet, images: Tensor) -> None:
    a, b, c = grad_cam(net, images, [net.a, net.b, net.c], 1)
    cams = grad_cam(net, images, [net.c, net.a, net.b, net.c, net.a[-1]], 1)
    assert torch.equal(cams, torch.stack([c, a, b, c, a]))
    # one Sequential is one layer, not its children, which grad-cam takes it for
    assert torch.equal(grad_cam(net, images, net.b, 1), b[None])


def test_images_do_not_influence_each_other(net: TinyNet, images: Tensor) -> None:
    together = grad_cam(net, images, net.stages, [0, 1, 2])
    alone = [grad_cam(net, images[i : i + 1], net.stages, i) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), atol=1e-5, rtol=0)


def test_deterministic_in_range_and_quiet(net: TinyNet, images: Tensor, capfd: pytest.CaptureFixture[str]) -> None:
    first = grad_cam(net, images, net.stages)
    assert torch.equal(first, grad_cam(net, images, net.stages))
    shown = first[~empty_maps(first)]
    assert torch.equal(shown.amax(dim=(1, 2)), torch.ones(len(shown)))
    assert torch.equal(first.amin(dim=(2, 3)), torch.zeros(3, 3))
    assert not first.requires_grad
    assert capfd.readouterr() == ("", "")


def test_wide_images(net: TinyNet) -> None:
    assert grad_cam(net, torch.rand(2, 3, 8, 20), net.stages).shape == (3, 2, 8, 20)


def test_tiny_gradients_do_not_dim_the_map(net: TinyNet, images: Tensor) -> None:
    expected = grad_cam(net, images, net.stages, 1)
    with torch.no_grad():
        net.linear.weight *= 1e-12  # grad-cam's own scale has an absolute floor of 1e-7
    torch.testing.assert_close(grad_cam(net, images, net.stages, 1), expected, atol=1e-4, rtol=0)


# --- in-place operations around the layer --------------------------------------------------------------------


def test_inplace_relu_after_the_layer(net: TinyNet, images: Tensor) -> None:
    """The map of a BatchNorm is made from its own output, not from what the in-place ReLU writes over it."""
    plain = copy.deepcopy(net).eval()
    before = plain.a[:2](images)
    logits = plain.linear(plain.c(plain.b(before.relu())).mean(dim=(2, 3)))
    expected = reference(logits, [before], [1, 1, 1])
    assert (expected[0] - tiny_reference(net, images, [1, 1, 1])[0]).abs().max() > 0.1  # it makes a difference
    net.a[2] = nn.ReLU(inplace=True)
    torch.testing.assert_close(grad_cam(net, images, net.a[1], 1), expected, atol=1e-5, rtol=0)


def test_inplace_operation_on_the_input_of_a_layer_that_passes_it_on(net: TinyNet, images: Tensor) -> None:
    class Through(TinyNet):
        def forward(self, images: Tensor) -> Tensor:
            x = self.a(images)
            y = self.unused(x)  # an Identity, which gives x itself
            x += 1
            return self.linear(self.c(self.b(y)).mean(dim=(2, 3)))

    expected = tiny_reference(net, images, [2, 2, 2])[0]
    net.__class__ = Through
    net.unused = nn.Identity()
    torch.testing.assert_close(grad_cam(net, images, net.unused, 2)[0], expected, atol=1e-5, rtol=0)


def test_images_are_not_written_to(net: TinyNet, images: Tensor) -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), net)
    images.requires_grad_()
    before = images.detach().clone()
    grad_cam(model, images, net.stages)
    assert torch.equal(images, before)
    assert images.requires_grad
    assert images.grad is None


# --- frozen layers, contexts, wrappers -----------------------------------------------------------------------


def freeze_all(net: TinyNet) -> None:
    net.requires_grad_(False)


def freeze_first(net: TinyNet) -> None:
    net.a.requires_grad_(False)
    net.b.requires_grad_(False)


def freeze_in_forward(net: TinyNet) -> None:
    class Frozen(TinyNet):
        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.a(images)
            return self.linear(self.c(self.b(x)).mean(dim=(2, 3)))

    net.__class__ = Frozen


@pytest.mark.parametrize("freeze", [freeze_all, freeze_first, freeze_in_forward])
def test_frozen_layers(net: TinyNet, images: Tensor, freeze: Callable[[TinyNet], None]) -> None:
    expected = grad_cam(net, images, net.stages, 2)
    freeze(net)
    torch.testing.assert_close(grad_cam(net, images, net.stages, 2), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_contexts(net: TinyNet, images: Tensor, context: Callable[[], torch.no_grad]) -> None:
    expected = grad_cam(net, images, net.stages, [0, 1, 2])
    with context():
        cams = grad_cam(net, images * 1, net.stages, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(cams, expected, atol=1e-6, rtol=0)


class Parallel(nn.DataParallel[nn.Module]):
    def forward(self, *inputs: object, **kwargs: object) -> Tensor:
        raise AssertionError("with several GPUs this runs replicas, and every layer once per replica")


def test_wrappers_are_looked_through(net: TinyNet, images: Tensor) -> None:
    expected = grad_cam(net, images, net.stages)
    compiled = cast(nn.Module, torch.compile(net, backend="eager"))
    for wrapped in (Parallel(net), compiled, Parallel(compiled)):
        assert torch.equal(grad_cam(wrapped, images, net.stages), expected)
    model = resnet18(width=2)
    wrapped = nn.DataParallel(cast(nn.Module, torch.compile(model, backend="eager")))
    assert cam_layers(wrapped) == cam_layers(model)


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs torch 2.6")
def test_model_compiled_in_place() -> None:
    model, images = resnet18(num_classes=4, width=2).eval(), torch.rand(2, 3, 32, 32)
    layers = list(cam_layers(model).values())
    expected = grad_cam(model, images, layers)
    model.compile(backend="eager")
    model(images)  # compiled now, without our hooks, and without looking for hooks again
    assert torch.equal(grad_cam(model, images, layers), expected)


def test_float64_model_and_half_images(net: TinyNet, images: Tensor) -> None:
    images = images.half().float()
    expected = grad_cam(net, images, net.stages, 1)
    assert torch.equal(grad_cam(net, images.half(), net.stages, 1), expected)
    double = copy.deepcopy(net).double()
    cams = grad_cam(double, images, double.stages, 1)
    assert cams.dtype == torch.float32
    torch.testing.assert_close(cams, expected, atol=1e-4, rtol=0)


# --- maps without evidence -----------------------------------------------------------------------------------


def test_map_without_positive_evidence_is_zero_and_flagged(net: TinyNet, images: Tensor) -> None:
    with torch.no_grad():
        net.linear.weight[0] = -net.linear.weight[0].abs()
        net.linear.weight[1] = net.linear.weight[1].abs()
    cams = grad_cam(net, images, net.c, [0, 1, 0])
    assert cams[0, 0].count_nonzero() == 0
    assert empty_maps(cams).tolist() == [[True, False, True]]


def test_flat_map_is_not_blown_up_to_a_pattern() -> None:
    linear = nn.Linear(5, 2)
    model = nn.Sequential(nn.Conv2d(3, 5, 3, 3), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    with torch.no_grad():
        linear.weight.fill_(0.3)
    cams = grad_cam(model, torch.full((2, 3, 21, 21), 0.1), model[1], 0)
    assert empty_maps(cams).all()
    assert cams.count_nonzero() == 0


def test_map_of_one_place_is_empty_and_of_one_row_is_not(net: TinyNet, images: Tensor) -> None:
    cams = grad_cam(net, images[:, :, :4, :4], net.stages)  # feature maps of 4x4, 2x2 and 1x1
    assert empty_maps(cams)[2].all()
    assert not empty_maps(cams)[:2].all()
    net.linear.requires_grad_(False).weight.abs_()
    row = grad_cam(net, images[:, :, :4], net.c, 1)  # 1x3
    assert not empty_maps(row).any()
    torch.testing.assert_close(row, row[:, :, :1].expand(1, 3, 4, 12))


# --- nothing is left behind ----------------------------------------------------------------------------------


def state_of(model: nn.Module) -> list[object]:
    """All that a call could change, as plain values."""
    state: list[object] = [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]
    for module in model.modules():
        hooks = [(name, list(value)) for name, value in vars(module).items() if "_hooks" in name]
        state.append((module.training, hooks))
    for tensor in (*model.parameters(), *model.buffers()):
        gradient = None if tensor.grad is None else (id(tensor.grad), tensor.grad.tolist())
        state.append((id(tensor), tensor.requires_grad, tensor.tolist(), gradient))
    return [*state, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")]


@pytest.fixture
def used_net(net: TinyNet, images: Tensor) -> TinyNet:
    """A net during a training: gradients waiting, mixed modes, one layer frozen, hooks of the user."""
    net(images).sum().backward()
    net.b.eval()
    net.a[0].requires_grad_(False)
    net.a.register_forward_hook(lambda *_: None)
    net.c.register_full_backward_hook(lambda *_: None)
    net.linear.weight.register_post_accumulate_grad_hook(lambda _: pytest.fail("a hook of a parameter ran"))
    return net


def test_model_is_left_as_it_was(used_net: TinyNet, images: Tensor) -> None:
    before = state_of(used_net)
    grad_cam(used_net, images, used_net.stages)
    assert state_of(used_net) == before


@pytest.mark.parametrize("error", [IndexError, RuntimeError, KeyboardInterrupt])
def test_model_is_left_as_it_was_after_an_exception(
    used_net: TinyNet, images: Tensor, error: type[BaseException]
) -> None:
    def fail(*_: object) -> None:
        raise error("in the middle")

    used_net.c[0].register_forward_hook(fail)
    before = state_of(used_net)
    with pytest.raises(error, match="in the middle"):  # grad-cam itself swallows an IndexError
        grad_cam(used_net, images, used_net.stages)
    assert state_of(used_net) == before


def test_model_is_left_as_it_was_after_a_refusal(used_net: TinyNet, images: Tensor) -> None:
    before = state_of(used_net)
    with pytest.raises(ValueError, match="classes from 0 to 3"):
        grad_cam(used_net, images, used_net.stages, 4)
    assert state_of(used_net) == before


def test_random_state_is_kept_when_the_model_draws(net: TinyNet, images: Tensor) -> None:
    class Noisy(TinyNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(F.dropout(images, 0.1, training=True))

    net.__class__ = Noisy
    before = torch.get_rng_state()
    grad_cam(net, images, net.c)
    assert torch.equal(torch.get_rng_state(), before)


# --- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_idx", "error", "message"),
    [
        ([1], ValueError, r"one class per image: got \(1,\) for 3 images"),
        ([], ValueError, r"one class per image: got \(0,\) for 3 images"),
        (torch.zeros(3, 1, dtype=torch.int64), ValueError, r"got \(3, 1\) for 3 images"),
        ([0, 1, 99], ValueError, "classes from 0 to 3: got 99"),
        (-1, ValueError, "classes from 0 to 3: got -1"),
        (1.0, TypeError, "needs integers: got torch.float32"),
        ([True, False, True], TypeError, "needs integers: got torch.bool"),
    ],
)
def test_class_idx_is_checked(
    net: TinyNet, images: Tensor, class_idx: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        grad_cam(net, images, net.c, class_idx)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 12, 12), r"needs a tensor \(N, 3, H, W\).*got \(3, 12, 12\).*image\[None\]"),
        (torch.rand(0, 3, 12, 12), r"at least one image: got \(0, 3, 12, 12\)"),
        (np.zeros((1, 3, 12, 12), np.float32), r"needs a tensor .*: got ndarray"),
        (torch.zeros(1, 3, 12, 12, dtype=torch.uint8), r"got torch.uint8. Normalize them"),
        (torch.full((1, 3, 12, 12), torch.nan), r"logits that are not finite"),
    ],
)
def test_images_are_checked(net: TinyNet, images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grad_cam(net, images, net.c)


def test_layers_are_checked(net: TinyNet, images: Tensor) -> None:
    with pytest.raises(ValueError, match="needs at least one layer"):
        grad_cam(net, images, [])
    with pytest.raises(TypeError, match=r"got int as item 1.*cam_layers\(model\).values\(\)"):
        grad_cam(net, images, [net.a, 4])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"`target_layers\[1\]` needs .*this TinyNet has no 'linea'.*It has 'linear'"):
        grad_cam(net, images, [net.a, "linea"])
    with pytest.raises(ValueError, match=r"`target_layers\[1\]` \(Sequential\) is no part of `model`"):
        grad_cam(net, images, [net.a, copy.deepcopy(net).b])
    with pytest.raises(ValueError, match=r"`target_layers\[1\]` \(unused: Conv2d\) does not run"):
        grad_cam(net, images, [net.a, net.unused])
    with pytest.raises(ValueError, match=r"\(linear: Linear\) needs an output \(N, C, h, w\), .*: got \(3, 4\)"):
        grad_cam(net, images, net.linear)


def test_layer_that_runs_twice_is_refused(images: Tensor) -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu, nn.Flatten(), nn.LazyLinear(2))
    model(images)
    with pytest.raises(ValueError, match="runs more than once"):
        grad_cam(model, images, relu)


def test_layer_without_influence_on_the_logits_is_refused(net: TinyNet, images: Tensor) -> None:
    class Branch(TinyNet):
        def forward(self, images: Tensor) -> Tensor:
            self.unused(images)
            return super().forward(images)

    class Detached(TinyNet):
        @torch.no_grad()
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)

    net.__class__ = Branch
    with pytest.raises(ValueError, match=r"\(unused: Conv2d\) gets no gradient"):
        grad_cam(net, images, [net.a, net.unused, net.c])
    net.__class__ = Detached
    with pytest.raises(ValueError, match=r"\(a: Sequential\) gets no gradient"):
        grad_cam(net, images, net.a)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_model_in_half_precision_is_refused(net: TinyNet, images: Tensor, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"got {dtype} in `a.0.weight`.*deepcopy\(model\).float\(\)"):
        grad_cam(net.to(dtype), images, net.c)


def test_model_that_is_no_classifier_is_refused(net: TinyNet, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"needs to return logits \(3, num_classes\): got \(3, 4, 12, 12\)"):
        grad_cam(net.a, images, net.a[0])
    with pytest.raises(ValueError, match="needs parameters"):
        grad_cam(model := nn.Sequential(nn.ReLU()), images, model[0])


def test_map_that_is_not_finite_is_refused(net: TinyNet, images: Tensor) -> None:
    class Root(TinyNet):  # the gradient of the square root is infinite at 0
        def forward(self, images: Tensor) -> Tensor:
            return self.linear((0 * self.c(self.b(self.a(images)))).mean(dim=(2, 3)).sqrt())

    net.__class__ = Root
    with pytest.raises(ValueError, match=r"\(c: Sequential\) gives a map that is not finite"):
        grad_cam(net, images, net.c)


# --- five layers of a network --------------------------------------------------------------------------------


def test_cam_layers_of_our_resnet(images: Tensor) -> None:
    model = resnet18(num_classes=4, width=2)
    layers = cam_layers(model)
    assert list(layers) == ["layer0", "layer1", "layer2", "layer3", "layer4"]
    assert layers["layer0"] is model.layer1[0]
    assert layers["layer1"] is model.layer1[1]
    assert layers["layer4"] is model.layer4[1]
    outputs: list[Tensor] = []
    for layer in layers.values():
        layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    cams = grad_cam(model, torch.rand(2, 3, 32, 32), list(layers.values()), 0)
    assert [output.shape[-1] for output in outputs] == [32, 32, 16, 8, 4]
    assert all(output.min() >= 0 for output in outputs)  # after ReLU
    assert cams.shape == (5, 2, 32, 32)


def test_cam_layers_of_alexnet() -> None:
    model = AlexNetCAM(4)
    layers = cam_layers(nn.DataParallel(model))
    assert list(layers) == ["pool1", "pool2", "conv3", "conv4", "pool3"]
    for name, layer in layers.items():
        assert type(layer) is (nn.MaxPool2d if name.startswith("pool") else nn.ReLU)
    sizes: list[tuple[int, ...]] = []
    for layer in layers.values():
        layer.register_forward_hook(lambda _module, _inputs, output: sizes.append(tuple(output.shape)))
    cams = grad_cam(model, torch.rand(1, 3, 224, 224), list(layers.values()), 0)
    # channels and sides of Krizhevsky 2014 (arXiv:1404.5997) as in torchvision
    assert sizes == [(1, 64, 27, 27), (1, 192, 13, 13), (1, 384, 13, 13), (1, 256, 13, 13), (1, 256, 6, 6)]
    assert cams.shape == (5, 1, 224, 224)


def test_cam_layers_of_vgg19() -> None:
    with torch.device("meta"):
        model = VGG19CAM(4)
    layers = cam_layers(model)
    pools = [module for module in model.features if isinstance(module, nn.MaxPool2d)]
    assert list(layers) == ["pool1", "pool2", "pool3", "pool4", "pool5"]
    assert list(layers.values()) == pools
    assert layers["pool5"] is model.features[-1]


def test_cam_layers_of_another_model(net: TinyNet) -> None:
    with pytest.raises(ValueError, match=r"this TinyNet has no such `layer1`.*your choice to `grad_cam`"):
        cam_layers(net)
    model = resnet18(width=2)
    model.layer3 = nn.Sequential()
    with pytest.raises(ValueError, match="this ResNet has no such `layer3`"):
        cam_layers(model)
