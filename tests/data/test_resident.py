"""The resident path: what is chosen, that it is the same by any way, and shards of all loaders."""

from pathlib import Path

import pytest
import torch

from evalib.data import resident
from evalib.data.image_data import ImageData, Split
from evalib.data.image_files import ImageFiles, ResizedImages
from evalib.data.loaders import (
    FileLoader,
    ResidentLoader,
    WorkerLoader,
    eval_loader,
    in_memory,
    train_loader,
)
from evalib.data.resident import choose_path, free_memory
from evalib.data.workers import available_cores, workers_here
from evalib.recipes import Recipe, recipes
from evalib.transforms import Augmentation, Geometry, normalize

CPU = torch.device("cpu")
CROP = Recipe(name="crop", augmentation="crop", crop_padding=2, cutout=4, flip="alternating", batch_size=8)
ALL = {
    "crop": CROP,
    "random": CROP.replace(flip="random"),
    **{name: Recipe(name=name, augmentation=name, batch_size=8) for name in ("none", "flip", "eva6")},
}


@pytest.fixture
def data():
    """37 images in 37 classes: the label tells which image it is."""
    images = torch.randint(0, 256, (37, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(images, torch.arange(37))
    return ImageData("numbered", tuple(map(str, range(37))), split, split, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


@pytest.fixture
def in_files(tmp_path, data):
    """The first 11 of them, as PNG files."""
    from PIL import Image

    paths = [tmp_path / f"{number}.png" for number in range(11)]
    for path, image in zip(paths, data.train.images, strict=False):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    split = Split(ImageFiles(paths, Geometry("resize", 20)), torch.arange(11))
    return ImageData("files", data.classes, split, split, data.mean, data.std)


def drawn(loader, epoch=1):
    loader.set_epoch(epoch)
    return [(images.clone(), labels) for images, labels in loader]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )


def joined(parts):
    """The batches of all ranks, put together by rank."""
    return [tuple(torch.cat(tensors) for tensors in zip(*batch, strict=True)) for batch in zip(*parts, strict=True)]


# --- shards ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("path", ["resident", "workers"])
def test_the_shards_of_a_batch_are_the_batch_of_one_process(data, name, path):
    """37 images in batches of 8: the last has 5, for 2 and 3 processes."""
    recipe = ALL[name].replace(path=path)
    for world in (2, 3):
        loaders = [train_loader(data, recipe, workers=0, shard=(rank, world)) for rank in range(world)]
        for epoch in (1, 2):
            whole = drawn(train_loader(data, recipe, workers=0), epoch)
            parts = [drawn(loader, epoch) for loader in loaders]
            assert same(joined(parts), whole)
            assert {len(labels) for part in parts for _, labels in part} <= {1, 2, 3, 4}
        assert {len(loader) for loader in loaders} == {5}


def test_the_shards_of_an_evaluation_are_all_images_in_order(data, in_files):
    resized = data.prepared_for(Recipe(name="r", geometry="resize", image_size=32))
    for one, kind in ((data, ResidentLoader), (resized, ResidentLoader), (in_files, FileLoader)):
        whole = drawn(eval_loader(one, batch_size=4, workers=0))
        for world in (2, 3):
            loaders = [eval_loader(one, batch_size=4, workers=0, shard=(rank, world)) for rank in range(world)]
            assert all(isinstance(loader, kind) for loader in loaders)
            rows = [batch for loader in loaders for batch in drawn(loader)]
            assert [len(loader) for loader in loaders] == [len(drawn(loader)) for loader in loaders]
            for found, expected in zip(zip(*rows, strict=True), zip(*whole, strict=True), strict=True):
                assert torch.equal(torch.cat(found), torch.cat(expected))


@pytest.mark.parametrize("path", ["resident", "workers"])
def test_a_process_without_an_image_is_refused_at_once(data, path):
    recipe = ALL["flip"].replace(batch_size=12)  # 37 = 12 + 12 + 12 + 1
    for rank in (0, 1):
        with pytest.raises(ValueError, match="the smallest of 37 images has 1. Batch sizes that fit: 8, 10, 14"):
            train_loader(data, recipe, path=path, workers=0, shard=(rank, 2))
    with pytest.raises(ValueError, match="40 processes need at least 40 images: got 37"):
        eval_loader(data, shard=(0, 40))


# --- the same by any way ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_images_resized_or_decoded_at_once_or_batch_by_batch_give_the_same(data, in_files, name, monkeypatch):
    recipe = ALL[name].replace(geometry="resize", image_size=28)
    resized = data.prepared_for(recipe)
    assert isinstance(resized.train.images, ResizedImages)
    at_once = train_loader(resized, recipe, workers=0)
    batchwise = ResidentLoader(
        resized.train, data.mean, data.std, batch_size=8, augmentation=Augmentation.of(recipe), seed=recipe.seed
    )
    assert isinstance(at_once.images, torch.Tensor)
    assert isinstance(batchwise.images, ResizedImages)
    assert same(drawn(at_once, 2), drawn(batchwise, 2))
    files = in_files.prepared_for(recipe)
    decoded = train_loader(files, recipe, workers=2)
    expected = ResidentLoader(
        Split(files.train.images[torch.arange(11)], files.train.labels), data.mean, data.std, batch_size=8,
        augmentation=Augmentation.of(recipe), seed=recipe.seed,
    )  # fmt: skip
    assert same(drawn(decoded), drawn(expected))


@pytest.mark.parametrize("workers", [0, 2])
def test_in_memory_is_every_image_at_its_place(tmp_path, data, in_files, workers):
    many = Split(in_files.train.images.select(torch.arange(140) % 11), torch.arange(140))  # three portions of 64
    assert torch.equal(in_memory(many.images, workers), data.train.images[torch.arange(140) % 11])
    assert in_memory(data.train.images) is data.train.images


def test_both_paths_alternate_the_same_flips(data):
    """Without hole and padding what remains is the flip: resident and with workers, two epochs in a row."""
    recipe = CROP.replace(crop_padding=0, cutout=0)
    plain = normalize(data.train.images, data.mean, data.std)
    seen = {}
    for path in ("resident", "workers"):
        for epoch in (1, 2):
            batches = drawn(train_loader(data, recipe, path=path, workers=0), epoch)
            images, labels = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
            is_flipped = (images - plain[labels].flip(3)).abs().amax((1, 2, 3)) < 1e-5
            is_plain = (images - plain[labels]).abs().amax((1, 2, 3)) < 1e-5
            assert (is_flipped ^ is_plain).all()
            seen[path, epoch] = is_flipped[labels.argsort()]
    assert torch.equal(seen["resident", 1], ~seen["resident", 2])
    for epoch in (1, 2):
        assert torch.equal(seen["resident", epoch], seen["workers", epoch])


def test_the_settings_of_a_recipe_reach_the_pipeline_of_the_workers(data):
    images, _ = drawn(train_loader(data, CROP, path="workers", workers=0))[0]
    holes = images.abs().amax(1) < 0.02  # the mean, rounded to a level
    assert holes.sum((1, 2)).tolist() == [16] * 8
    assert drawn(train_loader(data, CROP.replace(cutout=0), path="workers", workers=0))[0][0].shape == (8, 3, 20, 20)


# --- the choice ------------------------------------------------------------------------------------


def memory(monkeypatch, megabytes):
    monkeypatch.setattr(resident, "free_memory", lambda device: megabytes * 1_000_000)


def test_a_quarter_of_the_free_memory_is_the_limit(data, monkeypatch):
    """37 x 3 x 20 x 20 bytes, twice for flip; with two more pixels on each side 24 x 24."""
    for name, needed in {"none": 44_400, "flip": 88_800, "eva6": 88_800, "crop": 127_872}.items():
        for free, kind in ((4 * needed, "resident"), (4 * needed - 4, "workers")):
            monkeypatch.setattr(resident, "free_memory", lambda device, free=free: free)
            chosen = choose_path(data, ALL[name], CPU)
            assert chosen.kind == kind
            assert str(chosen).startswith(f"{kind}: ")
            loader = train_loader(data, ALL[name], workers=0)
            assert isinstance(loader, ResidentLoader if kind == "resident" else WorkerLoader)


def test_the_reason_has_figures(data, monkeypatch):
    data = ImageData(
        "large", data.classes, Split(data.train.images[:1].expand(1000, -1, -1, -1), torch.zeros(1000).long()),
        data.test, data.mean, data.std,
    )  # fmt: skip
    memory(monkeypatch, 20)
    assert choose_path(data, ALL["flip"], CPU).reason == (
        "resident: 2.4 MB of uint8 images on the device, 12.0% of its free memory"
    )
    memory(monkeypatch, 8)
    assert choose_path(data, ALL["flip"], CPU).reason == (
        "workers: 2.4 MB of uint8 images are 30.0% of its free memory, more than 25%"
    )


def test_small_images_are_resized_batch_by_batch_where_large_ones_do_not_fit(data, monkeypatch):
    recipe = ALL["flip"].replace(geometry="resize", image_size=200)
    large = data.prepared_for(recipe)  # 8.9 MB, and 0.09 as they are stored
    for megabytes, kind, loader, images in (
        (40, "resident", ResidentLoader, torch.Tensor),
        (1, "resident", ResidentLoader, ResizedImages),
        (0.1, "workers", WorkerLoader, None),
    ):
        memory(monkeypatch, megabytes)
        assert choose_path(large, recipe, CPU).kind == kind
        made = train_loader(large, recipe, workers=0)
        assert isinstance(made, loader)
        assert images is None or isinstance(made.images, images)


def test_asking_for_a_path_decides(data, monkeypatch):
    memory(monkeypatch, 0.001)
    assert choose_path(data, ALL["flip"], CPU, "resident").kind == "resident"
    assert choose_path(data, ALL["flip"].replace(path="resident"), CPU).kind == "resident"
    memory(monkeypatch, 1000)
    assert choose_path(data, ALL["flip"], CPU, "workers").reason == "workers: as asked for"
    assert choose_path(data, ALL["flip"].replace(path="workers"), CPU, "auto").kind == "resident"
    cars = recipes["cars-alexnet"]
    assert choose_path(data, cars, CPU).reason == "workers: 'cars' augments image by image"
    with pytest.raises(ValueError, match=r"needs an augmentation of \('none', .*got 'cars'. Use 'workers' or 'auto'"):
        choose_path(data, cars, CPU, "resident")
    with pytest.raises(ValueError, match="Unknown path 'disk'. Known: auto, resident, workers"):
        choose_path(data, cars, CPU, "disk")


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux's /proc")
def test_the_free_memory_of_this_machine():
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines()}
    assert 0 < free_memory(CPU) <= found["MemTotal"]


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 8 << 30), (f"{4 << 30}", 2 << 30), (f"{1 << 30}", 0), (None, 8 << 30)]
)
def test_a_container_has_what_its_limit_leaves(monkeypatch, limit, expected):
    """8 GB available; 3 GB used in the container, of which 1 GB only keeps files at hand."""
    texts = {
        "/proc/meminfo": f"MemTotal: {16 << 20} kB\nMemAvailable: {8 << 20} kB\n",
        "/sys/fs/cgroup/memory.max": limit,
        "/sys/fs/cgroup/memory.current": f"{3 << 30}\n",
        "/sys/fs/cgroup/memory.stat": f"anon {2 << 30}\ninactive_file {1 << 30}\n",
    }

    def read_text(path):
        if texts[str(path)] is None:
            raise FileNotFoundError(path)
        return texts[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    assert free_memory(CPU) == expected


def test_other_systems_count_half_of_all_memory(monkeypatch):
    def read_text(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert free_memory(CPU) > 1 << 27


# --- workers ---------------------------------------------------------------------------------------


class Threads(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return torch.get_num_threads()


def test_there_are_no_more_workers_than_cores_and_each_has_one_thread(data):
    cores = available_cores()
    assert workers_here(1000) == cores
    assert workers_here(None) == min(cores, 4)
    assert workers_here(0) == 0
    assert WorkerLoader(data, "none", batch_size=8, seed=1, workers=1000).batches.loader.num_workers == cores
    assert list(torch.utils.data.DataLoader(Threads(), sampler=[0], batch_size=None, num_workers=1)) == [1]


# --- refusals --------------------------------------------------------------------------------------


def test_a_resident_loader_refuses_what_it_cannot_do(data, in_files):
    with pytest.raises(ValueError, match="`augmentation` 'flip' needs a `seed`: got None"):
        ResidentLoader(data.train, data.mean, data.std, batch_size=4, augmentation="flip")
    with pytest.raises(ValueError, match=r"must be one of \('none', 'flip', 'crop', 'eva6'\): got 'cars'"):
        ResidentLoader(data.train, data.mean, data.std, batch_size=4, augmentation="cars", seed=1)
    with pytest.raises(ValueError, match="needs images in memory: got image files. Use `train_loader`"):
        ResidentLoader(in_files.train, data.mean, data.std, batch_size=4)
