"""Loaders: every image once, the same draws from the same seed however they are made."""

import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from evalib.data.image_data import ImageData, Split
from evalib.data.image_files import ImageFiles
from evalib.data.loaders import FileLoader, ResidentLoader, WorkerLoader, eval_loader, train_loader
from evalib.recipes import Recipe, recipes
from evalib.transforms import IMAGENET_MEAN, IMAGENET_STD, Geometry, denormalize, normalize


def batches(loader, epoch):
    loader.set_epoch(epoch)
    pairs = list(loader)
    return torch.cat([images for images, _ in pairs]), torch.cat([labels for _, labels in pairs])


@pytest.fixture
def data():
    """40 images in 40 classes: the label tells which image it is."""
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(images, torch.arange(40))
    return ImageData("numbered", tuple(map(str, range(40))), split, split, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


def test_evaluation_keeps_order_and_repeats(data):
    loader = eval_loader(data, batch_size=16)
    assert len(loader) == 3
    images, labels = batches(loader, 1)
    assert torch.equal(images, normalize(data.test.images, data.mean, data.std))
    assert labels.tolist() == list(range(40))
    assert torch.equal(batches(loader, 2)[0], images)


def test_evaluation_of_a_split_that_is_not_there(data):
    with pytest.raises(ValueError, match="'numbered' has no split 'val'. It has: train, test"):
        eval_loader(data, "val")


def test_resident_training_shows_every_image_once_plain_or_flipped(data):
    loader = ResidentLoader(data.train, data.mean, data.std, batch_size=16, augmentation="flip", seed=3)
    images, labels = batches(loader, 1)
    assert sorted(labels.tolist()) == list(range(40))
    assert labels.tolist() != list(range(40))
    plain = normalize(data.train.images[labels], data.mean, data.std)
    is_plain = (images == plain).flatten(1).all(1)
    is_flipped = (images == plain.flip(3)).flatten(1).all(1)
    assert (is_plain ^ is_flipped).all()
    assert 8 <= is_flipped.sum() <= 32


@pytest.mark.parametrize("kind", ["resident", "workers"])
def test_epochs_differ_and_seeds_repeat(data, kind):
    def make(seed):
        if kind == "resident":
            return ResidentLoader(data.train, data.mean, data.std, batch_size=16, augmentation="flip", seed=seed)
        return WorkerLoader(data, "eva6", batch_size=16, seed=seed, workers=0)

    first = batches(make(3), 1)
    assert torch.equal(batches(make(3), 1)[0], first[0])
    assert batches(make(3), 2)[1].tolist() != first[1].tolist()
    assert batches(make(4), 1)[1].tolist() != first[1].tolist()


def test_any_number_of_workers_draws_the_same(data):
    state = torch.get_rng_state()
    alone = WorkerLoader(data, "eva6", batch_size=8, seed=3, workers=0)
    shared = WorkerLoader(data, "eva6", batch_size=8, seed=3, workers=2)
    for epoch in (1, 2):
        one, two = batches(alone, epoch), batches(shared, epoch)
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])
    assert torch.equal(torch.get_rng_state(), state), "loading draws nothing from the global random numbers"


