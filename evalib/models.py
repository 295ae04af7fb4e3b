"""Networks by name: residual ones for small images (He et al. 2016, arXiv:1512.03385, section 4.2), and others."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.cam_networks import MIN_SIZE, VGG19CAM, AlexNetCAM, CAMNetwork, freeze_layers, load_features
from evalib.imagenet_networks import load_backbone, resnet18_imagenet
from evalib.recipes import Recipe
from evalib.weights import load_strictly, read_weights_file, state_dict_in


def _conv(in_channels: int, channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, kernel_size, stride, padding=kernel_size // 2, bias=False)


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """Identity where the shapes agree, else a 1x1 convolution with batch normalization."""
    if stride == 1 and in_channels == channels:
        return nn.Sequential()
    return nn.Sequential(_conv(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(in_channels, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3), nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, four times the channels at the end, and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(in_channels, channels, 1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = _conv(channels, 4 * channels, 1), nn.BatchNorm2d(4 * channels)
        self.shortcut = _shortcut(in_channels, 4 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 4 channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """Residual network for images from 32x32 up: 3x3 stem of stride 1, no max-pooling, logits out.

    The names of its parameters are those of kuangliu/pytorch-cifar, so that checkpoints of that project load strictly.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks in each of the four stages.
        num_classes: number of logits.
        width: channels of the first stage (64 in the paper); the later ones have 2, 4 and 8 times as many.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, int, int, int],
        num_classes: int = 10,
        *,
        width: int = 64,
    ) -> None:
        super().__init__()
        if num_classes < 1 or width < 1:
            raise ValueError(f"`num_classes` and `width` must be at least 1: got {num_classes} and {width}.")
        self.conv1, self.bn1 = _conv(3, width, 3), nn.BatchNorm2d(width)
        channels = width
        stages = []
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels, width * 2**stage, stride))
                channels = width * 2**stage * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of normalized images (N, 3, H, W), H and W at least 32."""
        if images.dim() != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 32:
            raise ValueError(
                f"`images` must be (N, 3, H, W) with H and W at least 32: got {tuple(images.shape)}. Resize them first."
            )
        x = F.relu(self.bn1(self.conv1(images)))  # (N, 3, 32, 32) -> (N, 64, 32, 32)
        x = self.layer1(x)  # -> (N, 64, 32, 32)
        x = self.layer2(x)  # -> (N, 128, 16, 16)
        x = self.layer3(x)  # -> (N, 256, 8, 8)
        x = self.layer4(x)  # -> (N, 512, 4, 4)
        return self.linear(x.mean(dim=(2, 3)))  # global average pooling -> (N, num_classes)


def resnet18(num_classes: int = 10, *, width: int = 64) -> ResNet:
    """ResNet-18 for small images: 11,173,962 parameters for 10 classes."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, width=width)


def resnet34(num_classes: int = 10, *, width: int = 64) -> ResNet:
    """ResNet-34 for small images: 21,282,122 parameters for 10 classes."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, width=width)


def resnet50(num_classes: int = 10, *, width: int = 64) -> ResNet:
    """ResNet-50 for small images: 23,520,842 parameters for 10 classes."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, width=width)


def resnet101(num_classes: int = 10, *, width: int = 64) -> ResNet:
    """ResNet-101 for small images: 42,512,970 parameters for 10 classes."""
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, width=width)


def resnet152(num_classes: int = 10, *, width: int = 64) -> ResNet:
    """ResNet-152 for small images: 58,156,618 parameters for 10 classes."""
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes, width=width)


def alexnet_cam(num_classes: int = 10, *, width: int = 64) -> AlexNetCAM:
    """AlexNet for class activation maps: 2,472,266 parameters for 10 classes. `width` is ignored: it has one width."""
    return AlexNetCAM(num_classes)


def vgg19_cam(num_classes: int = 10, *, width: int = 64) -> VGG19CAM:
    """VGG19 for class activation maps: 20,029,514 parameters for 10 classes. `width` is ignored: it has one width."""
    return VGG19CAM(num_classes)


MODELS: dict[str, Callable[..., nn.Module]] = {
    builder.__name__: builder
    for builder in (resnet18, resnet34, resnet50, resnet101, resnet152, alexnet_cam, vgg19_cam, resnet18_imagenet)
}


def build_model(name: str, num_classes: int = 10, *, width: int = 64, seed: int | None = None) -> nn.Module:
    """A network by name; with a `seed` its initial weights depend on nothing else, and no global state changes.

    `width` counts for residual networks only.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if name not in MODELS:
        raise ValueError(f"Unknown model {name!r}. Known: {', '.join(MODELS)}.")
    if seed is None:
        return MODELS[name](num_classes, width=width)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MODELS[name](num_classes, width=width)


def model_for(recipe: Recipe, num_classes: int) -> nn.Module:
    """The network with which a run of this recipe begins: built from its seed, `weights` loaded, layers frozen.

    A CAM network takes only the features from `weights`, as `load_features` does, and "resnet18_imagenet" all but the
    last layer, as `load_backbone` does; the other residual networks take all of a file, of the same number of classes.

    Raises:
        ValueError: if the weights do not fit, or there are more frozen layers than the network has.
        FileNotFoundError, DownloadError: if the weights are not there, or not to be had.
    """
    model = build_model(recipe.model, num_classes, width=recipe.width, seed=recipe.seed)
    weights, has_imagenet = recipe.weights, recipe.model == "resnet18_imagenet"
    if weights == "imagenet" and not (has_imagenet or isinstance(model, CAMNetwork)):
        raise ValueError(
            f'`weights` must be "none" or a file for {recipe.model}: got "imagenet", but no ImageNet weights fit its '
            "stem for small images."
        )
    if weights != "none" and isinstance(model, CAMNetwork):
        load_features(model, weights)
    elif weights != "none" and has_imagenet:
        load_backbone(model, weights)
    elif weights != "none":
        load_strictly(model, state_dict_in(read_weights_file(weights), weights), weights)
    freeze_layers(model, recipe.frozen_layers)
    return model


@dataclass(frozen=True)
class Summary:
    """A network layer by layer: `table` is text to print, `parameters` the number of parameters, all and trainable."""

    table: str
    parameters: int
    trainable: int

    def __str__(self) -> str:
        return self.table


def summary(model: nn.Module, image_size: int | None = None) -> Summary:
    """The layers, output shapes and parameter counts of a network, through torchsummary.

    torchsummary runs the network in training mode and changes BatchNorm's statistics and the random numbers, so it
    gets a deep copy. Where its total is wrong (it counts a shared layer twice), a line below the table says so.

    Args:
        model: takes (N, 3, image_size, image_size).
        image_size: height and width in pixels; None is 64 for a CAM network, 32 for others.
    """
    import torchsummary

    if image_size is None:
        image_size = MIN_SIZE if isinstance(model, CAMNetwork) else 32

    private = copy.deepcopy(model).float().cpu().eval()
    private.zero_grad(set_to_none=True)
    text = io.StringIO()
    with torch.random.fork_rng(), contextlib.redirect_stdout(text):
        torchsummary.summary(private, (3, image_size, image_size), device="cpu")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    table = text.getvalue().strip("\n")
    if f"Total params: {parameters:,}\n" not in table:
        table += f"\ntorchsummary's total is wrong here: {parameters:,} parameters, {trainable:,} of them trainable."
    return Summary(table, parameters, trainable)
