"""Networks made for class activation maps: AlexNet's and VGG19's features, their mean over places, one linear layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from evalib.download import download
from evalib.weights import read_weights_file, state_dict_in

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

MIN_SIZE = 64  # pixels: AlexNet's last feature map is then 1 x 1, VGG19's 2 x 2
FREEZE_PERCENTS = (0, 25, 50, 75)


class CAMNetwork(nn.Module):
    """What `AlexNetCAM` and `VGG19CAM` share (Zhou et al. 2016, arXiv:1512.04150, section 2).

    The names of its parameters, `features.N.*` and `classifier.*`, are those of Sascha0912/DL_CIFAR; the features'
    are torchvision's as well.

    Args:
        num_classes: number of logits.
        weights: what the features begin with, as in `load_features`; None draws them as torchvision does. The linear
            layer is always drawn.

    Raises:
        ValueError, OSError: as `load_features`; a network that lacks its weights is never returned.
    """

    torchvision_name: str

    def __init__(self, num_classes: int = 10, *, weights: str | Path | WeightsEnum | None = None) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"`num_classes` must be at least 1: got {num_classes}.")
        self.features = _empty_features(self.torchvision_name)
        for convolution in convolutions(self.features):
            self._draw(convolution)
        self.classifier = nn.Linear(convolutions(self.features)[-1].out_channels, num_classes)
        if weights is not None:
            load_features(self, weights)

    @staticmethod
    def _draw(convolution: nn.Conv2d) -> None:
        """Draw the initial weights as torchvision does in this network."""
        convolution.reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of normalized images (N, 3, H, W), H and W at least 64."""
        if images.dim() != 4 or images.shape[1] != 3 or min(images.shape[2:]) < MIN_SIZE:
            raise ValueError(
                f"`images` must be (N, 3, H, W) with H and W at least {MIN_SIZE}: got {tuple(images.shape)}. "
                "Resize them first."
            )
        maps = self.features(images)  # (N, 3, 224, 224) -> (N, 256, 6, 6) or (N, 512, 7, 7)
        return self.classifier(maps.mean(dim=(2, 3)))  # global average pooling -> (N, num_classes)


class AlexNetCAM(CAMNetwork):
    """AlexNet's features, global average pooling, one linear layer: 2,469,696 + 257 n parameters for n classes."""

    torchvision_name = "alexnet"


class VGG19CAM(CAMNetwork):
    """VGG19's features, global average pooling, one linear layer: 20,024,384 + 513 n parameters for n classes."""

    torchvision_name = "vgg19"

    @staticmethod
    def _draw(convolution: nn.Conv2d) -> None:
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]


def _empty_features(name: str) -> nn.Sequential:
    """torchvision's `features` without values; its 4096-wide linear layers (124 million numbers) are never made."""
    from torchvision.models import get_model

    device = torch.get_default_device()
    with torch.device("meta"):
        features: nn.Sequential = get_model(name, weights=None).features
    return features.to_empty(device=device)


def load_features(model: CAMNetwork, weights: str | Path | WeightsEnum) -> None:
    """Load the features of `model`; its linear layer stays as it is.

    Args:
        model: the network.
        weights: "imagenet" or a member of this network's weights enum in torchvision, whose file is taken from the
            `checkpoints` folder of torch.hub or downloaded into it; or a file of weights in any layout of
            `evalib.weights.state_dict_in`: torchvision's, DL_CIFAR's, CAM_Stanford_Cars', a checkpoint of evalib.

    Raises:
        FileNotFoundError: if there is no such file.
        DownloadError: if torchvision's file is neither there nor to be had; it says how to place it by hand.
        ValueError: if the file is damaged or of another network, naming the first tensor that is odd. The model is
            then what it was.
    """
    path = _file_of(model, weights)
    state = state_dict_in(read_weights_file(path), path)
    found = {name.removeprefix("features."): value for name, value in state.items() if name.startswith("features.")}
    theirs, ours = _shapes(found), _shapes(model.features.state_dict())
    if theirs != ours:
        odd = next(name for name in [*ours, *theirs] if ours.get(name) != theirs.get(name))
        with torch.device("meta"):
            others = [other for other in (AlexNetCAM, VGG19CAM) if _shapes(other().features.state_dict()) == theirs]
        raise ValueError(
            f"{path} does not hold the features of {type(model).__name__}: features.{odd} has shape "
            f"{ours.get(odd, '(none)')} in the network and {theirs.get(odd, '(none)')} in the file, "
            + (f"which fits {others[0].__name__}." if others else f"whose first tensor is {next(iter(state))}.")
        )
    model.features.load_state_dict(found)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _file_of(model: CAMNetwork, weights: str | Path | WeightsEnum) -> Path:
    """The file that `weights` names, for this network."""
    from torchvision.models import WeightsEnum, get_model_weights

    own = get_model_weights(model.torchvision_name)
    if weights == "imagenet":
        weights = own["IMAGENET1K_V1"]
    if isinstance(weights, WeightsEnum):
        if not isinstance(weights, own):
            raise ValueError(f"{weights} is of another network than {type(model).__name__}: use {own.DEFAULT}.")
        return imagenet_file(weights)
    if not Path(weights).is_file():
        raise FileNotFoundError(
            f'`weights` must be "imagenet", a member of torchvision\'s {own.__name__} or a file: '
            f"there is no file {weights}."
        )
    return Path(weights)


def imagenet_file(weights: WeightsEnum, timeout: float = 15.0) -> Path:
    """torchvision's file of these weights, in torch.hub's folder; its name ends in the first digits of its SHA-256.

    Args:
        weights: which.
        timeout: seconds without an answer or a byte after which the download is given up.

    Raises:
        DownloadError: if it is neither there nor to be had; it says how to place it by hand.
    """
    url: str = weights.url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2]).absolute()
    return download([url], path, digest=f"sha256:{path.stem.rpartition('-')[2]}", timeout=timeout)


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    """The convolution layers of any network, in the order in which its modules are registered."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def frozen_layers(model: nn.Module, percent: float) -> int:
    """How many convolution layers a percentage of them is: round(percent / 100 * n), a half to the even number.

    For `FREEZE_PERCENTS`, 0, 25, 50 and 75: 0, 1, 2 and 4 of AlexNet's 5 layers, 0, 4, 8 and 12 of VGG19's 16.

    Raises:
        ValueError: if `percent` does not lie in [0, 100].
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"`percent` must lie in [0, 100]: got {percent}.")
    return round(percent / 100 * len(convolutions(model)))


def freeze_layers(model: nn.Module, k: int) -> None:
    """Freeze the first `k` convolution layers, weight and bias; every other parameter becomes trainable.

    Normalization layers beside a frozen convolution are not frozen.

    Args:
        model: any network.
        k: 0 freezes nothing.

    Raises:
        ValueError: if the network has fewer than `k` convolution layers, or `k` is negative.
    """
    layers = convolutions(model)
    if not 0 <= k <= len(layers):
        raise ValueError(f"`k` must lie in 0 to {len(layers)}, the network's convolution layers: got {k}.")
    model.requires_grad_(True)
    for layer in layers[:k]:
        layer.requires_grad_(False)
        layer.zero_grad(set_to_none=True)  # an optimizer would still follow a gradient left from before
