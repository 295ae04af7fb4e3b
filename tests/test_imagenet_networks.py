"""torchvision's ResNet18 with another last layer: its weights found, loaded, refused; its maps equal to its logits."""

import hashlib

import pytest
import torch
import torchvision

from evalib.cam import cam_layers, raw_cam
from evalib.cam_networks import imagenet_file
from evalib.checkpoint import Checkpoint, save_checkpoint
from evalib.download import DownloadError
from evalib.imagenet_networks import imagenet_weights, load_backbone, resnet18_imagenet
from evalib.models import build_model, model_for
from evalib.recipes import recipes


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file of weights as torchvision publishes it: 1,000 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = torchvision.models.resnet18(weights=None)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(network.state_dict(), path)
    return network, path


def test_the_network_is_torchvisions_with_another_last_layer(published):
    network, path = published
    model = build_model("resnet18_imagenet", 3, seed=1)
    last = model.fc.weight.clone()
    load_backbone(model, path)
    assert torch.equal(model.fc.weight, last)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_181_642 - 7 * 513
    network.fc = model.fc
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), network.eval()(images))


def test_maps_explain_its_logits():
    """The mean of a class activation map plus the bias is the logit (Zhou et al. 2016): pooling, one linear layer."""
    model = resnet18_imagenet(3).eval()
    images = torch.rand(2, 3, 64, 64)
    assert [module.__class__.__name__ for module in cam_layers(model).values()] == ["BasicBlock"] * 5
    with torch.no_grad():
        logits = model(images)
    for label in range(3):
        maps = raw_cam(model, images, label)
        assert maps.shape == (2, 2, 2)
        torch.testing.assert_close(maps.mean(dim=(1, 2)) + model.fc.bias[label], logits[:, label], atol=1e-5, rtol=1e-5)


def test_a_checkpoint_of_ours_is_weights_too(tmp_path, published):
    model = build_model("resnet18_imagenet", 5, seed=3)
    recipe = recipes["photos"]
    found = Checkpoint(model.state_dict(), recipe, tuple("abcde"), (0.5,) * 3, (0.5,) * 3, 224, "x", 1)
    save_checkpoint(tmp_path / "last.pt", found)
    other = model_for(recipe.replace(weights=str(tmp_path / "last.pt"), seed=9), 2)
    assert torch.equal(other.layer4[1].conv2.weight, model.layer4[1].conv2.weight)
    assert other.fc.out_features == 2


def test_files_that_will_not_do(tmp_path, published):
    model = resnet18_imagenet(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save(build_model("resnet18", 2, width=8).state_dict(), tmp_path / "other.pt")
    (tmp_path / "page.pt").write_bytes(b"<html></html>")
    for name, error, message in (
        (
            "other.pt",
            ValueError,
            r"does not hold the layers of torchvision's ResNet18: conv1.weight has shape \(64, 3, 7",
        ),
        ("page.pt", ValueError, "Cannot read the checkpoint"),
        ("nowhere.pt", FileNotFoundError, r'`weights` must be "imagenet" or a file: there is no file .*nowhere\.pt'),
    ):
        with pytest.raises(error, match=message):
            load_backbone(model, tmp_path / name)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_published_file_is_taken_from_the_hubs_folder(tmp_path, monkeypatch, published):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    _, path = published
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    member = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(member.value, "url", f"http://127.0.0.1:9/resnet18-{digest}.pth")
    with pytest.raises(DownloadError, match="could not be downloaded"):
        imagenet_weights()
    place = tmp_path / "hub" / "checkpoints" / f"resnet18-{digest}.pth"
    place.write_bytes(path.read_bytes())
    assert imagenet_weights() == imagenet_file(member) == place
    model = model_for(recipes["photos"], 4)
    assert torch.equal(model.conv1.weight, torch.load(path, weights_only=True)["conv1.weight"])
