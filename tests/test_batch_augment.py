"""Batches augmented at once: geometry and gray beside albumentations, distributions beside its draws and known ones."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from evalib.batch_augment import RESIDENT_AUGMENTATIONS, BatchAugmentation, alternating_flips, move
from evalib.transforms import Augmentation, albumentations_pipeline, normalize, seed_pipeline

# A color that the images below do not have, of whole levels: albumentations fills uint8 images
MEAN, STD = (230 / 255, 25 / 255, 128 / 255), (0.2, 0.25, 0.3)
CROP = Augmentation("crop", padding=4, cutout=8)
EVA6 = Augmentation("eva6")
RISK = 1e-4  # of a test of this file failing by chance, had it not a fixed seed


def position_image(size=32):
    """(3, S, S) uint8, red tells the column, green the row: 60 + 4 x number; blue is 0."""
    ramp = (60 + 4 * torch.arange(size, dtype=torch.uint8)).expand(size, size)
    return torch.stack([ramp, ramp.T, torch.zeros_like(ramp)])


def ours(augmentation, count, seed=1, epoch=1):
    """(count, 3, 32, 32) float32 normalized, what becomes of `position_image`."""
    augment = BatchAugmentation(augmentation, MEAN, STD, (32, 32))
    draws = augment.draw(torch.arange(count), seed, epoch)
    return augment(augment.prepare(position_image()[None]), torch.zeros(count, dtype=torch.int64), draws)


def albumentations(augmentation, count):
    """Likewise, by the pipeline of the same name."""
    pipeline, image = albumentations_pipeline(augmentation, MEAN, STD), position_image().permute(1, 2, 0).numpy()
    seed_pipeline(pipeline, 0)
    return torch.stack([pipeline(image=image)["image"] for _ in range(count)])


def columns_and_rows(images):
    """Where each pixel came from, (N, 2, 32, 32): its column and row in `position_image`."""
    back = images * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    return (back[:, :2] * 255 - 60) / 4


def holes(images):
    """(N, 32, 32) bool, pixels filled with the mean."""
    return images.abs().amax(1) < 1e-4


def corners(hole):
    """Top and left of each hole, (N,) int64 both."""
    return hole.any(2).int().argmax(1), hole.any(1).int().argmax(1)


def same_counts(one, other):
    """p-value for two samples of categories coming from one distribution."""
    found = np.unique(np.concatenate([one, other]))
    table = [[(sample == value).sum() for value in found] for sample in (np.asarray(one), np.asarray(other))]
    return stats.chi2_contingency(table).pvalue


# --- crop ------------------------------------------------------------------------------------------


def crop_facts(images):
    """Per image of `position_image`: flip, offsets of the window, and corner of the hole."""
    hole = holes(images)
    top, left = corners(hole)
    assert (hole.sum((1, 2)) == 64).all(), "one hole of 8 x 8 pixels, nowhere cut off"
    assert hole[torch.arange(len(images)), top + 7, left + 7].all()
    # in a row and a column that the hole leaves, read where the border is not reflected
    free = torch.where(top[:, None] > 14, torch.tensor([12, 13]), torch.tensor([24, 25]))
    many = torch.arange(len(images))[:, None]
    columns, rows = columns_and_rows(images).round().int().unbind(1)
    across = torch.where(left > 14, 12, 24)
    seen_columns = torch.stack([columns[many[:, 0], free[:, 0], across + step] for step in (0, 1)])
    flip = seen_columns[1] < seen_columns[0]
    shown = torch.where(flip, 31 - across, across)
    return {
        "flip": flip,
        "top": rows[many[:, 0], free[:, 0], across] - free[:, 0],
        "left": seen_columns[0] - shown,
        "hole top": top,
        "hole left": left,
    }


def test_crop_is_distributed_as_albumentations_and_uniformly():
    found, theirs = crop_facts(ours(CROP, 6000)), crop_facts(albumentations(CROP, 1500))
    for name, possible in {"flip": 2, "top": 9, "left": 9, "hole top": 25, "hole left": 25}.items():
        values = found[name].numpy().astype(int)
        counts = np.unique(values, return_counts=True)[1]
        assert len(counts) == possible, name
        assert stats.chisquare(counts).pvalue > RISK, name
        assert same_counts(values, theirs[name].numpy().astype(int)) > RISK, name
    assert {int(value) for name in ("top", "left") for value in found[name]} == set(range(-4, 5))
    # and nothing depends on anything else
    for one, other in (("flip", "left"), ("top", "left"), ("hole top", "hole left"), ("flip", "hole left")):
        table = np.histogram2d(found[one].float(), found[other].float(), bins=(2, 5))[0]
        assert stats.chi2_contingency(table).pvalue > RISK, (one, other)


def test_albumentations_crops_are_windows_of_the_reflected_image_too():
    """Every one of 300, pixel by pixel: flipped or not, at one of 9 x 9 places."""
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    padded = normalize(F.pad(image[None].float(), (4, 4, 4, 4), mode="reflect").byte()[0], MEAN, STD)
    windows = [padded[:, top : top + 32, left : left + 32] for top in range(9) for left in range(9)]
    possible = torch.stack([*windows, *(window.flip(2) for window in windows)]).flatten(1)
    pipeline = albumentations_pipeline(Augmentation("crop"), MEAN, STD)
    seed_pipeline(pipeline, 0)
    pixels = image.permute(1, 2, 0).numpy()
    found = torch.stack([pipeline(image=pixels)["image"] for _ in range(300)]).flatten(1)
    assert (torch.cdist(found, possible, p=float("inf")).amin(1) < 1e-4).all()


def test_a_crop_by_hand():
    """Every pixel of four crops of which all is known: reflected borders as torch pads them, then flip, then hole."""
    images = torch.randint(0, 256, (3, 3, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augment = BatchAugmentation(Augmentation("crop", padding=2, cutout=4), MEAN, STD, (12, 16))
    padded = F.pad(images.float(), (2, 2, 2, 2), mode="reflect").byte()
    indices = torch.tensor([2, 0, 1, 2])
    #         flip, top, left, top and left of the hole: multiples of 1/2, 1/5, 1/5, 1/9, 1/13
    draws = torch.tensor(
        [
            [0.9, 0.0, 0.99, 0.0, 0.99],
            [0.1, 0.5, 0.0, 0.99, 0.0],
            [0.6, 0.3, 0.7, 0.5, 0.5],
            [0.0, 0.99, 0.99, 0.2, 0.1],
        ]
    )
    expected = []
    for index, flip, top, left, hole_top, hole_left in [
        (2, False, 0, 4, 0, 12), (0, True, 2, 0, 8, 0), (1, False, 1, 3, 4, 6), (2, True, 4, 4, 1, 1),
    ]:  # fmt: skip
        image = padded[index].flip(2) if flip else padded[index]
        image = normalize(image[:, top : top + 12, left : left + 16], MEAN, STD)
        image[:, hole_top : hole_top + 4, hole_left : hole_left + 4] = 0
        expected.append(image)
    assert torch.equal(augment(augment.prepare(images), indices, draws), torch.stack(expected))


def test_an_alternating_flip_shows_both_sides_in_two_epochs():
    first, second, third = (alternating_flips(4000, 1, epoch) for epoch in (1, 2, 3))
    assert torch.equal(second, ~first)
    assert torch.equal(third, first)
    assert stats.binomtest(int(first.sum()), 4000).pvalue > RISK
    assert not torch.equal(alternating_flips(4000, 2, 1), first)
    # each image by its own number, whatever its place in the order
    augment = BatchAugmentation(Augmentation("crop", flip="alternating"), MEAN, STD, (32, 32))
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(0))
    for epoch, flips in ((1, first), (2, second)):
        assert torch.equal(augment.draw(order, 1, epoch)[:, 0] < 0.5, flips[order])


# --- eva6 ------------------------------------------------------------------------------------------


def eva6_facts(images):
    """What was done to each image of `position_image`; the geometry by least squares over its middle."""
    hole = holes(images)
    is_gray = (columns_and_rows(images)[:, 0] - columns_and_rows(images)[:, 1]).abs().amax((1, 2)) < 0.2
    top, left = corners(hole)
    grid = torch.arange(32) - 15.5
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    middle = (x.abs() < 8) & (y.abs() < 8)  # nothing there comes from beyond the border
    facts = {name: [] for name in ("flip", "moved", "angle", "scale", "shift_x", "shift_y")}
    for image, cut in zip(columns_and_rows(images[~is_gray]) - 15.5, hole[~is_gray], strict=True):
        seen = middle & ~cut
        if seen.sum() < 30:
            continue
        places = torch.stack([x[seen], y[seen], torch.ones(int(seen.sum()))], 1)
        (a, b, c), (d, e, f) = torch.linalg.lstsq(places, image[:, seen].T).solution.T.tolist()
        flip = a < 0
        sign = -1 if flip else 1  # the image was mirrored first: its columns count backward
        scale = 1 / math.hypot(d, e)
        facts["flip"].append(flip)
        facts["moved"].append(max(abs(sign * a - 1), abs(b), abs(c), abs(d), abs(e - 1), abs(f)) > 0.01)
        if facts["moved"][-1]:
            facts["angle"].append(math.degrees(math.atan2(d, e)))
            facts["scale"].append(scale)
            # source = turn (place - shift) / scale, so that shift = -scale turned back (c, f)
            facts["shift_x"].append(-(sign * c * e + f * d) * scale**2)
            facts["shift_y"].append(-(-sign * c * d + f * e) * scale**2)
    return {
        "gray": is_gray.numpy(), "hole": hole.any((1, 2)).numpy(), "size": hole.sum((1, 2))[~is_gray].numpy(),
        "hole top": top[~is_gray].numpy(), "hole left": left[~is_gray].numpy(),
        **{name: np.array(values) for name, values in facts.items()},
    }  # fmt: skip


def test_eva6_is_distributed_as_albumentations_and_as_system_b_says():
    found, theirs = eva6_facts(ours(EVA6, 5000)), eva6_facts(albumentations(EVA6, 1500))
    assert (found["gray"] ^ found["hole"]).all()
    assert set(found["size"]) == {256}
    for name, share in {"gray": 0.3, "flip": 0.5, "moved": 0.5}.items():
        assert stats.binomtest(int(found[name].sum()), len(found[name]), share).pvalue > RISK, name
        assert same_counts(found[name], theirs[name]) > RISK, name
    for name, low, high in (("angle", -15, 15), ("scale", 0.9, 1.1)):
        assert stats.kstest(found[name], stats.uniform(low, high - low).cdf).pvalue > RISK, name
        assert stats.ks_2samp(found[name], theirs[name]).pvalue > RISK, name
        edge = 0.01 * (high - low)  # 1,700 numbers reach to within a hundredth of both ends, and not beyond
        assert low - edge / 10 < found[name].min() < low + edge, name
        assert high - edge < found[name].max() < high + edge / 10, name
    for name in ("shift_x", "shift_y"):  # uniform in -3.2..3.2, rounded toward 0
        assert np.abs(found[name] - found[name].round()).max() < 0.01, name
        values = found[name].round().astype(int)
        expected = np.array([0.2, 1, 1, 2, 1, 1, 0.2]) / 6.4
        counts = np.bincount(values + 3, minlength=7)
        assert stats.chisquare(counts, expected * len(values)).pvalue > RISK, name
        assert same_counts(values, theirs[name].round().astype(int)) > RISK, name
    for name in ("hole top", "hole left"):
        counts = np.bincount(found[name], minlength=17)
        assert len(counts) == 17
        assert stats.chisquare(counts).pvalue > RISK, name
        assert same_counts(found[name], theirs[name]) > RISK, name
    for one, other in (("angle", "scale"), ("angle", "shift_x"), ("shift_x", "shift_y"), ("scale", "shift_y")):
        assert stats.spearmanr(found[one], found[other]).pvalue > RISK, (one, other)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 56)])
@pytest.mark.parametrize(
    ("degrees", "scale", "shift_x", "shift_y"),
    [(12, 1, 0, 0), (0, 1.1, 0, 0), (0, 1, 3, -2), (-15, 0.9, -3, 3), (14, 1.07, 2, -1)],
)
def test_move_equals_albumentations_affine_pixel_by_pixel(height, width, degrees, scale, shift_x, shift_y):
    """On floats, which albumentations does not round, to 0.005 of 255 levels; on uint8 within its rounding."""
    import albumentations as A
    import cv2

    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    affine = A.Affine(
        rotate=(degrees, degrees), scale=(scale, scale), translate_px={"x": (shift_x,) * 2, "y": (shift_y,) * 2},
        border_mode=cv2.BORDER_REFLECT_101, p=1.0,
    )  # fmt: skip
    numbers = (torch.tensor([float(v)]) for v in (math.radians(degrees), scale, shift_x, shift_y))
    found = move(torch.from_numpy(image).permute(2, 0, 1)[None].float(), *numbers)[0].permute(1, 2, 0)
    expected = torch.from_numpy(affine(image=image.astype(np.float32) / 255)["image"]) * 255
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)
    torch.testing.assert_close(found, torch.from_numpy(affine(image=image)["image"]).float(), atol=0.51, rtol=0)


def test_gray_equals_albumentations_within_its_rounding():
    import albumentations as A

    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augment = BatchAugmentation(EVA6, MEAN, STD, (32, 32))
    draws = torch.tensor([[0.9, 0.9, 0, 0, 0, 0, 0.29, 0, 0], [0.9, 0.9, 0, 0, 0, 0, 0.31, 0, 0]])  # gray, hole
    gray, with_hole = augment(augment.prepare(image[None]), torch.zeros(2, dtype=torch.int64), draws)
    expected = torch.from_numpy(A.ToGray(p=1.0)(image=image.permute(1, 2, 0).numpy())["image"]).permute(2, 0, 1)
    back = (gray * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255
    torch.testing.assert_close(back, expected.float(), atol=0.51, rtol=0)
    assert torch.equal(with_hole[:, 16:], normalize(image, MEAN, STD)[:, 16:])
    assert not with_hole[:, :16, :16].any()


# --- what all have in common ------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESIDENT_AUGMENTATIONS)
def test_draws_depend_on_seed_and_epoch_and_lie_below_1(name):
    augment = BatchAugmentation(Augmentation(name), MEAN, STD, (32, 32))
    order = torch.arange(500)
    draws, kept = augment.draw(order, 1, 1), torch.get_rng_state()
    assert torch.equal(augment.draw(order, 1, 1), draws)
    assert torch.equal(torch.get_rng_state(), kept), "nothing is drawn from the global random numbers"
    if name != "none":
        assert draws.min() >= 0
        assert draws.max() < 1
        for other in (augment.draw(order, 1, 2), augment.draw(order, 2, 1)):
            assert not torch.equal(other, draws)


def test_the_largest_draw_is_still_inside():
    """1 - 2^-24, the largest float32 below 1, times a whole number is rounded to less than that number."""
    largest = torch.full((1, 5), 1 - 2.0**-24)
    for size, hole in ((32, 8), (32, 16), (41, 8), (224, 1)):
        augment = BatchAugmentation(Augmentation("crop", 4, "random", hole), MEAN, STD, (size, size))
        image = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        found = augment(augment.prepare(image), torch.zeros(1, dtype=torch.int64), largest)
        assert corners(holes(found)) == (size - hole, size - hole)


@pytest.mark.parametrize("augmentation", [Augmentation("none"), Augmentation("flip"), CROP, EVA6])
def test_prepared_images_take_the_bytes_that_were_stated(augmentation):
    augment = BatchAugmentation(augmentation, MEAN, STD, (32, 40))
    images = torch.zeros(5, 3, 32, 40, dtype=torch.uint8)
    prepared = augment.prepare(images)
    assert prepared.numel() == augment.stored_bytes(5)
    if augmentation.name == "none":
        assert prepared.data_ptr() == images.data_ptr(), "not copied"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("augmentation", [Augmentation("none"), Augmentation("flip"), CROP, EVA6])
def test_a_gpu_makes_the_same_batches(augmentation):
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augment = BatchAugmentation(augmentation, MEAN, STD, (32, 32))
    indices = torch.arange(40).flip(0)
    draws = augment.draw(indices, 1, 1)
    here, there = (augment(augment.prepare(images.to(device)), indices, draws).cpu() for device in ("cpu", "cuda"))
    torch.testing.assert_close(there, here, atol=1e-4, rtol=0)


def test_what_batches_cannot_have_is_said():
    with pytest.raises(ValueError, match=r"must be one of \('none', 'flip', 'crop', 'eva6'\): got 'cars'"):
        BatchAugmentation(Augmentation("cars"), MEAN, STD, (32, 32))
    for augmentation, size in ((EVA6, (15, 32)), (CROP, (4, 32)), (Augmentation("crop", 4, "random", 17), (16, 16))):
        with pytest.raises(ValueError, match=f"needs images larger .* got {size[0]} x {size[1]} pixels"):
            BatchAugmentation(augmentation, MEAN, STD, size)
    with pytest.raises(ValueError, match="Unknown flip 'never'. Known: random, alternating"):
        Augmentation("crop", flip="never")
