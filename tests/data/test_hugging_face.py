"""Datasets of Hugging Face on disk, against the image files that were put into them."""

import io
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from evalib.data import hugging_face
from evalib.data.decoding import decode_image
from evalib.data.loaders import WorkerLoader, eval_loader
from evalib.engine import fit
from evalib.models import build_model
from evalib.recipes import Recipe
from evalib.transforms import IMAGENET_MEAN, IMAGENET_STD, Geometry

RESIZE = Geometry("resize", 24)
CLASSES = ["ant", "bee", "cow"]


def encoded(count, seed=0, size=None):
    """PNG files as bytes, of random pixels, each of another size."""
    generator, files = np.random.default_rng(seed), []
    for number in range(count):
        height, width = size or (20 + number, 45)
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(buffer, "png")
        files.append(buffer.getvalue())
    return files


def table(files, labels=None, kind=None, **columns):
    labels = [number % 3 for number in range(len(files))] if labels is None else labels
    features = {"image": datasets.Image(), "label": kind or datasets.ClassLabel(names=CLASSES)}
    features |= {name: datasets.Value("string") for name in columns}
    rows = {"image": [{"bytes": file, "path": None} for file in files], "label": labels, **columns}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


@pytest.fixture
def files():
    return {"train": encoded(14, seed=1), "test": encoded(7, seed=2)}


@pytest.fixture
def saved(files, tmp_path):
    datasets.DatasetDict({split: table(part) for split, part in files.items()}).save_to_disk(tmp_path / "insects")
    return tmp_path / "insects"


def expected(files, geometry):
    return torch.stack([torch.from_numpy(decode_image(file, "", geometry)).permute(2, 0, 1) for file in files])


@pytest.mark.parametrize("geometry", [RESIZE, Geometry("center_crop", 24)])
def test_images_and_labels_are_those_that_were_saved(saved, files, geometry):
    data = hugging_face(saved, geometry=geometry)
    assert (data.name, data.classes) == ("insects", tuple(CLASSES))
    assert (data.mean, data.std, data.geometry) == (IMAGENET_MEAN, IMAGENET_STD, geometry)
    for split, part in data.splits().items():
        pixels = expected(files[split], geometry)
        assert part.labels.tolist() == [number % 3 for number in range(len(pixels))]
        assert part.images.shape == pixels.shape
        assert torch.equal(part.images[torch.arange(len(pixels))], pixels)
        assert torch.equal(part.images[3], pixels[3])
    chosen = torch.tensor([5, 0, 5])
    twice = data.train.select(torch.tensor([1, 3, 5, 7, 9, 11])).select(chosen)
    assert torch.equal(twice.images[torch.arange(3)], expected(files["train"], geometry)[[11, 1, 11]])
    assert twice.labels.tolist() == [11 % 3, 1, 11 % 3]
    assert twice.images.sizes(torch.arange(3)).tolist() == [[45, 31], [45, 21], [45, 31]]


def test_a_recipe_chooses_the_geometry(saved, files):
    prepared = hugging_face(saved).prepared_for(Recipe(name="r", geometry="resize", image_size=24))
    assert torch.equal(prepared.test.images[torch.arange(7)], expected(files["test"], RESIZE))


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_take_them_like_files(saved, files, workers):
    data = hugging_face(saved, geometry=RESIZE, mean=(0.0,) * 3, std=(1.0,) * 3)
    images = torch.cat([images for images, _ in eval_loader(data, batch_size=4, workers=workers)])
    torch.testing.assert_close(images, expected(files["test"], RESIZE) / 255)
    training = WorkerLoader(data, "none", batch_size=4, seed=1, workers=workers)
    images, labels = (torch.cat(parts) for parts in zip(*training, strict=True))
    known = expected(files["train"], RESIZE) / 255
    distance = (images[:, None] - known).abs().flatten(2).amax(dim=2)
    assert sorted(distance.argmin(dim=1).tolist()) == list(range(14))
    assert distance.amin(dim=1).max() < 1e-6
    assert torch.equal(labels, distance.argmin(dim=1) % 3)


def test_training_on_them(saved):
    settings = Recipe(
        name="r", width=8, epochs=1, batch_size=7, geometry="resize", image_size=32, statistics="imagenet",
        augmentation="flip", precision="float32",
    )  # fmt: skip
    data = hugging_face(saved).prepared_for(settings)
    history = fit(build_model("resnet18", 3, width=8), data, settings, device="cpu", workers=0, progress=False)
    assert 0 < history.epochs[0].train_loss < 10


