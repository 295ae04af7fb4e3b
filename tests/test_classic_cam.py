"""Classic CAM by hand, by its identity with the logit, against Grad-CAM and against grad-cam's HiResCAM."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from evalib import cam
from evalib.cam import cam_layers, classic_cam, empty_maps, grad_cam, raw_cam
from evalib.cam_networks import VGG19CAM, AlexNetCAM
from evalib.models import resnet18


class PooledNet(nn.Module):
    """Features, global average pooling, one linear layer: the least that classic CAM needs."""

    def __init__(self, features: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean(dim=(2, 3)))


@pytest.fixture
def net() -> PooledNet:
    """Features of 5 channels and 6x6 places for 12x12 images, 4 classes; in train mode, as during a training run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = nn.Sequential(
            nn.Conv2d(3, 5, 3, 2, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Dropout(0.5)
        )
        net = PooledNet(features, nn.Linear(5, 4))
        for _ in range(3):
            net(torch.randn(16, 3, 12, 12))
    return net


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def torchvision_resnet18() -> nn.Module:
    from torchvision.models import resnet18

    return resnet18(num_classes=10)


# network and side of its images in pixels
REAL = {
    "AlexNetCAM": (AlexNetCAM, 128),
    "VGG19CAM": (VGG19CAM, 64),
    "our ResNet": (lambda: resnet18(width=8), 32),
    "torchvision's ResNet": (torchvision_resnet18, 64),
}


@pytest.fixture(scope="module", params=REAL)
def real(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    """A network and 17 images, its logits as large as a trained one's: freshly drawn they are near 0."""
    build, size = REAL[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images = build().eval(), torch.randn(17, 3, size, size)
        linear = next(module for module in reversed(list(model.modules())) if isinstance(module, nn.Linear))
        with torch.no_grad():
            linear.weight *= 5 / (model(images) - linear.bias).std()
    return model, images


# --- the map is the right one --------------------------------------------------------------------------------


def test_by_hand() -> None:
    """Two channels, red and blue, of 2x2 places; class 0 is 2 red - blue, class 1 is blue - red."""
    net = PooledNet(nn.Conv2d(3, 2, 1, bias=False), nn.Linear(2, 2))
    with torch.no_grad():
        net.features.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 1]])[:, :, None, None])
        net.classifier.weight.copy_(torch.tensor([[2.0, -1.0], [-1.0, 1.0]]))
        net.classifier.bias.copy_(torch.tensor([10.0, 0.0]))
    red, blue = [[1.0, 2.0], [0.0, 3.0]], [[4.0, 0.0], [1.0, 1.0]]
    images = torch.tensor([red, [[9.0, 9.0], [9.0, 9.0]], blue])[None]
    first, second = [[-2.0, 4.0], [-1.0, 5.0]], [[3.0, -2.0], [1.0, -2.0]]
    assert net(images).tolist() == [[11.5, 0.0]]
    assert raw_cam(net, images, 0).tolist() == [first]  # its mean is 1.5: without the bias
    assert raw_cam(net, images, 1).tolist() == [second]
    assert raw_cam(net, images).tolist() == [first]  # the predicted class
    torch.testing.assert_close(classic_cam(net, images, 0), torch.tensor([[[[0.0, 0.8], [0.0, 1.0]]]]))
    torch.testing.assert_close(classic_cam(net, images, 1), torch.tensor([[[[1.0, 0.0], [1 / 3, 0.0]]]]))


@pytest.mark.parametrize("number", [1, 3, 17])
def test_mean_and_bias_are_the_logit(real: tuple[nn.Module, Tensor], number: int) -> None:
    model, images = real[0], real[1][:number]
    linear = next(module for module in reversed(list(model.modules())) if isinstance(module, nn.Linear))
    with torch.no_grad():
        logits = model(images)
    classes = torch.arange(number) % 10
    for class_idx, explained in ((None, logits.argmax(dim=1)), (classes, classes)):
        maps = raw_cam(model, images, class_idx)
        assert maps.dtype == torch.float32
        assert maps.shape[0] == number
        expected = logits[torch.arange(number), explained]
        torch.testing.assert_close(maps.mean(dim=(1, 2)) + linear.bias[explained], expected, atol=1e-4, rtol=1e-4)


