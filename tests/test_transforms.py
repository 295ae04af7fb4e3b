"""Preprocessing against arithmetic and torchvision; augmentation against counts over many draws."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from evalib.data.image_data import CIFAR10_MEAN, CIFAR10_STD
from evalib.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Geometry,
    albumentations_pipeline,
    denormalize,
    normalize,
    seed_pipeline,
    strict,
)


@pytest.fixture
def images():
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_normalize_by_arithmetic(images):
    found = normalize(images, CIFAR10_MEAN, CIFAR10_STD)
    pixel = images[2, 1, 7, 9].item()
    assert found[2, 1, 7, 9].item() == pytest.approx((pixel / 255 - 0.4827) / 0.2434, abs=1e-5)
    assert found.dtype == torch.float32


def test_normalize_equals_torchvisions(images):
    from torchvision.transforms.v2.functional import normalize as torchvision_normalize

    expected = torchvision_normalize(images.float() / 255, list(CIFAR10_MEAN), list(CIFAR10_STD))
    torch.testing.assert_close(normalize(images, CIFAR10_MEAN, CIFAR10_STD), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("single", [True, False])
def test_denormalize_is_the_inverse(images, single):
    images = images[0] if single else images
    normalized = normalize(images, CIFAR10_MEAN, CIFAR10_STD)
    kept = normalized.clone()
    found = denormalize(normalized, CIFAR10_MEAN, CIFAR10_STD)
    torch.testing.assert_close(found, images.float() / 255, atol=1e-6, rtol=0)
    assert torch.equal(normalized, kept)


def test_normalize_refuses_floats(images):
    with pytest.raises(TypeError, match="must be uint8"):
        normalize(images.float() / 255, CIFAR10_MEAN, CIFAR10_STD)
    with pytest.raises(ValueError, match=r"\(3, H, W\) or \(N, 3, H, W\)"):
        denormalize(torch.zeros(4, 4), CIFAR10_MEAN, CIFAR10_STD)


def test_the_test_pipeline_only_normalizes(images):
    pipeline = albumentations_pipeline("none", CIFAR10_MEAN, CIFAR10_STD)
    found = pipeline(image=images[0].permute(1, 2, 0).numpy())["image"]
    torch.testing.assert_close(found, normalize(images[0], CIFAR10_MEAN, CIFAR10_STD), atol=1e-5, rtol=0)


def test_unknown_pipeline_lists_the_known_ones():
    with pytest.raises(ValueError, match="Unknown augmentation 'mixup'. Known: none, flip, crop, eva6, cars"):
        albumentations_pipeline("mixup", CIFAR10_MEAN, CIFAR10_STD)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("CoarseDropout", {"max_holes": 1, "max_height": 16, "max_width": 16}),
        ("PadIfNeeded", {"min_height": 32, "min_width": 32, "value": 0}),
        ("HorizontalFlip", {"prob": 1}),
    ],
)
def test_an_argument_that_albumentations_ignores_is_an_error(name, arguments):
    import albumentations

    with pytest.raises(ValueError, match=f"would ignore an argument of {name}"):
        strict(getattr(albumentations, name), **arguments)


def test_eva6_draws_a_hole_or_gray_and_flips_half():
    """1,000 draws on an image of two flat colors, whose every pixel tells what was done to it."""
    left, right = (200, 40, 90), (20, 160, 230)
    image = np.empty((32, 32, 3), np.uint8)
    image[:, :16], image[:, 16:] = left, right
    pipeline = albumentations_pipeline("eva6", CIFAR10_MEAN, CIFAR10_STD)
    seed_pipeline(pipeline, 0)
    holes, grays, flips, hole_sizes, moved = 0, 0, 0, set(), 0
    for _ in range(1000):
        found = pipeline(image=image)["image"]
        assert found.shape == (3, 32, 32)
        shown = denormalize(found, CIFAR10_MEAN, CIFAR10_STD) * 255
        if (shown.amax(0) - shown.amin(0)).max() < 1.5:
            grays += 1
            continue
        hole = found.abs().amax(0) < 0.02  # filled with the mean: zero after Normalize
        if hole.any():
            holes += 1
            hole_sizes.add(int(hole.sum()))
        corner_is_right = [(shown[:, row, 1] - torch.tensor(right)).abs().max() < 3 for row in (1, 30)]
        corner_is_left = [(shown[:, row, 1] - torch.tensor(left)).abs().max() < 3 for row in (1, 30)]
        flips += any(corner_is_right)
        assert any(corner_is_right) or any(corner_is_left), "the border must be reflected, not black"
        moved += bool(((shown - torch.tensor(left)[:, None, None]).abs().amax(0) < 3).sum() not in (256, 512))
    assert holes + grays == 1000, "each image has exactly one of a hole and gray"
    assert 640 < holes < 760  # 700 expected, sd 14
    assert hole_sizes == {256}, "one hole of 16 x 16 pixels"
    assert 0.43 < flips / holes < 0.57


def test_eva6_scales_both_axes_alike():
    import albumentations

    pipeline = albumentations_pipeline("eva6", CIFAR10_MEAN, CIFAR10_STD)
    affine = next(step for step in pipeline.transforms if isinstance(step, albumentations.Affine))
    affine.set_random_seed(0)
    scales = [affine.get_params_dependent_on_data({"shape": (32, 32, 3)}, {})["scale"] for _ in range(50)]
    assert all(scale["x"] == scale["y"] for scale in scales)
    assert all(0.9 <= scale["x"] <= 1.1 for scale in scales)


def cars_draws(image, count, seed=0):
    """(count, 3, H, W) float32 in [0, 1], what the pipeline "cars" makes of one image (H, W, 3) uint8."""
    pipeline = albumentations_pipeline("cars", IMAGENET_MEAN, IMAGENET_STD, image.shape[0])
    seed_pipeline(pipeline, seed)
    drawn = torch.stack([pipeline(image=image)["image"] for _ in range(count)])
    return denormalize(drawn, IMAGENET_MEAN, IMAGENET_STD)


def test_cars_is_gray_for_30_percent_flips_half_and_always_moves():
    """400 draws of an image that is red on the left and green on the right."""
    image = np.zeros((48, 48, 3), np.uint8)
    image[:, :24], image[:, 24:] = (255, 0, 0), (0, 255, 0)
    shown = cars_draws(image, 400)
    assert shown.shape == (400, 3, 48, 48)
    is_gray = (shown.amax(1) - shown.amin(1)).flatten(1).amax(1) < 0.01
    assert 0.22 < is_gray.double().mean() < 0.38  # 0.3 expected, sd 0.023
    colored = shown[~is_gray]
    red_left = colored[:, 0, :, :24].sum((1, 2)) > colored[:, 0, :, 24:].sum((1, 2))
    # 0.5 expected, sd 0.03; 0.71 where gray and flip are drawn alike, as after albumentations' own `set_random_seed`
    assert 0.4 < red_left.double().mean() < 0.6
    plain = torch.from_numpy(image).permute(2, 0, 1) / 255
    changed = [min((one - plain).abs().max(), (one - plain.flip(2)).abs().max()) > 0.1 for one in colored]
    assert all(changed), "the perspective is drawn for every image"


def test_cars_leaves_something_to_see():
    white = np.full((32, 32, 3), 255, np.uint8)
    seen = (cars_draws(white, 2000) > 0.1).any(1).double().mean((1, 2))
    assert seen.min() > 0.25
    assert seen.mean() < 0.95, "nor is it the whole image"


def test_cars_is_seeded():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    assert torch.equal(cars_draws(image, 4, seed=1), cars_draws(image, 4, seed=1))
    assert not torch.equal(cars_draws(image, 4, seed=1), cars_draws(image, 4, seed=2))


# --- geometry -------------------------------------------------------------------------------------

SHAPES = [(32, 32), (500, 375), (333, 500), (701, 229), (91, 77), (224, 640)]  # width, height: wide, tall, square


def noise(width, height):
    """An RGB image in which no pixel resembles its neighbors: any shift shows."""
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def as_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def largest_difference(one, two):
    assert one.shape == two.shape
    return int((one.int() - two.int()).abs().max())


@pytest.mark.parametrize("image_size", [32, 160, 224, 299])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["resize", "center_crop"])
def test_geometry_equals_torchvisions_pipelines(kind, shape, image_size):
    """Also where resizing or cropping leaves half a pixel: the sizes 160 and 299, the image of 701 x 229."""
    from torchvision.transforms import CenterCrop, Compose, Resize

    geometry, image = Geometry(kind, image_size), noise(*shape)
    if kind == "resize":
        expected = Resize((image_size, image_size))(image)
    else:
        shorter = {32: 37, 160: 183, 224: 256, 299: 342}[image_size]  # 256/224 of it, rounded
        expected = Compose([Resize(shorter), CenterCrop(image_size)])(image)
    assert expected.size == (image_size, image_size)
    assert torch.equal(as_tensor(geometry.image(image)), as_tensor(expected))
    found = geometry.batch(as_tensor(image)[None])
    assert found.dtype == torch.uint8
    assert largest_difference(found[0], as_tensor(expected)) <= 1


def test_a_batch_is_its_images_one_by_one():
    images = torch.stack([as_tensor(noise(60, 40)), as_tensor(noise(60, 40)).flip(2)])
    for geometry in (Geometry("resize", 48), Geometry("center_crop", 48)):
        found = geometry.batch(images)
        assert [torch.equal(one, geometry.batch(image[None])[0]) for one, image in zip(found, images, strict=True)]
        assert not torch.equal(found[0], found[1])
        assert geometry.batch(images[:0]).shape == (0, 3, 48, 48)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["resize", "center_crop"])
def test_geometry_on_a_gpu_equals_the_cpus(kind):
    geometry, images = Geometry(kind, 96), as_tensor(noise(333, 500))[None]
    assert largest_difference(geometry.batch(images.cuda()).cpu(), geometry.batch(images)) <= 1


def test_as_is_changes_nothing():
    image = noise(50, 30)
    assert torch.equal(as_tensor(Geometry().image(image)), as_tensor(image))
    assert torch.equal(Geometry().batch(as_tensor(image)[None])[0], as_tensor(image))
    box = torch.tensor([[1.0, 2.0, 50.0, 30.0]])
    assert torch.equal(Geometry().boxes(box, torch.tensor([[50, 30]])), box)


@pytest.mark.parametrize(("kind", "size"), [("as_is", 5), ("resize", 0), ("center_crop", -224)])
def test_a_geometry_needs_a_size_that_fits_its_kind(kind, size):
    with pytest.raises(ValueError, match=f"`image_size` needs to be 0 with 'as_is'.*got {size}, '{kind}'"):
        Geometry(kind, size)


def test_unknown_geometry_lists_the_known_ones():
    with pytest.raises(ValueError, match="Unknown geometry 'squash'. Known: as_is, resize, center_crop"):
        Geometry("squash", 224)


@pytest.mark.parametrize(
    ("geometry", "size", "box", "expected"),
    [
        # 100 x 200 to 50 x 50: half of x, a quarter of y
        (Geometry("resize", 50), (100, 200), (10, 20, 60, 120), (5, 5, 30, 30)),
        (Geometry("resize", 50), (25, 25), (1, 2, 3, 4), (2, 4, 6, 8)),
        # 512 x 256 keeps its size, 144 columns left and right and 16 rows above and below are cut off
        (Geometry("center_crop", 224), (512, 256), (144, 16, 368, 240), (0, 0, 224, 224)),
        (Geometry("center_crop", 224), (512, 256), (150, 20, 200, 100), (6, 4, 56, 84)),
        (Geometry("center_crop", 224), (512, 256), (0, 0, 512, 256), (0, 0, 224, 224)),
        # 128 x 384 becomes 256 x 768; 16 columns and 272 rows are cut off
        (Geometry("center_crop", 224), (128, 384), (10, 140, 60, 200), (4, 8, 104, 128)),
    ],
)
def test_boxes_by_hand(geometry, size, box, expected):
    boxes = torch.tensor([box, (0, 0, 0, 0)], dtype=torch.float32)
    found = geometry.boxes(boxes, torch.tensor([size, size]))
    assert found.dtype == torch.float32
    assert found.tolist() == [list(expected), [0, 0, 0, 0]]


def test_no_boxes_at_all():
    empty = Geometry("resize", 50).boxes(torch.zeros(0, 4), torch.zeros(0, 2, dtype=torch.int64))
    assert empty.shape == (0, 4)


@pytest.mark.parametrize("geometry", [Geometry("resize", 100), Geometry("center_crop", 100)])
@pytest.mark.parametrize(("width", "height"), [(640, 360), (300, 481), (61, 55)])
def test_boxes_move_with_a_drawn_rectangle(geometry, width, height):
    left, top, right, bottom = width // 4, height // 5, width * 2 // 3, height * 3 // 4
    image = Image.new("RGB", (width, height))
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill="white")  # its end is part of it
    bright = as_tensor(geometry.image(image))[0] > 127
    rows, columns = bright.any(1).nonzero(), bright.any(0).nonzero()
    seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    box = geometry.boxes(torch.tensor([[left, top, right, bottom]]).float(), torch.tensor([[width, height]]))[0]
    assert (box - seen).abs().max() < 0.75


@pytest.mark.parametrize("shape", [(3, 7001), (7001, 3), (1, 5000), (2, 65000)])
def test_a_long_strip_is_cropped_to_its_middle_without_filling_the_memory(shape, monkeypatch):
    """The middle of the strip is red; resized whole before the crop a strip of 1 x 5000 would have 5000 times S x S."""
    pixels = np.full((*shape, 3), (0, 0, 255), dtype=np.uint8)
    middle, half = max(shape) // 2, min(shape)
    part = slice(middle - half, middle + half + 1)
    pixels[(part, slice(None)) if shape[0] > shape[1] else (slice(None), part)] = (255, 0, 0)
    sizes, real = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image,
        "resize",
        lambda self, size, *more, **named: (sizes.append(size), real(self, size, *more, **named))[1],
    )
    found = np.asarray(Geometry("center_crop", 28).image(Image.fromarray(pixels)))
    assert found.shape == (28, 28, 3)
    assert (found == (255, 0, 0)).all()
    assert all(width * height <= 20 * 32 * 32 for width, height in sizes)


def test_a_strip_of_16_to_1_is_resized_whole():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 160, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    expected = image.resize((512, 32), Image.Resampling.BILINEAR).crop((242, 2, 270, 30))
    assert np.array_equal(Geometry("center_crop", 28).image(image), expected)
