"""Networks: counts by published figures and arithmetic, names of kuangliu's checkpoints, shapes, no side effects."""

import pytest
import torch
from torch import nn

from evalib.download import DownloadError
from evalib.models import MODELS, build_model, model_for, resnet18, summary
from evalib.recipes import Recipe


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_173_962),
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
        ("resnet101", 42_512_970),
        ("resnet152", 58_156_618),
        ("alexnet_cam", 2_472_266),
        ("vgg19_cam", 20_029_514),
    ],
)
def test_parameter_counts(name, parameters):
    with torch.device("meta"):
        model = MODELS[name]()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def kuangliu_names(depths, convolutions):
    """State-dict names of kuangliu/pytorch-cifar, spelled out independently of our modules."""

    def batch_norm(prefix):
        return [f"{prefix}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]

    names = ["conv1.weight", *batch_norm("bn1"), "linear.weight", "linear.bias"]
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            prefix = f"layer{stage}.{block}"
            for index in range(1, convolutions + 1):
                names += [f"{prefix}.conv{index}.weight", *batch_norm(f"{prefix}.bn{index}")]
            if block == 0 and (stage > 1 or convolutions == 3):
                names += [f"{prefix}.shortcut.0.weight", *batch_norm(f"{prefix}.shortcut.1")]
    return names


@pytest.mark.parametrize(
    ("name", "depths", "convolutions"),
    [
        ("resnet18", (2, 2, 2, 2), 2),
        ("resnet34", (3, 4, 6, 3), 2),
        ("resnet50", (3, 4, 6, 3), 3),
        ("resnet101", (3, 4, 23, 3), 3),
        ("resnet152", (3, 8, 36, 3), 3),
    ],
)
def test_state_dict_has_the_names_of_pytorch_cifar(name, depths, convolutions):
    with torch.device("meta"):
        model = MODELS[name]()
    assert sorted(model.state_dict()) == sorted(kuangliu_names(depths, convolutions))


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 32), ("resnet18", 40), ("resnet18", 64), ("resnet50", 32), ("alexnet_cam", 64)]
)
def test_logits_and_gradients(name, size):
    model = build_model(name, 7, width=8, seed=0)
    logits = model(torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)))
    logits.square().sum().backward()
    assert logits.shape == (2, 7)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_logits_equal_torchvisions_resnet_with_the_same_stem():
    """torchvision's blocks are an independent implementation; only stem and names differ."""
    from torchvision.models import resnet18 as torchvision_resnet18

    ours = build_model("resnet18", 10, seed=3).eval()
    theirs = torchvision_resnet18(num_classes=10).eval()
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    renamed = {
        name.replace("shortcut", "downsample").replace("linear", "fc"): value
        for name, value in ours.state_dict().items()
    }
    theirs.load_state_dict(renamed, strict=True)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)


def test_output_is_logits_not_log_probabilities():
    logits = build_model("resnet18", 10, width=8, seed=0).eval()(torch.zeros(1, 3, 32, 32))
    assert logits.exp().sum().item() != pytest.approx(1.0, abs=1e-3)


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match=r"H and W at least 32: got \(1, 3, 28, 28\)"):
        resnet18(width=8)(torch.zeros(1, 3, 28, 28))


