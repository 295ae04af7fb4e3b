"""Batches and the parts of them that belong to each of several processes."""

import pytest
import torch

from evalib.data.order import batch_indices, batches_of, check_batches, epoch_order, part_of


def test_an_epoch_has_every_image_once_in_another_order():
    one, two = epoch_order(50, 1, 1), epoch_order(50, 1, 2)
    assert one.sort().values.tolist() == two.sort().values.tolist() == list(range(50))
    assert one.tolist() != two.tolist()
    assert torch.equal(epoch_order(50, 1, 1), one)


def test_parts_by_hand():
    parts = [[part.tolist() for part in batches_of(torch.arange(13), 5, (rank, 2))] for rank in (0, 1)]
    assert parts == [[[0, 1, 2], [5, 6, 7], [10, 11]], [[3, 4], [8, 9], [12]]]


@pytest.mark.parametrize(("count", "world"), [(10, 1), (10, 3), (11, 3), (12, 3), (3, 3), (100, 7)])
def test_parts_to_evaluate_are_those_of_tensor_split(count, world):
    expected = torch.arange(count).tensor_split(world)
    assert [torch.arange(count)[part_of(count, (rank, world))].tolist() for rank in range(world)] == [
        part.tolist() for part in expected
    ]


@pytest.mark.parametrize(
    ("count", "batch_size", "world", "smallest", "fitting"),
    [
        (33, 16, 2, 1, [12, 14, 18]),  # 33 = 16 + 16 + 1
        (10, 4, 3, 2, [6, 12]),  # 10 = 6 + 4 fits, 10 = 9 + 1 does not
        (5, 4, 2, 1, [6]),
    ],
)
def test_a_batch_too_small_for_all_processes_is_refused_with_sizes_that_fit(
    count, batch_size, world, smallest, fitting
):
    with pytest.raises(ValueError, match=f"smallest of {count} images has {smallest}") as caught:
        check_batches(count, batch_size, (0, world))
    assert str(caught.value).endswith(f"fit: {', '.join(map(str, fitting))}.")
    for size in fitting:
        for rank in range(world):
            check_batches(count, size, (rank, world))
            assert min(map(len, batches_of(torch.arange(count), size, (rank, world)))) > 0


def test_fewer_images_than_processes_cannot_be_trained_on():
    with pytest.raises(ValueError, match="for each of 3 processes.* Start fewer processes"):
        check_batches(2, 4, (0, 3))


def test_one_process_takes_any_batch_size():
    for batch_size in range(1, 40):
        check_batches(33, batch_size, (0, 1))


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_that_is_not_there(shard):
    with pytest.raises(ValueError, match="0 <= rank < world"):
        check_batches(10, 5, shard)
    with pytest.raises(ValueError, match="0 <= rank < world"):
        part_of(10, shard)


def test_fewer_images_than_processes_cannot_be_evaluated():
    with pytest.raises(ValueError, match="3 processes need at least 3 images: got 2"):
        part_of(2, (0, 3))


def test_a_batch_is_named_by_its_step():
    whole = batches_of(epoch_order(10, 7, 2), 4, (0, 1))
    assert [batch_indices(10, 4, 7, 2, step).tolist() for step in (1, 2, 3)] == [batch.tolist() for batch in whole]
