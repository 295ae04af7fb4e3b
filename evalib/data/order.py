"""Which images make which batch, and which part of a batch belongs to which of several processes."""

from __future__ import annotations

import torch
from torch import Tensor

from evalib.runtime import derived_seed

Shard = tuple[int, int]  # (rank, world): process `rank` of `world`, counted from 0


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """(count,) int64: the order of the training images in an epoch."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(derived_seed(seed, "order", epoch)))


def batches_of(rows: Tensor, batch_size: int, shard: Shard) -> list[Tensor]:
    """Cut rows (one per image, in the order of an epoch) into batches, and of each batch take this process's part.

    The parts of all processes, put together by rank, are the batches of a single process.
    """
    rank, world = shard
    return [batch.tensor_split(world)[rank] for batch in rows.split(batch_size)]


def batch_indices(count: int, batch_size: int, seed: int, epoch: int, step: int) -> Tensor:
    """(B,) int64: the training images in the batch of a step, counted from 1, of all processes together."""
    return epoch_order(count, seed, epoch).split(batch_size)[step - 1]


def part_of(count: int, shard: Shard) -> slice:
    """Of `count` images in order, those that are this process's to evaluate.

    Raises:
        ValueError: if there are fewer images than processes, or no such rank.
    """
    rank, world = _checked(shard)
    if count < world:
        raise ValueError(f"{world} processes need at least {world} images: got {count}. Start fewer processes.")
    each, longer = divmod(count, world)  # as Tensor.tensor_split
    start = rank * each + min(rank, longer)
    return slice(start, start + each + (rank < longer))


def check_batches(count: int, batch_size: int, shard: Shard) -> None:
    """Raise a ValueError if a batch of the epoch, be it the last and smallest, leaves a process without an image."""
    _, world = _checked(shard)
    if _smallest(count, batch_size) >= world:
        return
    equal_shares = range(world, count + world, world)
    near = sorted(equal_shares, key=lambda size: abs(size - batch_size))
    fitting = [size for size in near if _smallest(count, size) >= world][:3]
    sizes = f"Batch sizes that fit: {', '.join(map(str, sorted(fitting)))}." if fitting else "Start fewer processes."
    raise ValueError(
        f"Every batch needs an image for each of {world} processes: with `batch_size` {batch_size} the smallest of "
        f"{count} images has {_smallest(count, batch_size)}. {sizes}"
    )


def _smallest(count: int, batch_size: int) -> int:
    """Images in the smallest batch of an epoch."""
    return min(count, batch_size, count % batch_size or batch_size)


def _checked(shard: Shard) -> Shard:
    rank, world = shard
    if not 0 <= rank < world:
        raise ValueError(f"`shard` needs (rank, world) with 0 <= rank < world: got {shard}.")
    return shard
