"""Layers that are found in networks whose right answer is known by construction, and what a search leaves behind."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.cam import cam_layers, target_layer
from evalib.explain import explain
from evalib.layer_search import search_layers
from evalib.models import resnet18


class Plain(nn.Module):
    """Two sizes in one container; a branch that only looks on, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(4, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(), nn.Identity(),
        )  # fmt: skip
        self.onlooker, self.unused = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(3), nn.Linear(72, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)
        self.onlooker(x)
        return self.head(self.pool(x).flatten(1))


class FrozenStart(nn.Module):
    """Its first part runs under `no_grad`."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.end, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.start(images).relu()
        return self.head(self.end(x).relu().mean(dim=(2, 3)))


class ReluAtTheEnd(nn.Module):
    """A backbone whose last ReLU is a function call: its own output is the last map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(images))))


class Tokens(nn.Module):
    """A small ViT of one size throughout that reads its class token."""

    def __init__(self, depth: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True, norm_first=True) for _ in range(depth))
        )
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        return self.head(self.norm(self.blocks(x))[:, 0])


class ByModule(nn.Module):
    """Any part before a pooled linear layer."""

    def __init__(self, part: nn.Module, width: int) -> None:
        super().__init__()
        self.part, self.head = part, nn.Linear(width, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.part(images).mean(dim=(2, 3)))


class OneRelu(nn.Module):
    """Down and up again; its ReLU is one module that runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.down, self.up = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 2, 2), nn.ConvTranspose2d(4, 8, 2, 2)
        self.relu, self.head = nn.ReLU(), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.down(self.relu(self.start(images))))
        return self.head(self.relu(self.up(x)).mean(dim=(2, 3)))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_ends_of_sizes_and_no_container_of_all(images: Tensor) -> None:
    model = Plain()
    layers = search_layers(model, images)
    # after the ReLUs: dropout and identity change nothing, an adaptive pooling has no size of the image
    assert list(layers) == ["features.2", "features.6"]
    assert layers["features.6"] is model.features[6]
    assert cam_layers(model, images) == layers
    assert target_layer(model, images) == ("features.6", model.features[6])
    assert explain(model, images).shape == (2, 2, 32, 32)


def test_known_networks_are_not_searched(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalib.cam_layers.search_layers", None)
    assert list(cam_layers(resnet18(width=2), images)) == [f"layer{i}" for i in range(5)]


def test_the_output_of_a_container_after_a_function_call(images: Tensor) -> None:
    assert list(search_layers(ByModule(ReluAtTheEnd(), 8), images)) == ["part.conv1", "part"]


def test_a_start_without_gradients(images: Tensor) -> None:
    assert list(search_layers(FrozenStart(), images)) == ["end"]
    assert list(search_layers(FrozenStart().requires_grad_(False), images)) == ["end"]
    assert list(search_layers(Plain().requires_grad_(False), images)) == ["features.2", "features.6"]


def test_a_network_of_probabilities(images: Tensor) -> None:
    """The sum of what it returns is constant: its gradient is nothing but rounding."""
    model = nn.Sequential(ByModule(ReluAtTheEnd(), 8), nn.Softmax(dim=1))
    assert list(search_layers(model, images)) == ["0.part.conv1", "0.part"]
    model = nn.Sequential(Tokens(2), nn.Softmax(dim=1))
    assert list(search_layers(model, images)) == ["0.blocks.0.norm1", "0.blocks.1.norm1"]


def test_from_early_to_late_and_none_that_runs_again(images: Tensor) -> None:
    layers = search_layers(OneRelu(), images)
    assert list(layers) == ["down", "up"]
    assert explain(OneRelu(), images).shape == (2, 2, 32, 32)


def test_the_last_block_of_a_class_token_is_read_at_its_first_normalization(images: Tensor) -> None:
    model = Tokens()
    layers = search_layers(model, images)
    assert list(layers) == [f"blocks.{i}.norm1" for i in (0, 2, 3, 5, 7)]
    with pytest.raises(ValueError, match=r"\(blocks.7: TransformerEncoderLayer\) acts .*class token alone.*`norm1`"):
        explain(model, images, "blocks.7")
    assert explain(model, images, "blocks.6").std() > 0  # the next block's attention reads all places


def test_images_that_are_not_square() -> None:
    images = torch.randn(1, 3, 24, 40)
    for model in (Plain(), Tokens(2)):
        assert explain(model, images).shape[1:] == (1, 24, 40)


def test_a_search_leaves_nothing_behind(images: Tensor) -> None:
    model = Plain().train()
    model.features[3].eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    state, pixels = torch.get_rng_state(), images.clone()
    search_layers(model, images)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, pixels)
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_hooks_are_gone_after_an_exception() -> None:
    model = Plain()
    with pytest.raises(RuntimeError):
        search_layers(model, torch.randn(1, 4, 32, 32))  # four channels
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_errors_say_what_to_do(images: Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"this Plain has no such `layer1`. Pass a batch, `cam_layers\(model, images\)`"
    ):
        cam_layers(Plain())
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))
    with pytest.raises(ValueError, match=r"none of the 2 calls in this Sequential.*0 \(2, 3072\), 1 \(2, 4\)"):
        explain(flat, images)
    with pytest.raises(ValueError, match="needs the name of a layer: this Plain has no 'features.99'"):
        explain(Plain(), images, "features.99")
