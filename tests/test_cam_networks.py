"""CAM networks: torchvision and arithmetic as the truth; no weights, no network; what is frozen stays, bit for bit."""

import contextlib
import hashlib
import http.server
import os
import socket
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evalib.cam_networks import (
    FREEZE_PERCENTS,
    VGG19CAM,
    AlexNetCAM,
    convolutions,
    freeze_layers,
    frozen_layers,
    load_features,
)
from evalib.download import DownloadError

NETWORKS = {"alexnet": AlexNetCAM, "vgg19": VGG19CAM}
both = pytest.mark.parametrize("name", NETWORKS)


def images(height=64, width=64, n=2):
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def torchvision_network(name):
    """torchvision's network, its features random; the 4096-wide layers exist without memory."""
    import torchvision

    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None)
    network.features.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(5)
    for parameter in network.features.parameters():
        fan_in = parameter[0].numel()
        nn.init.normal_(parameter, std=(2 / fan_in) ** 0.5 if parameter.dim() > 1 else 0.1, generator=generator)
    return network.eval()


@pytest.fixture(scope="module", params=NETWORKS)
def oracle(request, tmp_path_factory):
    """(name, torchvision's network, the file that torch.save writes of it)."""
    network = torchvision_network(request.param)
    state = network.state_dict()
    for name, value in state.items():
        if value.device.type == "meta":
            state[name] = torch.zeros(1).expand(value.shape)
    path = tmp_path_factory.mktemp("torchvision") / f"{request.param}.pth"
    torch.save(state, path)
    return request.param, network, path


@pytest.fixture(scope="module")
def alexnet():
    return AlexNetCAM(3)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's folder of checkpoints, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@contextlib.contextmanager
def served(folder):
    """An HTTP server for the files of a folder."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            """Keep stderr clean."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def hosted(oracle, tmp_path, monkeypatch):
    """The network and weights member whose torchvision address is served from here, and the file behind it."""
    import torchvision

    monkeypatch.setenv("no_proxy", "*")

    name, network, path = oracle
    content = path.read_bytes()
    host = tmp_path / "host" / f"{name}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    host.parent.mkdir()
    host.write_bytes(content)
    member = torchvision.models.get_model_weights(name).DEFAULT
    with served(host.parent) as address:
        monkeypatch.setattr(member.value, "url", f"{address}/{host.name}")
        yield NETWORKS[name], network, member, host


def same_features(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.features.state_dict(prefix="features.").items())


# --- the networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "num_classes", "parameters"),
    [
        (AlexNetCAM, 10, 2_472_266),
        (AlexNetCAM, 196, 2_469_696 + 257 * 196),
        (VGG19CAM, 10, 20_029_514),
        (VGG19CAM, 2, 20_024_384 + 513 * 2),
    ],
)
def test_parameter_counts(network, num_classes, parameters):
    with torch.device("meta"):
        model = network(num_classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@both
def test_names_are_those_of_dl_cifar(name):
    with torch.device("meta"):
        names = list(NETWORKS[name]().state_dict())
    layers = {"alexnet": (0, 3, 6, 8, 10), "vgg19": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)}
    expected = [f"features.{layer}.{part}" for layer in layers[name] for part in ("weight", "bias")]
    assert names == [*expected, "classifier.weight", "classifier.bias"]


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (224, 224), (256, 256), (64, 130)])
def test_features_and_logits_equal_torchvisions(oracle, size):
    name, theirs, path = oracle
    ours = NETWORKS[name](7, weights=path).eval()
    x = images(*size, n=1)
    with torch.no_grad():
        maps = theirs.features(x)
        assert torch.equal(ours.features(x), maps)
        assert maps.std() > 0.01  # else any network would do
        expected = F.adaptive_avg_pool2d(maps, 1).flatten(1) @ ours.classifier.weight.T + ours.classifier.bias
        torch.testing.assert_close(ours(x), expected)


def test_alexnet_is_drawn_as_torchvision_draws_it():
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = torchvision.models.alexnet().features.state_dict(prefix="features.")
        torch.manual_seed(3)
        assert same_features(AlexNetCAM(), theirs)


