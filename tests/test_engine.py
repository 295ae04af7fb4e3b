"""The loops: exact losses, reproducible and resumable runs, clear refusals, nothing lost on Ctrl-C."""

import itertools
import os
import shutil
import signal

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from evalib.averaging import Lookahead
from evalib.checkpoint import load_checkpoint
from evalib.data.image_data import ImageData, Split
from evalib.data.image_files import ImageFiles
from evalib.data.loaders import eval_loader, train_loader
from evalib.data.order import batch_indices
from evalib.engine import evaluate, fit, train_one_epoch
from evalib.evaluation import seen_from
from evalib.execution import SingleDevice
from evalib.history import History
from evalib.initialization import whiten
from evalib.models import build_model
from evalib.recipes import Recipe
from evalib.rundir import RunDirectory
from evalib.runtime import eval_mode
from evalib.training_step import LossWatch
from evalib.transforms import IMAGENET_MEAN, IMAGENET_STD, Geometry, normalize

CPU = {"device": "cpu", "workers": 0, "progress": False}


def recipe(**changes):
    settings = {"name": "tiny", "width": 8, "epochs": 2, "batch_size": 8, "lr": 0.05, "precision": "float32"}
    return Recipe(**(settings | changes))


def tiny(seed=1):
    return build_model("resnet18", 3, width=8, seed=seed)


def same_weights(one, two):
    other = two.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())


