"""History: figures by column, and the way through JSON."""

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