def test_equals_grad_cam_and_hires_cam_of_the_last_layer(real: tuple[nn.Module, Tensor]) -> None:
    from pytorch_grad_cam import HiResCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images = real[0], real[1][:3]
    best, second = model(images).topk(2).indices.T.tolist()
    classes = [best[0], second[1], best[2]]  # those have positive evidence
    layer = list(cam_layers(model).values())[-1]
    cams = classic_cam(model, images, classes)
    assert cams.shape == (1, 3, *images.shape[2:])
    assert not empty_maps(cams).any()
    torch.testing.assert_close(cams, grad_cam(model, images, layer, classes), atol=1e-5, rtol=0)
    other = copy.deepcopy(model)
    with HiResCAM(model=other, target_layers=[list(cam_layers(other).values())[-1]]) as engine:
        theirs = engine(input_tensor=images, targets=[ClassifierOutputTarget(c) for c in classes])
    torch.testing.assert_close(cams[0], torch.from_numpy(theirs), atol=1e-5, rtol=0)


def test_images_do_not_influence_each_other(net: PooledNet, images: Tensor) -> None:
    together = raw_cam(net, images, [0, 1, 2])
    alone = [raw_cam(net, images[i : i + 1], i) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_class_idx_forms(net: PooledNet, images: Tensor) -> None:
    with torch.no_grad():
        net.classifier.bias -= copy.deepcopy(net).eval()(images).mean(dim=0)
    predicted = copy.deepcopy(net).eval()(images).argmax(dim=1)
    assert len(predicted.unique()) > 1
    for same in (predicted, predicted.tolist(), tuple(predicted.int())):
        assert torch.equal(raw_cam(net, images, same), raw_cam(net, images))
    assert torch.equal(raw_cam(net, images, 0), raw_cam(net, images, [0, 0, 0]))


# --- what an older system got wrong --------------------------------------------------------------------------


def color_net(weight: list[list[float]]) -> PooledNet:
    """Class c of a place is `weight[c]` times its red, green and blue."""
    net = PooledNet(nn.Conv2d(3, 3, 1, bias=False), nn.Linear(3, len(weight)))
    with torch.no_grad():
        net.features.weight.copy_(torch.eye(3)[:, :, None, None])
        net.classifier.weight.copy_(torch.tensor(weight))
    return net


def half_and_half(left: int, right: int) -> Tensor:
    """(1, 3, 8, 8): channel `left` is 1 in the left half, `right` in the right half."""
    images = torch.zeros(1, 3, 8, 8)
    images[:, left, :, :4] = images[:, right, :, 4:] = 1.0
    return images


def test_map_depends_on_the_class() -> None:
    net, images = color_net([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), half_and_half(0, 2)
    left, right = torch.zeros(2, 8, 8)
    left[:, :4], right[:, 4:] = 1.0, 1.0
    assert torch.equal(classic_cam(net, images, 0), left[None, None])
    assert torch.equal(classic_cam(net, images, 1), right[None, None])
    mixed = classic_cam(net, images.expand(3, -1, -1, -1), [1, 0, 1])
    assert torch.equal(mixed, torch.stack([right, left, right])[None])


def test_maps_of_all_classes_differ(real: tuple[nn.Module, Tensor]) -> None:
    maps = raw_cam(real[0], real[1][:1].expand(10, -1, -1, -1), range(10))
    difference = (maps[:, None] - maps[None]).abs().amax(dim=(2, 3)) / maps.abs().max()
    assert (difference + torch.eye(10) > 0.05).all()


def test_map_and_picture_do_not_mix_in_the_photos_red_channel() -> None:
    from evalib.plots import overlay_cam

    net = color_net([[0.0, 1.0, 0.0]])  # green alone speaks for the class
    plain = half_and_half(1, 1)
    plain[:, 1, :, 4:] = 0.2
    expected = classic_cam(net, plain, 0)
    assert torch.equal(expected[0, 0, :, 0], torch.ones(8))
    heats = []
    for channel in (0, 2):
        photo = plain.clone()
        photo[:, channel, :, 2:6] = 1.0
        cams = classic_cam(net, photo, 0)
        assert torch.equal(cams, expected)
        heats.append(torch.from_numpy(overlay_cam(photo[0], cams[0, 0])) - 0.5 * photo[0].permute(1, 2, 0))
    torch.testing.assert_close(*heats)


# --- maps without evidence -----------------------------------------------------------------------------------


def test_negative_evidence_gives_an_empty_map(net: PooledNet, images: Tensor) -> None:
    with torch.no_grad():
        net.classifier.weight[0] = -net.classifier.weight[0].abs()
        net.classifier.weight[1] = net.classifier.weight[1].abs()
    cams = classic_cam(net, images, [0, 1, 0])
    assert empty_maps(cams).tolist() == [[True, False, True]]
    assert raw_cam(net, images, 0).max() <= 0
    assert raw_cam(net, images, 0).min() < 0


def test_alexnet_at_64_pixels_has_one_place_and_an_empty_map() -> None:
    model, images = AlexNetCAM(4), torch.rand(2, 3, 64, 64)
    assert raw_cam(model, images).shape == (2, 1, 1)
    for cams in (classic_cam(model, images), grad_cam(model, images, cam_layers(model)["pool3"])):
        assert torch.equal(cams, torch.zeros(1, 2, 64, 64))
        assert empty_maps(cams).all()


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_constant_features_give_empty_maps(value: float) -> None:
    net = PooledNet(nn.Conv2d(3, 40, 1), nn.Linear(40, 6))
    images = torch.full((6, 3, 9, 9), value)
    for cams in (classic_cam(net, images, range(6)), grad_cam(net, images, net.features, range(6))):
        assert torch.equal(cams, torch.zeros(1, 6, 9, 9))


def test_every_place_is_summed_alike() -> None:
    """Rounding of its own at every place would look like a pattern where the terms of a flat map cancel out."""
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 512, 1), nn.Upsample(size=(7, 7)))
    maps = raw_cam(PooledNet(flat, nn.Linear(512, 10)), torch.rand(10, 3, 8, 8), range(10))
    assert torch.equal(maps, maps[:, :1, :1].expand(10, 7, 7))


