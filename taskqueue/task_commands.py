"""``taskqueue retry``: what a person has done with tasks that are in the queue."""

import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress

from .admin import Admin, Filter
from .asking import NOTHING, Common, acting, complain, example, write_json
from .errors import UsageError
from .task import TaskState


def register(app: App) -> None:
    """Add these commands to ``taskqueue``."""
    app.command(retry, help_epilogue=example("taskqueue retry --reason exhausted --path '/reports/*' --yes"))


def retry(
    *ids: Annotated[str, Parameter(help="Failed tasks, by id.", negative=())],
    reason: Annotated[str | None, Parameter(help="All that failed for this reason, such as exhausted.")] = None,
    path: Annotated[str | None, Parameter(help="All with this path; * stands for anything.")] = None,
    all_failed: Annotated[bool, Parameter(name="--all", negative=(), help="All failed tasks.")] = False,
    yes: Annotated[bool, Parameter(negative=(), help="Do not ask.")] = False,
    common: Common = NOTHING,
) -> int:
    """Queue failed tasks again, with all their attempts: by id (cancelled ones too), by filter, or all."""
    filtered = bool(reason or path or all_failed or (common.queues and not ids))
    if bool(ids) == filtered:
        raise UsageError("retry: name ids, or a filter (--queue, --reason, --path), or --all")
    keyring = common.keyring()
    if keyring is None:
        complain("warning: without the secret, what has expired stays expired")

    tasks = common.ask(lambda admin: _named(admin, ids) if ids else admin.failed(Filter(reason=reason, path=path)))
    if tasks and not (ids or yes or _confirmed(len(tasks))):
        complain("nothing was queued")
        return 1
    with Progress(
        "queueing", BarColumn(), MofNCompleteColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty()
    ) as bar:
        part = bar.add_task("", total=len(tasks))
        queued = acting(
            common,
            lambda actor, _: actor.retry(tasks, keyring, progress=lambda done: bar.update(part, completed=done)),
        )
    asked = len(set(ids)) or len(tasks)
    if common.as_json:
        write_json({"asked": asked, "queued": queued})
    else:
        print(f"{queued} of {asked} task(s) queued again")
    return 0 if queued == asked else 1


async def _named(admin: Admin, ids: Sequence[str]) -> list[TaskState]:
    """Return those of these tasks that failed or were cancelled; complain about the others."""
    found = []
    for task_id in dict.fromkeys(ids):
        task = await admin.find(task_id)
        if task is None:
            complain(f"no task {task_id!r} in {', '.join(admin.queues)}; is it in another queue (--queue)?")
        elif task.state not in ("failed", "cancelled"):
            complain(f"task {task_id} is {task.state}; only what failed or was cancelled can be queued again")
        else:
            found.append(task)
    return found


def _confirmed(count: int) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(
            f"retry: {count} failed task(s) would be queued again; nobody is here to confirm, so give --yes"
        )
    try:
        print(f"Queue {count} failed task(s) again? [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return False
