"""Stanford Cars: small folders written here, torchvision's reader as the second opinion, and real images if at hand."""

from __future__ import annotations

import importlib
import io
import os
import shutil
import sys
import tarfile
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision.datasets import StanfordCars

from evalib.data import stanford_cars
from evalib.data.car_names import CAR_CLASSES
from evalib.data.image_data import ImageData
from evalib.data.stanford_cars import car_inventory, class_to_idx
from evalib.data.stanford_cars_download import BOX_FIELDS, download_stanford_cars
from evalib.download import DownloadError
from evalib.transforms import IMAGENET_MEAN, IMAGENET_STD, Geometry

ROOT = Path(__file__).resolve().parent.parent.parent
module = importlib.import_module("evalib.data.stanford_cars")  # by name: the package has a function of this name too
download_module = importlib.import_module("evalib.data.stanford_cars_download")

# Numbers of classes as the devkit counts them, from 1
ACTIVE_HYBRID, SERIES_1, SERIES_3, X5, LR2 = 26, 28, 29, 32, 155
NUMBERS = {
    ACTIVE_HYBRID: "BMW ActiveHybrid 5 Sedan 2012",
    SERIES_1: "BMW 1 Series Coupe 2012",
    SERIES_3: "BMW 3 Series Sedan 2012",
    X5: "BMW X5 SUV 2007",
    LR2: "Land Rover LR2 SUV 2012",
}
# (number of the class, color mode): what the images of each split are, in their order
TRAIN = [
    (SERIES_3, "RGB"), (LR2, "RGB"), (ACTIVE_HYBRID, "L"), (SERIES_3, "CMYK"),
    (X5, "RGB"), (SERIES_1, "RGB"), (ACTIVE_HYBRID, "RGB"),
]  # fmt: skip
TEST = [(LR2, "RGB"), (SERIES_3, "RGB"), (ACTIVE_HYBRID, "RGB"), (X5, "L"), (SERIES_3, "RGB")]
BOXES = {"train": [(3 * i, 2, 40 + i, 30) for i in range(len(TRAIN))], "test": [(0, 0, 0, 0)] * len(TEST)}
MATS = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}


def picture(number: int, mode: str, size: tuple[int, int]) -> Image.Image:
    """Smooth colors, different for every number, so that JPEG and resizing change little."""
    x = np.linspace(0, 200, size[0])[None, :, None]
    y = np.linspace(0, 55, size[1])[:, None, None]
    color = np.array([number * 37 % 256, number * 91 % 256, number * 53 % 256])
    return Image.fromarray(np.uint8((x + y + color) / 2)).convert(mode)


def write_annotations(path: Path, rows: list[tuple[Any, ...]], fields: str) -> None:
    values = np.zeros(len(rows), dtype=[(field, object) for field in fields.split()])
    for index, row in enumerate(rows):
        values[index] = row
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"annotations": values})


def write_meta(folder: Path, names: tuple[str, ...] = CAR_CLASSES) -> None:
    (folder / "devkit").mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(names, dtype=object)})


def write_cars(folder: Path, shift: int = 0) -> Path:
    """The dataset in torchvision's layout, in `folder`; `shift` is added to every class."""
    write_meta(folder)
    for split, images in (("train", TRAIN), ("test", TEST)):
        (folder / f"cars_{split}").mkdir()
        rows = []
        for index, (number, mode) in enumerate(images):
            name = f"{index + 1:05d}.jpg"
            picture(number + index, mode, (60 + 4 * index, 48)).save(folder / f"cars_{split}" / name, quality=95)
            rows.append((*BOXES[split][index], number + shift, name))
        write_annotations(folder / MATS[split], rows, "bbox_x1 bbox_y1 bbox_x2 bbox_y2 class fname")
    return folder


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    """A root with the small dataset in it."""
    write_cars(tmp_path / "stanford_cars")
    return tmp_path


def names_of(data: ImageData, split: str) -> list[str]:
    """The name of the class of every image."""
    return [data.classes[label] for label in data.splits()[split].labels.tolist()]


