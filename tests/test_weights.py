"""Files of weights: the state dict is found whoever wrote it; what does not fit changes nothing and is named."""

import pytest
import torch
from torch import nn

from evalib.weights import load_strictly, read_weights_file, state_dict_in


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
        ({"2.weight": None}, r"Missing key.*2.weight"),
        ({"3.weight": torch.ones(2)}, r"Unexpected key.*3.weight"),
        ({"1.bias": torch.ones(2)}, r"size mismatch for 1.bias"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(model, change, message):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {name: value + 1 for name, value in before.items()} | change
    weights = {name: value for name, value in weights.items() if value is not None}
    with pytest.raises(ValueError, match=rf"^The weights in file.pth do not fit this Sequential: .*{message}"):
        load_strictly(model, weights, "file.pth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
