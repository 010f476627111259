"""``taskqueue watch | workers``: what goes on right now."""

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Final

from cyclopts import App, Parameter
from rich.console import Group
from rich.live import Live
from rich.text import Text

from . import doctor as checks
from .admin import Admin
from .asking import NOTHING, Common, as_json, complain, example, write_json
from .errors import BrokerUnavailable, ConfigError, UsageError
from .story import outcome
from .tables import drawn, moment, span, timestamp, write_table
from .watching import Look, Seen, Watcher, Worker, workers

SHORTEST: Final = 0.1
_COLUMNS: Final = ("queued", "delayed", "running", "failed", "completed/s", "failed/s", "consumers")
_LINE: Final = "{:<23}  {:>9} {:>9} {:>9} {:>9} {:>12} {:>12} {:>9}"


def register(app: App) -> None:
    """Add these commands to ``taskqueue``."""
    app.command(watch, help_epilogue=example("taskqueue watch", "taskqueue watch --count 1 --json"))
    app.command(show_workers, name="workers", help_epilogue=example("taskqueue workers"))


def watch(
    *,
    interval: Annotated[float, Parameter(help="Seconds between two looks.")] = 2.0,
    count: Annotated[int, Parameter(help="Look so many times and end; 0: until Ctrl-C.")] = 0,
    common: Common = NOTHING,
) -> None:
    """Watch the queues: a live table on a terminal, elsewhere one line per look, with --json a JSON document each.

    Rates are counted between two looks; the first has none.
    """
    if interval < SHORTEST:
        raise UsageError(f"--interval: {interval:g} must be {SHORTEST:g} or more seconds")
    if count < 0:
        raise UsageError(f"--count: {count} must be 0 (no end) or more")
    live = sys.stdout.isatty() and not common.as_json
    common.ask(lambda admin: _watch(admin, _Screen() if live else _Lines(as_json=common.as_json), interval, count))


class _Lines:
    """One line per look, all queues together; or all of it as JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.around: AbstractContextManager[object] = nullcontext()
        self._headed = as_json

    def show(self, look: Look) -> None:
        if not self._headed:
            print(_LINE.format("TIME", *(name.upper() for name in _COLUMNS)))
            self._headed = True
        line = json.dumps(_document(look)) if self._as_json else _LINE.format(moment(look.at), *_cells(look.queues))
        print(line, flush=True)

    def trouble(self, words: str) -> None:
        complain(words)


class _Screen:
    """A table that stays where it is."""

    def __init__(self) -> None:
        self._live = Live(auto_refresh=False)
        self.around: AbstractContextManager[object] = self._live
        self._last: Look | None = None

    def show(self, look: Look) -> None:
        self._last = look
        self._draw(f"{moment(look.at)[:-4]}, Ctrl-C ends")

    def trouble(self, words: str) -> None:
        self._draw(words)

    def _draw(self, caption: str) -> None:
        if self._last is None:
            return
        rows = [(seen.stats.queue, *_cells([seen]), _said(seen)) for seen in self._last.queues]
        failures = [
            (moment(task.changed), task.id, task.queue, task.path, outcome(task.status, task.reason))
            for task in self._last.failures
        ]
        parts: list[Any] = [drawn(("queue", *_COLUMNS, "said"), rows)]
        if failures:
            parts += [Text(), drawn(("time", "id", "queue", "path", "failed last"), failures)]
        self._live.update(Group(*parts, Text(), Text(caption, "dim")), refresh=True)


async def _watch(admin: Admin, shown: _Lines | _Screen, interval: float, count: int) -> None:
    """Look until there is enough or a signal says stop; a store that is away later on is waited for."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    watcher, looks = Watcher(admin), 0
    with shown.around:
        while True:
            try:
                shown.show(await watcher.look())
            except BrokerUnavailable as error:
                if not looks:
                    raise
                shown.trouble(str(error))
            looks += 1
            if looks == count or await _within(interval, stopped.wait):
                return


async def _within(seconds: float, event: Callable[[], Awaitable[object]]) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event()
    except TimeoutError:
        return False
    return True


def _cells(queues: Sequence[Seen]) -> list[str]:
    """Return what the columns say of these queues together."""
    stats = [seen.stats for seen in queues]
    sums = [sum(getattr(one, name) for one in stats) for name in ("queued", "scheduled", "reserved", "failed")]
    rates = [_rate([seen.completed_per_second for seen in queues]), _rate([seen.failed_per_second for seen in queues])]
    return [*map(str, sums), *rates, str(len({one.name for each in stats for one in each.consumers}))]


def _rate(rates: Sequence[float | None]) -> str:
    known = [rate for rate in rates if rate is not None]
    return f"{sum(known):.1f}" if known else "-"


def _said(seen: Seen) -> str:
    said = [f"limit {value}" if word == "limit" else word for word, value in seen.stats.control.items()]
    waited = [f"oldest {span(seen.stats.oldest / 1000)}"] if seen.stats.queued else []
    return ", ".join([*said, *waited])


def _document(look: Look) -> dict[str, Any]:
    queues = [
        as_json(seen.stats)
        | {"completed_per_second": seen.completed_per_second, "failed_per_second": seen.failed_per_second}
        for seen in look.queues
    ]
    return {"at": timestamp(look.at), "queues": queues, "failures": as_json(look.failures)}


def show_workers(*, common: Common = NOTHING) -> None:
    """List the consumers of all queues: alive (beats), silent (does not), or ended (ran on this machine, is gone)."""
    found = common.ask(lambda admin: _workers(admin, everywhere=not common.queues))
    if common.as_json:
        write_json({"workers": [as_json(one) | {"claimed": timestamp(one.claimed)} for one in found]})
        return
    rows = [
        (one.name, one.state, one.host, str(one.pid), moment(one.claimed), str(one.holds), ", ".join(one.queues))
        for one in found
    ]
    write_table(("consumer", "state", "host", "pid", "since", "holds", "queues"), rows)


async def _workers(admin: Admin, *, everywhere: bool) -> list[Worker]:
    if everywhere:
        try:
            admin = admin.of(sorted({*admin.queues, *await admin.used_queues()}))
        except ConfigError as error:
            complain(f"only the queues of the settings: {error}")
    return await workers(admin, runs=checks.running)