# --- contexts, wrappers, nothing left behind -----------------------------------------------------------------


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_contexts(net: PooledNet, images: Tensor, context: Callable[[], torch.no_grad]) -> None:
    expected = raw_cam(net, images, [0, 1, 2])
    with context():
        maps = raw_cam(net, images * 1, torch.tensor([0, 1, 2]))
    assert torch.equal(maps, expected)
    assert not maps.requires_grad


def test_frozen_float64_half_and_wrapped(net: PooledNet, images: Tensor) -> None:
    images = images.half().float()
    expected = raw_cam(net, images)
    double = copy.deepcopy(net).double()
    torch.testing.assert_close(raw_cam(double, images), expected)  # float32 as well
    assert torch.equal(raw_cam(net, images.half()), expected)
    compiled = cast(nn.Module, torch.compile(net, backend="eager"))
    assert torch.equal(raw_cam(nn.DataParallel(compiled), images), expected)
    assert torch.equal(raw_cam(net.requires_grad_(False), images), expected)


def test_linear_layer_without_bias(net: PooledNet, images: Tensor) -> None:
    net.classifier = nn.Linear(5, 4, bias=False)
    logits = copy.deepcopy(net).eval()(images)
    torch.testing.assert_close(raw_cam(net, images, 2).mean(dim=(1, 2)), logits[:, 2])


