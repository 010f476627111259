"""``taskqueue queues ...``: how the queues are run, said from any machine and heard by all consumers at once."""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from .admin import Admin, in_use
from .asking import NOTHING, Common, complain, example, write_json
from .errors import UsageError
from .inspector import Control, QueueStats
from .tables import write_table
from .target import check_queue_name

Names = Annotated[list[str], Parameter(help="The queues meant.", negative=())]
PURGED_AT_ONCE: Final = 500
# Seconds between two looks at a queue that drains.
DRAIN_LOOK: Final = 0.2

queues_app: Final = App(
    name="queues",
    help="The queues, and how they are run.",
    help_epilogue=example("taskqueue queues", "taskqueue queues pause mail"),
)


def register(app: App) -> None:
    """Add these commands to ``taskqueue``."""
    app.command(queues_app)
    queues_app.default(list_queues)
    for verb, (help_text, _) in VERBS.items():
        queues_app.command(_saying(verb), name=verb, help=help_text, help_epilogue=_example(verb))
    queues_app.command(limit, help_epilogue=_example("limit", "mail 5"))
    queues_app.command(drain, help_epilogue=_example("drain", "reports --timeout 60"))
    queues_app.command(purge, help_epilogue=_example("purge", "mail --yes"))


def _example(verb: str, words: str = "mail") -> str:
    return example(f"taskqueue queues {verb} {words}")


def list_queues(*, common: Common = NOTHING) -> None:
    """List the queues: what waits, what runs, who consumes, and what was said of them."""
    stats = common.ask(lambda admin: admin.stats())
    if common.as_json:
        write_json({"queues": [{**_counts(queue), **_said(queue)} for queue in stats]})
        return
    rows = [(*(str(value) for value in _counts(queue).values()), _words(queue)) for queue in stats]
    write_table(("queue", "waiting", "delayed", "running", "consumers", "said"), rows)


def _counts(queue: QueueStats) -> dict[str, object]:
    return {
        "queue": queue.queue,
        "waiting": queue.queued,
        "delayed": queue.scheduled,
        "running": queue.reserved,
        "consumers": len(queue.consumers),
    }


def _said(queue: QueueStats) -> dict[str, object]:
    words = {word: word in queue.control for word in ("paused", "closed", "disabled")}
    return {**words, "limit": queue.control.get("limit")}


def _words(queue: QueueStats) -> str:
    return ", ".join(f"limit {value}" if word == "limit" else word for word, value in queue.control.items())


VERBS: Final[Mapping[str, tuple[str, Mapping[Control, int | None]]]] = {
    "pause": ("Give out no more tasks; those that run go on, and new ones are taken.", {"paused": 1}),
    "resume": ("Give out tasks again.", {"paused": None}),
    "close": ("Take no more tasks, so that the queue drains; whoever adds one gets an error.", {"closed": 1}),
    "open": ("Take tasks again.", {"closed": None}),
    "disable": ("Give out no more tasks, and let no consumer start on the queue.", {"disabled": 1}),
    "enable": ("Let consumers serve the queue again.", {"disabled": None}),
}


def _saying(verb: str) -> Callable[..., None]:
    def say(names: Names, /, *, common: Common = NOTHING) -> None:
        _say(names, VERBS[verb][1], common)

    return say


def _say(names: Sequence[str], changes: Mapping[Control, int | None], common: Common, *, quiet: bool = False) -> None:
    chosen = [check_queue_name(name) for name in names]
    if not chosen:
        raise UsageError("queues: name at least one")

    async def work(admin: Admin) -> tuple[list[QueueStats], Sequence[str]]:
        for name in chosen:
            await admin.control(name, changes)
        return await _all_stats(admin, chosen), admin.queues

    stats, known = common.ask(work)
    for queue in stats:
        if queue.queue not in known and not in_use(queue):
            complain(
                f"warning: queue {queue.queue}: nobody uses it, and the settings name {', '.join(known)}; misspelt?"
            )
    if quiet:
        return
    if common.as_json:
        write_json({"queues": [{"queue": queue.queue, **_said(queue)} for queue in stats]})
        return
    write_table(("queue", "said"), [(queue.queue, _words(queue) or "nothing") for queue in stats])


