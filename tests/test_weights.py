"""Files of weights: the state dict is found whoever wrote it; what does not fit changes nothing and is named.

Whatever stands in a file, reading it gives its values or one error that names it, and executes nothing.
"""

import ast
import errno
import hashlib
import io
import json
import pickle
import random
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evalib.files import DamagedFileError
from evalib.weights import (
    FORMAT,
    load_strictly,
    read_weights_file,
    state_dict_in,
    write_weights_file,
)

ROOT = Path(__file__).resolve().parent.parent
VALUES = {
    "format": FORMAT,
    "weights": {
        "w": torch.arange(64.0).reshape(4, 4, 2, 2).to(memory_format=torch.channels_last),
        "n": torch.tensor(3),
    },
    "classes": ["ant", "bee"],
    "epoch": 4,
    "lr": 0.1,
    "flag": None,
}


def tensors(*names):
    return {name: torch.full((2,), float(index)) for index, name in enumerate(names)}


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 10))


@pytest.mark.parametrize("zip_file", [True, False])  # torchvision's VGG19 is older than the zip format
def test_a_file_is_read_as_it_was_written(tmp_path, zip_file):
    weights = tensors("a", "b")
    torch.save({"net": weights, "acc": 95.1}, tmp_path / "file.pth", _use_new_zipfile_serialization=zip_file)
    found = read_weights_file(str(tmp_path / "file.pth"))
    assert found["acc"] == 95.1
    assert list(found["net"]) == ["a", "b"]
    assert torch.equal(found["net"]["b"], weights["b"])


@pytest.mark.parametrize("key", [None, "net", "state_dict", "model", "model_state_dict", "weights"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_state_dict_of_every_project(key, prefix):
    weights = tensors("conv1.weight", "linear.module.bias")
    written = {prefix + name: value for name, value in weights.items()}
    found = state_dict_in({"epoch": 3, key: written} if key else written, "file.pth")
    assert list(found) == list(weights)
    assert all(found[name] is value for name, value in weights.items())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # CAM_Stanford_Cars: all features one level down
        (("features.0.0.weight", "features.0.10.bias", "classifier.weight"),
         ("features.0.weight", "features.10.bias", "classifier.weight")),
        # torchvision's AlexNet, and its MobileNet, whose first of many blocks has two levels
        (("features.0.weight", "features.10.bias", "classifier.1.weight"),) * 2,
        (("features.0.0.weight", "features.1.0.weight"),) * 2,
        (("conv1.weight", "layer1.0.0.weight"),) * 2,
    ],
)  # fmt: skip
def test_names_of_features(names, expected):
    assert tuple(state_dict_in(tensors(*names), "file.pth")) == expected


@pytest.mark.parametrize("values", [{}, [], {"epoch": 1}, {"net": {"a": 1}}, {"net": {}}, torch.ones(2)])
def test_a_file_without_a_state_dict_is_named(values):
    with pytest.raises(ValueError, match=r"file.pth holds no state dict: it needs tensors .* net, state_dict, model, "):
        state_dict_in(values, "file.pth")


