"""One queue of a consumer: when it is looked at because somebody has pushed."""

import asyncio
from typing import Any, cast

import pytest

from taskqueue import line as lines
from taskqueue.broker import Lease
from taskqueue.errors import BrokerUnavailable, ConfigError
from taskqueue.line import Line


@pytest.fixture
def line() -> Line:
    line = Line(Lease("default", "one", "1-a"))
    line.promising, line.look_for_due = False, 1e12
    return line


def heard(line: Line, woken: list[None], *, taken: bool = False, others: int = 0) -> None:
    line.hear(taken=taken, others=others, wake=lambda: woken.append(None))


async def test_who_consumes_alone_looks_at_once(line: Line) -> None:
    woken: list[None] = []
    heard(line, woken)
    assert (line.promising, line.look_for_due, len(woken)) == (True, 0.0, 1)


async def test_of_several_the_slower_need_not_look(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "APART", 3600.0)
    monkeypatch.setattr(lines, "FARTHEST_APART", 3600.0)
    woken: list[None] = []
    heard(line, woken, others=3)
    heard(line, woken, others=3)
    assert (line.promising, woken) == (False, [])
    timer = line.look_later
    assert timer is not None
    heard(line, woken, taken=True, others=3)
    assert timer.cancelled()
    assert (line.look_later, line.promising, woken) == (None, False, [])


async def test_of_several_the_quickest_looks(line: Line) -> None:
    woken = asyncio.Event()
    line.hear(taken=False, others=3, wake=woken.set)
    await woken.wait()
    assert (line.promising, line.look_for_due, line.look_later) == (True, 0.0, None)


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), ConfigError("no right to trim")])
async def test_who_cannot_trim_goes_on_and_tries_again(
    line: Line, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing:
        async def trim(self, *_arguments: object, **_options: object) -> None:
            raise error

    assert line.is_trim_due(0)
    assert not line.is_trim_due(lines.TRIM_EVERY), "that is under way"
    await line.trim(cast("Any", Refusing()))
    assert line.is_trim_due(lines.TRIM_EVERY)
    assert ("no right to trim" in caplog.text) == isinstance(error, ConfigError)


async def test_what_is_taken_changes_nothing_for_who_waits_for_nothing(line: Line) -> None:
    woken: list[None] = []
    heard(line, woken, taken=True)
    assert (line.promising, woken) == (False, [])