@pytest.fixture(scope="module")
def ten_thousand():
    """10,000 images of 8 x 8 pixels and a linear network, so that the truth is one matrix product."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (10_000, 3, 8, 8), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.randint(0, 10, (10_000,), generator=generator))
    data = ImageData("many", tuple("abcdefghij"), split, split, (0.5,) * 3, (0.25,) * 3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(10, 192, generator=generator) / 5)
    return data, model


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
def test_the_loss_is_the_cross_entropy_over_all_images(ten_thousand, batch_size):
    data, model = ten_thousand
    images = (data.test.images.double() / 255 - 0.5) / 0.25
    logits = images.flatten(1) @ model[1].weight.detach().double().T + model[1].bias.detach().double()
    expected = (logits.logsumexp(1) - logits[torch.arange(10_000), data.test.labels]).mean().item()
    found = evaluate(model, eval_loader(data, batch_size=batch_size))
    assert found.loss == pytest.approx(expected, abs=1e-5)
    assert found.accuracy == pytest.approx((logits.argmax(1) == data.test.labels).double().mean().item(), abs=1e-12)
    assert found.logits.shape == (10_000, 10)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
def test_the_training_loss_is_weighted_by_images_too(ten_thousand, batch_size):
    data, model = ten_thousand
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    found = train_one_epoch(model, eval_loader(data, batch_size=batch_size), still)
    expected = evaluate(model, eval_loader(data))
    assert found.loss == pytest.approx(expected.loss, abs=1e-5)
    assert found.accuracy == pytest.approx(expected.accuracy, abs=1e-12)
    assert found.images == 10_000


def test_evaluation_twice_is_the_same_and_leaves_the_model_alone(tiny_data):
    model = tiny().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, two = (evaluate(model, eval_loader(tiny_data)) for _ in range(2))
    assert torch.equal(one.logits, two.logits)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.testing.assert_close(one.probabilities.sum(1), torch.ones(12))
    assert torch.equal(one.predictions, one.logits.argmax(1))
    one.logits.requires_grad_(True).sum().backward()  # an ordinary tensor, not one of inference mode


def test_empty_loaders_are_refused(tiny_model):
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="`loader` gave no batch; training needs at least one"):
        train_one_epoch(tiny_model, [], optimizer)
    with pytest.raises(ValueError, match="`loader` gave no batch; evaluation needs at least one"):
        evaluate(tiny_model, [])


def test_an_epoch_of_training_equals_a_loop_by_hand(tiny_data):
    batches = [(images.double(), labels) for images, labels in eval_loader(tiny_data, "train", batch_size=8)]
    ours, by_hand = tiny().double(), tiny().double().train()
    train_one_epoch(ours, batches, torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9), penalties=(0, 0.01))
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(by_hand(images), labels).backward()
        optimizer.step()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, by_hand.state_dict()[name], atol=1e-6, rtol=1e-5)


def test_training_waits_for_the_host_only_once(tiny_data, monkeypatch):
    """What would make a GPU wait: reading a tensor's value. Once for the totals of the epoch is all.

    The loss of each step is read too, on a GPU one step later: tests/test_training_step.py.
    """
    calls = []
    monkeypatch.setattr(LossWatch, "see", lambda *arguments: None)
    for name in ("item", "tolist", "__bool__", "__float__"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, real=real, name=name: (calls.append(name), real(self))[1])
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))
    batches = list(eval_loader(tiny_data, "train", batch_size=4))
    train_one_epoch(model, batches, torch.optim.SGD(model.parameters(), lr=0.01, foreach=False))
    assert len(batches) == 6
    assert calls == ["tolist"]


def test_the_training_mode_is_put_back_also_after_an_exception(tiny_data):
    model = tiny().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def batches():
        yield from itertools.islice(eval_loader(tiny_data, batch_size=4), 1)
        assert all(module.training for module in model.modules())
        raise KeyError

    with pytest.raises(KeyError):
        train_one_epoch(model, batches(), optimizer)
    assert not any(module.training for module in model.modules())


def coloured(n, seed):
    """Noise with one bright channel per class: so easy that the rounding of no CPU can spoil it."""
    images = torch.randint(0, 128, (n, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(n) % 3
    images[torch.arange(n), labels] += 100
    return Split(images.to(torch.uint8), labels)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_it_learns(optimizer):
    """Three classes of clearly different colours: any working loop gets them all right."""
    data = ImageData("coloured", ("red", "green", "blue"), coloured(240, 0), coloured(60, 1), (0.5,) * 3, (0.25,) * 3)
    changes = {"epochs": 6, "batch_size": 24, "schedule": "one_cycle", "augmentation": "flip"}
    history = fit(tiny(), data, recipe(optimizer=optimizer, lr=0.01, **changes), **CPU)
    assert history.epochs[-1].test_accuracy == 1.0
    assert history.epochs[-1].train_loss < history.epochs[0].train_loss


@pytest.mark.parametrize("augmentation", ["flip", "eva6"])
def test_the_same_seed_gives_the_same_run_and_another_does_not(tiny_data, augmentation):
    runs = []
    for seed in (1, 1, 2):
        model = tiny()
        history = fit(model, tiny_data, recipe(seed=seed, augmentation=augmentation), **CPU)
        runs.append((model, history.column("train_loss")))
    assert runs[0][1] == runs[1][1]
    assert same_weights(runs[0][0], runs[1][0])
    assert runs[0][1] != runs[2][1]


def test_a_run_leaves_the_global_random_numbers_alone(tiny_data):
    state = torch.get_rng_state()
    fit(tiny(), tiny_data, recipe(epochs=1, augmentation="eva6"), **CPU)
    assert torch.equal(torch.get_rng_state(), state)


def test_history_and_run_directory(tiny_data, tmp_path):
    seen = []
    history = fit(tiny(), tiny_data, recipe(), run_dir=tmp_path, on_epoch=lambda h: seen.append(len(h.epochs)), **CPU)
    assert seen == [1, 2]
    assert [record.epoch for record in history.epochs] == [1, 2]
    assert all(record.seconds > 0 and record.images_per_second > 0 for record in history.epochs)
    assert History.load(tmp_path / "history.json") == history
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["history.json", "last.pt", "previous.pt", "recipe.json"]


def test_the_last_record_is_the_evaluation_of_the_returned_model(tiny_data):
    model = tiny()
    history = fit(model, tiny_data, recipe(), **CPU)
    found = evaluate(model, eval_loader(tiny_data))
    assert history.epochs[-1].test_loss == pytest.approx(found.loss, abs=1e-6)
    assert history.epochs[-1].test_accuracy == found.accuracy


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "constant"},
        {"schedule": "step"},
        {"schedule": "one_cycle"},
        {"schedule": "cosine"},
        {"schedule": "triangle", "averaging": "lookahead", "batch_norm_momentum": 0.4, "bias_lr_factor": 8.0},
        {"schedule": "triangle", "optimizer": "muon", "decay_all": False, "whitening": True, "zero_gamma": True},
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values()),
)
def test_a_stopped_run_continues_to_the_same_end(tiny_data, tmp_path, changes):
    settings = recipe(epochs=4, augmentation="flip", momentum=0.9, **changes)
    whole = tiny()
    expected = fit(whole, tiny_data, settings, **CPU)

    def stop(history):
        if len(history.epochs) == 2:
            raise KeyboardInterrupt

    first = fit(tiny(), tiny_data, settings, run_dir=tmp_path, on_epoch=stop, **CPU)
    assert first.interrupted
    assert len(first.epochs) == 2
    resumed = tiny(seed=77)  # its own weights do not matter
    history = fit(resumed, tiny_data, settings, run_dir=tmp_path, **CPU)
    assert not history.interrupted
    for name in ("epoch", "train_loss", "test_loss", "test_accuracy", "lr"):
        assert history.column(name) == expected.column(name)
    assert same_weights(resumed, whole)


def test_a_run_with_averaging_ends_on_the_average(tiny_data, monkeypatch):
    """The weights after the last step are the slow ones, and the figures are theirs."""
    made = []
    monkeypatch.setattr("evalib.training_run.Lookahead", lambda *a: made.append(Lookahead(*a)) or made[-1])
    model = tiny()
    history = fit(model, tiny_data, recipe(epochs=2, averaging="lookahead", lr=0.1), **CPU)
    (averaging,) = made
    assert averaging.steps == averaging.total == 2 * 3
    weights = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    assert all(torch.equal(a, b) for a, b in zip(weights, averaging.slow, strict=True))
    assert history.epochs[-1].test_accuracy == evaluate(model, eval_loader(tiny_data)).accuracy


def test_a_run_begins_as_the_recipe_says(tiny_data, monkeypatch):
    begun = {}

    def look(step, *args, **kwargs):
        model = step.model
        begun.update(conv=model.conv1.weight.clone(), gamma=model.layer1[0].bn2.weight.clone(), m=model.bn1.momentum)
        raise KeyboardInterrupt

    monkeypatch.setattr("evalib.training_run.run_epoch", look)
    model, plain = tiny(), tiny()
    fit(model, tiny_data, recipe(whitening=True, zero_gamma=True, batch_norm_momentum=0.4), **CPU)
    whiten(plain, normalize(tiny_data.train.images, tiny_data.mean, tiny_data.std))
    # few images: all are taken, in an order of their own
    torch.testing.assert_close(begun["conv"].abs(), plain.conv1.weight.abs(), atol=1e-4, rtol=1e-3)
    assert not begun["gamma"].any()
    assert begun["m"] == 0.4
    assert model.bn1.momentum == 0.1


def test_views_are_mirrored_and_shifted_by_a_pixel():
    images = torch.arange(2 * 3 * 5 * 6, dtype=torch.float32).reshape(2, 3, 5, 6)
    for count in (1, 2, 6):
        found = list(seen_from(images, count))
        assert len(found) == count
        assert sum(weight for weight, _ in found) == 1
        assert torch.equal(found[0][1], images)
    weights, views = zip(*seen_from(images, 6), strict=True)
    assert weights == (0.25, 0.25, 0.125, 0.125, 0.125, 0.125)
    assert torch.equal(views[2][:, :, 1:, 1:], images[:, :, :-1, :-1])
    assert torch.equal(views[2][:, :, 0, 1:], images[:, :, 1, :-1])  # the reflected border
    assert torch.equal(views[4][:, :, :-1, :-1], images[:, :, 1:, 1:])
    for plain, mirrored in ((0, 1), (2, 3), (4, 5)):
        assert torch.equal(views[mirrored], torch.flip(views[plain], dims=[3]))
    with pytest.raises(ValueError, match=r"`views` must be one of \(1, 2, 6\): got 3"):
        next(seen_from(images, 3))


def test_evaluation_with_views_averages_logits(tiny_data):
    model, loader = tiny(), eval_loader(tiny_data)
    (images, _), *_ = loader
    with torch.no_grad(), eval_mode(model):
        expected = (model(images) + model(images.flip(3))) / 2
    found = evaluate(model, loader, views=2)
    torch.testing.assert_close(found.logits, expected)
    assert not torch.allclose(found.logits, evaluate(model, loader).logits)


def test_the_last_epoch_is_also_tested_with_views(tiny_data):
    model = tiny()
    history = fit(model, tiny_data, recipe(epochs=2, test_views=6), **CPU)
    first, last = history.column("test_accuracy_views")
    assert first is None
    assert last == evaluate(model, eval_loader(tiny_data), views=6).accuracy
    assert fit(tiny(), tiny_data, recipe(epochs=1), **CPU).column("test_accuracy_views") == [None]


def at_update(number, action, monkeypatch):
    """Before an optimizer step, counted from 1, something else is done."""
    real, steps = SingleDevice.update, []

    def update(self, optimizer):
        steps.append(1)
        if len(steps) == number:
            action()
        return real(self, optimizer)

    monkeypatch.setattr(SingleDevice, "update", update)


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def stop_twice():
    ctrl_c()
    ctrl_c()


class Drawing(nn.Module):
    """A network that draws random numbers when it trains."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 20)

    def forward(self, images):
        return self.layers(images)


