"""Tables in text and in Markdown, written out by hand."""

from evalib.tables import Table, Tabular, cell

TABLE = Table(
    [{"run": "a|b", "accuracy": 0.5, "seconds": None}, {"run": "long name", "accuracy": 1, "seconds": 2}],
    {"accuracy": "{:.1%}", "seconds": "{:.1f}"},
    ["A note."],
)


def test_text_has_words_to_the_left_and_numbers_to_the_right():
    assert str(TABLE).splitlines() == [
        "run        accuracy  seconds",
        "---------  --------  -------",
        "a|b           50.0%      n/a",
        "long name    100.0%      2.0",
        "A note.",
    ]


def test_markdown_escapes_what_would_end_a_cell():
    assert TABLE._repr_markdown_().splitlines() == [
        "| run | accuracy | seconds |",
        "| --- | ---: | ---: |",
        r"| a\|b | 50.0% | n/a |",
        "| long name | 100.0% | 2.0 |",
        "",
        "A note.",
    ]


def test_cells():
    assert cell(None, "{:.1f}") == "n/a"
    assert cell(0.25, "{:.0%}") == "25%"
    assert cell("word") == "word"


def test_a_value_that_shows_itself_as_a_table():
    class Shown(Tabular):
        def table(self):
            return TABLE

    assert str(Shown()) == repr(Shown()) == str(TABLE)
    assert Shown()._repr_markdown_() == TABLE._repr_markdown_()
