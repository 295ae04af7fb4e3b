"""The command line, in this process on a cut of the sample, and what it says to wrong words."""

import json
import shutil

import pytest
import torch
from PIL import Image

from evalib.checkpoint import load_checkpoint, load_model
from evalib.cli import build_parser, main
from evalib.commands import inventory, running, training
from evalib.data import sample
from evalib.history import History
from evalib.models import resnet18
from evalib.ranking import rank_maps
from evalib.recipes import recipes
from evalib.transforms import normalize


@pytest.fixture(scope="module")
def small():
    return sample().take(train=60, test=40)


@pytest.fixture(autouse=True)
def small_and_fast(monkeypatch, small):
    """The commands as they are, on few images and a narrow network."""
    for loads in ("commands.inventory.load_data", "data.origins.load_origin"):
        monkeypatch.setattr(f"evalib.{loads}", lambda *arguments, **settings: small)
    for name in ("demo", "eva6", "fast"):
        changed = recipes[name].replace(width=8, epochs=2, batch_size=20, precision="float32")
        monkeypatch.setitem(training.recipes, name, changed)


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """A run directory made by `evalib demo`."""
    run = tmp_path_factory.mktemp("runs") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inventory, "load_data", lambda *arguments, **settings: small)
        patch.setitem(training.recipes, "demo", recipes["demo"].replace(width=8, epochs=2, precision="float32"))
        assert main(["demo", "--run-dir", str(run), "--device", "cpu"]) == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_demo_writes_everything_and_says_where(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["demo", "--run-dir", str(run), "--seed", "3", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    names = {path.name for path in run.iterdir()}
    assert {"recipe.json", "history.json", "last.pt", "curves.png", "mistakes.png", "cam.png"} <= names
    for name in ("curves.png", "mistakes.png", "cam.png"):
        assert str(run / name) in said
    history = History.load(run / "history.json")
    assert f"test accuracy {history.epochs[-1].test_accuracy:.2%} on 40 images" in said
    assert "seed 3" in said
    assert load_checkpoint(run / "last.pt").recipe.seed == 3


def test_train_continues_a_run_and_times_the_bare_step(tmp_path, capsys):
    command = ["train", "cifar10", "--recipe", "eva6", "--run-dir", str(tmp_path), "--device", "cpu", "--bare-step"]
    assert main([*command, "--epochs", "1"]) == 0
    assert "ratio" in capsys.readouterr().out
    assert main([*command, "--epochs", "2"]) == 0
    said = capsys.readouterr().out
    assert "note: Continued after epoch 1 of 2." in said
    assert "epoch  2/2" in said
    assert "epoch  1/2" not in said


def test_the_augmented_figure_is_a_line_of_its_own(tmp_path, capsys):
    command = ["train", "cifar10", "--run-dir", str(tmp_path), "--device", "cpu", "--epochs", "1", "--workers", "0"]
    assert main([*command, "--test-views", "6", "--path", "workers"]) == 0
    said = capsys.readouterr().out
    (record,) = History.load(tmp_path / "history.json").epochs
    assert f"test accuracy {record.test_accuracy:.2%} on 40 images" in said
    line = f"with test-time augmentation, 6 views of each image: {record.test_accuracy_views:.2%}"
    assert line in said
    assert "input workers: " in said
    assert load_checkpoint(tmp_path / "last.pt").recipe.path == "workers"
    assert main(["eval", str(tmp_path), "--device", "cpu", "--test-views", "6"]) == 0
    assert line in capsys.readouterr().out


def test_eval_repeats_the_figure_of_the_run(run, capsys):
    expected = History.load(run / "history.json").epochs[-1].test_accuracy
    assert main(["eval", str(run), "--device", "cpu"]) == 0
    assert f"test accuracy {expected:.2%} on 40 images" in capsys.readouterr().out
    assert main(["eval", "--checkpoint", str(run / "last.pt"), "--device", "cpu"]) == 0
    assert f"test accuracy {expected:.2%} on 40 images" in capsys.readouterr().out


def test_eval_of_weights_of_another_project(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("evalib.models.MODELS", {"resnet18": lambda n, width: resnet18(n, width=8)})
    model = resnet18(width=8)
    torch.save({"net": {f"module.{k}": v for k, v in model.state_dict().items()}, "acc": 1}, tmp_path / "ckpt.pth")
    assert main(["eval", "--checkpoint", str(tmp_path / "ckpt.pth"), "--device", "cpu"]) == 0
    assert "foreign weights" in capsys.readouterr().out


@pytest.mark.parametrize("which", [[], ["--count", "2"], ["--index", "3", "0", "--method", "layer_cam"]])
def test_cam(run, capsys, which):
    (run / "cam.png").unlink()
    assert main(["cam", str(run), *which, "--device", "cpu"]) == 0
    assert (run / "cam.png").stat().st_size > 1000
    assert str(run / "cam.png") in capsys.readouterr().out


def said_shares(said):
    return [float(line.split("%")[0]) for line in said.splitlines() if "%" in line]


@pytest.mark.parametrize("image", ["file", "7"])
def test_cam_of_one_image(run, tmp_path, capsys, image, small):
    stem = tmp_path / "out" / "why"
    named = str(run / "samples.png") if image == "file" else image
    command = ["cam", "--checkpoint", str(run / "last.pt"), "--image", named, "--output", str(stem), "--device", "cpu"]
    assert main([*command, "--class", "Frog"]) == 0
    said = capsys.readouterr().out
    shares = said_shares(said)
    assert len(shares) == 10
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.1)
    assert "predicted: " in said
    assert "map of:    frog (6)" in said
    real = small.classes[small.test.labels[7]]
    assert (f"real:      {real} (" in said) == (image == "7")
    for path in (tmp_path / "out" / "why.png", tmp_path / "out" / "why_cam.png"):
        with Image.open(path) as picture:
            assert picture.size == (32, 32)
        assert str(path) in said


def test_cam_of_an_image_file_needs_no_data(run, tmp_path, monkeypatch):
    monkeypatch.setattr("evalib.data.origins.load_origin", lambda *a, **k: pytest.fail("loaded the data"))
    command = ["cam", str(run), "--image", str(run / "samples.png"), "--output", str(tmp_path / "x"), "--device", "cpu"]
    assert main(command) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image", "40"], "--image must name a test image in 0..39, or a file: got 40"),
        (["--image", "no.jpg"], "There is no image file no.jpg"),
        (["--image", "3", "--class", "frok"], "There is no class 'frok'. Did you mean: frog"),
    ],
)
def test_cam_of_one_image_with_wrong_words(run, words, message, capsys):
    assert main(["cam", str(run), *words, "--device", "cpu"]) == 1
    assert message in capsys.readouterr().err


