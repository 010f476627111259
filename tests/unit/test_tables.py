"""Tables for people."""

import io

import pytest
from rich.console import Console

from taskqueue.tables import show

COLUMNS = ("id", "state", "path", "label")
ID = "52201d26-268c-4587-91a1-9fca95dfee2d"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_nothing_in_a_table_is_cut_however_narrow_the_terminal_is(width: int) -> None:
    text = io.StringIO()
    show(Console(file=text, width=width), COLUMNS, [(ID, "completed", "/reports/2026/january", "monthly")])
    head, row = text.getvalue().splitlines()
    assert head.split() == list(COLUMNS)
    assert row.split() == [ID, "completed", "/reports/2026/january", "monthly"]


def test_what_is_very_long_goes_on_below() -> None:
    text = io.StringIO()
    show(Console(file=text, width=80), COLUMNS, [(ID, "completed", "/x", "l" * 200)])
    assert "".join(line[-60:].strip() for line in text.getvalue().splitlines()[1:]) == "l" * 200
    assert max(map(len, text.getvalue().splitlines())) < 120