def test_loading_is_strict_and_complete(model):
    weights = {name: torch.randn_like(value, dtype=torch.float32) for name, value in model.state_dict().items()}
    weights["1.num_batches_tracked"] = torch.tensor(7)
    load_strictly(model, weights, "file.pth")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"2.weight": torch.ones(196, 4)}, r"2.weight: the file holds a network for 196 classes, this one has 10"),
        ({"2.weight": torch.ones(10, 8)}, r"size mismatch for 2.weight: copying .*\[10, 8\].* is .*\[10, 4\]"),
        ({"2.weight": torch.ones(196, 8)}, r"size mismatch for 2.weight: copying .*\[196, 8\].* is .*\[10, 4\]"),
        (dict.fromkeys(["0.weight", "0.bias", "1.weight", "1.bias", "2.bias"]) | {"other": torch.ones(2)},
         r"it is of another network, which has 4 of this one's 9 weights. Missing"),
        ({"2.weight": None}, r"Missing key.*2.weight"),
        ({"3.weight": torch.ones(2)}, r"Unexpected key.*3.weight"),
        ({"1.bias": torch.ones(2)}, r"size mismatch for 1.bias"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_and_changes_nothing(model, change, message):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {name: value + 1 for name, value in before.items()} | change
    weights = {name: value for name, value in weights.items() if value is not None}
    with pytest.raises(ValueError, match=rf"^The weights in file.pth do not fit this Sequential: .*{message}"):
        load_strictly(model, weights, "file.pth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- whole files ------------------------------------------------------------------------------------


def saved(values, **named):
    content = io.BytesIO()
    torch.save(values, content, **named)
    return content.getvalue()


def sealed(content):
    """A file of torch with our seal, made from its definition: the digest of all before it, as a zip comment."""
    label = b"evalib-checkpoint-2 sha256:"
    content = content[:-2] + struct.pack("<H", len(label) + 64) + label
    return content + hashlib.sha256(content).hexdigest().encode()


def reading(folder, content, name="file.pt"):
    (folder / name).write_bytes(content)
    return read_weights_file(folder / name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "file.pt"
    write_weights_file(path, VALUES)
    return path.read_bytes()


def test_what_is_written_is_read(tmp_path, whole):
    found = reading(tmp_path, whole)
    assert torch.equal(found["weights"]["w"], VALUES["weights"]["w"])
    assert found["weights"]["w"].stride() == VALUES["weights"]["w"].stride()
    assert {k: v for k, v in found.items() if k != "weights"} == {k: v for k, v in VALUES.items() if k != "weights"}


def test_it_is_a_file_of_torch_that_ends_in_its_digest(tmp_path, whole):
    assert whole[-64:].decode() == hashlib.sha256(whole[:-64]).hexdigest()
    (tmp_path / "file.pt").write_bytes(whole)
    assert torch.load(tmp_path / "file.pt", weights_only=True)["epoch"] == 4
    with zipfile.ZipFile(tmp_path / "file.pt") as archive:
        assert archive.testzip() is None
        assert archive.comment == b"evalib-checkpoint-2 sha256:" + whole[-64:]
    assert reading(tmp_path, sealed(saved(VALUES)))["epoch"] == 4


HTML = b"<!DOCTYPE html><html><head><title>503 Service Unavailable</title></head><body></body></html>"
DAMAGES = {
    "empty": lambda whole: b"",
    "1 %": lambda whole: whole[: len(whole) // 100],
    "half": lambda whole: whole[: len(whole) // 2],
    "without the last 100 bytes": lambda whole: whole[:-100],
    "without the digest": lambda whole: whole[:-64],
    "without the last byte": lambda whole: whole[:-1],
    "a byte more": lambda whole: whole + b"x",
    "zeros": lambda whole: bytes(len(whole)),
    "zeros at the end": lambda whole: whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2),
    "zeros in the middle": lambda whole: whole[:1000] + bytes(512) + whole[1512:],
    "a page of HTML": lambda whole: HTML,
    "a page of HTML over its beginning": lambda whole: HTML + whole[len(HTML) :],
    "twice": lambda whole: whole + whole,
    "another's digest": lambda whole: whole[:-64] + hashlib.sha256(b"").hexdigest().encode(),
    "no digest": lambda whole: saved(VALUES),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_seen(tmp_path, whole, damage):
    with pytest.raises(
        DamagedFileError, match=r"^Cannot read the checkpoint .*file.pt: it is (damaged: |no checkpoint)"
    ):
        reading(tmp_path, DAMAGES[damage](whole))


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_flipped_bit_is_seen(tmp_path, whole):
    """At 300 places of the whole file, and every one of the 113 bytes of directory end, seal and digest."""
    bits = 8 * len(whole)
    for bit in [*random.Random(0).sample(range(bits), 300), *range(bits - 8 * 113, bits)]:
        with pytest.raises(DamagedFileError, match=r"file.pt: it is (damaged: |no checkpoint)"):
            reading(tmp_path, flipped(whole, bit))


def test_the_reason_is_one_line(tmp_path, whole):
    with pytest.raises(
        DamagedFileError, match=r"^Cannot read .*: it is damaged: its SHA-256 is not that of its content.$"
    ):
        reading(tmp_path, flipped(whole, 8000))
    with pytest.raises(DamagedFileError, match=r"^Cannot read .*: it is damaged: its SHA-256 is missing.$"):
        reading(tmp_path, saved(VALUES))


def test_the_reason_is_short_whatever_the_file_says(tmp_path):
    """Its numbers have a name of 5,000 letters, under which the archive holds nothing."""
    name = b"X\x88\x13\x00\x00" + b"0" * 5000
    storage = b"(U\x07storagectorch\nFloatStorage\n" + name + b"U\x03cpuK\x01tQ"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00K\x01\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
    )
    with pytest.raises(DamagedFileError, match="it is damaged: PytorchStreamReader failed locating") as raised:
        reading(tmp_path, zipped(b"\x80\x02" + tensor + b"."))
    assert len(str(raised.value)) < 300 + len(str(tmp_path))


def test_the_disk_is_not_taken_for_the_file(tmp_path, whole, monkeypatch):
    def fail(file):
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr("evalib.weights._is_sealed", fail)
    with pytest.raises(OSError, match="Transport endpoint is not connected"):
        reading(tmp_path, whole)


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        read_weights_file(tmp_path)


# --- hostile files ----------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return exec, ("open('boom', 'w').close()",)


def zipped(pickled, **more):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", **more) as archive:
        for name, part in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little"}.items():
            archive.writestr(f"archive/{name}", part)
    return content.getvalue()


def tarred():
    """The oldest format of torch, before 0.1.10."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            part, info = pickle.dumps(Bomb(), 2), tarfile.TarInfo(name)
            info.size = len(part)
            archive.addfile(info, io.BytesIO(part))
    return content.getvalue()


def nested():
    """A file of torch whose numbers are another one, and a whole archive as the only part of an archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}, 2))
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/data/0", saved(Bomb()))
        archive.writestr("archive/inner.pt/data.pkl", pickle.dumps(Bomb(), 2))
    return content.getvalue()


def called(name, argument="touch boom"):
    module, _, function = name.rpartition(".")
    return b"\x80\x02c" + f"{module}\n{function}\n".encode() + pickle.dumps((argument,), 2)[2:-1] + b"R."


CALLS = (
    "os.system", "posix.system", "nt.system", "builtins.eval", "builtins.exec", "builtins.getattr", "__builtin__.eval",
    "subprocess.getoutput", "runpy.run_path", "pty.spawn", "shutil.rmtree", "torch.hub.load", "torch.load",
    "torch.serialization.load", "torch.jit.load", "torch.utils.cpp_extension.load", "numpy.load", "pickle.loads",
    "_pickle.loads", "importlib.import_module", "timeit.main", "webbrowser.open", "evalib.cli.main",
)  # fmt: skip
HOSTILE = {
    "pickle": lambda: pickle.dumps(Bomb()),
    "pickle of protocol 0": lambda: pickle.dumps(Bomb(), 0),
    "INST": lambda: b"(S'touch boom'\nios\nsystem\n.",
    "OBJ": lambda: b"(cos\nsystem\nS'touch boom'\no.",
    "torch": lambda: saved(Bomb()),
    "torch before 1.6": lambda: saved(Bomb(), _use_new_zipfile_serialization=False),
    "tar": tarred,
    "with our digest": lambda: sealed(saved({**VALUES, "metrics": Bomb()})),
    "in weights": lambda: sealed(saved({**VALUES, "weights": {"w": Bomb()}})),
    "nested": nested,
    "nested, with our digest": lambda: sealed(nested()),
    "protocol 4 in a zip": lambda: zipped(pickle.dumps(Bomb(), 4)),
    "a whole network": lambda: saved(nn.Linear(1, 1)),
    **{name: lambda name=name: zipped(called(name)) for name in CALLS},
    **{f"{name} before 1.6": lambda name=name: called(name) for name in CALLS},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DamagedFileError, match="Cannot read the checkpoint file.pt: it is no checkpoint, or holds more"
    ):
        reading(Path(), HOSTILE[kind]())
    assert [path.name for path in tmp_path.iterdir()] == ["file.pt"]


def test_the_bomb_would_go_off(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE["pickle"]())
    assert (tmp_path / "boom").exists()


GREEDY = {
    "an array of 2 GB": zipped(called("builtins.bytearray", 2**31 - 1)),
    "a tensor of 2 GB": zipped(called("torch.Tensor", 2**29)),
    "the same before 1.6": called("builtins.bytearray", 2**31 - 1),
    "numbers that take 100 MB": zipped(pickle.dumps("a" * 100_000_000, 2), compression=zipfile.ZIP_DEFLATED),
}


@pytest.mark.parametrize("kind", GREEDY)
def test_a_small_file_takes_little_memory(tmp_path, kind):
    (tmp_path / "file.pt").write_bytes(GREEDY[kind])
    tracemalloc.start()
    try:
        with pytest.raises(DamagedFileError, match="it is no checkpoint, or holds more"):
            read_weights_file(tmp_path / "file.pt")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


# --- any bytes --------------------------------------------------------------------------------------

ANY = settings(max_examples=150, deadline=None, derandomize=True, database=None)
BEGINNINGS = (b"", b"PK\x03\x04", b"\x80\x02", saved(VALUES)[:600], saved(1, _use_new_zipfile_serialization=False)[:60])


def tried(folder, content, name="file.pt"):
    """Read a file of any content: True if it gave something, False if it is damaged; anything else fails."""
    try:
        reading(folder, content, name)
        return True
    except DamagedFileError as error:
        message = str(error)
    assert name in message
    assert "\n" not in message
    return False


@ANY
@given(beginning=st.sampled_from(BEGINNINGS), rest=st.binary(max_size=300))
def test_any_bytes(tmp_path_factory, beginning, rest):
    tried(tmp_path_factory.getbasetemp(), beginning + rest)


def mutated(content, edits):
    """The content with some bytes changed, removed or put in."""
    for place, removed, inserted in edits:
        place %= len(content) + 1
        content = content[:place] + inserted + content[place + removed :]
    return content


EDITS = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4)