def comparable(history):
    """A history without what the clock, and people, bring in."""
    changing = ("seconds", "images_per_second")
    return [{name: value for name, value in vars(r).items() if name not in changing} for r in history.epochs]


EVERYTHING = {
    "fast": {"optimizer": "muon", "schedule": "triangle", "averaging": "lookahead", "batch_norm_momentum": 0.4,
             "augmentation": "crop", "cutout": 4, "flip": "alternating", "whitening": True, "label_smoothing": 0.1,
             "val_fraction": 0.25, "test_views": 2},
    "adam": {"optimizer": "adam", "schedule": "one_cycle", "l1": 1e-4, "augmentation": "eva6", "momentum": 0.9},
    "workers": {"augmentation": "crop", "path": "workers"},
    "drawing": {"augmentation": "flip"},
}  # fmt: skip


@pytest.mark.parametrize("kind", EVERYTHING)
def test_ctrl_c_at_any_step_continues_to_the_same_end(tiny_data, tmp_path, monkeypatch, kind):
    """A real SIGINT at each step of two epochs: the state after the step is kept, and the end is that of one call."""
    make = Drawing if kind == "drawing" else tiny
    settings, where = recipe(**EVERYTHING[kind]), CPU | {"workers": 2 if kind == "workers" else 0}
    whole = make()
    expected = fit(whole, tiny_data, settings, **where)
    steps = 3
    for number in range(1, 2 * steps + 1):
        with monkeypatch.context() as patched:
            at_update(number, ctrl_c, patched)
            first = fit(make(), tiny_data, settings, run_dir=tmp_path / str(number), **where)
        assert first.interrupted
        assert len(first.epochs) == (number - 1) // steps
        found = load_checkpoint(tmp_path / str(number) / "last.pt")
        assert (found.epoch, found.step) == (len(first.epochs), number - steps * len(first.epochs))
        assert History.load(tmp_path / str(number) / "history.json").interrupted
        model = make()
        again = fit(model, tiny_data, settings, run_dir=tmp_path / str(number), **where)
        assert not again.interrupted
        assert comparable(again) == comparable(expected)
        assert same_weights(model, whole)
        where_from = f"Continued after epoch {found.epoch} of 2, step {found.step} of {steps}."
        assert again.notes == [where_from]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_with_deterministic_algorithms_it_continues_to_the_same_end_too(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        settings, where = recipe(**EVERYTHING["fast"], precision="auto"), CPU | {"device": "cuda"}
        whole, model = tiny(), tiny()
        expected = fit(whole, tiny_data, settings, **where)
        with monkeypatch.context() as patched:
            at_update(4, ctrl_c, patched)
            fit(tiny(), tiny_data, settings, run_dir=tmp_path, **where)
        assert comparable(fit(model, tiny_data, settings, run_dir=tmp_path, **where)) == comparable(expected)
        assert same_weights(model, whole)
    finally:
        torch.use_deterministic_algorithms(False)


def test_ctrl_c_while_it_tests_keeps_the_trained_epoch(tiny_data, tmp_path, monkeypatch):
    whole = tiny()
    expected = fit(whole, tiny_data, recipe(), **CPU)
    real = evaluate

    def interrupted(*arguments, **settings):
        ctrl_c()
        return real(*arguments, **settings)

    monkeypatch.setattr("evalib.training_run.evaluate", interrupted)
    first = fit(tiny(), tiny_data, recipe(), run_dir=tmp_path, **CPU)
    assert (first.interrupted, len(first.epochs)) == (True, 0)
    assert load_checkpoint(tmp_path / "last.pt").step == 3
    monkeypatch.undo()
    model = tiny()
    assert comparable(fit(model, tiny_data, recipe(), run_dir=tmp_path, **CPU)) == comparable(expected)
    assert same_weights(model, whole)


def test_a_second_ctrl_c_ends_at_once_and_keeps_the_checkpoint_before(tiny_data, tmp_path, monkeypatch):
    at_update(5, stop_twice, monkeypatch)  # 3 steps an epoch: the second step of the second
    model = tiny().eval()
    history = fit(model, tiny_data, recipe(), run_dir=tmp_path, **CPU)
    assert history.interrupted
    assert len(history.epochs) == 1
    assert len(History.load(tmp_path / "history.json").epochs) == 1
    assert not any(module.training for module in model.modules())
    monkeypatch.undo()
    expected = fit(tiny(), tiny_data, recipe(), **CPU)
    assert comparable(fit(tiny(), tiny_data, recipe(), run_dir=tmp_path, **CPU)) == comparable(expected)


def test_a_stopped_network_is_usable_and_what_was_switched_is_put_back(tiny_data, monkeypatch):
    model = Drawing().eval()
    torch.manual_seed(77)
    before = torch.get_rng_state()
    at_update(2, ctrl_c, monkeypatch)
    assert fit(model, tiny_data, recipe(augmentation="flip"), **CPU).interrupted
    assert torch.equal(torch.get_rng_state(), before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not any(module.training for module in model.modules())
    assert 0 <= evaluate(model, eval_loader(tiny_data)).accuracy <= 1


def test_checkpoints_within_an_epoch_at_a_chosen_interval(tiny_data, tmp_path, monkeypatch):
    """Each of them, as a kill would leave it, continues to the same end."""
    whole, settings = tiny(), recipe(**EVERYTHING["fast"], batch_size=4)
    expected = fit(whole, tiny_data, settings, **CPU)
    kept, real = [], RunDirectory.save

    def save(self, checkpoint, history):
        real(self, checkpoint, history)
        self._saver.wait()
        kept.append((checkpoint.epoch, checkpoint.step, tmp_path / f"copy{len(kept)}"))
        shutil.copytree(tmp_path / "run", kept[-1][-1], ignore=shutil.ignore_patterns("run.lock"))

    monkeypatch.setattr(RunDirectory, "save", save)
    fit(tiny(), tiny_data, settings, run_dir=RunDirectory(tmp_path / "run", save_steps=2), **CPU)
    monkeypatch.undo()
    assert [position[:2] for position in kept] == [(0, 2), (0, 4), (1, 0), (1, 2), (1, 4), (2, 0)]  # 5 steps an epoch
    for _, _, folder in kept:
        model = tiny()
        assert comparable(fit(model, tiny_data, settings, run_dir=folder, **CPU)) == comparable(expected)
        assert same_weights(model, whole)


def test_a_finished_run_is_returned_not_trained_again(tiny_data, tmp_path):
    model = tiny()
    first = fit(model, tiny_data, recipe(), run_dir=tmp_path, **CPU)
    again = tiny(seed=5)
    assert fit(again, tiny_data, recipe(), run_dir=tmp_path, **CPU) == first
    assert same_weights(again, model)


def test_validation_images_are_split_off_the_training_images(tiny_data):
    history = fit(tiny(), tiny_data, recipe(val_fraction=0.25), **CPU)
    assert all(record.val_loss > 0 and 0 <= record.val_accuracy <= 1 for record in history.epochs)
    assert fit(tiny(), tiny_data, recipe(epochs=1), **CPU).epochs[0].val_loss is None


def test_a_single_image_with_batch_norm_is_refused(tiny_data):
    with pytest.raises(ValueError, match="`batch_size` 1 makes a batch of a single image"):
        fit(tiny(), tiny_data, recipe(batch_size=1), **CPU)
    with pytest.raises(ValueError, match="`batch_size` 23 makes a batch of a single image out of 24"):
        fit(tiny(), tiny_data, recipe(batch_size=23), **CPU)
    optimizer = torch.optim.SGD(tiny().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="BatchNorm has no statistics of one image"):
        train_one_epoch(tiny(), eval_loader(tiny_data, batch_size=1), optimizer)


def test_a_directory_that_cannot_be_written_fails_before_the_first_epoch(tiny_data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(SingleDevice, "update", lambda *arguments: pytest.fail("trained before the check"))
    with pytest.raises(OSError, match="Cannot write to .*Choose another folder"):
        fit(tiny(), tiny_data, recipe(), run_dir=tmp_path / "file" / "run", **CPU)


def test_another_recipe_is_refused(tiny_data, tmp_path):
    fit(tiny(), tiny_data, recipe(), run_dir=tmp_path, **CPU)
    with pytest.raises(ValueError, match="holds another run .*lr: 0.05 there, 0.1 now"):
        fit(tiny(), tiny_data, recipe(lr=0.1), run_dir=tmp_path, **CPU)


def test_a_loss_that_is_not_finite_stops_in_that_step_and_keeps_the_checkpoint(tiny_data, tmp_path):
    fit(tiny(), tiny_data, recipe(epochs=1), run_dir=tmp_path, **CPU)
    kept = (tmp_path / "last.pt").read_bytes()
    broken, calls = tiny(), []

    def spoil(module, inputs, output):
        calls.append(1)
        return output * (float("nan") if len(calls) == 2 else 1)

    broken.register_forward_hook(spoil)
    images = ", ".join(map(str, batch_indices(24, 8, 1, 2, 2).tolist()))
    where = f"became nan in epoch 2, step 2 of 3, with the learning rate 0.05 and the training images {images}. Lower"
    with pytest.raises(FloatingPointError, match=where):
        fit(broken, tiny_data, recipe(epochs=2), run_dir=tmp_path, **CPU)
    assert len(calls) == 2
    assert (tmp_path / "last.pt").read_bytes() == kept
    assert len(fit(tiny(), tiny_data, recipe(epochs=2), run_dir=tmp_path, **CPU).epochs) == 2


def test_weights_that_are_not_finite_are_never_saved(tiny_data, tmp_path, monkeypatch):
    """The last step of an epoch spoils the weights: no loss tells, the checkpoint before stays."""
    model = tiny()
    at_update(6, lambda: model.linear.weight.grad[0, 0].fill_(float("inf")), monkeypatch)
    with pytest.raises(FloatingPointError, match="Weights of the network became NaN or infinite in epoch 2"):
        fit(model, tiny_data, recipe(epochs=3), run_dir=tmp_path, **CPU)
    assert load_checkpoint(tmp_path / "last.pt").epoch == 1


def test_memory_that_runs_out_is_told_and_kept(tiny_data, tmp_path, monkeypatch):
    """From the step on in which it did, batches come in halves: also in the run that continues this one."""
    sizes, full = [], []

    def too_much(module, inputs):
        sizes.append(len(inputs[0]))
        if module.training and len(inputs[0]) == 8 and not full:
            full.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")

    model = tiny()
    model.register_forward_pre_hook(too_much)
    at_update(2, ctrl_c, monkeypatch)
    with pytest.warns(RuntimeWarning, match="Memory ran out"):
        history = fit(model, tiny_data, recipe(epochs=1), run_dir=tmp_path, **CPU)
    assert sizes == [8, 4, 4, 4, 4]
    told = "Memory ran out: from epoch 1, step 1 on a batch is computed in two parts of at most 4 images."
    assert history.notes == [told]
    history = fit(model, tiny_data, recipe(epochs=1), run_dir=tmp_path, **CPU)
    assert sizes[5:7] == [4, 4]
    assert history.notes == [told, "Continued after epoch 0 of 1, step 2 of 3."]


def test_another_recipe_is_accepted_if_asked_for(tiny_data, tmp_path):
    """The second epoch is that of a loop by hand with the first one's weights and moments and the new rate."""
    before, after = recipe(momentum=0.9), recipe(momentum=0.9, lr=0.01, augmentation="flip", batch_size=6)
    fit(tiny(), tiny_data, before.replace(epochs=1), run_dir=tmp_path, **CPU)
    by_hand, kept = tiny(), load_checkpoint(tmp_path / "last.pt")
    by_hand.load_state_dict(kept.weights)
    by_hand = SingleDevice("cpu", "float32").prepare(by_hand)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.01, momentum=0.9)
    for parameter, state in zip(by_hand.parameters(), kept.training["optimizer"]["state"].values(), strict=True):
        optimizer.state[parameter]["momentum_buffer"] = state["momentum_buffer"]
    loader = train_loader(tiny_data, after)
    loader.set_epoch(2)
    result = train_one_epoch(by_hand, loader, optimizer)
    model = tiny()
    history = fit(model, tiny_data, after, run_dir=RunDirectory(tmp_path, accept_changes=True), **CPU)
    assert history.epochs[1].train_loss == pytest.approx(result.loss, rel=1e-6)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, by_hand.state_dict()[name], atol=1e-6, rtol=1e-5)
    assert any("lr: 0.05 there, 0.01 now" in note for note in history.notes)


@pytest.mark.parametrize("changes", [{"optimizer": "adam"}, {"averaging": "lookahead"}, {"schedule": "cosine"}])
def test_other_optimizers_and_schedules_are_taken_up_where_the_run_is(tiny_data, tmp_path, changes):
    fit(tiny(), tiny_data, recipe(epochs=1, schedule="triangle"), run_dir=tmp_path, **CPU)
    settings = recipe(epochs=3, **{"schedule": "triangle"} | changes)
    history = fit(tiny(), tiny_data, settings, run_dir=RunDirectory(tmp_path, accept_changes=True), **CPU)
    expected = fit(tiny(), tiny_data, settings, **CPU)
    assert history.column("lr")[1:] == pytest.approx(expected.column("lr")[1:])
    assert history.column("epoch") == [1, 2, 3]


def test_label_smoothing_trains_on_it_but_reports_plain_cross_entropy(ten_thousand):
    data, model = ten_thousand
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.3)
    found = train_one_epoch(model, eval_loader(data), still, loss_fn=smoothed)
    assert found.loss == pytest.approx(evaluate(model, eval_loader(data)).loss, abs=1e-5)