def test_vgg19_is_drawn_as_torchvision_draws_it():
    """Normal of variance 2 / (places of the kernel * output channels), bias 0 (He et al. 2015)."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = convolutions(VGG19CAM())
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx((2 / (9 * layer.out_channels)) ** 0.5, rel=0.05)
        assert layer.weight.abs().max() > 3.5 * layer.weight.std() or layer.in_channels == 3  # no uniform one
        assert not layer.bias.any()


@both
def test_gradients_reach_every_parameter(name):
    model = NETWORKS[name](3)
    model(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("shape", [(1, 3, 63, 64), (1, 3, 64, 63), (1, 1, 64, 64), (3, 64, 64)])
def test_unusable_images_are_refused(alexnet, shape):
    with pytest.raises(ValueError, match=r"must be \(N, 3, H, W\) with H and W at least 64: got \(.*Resize them"):
        alexnet(torch.zeros(shape))


def test_a_number_of_classes_below_one_is_refused():
    with pytest.raises(ValueError, match="`num_classes` must be at least 1: got 0"):
        AlexNetCAM(0)


# --- weights from files ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["DL_CIFAR", "CAM_Stanford_Cars", "evalib", "DataParallel", "old pickle"])
def test_features_load_from_every_layout(alexnet, layout, tmp_path):
    def renamed(old, new):
        return {name.replace(old, new, 1): value for name, value in alexnet.state_dict().items()}

    content = {
        "DL_CIFAR": alexnet.state_dict(),
        "CAM_Stanford_Cars": {"model_state_dict": renamed("features.", "features.0."), "epoch": 3, "n_classes": 3},
        "evalib": {"format": "evalib-checkpoint-1", "weights": alexnet.state_dict(), "recipe": "{}"},
        "DataParallel": {"state_dict": {f"module.{name}": value for name, value in alexnet.state_dict().items()}},
        "old pickle": alexnet.state_dict(),
    }[layout]
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=layout != "old pickle")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        plain = AlexNetCAM(5)
        torch.manual_seed(1)
        loaded = AlexNetCAM(5, weights=str(tmp_path / "w.pth"))
    assert same_features(loaded, alexnet.state_dict())
    assert torch.equal(loaded.classifier.weight, plain.classifier.weight)  # of 5 classes: not the file's
    assert not same_features(plain, alexnet.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.3.bias": None}, r"features.3.bias has shape \(192,\) in the network and \(none\) in the file, wh"),
        ({"features.3.bias": torch.ones(9)}, r"features.3.bias has shape \(192,\) in the network and \(9,\) in the"),
        ({"features.13.weight": torch.ones(9)}, r"features.13.weight has shape \(none\) in the network and \(9,\)"),
    ],
)  # fmt: skip
def test_features_that_do_not_fit_are_named_and_change_nothing(alexnet, change, message, tmp_path):
    state = alexnet.state_dict() | change
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "w.pth")
    model = AlexNetCAM(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"w.pth does not hold the features of AlexNetCAM: {message}"):
        load_features(model, tmp_path / "w.pth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_file_of_another_network_is_named(oracle, tiny_model, tmp_path):
    name, _, path = oracle
    other = {"alexnet": VGG19CAM, "vgg19": AlexNetCAM}[name]
    with pytest.raises(ValueError, match=rf"features of {other.__name__}: .* which fits {NETWORKS[name].__name__}\."):
        other(weights=path)
    torch.save(tiny_model.state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"\(none\) in the file, whose first tensor is conv1.weight"):
        other(weights=tmp_path / "resnet.pth")


def test_a_missing_file_is_named_with_what_there_is_instead():
    with pytest.raises(FileNotFoundError, match=r'"imagenet", .*AlexNet_Weights or a file: there is no file DEFAULT'):
        AlexNetCAM(weights="DEFAULT")


# --- ImageNet's weights ---------------------------------------------------------------------------


def test_imagenet_weights_are_downloaded_once(hosted, hub):
    network, theirs, member, host = hosted
    assert same_features(network(weights="imagenet"), theirs.state_dict())
    assert [file.name for file in hub.iterdir()] == [host.name]
    host.unlink()
    assert same_features(network(weights=member), theirs.state_dict())


def test_imagenet_weights_placed_by_hand(hosted, hub):
    network, theirs, _, host = hosted
    hub.mkdir(parents=True)
    os.replace(host, hub / host.name)
    assert same_features(network(weights="imagenet"), theirs.state_dict())


@pytest.fixture
def offline(monkeypatch):
    def lookup(*args):
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("damage", [b"", b"<html></html>"])
def test_a_damaged_file_in_the_folder_is_never_loaded(alexnet, hub, damage):
    hub.mkdir(parents=True)
    file = hub / "alexnet-owt-7be5be79.pth"
    file.write_bytes(damage)
    found = hashlib.sha256(damage).hexdigest()
    with pytest.raises(DownloadError, match=f"The file that is there now is damaged or another one: .* {found}"):
        AlexNetCAM(weights="imagenet")
    assert file.read_bytes() == damage


def test_a_damaged_file_in_the_folder_is_replaced(hosted, hub):
    network, theirs, _, host = hosted
    hub.mkdir(parents=True)
    (hub / host.name).write_bytes(b"damaged")
    assert same_features(network(weights="imagenet"), theirs.state_dict())
    assert [file.name for file in hub.iterdir()] == [host.name]


def test_a_damaged_download_leaves_nothing(hosted, hub):
    network, _, _, host = hosted
    host.write_bytes(host.read_bytes()[:-1])
    with pytest.raises(
        DownloadError, match=r"could not be downloaded\..*\n.*\n.*wrong content: its SHA-256 must begin with"
    ):
        network(weights="imagenet")
    assert list(hub.iterdir()) == []


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("network", "file"), [(AlexNetCAM, "alexnet-owt-7be5be79.pth"), (VGG19CAM, "vgg19-dcbb9e9d.pth")]
)
def test_offline_imagenet_is_one_error_and_changes_nothing(network, file, hub):
    model = network(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DownloadError) as caught:
        load_features(model, "imagenet")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    prefix = Path(file).stem.rpartition("-")[2]
    for part in (f"https://download.pytorch.org/models/{file}\n", f"{hub / file}\n", f"must begin with {prefix}."):
        assert part in str(caught.value)
    assert list(hub.iterdir()) == []
    with pytest.raises(DownloadError):
        network(weights="imagenet")


def test_weights_of_another_network_in_torchvision_are_refused(hub):
    import torchvision

    expected = "VGG19_Weights.IMAGENET1K_V1 is of another network than AlexNetCAM: use AlexNet_Weights.IMAGENET1K_V1"
    with pytest.raises(ValueError, match=expected):
        AlexNetCAM(weights=torchvision.models.VGG19_Weights.IMAGENET1K_V1)
    with pytest.raises(ValueError, match=r"VGG19_BN_Weights.* another network than VGG19CAM"):
        VGG19CAM(weights=torchvision.models.VGG19_BN_Weights.DEFAULT)
    assert not hub.exists()


# --- freezing -------------------------------------------------------------------------------------


def test_percentages_in_layers(tiny_model):
    with torch.device("meta"):
        models = [AlexNetCAM(), VGG19CAM()]
    assert [[frozen_layers(model, percent) for percent in FREEZE_PERCENTS] for model in models] == [
        [0, 1, 2, 4],
        [0, 4, 8, 12],
    ]
    assert frozen_layers(tiny_model, 100) == 20  # 17 convolutions and 3 shortcuts
    for percent in (-1, 101):
        with pytest.raises(ValueError, match=rf"`percent` must lie in \[0, 100\]: got {percent}"):
            frozen_layers(tiny_model, percent)


@pytest.mark.parametrize("k", [0, 1, 3, 5])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_leaves_the_first_layers_bit_equal_and_changes_the_rest(k, optimizer):
    model = AlexNetCAM(3)
    model(images()).square().sum().backward()  # gradients from before must not move a frozen layer either
    step = optimizer(model.parameters(), lr=0.1, weight_decay=0.1)
    freeze_layers(model, k)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(images()).square().sum().backward()
    step.step()
    frozen = [f"features.{layer}." for layer in (0, 3, 6, 8, 10)[:k]]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(tuple(frozen)), name


def test_freezing_again_releases_the_rest(tiny_model):
    """On a residual network too, whose convolutions have no bias; BatchNorm stays trainable."""
    freeze_layers(tiny_model, 5)
    freeze_layers(tiny_model, 2)
    frozen = [name for name, parameter in tiny_model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["conv1.weight", "layer1.0.conv1.weight"]


@pytest.mark.parametrize("k", [-1, 6])
def test_more_layers_than_there_are_are_refused_before_any_change(k):
    with torch.device("meta"):
        model = AlexNetCAM()
    freeze_layers(model, 1)
    with pytest.raises(ValueError, match=f"`k` must lie in 0 to 5, the network's convolution layers: got {k}"):
        freeze_layers(model, k)
    assert [layer.weight.requires_grad for layer in convolutions(model)] == [False, True, True, True, True]
