"""Loaders: every image once, the same draws from the same seed however they are made."""

import pytest
import torch

from evalib.data.image_data import ImageData, Split
from evalib.data.loaders import ResidentLoader, WorkerLoader, eval_loader, train_loader
from evalib.recipes import recipes
from evalib.transforms import normalize


def batches(loader, epoch):
    loader.set_epoch(epoch)
    pairs = list(loader)
    return torch.cat([images for images, _ in pairs]), torch.cat([labels for _, labels in pairs])


@pytest.fixture
def data():
    """40 images in 40 classes: the label tells which image it is."""
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(images, torch.arange(40))
    return ImageData("numbered", tuple(map(str, range(40))), split, split, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


def test_evaluation_keeps_order_and_repeats(data):
    loader = eval_loader(data, batch_size=16)
    assert len(loader) == 3
    images, labels = batches(loader, 1)
    assert torch.equal(images, normalize(data.test.images, data.mean, data.std))
    assert labels.tolist() == list(range(40))
    assert torch.equal(batches(loader, 2)[0], images)


def test_evaluation_of_a_split_that_is_not_there(data):
    with pytest.raises(ValueError, match="'numbered' has no split 'val'. It has: train, test"):
        eval_loader(data, "val")


def test_resident_training_shows_every_image_once_plain_or_flipped(data):
    loader = ResidentLoader(data.train, data.mean, data.std, batch_size=16, augmentation="flip", seed=3)
    images, labels = batches(loader, 1)
    assert sorted(labels.tolist()) == list(range(40))
    assert labels.tolist() != list(range(40))
    plain = normalize(data.train.images[labels], data.mean, data.std)
    is_plain = (images == plain).flatten(1).all(1)
    is_flipped = (images == plain.flip(3)).flatten(1).all(1)
    assert (is_plain ^ is_flipped).all()
    assert 8 <= is_flipped.sum() <= 32


@pytest.mark.parametrize("kind", ["resident", "workers"])
def test_epochs_differ_and_seeds_repeat(data, kind):
    def make(seed):
        if kind == "resident":
            return ResidentLoader(data.train, data.mean, data.std, batch_size=16, augmentation="flip", seed=seed)
        return WorkerLoader(data, "eva6", batch_size=16, seed=seed, workers=0)

    first = batches(make(3), 1)
    assert torch.equal(batches(make(3), 1)[0], first[0])
    assert batches(make(3), 2)[1].tolist() != first[1].tolist()
    assert batches(make(4), 1)[1].tolist() != first[1].tolist()


def test_any_number_of_workers_draws_the_same(data):
    state = torch.get_rng_state()
    alone = WorkerLoader(data, "eva6", batch_size=8, seed=3, workers=0)
    shared = WorkerLoader(data, "eva6", batch_size=8, seed=3, workers=2)
    for epoch in (1, 2):
        one, two = batches(alone, epoch), batches(shared, epoch)
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])
    assert torch.equal(torch.get_rng_state(), state), "loading draws nothing from the global random numbers"


def test_workers_and_epochs_draw_different_augmentations():
    """One image many times: with cloned randomness, as albumentations has it by default, batches would repeat."""
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(image.expand(16, -1, -1, -1).contiguous(), torch.zeros(16, dtype=torch.long))
    data = ImageData("one", ("a",), split, split, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    loader = WorkerLoader(data, "eva6", batch_size=4, seed=1, workers=2)
    drawn = [image for epoch in (1, 2) for image in batches(loader, epoch)[0]]
    with_hole = [
        image.numpy().tobytes() for image in drawn if not torch.allclose(image[0], image[1])
    ]  # the rest is gray
    assert len(with_hole) >= 12
    assert len(set(with_hole)) >= len(with_hole) - 1  # holes lie in 17 x 17 places


def test_the_recipe_chooses_the_loader(data):
    assert isinstance(train_loader(data, recipes["demo"]), ResidentLoader)
    loader = train_loader(data, recipes["eva6"], workers=0)
    assert isinstance(loader, WorkerLoader)
    assert len(loader) == 1


def test_the_resident_path_refuses_what_it_cannot_draw(data):
    with pytest.raises(ValueError, match=r"must be one of \('none', 'flip'\): got 'eva6'"):
        ResidentLoader(data.train, data.mean, data.std, batch_size=4, augmentation="eva6")
