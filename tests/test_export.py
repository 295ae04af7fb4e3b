"""Export: what is in the files is read by other programs, and a file that is wrong must not be left."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch import nn

import evalib
from benchmarks.export import lived_in
from evalib import export as export_module
from evalib import export_formats
from evalib.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from evalib.cli import EXPORT_FORMATS, main
from evalib.data import sample
from evalib.export import BATCH_SIZES, OWN_ERRORS, SEEDS, SUFFIXES, TOLERANCE, export
from evalib.models import MODELS, build_model
from evalib.prediction import predict_files
from evalib.recipes import recipes
from evalib.runtime import eval_mode
from evalib.transforms import Geometry, normalize

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `export`")
safetensors = pytest.importorskip("safetensors", reason="needs the extra `export`")

SMALL_INPUT = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
CLASSES = ("<b>ant</b>", 'bee "x"', "cow")


def checkpoint_of(model: nn.Module, name: str, size: int = 32, **changes) -> Checkpoint:
    recipe = recipes["demo"].replace(model=name, width=8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    values = {"epoch": 4, "metrics": {}, "geometry": Geometry("resize", size)} | changes
    return Checkpoint(model.state_dict(), recipe, CLASSES, mean, std, size, "tiny", **values)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    model = lived_in(build_model("resnet18", 3, width=8, seed=5), 32)
    with eval_mode(model), torch.no_grad():  # so that every class is somebody's
        logits = model(normalize(sample().test.images[:200], (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
        model.linear.bias -= logits.mean(dim=0)
    return model


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """A run directory with a checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "last.pt", checkpoint_of(model, "resnet18"))
    return folder


@pytest.fixture(scope="module")
def written(run):
    """The run in every format."""
    return {name: export(run, format=name) for name in SUFFIXES}


def test_what_came_out_is_said(written, run):
    count = len(SEEDS) * sum(BATCH_SIZES)
    for name, exported in written.items():
        assert exported.path == run / f"model{SUFFIXES[name]}"
        assert exported.bytes == exported.path.stat().st_size
        assert 0 <= exported.difference <= TOLERANCE == 1e-4
        assert 0.1 < exported.largest < 100
        assert exported.compared == f"{count} images of 32 pixels in batches of 1 and 3"
        assert f"{exported.path}: {name}, " in str(exported)
    assert {entry.name for entry in run.iterdir()} == {"last.pt", *(f"model{end}" for end in SUFFIXES.values())}