def real_cars(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of real images, "bmw" or "frames"; skips where there are none."""
    variable = f"EVALIB_CARS_{name.upper()}"
    named = os.environ.get(variable)
    path = Path(named) if named else ROOT.parent / "shared" / "data" / f"stanford-cars-{name}.tar"
    if path.is_dir():
        return path
    if not path.is_file():
        assert not named, f"{variable} must name a folder or a .tar file: {named} is neither."
        pytest.skip(f"needs images of Stanford Cars: set {variable} to the folder or to stanford-cars-{name}.tar")
    folder = tmp_path_factory.mktemp(f"cars-{name}")
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def bmw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """430 training and 101 test images of the 13 classes of BMW."""
    return real_cars("bmw", tmp_path_factory)


# --- what is read ---------------------------------------------------------------------------------


def test_without_filters_it_is_what_torchvision_reads(cars: Path) -> None:
    data = stanford_cars(cars, image_size=32)
    assert data.classes == CAR_CLASSES
    assert (data.name, data.mean, data.std) == ("stanford-cars", IMAGENET_MEAN, IMAGENET_STD)
    assert (data.geometry, data.filters) == (Geometry("resize", 32), {})
    for name, split in data.splits().items():
        theirs = StanfordCars(cars, split=name)
        assert theirs.class_to_idx == class_to_idx(data)
        assert len(split) == len(theirs)
        for index, (image, label) in enumerate(theirs):
            assert split.labels[index] == label
            resized = image.resize((32, 32), Image.Resampling.BILINEAR)
            assert torch.equal(split.images[index], torch.from_numpy(np.array(resized)).permute(2, 0, 1))


@pytest.mark.parametrize("inside", ["stanford_cars", "."])
def test_root_is_the_folder_or_holds_it(inside: str, tmp_path: Path) -> None:
    write_cars(tmp_path / "stanford_cars")
    root = tmp_path if inside == "." else tmp_path / inside
    assert len(stanford_cars(str(root)).train) == len(TRAIN)


def test_filters_leave_their_images_labels_and_boxes(cars: Path) -> None:
    """Classes count from 0 in the devkit's order; each image keeps its label, its box and its pixels."""
    whole = stanford_cars(cars)
    data = stanford_cars(cars, brand="bmw", type="sedan", year=2012)
    assert data.classes == (NUMBERS[ACTIVE_HYBRID], NUMBERS[SERIES_3])
    assert data.filters == {"brand": ("BMW",), "type": ("Sedan",), "year": ("2012",)}
    assert data.source == "Stanford Cars in stanford_cars/, brand BMW, type Sedan, year 2012"
    for name, (images, label) in {"train": ([0, 2, 3, 6], [1, 0, 1, 0]), "test": ([1, 2, 4], [1, 0, 1])}.items():
        split = data.splits()[name]
        assert split.labels.tolist() == label
        assert split.boxes is not None
        assert split.boxes.tolist() == [[*map(float, BOXES[name][index])] for index in images]
        assert torch.equal(split.images[torch.arange(len(split))], whole.splits()[name].images[torch.tensor(images)])


def test_boxes_in_pixels_of_the_input(cars: Path) -> None:
    """The first image is 60 x 48 pixels with the box 0, 2, 40, 30."""
    boxes = stanford_cars(cars, image_size=120).train.input_boxes(torch.tensor([0]))
    assert boxes.tolist() == [[0.0, 5.0, 80.0, 75.0]]


def test_several_values_and_classes_without_images(cars: Path) -> None:
    """A class that the filter keeps stays one, images or not: labels depend on the filter only."""
    data = stanford_cars(cars, brand=["Land Rover", "BMW"], type=("suv",))
    assert data.classes == ("BMW X5 SUV 2007", "BMW X6 SUV 2012", "BMW X3 SUV 2012",
                            "Land Rover Range Rover SUV 2012", "Land Rover LR2 SUV 2012")  # fmt: skip
    assert names_of(data, "train") == [NUMBERS[LR2], NUMBERS[X5]]
    assert data.train.labels.tolist() == [4, 0]


@pytest.mark.parametrize(
    ("target", "classes", "train"),
    [
        ("brand", ("BMW", "Land Rover"), "BMW, Land Rover, BMW, BMW, BMW, BMW, BMW"),
        ("type", ("Convertible", "Coupe", "Sedan", "SUV", "Wagon"), "Sedan, SUV, Sedan, Sedan, SUV, Coupe, Sedan"),
    ],
)
def test_targets_group_the_classes(target: str, classes: tuple[str, ...], train: str, cars: Path) -> None:
    data = stanford_cars(cars, brand=["BMW", "Land Rover"], target=target)
    assert data.classes == classes
    assert ", ".join(names_of(data, "train")) == train
    assert data.filters == {"brand": ("BMW", "Land Rover"), "target": (target,)}
    assert class_to_idx(data) == {name: classes.index(name) for name in classes}


def test_grey_and_cmyk_images_are_rgb(cars: Path) -> None:
    data = stanford_cars(cars, image_size=48)
    assert {TRAIN[index][1] for index in (2, 3)} == {"L", "CMYK"}
    for index in (2, 3):
        number, mode = TRAIN[index]
        expected = picture(number + index, mode, (60 + 4 * index, 48)).convert("RGB").resize((48, 48))
        found = data.train.images[index]
        assert found.shape == (3, 48, 48)
        assert (found.float() - torch.from_numpy(np.array(expected)).permute(2, 0, 1)).abs().mean() < 3


def test_nothing_is_decoded_before_it_is_asked_for(cars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)
    data = stanford_cars(cars, type="Sedan").split_validation(0.5, seed=0)
    with pytest.raises((AssertionError, ValueError), match="an image was opened"):
        data.train.images[0]


def test_a_single_image_and_no_boxes(tmp_path: Path) -> None:
    """MATLAB files do not tell one row from a list of one row."""
    folder = write_cars(tmp_path)
    write_annotations(folder / MATS["train"], [(SERIES_3, "00001.jpg")], "class fname")
    data = stanford_cars(tmp_path)
    assert names_of(data, "train") == [NUMBERS[SERIES_3]]
    assert data.train.boxes is not None
    assert data.train.boxes.tolist() == [[0, 0, 0, 0]]


def test_inventory(cars: Path) -> None:
    counts = car_inventory(cars).counts
    assert [len(values) for values in counts.values()] == [49, 9, 16]
    assert counts["brand"]["BMW"] == (13, 6, 4)
    assert counts["brand"]["Land Rover"] == (2, 1, 1)
    assert counts["brand"]["Aston Martin"] == (4, 0, 0)
    assert counts["type"]["SUV"] == (35, 2, 2)
    assert counts["year"]["2007"] == (25, 1, 1)
    lines = str(car_inventory(cars)).splitlines()
    assert lines[0].split() == ["brand", "classes", "train", "test"]
    assert lines[50].split() == ["all", "196", str(len(TRAIN)), str(len(TEST))]
    assert len({len(line) for line in lines if line}) == 1
    classes_only = str(car_inventory()).splitlines()
    assert [line.split() for line in classes_only[:2]] == [["brand", "classes"], ["Acura", "6"]]


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["nowhere", "."])
def test_no_data(root: str, tmp_path: Path) -> None:
    fault = "does not exist" if root == "nowhere" else "is no Stanford Cars"
    ways = r"`download=True`.*by hand in .*stanford_cars:.*cars_train/.*cars_test/.*cars_test_annos_withlabels\.mat"
    with pytest.raises(FileNotFoundError, match=rf"(?s)`root` {fault}.*{ways}"):
        stanford_cars(tmp_path / root)


