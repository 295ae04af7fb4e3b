"""Every method against grad-cam's own call, each layer by itself; one pass for all; nothing left behind; whole sets."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalib.cam import cam_layers, classic_cam, empty_maps, grad_cam
from evalib.cam_masks import WEIGHTS
from evalib.cam_networks import AlexNetCAM
from evalib.cam_others import FROM_COPY, FROM_PASS
from evalib.cam_pass import FORMULAS
from evalib.explain import METHODS, explain, explain_batches, explain_loader, explain_methods
from evalib.models import resnet18

CLASSES = [1, 0, 3]
THEIRS = {
    "grad_cam": "GradCAM",
    "grad_cam_plus_plus": "GradCAMPlusPlus",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "element_wise_grad_cam": "GradCAMElementWise",
    "layer_cam": "LayerCAM",
    "score_cam": "ScoreCAM",
    "ablation_cam": "AblationCAM",
    **FROM_PASS,
    **FROM_COPY,
}
WHOLE = ("cam", "refine_cam", "full_grad")  # one map per image, whatever the layers
SAMPLE = ("layer_cam", "eigen_cam", "score_cam", "ablation_cam", "finer_cam", "full_grad", "cam")  # of each kind


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """ResNet18 of width 4 whose statistics and logits are as large as a trained one's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = resnet18(num_classes=4, width=4)
        with torch.no_grad():
            for _ in range(20):
                model(torch.randn(16, 3, 32, 32))
            model.linear.weight *= 20
    return model


@pytest.fixture
def model(trained: nn.Module) -> nn.Module:
    return copy.deepcopy(trained)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def calls_of(model: nn.Module) -> list[int]:
    """The batch size of every forward pass from now on."""
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    return sizes


# --- the maps are the right ones -----------------------------------------------------------------------------