def test_the_results_kept_are_of_all_networks_at_full_width_and_equal():
    """`python -m benchmarks.export` is the test of the others: it takes minutes."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "export.json").read_text())["networks"]
    assert {row["network"] for row in rows} == set(MODELS)
    for row in rows:
        assert (row["width"], row["format"]) == (64, "onnx")
        assert row["image_size"] == (32 if row["network"] in SMALL_INPUT else 224)
        assert 0 < row["difference"] <= max(TOLERANCE * max(1, row["largest_logit"]), OWN_ERRORS * row["rounding"])


@pytest.mark.parametrize("name", ["resnet50", "alexnet_cam"])
def test_onnx_equals_torch(name, tmp_path):
    """The networks that have other parts than ResNet18. Compared once more, by hand."""
    size = 32 if name in SMALL_INPUT else 64
    model = lived_in(build_model(name, 3, width=8, seed=3), 32 if name in SMALL_INPUT else 64)
    path = tmp_path / "model.onnx"
    assert export((model, checkpoint_of(model, name, size)), path).difference <= TOLERANCE
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(8))
    with eval_mode(model), torch.no_grad():
        expected = model(images).numpy()
    (found,) = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected, axis=0).max() > 1e-3, "the images must not all give the same logits"


def test_onnx_is_one_whole_file_that_says_what_it_is(written):
    path = written["onnx"].path
    onnx.checker.check_model(str(path), full_check=True)
    proto = onnx.load(str(path), load_external_data=False)
    assert not [tensor.name for tensor in proto.graph.initializer if tensor.external_data]
    assert {tensor.data_type for tensor in proto.graph.initializer} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    assert [entry.version for entry in proto.opset_import if entry.domain == ""] == [export_formats.OPSET]
    assert proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    about = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert tuple(json.loads(about["classes"])) == CLASSES
    wanted = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "image_size": 32, "geometry": "resize"}
    assert json.loads(about["preprocessing"]) == wanted
    assert json.loads(about["recipe"])["name"] == about["recipe_name"] == "demo"
    assert (about["evalib"], about["dataset"], about["epoch"]) == (evalib.__version__, "tiny", "4")
    assert about["input"] == "images (N, 3, 32, 32): float32 RGB, (pixels / 255 - mean) / std"


def test_no_folder_of_this_machine_is_in_a_file(written):
    for exported in written.values():
        content = exported.path.read_bytes()
        for word in (str(ROOT), "site-packages", "/evalib/", ".py"):
            assert word.encode() not in content, f"{word} in {exported.format}"


def test_the_input_can_be_raw_pixels(model, tmp_path):
    checkpoint = checkpoint_of(model, "resnet18")
    pixels = sample().test.images[:4]
    with eval_mode(model), torch.no_grad():
        expected = model(normalize(pixels, checkpoint.mean, checkpoint.std))
    for name in ("onnx", "torch_export"):
        file = export((model, checkpoint), tmp_path / f"m{SUFFIXES[name]}", format=name, include_preprocessing=True)
        read = export_formats.read_onnx if name == "onnx" else export_formats.read_torch_export
        run, about = read(file.path)
        torch.testing.assert_close(run(pixels), expected, atol=1e-4, rtol=0)
        assert about["input"].endswith("uint8 RGB in 0..255, not normalized")


def test_another_size_and_one_image_at_a_time(model, tmp_path):
    source = SimpleNamespace(model=model, checkpoint=checkpoint_of(model, "resnet18"))  # as a Classifier has them
    exported = export(source, tmp_path / "m.onnx", image_size=48, dynamic_batch=False)
    assert exported.compared == "3 images of 48 pixels in batches of 1"
    session = onnxruntime.InferenceSession(exported.path)
    assert session.get_inputs()[0].shape == [1, 3, 48, 48]
    assert json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])["image_size"] == 48


@pytest.mark.parametrize("name", SUFFIXES)
def test_the_network_is_left_as_it_was_and_precision_does_not_sneak_in(name, tmp_path):
    """Exported in training mode, in bfloat16, under autocast: the file is that of float32 and evaluation mode."""
    model = lived_in(build_model("resnet18", 3, width=8, seed=2), 32).to(torch.bfloat16).train()
    model.layer1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exported = export((model, checkpoint_of(model, "resnet18")), tmp_path / f"m{SUFFIXES[name]}", format=name)
        assert torch.is_autocast_enabled("cpu")
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, before[key]) and value.dtype == before[key].dtype
               for key, value in model.state_dict().items())  # fmt: skip
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    if name != "safetensors":
        read = export_formats.read_onnx if name == "onnx" else export_formats.read_torch_export
        private = build_model("resnet18", 3, width=8)
        private.load_state_dict({key: value.float() for key, value in before.items()})
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with eval_mode(private), torch.no_grad():
            torch.testing.assert_close(read(exported.path)[0](images), private(images), atol=1e-4, rtol=0)


# --- the examples of the docstring ----------------------------------------------------------------


def example(first_line: str) -> str:
    """The block of code of the module's docstring that begins after a line of text."""
    text = (export_module.__doc__ or "").split(first_line, 1)[1].split("\n\n", 1)[1]
    lines = []
    for line in text.splitlines():
        if line and not line.startswith("    "):
            break
        lines.append(line)
    return textwrap.dedent("\n".join(lines))


def without(*modules: str) -> str:
    """Code that makes an import of these packages fail."""
    return f"import sys\nfor name in {modules!r}:\n    sys.modules[name] = None\n"