@pytest.mark.parametrize("part", [*MATS.values(), "devkit/cars_meta.mat", "cars_train", "cars_test"])
def test_a_missing_part_is_named(part: str, cars: Path) -> None:
    path = cars / "stanford_cars" / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"(?s)stanford_cars lacks {part}\. Move that folder away.*by hand"):
        stanford_cars(cars)


@pytest.mark.parametrize("split", ["train", "test"])
def test_doubled_folders(split: str, cars: Path) -> None:
    images = cars / "stanford_cars" / f"cars_{split}"
    images.rename(cars / "moved")
    images.mkdir()
    (cars / "moved").rename(images / images.name)
    with pytest.raises(FileNotFoundError, match=rf"too deep, in .*cars_{split}.cars_{split}: move them up into"):
        stanford_cars(cars)


def test_missing_images_are_counted_and_the_first_is_named(cars: Path) -> None:
    for name in ("00005.jpg", "00002.jpg"):
        (cars / "stanford_cars" / "cars_train" / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"cars_train lacks 2 of 7 images.*first of all 00002\.jpg\. Copy them"):
        stanford_cars(cars)
    assert len(stanford_cars(cars, type="Sedan").train) == 4  # what the filter leaves out may be missing


def test_a_damaged_image_is_named(cars: Path) -> None:
    path = cars / "stanford_cars" / "cars_train" / "00001.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"Cannot decode the image .*00001\.jpg.*Replace the file"):
        stanford_cars(cars).train.images[0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 195], r"must lie in 1\.\.196: got 0\.\.195; they look 0-based: add 1 to each"),
        ([1, 197], r"must lie in 1\.\.196: got 1\.\.197; use the devkit's file"),
        ([-1, 5], r"must lie in 1\.\.196: got -1\.\.5; use the devkit's file"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_wrong_labels(labels: list[int], message: str, split: str, cars: Path) -> None:
    rows = [(label, f"{index + 1:05d}.jpg") for index, label in enumerate(labels)]
    write_annotations(cars / "stanford_cars" / MATS[split], rows, "class fname")
    with pytest.raises(ValueError, match=rf"Classes in .*{Path(MATS[split]).name} {message}"):
        stanford_cars(cars)


def test_test_annotations_without_labels(cars: Path) -> None:
    """The devkit's own file for the test images."""
    write_annotations(cars / "stanford_cars" / MATS["test"], [("00001.jpg", 5)], "fname bbox_x1")
    with pytest.raises(ValueError, match=r"need the field class: they have fname, bbox_x1\..*withlabels\.mat"):
        stanford_cars(cars)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>" * 50, "cut", "other"])
def test_damaged_annotations(content: bytes | str, cars: Path) -> None:
    path = cars / "stanford_cars" / MATS["train"]
    if content == "other":
        scipy.io.savemat(path, {"something": np.arange(3)})
    else:
        path.write_bytes(path.read_bytes()[:900] if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=r"Cannot read `annotations` in .*cars_train_annos\.mat.*damaged or another"):
        stanford_cars(cars)


@pytest.mark.parametrize(
    ("field", "value"),
    [("class", "text"), ("class", [1, 2]), ("class", []), ("class", np.inf), ("bbox_x1", "text"), ("bbox_x1", [1, 2])],
)
def test_annotations_that_are_no_numbers(field: str, value: Any, cars: Path) -> None:
    rows = np.zeros(3, dtype=[(name, object) for name in (*BOX_FIELDS, "class", "fname")])
    for index in range(3):
        rows[index] = (1, 1, 9, 9, 1, "00001.jpg")
    rows[1][field] = value
    path = cars / "stanford_cars" / MATS["train"]
    scipy.io.savemat(path, {"annotations": rows})
    with pytest.raises(ValueError, match=r"annotations in .*cars_train_annos\.mat are damaged.*get the file again"):
        stanford_cars(cars)


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/passwd", "C:\\secret.jpg", "", "a\0b"])
def test_annotations_that_name_files_elsewhere_open_none(name: str, cars: Path) -> None:
    (cars / "secret.jpg").write_bytes((cars / "stanford_cars" / "cars_train" / "00001.jpg").read_bytes())
    rows = np.zeros(2, dtype=[(field, object) for field in ("class", "fname")])
    rows[0], rows[1] = (1, name), (1, "00001.jpg")
    scipy.io.savemat(cars / "stanford_cars" / MATS["train"], {"annotations": rows})
    with pytest.raises(FileNotFoundError, match=r"cars_train lacks 1 of 2 images that the annotations name"):
        stanford_cars(cars)


def test_other_class_names(cars: Path) -> None:
    swapped = (CAR_CLASSES[1], CAR_CLASSES[0], *CAR_CLASSES[2:])
    write_meta(cars / "stanford_cars", swapped)
    with pytest.raises(ValueError, match=r"class 1 is 'AM General Hummer SUV 2000', there it is 'Acura RL Sedan 2012'"):
        stanford_cars(cars)
    write_meta(cars / "stanford_cars", CAR_CLASSES[:195])
    with pytest.raises(ValueError, match="must name the 196 classes of Stanford Cars: it names 195"):
        stanford_cars(cars)
    write_meta(cars / "stanford_cars", tuple(name.replace("/", "-").upper() for name in CAR_CLASSES))
    assert stanford_cars(cars).classes == CAR_CLASSES


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"brand": "Audi"}, r"no train image of brand Audi\. It has train images of these brands: BMW, Land Rover\.$"),
        ({"brand": "BMW", "type": "Coupe"}, r"no test image of brand BMW, type Coupe\. It has test images of these"),
        ({"brand": "BMW", "type": "Minivan"}, r"No class has brand BMW, type Minivan\. Types and years of BMW: Conv"),
        ({"brand": "Opel"}, "Stanford Cars has no brand 'Opel'"),
        ({"target": "color"}, "`target` must be one of class, brand, type: got 'color'"),
    ],
)
def test_filters_that_leave_nothing(wanted: dict[str, Any], message: str, cars: Path) -> None:
    with pytest.raises(ValueError, match=message):
        stanford_cars(cars, **wanted)


