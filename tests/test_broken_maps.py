"""Maps that are worth nothing, beside what they pretend to be."""

import torch
from torch import nn

from evalib.broken_maps import centered_maps, class_blind_maps, maps_of, uniform_maps
from evalib.cam import classic_cam
from evalib.map_makers import map_maker
from evalib.models import resnet18


def images_and_classes() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return images, torch.tensor([0, 3, 5, 9])


def test_uniform_and_centered_maps_do_not_look_at_the_images() -> None:
    images, classes = images_and_classes()
    assert uniform_maps(nn.Identity(), images, classes).unique().tolist() == [0.0]
    cams = centered_maps(nn.Identity(), images, classes)
    assert torch.equal(cams[0], cams[3])
    assert cams.shape == (4, 32, 32)
    assert cams[0].argmax() in (15 * 32 + 15, 15 * 32 + 16, 16 * 32 + 15, 16 * 32 + 16)


def test_maps_of_another_network_are_its_own_whoever_is_asked() -> None:
    images, classes = images_and_classes()
    torch.manual_seed(0)
    asked, other = resnet18(width=8).eval(), resnet18(width=8).eval()
    make_maps = map_maker("grad_cam", "layer3")
    assert torch.equal(maps_of(other, make_maps)(asked, images, classes), make_maps(other, images, classes))
    assert not torch.equal(maps_of(other, make_maps)(asked, images, classes), make_maps(asked, images, classes))


def test_softmaxed_weights_leave_the_mean_of_the_features_whatever_the_class() -> None:
    images, classes = images_and_classes()
    torch.manual_seed(0)
    model = resnet18(width=8).eval()
    cams = class_blind_maps(model, images, classes)
    others = class_blind_maps(model, images, (classes + 1) % 10)
    assert (cams - others).abs().max() < 0.1
    honest, different = (classic_cam(model, images, wanted)[0] for wanted in (classes, (classes + 1) % 10))
    assert (honest - different).abs().max() > 0.5
    with torch.no_grad():
        model.linear.weight.zero_()  # equal weights before the softmax, too
    features: list[torch.Tensor] = []
    hook = model.layer4.register_forward_hook(lambda _m, _i, output: features.append(output))
    model(images)
    hook.remove()
    mean = torch.nn.functional.interpolate(features[0].mean(dim=1)[:, None], size=(32, 32), mode="bilinear")[:, 0]
    low, high = mean.amin(dim=(1, 2), keepdim=True), mean.amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(class_blind_maps(model, images, classes), (mean - low) / (high - low))
    assert model.training is False
