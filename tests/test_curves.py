"""Learning curves: the lines are read back from the axes and compared with the history that went in."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest

from evalib import plots
from evalib.curves import LiveCurves, plot_history
from evalib.figures import save_figure
from evalib.history import EpochRecord, History

pytestmark = pytest.mark.usefixtures("nothing_leaks")


def history_of(epochs: int, *, val: bool = False, interrupted: bool = False) -> History:
    records = []
    for epoch in range(1, epochs + 1):
        measured = {"train_loss": 2 / epoch, "train_accuracy": 1 - 0.5 / epoch}
        measured |= {"test_loss": 2.1 / epoch, "test_accuracy": 1 - 0.625 / epoch}
        measured |= {"val_loss": 2.2 / epoch, "val_accuracy": 1 - 0.75 / epoch} if val else {}
        records.append(EpochRecord(epoch=epoch, seconds=1.0, images_per_second=1.0, lr=0.1, **measured))
    return History(records, interrupted=interrupted)


def test_lines_are_the_columns_of_the_history_on_one_epoch_axis():
    history = history_of(20)
    loss, accuracy = plot_history(history).axes
    for axes, measure, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        train, test = axes.lines
        for line, split, style in ((train, "train", "--"), (test, "test", "-")):
            assert line.get_linestyle() == style
            assert list(line.get_xdata()) == list(range(1, 21))
            expected = [scale * value for value in history.column(f"{split}_{measure}")]
            assert list(line.get_ydata()) == pytest.approx(expected)
        assert train.get_color() == test.get_color()
    assert (loss.get_title(), accuracy.get_title()) == ("Loss", "Accuracy (%)")
    assert loss.get_xlabel() == accuracy.get_xlabel() == "epoch"


@pytest.mark.parametrize("epochs", [1, 2, 7, 12, 13, 20, 60, 61, 200, 3000])
def test_epoch_ticks_are_whole_start_at_one_and_are_not_crowded(epochs):
    axes = plot_history(history_of(epochs)).axes[0]
    ticks = list(axes.get_xticks())
    assert ticks[0] == 1
    assert all(tick == int(tick) <= epochs for tick in ticks)
    assert len(ticks) == len(set(ticks)) <= 13
    assert epochs == 1 or len(ticks) > 1
    assert axes.get_xlim()[0] > -0.1 * epochs
    assert axes.get_xlim()[0] < 1 <= epochs < axes.get_xlim()[1]


def test_several_runs_have_a_color_and_a_name_each_and_tell_their_last_test_accuracy():
    runs = {"eva6": history_of(4), "_fast $x$": history_of(2, val=True, interrupted=True)}
    figure = plot_history(runs)
    lines = figure.axes[1].lines
    assert len(lines) == 5
    assert len({line.get_color() for line in lines}) == 2
    legend = [text.get_text().replace(r"\$", "$") for text in figure.legends[0].get_texts()]
    assert legend == [
        "train eva6",
        "test eva6: 84.38 % at epoch 4",  # 1 - 0.625 / 4 = 0.84375
        "train _fast $x$",
        "test _fast $x$: 68.75 % at epoch 2, interrupted",
        "val _fast $x$",
    ]
    assert lines[4].get_linestyle() == ":"
    assert list(lines[4].get_ydata()) == [25.0, 62.5]


def test_an_epoch_without_validation_is_a_gap():
    history = history_of(3, val=True)
    history.epochs[1] = history_of(3).epochs[1]
    values = plot_history(history).axes[0].lines[2].get_ydata()
    assert values[0] == pytest.approx(2.2)
    assert math.isnan(values[1])


def test_a_single_epoch_and_eight_runs_and_diverged_losses_can_be_drawn(tmp_path):
    for line in plot_history(history_of(1)).axes[0].lines:
        assert line.get_marker() == "o"
        assert line.get_markersize() > 0
    record = EpochRecord(1, math.nan, 0.1, math.inf, 0.1, 1.0, 1.0, 0.1)
    save_figure(plot_history({str(run): History([record]) for run in range(8)}), tmp_path / "nan.png")


def test_accuracy_axis_ends_at_100_percent():
    history = History([EpochRecord(e, 0.1, 1.0, 0.1, 0.5 * e, 1.0, 1.0, 0.1) for e in (1, 2)])
    assert 100 < plot_history(history).axes[1].get_ylim()[1] <= 101


@pytest.mark.parametrize(
    ("histories", "error", "message"),
    [
        (History(), ValueError, "needs an epoch in every run: it has none"),
        ({"a": history_of(1), "b": History()}, ValueError, "needs an epoch in every run: b has none"),
        ({}, ValueError, "at least one run: got none"),
        ([history_of(1)], TypeError, "needs a History, or several by name: got list"),
    ],
)
def test_nothing_to_plot_is_an_error(histories, error, message):
    with pytest.raises(error, match=message):
        plot_history(histories)


def test_the_curves_are_also_found_among_the_plots():
    assert (plots.plot_history, plots.LiveCurves) == (plot_history, LiveCurves)


# --- live curves ----------------------------------------------------------------------------------


@pytest.fixture
def notebook(monkeypatch):
    """Stands in for IPython: notes what is displayed and under which name. `shell` is the running shell."""
    calls: list[tuple[str, object, str]] = []
    shell = SimpleNamespace(kernel=object(), execution_count=1)
    display = SimpleNamespace(
        display=lambda shown, *, display_id: calls.append(("display", shown, display_id)),
        update_display=lambda shown, *, display_id: calls.append(("update", shown, display_id)),
    )
    stage = SimpleNamespace(calls=calls, shell=shell)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: stage.shell, display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return stage


def train(live: LiveCurves, epochs: int) -> None:
    """Call it as `fit` does: after every epoch, with the one history that grows."""
    history, source = History(), history_of(epochs)
    for record in source.epochs:
        history.epochs.append(record)
        live(history)


def test_live_curves_are_created_once_and_then_redrawn_in_place(notebook):
    train(LiveCurves(), 3)
    assert [kind for kind, _, _ in notebook.calls] == ["display", "update", "update"]
    assert len({display_id for _, _, display_id in notebook.calls}) == 1
    for epoch, (_, figure, _) in enumerate(notebook.calls, start=1):
        assert len(figure.axes[0].lines[0].get_xdata()) == epoch


def test_running_the_cell_again_or_training_again_begins_a_new_output(notebook):
    live = LiveCurves()
    train(live, 2)
    notebook.shell.execution_count = 2  # the output of the first run of the cell is gone
    train(live, 2)
    other = history_of(3)
    other.epochs = other.epochs[1:]  # another run in the same cell: its first epoch is another one
    live(other)
    assert [kind for kind, _, _ in notebook.calls] == ["display", "update", "display", "update", "display"]
    assert len({display_id for _, _, display_id in notebook.calls}) == 3


def test_live_curves_need_no_notebook(notebook, monkeypatch):
    notebook.shell = None  # IPython is installed, but this is a plain Python
    train(LiveCurves(), 2)
    notebook.shell = SimpleNamespace(execution_count=1)  # IPython in a terminal
    train(LiveCurves(), 2)
    monkeypatch.delitem(sys.modules, "IPython")
    train(LiveCurves(), 2)
    assert notebook.calls == []
    assert "IPython" not in sys.modules


def test_live_curves_wait_for_the_first_epoch(notebook):
    LiveCurves()(History())
    assert notebook.calls == []