def test_rank_says_what_rank_maps_and_check_maps_found(run, capsys, small):
    words = ["rank", str(run), "--count", "20", "--method", "layer_cam", "cam", "--layer", "layer3", "--device", "cpu"]
    code = main(words)
    said = capsys.readouterr().out
    model, checkpoint = load_model(run / "last.pt")
    images = normalize(small.take(test=20).test.images, small.mean, small.std)
    ranking = rank_maps(model, images, methods=["layer_cam", "cam"], layers=["layer3"], seed=checkpoint.recipe.seed)
    assert said.startswith("20 test images of cifar10-sample, maps of the predicted classes")
    assert ranking.reason in said
    assert all(kind.name in said for kind in ranking.candidates)
    assert ("weights matter" in said) == (ranking.best is not None)
    assert code == int("FAIL" in said or ranking.best is None)


def test_predict_names_the_classes_of_files_and_folders(run, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b c.jpg"):
        Image.new("RGB", (50, 40), (90, 120, 200)).save(photos / name)
    (photos / "page.jpg").write_bytes(b"<html>")
    Image.new("L", (9, 9)).save(tmp_path / "one.tif")
    assert main(["predict", "--device", "cpu", "--top", "2", str(run), str(photos), str(tmp_path / "one.tif")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in said[:4]] == [
        str(photos / "a.png"), str(photos / "b c.jpg"), str(photos / "page.jpg"), str(tmp_path / "one.tif"),
    ]  # fmt: skip
    assert [line.count("%") for line in said] == [2, 2, 0, 2, 0]
    assert "skipped: no JPEG, PNG" in said[2]
    assert said[4] == f"1 of 4 skipped: {photos / 'page.jpg'}"

    checkpoint = ["predict", "--device", "cpu", "--checkpoint", str(run / "last.pt")]
    assert main([*checkpoint, str(photos / "a.png")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(said[0].rpartition(",")[0]), "the same network, two classes of three"
    assert main([*checkpoint, str(photos / "page.jpg"), str(tmp_path / "none.jpg")]) == 1
    assert "2 of 2 skipped" in capsys.readouterr().out


def test_predict_writes_maps_and_json(run, tmp_path, capsys):
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    for name in ("a.png", "more/a.png"):
        Image.new("RGB", (50, 40), (90, 120, 200)).save(photos / name)
    (photos / "page.jpg").write_bytes(b"<html>")
    command = ["predict", "--device", "cpu", "--top", "2", str(run), str(photos)]
    assert main([*command, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert [image["name"] for image in plain] == [str(photos / name) for name in ("a.png", "more/a.png", "page.jpg")]
    assert [len(image.get("classes", [])) for image in plain] == [2, 2, 0]
    best, second = plain[0]["classes"]
    assert 1 >= best["probability"] >= second["probability"] > 0
    assert "it begins with b'<html>'" in plain[2]["reason"]

    assert main([*command, "--cam", str(tmp_path / "maps"), "--json", "--method", "layer_cam"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [image["classes"][0]["name"] for image in found[:2]] == [best["name"]] * 2
    files = [tmp_path / "maps" / name for name in ("a_cam.png", "a_cam-2.png")]
    assert [image["cam"]["file"] for image in found[:2]] == list(map(str, files))
    about = {"class": best["name"], "layer": "layer4", "method": "layer_cam"}
    assert {name: value for name, value in found[0]["cam"].items() if name in about} == about
    assert "cam" not in found[2]
    with Image.open(files[1]) as image:
        assert image.size == (224, 224)

    assert main([*command, "--cam", str(tmp_path / "maps")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(f"-> {tmp_path / 'maps' / 'a_cam-3.png'}"), "no file is written over"
    assert said[-1] == f"1 of 3 skipped: {photos / 'page.jpg'}"
    assert main(["predict", "--device", "cpu", "--json", "--cam", str(tmp_path / "x"), str(run), "none.png"]) == 1
    assert json.loads(capsys.readouterr().out) == [{"name": "none.png", "reason": "There is no image file none.png."}]


def test_predict_refuses_what_is_no_web_address(run, capsys):
    assert main(["predict", "--device", "cpu", str(run), "file:///etc/hostname"]) == 1
    assert "only http:// and https:// are opened" in capsys.readouterr().out


def test_predict_with_wrong_words(run, tmp_path, capsys):
    assert main(["predict", "--device", "cpu", str(run)]) == 1
    assert "Name image files or folders of them, after the run directory" in capsys.readouterr().err
    assert main(["predict", "--device", "cpu", "--top", "0", str(run), "a.png"]) == 1
    assert "`top` needs at least 1 class: got 0" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["predict", "--device", "cpu", str(run), str(tmp_path / "empty")]) == 1
    assert "There is no image" in capsys.readouterr().err
    assert main(["predict", "--device", "cpu", str(tmp_path / "empty"), str(run / "cam.png")]) == 1
    assert "empty" in capsys.readouterr().err, "it is no run directory"


def test_damaged_images_of_cars_are_skipped_as_asked(small_cars, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(small_cars, tmp_path / "data")
    (tmp_path / "data" / "stanford_cars" / "cars_train" / "00003.jpg").write_bytes(b"<html>")
    (tmp_path / "data" / "stanford_cars" / "cars_test" / "00002.jpg").write_bytes(b"")
    filters = {"brand": ["BMW"], "target": "class"}
    with pytest.raises(
        ValueError, match=r"2 of 27 images of stanford-cars(.|\n)*00003.jpg: (.|\n)*00002.jpg: an empty"
    ):
        inventory.load_data("cars", str(tmp_path / "data"), filters, damaged="stop")
    data = inventory.load_data("cars", str(tmp_path / "data"), filters, damaged="skip")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "skipped 2 of 27 images:"
    assert "cars_train" in said[1]
    assert said[2].endswith("00002.jpg: an empty file")
    assert (len(data.train), len(data.test)) == (17, 8)
    assert len(inventory.load_data("cars", str(tmp_path / "data"), filters).train) == 18, "nothing is opened unasked"
    assert capsys.readouterr().out == ""


def test_the_choice_about_damaged_images_reaches_the_data(monkeypatch, run, small):
    given = []
    for loads in ("commands.inventory.load_data", "data.origins.load_origin"):
        monkeypatch.setattr(f"evalib.{loads}", lambda *words, **more: given.append(more.get("damaged")) or small)
    assert main(["eval", "--checkpoint", str(run / "last.pt"), "--damaged", "skip", "--device", "cpu"]) == 0
    parsed = build_parser().parse_args(["train", "cars", "--damaged", "stop"])
    training._data(parsed)
    assert given == ["skip", "stop"]


def test_a_network_for_other_classes_is_named(run, capsys, monkeypatch, tiny_data):
    monkeypatch.setattr("evalib.data.origins.load_origin", lambda *a, **k: tiny_data)
    assert main(["eval", str(run), "--device", "cpu"]) == 1
    assert "The network tells 10 classes apart, tiny has 3" in capsys.readouterr().err


def test_filters_of_cars_are_refused_elsewhere(monkeypatch, capsys, tmp_path):
    monkeypatch.undo()
    assert main(["train", "sample", "--car-brand", "BMW", "--run-dir", str(tmp_path)]) == 1
    assert "--car-brand, --car-type, --car-year and --target are for the dataset cars" in capsys.readouterr().err


def test_doctor(capsys):
    assert main(["doctor", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert f"torch           {torch.__version__.split('+')[0]}" in said
    assert "precision" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "cifar10", "--recipe", "eva7"], "invalid choice: 'eva7'"),
        (["train", "cifar100"], "invalid choice: 'cifar100'"),
        (["paint"], "invalid choice: 'paint'"),
        ([], "required: COMMAND"),
    ],
)
def test_wrong_words_list_the_right_ones(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    if arguments:
        assert {"eva7": "demo", "cifar100": "sample", "paint": "doctor"}[arguments[-1]] in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval"], "Name either a run directory or --checkpoint FILE"),
        (["eval", "nowhere"], "There is no run directory or checkpoint nowhere"),
        (["cam", "--checkpoint", "none.pt"], "There is no run directory or checkpoint none.pt"),
        (["demo", "--epochs", "0"], "`epochs` must be at least 1: got 0"),
        (["demo", "--device", "tpu9"], "Device 'tpu9' is not available here"),
    ],
)
def test_errors_are_one_message_not_a_traceback(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_an_unwritable_run_directory_fails_before_training(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("evalib.engine.fit", lambda *a, **k: pytest.fail("trained before the check"))
    assert main(["demo", "--run-dir", str(tmp_path / "file" / "run")]) == 1
    assert "Cannot write to" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    real = running.EpochLines.__call__

    def stop(self, history):
        real(self, history)
        raise KeyboardInterrupt

    monkeypatch.setattr(running.EpochLines, "__call__", stop)
    assert main(["demo", "--run-dir", str(tmp_path / "run"), "--device", "cpu"]) == 130
    assert "Stopped after epoch 1 of 2. The same command continues" in capsys.readouterr().out
    assert (tmp_path / "run" / "last.pt").exists()


def test_tracebacks_on_request(monkeypatch):
    monkeypatch.setenv("EVALIB_TRACEBACK", "1")
    with pytest.raises(ValueError, match="Name either"):
        main(["eval"])
