"""Networks from run directories, checkpoints and foreign files; tests/test_checkpoint.py knows the files themselves."""

from __future__ import annotations

import pytest
import torch

from evalib.checkpoint import Checkpoint, save_checkpoint
from evalib.files import DamagedFileError
from evalib.models import resnet18
from evalib.recipes import recipes
from evalib.trained import checkpoint_file, load_trained


@pytest.fixture
def run(tmp_path, tiny_model):
    """A run directory with one checkpoint."""
    recipe = recipes["demo"].replace(width=8)
    stats = ((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
    checkpoint = Checkpoint(tiny_model.state_dict(), recipe, ("ant", "bee", "cow"), *stats, 32, "tiny", 3)
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    return tmp_path


def test_a_run_directory_or_its_file(run, tiny_model):
    images = torch.rand(2, 3, 32, 32)
    expected = tiny_model.eval()(images)
    for path in (run, str(run), run / "last.pt"):
        model, checkpoint = load_trained(path)
        torch.testing.assert_close(model(images), expected)
        assert not model.training
        assert (checkpoint.classes, checkpoint.epoch, checkpoint.mean) == (("ant", "bee", "cow"), 3, (0.5, 0.4, 0.3))
        assert checkpoint_file(path) == run / "last.pt"


def test_weights_of_another_project(tmp_path):
    """Ten classes are taken for CIFAR-10's; another number of them has no names."""
    for classes, names in ((10, ("airplane", "automobile")), (4, ("class 0", "class 1"))):
        network = resnet18(classes)
        torch.save({"net": {f"module.{name}": value for name, value in network.state_dict().items()}}, tmp_path / "f")
        model, checkpoint = load_trained(tmp_path / "f", "resnet18")
        assert checkpoint.classes[:2] == names
        assert len(checkpoint.classes) == classes
        assert checkpoint.image_size == 32
        torch.testing.assert_close(model.state_dict()["linear.weight"], network.state_dict()["linear.weight"])
    with pytest.raises(ValueError, match="resnet34|layer"):
        load_trained(tmp_path / "f", "resnet34")


def test_what_is_not_there_or_damaged(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no run directory or checkpoint .*none. `evalib train`"):
        load_trained(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty is no run directory: it has no last.pt"):
        load_trained(tmp_path / "empty")
    torch.save(resnet18(10).state_dict(), run / "last.pt")  # a run's own file is never taken for a foreign one
    with pytest.raises(ValueError, match="is not a checkpoint of evalib"):
        load_trained(run)
    (run / "last.pt").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DamagedFileError):
        load_trained(run / "last.pt")