def test_bfloat16_trains_too(tiny_data):
    history = fit(tiny(), tiny_data, recipe(epochs=1, precision="bfloat16"), **CPU)
    assert 0 < history.epochs[0].train_loss < 10


@pytest.fixture
def in_files(tmp_path):
    """15 images of one gray level, 100, in PNG files of different sizes, for training and for testing; 3 classes."""
    paths = [tmp_path / f"{number}.png" for number in range(15)]
    for number, path in enumerate(paths):
        Image.new("RGB", (30 + number, 45), (100, 100, 100)).save(path)
    split = Split(ImageFiles(paths, Geometry("resize", 64)), torch.arange(15) % 3)
    return ImageData("gray", ("a", "b", "c"), split, split, (0.5,) * 3, (0.25,) * 3, filters={"brand": ("BMW", "Audi")})


ON_FILES = {"epochs": 1, "geometry": "resize", "image_size": 32, "statistics": "imagenet", "batch_size": 4}


def test_training_on_files_keeps_how_they_were_prepared(in_files, tmp_path):
    settings = recipe(**ON_FILES, augmentation="cars", val_fraction=0.25)
    history = fit(tiny(), in_files.prepared_for(settings), settings, run_dir=tmp_path / "run", **CPU)
    assert len(history.epochs) == 1
    assert 0 < history.epochs[0].train_loss < 10
    assert 0 < history.epochs[0].val_loss < 100
    found = load_checkpoint(tmp_path / "run" / "last.pt")
    assert (found.geometry, found.image_size) == (Geometry("resize", 32), 32)
    assert (found.mean, found.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert found.filters == {"brand": ("BMW", "Audi")}


def test_training_and_testing_see_the_same_pixels(in_files):
    """Images of one gray level, not augmented: every value that the network gets is (100 / 255 - mean) / std."""
    settings, model, seen = recipe(**ON_FILES), tiny(), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append((module.training, inputs[0])))
    fit(model, in_files.prepared_for(settings), settings, **CPU)
    assert {training for training, _ in seen} == {True, False}
    expected = (100 / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    for _, images in seen:
        assert images.shape[1:] == (3, 32, 32)
        torch.testing.assert_close(images, expected[:, None, None].expand_as(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"statistics": "data"}, r"wants images with Geometry\(kind='resize', image_size=32\).*image_size=64\)"),
        ({"geometry": "center_crop", "image_size": 64}, r"wants .*kind='center_crop'.*got .*kind='resize'"),
        ({"image_size": 64}, r"imagenet statistics: got .* mean \(0.5, 0.5, 0.5\)"),
    ],
)
def test_data_that_are_not_prepared_for_the_recipe_are_refused(in_files, wanted, message, monkeypatch, tmp_path):
    monkeypatch.setattr(SingleDevice, "update", lambda *arguments: pytest.fail("trained before the check"))
    settings = recipe(**(ON_FILES | wanted))
    with pytest.raises(ValueError, match=message + r".*Pass `data.prepared_for\(recipe\)`"):
        fit(tiny(), in_files, settings, run_dir=tmp_path / "run", **CPU)
    assert not (tmp_path / "run").exists()


