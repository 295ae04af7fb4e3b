"""CIFAR-10 by each way, from tiny batches that are pickled as the official ones are: by Python 2."""

from __future__ import annotations

import hashlib
import http.server
import importlib
import io
import os
import pickle
import socket
import struct
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from evalib.data.cifar10 import cifar10
from evalib.data.image_data import CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD, ImageData
from evalib.download import DownloadError

module = importlib.import_module("evalib.data.cifar10")  # by name: the package has a function of this name too
NAMES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Protocol 2 with `str` and `bytes` as Python 2's one string type, and numpy by its old name."""

    def save_string(self: Any, text: str | bytes) -> None:
        data = text.encode("latin1") if isinstance(text, str) else text
        short = len(data) < 256
        head = pickle.SHORT_BINSTRING + bytes([len(data)]) if short else pickle.BINSTRING + struct.pack("<i", len(data))
        self.write(head + data)
        self.memoize(text)

    dispatch: ClassVar[dict[type, Any]] = {
        **pickle._Pickler.dispatch,  # type: ignore[attr-defined]
        str: save_string,
        bytes: save_string,
    }


def python2_pickle(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def make_batches() -> tuple[dict[str, bytes], dict[str, tuple[np.ndarray, list[int]]]]:
    """Six batches of 10 images, one of each class, and what they hold: pixels (10, 3072) and labels."""
    rng = np.random.default_rng(0)
    files, truth = {}, {}
    for name in NAMES:
        pixels = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        labels = [int(label) for label in rng.permutation(10)]
        batch = {"batch_label": name, "labels": labels, "data": pixels, "filenames": ["a.png"] * 10}
        files[name], truth[name] = python2_pickle(batch), (pixels, labels)
    return files, truth


FILES, TRUTH = make_batches()


def set_md5(files: dict[str, bytes], patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module, "BATCH_MD5", {name: hashlib.md5(content).hexdigest() for name, content in files.items()})


def write_batches(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def tar_of(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


ARCHIVE = tar_of({**FILES, "batches.meta": b"not read"})


@pytest.fixture(autouse=True)
def tiny_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official MD5s are those of the tiny files, and no mirror answers."""
    set_md5(FILES, monkeypatch)
    monkeypatch.setattr(module, "ARCHIVE_MD5", hashlib.md5(ARCHIVE).hexdigest())
    monkeypatch.setattr(module, "MIRRORS", ("http://127.0.0.1:1/a.tar.gz", "http://127.0.0.1:1/b.tar.gz"))
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The last of three mirrors gives the archive; yields the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Keep stderr clean."""

        def do_GET(self) -> None:
            asked.append(self.path)
            found = self.path == "/c"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(ARCHIVE) if found else 0))
            self.end_headers()
            self.wfile.write(ARCHIVE if found else b"")

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(module, "MIRRORS", tuple(f"http://127.0.0.1:{server.server_port}/{x}" for x in "abc"))
    yield asked
    server.shutdown()
    server.server_close()
    thread.join()


def assert_is_cifar10(data: ImageData) -> None:
    assert (data.name, data.classes, data.mean, data.std) == ("cifar10", CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD)
    assert (len(data.train), len(data.test), data.image_size, data.val) == (50, 10, 32, None)
    for split, names in ((data.train, NAMES[:5]), (data.test, NAMES[5:])):
        assert split.labels.tolist() == [label for name in names for label in TRUTH[name][1]]
        for i, row in enumerate(np.concatenate([TRUTH[name][0] for name in names])):
            for channel in range(3):  # the layout as the official page states it: row-major red, green, blue
                plane = row[1024 * channel : 1024 * (channel + 1)]
                assert split.images[i, channel].flatten().tolist() == plane.tolist()


# --- the official batches -------------------------------------------------------------------------


def test_the_fakes_are_like_the_official_files() -> None:
    """As in the official data_batch_1: protocol 2, one-byte strings, numpy by its old name, pixels as a long string."""
    content = FILES["data_batch_1"]
    assert content.startswith(b"\x80\x02}")
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in content
    assert b"cnumpy\nndarray\n" in content
    assert b"cnumpy\ndtype\n" in content
    assert b"T\x00\x78\x00\x00" in content  # BINSTRING of 10 * 3072 bytes
    assert b"_codecs" not in content


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize("inside", ["cifar-10-batches-py", "."])
@pytest.mark.parametrize("as_text", [True, False])
def test_batches_in_root_or_root_itself(inside: str, as_text: bool, tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_batches(root / inside)
    data = cifar10(str(root) if as_text else root)
    assert_is_cifar10(data)
    assert data.source == "official batches in cifar-10-batches-py, MD5 checked"


def test_images_can_be_written_to(tmp_path: Path) -> None:
    """No view of a pickle's read-only memory: torch would warn, or crash on a write."""
    write_batches(tmp_path / "cifar-10-batches-py")
    data = cifar10(tmp_path)
    data.test.images.zero_()
    assert not data.test.images.any()


def test_a_damaged_batch_is_named(tmp_path: Path) -> None:
    folder = write_batches(tmp_path / "cifar-10-batches-py")
    content = FILES["data_batch_3"]
    (folder / "data_batch_3").write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    with pytest.raises(ValueError, match=r"data_batch_3`.*its MD5 must be [0-9a-f]{32}, found .*Delete the folder"):
        cifar10(tmp_path)


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    folder = write_batches(tmp_path / "cifar-10-batches-py")
    (folder / "data_batch_2").unlink()
    (folder / "test_batch").unlink()
    with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-py`.*lacks data_batch_2, test_batch\."):
        cifar10(tmp_path)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["EVALIB_TEST_SENTINEL"],)


class Exec:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"__import__('os').mkdir({os.environ['EVALIB_TEST_SENTINEL']!r})",)


@pytest.mark.parametrize("kind", [Evil, Exec])
def test_a_malicious_pickle_runs_nothing(kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with the right MD5."""
    sentinel = tmp_path / "sentinel"
    monkeypatch.setenv("EVALIB_TEST_SENTINEL", str(sentinel))
    evil = pickle.dumps({"data": kind(), "labels": [0]}, protocol=2)
    folder = write_batches(tmp_path / "cifar-10-batches-py")
    (folder / "data_batch_1").write_bytes(evil)
    set_md5({**FILES, "data_batch_1": evil}, monkeypatch)
    with pytest.raises(ValueError, match=r"data_batch_1` is refused: it asks for (posix|nt|os|builtins|__builtin__)\."):
        cifar10(tmp_path)
    assert not sentinel.exists()
    pickle.loads(evil)  # the attack is a real one
    assert sentinel.exists()


def evil_pickle(sentinel: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setenv("EVALIB_TEST_SENTINEL", str(sentinel))
    return pickle.dumps({"data": Evil(), "labels": [0]}, protocol=2)


@pytest.mark.parametrize("name", NAMES)
def test_a_tampered_batch_is_not_even_parsed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The MD5 stands before the unpickler, not only the unpickler's own list."""
    sentinel = tmp_path / "sentinel"
    folder = write_batches(tmp_path / "cifar-10-batches-py")
    (folder / name).write_bytes(evil_pickle(sentinel, monkeypatch))
    parsed: list[bytes] = []

    class Recorder(pickle.Unpickler):
        def __init__(self, file: io.BytesIO, **options: Any) -> None:
            parsed.append(file.getvalue())
            super().__init__(file, **options)

    monkeypatch.setattr(module, "_BatchUnpickler", Recorder)  # which would run anything
    with pytest.raises(ValueError, match=f"{name}` is damaged or another file: its MD5 must be [0-9a-f]{{32}}, found"):
        cifar10(tmp_path)
    assert not sentinel.exists()
    assert set(parsed) <= set(FILES.values())


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_tampered_archive_runs_nothing(
    known: bool, download: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by its MD5; and if somebody had vetted that one, by the batch's."""
    sentinel = tmp_path / "sentinel"
    archive = tar_of({**FILES, "data_batch_4": evil_pickle(sentinel, monkeypatch)})
    if known:
        monkeypatch.setattr(module, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive)
    with pytest.raises((ValueError, DownloadError), match="data_batch_4` is" if known else "damaged or another"):
        cifar10(tmp_path, download=download)
    assert not sentinel.exists()
    assert (tmp_path / "cifar-10-batches-py").exists() is known


def test_the_bytes_that_were_hashed_are_the_bytes_that_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is replaced as soon as its MD5 is known."""
    folder = write_batches(tmp_path / "cifar-10-batches-py")
    names = {hashlib.md5(content).hexdigest(): name for name, content in FILES.items()}
    replaced: list[str] = []

    class Swapping:
        @staticmethod
        def md5(content: bytes, **options: Any) -> Any:
            found = hashlib.md5(content, **options)
            replaced.append(names[found.hexdigest()])
            (folder / replaced[-1]).write_bytes(b"other")
            return found

    monkeypatch.setattr(module, "hashlib", Swapping)
    assert_is_cifar10(cifar10(tmp_path))
    assert sorted(replaced) == sorted(NAMES)


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02", pickle.dumps([1]), pickle.dumps({"data": 1, "labels": 2}), b"q" * 99]
)
def test_a_batch_that_is_none_is_refused_in_words(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_batches(tmp_path / "cifar-10-batches-py")
    (folder / "data_batch_5").write_bytes(content)
    set_md5({**FILES, "data_batch_5": content}, monkeypatch)
    with pytest.raises(ValueError, match=r"data_batch_5` is refused: .+\. Delete the folder"):
        cifar10(tmp_path)


def test_a_huge_batch_is_not_read_whole(tmp_path: Path) -> None:
    folder = write_batches(tmp_path / "cifar-10-batches-py")
    os.truncate(folder / "test_batch", 1 << 40)  # holes: it takes no space
    with pytest.raises(ValueError, match="test_batch` is damaged"):
        cifar10(tmp_path)


def test_two_calls_at_once(tmp_path: Path) -> None:
    """Each of them may be the one that unpacks the archive."""
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(ARCHIVE)
    found: list[ImageData] = []
    threads = [threading.Thread(target=lambda: found.append(cifar10(tmp_path))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 6
    for data in found:
        assert_is_cifar10(data)
    assert sorted(os.listdir(tmp_path)) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


# --- folders of images ----------------------------------------------------------------------------


def write_images(root: Path, size: int = 32) -> None:
    """Batches as PNG files; within a class in their order."""
    for split, names in (("train", NAMES[:5]), ("test", NAMES[5:])):
        for number, name in enumerate(names):
            for row, label in zip(*TRUTH[name], strict=True):
                file = root / split / CIFAR10_CLASSES[label] / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0))
                (image if size == 32 else image.resize((size, size))).save(file)


@pytest.mark.usefixtures("no_sockets")
def test_folders_of_images(tmp_path: Path) -> None:
    write_images(tmp_path)
    data = cifar10(tmp_path)
    assert (data.name, data.classes, data.mean, data.std) == ("cifar10", CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD)
    assert data.train.labels.tolist() == [label for label in range(10) for _ in range(5)]
    assert data.test.labels.tolist() == list(range(10))
    pixels, labels = TRUTH["test_batch"]
    expected = torch.from_numpy(pixels[np.argsort(labels)].reshape(-1, 3, 32, 32))
    assert torch.equal(data.test.images, expected)
    assert "image files" in data.source
    assert "\n" not in data.source


def test_batches_go_before_images(tmp_path: Path) -> None:
    write_images(tmp_path)
    write_batches(tmp_path / "cifar-10-batches-py")
    assert "official batches" in cifar10(tmp_path).source


def test_folders_of_other_images_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "lion")
    with pytest.raises(ValueError, match=r"test` must have the ten class folders.*are cat, lion\..*image_folder"):
        cifar10(tmp_path)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, size=40)
    with pytest.raises(ValueError, match=r"must be 32 x 32 pixels.*are 40 x 40"):
        cifar10(tmp_path)


# --- archive and download -------------------------------------------------------------------------


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize("download", [True, False])
def test_an_archive_placed_by_hand(download: bool, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(ARCHIVE)
    data = cifar10(tmp_path, download=download)
    assert_is_cifar10(data)
    assert data.source == "official archive cifar-10-python.tar.gz, placed by hand, MD5 checked"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]
    assert_is_cifar10(cifar10(tmp_path, download=download))


@pytest.mark.parametrize("content", [ARCHIVE[:-100], tar_of({"other": b"a whole archive of another thing"})])
def test_a_wrong_archive_is_named_and_not_unpacked(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz` is damaged or another file: its MD5 must be"):
        cifar10(tmp_path, download=False)
    assert not (tmp_path / "cifar-10-batches-py").exists()
    with pytest.raises(DownloadError, match="The file that is there now is damaged"):
        cifar10(tmp_path)


def test_a_damaged_archive_is_replaced_by_a_download(tmp_path: Path, mirror: list[str]) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(ARCHIVE[:-100])
    assert_is_cifar10(cifar10(tmp_path))
    assert mirror == ["/a", "/b", "/c"]


def test_download_in_the_order_of_the_mirrors_and_only_once(
    tmp_path: Path, mirror: list[str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    root = tmp_path / "new" / "root"
    data = cifar10(root)
    assert_is_cifar10(data)
    assert data.source == "official archive cifar-10-python.tar.gz, downloaded, MD5 checked"
    assert mirror == ["/a", "/b", "/c"]
    request.getfixturevalue("no_sockets")
    assert_is_cifar10(cifar10(root))
    (root / "cifar-10-python.tar.gz").unlink()
    assert_is_cifar10(cifar10(root))


def test_no_way_leads_to_it(tmp_path: Path) -> None:
    """Every way is named: batches, folders of images, archive with its MD5, mirrors."""
    ways = r"cifar-10-batches-py.*train.*<class>.*archive .*MD5 [0-9a-f]{32}.*`download=True`.*a\.tar\.gz.*b\.tar\.gz"
    with pytest.raises(FileNotFoundError, match=f"(?s)`root` holds no CIFAR-10.*{ways}"):
        cifar10(tmp_path, download=False)
    with pytest.raises(FileNotFoundError, match=f"(?s)`root` does not exist.*nowhere.*{ways}"):
        cifar10(tmp_path / "nowhere", download=False)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(DownloadError, match=f"(?s)Every mirror failed.*a.tar.gz.*refused.*b.tar.gz.*by hand.*{ways}"):
        cifar10(tmp_path)


def test_the_official_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The MD5s are those that torchvision checks by; Toronto, which is throttled, is the last mirror."""
    from torchvision.datasets import CIFAR10

    monkeypatch.undo()
    assert dict(CIFAR10.train_list + CIFAR10.test_list) == module.BATCH_MD5
    assert (CIFAR10.tgz_md5, CIFAR10.filename, CIFAR10.base_folder) == (
        module.ARCHIVE_MD5,
        module.ARCHIVE,
        module.FOLDER,
    )
    assert module.MIRRORS[-1] == CIFAR10.url
    assert len(set(module.MIRRORS)) == 3


def test_torchvision_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An independent reader of the same folder."""
    from torchvision.datasets import CIFAR10

    write_batches(tmp_path / "cifar-10-batches-py")
    data = cifar10(tmp_path)
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(CIFAR10, "_load_meta", lambda self: None)
    for split, train in ((data.train, True), (data.test, False)):
        theirs = CIFAR10(tmp_path, train=train)
        assert torch.equal(split.images, torch.from_numpy(theirs.data).permute(0, 3, 1, 2))
        assert split.labels.tolist() == theirs.targets
