"""Difference hashes: every bit known for pictures made by the test; distances counted by hand."""

import numpy as np
import torch
from PIL import Image

from evalib.data import sample
from evalib.data.near_duplicates import BITS, MOST_BITS, difference_hashes, near_pairs


def test_the_bits_of_ramps(tmp_path):
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None], 64, axis=0)  # brighter to the right
    for name, pixels in {"right": ramp, "left": ramp[:, ::-1], "down": ramp.T, "flat": ramp * 0}.items():
        Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB").save(tmp_path / f"{name}.png")
    files = [tmp_path / f"{name}.png" for name in ("right", "left", "down", "flat", "missing")]
    hashes, failures = difference_hashes(files)
    assert hashes.shape == (5, BITS)
    assert [row.sum().item() for row in hashes[:4]] == [64, 0, 64, 0]
    assert hashes[0, :64].all()
    assert hashes[2, 64:].all()
    assert [failure is None for failure in failures] == [True] * 4 + [False]
    assert not hashes[4].any()


def test_pairs_are_those_within_the_bits():
    generator = torch.Generator().manual_seed(0)
    train = torch.rand((2000, BITS), generator=generator) < 0.5
    test = torch.rand((1500, BITS), generator=generator) < 0.5
    for row, (other, bits) in {3: (7, 0), 1200: (1999, MOST_BITS), 1499: (0, MOST_BITS + 1)}.items():
        test[row] = train[other]
        test[row, :bits] = ~test[row, :bits]
    assert near_pairs(test, train) == [(3, 7, 0), (1200, 1999, MOST_BITS)]
    assert near_pairs(test, train, MOST_BITS + 1)[-1] == (1499, 0, MOST_BITS + 1)
    assert near_pairs(test, train[:0]) == []


def test_false_alarms_on_cifar10(tmp_path):
    """Of 1,000 x 5,000 pairs of the sample one is found, and that is two pictures of one horse; of these at most it."""
    data, hashes = sample().take(train=1000, test=500), {}
    for name, split in data.splits().items():
        files = [tmp_path / f"{name}{index:04d}.png" for index in range(len(split))]
        for path, pixels in zip(files, split.images.permute(0, 2, 3, 1).numpy(), strict=True):
            Image.fromarray(pixels).save(path, compress_level=1)
        hashes[name], _ = difference_hashes(files, workers=0)
    pairs = near_pairs(hashes["test"], hashes["train"])
    assert len(pairs) <= 1
    for test, train, _ in pairs:
        assert data.classes[data.test.labels[test]] == data.classes[data.train.labels[train]] == "horse"