# --- download -------------------------------------------------------------------------------------


class FakeLabels:
    """What `datasets` calls a ClassLabel."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = [*names]


class FakeRows:
    """What `datasets` calls a Dataset: decoded images, until the column is cast to undecoded ones."""

    def __init__(self, rows: list[tuple[int, str]], names: tuple[str, ...], encoded: bool = False) -> None:
        self.rows, self.names, self.encoded = rows, names, encoded
        self.features = {"image": object(), "label": FakeLabels(names)}
        self.data = types.SimpleNamespace(validate=lambda full: None)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Any:
        for index, (number, mode) in enumerate(self.rows):
            content = {"bytes": jpeg(number + index, mode), "path": None}
            yield {"image": content if self.encoded else "a decoded image", "label": number - 1}

    def cast_column(self, column: str, feature: dict[str, bool]) -> FakeRows:
        return FakeRows(self.rows, self.names, encoded=column == "image" and feature == {"decode": False})


def jpeg(number: int, mode: str) -> bytes:
    file = io.BytesIO()
    picture(number, mode, (50, 40)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Puts a package `datasets` in place that holds the small dataset; returns the list of what it is asked for."""

    def install(names: tuple[str, ...] = CAR_CLASSES, error: Exception | None = None) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def load_dataset(path: str, **settings: Any) -> dict[str, FakeRows]:
            asked.append({"path": path, **settings})
            if error is not None:
                raise error
            return {"train": FakeRows(TRAIN, names), "test": FakeRows(TEST, names)}

        fake = types.SimpleNamespace(load_dataset=load_dataset, Image=dict)
        monkeypatch.setitem(sys.modules, "datasets", fake)  # type: ignore[arg-type]
        monkeypatch.setattr(download_module, "COUNTS", {"train": len(TRAIN), "test": len(TEST)})
        return asked

    return install


