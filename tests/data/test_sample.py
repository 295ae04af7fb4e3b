"""The shipped sample: what it holds, and that it can be made again."""

import hashlib
from pathlib import Path

import torch

import evalib
from evalib.data import sample
from evalib.data.decoding import decode_image
from evalib.data.image_data import CIFAR10_CLASSES
from evalib.data.sample import ARCHIVE, write_sample


def test_size_and_balance():
    data = sample()
    assert data.train.images.shape == (5000, 3, 32, 32)
    assert data.train.labels.bincount().tolist() == [500] * 10
    assert data.test.labels.bincount().tolist() == [100] * 10
    assert data.classes == CIFAR10_CLASSES
    assert (Path(evalib.__file__).parent / "data" / ARCHIVE).stat().st_size <= 4_000_000


def test_no_image_is_in_train_and_test():
    data = sample()
    digests = [
        {hashlib.sha256(image.numpy().tobytes()).digest() for image in split.images}
        for split in (data.train, data.test)
    ]
    assert not digests[0] & digests[1]


def test_images_look_like_photographs():
    """Neighboring pixels of photographs are alike; scrambled axes or channels would break this."""
    images = sample().train.images.double()
    neighbors = torch.corrcoef(torch.stack([images[..., :-1].flatten(), images[..., 1:].flatten()]))[0, 1]
    assert neighbors > 0.9


def test_the_sample_is_the_first_images_of_the_jpeg_copy(jpeg_copy, tmp_path):
    write_sample(jpeg_copy, tmp_path / "again.tar.xz", train=2, test=1)
    data = sample()
    for label, name in enumerate(CIFAR10_CLASSES):
        expected = torch.from_numpy(decode_image(jpeg_copy / "train" / name / "0001.jpg", name).copy()).permute(2, 0, 1)
        assert torch.equal(data.train.images[500 * label + 1], expected)
    assert (tmp_path / "again.tar.xz").stat().st_size > 0