def test_workers_and_epochs_draw_different_augmentations():
    """One image many times: with cloned randomness, as albumentations has it by default, batches would repeat."""
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(image.expand(16, -1, -1, -1).contiguous(), torch.zeros(16, dtype=torch.long))
    data = ImageData("one", ("a",), split, split, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    loader = WorkerLoader(data, "eva6", batch_size=4, seed=1, workers=2)
    drawn = [image for epoch in (1, 2) for image in batches(loader, epoch)[0]]
    with_hole = [
        image.numpy().tobytes() for image in drawn if not torch.allclose(image[0], image[1])
    ]  # the rest is gray
    assert len(with_hole) >= 12
    assert len(set(with_hole)) >= len(with_hole) - 1  # holes lie in 17 x 17 places


def test_the_recipe_chooses_the_loader(data):
    for name in ("demo", "eva6", "fast"):
        loader = train_loader(data, recipes[name])
        assert isinstance(loader, ResidentLoader)
        assert loader.augment.name == recipes[name].augmentation
    assert len(train_loader(data, recipes["eva6"])) == 1
    assert isinstance(train_loader(data, recipes["eva6"], path="workers", workers=0), WorkerLoader)
    assert isinstance(train_loader(data, recipes["eva6"].replace(path="workers"), workers=0), WorkerLoader)
    assert isinstance(train_loader(data, recipes["fast"].replace(augmentation="cars"), workers=0), WorkerLoader)


# --- image files and other sizes -------------------------------------------------------------------


def write_images(folder, count, shape=(36, 50), seed=0):
    """JPEG files of smooth noise, every one another."""
    generator = np.random.default_rng(seed)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        small = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(small).resize(shape[::-1], Image.Resampling.BICUBIC).save(path)
    return paths


def file_data(paths, image_size=40):
    """The same files for training and testing, each of a class of its own."""
    split = Split(ImageFiles(paths, Geometry("resize", image_size)), torch.arange(len(paths)))
    classes = tuple(str(number) for number in range(len(paths)))
    return ImageData("files", classes, split, split, IMAGENET_MEAN, IMAGENET_STD)


@pytest.fixture
def in_files(tmp_path):
    """14 images in JPEG files, 40 x 40 pixels for the network."""
    return file_data(write_images(tmp_path, 14))


def pixels(data):
    """(N, 3, S, S) float32 in [0, 1] of all test images."""
    return data.test.images[torch.arange(len(data.test))].float() / 255


@pytest.mark.parametrize("workers", [0, 2])
def test_files_are_evaluated_in_order_with_any_number_of_workers(in_files, workers):
    loader = eval_loader(in_files, batch_size=4, workers=workers)
    assert isinstance(loader, FileLoader)
    assert len(loader) == 4
    for epoch in (1, 2):
        images, labels = batches(loader, epoch)
        assert torch.equal(images, normalize((pixels(in_files) * 255).byte(), IMAGENET_MEAN, IMAGENET_STD))
        assert labels.tolist() == list(range(14))


def test_more_workers_than_batches_are_not_started(in_files):
    assert eval_loader(in_files, batch_size=7, workers=4).batches.loader.num_workers == 2


@pytest.mark.parametrize("augmentation", ["none", "cars"])
def test_training_on_files_draws_the_same_with_any_number_of_workers(in_files, augmentation):
    alone = WorkerLoader(in_files, augmentation, batch_size=4, seed=3, workers=0)
    shared = WorkerLoader(in_files, augmentation, batch_size=4, seed=3, workers=2)
    drawn = []
    for epoch in (1, 2):
        one, two = batches(alone, epoch), batches(shared, epoch)
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])
        assert one[0].shape == (14, 3, 40, 40)
        assert sorted(one[1].tolist()) == list(range(14))
        drawn.append(one[0][one[1].argsort()])
    assert torch.equal(*drawn) == (augmentation == "none")


def test_a_displayed_image_is_the_denormalized_input(in_files, data):
    """In training and in testing, from files, from memory and from memory at another size."""
    larger = data.prepared_for(Recipe(name="r", geometry="center_crop", image_size=48, statistics="imagenet"))
    for one in (in_files, data, larger):
        loaders = [
            WorkerLoader(one, "none", batch_size=5, seed=1, workers=0),
            train_loader(one, Recipe(name="r", batch_size=5), workers=0),
            eval_loader(one, batch_size=5, workers=0),
        ]
        for loader in loaders:
            images, labels = batches(loader, 1)
            shown = denormalize(images, one.mean, one.std)
            torch.testing.assert_close(shown, pixels(one)[labels], atol=1e-6, rtol=0)


