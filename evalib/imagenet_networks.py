"""A network for photographs: torchvision's ResNet18, learned on ImageNet, with a last layer for other classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from evalib.cam_networks import imagenet_file
from evalib.weights import read_weights_file, state_dict_in

if TYPE_CHECKING:
    from torchvision.models import ResNet

QUICK = 5.0  # seconds without an answer after which there is no network to be had


def resnet18_imagenet(num_classes: int = 10, *, width: int = 64) -> ResNet:
    """torchvision's ResNet-18, with random weights: 11,181,642 parameters for 10 classes. `width` is ignored.

    A 7x7 convolution of stride 2 and max-pooling begin it (He et al. 2016, arXiv:1512.03385, table 1): for 224 pixels
    its stages have 56, 28, 14 and 7 pixels a side. It ends in global average pooling and the linear layer `fc`.
    """
    from torchvision.models import resnet18

    return resnet18(weights=None, num_classes=num_classes)


def imagenet_weights(timeout: float = QUICK) -> Path:
    """The file of torchvision's ResNet-18 weights (IMAGENET1K_V1, 45 MB), downloaded if it is not there.

    Args:
        timeout: seconds without an answer or a byte after which it is given up.

    Raises:
        DownloadError: if it is neither there nor to be had; it says how to place it by hand.
    """
    from torchvision.models import ResNet18_Weights

    return imagenet_file(ResNet18_Weights.IMAGENET1K_V1, timeout)


def load_backbone(model: ResNet, weights: str | Path) -> None:
    """Load everything but the last layer, which stays as it is.

    Args:
        model: as `resnet18_imagenet` makes it.
        weights: "imagenet", as `imagenet_weights` finds it; or a file in any layout of
            `evalib.weights.state_dict_in` with these layers: torchvision's, timm's, a checkpoint of evalib.

    Raises:
        FileNotFoundError: if there is no such file.
        DownloadError: if torchvision's file is neither there nor to be had.
        ValueError: if the file is damaged or of another network; the model is then what it was.
    """
    if weights != "imagenet" and not Path(weights).is_file():
        raise FileNotFoundError(f'`weights` must be "imagenet" or a file: there is no file {weights}.')
    path = imagenet_weights() if weights == "imagenet" else Path(weights)
    found = _backbone(state_dict_in(read_weights_file(path), path))
    mine = _backbone(model.state_dict())
    theirs, ours = ({name: tuple(value.shape) for name, value in state.items()} for state in (found, mine))
    if odd := [name for name in [*ours, *theirs] if ours.get(name) != theirs.get(name)]:
        raise ValueError(
            f"{path} does not hold the layers of torchvision's ResNet18: {odd[0]} has shape "
            f"{ours.get(odd[0], '(none)')} in the network and {theirs.get(odd[0], '(none)')} in the file."
        )
    nn.Module.load_state_dict(model, found, strict=False)


def _backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """All but the last layer; and but the counters of batches, which files of old have not."""
    return {name: value for name, value in state.items() if not name.startswith("fc.") and "num_batches" not in name}
