"""Contrasts by hand on a network that is linear, and against the map of the difference of two logits by autograd."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.cam_pass import FORMULAS
from evalib.contrast import METHODS, contrast, contrast_batches, contrast_mistakes, mean_contrasts
from evalib.data.image_data import ImageData, Split
from evalib.explain import explain
from evalib.mistakes import Mistakes
from evalib.transforms import normalize

WEIGHTS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [-1.0, -1.0, 0.0]])  # (class, channel)


class PooledNet(nn.Module):
    """Features, their means over all places, one linear layer."""

    def __init__(self, features: nn.Module, channels: int) -> None:
        super().__init__()
        self.features, self.classifier = features, nn.Linear(channels, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean(dim=(2, 3)))


@pytest.fixture
def pixels_net() -> PooledNet:
    """Its features are the pixels, so that the evidence at a place is a sum that anyone can do."""
    net = PooledNet(nn.Conv2d(3, 3, 1, bias=False), 3)
    with torch.no_grad():
        net.features.weight.copy_(torch.eye(3)[:, :, None, None])
        net.classifier.weight.copy_(WEIGHTS)
        net.classifier.bias.copy_(torch.tensor([0.5, 0.0, -0.25]))
    return net


@pytest.fixture
def deep_net() -> PooledNet:
    """Two stages, the second of half the size, as the logits of a trained network large."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        stages = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
            nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU()),
        )
        net = PooledNet(stages, 8)
        net(torch.randn(16, 3, 8, 8))
    return net


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def data_of(images: Tensor, labels: list[int]) -> ImageData:
    """Test images that normalization leaves as they are, but for the factor 255."""
    split = Split(images, torch.tensor(labels))
    return ImageData("hand-made", ("ant", "bee", "cow"), split, split, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture
def some() -> tuple[ImageData, Mistakes]:
    """Nine images, seven of them taken for another class: four ants for bees, two cows for ants, an ant for a cow."""
    pixels = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    data = data_of(pixels, [0, 0, 2, 1, 0, 2, 0, 1, 0])
    indices = torch.tensor([8, 0, 2, 1, 4, 5, 6])
    predicted = torch.tensor([1, 1, 0, 1, 1, 0, 2])
    return data, Mistakes(indices, data.test.labels[indices], predicted, torch.full((7,), 0.75))


# --- the evidence itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cam", "grad_cam", "hires_cam"])
def test_evidence_of_both_classes_is_on_one_scale(pixels_net, method):
    red, green = torch.zeros(2, 2), torch.zeros(2, 2)
    red[0, 0], red[0, 1], green[1, 1] = 4.0, -1.0, 1.5
    image = torch.stack([red, green, torch.ones(2, 2)])[None]
    found = contrast(pixels_net, image, 0, 1, "features", method=method)
    # class 0 has the red channel as its evidence, class 1 twice the green one: 4, -1 and 3, of which 4 is the largest
    torch.testing.assert_close(found.cams[0, 0], torch.tensor([[1.0, -0.25], [0.0, 0.0]]))
    torch.testing.assert_close(found.other_cams[0, 0], torch.tensor([[0.0, 0.0], [0.0, 0.75]]))
    torch.testing.assert_close(found.difference[0, 0], torch.tensor([[1.0, -0.25], [0.0, -0.75]]))
    assert found.scale.item() == pytest.approx(4.0 if method == "cam" else 4.0 / 4)  # a logit's mean or its sum
    assert (found.classes.tolist(), found.other_classes.tolist(), found.layers) == ([0], [1], ("features",))


def test_the_difference_may_be_the_largest_of_the_three(pixels_net):
    image = torch.zeros(1, 3, 1, 2)
    image[0, 0, 0, 0] = 2.0  # 2 for class 0, -2 for class 2
    found = contrast(pixels_net, image, 0, 2, method="cam")
    assert found.scale.item() == pytest.approx(4.0)
    assert found.difference.max().item() == pytest.approx(1.0)
    torch.testing.assert_close(found.cams[0, 0, 0], torch.tensor([0.5, 0.0]))


def test_the_mean_evidence_is_the_difference_of_the_logits(pixels_net, images):
    found = contrast(pixels_net, images, [0, 1, 2, 0, 1], 1, method="cam")
    logits = pixels_net(images).detach() - pixels_net.classifier.bias.detach()
    expected = logits.gather(1, torch.tensor([[0], [1], [2], [0], [1]]))[:, 0] - logits[:, 1]
    torch.testing.assert_close((found.scale[..., None, None] * found.difference).mean(dim=(2, 3))[0], expected)


@pytest.mark.parametrize("method", ["grad_cam", "xgrad_cam", "hires_cam"])
def test_the_difference_is_the_map_of_the_difference_of_two_logits(deep_net, images, method):
    names = ["features.0", "features.1"]
    found = contrast(deep_net, images, 2, 0, names, method=method)
    deep_net.eval()
    first = deep_net.features[0](images).detach().requires_grad_()
    second = deep_net.features[1](first)
    logits = deep_net.classifier(second.mean(dim=(2, 3)))
    gradients = torch.autograd.grad((logits[:, 2] - logits[:, 0]).sum(), (first, second))
    for layer, (activation, gradient) in enumerate(zip((first, second), gradients, strict=True)):
        weights = {
            "grad_cam": gradient.mean(dim=(2, 3), keepdim=True),
            "xgrad_cam": (gradient * activation).sum((2, 3), keepdim=True) / activation.sum((2, 3), keepdim=True),
            "hires_cam": gradient,
        }[method]
        maps = (weights.nan_to_num() * activation).sum(dim=1, keepdim=True)
        maps = F.interpolate(maps, size=(8, 8), mode="bilinear")[:, 0].detach()
        raw = found.scale[layer][:, None, None] * found.difference[layer]
        torch.testing.assert_close(raw, maps, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", FORMULAS)
def test_what_is_above_zero_is_what_explain_shows(deep_net, images, method):
    # of a layer in the size of the image: others are cut at 0 before they are enlarged
    found = contrast(deep_net, images, 1, None, "features.0", method=method)
    for maps, class_idx in ((found.cams, 1), (found.other_cams, None)):
        cut = maps.relu()
        low, high = cut.amin(dim=(2, 3), keepdim=True), cut.amax(dim=(2, 3), keepdim=True)
        shown = explain(deep_net, images, "features.0", class_idx, method=method)
        torch.testing.assert_close((cut - low) / (high - low), shown, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_largest_of_maps_and_difference_is_one(deep_net, images, method):
    found = contrast(deep_net, images, 1, None, ["features.0", "features.1"], method=method)
    largest = torch.stack([found.cams, found.other_cams, found.difference]).abs().amax(dim=(0, 3, 4))
    torch.testing.assert_close(largest, torch.ones_like(largest))


def test_a_map_without_places_is_flat(pixels_net):
    images = torch.ones(2, 3, 4, 4)
    images[1, 0, 2, 2] = 3.0
    found = contrast(pixels_net, images, 0, 1, method="cam")
    assert found.flat.tolist() == [[True, False]]
    none = contrast(pixels_net, torch.zeros(1, 3, 4, 4), 0, 1, method="cam")
    assert (none.scale.item(), none.difference.abs().max().item(), none.flat.item()) == (0, 0, True)


def test_the_network_is_left_as_it_was(deep_net, images):
    deep_net.train()
    deep_net.features[0][1].eval()
    before = {name: value.clone() for name, value in deep_net.state_dict().items()}
    with torch.no_grad():
        contrast(deep_net, images, 0, 1, deep_net.features[1])
    assert [module.training for module in deep_net.features[0]] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in deep_net.state_dict().items())
    assert all(weight.grad is None for weight in deep_net.parameters())


def test_layers_are_called_as_they_were_given_or_as_the_network_calls_them(tiny_model, tiny_data):
    images = normalize(tiny_data.test.images[:2], tiny_data.mean, tiny_data.std)
    assert contrast(tiny_model, images, 0, 1).layers == ("layer0", "layer1", "layer2", "layer3", "layer4")
    assert contrast(tiny_model, images, 0, 1, "layer3.0.conv1").layers == ("layer3.0.conv1",)
    modules = [tiny_model.layer1[0].conv1, tiny_model.layer2[-1]]
    assert contrast(tiny_model, images, 0, 1, modules).layers == ("layer1.0.conv1", "layer2")
    assert contrast(tiny_model, images, 0, 1, method="cam").layers == ("layer4",)


@pytest.mark.parametrize("method", ["score_cam", "eigen_cam", "gradcam"])
def test_methods_without_signed_evidence_are_refused(pixels_net, images, method):
    with pytest.raises(ValueError, match=f"can be compared between classes, one of 'cam', .* got '{method}'"):
        contrast(pixels_net, images, 0, 1, method=method)


# --- mistakes ------------------------------------------------------------------------------------------------


def test_mistakes_are_contrasted_in_their_order_whatever_the_batches(deep_net, some):
    data, mistakes = some
    images = data.test.images[mistakes.indices].float() / 255
    expected = contrast(deep_net, images, mistakes.predicted, mistakes.true, "features.1")
    parts = list(contrast_batches(deep_net, data, mistakes, "features.1", batch_size=3))
    assert [len(part.classes) for part in parts] == [3, 3, 1]
    joined = contrast_mistakes(deep_net, data, mistakes, "features.1", batch_size=2)
    for field in dataclasses.fields(joined):
        if field.name != "layers":
            torch.testing.assert_close(getattr(joined, field.name), getattr(expected, field.name))
    assert joined.classes.tolist() == mistakes.predicted.tolist()
    assert joined.other_classes.tolist() == mistakes.true.tolist()


def test_a_mean_of_flat_ones_only_is_zero(deep_net, some):
    data, mistakes = some
    with torch.no_grad():  # the same features everywhere
        deep_net.features[0][1].weight.zero_()
        deep_net.features[0][1].bias.fill_(0.3)
    found = mean_contrasts(deep_net, data, mistakes, "features.0", method="grad_cam")
    assert [tuple(pair) for pair in found.pairs] == [(0, 1, 4), (2, 0, 2), (0, 2, 1)]
    assert found.used.tolist() == [[0, 0, 0]]
    assert found.means.cams.abs().max() == 0


def test_the_mean_of_a_pair_is_that_of_its_images(pixels_net, some):
    data, mistakes = some
    data.test.images[[0, 4]] = 77  # two of the four are flat
    every = contrast_mistakes(pixels_net, data, mistakes, method="cam")
    for batch_size in (None, 2):
        found = mean_contrasts(pixels_net, data, mistakes, method="cam", batch_size=batch_size)
        assert found.used.tolist() == [[2, 2, 1]]
        rows = torch.tensor([0, 3])  # images 8 and 1
        for name in ("cams", "other_cams", "difference", "scale"):
            expected = getattr(every, name)[:, rows].mean(dim=1)
            torch.testing.assert_close(getattr(found.means, name)[:, 0], expected)
        assert (found.means.classes.tolist(), found.means.other_classes.tolist()) == ([1, 0, 2], [0, 2, 0])
    assert len(mean_contrasts(pixels_net, data, mistakes, n=1, method="cam").pairs) == 1
    with pytest.raises(ValueError, match="need to be 1 or more: got 0 and 7"):
        mean_contrasts(pixels_net, data, mistakes, n=0)


def test_mistakes_of_other_images_are_refused(pixels_net, some):
    data, mistakes = some
    none = mistakes.select([])
    with pytest.raises(ValueError, match="No misclassified image"):
        contrast_mistakes(pixels_net, data, none)
    with pytest.raises(ValueError, match="need to be 1 or more: got 4 and 0"):
        mean_contrasts(pixels_net, data, none)
    with pytest.raises(ValueError, match="has no split 'val'. It has: train, test"):
        contrast_mistakes(pixels_net, data, mistakes, split="val")
    other = data_of(data.test.images, [1] * 9)
    with pytest.raises(ValueError, match="its labels at the indices of the mistakes are other ones"):
        contrast_mistakes(pixels_net, other, mistakes)