def test_training_and_testing_use_the_same_statistics(in_files, data):
    """The means and deviations of what the network gets, of the same images, are the same in both."""
    for one in (in_files, data.prepared_for(Recipe(name="r", geometry="resize", image_size=40, statistics="imagenet"))):
        train, _ = batches(train_loader(one, Recipe(name="r", batch_size=5), workers=0), 1)
        test, _ = batches(eval_loader(one, batch_size=5, workers=0), 1)
        expected = (pixels(one).mean((0, 2, 3)) - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
        for found in (train, test):
            torch.testing.assert_close(found.mean((0, 2, 3)), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(train.std((0, 2, 3)), test.std((0, 2, 3)), atol=1e-4, rtol=0)


def test_augmentation_is_for_training_only(in_files):
    """System C tested on images that its training augmentation had changed."""
    cars = recipes["cars-alexnet"].replace(image_size=40)
    assert in_files.prepared_for(cars).geometry == in_files.geometry
    trained, labels = batches(train_loader(in_files, cars, workers=0), 1)
    tested, _ = batches(eval_loader(in_files, workers=0), 1)
    plain = normalize((pixels(in_files) * 255).byte(), IMAGENET_MEAN, IMAGENET_STD)
    assert torch.equal(tested, plain)
    assert trained.shape == plain.shape
    assert ((trained - plain[labels]).abs().amax((1, 2, 3)) > 0.5).all(), "every training image was changed"


def test_the_recipe_chooses_the_loader_of_files(in_files, data):
    plain = Recipe(name="r", batch_size=4)
    assert isinstance(train_loader(in_files, plain, workers=0), ResidentLoader)
    assert isinstance(train_loader(in_files, plain, workers=0, path="workers"), WorkerLoader)
    larger = data.prepared_for(plain.replace(geometry="resize", image_size=64))
    assert isinstance(train_loader(larger, plain), ResidentLoader)
    assert isinstance(eval_loader(larger), ResidentLoader)
    with pytest.raises(ValueError, match="needs images in memory: got image files. Use `train_loader`"):
        ResidentLoader(in_files.train, in_files.mean, in_files.std, batch_size=4)


def test_resident_images_are_enlarged_batch_by_batch(data):
    """As the geometry makes them of all images at once; eva6 pads and cuts its hole at the new size."""
    geometry = Geometry("resize", 64)
    larger = data.prepared_for(Recipe(name="r", geometry="resize", image_size=64))
    expected = normalize(geometry.batch(data.test.images), data.mean, data.std)
    assert torch.equal(batches(eval_loader(larger, batch_size=16), 1)[0], expected)
    images, labels = batches(
        ResidentLoader(larger.train, data.mean, data.std, batch_size=16, augmentation="flip", seed=3), 1
    )
    is_plain = (images == expected[labels]).flatten(1).all(1)
    is_flipped = (images == expected[labels].flip(3)).flatten(1).all(1)
    assert (is_plain ^ is_flipped).all()
    assert batches(WorkerLoader(larger, "eva6", batch_size=20, seed=1, workers=0), 1)[0].shape == (40, 3, 64, 64)


def test_batches_of_large_images_are_smaller_by_default(data):
    assert len(eval_loader(data)) == 1
    larger = data.prepared_for(Recipe(name="r", geometry="resize", image_size=256))
    assert len(eval_loader(larger)) == 2  # 20 of 3 x 256 x 256 values are just below 4 million


def read_all(loader):
    """An error loses its traceback: torch's frames hold each other, and the garbage collector that then stops the
    workers waits five seconds for each."""
    try:
        list(loader)
    except ValueError as error:
        raise error.with_traceback(None) from None


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["train", "test"])
def test_a_file_that_is_missing_or_damaged_is_named(in_files, kind, workers):
    path = in_files.train.images.files[9]
    for spoil in (lambda: path.write_bytes(path.read_bytes()[:300]), path.unlink):
        spoil()
        loader = eval_loader(in_files, batch_size=4, workers=workers)
        if kind == "train":
            loader = WorkerLoader(in_files, "cars", batch_size=4, seed=1, workers=workers)
        with pytest.raises(ValueError, match=r"Cannot decode the image .*9\.jpg"):
            read_all(loader)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc to read the memory in use")
def test_memory_does_not_grow_with_the_number_of_files(tmp_path):
    """400 images of 256 x 256 pixels are 79 MB as bytes and 315 MB as floats: kept ones would show."""

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    paths = write_images(tmp_path, 400, shape=(64, 64))
    few, many = (eval_loader(file_data(part, 256), batch_size=4, workers=0) for part in (paths[:40], paths))
    seen = []
    for loader in (few, few, few, many, many, many):
        assert sum(len(images) for images, _ in loader) == len(loader) * 4
        seen.append(resident())
    # as after a few files: after the first pass over all, and after the third
    assert max(seen[3], seen[5]) - seen[2] < 40, f"megabytes in use: {seen}"


@pytest.mark.parametrize("workers", [None, 0, 2], ids=["resident", "in this process", "two workers"])
@pytest.mark.parametrize("augmentation", ["crop", "eva6"])
def test_an_epoch_can_begin_with_any_batch(data, workers, augmentation):
    """What is left of an epoch is the end of the whole one, bit for bit; the next epoch is whole again."""
    recipe = Recipe(
        name="any", augmentation=augmentation, batch_size=16, path="resident" if workers is None else "workers"
    )
    loader = train_loader(data, recipe, workers=workers or 0)
    whole, following = batches(loader, 2), batches(loader, 3)
    for start in (1, 2, 3):
        loader.set_epoch(2, start)
        rest = list(loader)
        assert len(rest) == 3 - start
        assert len(loader) == 3
        for (images, labels), begin in zip(rest, range(16 * start, 40, 16), strict=True):
            assert torch.equal(images, whole[0][begin : begin + 16])
            assert torch.equal(labels, whole[1][begin : begin + 16])
    assert torch.equal(batches(loader, 3)[0], following[0])


def test_workers_leave_ctrl_c_to_the_main_process(data):
    """A terminal sends it to all of them: none may die of it while the main one finishes its step."""
    recipe = Recipe(name="any", augmentation="crop", batch_size=8, path="workers")
    loader = train_loader(data, recipe, workers=2)
    expected = batches(loader, 1)
    loader.set_epoch(1)
    found = []
    for images, _ in loader:
        found.append(images)
        for worker in psutil.Process().children():
            worker.send_signal(signal.SIGINT)
    assert torch.equal(torch.cat(found), expected[0])