@ANY
@given(edits=EDITS)
def test_mutated_checkpoints(tmp_path_factory, whole, edits):
    changed = mutated(whole, edits)
    assert tried(tmp_path_factory.getbasetemp(), changed) is (changed == whole)


@ANY
@given(edits=EDITS, newer=st.booleans())
def test_mutated_files_of_other_projects(tmp_path_factory, edits, newer):
    content = saved({"net": VALUES["weights"]}, _use_new_zipfile_serialization=newer)
    tried(tmp_path_factory.getbasetemp(), mutated(content, edits))


# --- safetensors ------------------------------------------------------------------------------------


def safetensors_bytes():
    safetensors = pytest.importorskip("safetensors.torch")
    return safetensors.save({"a": torch.arange(4.0), "b": torch.ones(2, 2, dtype=torch.bfloat16)}, {"by": "hand"})


def test_a_file_of_safetensors_is_a_state_dict(tmp_path):
    found = state_dict_in(reading(tmp_path, safetensors_bytes(), "file.safetensors"), "file.safetensors")
    assert torch.equal(found["a"], torch.arange(4.0))
    assert found["b"].dtype == torch.bfloat16


@pytest.mark.parametrize("content", [b"", HTML, bytes(100), b"\xff" * 8 + b"{}", pickle.dumps(Bomb())])
def test_a_damaged_file_of_safetensors(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DamagedFileError, match=r"Cannot read the checkpoint file.safetensors: it is damaged: "):
        reading(Path(), content, "file.safetensors")
    assert not (tmp_path / "boom").exists()


