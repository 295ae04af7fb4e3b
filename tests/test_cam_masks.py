"""Score-CAM and Ablation-CAM: by hand, how many images the network sees at once, and what comes before the layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib import cam_masks
from evalib.explain import explain


class Net(nn.Module):
    """Two convolutions, the second's output pooled; `joined` adds its input, or sets it beside it."""

    def __init__(self, kind: str = "sum") -> None:
        super().__init__()
        self.kind = kind
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.linear = nn.Linear(12 if kind == "concatenation" else 6, 4)
        self.sizes: list[tuple[int, int]] = []  # batches of the first and the second convolution

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images).relu()
        y = self.second(x)
        self.sizes.append((len(images), len(y)))
        z = torch.cat([x, y], dim=1) if self.kind == "concatenation" else y + x
        return self.linear(z.relu().mean(dim=(2, 3)))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def finished(weights: Tensor, activation: Tensor) -> Tensor:
    maps = torch.einsum("nc,nchw->nhw", weights, activation).relu()
    maps = F.interpolate(maps[:, None], size=(8, 8), mode="bilinear")[:, 0]
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low)


@pytest.mark.parametrize("kind", ["sum", "concatenation"])
def test_ablation_cam_by_a_loop_over_the_channels(images: Tensor, kind: str) -> None:
    """Set to zero, as the paper has it, although this layer has negative values."""
    net, idx = Net(kind), 2 if kind == "sum" else 1  # a class with positive evidence
    with torch.no_grad():
        x = net.first(images).relu()
        y = net.second(x)

        def logits(y: Tensor) -> Tensor:
            z = torch.cat([x, y], dim=1) if kind == "concatenation" else y + x
            return net.linear(z.relu().mean(dim=(2, 3)))[:, idx]

        without = [y * (torch.arange(6) != channel)[:, None, None] for channel in range(6)]
        weights = torch.stack([(logits(y) - logits(part)) / logits(y) for part in without], dim=1)
    assert (y < 0).any()
    cams = explain(net, images, "second", idx, method="ablation_cam", channels_at_once=4)
    torch.testing.assert_close(cams[0], finished(weights, y), atol=1e-4, rtol=0)


def test_score_cam_by_a_loop_over_the_channels(images: Tensor) -> None:
    net, scores = Net(), []
    with torch.no_grad():
        net.first.bias += 0.5  # so that there is positive evidence
        x = net.first(images)
        for channel in range(6):
            low, high = x[:, channel].amin(dim=(1, 2)), x[:, channel].amax(dim=(1, 2))
            mask = (x[:, channel] - low[:, None, None]) / (high - low)[:, None, None]
            scores.append(net(images * mask[:, None])[:, 1])
    cams = explain(net, images, "first", 1, method="score_cam", channels_at_once=5)
    torch.testing.assert_close(cams[0], finished(torch.stack(scores, dim=1).softmax(dim=1), x), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["score_cam", "ablation_cam"])
@pytest.mark.parametrize("kind", ["sum", "concatenation"])
def test_the_network_never_sees_more_at_once(images: Tensor, method: str, kind: str) -> None:
    net = Net(kind)
    expected = explain(net, images, "second", 2, method=method)
    for channels_at_once in (1, 2, 4, 100):
        net.sizes.clear()
        cams = explain(net, images, "second", 2, method=method, channels_at_once=channels_at_once)
        torch.testing.assert_close(cams, expected, atol=1e-4, rtol=0)
        assert max(max(sizes) for sizes in net.sizes) <= max(2, channels_at_once)


def test_size_of_a_batch_by_default(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    monkeypatch.setattr(cam_masks, "VALUES_AT_ONCE", 5 * 3 * 8 * 8 + 7)
    explain(net, images, "second", 2, method="score_cam")
    assert [size for size, _ in net.sizes] == [2, 5, 5, 2]  # 2 images of 6 channels, after the pass itself
    monkeypatch.setattr(cam_masks, "VALUES_AT_ONCE", 1)
    net.sizes.clear()
    explain(net, images, "second", 2, method="score_cam")
    assert [size for size, _ in net.sizes] == [2] + 12 * [1]


def test_what_comes_before_the_layer_runs_for_one_image(images: Tensor) -> None:
    net = Net("sum")
    explain(net, images, "second", 2, method="ablation_cam", channels_at_once=6)
    assert net.sizes == [(2, 2), (1, 2), (1, 6), (1, 6)]  # the pass, the trial, then each image
    net = Net("concatenation")
    explain(net, images, "second", 2, method="ablation_cam", channels_at_once=6)
    assert [first for first, _ in net.sizes] == [2, 1, 6, 6]


@pytest.mark.parametrize("method", ["score_cam", "ablation_cam"])
def test_nothing_is_kept_during_the_changed_passes(images: Tensor, method: str) -> None:
    """No hook of the first pass stays armed, and no graph is recorded."""
    net, hooks = Net(), []
    net.linear.register_forward_hook(lambda _m, _i, output: hooks.append((len(net.first._forward_hooks), output)))
    explain(net, images, "first", method=method)
    assert [number for number, _ in hooks[1:]] == [1 if method == "ablation_cam" else 0] * (len(hooks) - 1)
    assert not any(output.requires_grad for _, output in hooks)


def test_channels_at_once_is_checked(images: Tensor) -> None:
    with pytest.raises(ValueError, match="`channels_at_once` needs at least 1, or None: got 0"):
        explain(Net(), images, "first", method="score_cam", channels_at_once=0)
