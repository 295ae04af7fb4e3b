"""Device, precision and seeds: what is switched is put back."""

import platform
import shutil
import warnings

import pytest
import torch
from torch import nn

from evalib import runtime


def test_derived_seeds_differ_by_purpose_and_repeat():
    seeds = {runtime.derived_seed(seed, purpose, epoch) for seed in (1, 2) for purpose in "ab" for epoch in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert runtime.derived_seed(1, "order", 3) == runtime.derived_seed(1, "order", 3)


@pytest.mark.parametrize("mode", [runtime.eval_mode, runtime.train_mode])
def test_modes_are_put_back_for_every_submodule(mode):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.Sequential(nn.Dropout()))
    model[0].eval()  # a mixed state, as with a frozen BatchNorm
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), mode(model):
        assert {module.training for module in model.modules()} == {mode is runtime.train_mode}
        raise KeyError
    assert [module.training for module in model.modules()] == before


def test_an_unknown_device_is_a_clear_error():
    assert runtime.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="Device 'tpu9' is not available here"):
        runtime.pick_device("tpu9")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2"}, torch.float32),
        ({"avx512f", "avx512_bf16"}, torch.bfloat16),
        ({"amx_bf16", "amx_tile"}, torch.bfloat16),
        (set(), torch.float32),
    ],
)
def test_bfloat16_only_where_the_cpu_computes_it(monkeypatch, flags, expected):
    monkeypatch.setattr(runtime, "cpu_flags", lambda: frozenset(flags))
    assert runtime.pick_precision("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize(
    ("capability", "expected"), [((6, 1), torch.float32), ((7, 5), torch.float16), ((8, 0), torch.bfloat16)]
)
def test_a_t4_gets_float16_not_emulated_bfloat16(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert runtime.pick_precision("auto", torch.device("cuda")) == expected


def test_precision_by_name():
    assert runtime.pick_precision("bfloat16", torch.device("cpu")) == torch.bfloat16
    with pytest.raises(ValueError, match="Unknown precision 'fp8'. Known: auto, float32"):
        runtime.pick_precision("fp8", torch.device("cpu"))
    with pytest.raises(ValueError, match="needs a GPU"):
        runtime.pick_precision("float16", torch.device("cpu"))


def test_keep_freed_memory_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("EVALIB_KEEP_MEMORY", "0")
    assert runtime.keep_freed_memory() is False
    monkeypatch.delenv("EVALIB_KEEP_MEMORY")
    assert runtime.keep_freed_memory() is (platform.libc_ver()[0] == "glibc")


def test_doctor_names_versions_and_device():
    report = runtime.doctor("cpu")
    assert report["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert report["device"].startswith("CPU")
    assert report["precision"] in ("float32", "bfloat16")
    assert report["free disk"].endswith("GB")


def test_doctor_says_what_is_missing_or_stale(monkeypatch):
    def version(package):
        if package == "torchsummary":
            raise runtime.importlib.metadata.PackageNotFoundError(package)
        return "0.0.1" if package == "torch" else "1.0"

    monkeypatch.setattr(runtime.importlib.metadata, "version", version)
    report = runtime.doctor("cpu")
    assert report["torchsummary"] == "missing: pip install torchsummary"
    assert report["torch"].startswith("0.0.1 installed, but ")
    assert "restart the runtime" in report["torch"]


def test_compiled_inside_the_block_only_and_under_the_same_names():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    names = list(model.state_dict())
    with pytest.raises(RuntimeError, match="stop"), runtime.compiled(model):
        assert model._compiled_call_impl is not None
        assert list(model.state_dict()) == names
        raise RuntimeError("stop")
    assert model._compiled_call_impl is None
    with runtime.compiled(model, enabled=False):
        assert model._compiled_call_impl is None


def test_compiling_on_a_cpu_needs_a_compiler_and_says_so(monkeypatch):
    monkeypatch.setattr("evalib.runtime.shutil.which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler"), runtime.compiled(nn.Linear(2, 2)):
        pass


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_a_compiled_network_computes_the_same():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3)
    expected = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own making
        with runtime.compiled(model):
            torch.testing.assert_close(model(x), expected)
    assert torch.equal(model(x), expected)
