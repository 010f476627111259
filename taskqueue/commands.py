"""``taskqueue list | show | stats``: finding out.

What is known of tasks without their secret is shown to everybody who may read the store; a request itself only with
``--full`` and the secret, and Cookie and Authorization never.
"""

import socket
import time
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, Parameter

from . import doctor as checks
from . import showing
from .admin import STATES, Admin, Filter, outcome, unserved
from .asking import NOTHING, Common, as_json, complain, example, write_json
from .errors import RecordError, UsageError
from .inspector import QueueStats
from .keys import Keyring
from .tables import moment, span, write_table
from .task import StateName


def register(app: App) -> None:
    """Add these commands to ``taskqueue``."""
    app.command(list_tasks, name="list", help_epilogue=example("taskqueue list --state failed --path '/reports/*'"))
    app.command(show, help_epilogue=example("taskqueue show 2f1c4a0e-6b0e-4d0b-9a53-0a8e4f1d7c11"))
    app.command(stats, help_epilogue=example("taskqueue stats --json"))


def list_tasks(
    *,
    state: Annotated[str | None, Parameter(help=f"Only this state: {', '.join(STATES)}.")] = None,
    path: Annotated[str | None, Parameter(help="Only this path; * stands for anything, as in '/reports/*'.")] = None,
    limit: Annotated[int, Parameter(help="At most so many.")] = 20,
    common: Common = NOTHING,
) -> None:
    """List tasks, what changed last first; with --state scheduled what is due first."""
    if limit < 1:
        raise UsageError(f"--limit: {limit} must be 1 or more")
    states, only = _states(state), Filter(path=path)
    tasks = common.ask(lambda admin: admin.tasks(states, only=only, limit=limit))
    if common.as_json:
        write_json({"tasks": as_json(tasks)})
        return
    columns = ("id", "state", "queue", "method", "path", "label", "attempt", "age", "outcome")
    now = time.time()
    rows = [
        (
            *(task.id, task.state, task.queue, task.method, task.path, task.label, str(task.attempt)),
            span(now - task.added / 1000),
            outcome(task.status, task.reason),
        )
        for task in tasks
    ]
    write_table(columns, rows)


def _states(name: str | None) -> Sequence[StateName]:
    if name is None:
        return STATES
    chosen: list[StateName] = [state for state in STATES if state == name]
    if not chosen:
        raise UsageError(f"--state: {name!r} is none; the states are {', '.join(STATES)}")
    return chosen


def show(
    task_id: Annotated[str, Parameter(help="The id that add returned.")],
    /,
    *,
    full: Annotated[
        bool, Parameter(negative=(), help="With the request and the last response, for which the secret is needed.")
    ] = (False),
    common: Common = NOTHING,
) -> int:
    """Tell the whole life of one task in order."""
    keyring = (common.keyring() or Keyring([])) if full else None

    async def look(admin: Admin) -> showing.Known | Sequence[str]:
        task = await admin.find(task_id)
        if task is None:
            return admin.queues
        known = showing.Known(task, await admin.life(task))
        if keyring is None:
            return known
        try:
            known.request = await admin.request(task, keyring) or "no longer stored: a completed task's is removed"
        except RecordError as error:
            known.request = str(error)
        known.response = await admin.response(task, keyring)
        return known

    known = common.ask(look)
    if not isinstance(known, showing.Known):
        queues = ", ".join(known)
        complain(f"no task {task_id!r} in {queues}: never committed, forgotten since, or in another queue (--queue)")
        return 1
    if common.as_json:
        write_json(
            {
                "task": {**as_json(known.task), "chosen": str(known.task.chosen)},
                "life": as_json(known.life),
                **known.secret(),
            }
        )
    else:
        known.write()
    return 0


def stats(*, common: Common = NOTHING) -> None:
    """Count the tasks of each queue, and name its consumers."""
    found = common.ask(lambda admin: admin.stats())
    host = socket.gethostname()
    warnings = [words for queue in found if (words := unserved(queue, host=host, runs=checks.running))]
    if common.as_json:
        write_json({"queues": as_json(found), "warnings": warnings})
        return
    counts = ("queued", "scheduled", "prepared", "reserved", "failed", "completed")
    rows = [(queue.queue, *(str(getattr(queue, name)) for name in counts), _waited(queue)) for queue in found]
    write_table(("queue", *counts, "oldest"), rows)
    consumers = [
        (queue.queue, one.name, one.host, str(one.pid), moment(one.claimed), str(one.holds))
        for queue in found
        for one in queue.consumers
    ]
    if consumers:
        print()
        write_table(("queue", "consumer", "host", "pid", "since", "holds"), consumers)
    for queue in found:
        if queue.slowed:
            left = span(queue.slowed / 1000)
            complain(f"queue {queue.queue}: the application has asked for patience (Retry-After), for {left} more")
    for words in warnings:
        complain(f"warning: {words}")


def _waited(queue: QueueStats) -> str:
    return span(queue.oldest / 1000) if queue.queued else ""
