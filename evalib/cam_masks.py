"""Score-CAM and Ablation-CAM: the weight of a channel is what the network says when that channel alone is changed.

Both ask the network once per channel and image, many channels at a time, and neither needs a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.cam_maps import logits_of
from evalib.cam_pass import Pass

# Pixel values in one batch if its size is not given: 341 images of 32 x 32, 6 of 224 x 224.
VALUES_AT_ONCE = 2**20


def masked_maps(
    method: str,
    model: nn.Module,
    images: Tensor,
    found: Pass,
    channels_at_once: int | None,
    layer: nn.Module,
) -> Tensor:
    """Maps of Score-CAM or Ablation-CAM: the channels of a layer, weighted and summed up.

    Args:
        method: a key of `WEIGHTS`.
        model: the network itself, inside `evalib.cam_maps.explaining`.
        images: (N, 3, H, W) with the network's device and dtype.
        found: of `evalib.cam_pass.one_pass`.
        channels_at_once: changed images or activations in one batch, which bounds the memory; None for as many as
            have 2**20 pixel values together as images.
        layer: one of `found.activations`.

    Returns:
        (N, h, w), before ReLU.
    """
    activation = found.activations[layer]
    step = channels_at_once or max(1, VALUES_AT_ONCE // images[0].numel())
    with torch.no_grad():
        return (WEIGHTS[method](model, images, found, layer, step)[:, :, None, None] * activation).sum(dim=1)


def _score_weights(model: nn.Module, images: Tensor, found: Pass, layer: nn.Module, step: int) -> Tensor:
    """Softmax over the channels of the class's logits (Wang et al. 2020, arXiv:1910.01279, eq. 4 to 7), (N, C).

    A channel is enlarged to the image, scaled to [0, 1] and multiplied with it. The logit of a black image, which the
    paper subtracts, cancels out. As in grad-cam, the corners of a channel are put onto those of the image.
    """
    activation = found.activations[layer]
    number, channels = activation.shape[:2]
    scores = []
    for places in torch.arange(number * channels, device=images.device).split(step):
        rows = places // channels
        masks = activation.flatten(0, 1)[places, None]
        masks = F.interpolate(masks, size=images.shape[2:], mode="bilinear", align_corners=True)
        low, high = masks.amin(dim=(2, 3), keepdim=True), masks.amax(dim=(2, 3), keepdim=True)
        logits = logits_of(model(images[rows] * ((masks - low) / (high - low + 1e-8))), len(rows))
        scores.append(logits.gather(1, found.classes[rows, None])[:, 0])
    return torch.cat(scores).view(number, channels).softmax(dim=1)


def _ablation_weights(model: nn.Module, images: Tensor, found: Pass, layer: nn.Module, step: int) -> Tensor:
    """(y - y_k) / y of the class's logit y and the one without channel k (Ramaswamy and Desai 2020, eq. 3), (N, C).

    Without means zero, in a class token, too, and also where a layer has negative values, which grad-cam replaces
    by -1e7. A negative y turns the map around, as it does there.
    """
    output, channel_dim = found.outputs[layer], found.layouts[layer].channel_dim
    device, number = output.device, output.shape[channel_dim]
    one_copy = _one_copy_serves(model, images, found, layer)
    logit = found.logits.gather(1, found.classes[:, None])
    scores = torch.empty((len(output), number), dtype=logit.dtype, device=device)
    for i, idx in enumerate(found.classes.tolist()):
        for channels in torch.arange(number, device=device).split(step):
            without = output[i].repeat(len(channels), *[1] * output[i].dim())
            without.movedim(channel_dim, 1)[torch.arange(len(channels), device=device), channels] = 0
            logits = _run_with(model, images[[i] if one_copy else [i] * len(channels)], layer, without)
            scores[i, channels] = logits[:, idx]
    return (logit - scores) / logit


def _run_with(model: nn.Module, images: Tensor, layer: nn.Module, output: Tensor) -> Tensor:
    """Logits with `output` in place of the layer's; the network may write to it and to `images`."""
    hook = layer.register_forward_hook(lambda *_: output)
    try:
        return logits_of(model(images), len(output))
    finally:
        hook.remove()


def _one_copy_serves(model: nn.Module, images: Tensor, found: Pass, layer: nn.Module) -> bool:
    """Whether one image is enough for several outputs of the layer, which spares what comes before it.

    Tried on two: a sum of residuals takes them, a concatenation does not.
    """
    try:
        logits = _run_with(model, images[[0]], layer, found.outputs[layer][[0, 0]])
    except (RuntimeError, ValueError):  # the shapes do not fit
        return False
    expected = found.logits[:1]
    difference = (logits - expected).abs().max()  # a GPU rounds to TF32, and another batch otherwise
    return logits.shape[0] == 2 and bool(difference <= 1e-2 * expected.abs().max())


WEIGHTS: dict[str, Callable[[nn.Module, Tensor, Pass, nn.Module, int], Tensor]] = {
    "score_cam": _score_weights,
    "ablation_cam": _ablation_weights,
}
