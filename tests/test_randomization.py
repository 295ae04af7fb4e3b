"""Which weights become random at which stage, and what maps that read known weights make of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from evalib.randomization import randomize_layers

CLASSES = torch.tensor([0, 1, 2])


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def maps_of_weights(name: str, side: int = 32):
    """Maps that show a weight of the network they are given, the same for every image."""

    def make_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        values = model.state_dict()[name].flatten()
        return (
            values.repeat(side * side // len(values) + 1)[: side * side].view(1, side, side).expand(len(images), -1, -1)
        )

    return make_maps


def test_a_map_changes_at_the_stage_of_the_weight_that_it_shows(tiny_model, images) -> None:
    found = randomize_layers(tiny_model, images, CLASSES, maps_of_weights("layer3.0.conv1.weight"))
    stages = ["linear", *(f"layer{layer}.{block}" for layer in (4, 3, 2, 1) for block in (1, 0)), "bn1", "conv1"]
    assert list(found.stages) == stages
    correlation = [scores["rank correlation"].mean for scores in found.stages.values()]
    likeness = [scores["SSIM"].mean for scores in found.stages.values()]
    changed = stages.index("layer3.0")
    assert correlation[:changed] == pytest.approx([1] * changed)
    assert likeness[:changed] == pytest.approx([1] * changed)
    assert max(map(abs, correlation[changed:])) < 0.2
    assert max(likeness[changed:]) < 0.2
    assert found.final is found.stages["conv1"]
    assert found.final["rank correlation"].better == found.final["SSIM"].better == "low"


def test_layers_stay_random_once_they_are_and_the_model_is_left_alone(tiny_model, images) -> None:
    tiny_model.train()
    tiny_model.layer1.eval()
    before, modes = copy.deepcopy(tiny_model.state_dict()), [part.training for part in tiny_model.modules()]
    seen: list[set[str]] = []

    def make_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        assert not any(part.training for part in model.modules())
        weights = {name for name, _ in model.named_parameters()}
        seen.append({name for name in weights if not model.state_dict()[name].equal(before[name])})
        return torch.rand(images.shape[0], 32, 32)

    state = torch.random.get_rng_state()
    randomize_layers(tiny_model, images, CLASSES, make_maps, stages=["linear", "layer4"])
    assert state.equal(torch.random.get_rng_state())
    trained, first, second = seen
    # weights of batch normalization begin as they are in this untrained network, at 1 and 0
    assert trained == set()
    assert first == {"linear.weight", "linear.bias"}
    assert second > first
    assert {name.split(".")[0] for name in second} == {"linear", "layer4"}
    assert all(tiny_model.state_dict()[name].equal(value) for name, value in before.items())
    assert [part.training for part in tiny_model.modules()] == modes


def test_statistics_of_batch_normalization_are_forgotten(tiny_model, images) -> None:
    tiny_model.bn1.running_mean.fill_(7)
    found: list[float] = []

    def make_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        found.append(model.bn1.running_mean.mean().item())
        return torch.rand(images.shape[0], 32, 32)

    randomize_layers(tiny_model, images, CLASSES, make_maps, stages=["bn1"])
    assert found == [7, 0]


def test_the_seed_decides(tiny_model, images) -> None:
    def correlation(seed: int, stages: list[str]) -> list[float]:
        maps = maps_of_weights("layer4.0.conv1.weight")
        found = randomize_layers(tiny_model, images, CLASSES, maps, seed=seed, stages=stages)
        return found.final["rank correlation"].values.tolist()

    first = correlation(1, ["layer4.0"])
    torch.rand(3)  # the global state has no part in it
    assert (
        first == correlation(1, ["layer4.0"]) == correlation(1, ["layer3", "layer4.0"]) != correlation(2, ["layer4.0"])
    )


def test_weights_without_an_initialization_of_their_own_keep_mean_and_spread(images) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.scale = nn.Linear(3 * 32 * 32, 2), nn.Parameter(torch.linspace(4, 6, 500))
            self.alone = nn.Parameter(torch.tensor(3.0))

        def forward(self, images: Tensor) -> Tensor:
            return self.body(images.flatten(1)) * self.scale.mean()

    found: list[tuple[Tensor, float]] = []

    def make_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        found.append((model.scale.detach().clone(), model.alone.item()))
        return torch.rand(images.shape[0], 32, 32)

    stages = randomize_layers(nn.Sequential(Scaled()), images, CLASSES, lambda m, i, c: make_maps(m[0], i, c)).stages
    assert list(stages) == ["0.body", "0"]
    (_, _), (kept, _), (drawn, alone) = found
    assert kept.equal(torch.linspace(4, 6, 500))
    assert not drawn.equal(kept)
    assert drawn.mean().item() == pytest.approx(5, abs=0.1)
    assert alone == 3
    assert drawn.std().item() == pytest.approx(kept.std().item(), rel=0.1)


def test_flat_maps_are_counted_and_told_apart(tiny_model, images) -> None:
    calls = []

    def make_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        cams = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(5))
        cams[0] = 0 if not calls else cams[0]  # of the trained network
        cams[0:2] = 0.5 if calls else cams[0:2]  # of the random one
        calls.append(1)
        return cams

    found = randomize_layers(tiny_model, images, CLASSES, make_maps, stages=["linear"]).final
    correlation, likeness = found["rank correlation"], found["SSIM"]
    assert correlation.values.isnan().tolist() == likeness.values.isnan().tolist() == [True, False, False]
    assert correlation.values[1:].tolist() == pytest.approx([0, 1])
    assert correlation.flat == 2
    assert correlation.n == 2
    table = str(randomize_layers(tiny_model, images, CLASSES, make_maps, stages=["linear"]))
    assert "random from the logits to" in table
    assert "linear" in table


def test_under_inference_mode(tiny_model, images) -> None:
    from evalib.explain import explain

    with torch.inference_mode():
        found = randomize_layers(
            tiny_model, images, CLASSES, lambda m, i, c: explain(m, i, "layer3", c)[0], stages=["linear"]
        )
    assert found.final["rank correlation"].n > 0


def test_errors(tiny_model, images) -> None:
    good = maps_of_weights("linear.weight")
    for stages in (["layer9"], ["layer1.0.shortcut"], []):
        with pytest.raises(ValueError, match="`stages` needs"):
            randomize_layers(tiny_model, images, CLASSES, good, stages=stages)
    with pytest.raises(ValueError, match="one class per image"):
        randomize_layers(tiny_model, images, CLASSES[:2], good)
    for bad in (lambda m, i, c: torch.rand(1, 3, 32, 32), lambda m, i, c: torch.full((3, 32, 32), torch.nan)):
        with pytest.raises(ValueError, match="`make_maps` needs"):
            randomize_layers(tiny_model, images, CLASSES, bad)
    with pytest.raises(ValueError, match="batch_size"):
        randomize_layers(tiny_model, images, CLASSES, good, batch_size=0)
