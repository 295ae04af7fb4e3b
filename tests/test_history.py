"""History: figures by column, and the way through JSON."""

import json

import pytest

from evalib.history import EpochRecord, History


@pytest.fixture
def history():
    return History(
        [EpochRecord(epoch, 1 / epoch, 0.1 * epoch, 2 / epoch, 0.05 * epoch, 9.5, 100.0, 0.01) for epoch in (1, 2)]
    )


def test_columns(history):
    assert history.column("epoch") == [1, 2]
    assert history.column("test_accuracy") == [0.05, 0.1]
    assert history.column("val_loss") == [None, None]
    with pytest.raises(ValueError, match="Unknown figure 'accuracy'. Known: epoch, train_loss"):
        history.column("accuracy")


def test_save_and_load(history, tmp_path):
    history.save(tmp_path / "history.json")
    assert History.load(tmp_path / "history.json") == history


@pytest.mark.parametrize("text", ["", "{}", '{"epochs": [{"epoch": 1}], "interrupted": false}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "history.json").write_text(text)
    with pytest.raises(ValueError, match="history.json is not a history of evalib"):
        History.load(tmp_path / "history.json")


def test_device_and_number_of_images_are_kept(history, tmp_path):
    history.device, history.train_images, history.test_images = "a GPU", 50_000, 10_000
    history.save(tmp_path / "history.json")
    found = History.load(tmp_path / "history.json")
    assert found == history
    assert (found.device, found.train_images, found.test_images) == ("a GPU", 50_000, 10_000)


def test_a_history_of_an_older_version_has_no_device(history, tmp_path):
    older = {name: history.to_dict()[name] for name in ("epochs", "interrupted")}
    (tmp_path / "history.json").write_text(json.dumps(older))
    found = History.load(tmp_path / "history.json")
    assert found.epochs == history.epochs
    assert (found.device, found.train_images, found.test_images) == ("", 0, 0)