def test_images_in_memory_are_refused_and_prepared_too(tiny_data):
    settings = recipe(epochs=1, geometry="center_crop", image_size=40)
    with pytest.raises(ValueError, match=r"kind='center_crop', image_size=40\).*got Geometry\(kind='as_is'"):
        fit(tiny(), tiny_data, settings, **CPU)
    shapes, model = set(), tiny()
    model.register_forward_pre_hook(lambda module, inputs: shapes.add(tuple(inputs[0].shape[1:])))
    fit(model, tiny_data.prepared_for(settings), settings, **CPU)
    assert shapes == {(3, 40, 40)}


def test_the_history_tells_device_and_number_of_images(tiny_data, tmp_path):
    fit(tiny(), tiny_data, recipe(epochs=1, val_fraction=0.25), run_dir=tmp_path, **CPU)
    found = History.load(tmp_path / "history.json")
    assert found.device.startswith("CPU, ")
    assert (found.train_images, found.test_images) == (18, 12)  # 6 of 24 are for validation


@pytest.mark.parametrize("path", ["resident", "workers"])
def test_the_history_tells_how_the_images_came(tiny_data, tmp_path, path):
    history = fit(tiny(), tiny_data, recipe(epochs=1, augmentation="eva6", path=path), run_dir=tmp_path, **CPU)
    assert history.input.startswith(f"{path}: ")
    assert History.load(tmp_path / "history.json").input == history.input


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float16_with_a_scaler_trains_on_cuda(tiny_data):
    history = fit(tiny(), tiny_data, recipe(precision="float16"), device="cuda", workers=0, progress=False)
    assert 0 < history.epochs[-1].train_loss < 10