def theirs(method: str, model: nn.Module, images: Tensor, layers: list[nn.Module]) -> Tensor:
    """grad-cam's own call with one object."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST, ClassifierOutputTarget

    np.random.seed(0)
    target = ClassifierOutputReST if method == "shapley_cam" else ClassifierOutputTarget
    engine = getattr(pytorch_grad_cam, THEIRS[method])(model, layers)
    targets = None if method == "finer_cam" else [target(idx) for idx in CLASSES]  # its own are the predicted classes
    return torch.from_numpy(engine(input_tensor=images, targets=targets))


@pytest.mark.parametrize("method", THEIRS)
def test_equals_grad_cams_own_call_for_each_layer(
    model: nn.Module, images: Tensor, method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    other = copy.deepcopy(model)
    slow = {"sess": ["layer4"], "score_cam": ["layer3", "layer4"], "ablation_cam": ["layer3", "layer4"]}
    names = slow.get(method) or list(cam_layers(model))
    layers = [cam_layers(other)[name] for name in names]
    groups = {"full_grad": [[]], "refine_cam": [layers]}.get(method, [[layer] for layer in layers])
    expected = torch.stack([theirs(method, other, images, group) for group in groups])
    capfd.readouterr()
    np.random.seed(0)
    cams = explain(model, images, names, None if method == "finer_cam" else CLASSES, method=method)
    assert capfd.readouterr() == ("", "")  # grad-cam has bars and warnings
    torch.testing.assert_close(cams, expected, atol=1e-4, rtol=0)
    assert 0 < cams.mean() < 1


def test_every_method_of_grad_cam_is_here() -> None:
    import pytorch_grad_cam

    classes = {name for name, value in vars(pytorch_grad_cam).items() if isinstance(value, type)}
    parts = {name for name in classes if name.startswith("AblationLayer")} | {"ActivationsAndGradients"}
    # no map of a layer for a class: the gradient of the pixels, and parts of an image without a class
    left_out = {"GuidedBackpropReLUModel", "DeepFeatureFactorization"}
    assert set(THEIRS.values()) == classes - parts - left_out
    assert set(METHODS) == {*FORMULAS, *FROM_PASS, *FROM_COPY, *WEIGHTS, "cam"} == {*THEIRS, "cam"}


def test_classic_cam(model: nn.Module, images: Tensor) -> None:
    cams = explain(model, images, class_idx=CLASSES, method="cam")
    assert torch.equal(cams, classic_cam(model, images, CLASSES))
    last = explain(model, images, "layer4", CLASSES, method="hires_cam")
    torch.testing.assert_close(cams, last, atol=1e-5, rtol=0)  # exact for a network that ends this way


def test_grad_cam_is_the_default(model: nn.Module, images: Tensor) -> None:
    assert torch.equal(explain(model, images), grad_cam(model, images, list(cam_layers(model).values())))


def test_finer_cam_of_a_class_that_is_not_predicted(model: nn.Module, images: Tensor) -> None:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget

    other = copy.deepcopy(model).eval()
    logits = other(images)
    assert logits.argmax(dim=1).tolist() != CLASSES
    targets = []
    for idx, row in zip(CLASSES, logits.tolist(), strict=True):
        others = sorted({0, 1, 2, 3} - {idx}, key=lambda k: abs(row[k] - row[idx]))
        targets.append(FinerWeightedTarget(idx, others, 1))
    expected = GradCAM(other, [cam_layers(other)["layer3"]])(images, targets)
    cams = explain(model, images, "layer3", CLASSES, method="finer_cam")
    torch.testing.assert_close(cams[0], torch.from_numpy(expected), atol=1e-4, rtol=0)


# --- one pass ------------------------------------------------------------------------------------------------


def test_one_pass_for_all_layers_and_methods(model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = (*FORMULAS, *FROM_PASS, "cam")
    expected = {method: explain(model, images, class_idx=CLASSES, method=method) for method in methods}
    sizes, backward, real = calls_of(model), [], torch.autograd.grad

    def counted(*args: Any, **kwargs: Any) -> Any:
        backward.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    cams = explain_methods(model, images, class_idx=CLASSES, methods=methods)
    assert sizes == [3]
    assert len(backward) == 1
    assert list(cams) == list(methods)
    for method in methods:
        assert torch.equal(cams[method], expected[method]), method


def test_methods_of_every_kind_together(model: nn.Module, images: Tensor, capfd: pytest.CaptureFixture[str]) -> None:
    methods = ("full_grad", "cam", "refine_cam", "layer_cam", "ablation_cam", "finer_cam", "eigen_cam")
    cams = explain_methods(model, images, ["layer4", "layer3"], CLASSES, methods=methods)
    assert capfd.readouterr() == ("", "")  # FullGrad warns when it is given layers
    assert list(cams) == list(methods)
    for method in methods:
        assert len(cams[method]) == (1 if method in WHOLE else 2)
        alone = explain(model, images, ["layer4", "layer3"], CLASSES, method=method)
        torch.testing.assert_close(cams[method], alone, atol=1e-5, rtol=0)


# --- layers, classes, shapes ---------------------------------------------------------------------------------


def test_layers_by_name_and_module(model: nn.Module, images: Tensor) -> None:
    five = explain(model, images, class_idx=CLASSES, method="layer_cam")
    assert five.shape == (5, 3, 32, 32)
    for layers, expected in (
        (list(cam_layers(model)), five),
        (cam_layers(model).values(), five),
        (["layer4", "layer0"], five[[4, 0]]),
        ([model.layer3[-1], "layer2", "layer3.1", "layer2"], five[[3, 2, 3, 2]]),
        ("layer1", five[1:2]),
        (model.layer2, five[2:3]),
    ):
        assert torch.equal(explain(model, images, layers, CLASSES, method="layer_cam"), expected)
    for layers in ("layer2.0.bn1", model.layer2[0].bn1):  # it exists under no name of `cam_layers`
        assert explain(model, images, layers).shape == (1, 3, 32, 32)


def test_layers_of_a_cam_network_by_name() -> None:
    model = AlexNetCAM(3)
    image = torch.rand(1, 3, 96, 96)
    cams = explain(model, image, ["pool3", "conv3", "features.2"])
    assert torch.equal(cams, explain(model, image)[[4, 2, 0]])


@pytest.mark.parametrize("method", SAMPLE)
def test_images_do_not_influence_each_other(model: nn.Module, images: Tensor, method: str) -> None:
    together = explain(model, images, ["layer2", "layer3"], CLASSES, method=method)
    alone = [explain(model, images[i : i + 1], ["layer2", "layer3"], CLASSES[i], method=method) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), atol=2e-4, rtol=0)


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(WHOLE) - {"sess"}))
def test_maps_of_one_place_are_empty(images: Tensor, method: str) -> None:
    torch.manual_seed(0)
    body = nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU()
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    cams = explain(model, images[..., :4, :4], ["1", "3"], CLASSES, method=method)  # 2 x 2 places and 1 x 1
    assert empty_maps(cams)[1].all()
    assert method == "fem" or not empty_maps(cams)[0].all()  # no one of four places is two deviations above their mean


@pytest.mark.parametrize("method", SAMPLE)
def test_float64_model(model: nn.Module, images: Tensor, method: str) -> None:
    expected = explain(model, images, "layer3", CLASSES, method=method)
    cams = explain(model.double(), images, "layer3", CLASSES, method=method)
    assert cams.dtype == torch.float32
    torch.testing.assert_close(cams, expected, atol=1e-3, rtol=0)


# --- frozen layers, contexts, wrappers -----------------------------------------------------------------------


@pytest.mark.parametrize("method", SAMPLE)
def test_frozen_layers_contexts_and_wrappers(model: nn.Module, images: Tensor, method: str) -> None:
    compiled = cast(nn.Module, torch.compile(model, backend="eager"))

    def result(model: nn.Module = model) -> Tensor:
        return explain(model, images * 1, ["layer1", "layer4"], CLASSES, method=method)

    expected = result()
    results = [result(compiled), result(nn.DataParallel(compiled))]
    with torch.no_grad():
        results.append(result())
    with torch.inference_mode():
        results.append(result())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results.append(result())
    for part in (model.layer1, model.layer2):
        part.requires_grad_(False)
    results.append(result())
    model.requires_grad_(False)
    results.append(result())
    for cams in results:
        torch.testing.assert_close(cams, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["layer_cam", "eigen_cam", "score_cam", "ablation_cam", "finer_cam", "full_grad"])
def test_inplace_relu_after_the_layer(images: Tensor, method: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    )
    expected = explain(model, images, ["0", "1"], CLASSES, method=method)
    model[2].inplace = True
    torch.testing.assert_close(explain(model, images, ["0", "1"], CLASSES, method=method), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["layer_cam", "score_cam", "ablation_cam", "finer_cam"])
def test_network_that_writes_to_its_images(images: Tensor, method: str) -> None:
    class Writing(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.mul_(2))

    torch.manual_seed(0)
    model = Writing(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    before = images.clone()
    cams = explain(model, images, ["1", "0", "1"], CLASSES, method=method)
    assert torch.equal(images, before)
    model.__class__ = nn.Sequential
    torch.testing.assert_close(cams, explain(model, 2 * images, ["1", "0", "1"], CLASSES, method=method))


# --- nothing is left behind ----------------------------------------------------------------------------------


def plain(tensor: Tensor | None) -> tuple[int, bool, bytes] | None:
    return None if tensor is None else (id(tensor), tensor.requires_grad, tensor.detach().numpy().tobytes())


def state_of(model: nn.Module) -> list[object]:
    """All that a call could change, as plain values."""
    state: list[object] = [torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()]
    for module in model.modules():
        hooks = [(name, list(value)) for name, value in vars(module).items() if "_hooks" in name]
        state.append((id(module), module.training, getattr(module, "inplace", None), hooks))
    return [*state, *((plain(t), plain(t.grad)) for t in (*model.parameters(), *model.buffers()))]


@pytest.fixture
def used(model: nn.Module, images: Tensor) -> nn.Module:
    """A network during a training: gradients waiting, mixed modes, one part frozen."""
    model(images).sum().backward()
    model.layer2.eval()
    model.layer1.requires_grad_(False)
    return model


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"sess"}))
def test_model_and_random_states_are_left_as_they_were(used: nn.Module, images: Tensor, method: str) -> None:
    before, pixels = state_of(used), images.clone()
    explain(used, images, ["layer3", "layer4"], method=method)
    assert state_of(used) == before
    assert torch.equal(images, pixels)


@pytest.mark.parametrize("method", SAMPLE)
@pytest.mark.parametrize("call", [0, 1])
def test_exceptions_pass_and_leave_nothing_behind(used: nn.Module, images: Tensor, method: str, call: int) -> None:
    """grad-cam swallows an `IndexError`; and a hook must not stay when the network fails in its second pass."""
    seen: list[int] = []

    def fail(*_: object) -> None:
        seen.append(1)
        if len(seen) > call:
            raise IndexError("in the middle")

    used.layer4.register_forward_hook(fail)
    before = state_of(used)
    if call and method in ("layer_cam", "eigen_cam", "cam"):
        explain(used, images, ["layer3"], method=method)  # one pass is all they need
    else:
        with pytest.raises(IndexError, match="in the middle"):
            explain(used, images, ["layer3"], method=method)
    assert state_of(used) == before


# --- refusals ------------------------------------------------------------------------------------------------


def test_unknown_method(model: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match="`method` needs one of .*: got 'gradcam'") as caught:
        explain(model, images, method="gradcam")
    assert all(repr(method) in str(caught.value) for method in METHODS)


def test_refusals_of_layers(model: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"`layers\[1\]` needs .*this ResNet has no 'layer5'.* It has 'layer4'"):
        explain(model, images, ["layer4", "layer5"])
    with pytest.raises(TypeError, match="`layers` needs modules or their names: got int as item 0"):
        explain(model, images, [4])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="`layers` needs at least one"):
        explain(model, images, [])
    model.extra = nn.Conv2d(3, 3, 1)
    for method in ("grad_cam", "score_cam", "finer_cam"):
        with pytest.raises(ValueError, match=r"`layers\[1\]` \(extra: Conv2d\) does not run"):
            explain(model, images, ["layer4", "extra"], method=method)
        with pytest.raises(ValueError, match=r"\(linear: Linear\) needs an output \(N, C, h, w\)"):
            explain(model, images, "linear", method=method)


@pytest.mark.parametrize("method", SAMPLE)
def test_refusals_of_images_and_classes(model: nn.Module, images: Tensor, method: str) -> None:
    with pytest.raises(ValueError, match="classes from 0 to 3: got 4"):
        explain(model, images, class_idx=4, method=method)
    with pytest.raises(ValueError, match=r"one class per image: got \(2,\) for 3 images"):
        explain(model, images, class_idx=[1, 2], method=method)
    with pytest.raises(ValueError, match=r"needs a tensor \(N, 3, H, W\)"):
        explain(model, images[0], method=method)
    with pytest.raises(ValueError, match="logits that are not finite"):
        explain(model, images * torch.nan, method=method)


def test_cam_of_a_network_that_ends_otherwise_is_refused(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 30 * 30, 2))
    with pytest.raises(ValueError, match="this Sequential does not. Use `grad_cam`"):
        explain(model, images, method="cam")


def test_a_grad_cam_that_lacks_a_method(model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    import pytorch_grad_cam

    monkeypatch.delattr(pytorch_grad_cam, "FEM")
    with pytest.raises(ImportError, match="'fem' needs grad-cam 1.5.7 or later"):
        explain(model, images, method="fem")


# --- a set of images -----------------------------------------------------------------------------------------


@pytest.fixture
def loader() -> list[tuple[Tensor, Tensor]]:
    images = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    return list(zip(images.split(3), torch.tensor([0, 1, 2, 3, 0, 1, 2]).split(3), strict=True))


@pytest.mark.parametrize("method", ["layer_cam", "score_cam"])
def test_loader(model: nn.Module, loader: list[tuple[Tensor, Tensor]], method: str) -> None:
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    predicted = copy.deepcopy(model).eval()(images).argmax(dim=1)
    layers = ["layer4", "layer3"]
    for class_idx, classes in ((None, predicted), ("labels", labels), (2, torch.full((7,), 2))):
        found = explain_loader(model, loader, layers, cast(Any, class_idx), method=method, progress=False)
        expected = explain(model, images, layers, classes, method=method)
        torch.testing.assert_close(found.cams, expected, atol=1e-4, rtol=0)
        assert torch.equal(found.classes, classes)
        assert torch.equal(found.labels, labels)
        assert found.seconds > 0
        assert found.images_per_second == 7 / found.seconds


def test_batches_come_one_by_one(
    model: nn.Module, loader: list[tuple[Tensor, Tensor]], capfd: pytest.CaptureFixture[str]
) -> None:
    drawn: list[int] = []

    def batches() -> Any:
        for number, batch in enumerate(loader):
            drawn.append(number)
            yield batch

    sweep = explain_batches(model, batches(), "layer4", progress=True)
    cams, classes, labels = next(sweep)
    assert drawn == [0]
    assert cams.shape == (1, 3, 32, 32)
    assert classes.shape == labels.shape == (3,)
    assert model.training  # between batches, too, the network is as it was
    assert len(list(sweep)) == 2
    assert "3batch" in capfd.readouterr().err.replace(" ", "")


def test_refusals_of_loaders(model: nn.Module, loader: list[tuple[Tensor, Tensor]]) -> None:
    with pytest.raises(ValueError, match="gave no batch"):
        explain_loader(model, [])
    with pytest.raises(ValueError, match="""needs an int, "labels" or None: got 'true'"""):
        explain_loader(model, loader, class_idx="true")  # type: ignore[arg-type]
