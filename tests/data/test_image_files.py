"""Images that are decoded or resized when asked for, against tensors of all of them."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from evalib.data.decoding import decode_image
from evalib.data.image_data import Split
from evalib.data.image_files import ImageFiles, ResizedImages
from evalib.transforms import Geometry

RESIZE = Geometry("resize", 24)
CROP = Geometry("center_crop", 24)
SIZES = [(40, 30), (30, 52), (24, 24), (90, 31), (33, 33)]  # width, height


@pytest.fixture
def files(tmp_path):
    """Five images of different sizes, JPEG and PNG."""
    generator = np.random.default_rng(0)
    paths = []
    for number, (width, height) in enumerate(SIZES):
        path = tmp_path / f"{number}.{'jpg' if number % 2 else 'png'}"
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


@pytest.fixture
def stored():
    """(5, 3, 20, 30) uint8."""
    return torch.randint(0, 256, (5, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("geometry", [RESIZE, CROP])
def test_files_equal_the_stack_of_what_is_decoded(files, geometry):
    images = ImageFiles(files, geometry)
    expected = torch.stack(
        [torch.from_numpy(decode_image(path, path.name, geometry)).permute(2, 0, 1) for path in files]
    )
    assert (len(images), images.shape, images.dtype) == (5, expected.shape, expected.dtype)
    assert torch.equal(images[torch.arange(5)], expected)
    chosen = torch.tensor([3, 0, 3])
    assert torch.equal(images[chosen], expected[chosen])
    assert torch.equal(images.select(chosen)[torch.arange(3)], expected[chosen])
    assert torch.equal(images.select(chosen).select(torch.tensor([1]))[0], expected[0])
    assert images[chosen[:0]].shape == (0, 3, 24, 24)
    assert images[chosen[:0]].dtype == torch.uint8
    for some in (slice(2), slice(-2, None), slice(None, None, 3), slice(9, None)):
        assert torch.equal(images[some], expected[some])
    assert torch.equal(images[2], expected[2])
    assert torch.equal(images[torch.tensor(2)], expected[2])
    assert torch.equal(torch.from_numpy(images.pixels(2)).permute(2, 0, 1), expected[2])
    assert images[2].shape == (3, 24, 24)


def test_resized_images_equal_the_whole_batch(stored):
    for geometry in (RESIZE, CROP, Geometry()):
        images, expected = ResizedImages(stored, geometry), geometry.batch(stored)
        assert (len(images), images.shape, images.dtype) == (5, expected.shape, expected.dtype)
        chosen = torch.tensor([3, 0, 3])
        assert torch.equal(images[chosen], expected[chosen])
        assert torch.equal(images.select(chosen)[torch.arange(3)], expected[chosen])
        assert images[chosen[:0]].shape == (0, *expected.shape[1:])
        assert torch.equal(images[2], expected[2])
        assert torch.equal(torch.from_numpy(images.pixels(2)).permute(2, 0, 1), expected[2])
        assert images.to(torch.device("cpu")).geometry == geometry


def test_another_geometry_shows_the_same_images(files, stored):
    for images in (ImageFiles(files, RESIZE), ResizedImages(stored, RESIZE)):
        other = images.with_geometry(Geometry("center_crop", 16))
        assert other.shape == (5, 3, 16, 16)
        assert images.geometry == RESIZE
        back = other.with_geometry(RESIZE)
        assert torch.equal(back[torch.arange(5)], images[torch.arange(5)])


def test_nothing_is_opened_before_it_is_asked_for(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(4)]  # they do not exist yet
    images = ImageFiles(paths, RESIZE)
    chosen = images.select(torch.tensor([2, 1])).with_geometry(CROP)
    assert (len(images), images.shape, chosen.shape) == (4, (4, 3, 24, 24), (2, 3, 24, 24))
    assert Split(images, torch.zeros(4, dtype=torch.long)).select(torch.tensor([2, 1])).images.files == chosen.files
    Image.new("RGB", (30, 30), (1, 2, 3)).save(paths[2])
    assert chosen[0][:, 0, 0].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"Cannot decode the image .*1\.png"):
        chosen[torch.tensor([0, 1])]


def test_files_as_they_are_have_no_common_size(files):
    with pytest.raises(ValueError, match=r"needs a size, such as Geometry\('resize', 224\): got 'as_is'"):
        ImageFiles(files, Geometry())


def test_sizes_come_from_the_headers_alone(files, stored):
    indices = torch.tensor([3, 0, 3])
    for path in files:  # the pixels are at the end, the size at the beginning
        path.write_bytes(path.read_bytes()[:700])
    assert ImageFiles(files, RESIZE).sizes(indices).tolist() == [list(SIZES[index]) for index in (3, 0, 3)]
    assert ImageFiles(files, RESIZE).sizes(indices).dtype == torch.int64
    assert ResizedImages(stored, RESIZE).sizes(indices).tolist() == [[30, 20]] * 3
    assert ImageFiles(files, RESIZE).sizes(indices[:0]).shape == (0, 2)


@pytest.mark.parametrize("kind", ["resize", "center_crop"])
def test_boxes_lie_on_what_is_decoded(tmp_path, kind):
    """Drawn rectangles in files of several sizes; the last is so large that its JPEG is decoded at a quarter."""
    paths, boxes = [], []
    for width, height in ((64, 48), (90, 200), (1213, 1001)):
        box = (width // 3, height // 4, width * 3 // 4, height * 2 // 3)
        image = Image.new("RGB", (width, height))
        ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill="white")
        paths.append(tmp_path / f"{width}.jpg")
        image.save(paths[-1], quality=95)
        boxes.append(box)
    geometry = Geometry(kind, 28)
    split = Split(ImageFiles(paths, geometry), torch.zeros(3, dtype=torch.long), torch.tensor(boxes).float())
    for image, box in zip(split.images[torch.arange(3)], split.input_boxes(), strict=True):
        rows, columns = (image[0] > 127).any(1).nonzero(), (image[0] > 127).any(0).nonzero()
        seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (box - seen).abs().max() < 1
    assert torch.equal(split.input_boxes(torch.tensor([2, 0])), split.input_boxes()[[2, 0]])