@ANY
@given(edits=EDITS)
def test_mutated_files_of_safetensors(tmp_path_factory, edits):
    tried(tmp_path_factory.getbasetemp(), mutated(safetensors_bytes(), edits), "file.safetensors")


def test_without_safetensors(tmp_path, monkeypatch):
    content = safetensors_bytes()
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"need that package: pip install 'evalib\[export\]'"):
        reading(tmp_path, content, "file.safetensors")


# --- no other way in --------------------------------------------------------------------------------

READERS = ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")


def unsafe_reads(tree):
    """What in a syntax tree reads pickles, or torch's files otherwise than safely."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"imports {name}" for name in modules if name.partition(".")[0] in READERS)
        if isinstance(node, ast.Attribute) and node.attr in ("read_pickle", "Unpickler"):
            yield f"uses {node.attr}"
        if not isinstance(node, ast.Call):
            continue
        name, named = ast.unparse(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
        if name.endswith((".hub.load", "jit.load", "torch.package")):
            yield f"calls {name}"
        safe = isinstance(flag := named.get("weights_only"), ast.Constant) and flag.value is True
        if (name in ("torch.load", "torch.serialization.load") or "weights_only" in named) and not safe:
            yield f"calls {name} without weights_only=True"
        if ast.unparse(named.get("allow_pickle", ast.Constant(False))) != "False":
            yield f"calls {name} with allow_pickle"


def trees():
    """Every module of evalib and of the benchmarks, and every code cell of the notebooks."""
    for path in [*(ROOT / "evalib").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                lines = "".join(cell["source"]).splitlines()
                text = "\n".join("pass" if line.lstrip().startswith(("%", "!")) else line for line in lines)
                yield path.relative_to(ROOT).as_posix(), ast.parse(text)


def test_files_are_read_here_and_nowhere_else():
    found = {}
    for name, tree in trees():
        found.setdefault(name, set()).update(unsafe_reads(tree))
    assert len(found) > 60
    assert {name: sorted(reads) for name, reads in found.items() if reads} == {
        # CIFAR-10's own files, each behind its MD5
        "evalib/data/cifar10.py": ["imports pickle", "uses Unpickler"],
        "evalib/weights.py": ["imports pickle"],  # for its exceptions, as the next test shows
    }
    loads = [name for name, tree in trees() for node in ast.walk(tree) if "torch.load" in _called(node)]
    assert loads == ["evalib/weights.py"]


def test_of_pickle_the_exceptions_are_used():
    tree = dict(trees())["evalib/weights.py"]
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"]
    assert {node.attr for node in names} == {"UnpicklingError"}


def _called(node):
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import pickle as p\np.load(f)", ["imports pickle"]),
        ("from pickle import loads", ["imports pickle"]),
        ("torch.load(f)", ["calls torch.load without weights_only=True"]),
        ("torch.load(f, weights_only = False)", ["calls torch.load without weights_only=True"]),
        ("load(f, weights_only=safe)", ["calls load without weights_only=True"]),
        ("torch.load(f, weights_only=True)", []),
        ("pandas.read_pickle(f)", ["uses read_pickle"]),
        ("np.load(f, allow_pickle=True)", ["calls np.load with allow_pickle"]),
        ("torch.hub.load('a', 'b')", ["calls torch.hub.load"]),
        ("json.load(f)", []),
    ],
)
def test_the_search_finds_what_it_should(text, expected):
    assert list(unsafe_reads(ast.parse(text))) == expected
