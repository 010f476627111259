"""What a view may say of its task, checked also where nobody keeps it."""

import math
from typing import Any

import pytest

import taskqueue
from taskqueue.errors import InvalidReport


@pytest.mark.parametrize(
    "url",
    ["/", "/reports/7?page=2#top", "http://example.org", "https://example.org:8443/a%20b?c=d", "https://[::1]/x"],
)
def test_a_place_of_a_result(url: str) -> None:
    assert taskqueue.redirect_to(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "//evil.example/x",
        "/\\evil.example",
        "\\\\evil.example",
        "/a b",
        "/a\n",
        "/é",
        "javascript:alert(1)",
        "ftp://example.org/",
        "http:///x",
        "http://ada@example.org/",
        "http://ada:pw@example.org/",
        "http://example.org:99999/",
        "http://[::1/",
        "/" + "x" * 2048,
        7,
        None,
    ],
)
def test_what_is_no_place_of_a_result(url: object) -> None:
    with pytest.raises(InvalidReport, match=r"url: .* must be a path"):
        taskqueue.redirect_to(url)


@pytest.mark.parametrize(
    "arguments", [(-1,), (math.nan,), (math.inf,), (True,), ("1",), (1, -1), (1, "2"), (1, 2, None), (1, 2, "x" * 501)]
)
def test_what_is_no_progress(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidReport, match=r"(done|total|message): "):
        taskqueue.progress(*arguments)


def test_progress_of_an_unknown_whole() -> None:
    taskqueue.progress(0)
    taskqueue.progress(1.5, None, "reading")
    taskqueue.progress(3, 2)