def test_download_once(hub: Callable[..., list[dict[str, Any]]], tmp_path: Path) -> None:
    asked = hub()
    data = stanford_cars(tmp_path / "new", download=True)
    assert len(asked) == 1
    assert asked[0]["path"] == "tanganke/stanford_cars"
    assert asked[0]["revision"] == "9abf6cf7d6dfa7b95152a0d6e791ea9435b47a40"
    assert asked[0]["data_files"] == {"train": "data/train-*.parquet", "test": "data/test-*.parquet"}
    assert names_of(data, "train") == [NUMBERS[number] for number, _ in TRAIN]
    assert names_of(data, "test") == [NUMBERS[number] for number, _ in TEST]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["stanford_cars"]
    stanford_cars(tmp_path / "new", download=True)
    assert len(asked) == 1


def test_downloaded_files_are_unchanged_and_readable_by_torchvision(
    hub: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    hub()
    folder = download_stanford_cars(tmp_path)
    for split, images in (("train", TRAIN), ("test", TEST)):
        theirs = StanfordCars(tmp_path, split=split)
        assert theirs.classes == [*CAR_CLASSES]
        assert [label for _, label in theirs] == [number - 1 for number, _ in images]
        for index, (number, mode) in enumerate(images):
            assert (folder / f"cars_{split}" / f"{index + 1:05d}.jpg").read_bytes() == jpeg(number + index, mode)


def test_a_broken_download_leaves_no_folder(
    hub: Callable[..., list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off in the middle of writing; what a killed process left is cleared away by the next call."""
    hub()
    write = download_module._write_split

    def fail_at_test(folder: Path, split: str, rows: Any) -> None:
        write(folder, split, rows)
        if split == "test":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(download_module, "_write_split", fail_at_test)
    with pytest.raises(OSError, match="No space left"):
        stanford_cars(tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(download_module, "_write_split", write)
    (tmp_path / ".stanford_cars.part" / "cars_train").mkdir(parents=True)
    (tmp_path / ".stanford_cars.part" / "cars_train" / "09999.jpg").write_bytes(b"")
    stanford_cars(tmp_path, download=True)
    assert [path.name for path in tmp_path.iterdir()] == ["stanford_cars"]
    assert len(list((tmp_path / "stanford_cars" / "cars_train").iterdir())) == len(TRAIN)


def test_download_errors(hub: Callable[..., list[dict[str, Any]]], tmp_path: Path) -> None:
    hub(error=ConnectionError("the hub is not reachable"))
    with pytest.raises(DownloadError, match=r"stanford_cars \(the hub is not.*Try again where.*from elsewhere"):
        stanford_cars(tmp_path, download=True)
    hub(names=CAR_CLASSES[::-1])
    with pytest.raises(ValueError, match="class 1 is 'AM General Hummer SUV 2000', there it is 'smart fortwo"):
        stanford_cars(tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "row",
    [
        {"image": {"bytes": None}, "label": 0},
        {"image": {"bytes": b"x"}, "label": 196},
        {"image": {"bytes": b"x"}, "label": None},
        {"image": {"bytes": b"x"}, "label": -1},
    ],
)
def test_a_damaged_row_of_the_copy_is_named(
    row: dict[str, Any], hub: Callable[..., list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub()
    real = FakeRows.__iter__
    monkeypatch.setattr(FakeRows, "__iter__", lambda self: iter([next(real(self)), row, *list(real(self))[2:]]))
    with pytest.raises(ValueError, match=r"Row 1 of tanganke/stanford_cars \(train\) has no image, or the label"):
        stanford_cars(tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []


def test_damaged_tables_of_the_copy_are_not_read(
    hub: Callable[..., list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub()

    def damaged(self: FakeRows) -> types.SimpleNamespace:
        def validate(full: bool) -> None:
            raise ValueError("Offset invariant failure" if full else "not asked for all")

        return types.SimpleNamespace(validate=validate)

    monkeypatch.setattr(FakeRows, "data", property(damaged, lambda self, value: None), raising=False)
    with pytest.raises(DownloadError, match=r"could not be downloaded .* \(Offset invariant failure\)"):
        stanford_cars(tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []


def test_two_downloads_at_once_are_one(
    hub: Callable[..., list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, write, found = hub(), download_module._write_split, []

    def slow(*args: Any) -> None:
        time.sleep(0.05)
        write(*args)

    monkeypatch.setattr(download_module, "_write_split", slow)
    threads = [threading.Thread(target=lambda: found.append(download_stanford_cars(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [tmp_path / "stanford_cars"] * 4
    assert len(asked) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["stanford_cars"]


def test_a_copy_of_another_length_is_refused(
    hub: Callable[..., list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert download_module.COUNTS == {"train": 8144, "test": 8041}
    hub()
    monkeypatch.setattr(download_module, "COUNTS", {"train": len(TRAIN), "test": 8041})
    with pytest.raises(ValueError, match="must have 8,041 test images: it has 5"):
        stanford_cars(tmp_path, download=True)


def test_download_needs_a_package_and_a_free_place(
    hub: Callable[..., list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hub()
    (tmp_path / "stanford_cars").mkdir()
    with pytest.raises(FileExistsError, match=r"stanford_cars` is there already: move it away"):
        stanford_cars(tmp_path, download=True)
    monkeypatch.setitem(sys.modules, "datasets", None)  # what Python takes for a missing package
    with pytest.raises(ImportError, match="needs the package `datasets`: pip install datasets"):
        stanford_cars(tmp_path, download=True)
    assert asked == []


# --- real images ----------------------------------------------------------------------------------


def test_bmw_sedans_of_2012(bmw: Path) -> None:
    data = stanford_cars(bmw, brand="BMW", type="Sedan", year=2012)
    assert data.classes == ("BMW ActiveHybrid 5 Sedan 2012", "BMW 3 Series Sedan 2012")
    assert data.train.labels.bincount().tolist() == [28, 35]
    assert data.test.images[0].shape == (3, 256, 256)


def test_all_classes_of_bmw_as_torchvision_has_them(bmw: Path) -> None:
    data = stanford_cars(bmw, brand="bmw")
    assert len(data.classes) == 13
    for name, split in data.splits().items():
        theirs = StanfordCars(bmw, split=name)
        assert names_of(data, name) == [theirs.classes[label] for _, label in theirs._samples]
        resized = theirs[0][0].resize((256, 256), Image.Resampling.BILINEAR)
        assert torch.equal(split.images[0], torch.from_numpy(np.array(resized)).permute(2, 0, 1))


def test_frames(tmp_path_factory: pytest.TempPathFactory) -> None:
    frames = real_cars("frames", tmp_path_factory)
    data = stanford_cars(frames, image_size=96)
    assert (len(data.train), len(data.test), data.num_classes) == (6598, 1546, 196)
    assert sum(int((split.input_boxes().sum(1) > 0).sum()) for split in data.splits().values()) == 4027