def limit(
    name: Annotated[str, Parameter(help="The queue meant.")],
    count: Annotated[int, Parameter(help="So many tasks over all consumers; 0: no limit.")],
    /,
    *,
    common: Common = NOTHING,
) -> None:
    """Let all consumers together hold no more than so many tasks of a queue."""
    if count < 0:
        raise UsageError(f"limit: {count} must be 0 (no limit) or more")
    _say([name], {"limit": count or None}, common)


def drain(
    names: Names,
    /,
    *,
    timeout: Annotated[float | None, Parameter(help="Seconds to wait at most; without it as long as it takes.")] = None,
    common: Common = NOTHING,
) -> int:
    """Close queues and wait until nothing is left to run in them, delayed tasks too; they stay closed."""
    chosen = [check_queue_name(name) for name in names]
    if not chosen or (timeout is not None and timeout < 0):
        raise UsageError("drain: name at least one queue, and give --timeout seconds, 0 or more")
    _say(chosen, VERBS["close"][1], common, quiet=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("left: {task.completed}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as bar:
        part = bar.add_task("", total=None)

        async def work(admin: Admin) -> int:
            return await _drained(admin, chosen, timeout, lambda left: bar.update(part, completed=left))

        left = common.ask(work)
    if common.as_json:
        write_json({"queues": chosen, "left": left})
    else:
        print(f"{left} task(s) left in {', '.join(chosen)}, closed")
    return 1 if left else 0


async def _drained(admin: Admin, names: Sequence[str], patience: float | None, progress: Callable[[int], None]) -> int:
    """Wait until nothing is left to run, or so many seconds; return how many tasks are left."""
    until = None if patience is None else time.monotonic() + patience
    while True:
        stats = await _all_stats(admin, names)
        left = sum(queue.queued + queue.scheduled + queue.prepared + queue.reserved + queue.waiting for queue in stats)
        progress(left)
        if not left or (until is not None and time.monotonic() >= until):
            return left
        await asyncio.sleep(DRAIN_LOOK)


def purge(
    names: Names,
    /,
    *,
    yes: Annotated[bool, Parameter(negative=(), help="Do not ask.")] = False,
    common: Common = NOTHING,
) -> int:
    """Forget every task that waits in a queue, delayed ones too; those that run go on. Nothing brings them back."""
    chosen = [check_queue_name(name) for name in names]
    stats = common.ask(lambda admin: _all_stats(admin, chosen))
    waiting = sum(queue.queued + queue.scheduled for queue in stats)
    if waiting and not (yes or _confirmed(waiting, chosen)):
        complain("nothing was forgotten")
        return 1
    with Progress(
        SpinnerColumn(),
        TextColumn("forgotten: {task.completed}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as bar:
        part = bar.add_task("", total=None)

        async def work(admin: Admin) -> int:
            forgotten = 0
            for name in chosen:
                while some := await admin.purge(name, most=PURGED_AT_ONCE):
                    forgotten += some
                    bar.update(part, completed=forgotten)
            return forgotten

        forgotten = common.ask(work)
    if common.as_json:
        write_json({"forgotten": forgotten})
    else:
        print(f"{forgotten} task(s) forgotten")
    return 0


async def _all_stats(admin: Admin, names: Sequence[str]) -> list[QueueStats]:
    return [await admin.stats_of(name) for name in names]


def _confirmed(count: int, names: Sequence[str]) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(f"purge: {count} task(s) would be forgotten; nobody is here to confirm, so give --yes")
    print(f"Forget {count} task(s) of {', '.join(names)}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
