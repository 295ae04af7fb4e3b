"""Progress bars: shown where somebody watches."""

import io
import os
import sys
import types

import pytest

from evalib.progress import progress_bar


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False), (None, False)])
def test_a_log_file_gets_a_bar_only_if_asked(progress, shown):
    text = io.StringIO()
    with progress_bar(progress, total=3, desc="training", file=text) as bar:
        bar.update(3)
    assert ("training: 100%" in text.getvalue()) is shown


def test_a_notebook_gets_one_by_itself(monkeypatch):
    shell = types.SimpleNamespace(kernel=True)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    text = io.StringIO()
    with progress_bar(None, total=2, file=text) as bar:
        bar.update(2)
    assert "100%" in text.getvalue()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_a_terminal_that_does_not_know_its_size_gets_one(monkeypatch):
    """As a notebook's `!evalib train` and `script` make them: tqdm takes 0 columns and 0 lines at their word."""
    reader, writer = os.openpty()
    assert os.get_terminal_size(writer).columns == 0
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress_bar(None, total=3, desc="training") as bar:
            bar.update(3)
            bar.refresh()
        terminal.write("end")
        terminal.flush()
        assert b"training: 100%" in os.read(reader, 10_000)
    os.close(reader)
