"""A network whose evidence is known exactly, and images for it: each has a blob in the channel of its class."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Blobs(nn.Module):
    """Sees a blob in the channel of its class; classic CAM is its exact evidence."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()
        self.pool, self.linear = nn.AdaptiveAvgPool2d(1), nn.Linear(3, 3)

    @classmethod
    def trained(cls) -> Blobs:
        """Three box filters, one for each channel, and a class for each."""
        model = cls()
        with torch.no_grad():
            model.conv.weight.copy_(torch.eye(3)[:, :, None, None].expand(-1, -1, 3, 3) / 9)
            model.conv.bias.fill_(-0.2)
            model.linear.weight.copy_(60 * torch.eye(3) - 20)
            model.linear.bias.zero_()
        return model

    def features(self, images: Tensor) -> Tensor:
        return self.relu(self.conv(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.pool(self.features(images)).flatten(1))


def blob_images(count: int = 12, side: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Images with a blob in the channel of their class and a smaller one in the next channel, on noise.

    Returns:
        images (N, 3, side, side), classes (N,), masks (N, side, side) bool of the first blob.
    """
    generator = torch.Generator().manual_seed(4)
    images = 0.1 * torch.rand(count, 3, side, side, generator=generator)
    classes, masks = torch.arange(count) % 3, torch.zeros(count, side, side, dtype=torch.bool)
    for n in range(count):
        top, left = torch.randint(0, side - 6, (2,), generator=generator).tolist()
        masks[n, top : top + 6, left : left + 6] = True
        images[n, n % 3, masks[n]] += 1
        images[n, (n + 1) % 3, side - 4 - top // 2 :, :4] += 1
    return images, classes, masks