def test_one_forward_pass_without_a_graph(net: PooledNet, images: Tensor) -> None:
    passes: list[tuple[bool, bool]] = []
    net.register_forward_hook(lambda module, *_: passes.append((module.training, torch.is_grad_enabled())))
    classic_cam(net, images, 0)
    assert passes == [(False, False)]


def state_of(net: nn.Module) -> list[object]:
    hooks = [
        (name, list(value)) for module in net.modules() for name, value in vars(module).items() if "_hooks" in name
    ]
    tensors = [(id(tensor), tensor.tolist(), tensor.requires_grad, tensor.grad is None) for tensor in net.parameters()]
    buffers = [tensor.tolist() for tensor in net.buffers()]
    return [hooks, tensors, buffers, [module.training for module in net.modules()], torch.get_rng_state().tolist()]


def test_net_and_images_are_left_as_they_were(net: PooledNet, images: Tensor) -> None:
    net(images).sum().backward()
    net.features[1].eval()
    net.features[0].requires_grad_(False)
    before, copied = state_of(net), images.clone()
    classic_cam(net, images)
    assert state_of(net) == before
    with pytest.raises(ValueError, match="classes from 0 to 3: got 4"):
        classic_cam(net, images, 4)
    assert state_of(net) == before
    assert torch.equal(images, copied)


# --- refusals ------------------------------------------------------------------------------------------------


class Rectified(PooledNet):
    """As torchvision's DenseNet: a ReLU between what is called features and the pooling."""

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).relu().mean(dim=(2, 3)))


class MaxPooled(PooledNet):
    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).amax(dim=(2, 3)))


class Warmer(PooledNet):
    """Logits 1 % larger."""

    def forward(self, images: Tensor) -> Tensor:
        return 1.01 * super().forward(images)


class Probabilities(PooledNet):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(dim=1)


class Around(PooledNet):
    """The features do not run."""

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features[:1](images).mean(dim=(2, 3)))


@pytest.mark.parametrize("kind", [Rectified, MaxPooled, Warmer, Probabilities, Around])
def test_net_that_ends_otherwise_is_refused(net: PooledNet, images: Tensor, kind: type[PooledNet]) -> None:
    net.features[2] = nn.Identity()  # no ReLU, so that a later one counts
    assert raw_cam(net, images).shape == (3, 6, 6)
    net.__class__ = kind
    message = f"global average pooling and one linear layer: this {kind.__name__} does not. Use `grad_cam`"
    with pytest.raises(ValueError, match=message):
        classic_cam(net, images)


class Flat(PooledNet):
    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


def test_net_with_another_linear_layer_is_refused(net: PooledNet, images: Tensor) -> None:
    message = "global average pooling and one linear layer: this"
    with pytest.raises(ValueError, match=f"{message} Flat does not"):
        classic_cam(Flat(net.features, nn.Linear(5 * 36, 4)), images)
    net.classifier = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 4))  # as torchvision's AlexNet and VGG
    with pytest.raises(ValueError, match=f"{message} PooledNet does not"):
        classic_cam(net, images)
    with pytest.raises(ValueError, match=r"needs to return logits \(2, num_classes\): got \(2, 2, "):
        classic_cam(nn.Sequential(nn.Conv2d(3, 2, 3)), images)


def test_images_are_checked(net: PooledNet, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"needs a tensor \(N, 3, H, W\).*got \(3, 12, 12\)"):
        raw_cam(net, images[0])
    with pytest.raises(ValueError, match="logits that are not finite"):
        raw_cam(net, images * torch.nan)


def test_importable_from_one_place() -> None:
    """The path that notebooks use, wherever the shared parts stand."""
    for name in ("grad_cam", "classic_cam", "raw_cam", "cam_layers", "empty_maps"):
        assert inspect.isfunction(getattr(cam, name))
