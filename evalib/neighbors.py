"""The training images that a network finds most like a given one: what it may have learned its answer from.

>>> neighbors = nearest_images(model, data, mistakes.head(5))
>>> plot_neighbors(data, mistakes.head(5), neighbors)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.cam_maps import unwrap
from evalib.data.image_data import ImageData
from evalib.data.loaders import eval_loader
from evalib.mistakes import Mistakes
from evalib.progress import progress_bar
from evalib.runtime import eval_mode, keep_freed_memory


@dataclass(frozen=True, eq=False)  # eq=False: comparing the tensors with `==` has no single truth value
class Neighbors:
    """The k nearest training images of each of M images, nearest first.

    Attributes:
        indices: (M, k) int64, positions in the training split.
        similarity: (M, k) float32 in [-1, 1], cosine of the angle between the features; 1 for equal directions.
        labels: (M, k) int64, the labels of the training images, right or wrong.
    """

    indices: Tensor
    similarity: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def select(self, rows: Tensor | slice | list[int]) -> Neighbors:
        """Those of some of the images: at `rows`, positions in their order or a mask."""
        return Neighbors(self.indices[rows], self.similarity[rows], self.labels[rows])

    def agreement(self, classes: Tensor) -> Tensor:
        """(M,) float32 in [0, 1], the share of an image's neighbors that are labeled with its entry of `classes`.

        Args:
            classes: (M,) int64, as `mistakes.predicted`.
        """
        return (self.labels == classes[:, None]).float().mean(dim=1)


@torch.no_grad()
def features_of(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """What enters the last linear layer, batch by batch: (B, D) float32 on the model's device, of length 1.

    The last linear layer is the one that runs last. The model (run in eval mode) is left as it was.

    Args:
        model: classifier that ends in a linear layer.
        batches: images (B, 3, H, W), normalized as in training.

    Raises:
        ValueError: if no linear layer runs, or the last one takes more than one vector per image.
    """
    model = unwrap(model)
    device = next(model.parameters()).device
    entered: list[Tensor] = []
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for images in batches:
        # hooks for the time of one batch only: who stops in between leaves none behind
        hooks = [module.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0])) for module in linear]
        try:
            with eval_mode(model):
                model(images.to(device, memory_format=torch.channels_last))  # convolutions are faster so
        finally:
            for hook in hooks:
                hook.remove()
        if not entered or entered[-1].shape[:-1] != (len(images),):
            came = "none runs" if not entered else f"its input is {tuple(entered[-1].shape)}"
            raise ValueError(f"`model` needs a last linear layer that takes one vector (D,) per image: {came}.")
        yield F.normalize(entered[-1].float(), dim=1)
        entered.clear()


def nearest_images(
    model: nn.Module,
    data: ImageData,
    mistakes: Mistakes,
    *,
    k: int = 8,
    split: str = "test",
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Neighbors:
    """The k training images whose features are nearest to those of each mistake, by the cosine of their angle.

    Features are what enters the last linear layer: what the network decides by. One pass over the training images,
    as they are, without augmentation; of their features only one batch is kept at a time. Of mistakes on training
    images, the image itself is not among its neighbors. As in training, glibc is told to keep freed memory
    (`evalib.runtime.keep_freed_memory`).

    Args:
        model: classifier that ends in a linear layer.
        data: whose training images to search.
        mistakes: M images of `split`.
        k: neighbors of each, at most as many as there are training images.
        split: the split that the mistakes are from.
        batch_size: images at once; None takes what `eval_loader` does.
        progress: whether to show a bar; None shows it in notebooks and terminals.

    Raises:
        ValueError: if the mistakes are not of that split, there is none, `k` has no such number of training images, or
            the network has no such features.
    """
    others = len(data.train) - (split == "train")
    if not 1 <= k <= others:
        raise ValueError(f"`k` needs 1 to {others}, the number of training images to choose from: got {k}.")
    keep_freed_memory()
    queries = torch.cat(list(features_of(model, (images for _, images in mistakes.batches(data, split, batch_size)))))
    itself = mistakes.indices.to(queries.device) if split == "train" else None
    similarity = queries.new_empty(len(queries), 0)
    indices = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    loader = eval_loader(data, "train", batch_size=batch_size, device=queries.device)
    with progress_bar(progress, total=len(loader), desc="neighbors", unit="batch") as bar:
        first = 0
        for features in features_of(model, (images for images, _ in loader)):
            found = queries @ features.T
            places = torch.arange(first, first + len(features), device=queries.device).expand_as(found)
            if itself is not None:
                found = found.masked_fill(places == itself[:, None], -torch.inf)
            similarity, kept = torch.cat([similarity, found], dim=1).topk(min(k, similarity.shape[1] + len(features)))
            indices = torch.cat([indices, places], dim=1).gather(1, kept)
            first += len(features)
            bar.update()
    indices = indices.cpu()
    return Neighbors(indices, similarity.cpu().clamp(-1, 1), data.train.labels[indices])