def said_by(code: str, *arguments, cwd) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=cwd, env=environment,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_reads_onnx_without_evalib_and_torch(written, run, model, tmp_path):
    seen, code = set(), without("evalib", "torch") + example("This program is all that reads one:")
    for index, pixels in enumerate(sample().test.images[::250]):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((61, 47)).save(file := tmp_path / f"{index}.png")
        ours = predict_files(model, load_checkpoint(run / "last.pt"), file).images[0].classes[0]
        assert said_by(code, written["onnx"].path, file, cwd=tmp_path).strip() == ours
        seen.add(ours)
    assert len(seen) > 1, "the images must not all have the same class"


def test_the_examples_of_the_other_formats(written, model, tmp_path):
    images = normalize(sample().test.images[:6], (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    torch.save(images, tmp_path / "images.pt")
    with eval_mode(model), torch.no_grad():
        expected = model(images).argmax(dim=1)
    begin = "import torch\nimages = torch.load('images.pt')\n"
    for name in ("torch_export", "safetensors"):
        (tmp_path / f"model{SUFFIXES[name]}").write_bytes(written[name].path.read_bytes())
    code = without("evalib") + begin + example("Of torch.export, with torch alone")
    assert said_by(code, cwd=tmp_path).strip() == str([CLASSES[index] for index in expected.tolist()])
    code = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n" + begin + example("Of safetensors, with the network's")
    code = code.replace("num_classes=10, width=16", "num_classes=3, width=8")
    assert said_by(code, cwd=tmp_path).strip() == str(expected)


# --- what is wrong is found, and leaves nothing ---------------------------------------------------


class Slightly(nn.Module):
    """A network whose logits are off by `by` at one place, but not when it is asked a second time."""

    def __init__(self, model: nn.Module, by: float) -> None:
        super().__init__()
        self.model, self.by = model, by

    def forward(self, images):
        return self.model(images) + torch.tensor([0.0, self.by, 0.0])


@pytest.mark.parametrize(("by", "fits"), [(2e-3, False), (2e-5, True), (float("nan"), False)])
@pytest.mark.parametrize("name", ["onnx", "torch_export"])
def test_a_file_that_differs_is_an_error_and_is_not_left(name, by, fits, model, tmp_path, monkeypatch):
    """What is written is another network than the one that it is compared with."""
    path = tmp_path / f"m{SUFFIXES[name]}"
    path.write_text("older")
    real = getattr(export_formats, f"write_{name}")
    monkeypatch.setattr(
        export_module, f"write_{name}", lambda network, *a, **k: real(Slightly(network, by).eval(), *a, **k)
    )
    if fits:
        assert export((model, checkpoint_of(model, "resnet18")), path, format=name).difference == pytest.approx(by, 0.2)
        return
    with pytest.raises(ValueError, match=rf"as {name} gives other logits than .*Nothing was written to .*m\."):
        export((model, checkpoint_of(model, "resnet18")), path, format=name)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "older"


@pytest.mark.parametrize("raw", [False, True])
def test_rounding_is_what_float32_costs_the_network_and_allows_no_more(raw, model, tmp_path, monkeypatch):
    """A sum that float32 cannot hold: 2**24 + 0.3 comes out as 2**24, so the logits lose 0.3 of what float64 keeps."""

    class Lossy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, images):
            logits = self.network(images)
            return logits + ((torch.zeros_like(logits) + 0.3 + 2**24) - 2**24)

    source = (Lossy(), checkpoint_of(model, "resnet18"))
    exported = export(source, tmp_path / "m.onnx", include_preprocessing=raw)
    assert exported.rounding == pytest.approx(0.3, abs=1e-3)
    assert "(float32 itself costs 3.0e-01)" in str(exported)
    real = export_formats.write_onnx
    for by, fits in ((0.8, True), (1.0, False)):
        off = lambda network, *a, by=by, **k: real(Slightly(network, by).eval(), *a, **k)  # noqa: E731
        monkeypatch.setattr(export_module, "write_onnx", off)
        if fits:
            export(source, tmp_path / "m.onnx", include_preprocessing=raw)
        else:
            with pytest.raises(ValueError, match="they differ by 1.0e[+]00, allowed are 9.0e-01"):
                export(source, tmp_path / "m.onnx", include_preprocessing=raw)


def test_weights_that_a_file_of_safetensors_lacks_or_changes_are_found(model, tmp_path, monkeypatch):
    real = export_module.save_safetensors

    def changed(path, checkpoint):
        weights = dict(checkpoint.weights) | {"linear.bias": checkpoint.weights["linear.bias"] + 0.01}
        real(path, dataclasses.replace(checkpoint, weights=weights))

    monkeypatch.setattr(export_module, "save_safetensors", changed)
    with pytest.raises(ValueError, match="as safetensors gives other logits"):
        export((model, checkpoint_of(model, "resnet18")), tmp_path / "m.safetensors", format="safetensors")
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_came_out_different_are_found(model, tmp_path, monkeypatch):
    real = export_formats.write_onnx
    monkeypatch.setattr(export_module, "write_onnx", lambda n, e, p, metadata, **k: real(n, e, p, {}, **k))
    with pytest.raises(ValueError, match="ResNet cannot be written as onnx: its metadata came out different"):
        export((model, checkpoint_of(model, "resnet18")), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


class Deciding(nn.Module):
    """Goes different ways by the values of the images: nothing that a file could hold."""

    def forward(self, images):
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


@pytest.mark.parametrize("name", ["onnx", "torch_export"])
def test_a_network_that_cannot_be_written_says_so_in_one_line(name, model, tmp_path):
    about = checkpoint_of(model, "resnet18")
    with pytest.raises(ValueError, match=rf"^Deciding cannot be written as {name}: .*\.$") as error:
        export((Deciding(), about), tmp_path / f"m{SUFFIXES[name]}", format=name)
    assert len(str(error.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((), {"format": "torchscript"}, "`format` must be one of onnx, torch_export, safetensors: got 'torchscript'. "
         "torch deprecates TorchScript: use 'torch_export'"),
        ((), {"format": "pb"}, "got 'pb'.$"),
        (("m.onnx",), {"format": "torch_export"}, "`path` must end in .pt2 for torch_export: got 'm.onnx'"),
        ((), {}, "`path` must name the file"),
        (("m.safetensors",), {"format": "safetensors", "include_preprocessing": True}, "holds weights only"),
    ],
)  # fmt: skip
def test_wrong_settings(arguments, settings, message, model):
    with pytest.raises(ValueError, match=message):
        export((model, checkpoint_of(model, "resnet18")), *arguments, **settings)


def test_wrong_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run directory"):
        export(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no checkpoint none.pt"):
        export("none.pt")
    with pytest.raises(ValueError, match="`source` must be a run directory, a checkpoint, or a pair .*: got Linear"):
        export(nn.Linear(2, 2), "m.onnx")


def test_a_torchvision_network_with_data_instead_of_a_checkpoint(tmp_path):
    from torchvision.models import mobilenet_v3_small

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = mobilenet_v3_small(num_classes=10)
    data = sample().take(train=10, test=10)
    assert export((network, data), tmp_path / "m.onnx").difference <= TOLERANCE
    with pytest.raises(ValueError, match="as safetensors: it needs the network's checkpoint"):
        export((network, data), tmp_path / "m.safetensors", format="safetensors")


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_missing_packages_are_named_before_any_work(missing, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"onnx, onnxruntime and onnxscript: pip install 'evalib\[export\]'"):
        export(tmp_path, tmp_path / "m.onnx")


# --- the command line -----------------------------------------------------------------------------


def test_the_command(run, tmp_path, capsys):
    assert tuple(SUFFIXES) == EXPORT_FORMATS
    path = tmp_path / "mine.safetensors"
    assert main(["export", str(run), "--format", "safetensors", "--output", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: safetensors, 0.7 MB; logits up to")
    assert main(["export", "--checkpoint", str(run / "last.pt"), "--format", "safetensors"]) == 0
    assert str(run / "model.safetensors") in capsys.readouterr().out
    assert main(["export"]) == 1
    assert "Name either a run directory or --checkpoint FILE" in capsys.readouterr().err
    assert main(["export", str(tmp_path)]) == 1
    assert "is no run directory" in capsys.readouterr().err
