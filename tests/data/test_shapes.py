"""Synthetic shapes: the masks are the objects, and nothing but the shape tells the class."""

import pytest
import torch
import torch.nn.functional as F

from evalib.data import shapes
from evalib.data.image_data import masks_to_boxes
from evalib.data.shapes import SHAPES


@pytest.fixture(scope="module", params=[32, 64])
def data(request):
    return shapes(3, train=400, test=200, image_size=request.param)


def test_what_is_made(data):
    side = data.image_size
    assert data.classes == SHAPES
    for split, count in ((data.train, 400), (data.test, 200)):
        assert split.images.shape == (count, 3, side, side)
        assert split.labels.bincount().tolist() == [count // 4] * 4
        assert split.masks.shape == (count, side, side)
        assert torch.equal(split.boxes, masks_to_boxes(split.masks))
    pixels = data.train.images.double() / 255
    assert data.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist(), abs=0.01)
    assert data.std == pytest.approx(pixels.std(dim=(0, 2, 3)).tolist(), abs=0.05)


def differences(images, where):
    """Standard deviation of the difference of two neighbors, both in `where` (N, H, W) bool and neither clipped."""
    images = images.double() / 255
    both = where & (images > 0.02).all(dim=1) & (images < 0.98).all(dim=1)
    return (images[..., 1:] - images[..., :-1]).movedim(1, -1)[both[..., 1:] & both[..., :-1]].std().item()


def test_the_mask_is_the_object(data):
    """In it there is one color but for the grain, around it none; edges of the texture count as noise, too."""
    images, masks = data.test.images, data.test.masks
    assert differences(images, masks) == pytest.approx(0.05 * 2**0.5, rel=0.05)
    for image, mask in zip(images, masks, strict=True):
        assert (image[:, mask].double().std(dim=1) < 0.08 * 255).all()
        outside = F.max_pool2d(mask[None].float(), 3, 1, 1)[0].bool() & ~mask  # the ring around it
        assert (image[:, outside].double().std(dim=1) > 0.08 * 255).all()


@pytest.mark.parametrize("roughness", [0.0, 0.05, 0.15])
def test_roughness_is_that_of_the_background(roughness):
    split = shapes(1, train=4, test=100, image_size=96, roughness=roughness).test
    noise = differences(split.images, ~split.masks)
    assert noise == pytest.approx((2 * roughness**2 + 0.02**2) ** 0.5, rel=0.1, abs=0.02)
    assert differences(split.images, split.masks) == pytest.approx(0.05 * 2**0.5, rel=0.05)


def test_every_object_can_be_told_from_its_background(data):
    images, masks = data.test.images.double() / 255, data.test.masks[:, None]
    object_color, rest = ((images * part).sum(dim=(2, 3)) / part.sum(dim=(2, 3)) for part in (masks, ~masks))
    assert (object_color - rest).abs().amax(dim=1).min() > 0.15


def test_shapes_by_what_they_are():
    """A square fills its box, a circle pi/4 of it, a triangle half, a cross 1 - 4 ((1 - 0.38) / 2)**2."""
    data = shapes(1, train=4, test=400, image_size=96)
    left, top, right, bottom = data.test.boxes.unbind(dim=1)
    filled = data.test.masks.sum(dim=(1, 2)) / ((right - left) * (bottom - top))
    expected = {"circle": 0.785, "cross": 0.616, "square": 1.0, "triangle": 0.548}
    for label, name in enumerate(data.classes):
        assert filled[data.test.labels == label].mean() == pytest.approx(expected[name], abs=0.03), name
    triangles = data.test.masks[data.test.labels == SHAPES.index("triangle")]
    rows = triangles.sum(dim=2)
    for widths in rows:
        assert (widths[widths > 0].diff() >= 0).all()  # the tip is up


def test_the_order_does_not_tell_the_class(data):
    labels = data.train.labels
    for step in (1, 4):  # 0.25 of them by chance
        assert (labels[:-step] == labels[step:]).double().mean() < 0.4


def test_size_place_and_color_do_not_tell_the_class(data):
    split = data.train
    x, y = (split.boxes[:, :2] + split.boxes[:, 2:]).T / 2 / data.image_size
    area = split.masks.double().mean(dim=(1, 2))
    color = (split.images * split.masks[:, None]).sum(dim=(2, 3)) / split.masks.sum(dim=(1, 2))[:, None] / 255
    for name, figure in {"x": x, "y": y, "red": color[:, 0], "green": color[:, 1], "blue": color[:, 2]}.items():
        means = torch.stack([figure[split.labels == label].mean() for label in range(4)])
        assert (means - figure.mean()).abs().max() < 4 * figure.std() / 100**0.5, name
    means = torch.stack([area[split.labels == label].mean() for label in range(4)])
    assert means.max() < 1.25 * means.min()  # all four about as large
    assert area.min() > 0.03
    assert area.max() < 0.15


def test_objects_are_everywhere_and_whole(data):
    x, y = (data.train.boxes[:, :2] + data.train.boxes[:, 2:]).T / 2 / data.image_size
    for place in (x, y):
        assert place.min() < 0.2
        assert place.max() > 0.8
        assert abs(place.mean() - 0.5) < 0.04
    for label in range(4):  # none is cut off at an edge: a part of the widths would miss
        boxes = data.train.boxes[data.train.labels == label]
        assert ((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])).min() > 0.7


def test_the_seed_decides():
    first, again, other = (shapes(seed, train=8, test=8) for seed in (1, 1, 2))
    for split in ("train", "test"):
        a, b, c = (getattr(found, split) for found in (first, again, other))
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.masks, b.masks)
        assert torch.equal(a.labels, b.labels)
        assert not torch.equal(a.images, c.images)
    assert not torch.equal(first.train.images, first.test.images)
    assert torch.equal(shapes(1, train=40, test=8).test.images, first.test.images)


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    shapes(1, train=4, test=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_masks_and_boxes_go_with_the_images():
    data = shapes(1, train=40, test=8)
    smaller = data.split_validation(0.2, seed=1).take(train=8)
    for split in smaller.splits().values():
        assert torch.equal(split.boxes, masks_to_boxes(split.masks))
    assert torch.equal(data.test.input_boxes(), data.test.boxes)


@pytest.mark.parametrize("settings", [{"train": 3}, {"test": 3}, {"image_size": 15}, {"roughness": -0.1}])
def test_too_few_and_too_small(settings):
    with pytest.raises(
        ValueError, match="need at least 4 images, of `image_size` 16 or more, `roughness` at least 0: got"
    ):
        shapes(**settings)