def test_other_names_of_splits_and_columns(files):
    renamed = [table(part, name=["x"] * len(part)).rename_columns({"image": "photo"}) for part in files.values()]
    tables = datasets.DatasetDict(train=renamed[0], validation=renamed[1])
    data = hugging_face(tables, splits=("train", "validation"), geometry=RESIZE, name="mine")
    assert (data.name, len(data.train), len(data.test)) == ("mine", 14, 7)
    with pytest.raises(ValueError, match=r"no split 'test'; it has train, validation. Name two in `splits`"):
        hugging_face(tables)
    with pytest.raises(ValueError, match=r"split 'train' has no column 'image': it has photo, label, name"):
        hugging_face(tables, splits=("train", "validation"), image_column="image")


@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [
        (["cow", "ant", "cow"], datasets.Value("string"), ("ant", "cow")),
        ([9, 4, 9], datasets.Value("int64"), ("4", "9")),
    ],
)
def test_labels_without_names_are_named_by_their_values(labels, kind, classes):
    part = table(encoded(3), labels, kind)
    part = part.rename_column("label", "insect")
    tables = datasets.DatasetDict(train=part, test=part.select([1]))
    with pytest.raises(
        ValueError, match=r"`label_column` must name one of the columns: image \(Image\), insect \(Value\)"
    ):
        hugging_face(tables)
    data = hugging_face(tables, label_column="insect")
    assert data.classes == classes
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([1, 0, 1], [0])


def test_wrong_datasets_are_refused(files, tmp_path):
    part = table(files["test"])
    with pytest.raises(ValueError, match=r"images without a class \(-1 in 'label'\)"):
        hugging_face(datasets.DatasetDict(train=part, test=table(files["test"], [-1] * 7)))
    other = table(files["test"], kind=datasets.ClassLabel(names=[*CLASSES, "dog"]))
    with pytest.raises(ValueError, match="The splits differ in the classes of 'label'"):
        hugging_face(datasets.DatasetDict(train=part, test=other))
    part.save_to_disk(tmp_path / "one")
    with pytest.raises(ValueError, match="one' has no splits"):
        hugging_face(tmp_path / "one")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match=r"Cannot load .*empty.*must be a folder that `DatasetDict.save_to_disk` wrote"):
        hugging_face(tmp_path / "empty")


def test_a_damaged_image_is_named(files):
    broken = table([*files["test"][:3], files["test"][3][:300]])
    data = hugging_face(datasets.DatasetDict(train=broken, test=broken), geometry=RESIZE)
    with pytest.raises(ValueError, match="Cannot decode the image in row 3 of the dataset"):
        data.test.images[torch.arange(4)]
    empty = table([*files["test"][:3]]).add_item({"image": None, "label": 0})
    data = hugging_face(datasets.DatasetDict(train=empty, test=empty), geometry=RESIZE)
    with pytest.raises(ValueError, match=r"the image in row 3 of the dataset \(there is none in 'image'\)"):
        data.test.images[3]


def test_the_network_is_asked_only_for_a_name_that_is_no_folder(monkeypatch, saved):
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name: asked.append(name) or datasets.load_from_disk(str(saved))
    )
    assert hugging_face(saved).name == "insects"
    assert asked == []
    assert hugging_face("someone/insects").name == "someone/insects"
    assert asked == ["someone/insects"]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ImportError, match=r"needs the package `datasets`: pip install datasets \(or evalib\[hf\]\)"):
        hugging_face("someone/insects")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc to read the memory in use")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """240 images of 256 x 256 pixels are 47 MB as bytes and 189 MB as floats: kept ones of three passes would show as
    141 MB or more, where the allocator now and then takes another 16 MB for itself.

    Pages of the file that are mapped into memory do not count: the system takes them back when it needs them."""

    def own_memory():
        _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE") / 1e6

    part = table(encoded(40, size=(64, 64)) * 6)
    datasets.DatasetDict(train=part.select(range(40)), test=part).save_to_disk(tmp_path / "many")
    data = hugging_face(tmp_path / "many", geometry=Geometry("resize", 256))
    seen = []
    for split in ("train",) * 3 + ("test",) * 3:
        loader = eval_loader(data, split, batch_size=4, workers=0)
        assert sum(len(images) for images, _ in loader) == len(data.splits()[split])
        seen.append(own_memory())
    assert seen[5] - seen[2] < 40, f"megabytes in use: {seen}"


@pytest.mark.parametrize("to", [2**31 - 1, 10**6, -5])
def test_tables_that_point_outside_of_themselves_are_refused(saved, files, to):
    """Where an image begins, in the offsets of the Arrow format; to follow a wrong one can end the process."""
    (path,) = (saved / "train").glob("*.arrow")
    content = bytearray(path.read_bytes())
    offsets = np.cumsum([0] + [len(file) for file in files["train"][:3]]).astype("<i4").tobytes()
    at = content.index(offsets) + 8
    content[at : at + 4] = int(to).to_bytes(4, "little", signed=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"The dataset's files are damaged \(.*Offset invariant.*Save or download it"):
        hugging_face(saved)
