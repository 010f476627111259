"""What is kept of a response's content."""

import pytest

from taskqueue.content import Content
from taskqueue.reporting import MAX_BYTES, MEDIA_TYPE, Report


@pytest.mark.parametrize("shown", [0, 1, 5, 10, 11, 12, 100])
def test_so_many_bytes_are_kept_and_all_are_counted(shown: int) -> None:
    content = Content({}, shown=shown)
    for piece in (b"", b"hello", b" ", b"world"):
        content.take(piece)
    assert (content.shown, content.size) == (b"hello world"[:shown], 11)


def test_a_report_is_read_whatever_is_shown_of_it() -> None:
    raw = Report("warning", "half of it").encode()
    for shown in (0, 3, 2 * MAX_BYTES):
        content = Content({"content-type": MEDIA_TYPE}, shown=shown)
        content.take(raw)
        report = content.report("id-1")
        assert report is not None
        assert (report.message, content.shown) == ("half of it", raw[:shown])


@pytest.mark.parametrize("shown", [0, 2 * MAX_BYTES])
def test_a_report_that_is_too_long_is_none_however_much_is_shown(shown: int) -> None:
    content = Content({"content-type": MEDIA_TYPE}, shown=shown)
    raw = Report("info", "x").encode() + b" " * MAX_BYTES
    content.take(raw)
    assert content.report("id-1") is None
    assert content.shown == raw[:shown]