def test_the_seed_fixes_the_weights_and_touches_nothing_else():
    state = torch.get_rng_state()
    one, same, other = (build_model("resnet18", 10, width=8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.conv1.weight, same.conv1.weight)
    assert not torch.equal(one.conv1.weight, other.conv1.weight)


@pytest.mark.parametrize("name", ["alexnet_cam", "vgg19_cam"])
def test_the_seed_fixes_cam_networks_too_and_width_is_ignored(name):
    state = torch.get_rng_state()
    one, same, other = (
        build_model(name, 4, seed=seed, width=width).state_dict() for seed, width in ((1, 64), (1, 8), (2, 8))
    )
    assert torch.equal(torch.get_rng_state(), state)
    for tensor in ("features.0.weight", "classifier.weight"):
        assert torch.equal(one[tensor], same[tensor])
        assert not torch.equal(one[tensor], other[tensor])


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown model 'resnet19'. Known: resnet18, .*resnet152, alexnet_cam"):
        build_model("resnet19")


def test_summary_changes_nothing_and_counts_right(tiny_model):
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    rng, modes = torch.get_rng_state(), [module.training for module in tiny_model.modules()]
    found = summary(tiny_model)
    expected = sum(parameter.numel() for parameter in tiny_model.parameters())
    assert found.parameters == found.trainable == expected
    assert f"Total params: {expected:,}" in str(found)
    assert "wrong" not in found.table
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert [module.training for module in tiny_model.modules()] == modes
    assert not any(module._forward_hooks for module in tiny_model.modules())


def test_summary_of_a_cam_network_at_its_own_size():
    found = summary(build_model("alexnet_cam", 10))
    assert found.parameters == 2_472_266
    assert "Total params: 2,472,266\n" in found.table
    assert "[-1, 64, 15, 15]" in found.table  # (64 + 2 * 2 - 11) // 4 + 1


def test_summary_says_when_torchsummary_is_wrong():
    shared = nn.Conv2d(3, 3, 1)
    found = summary(nn.Sequential(shared, shared))
    assert found.parameters == 12
    assert "torchsummary's total is wrong here: 12 parameters" in found.table


# --- the network of a recipe ----------------------------------------------------------------------


def test_without_weights_the_recipes_network_is_the_seeded_one():
    recipe = Recipe(name="x", model="resnet18", width=8, seed=7)
    expected = build_model("resnet18", 3, width=8, seed=7).state_dict()
    found = model_for(recipe, 3)
    assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())
    assert all(parameter.requires_grad for parameter in found.parameters())


def test_weights_and_frozen_layers_of_a_cam_recipe(tmp_path):
    """The features are the file's; the linear layer, of another number of classes, is the seed's."""
    given = build_model("alexnet_cam", 196, seed=1)
    torch.save(given.state_dict(), tmp_path / "cars.pth")
    recipe = Recipe(name="x", model="alexnet_cam", seed=7, weights=str(tmp_path / "cars.pth"), frozen_layers=2)
    found = model_for(recipe, 10)
    assert all(
        torch.equal(value, given.features.state_dict()[name]) for name, value in found.features.state_dict().items()
    )
    assert torch.equal(found.classifier.weight, build_model("alexnet_cam", 10, seed=7).classifier.weight)
    frozen = [name for name, parameter in found.named_parameters() if not parameter.requires_grad]
    assert frozen == [f"features.{layer}.{part}" for layer in (0, 3) for part in ("weight", "bias")]


def test_weights_of_a_residual_network(tmp_path):
    given = build_model("resnet18", 3, width=8, seed=1)
    torch.save({"net": given.state_dict()}, tmp_path / "r.pth")
    recipe = Recipe(name="x", model="resnet18", width=8, weights=str(tmp_path / "r.pth"), frozen_layers=1)
    found = model_for(recipe, 3)
    assert all(torch.equal(value, given.state_dict()[name]) for name, value in found.state_dict().items())
    assert not found.conv1.weight.requires_grad
    with pytest.raises(ValueError, match=r"r.pth .* the file holds a network for 3 classes, this one has 10"):
        model_for(recipe, 10)


def test_there_are_no_imagenet_weights_for_small_images():
    with pytest.raises(ValueError, match=r'`weights` must be "none" or a file for resnet18: got "imagenet"'):
        model_for(Recipe(name="x", model="resnet18", width=8, weights="imagenet"), 3)


def test_imagenet_weights_that_cannot_be_had_are_no_random_start(tmp_path, monkeypatch):
    def offline(*arguments, **settings):
        raise OSError("Network is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("evalib.download.urlopen", offline)
    with pytest.raises(DownloadError, match="alexnet-owt-7be5be79.pth"):
        model_for(Recipe(name="x", model="alexnet_cam", weights="imagenet"), 3)
