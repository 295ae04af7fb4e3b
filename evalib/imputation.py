"""Removed pixels filled in from those around them, so that a network cannot tell from their shape what was removed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_VALUES_AT_ONCE = {"cpu": 2**19}  # pixel values solved for at once; few on a CPU, so that they stay in its cache
_MOST_STEPS = 1000


def impute(images: Tensor, removed: Tensor, noise: Tensor | float = 0.0, *, tolerance: float = 5e-5) -> Tensor:
    """Images with removed pixels filled in: the noisy linear imputation of ROAD (Rong et al. 2022, arXiv:2202.00449).

    Every removed pixel is the weighted mean of its up to eight neighbors within the image, weight 1/6 for those beside,
    above and below it and 1/12 for the diagonal ones, removed or not: a linear system for each image and each set of
    removed pixels, the same for all channels. It is symmetric and positive definite, and solved by conjugate gradients
    for many images and sets at once.

    Args:
        images: (N, C, H, W) float32 or float64.
        removed: (N, K, H, W) bool, K sets of removed pixels for each image; each leaves at least one pixel.
        noise: added to the removed pixels, in the units of `images`: a number or a tensor that broadcasts to
            (N, K, C, H, W). ROAD takes normal noise of standard deviation 0.01.
        tolerance: about the largest error that is left, as a fraction of the largest pixel value.

    Returns:
        (N, K, C, H, W) of the dtype and on the device of `images`.

    Raises:
        ValueError: if the shapes do not fit, or a set leaves no pixel.
    """
    if images.dim() != 4 or removed.dim() != 4 or len(images) != len(removed) or images.shape[2:] != removed.shape[2:]:
        raise ValueError(
            f"`images` and `removed` need shapes (N, C, H, W) and (N, K, H, W): got {tuple(images.shape)} and "
            f"{tuple(removed.shape)}."
        )
    if removed.flatten(2).all(dim=2).any():
        raise ValueError("`removed` needs to leave at least one pixel of every image: a set leaves none.")
    given = images[:, None].expand(-1, removed.shape[1], -1, -1, -1).flatten(0, 1)
    at_once = max(1, _VALUES_AT_ONCE.get(images.device.type, 2**24) // images[0].numel())
    error = tolerance * float(images.abs().max())
    problems = zip(given.split(at_once), removed.flatten(0, 1).split(at_once), strict=True)
    filled = torch.cat([_solve(*some, error) for some in problems]).unflatten(0, removed.shape[:2])
    return torch.where(removed[:, :, None], filled + noise, images[:, None])


def _solve(images: Tensor, removed: Tensor, error: float) -> Tensor:
    """The removed pixels of (M, C, H, W); the others are 0. Conjugate gradients, preconditioned on pixels and blocks.

    All problems stand in the last dimension of the tensors (H, W, C M), which makes shifts of images quick. Unknowns
    are images that are 0 where nothing is removed. With S the sums of `_sums_around` and d what S makes of ones, the
    weights of a pixel's neighbors sum up to d - 4, and the system is d x - S x = S known, where removed.
    """
    number, channels, height, width = images.shape
    block = max(4, -(-max(height, width) // 16))  # at most 16 x 16 blocks
    whole = (0, 0, 0, -width % block, 0, -height % block)  # pixels that make the last blocks whole, never removed
    mask = F.pad(removed.permute(1, 2, 0).to(images.dtype), whole)
    diagonal = _sums_around(F.pad(images.new_ones(height, width, 1), whole))
    blocks = _inverse_on_blocks(mask, diagonal, block)
    mask, diagonal = mask.repeat(1, 1, channels), diagonal.repeat(1, 1, channels * number)
    given = images.transpose(0, 1).flatten(0, 1).permute(1, 2, 0)
    known = F.pad(given, whole) * (1 - mask)
    found = mask * (known.sum(dim=(0, 1)) / (height * width - mask.sum(dim=(0, 1))))
    residual = mask * _sums_around(known + found) - diagonal * found
    bordered = F.pad(torch.zeros_like(found), (0, 0, 1, 1, 1, 1))
    direction, old = bordered[1:-1, 1:-1], torch.ones_like(found[0, 0])
    tiny = torch.finfo(found.dtype).tiny  # where nothing is left to do, 0 / tiny is 0
    for _ in range(_MOST_STEPS):
        # The preconditioner is 1 on pixels plus 12 times the exact inverse on blocks: `new` is the residual's product
        # with the preconditioned one, about 12 times the squared error in the norm of the system.
        sums = _block_sums(residual, block)
        by_problem = sums.flatten(0, 1).unflatten(1, (channels, -1)).permute(2, 1, 0).contiguous()
        steps = 12 * torch.bmm(by_problem, blocks).permute(2, 1, 0).reshape(sums.shape)
        new = (residual * residual).sum(dim=(0, 1)) + (sums * steps).sum(dim=(0, 1))
        if new.max() <= 12 * error**2:
            break
        direction.mul_(new / old).add_(residual).addcmul_(_spread(steps, block), mask)
        applied = (direction * diagonal).addcmul_(_sums(bordered), mask, value=-1)
        length = new / (direction * applied).sum(dim=(0, 1)).clamp_min(tiny)
        found.addcmul_(direction, length)
        residual.addcmul_(applied, length, value=-1)
        old = new.clamp_min(tiny)
    return found[:height, :width].permute(2, 0, 1).unflatten(0, (channels, number)).transpose(0, 1)


def _sums(bordered: Tensor) -> Tensor:
    """[1 2 1] along both axes, of (H + 2, W + 2, B), as four sums of two."""
    rows = bordered[:-1] + bordered[1:]
    rows = rows[:-1] + rows[1:]
    both = rows[:, :-1] + rows[:, 1:]
    return both[:, :-1] + both[:, 1:]


def _sums_around(values: Tensor) -> Tensor:
    """[1 2 1] along both axes, 0 beyond the edge: four times a pixel and twelve times the weights of its neighbors."""
    return _sums(F.pad(values, (0, 0, 1, 1, 1, 1)))


def _block_sums(values: Tensor, block: int) -> Tensor:
    """(H, W, B) -> (H / block, W / block, B)."""
    rows = values.unflatten(0, (-1, block)).sum(dim=1)
    return rows.unflatten(1, (-1, block)).sum(dim=2)


def _spread(values: Tensor, block: int) -> Tensor:
    """(h, w, B) -> (h block, w block, B), each value all over its block."""
    return values.repeat_interleave(block, 0).repeat_interleave(block, 1)


def _inverse_on_blocks(mask: Tensor, diagonal: Tensor, block: int) -> Tensor:
    """Inverses (M, h w, h w) of the systems among images that are constant on the removed pixels of each block.

    A block meets only those around it. Blocks that are three apart are told from each other by their surroundings, so
    that nine images show the whole matrix.
    """
    height, width = mask.shape[0] // block, mask.shape[1] // block
    y, x = (axis.to(mask.device) for axis in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    matrix = mask.new_zeros(height * width, height * width, mask.shape[2])
    for row in range(3):
        for column in range(3):
            chosen = mask * _spread(((y % 3 == row) & (x % 3 == column)).to(mask.dtype)[:, :, None], block)
            sums = _block_sums(diagonal * chosen - mask * _sums_around(chosen), block)
            near_y, near_x = y + (row - y + 1) % 3 - 1, x + (column - x + 1) % 3 - 1  # the chosen block around each
            inside = (near_y >= 0) & (near_y < height) & (near_x >= 0) & (near_x < width)
            matrix[(y * width + x)[inside], (near_y * width + near_x)[inside]] = sums[inside]
    matrix = matrix.permute(2, 0, 1).contiguous()
    empty = matrix.diagonal(dim1=1, dim2=2) == 0  # nothing of the block is removed
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix + torch.diag_embed(empty.to(mask.dtype))))
