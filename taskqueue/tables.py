"""Text for people: tables, times and spans, and nothing in them that could move a terminal's cursor.

On a terminal a table has colours, and is as wide as what is in it; in a pipe it is aligned plain text, one line a row.
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

COLOURS: Final = {
    "completed": "green",
    "failed": "red",
    "scheduled": "yellow",
    "retry": "yellow",
    "prepared": "yellow",
    "running": "cyan",
    "reserved": "cyan",
    "alive": "green",
    "silent": "yellow",
    "ended": "red",
    "ok": "green",
    "warning": "yellow",
    "error": "red",
}
# An id is there to be copied, a state to be seen at a glance.
_WHOLE: Final = ("id", "time", "state")
# How wide a column may be, and a table.
_CELL: Final = 60
_WIDEST: Final = 1000


def printable(text: str) -> str:
    """Return the text with everything that is not to be seen written as an escape: labels and bodies are strangers'."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def write_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows to standard output, a head above them."""
    if sys.stdout.isatty():
        show(Console(), columns, rows)
        return
    clean = [[printable(cell) for cell in row] for row in rows]
    for line in aligned([[column.upper() for column in columns], *clean]):
        print(line)


def show(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows on a terminal; one that is too narrow for them breaks the lines itself, so that nothing is cut."""
    table = drawn(columns, rows)
    console.width = max(console.width, console.measure(table, options=console.options.update(width=_WIDEST)).maximum)
    console.print(table)


def drawn(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return rows as a terminal shows them, a head above them; what is too long for its column goes on below."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column in _WHOLE, overflow="fold", max_width=_CELL)
    for row in rows:
        table.add_row(*(Text(printable(cell), COLOURS.get(cell, "")) for cell in row))
    return table


def write_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Write names and values to standard output, one pair a line; those without value are left out."""
    given = [(name, printable(value)) for name, value in pairs if value]
    width = max(len(name) for name, _ in given)
    console = Console(soft_wrap=True)
    for name, value in given:
        if sys.stdout.isatty():
            console.print(Text(f"{name:<{width}}  ", "bold").append(value, COLOURS.get(value, "not bold")))
        else:
            print(f"{name:<{width}}  {value}")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines in which each column begins at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def moment(ms: int | None) -> str:
    """Return a time in ms since 1970 as the reader's local time, empty if there is none."""
    return f"{datetime.fromtimestamp(ms / 1000):%Y-%m-%d %H:%M:%S.%f}"[:-3] if ms else ""  # noqa: DTZ006  local


def timestamp(ms: int | None) -> str | None:
    """Return a time in ms since 1970 as RFC 3339 in UTC with three decimals, None if there is none."""
    if not ms:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def span(seconds: float) -> str:
    """Return how long that is, in the largest unit that fits: ``0.250 s``, ``12 s``, ``5 min``, ``3 h``, ``4 d``."""
    if seconds < 10:
        return f"{max(0.0, seconds):.3f} s"
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
