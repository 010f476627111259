"""``taskqueue list | show | log | stats | times``: finding tasks, and telling what became of them.

What is known of tasks without their secret is shown to everybody who may read the store; what they were asked, were
answered and have said of themselves only with ``--full`` and the secret, and Cookie and Authorization never.
"""

import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from . import doctor as checks
from . import figures, showing
from .admin import Admin, unserved
from .asking import NOTHING, Common, as_json, complain, example, write_json
from .errors import RecordError, UsageError
from .finding import MOST_SORTED, Found
from .inspector import QueueStats
from .keys import Keyring, owner_index
from .query import (
    FIELDS,
    MOMENTS,
    STAGE_LABELS,
    STAGE_OF,
    STATES,
    Operator,
    Query,
    Sort,
    Term,
    parse,
    parse_sort,
    ran,
    term_of,
    value_of,
)
from .response_command import write_content
from .routes import is_hidden, table_of
from .story import outcome, story
from .tables import moment, span, timestamp, write_table
from .task import TaskState

_EXAMPLES: Final[Mapping[str, Sequence[str]]] = {
    "list": (
        "list --state failed --path '/reports/*'",
        "list --where 'state IN failed, cancelled' --where 'path LIKE /reports/%' --since 2h --sort -attempt",
    ),
    "show": (
        "show 2f1c4a0e-6b0e-4d0b-9a53-0a8e4f1d7c11 --full",
        "show 2f1c4a0e-6b0e-4d0b-9a53-0a8e4f1d7c11 --response answer.html",
    ),
    "log": ("log 2f1c4a0e-6b0e-4d0b-9a53-0a8e4f1d7c11",),
    "stats": ("stats --json", "stats --owner ada"),
    "times": ("times --since 1d",),
}
COLUMNS: Final = ("id", "state", "queue", "method", "path", "label", "attempt", "age", "outcome")
_MORE_COLUMNS: Final = ("age", "outcome")


def register(app: App) -> None:
    """Add these commands to ``taskqueue``."""
    for name, command in (("list", list_tasks), ("show", show), ("log", log), ("stats", stats), ("times", times)):
        app.command(command, name=name, help_epilogue=example(*(f"taskqueue {line}" for line in _EXAMPLES[name])))


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Meant:
    """Which tasks are meant: all of it must hold."""

    where: Annotated[
        list[str] | None,
        Parameter(
            negative=(),
            help="FIELD OPERATOR VALUE, several joined by AND, or this flag repeated: = != < <= > >= LIKE, NOT LIKE (%"
            f" for anything, _ for one character), IN, NOT IN (a, b). Fields: {', '.join(FIELDS)}.",
        ),
    ] = None
    owner: Annotated[str | None, Parameter(help="Only tasks of this user id; needs the secret.")] = None
    label: Annotated[str | None, Parameter(help="Only with this label.")] = None
    route: Annotated[str | None, Parameter(help="Only of this route.")] = None
    path: Annotated[str | None, Parameter(help="Only this path; * stands for anything, as in '/reports/*'.")] = None
    since: Annotated[
        str | None, Parameter(help="Only what has changed since: 90s, 5m, 2h or 7d ago, or a date as in 2026-01-31.")
    ] = None
    until: Annotated[str | None, Parameter(help="Only what has not changed any more after that.")] = None

    def terms(self, common: Common) -> list[Term]:
        """Return it as terms; raises UsageError, and ConfigError for an owner where there is no secret."""
        now = time.time_ns() // 1_000_000

        def owners(user: str) -> list[str]:
            return [owner_index(keys, user) for keys in (common.keyring() or Keyring([])).all()]

        terms = []
        for text in self.where or ():
            with _about("--where"):
                terms += parse(text, now=now, owners=owners)
        flags: Sequence[tuple[str, str, Operator, str | None]] = (
            ("--owner", "owner", "=", self.owner),
            ("--label", "label", "=", self.label),
            ("--route", "route", "=", self.route),
            ("--path", "path", "LIKE", None if self.path is None else _as_pattern(self.path)),
            ("--since", "changed", ">=", self.since),
            ("--until", "changed", "<=", self.until),
        )
        for flag, field, operator, value in flags:
            if value is not None:
                with _about(flag):
                    terms.append(term_of(field, operator, value, now=now, owners=owners))
        return terms


ANY: Final = Meant()


@contextmanager
def _about(flag: str) -> Iterator[None]:
    """Put the flag before what is wrong with its value."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{flag}: {error}") from error


def _as_pattern(path: str) -> str:
    return re.sub(r"([%_\\])", r"\\\1", path).replace("*", "%")


def list_tasks(
    *,
    state: Annotated[str | None, Parameter(help=f"Only this state: {', '.join(STATES)}.")] = None,
    meant: Meant = ANY,
    sort: Annotated[
        str | None,
        Parameter(
            allow_leading_hyphen=True, help="By this field, with - before it the greatest first. (default: -changed)"
        ),
    ] = None,
    limit: Annotated[int, Parameter(help="At most so many.")] = 20,
    offset: Annotated[int, Parameter(help="Without the first so many.")] = 0,
    columns: Annotated[
        str | None, Parameter(help=f"These, with commas between them: any field, {', '.join(_MORE_COLUMNS)}.")
    ] = None,
    visible: Annotated[bool, Parameter(negative=(), help="Without those that rules hide from users' lists.")] = False,
    common: Common = NOTHING,
) -> None:
    """List tasks, what changed last first; with --state scheduled what is due first."""
    for flag, value, least in (("--limit", limit, 1), ("--offset", offset, 0)):
        if value < least:
            raise UsageError(f"{flag}: {value} must be {least} or more")
    chosen = _columns(columns)
    terms = meant.terms(common)
    if state is not None:
        if state not in STATES:
            raise UsageError(f"--state: {state!r} is none; the states are {', '.join(STATES)}")
        terms.append(Term("state", "=", (state,)))
    with _about("--sort"):
        # What waits for its time has changed when it was added: of no interest.
        order = Sort("due", descending=False) if state == "scheduled" else Sort()
        order = parse_sort(sort) if sort else order
    query = Query(terms=tuple(terms), sort=order, limit=limit, offset=offset)
    found = common.ask(lambda admin: _visible(admin, query, common) if visible else admin.tasks(query))
    if common.as_json:
        page = {"offset": offset, "limit": limit, "more": found.more, "total": found.total, "complete": found.complete}
        write_json({"tasks": [_as_json(task, columns and chosen) for task in found.tasks], **page})
    else:
        write_table(chosen, [[_cell(task, column) for column in chosen] for task in found.tasks])
    if not found.complete:
        complain(
            f"warning: more tasks match than are sorted at once: {MOST_SORTED} were, and others may belong here; ask"
            " for fewer (--state, --owner, --label, --route, --since, --where)"
        )


async def _visible(admin: Admin, query: Query, common: Common) -> Found:
    """Return what a user would be shown, as far as rules in the broker and the file say so."""
    layers = (await admin.routes(), table_of(common.settings().routes))
    return await admin.tasks(query, hidden=lambda task: is_hidden(task.route or task.path, layers))


def _columns(text: str | None) -> Sequence[str]:
    if text is None:
        return COLUMNS
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in (*FIELDS, *_MORE_COLUMNS):
            raise UsageError(f"--columns: {name!r} is none; there are {', '.join((*FIELDS, *_MORE_COLUMNS))}")
    return names


def _cell(task: TaskState, column: str) -> str:
    if column == "age":
        return span(time.time() - task.added / 1000)
    if column == "outcome":
        return outcome(task.status, task.reason)
    value = value_of(task, column)
    if column in MOMENTS:
        return moment(int(value))
    if column == "seconds":
        return f"{value:.3f}" if value else ""
    return STAGE_LABELS[STAGE_OF[task.state]] if column == "stage" else str(value)


def _as_json(task: TaskState, columns: Sequence[str] | None) -> dict[str, Any]:
    whole: dict[str, Any] = as_json(task)
    if columns is None:
        return whole
    whole |= {"age": round(time.time() - task.added / 1000, 3), "outcome": outcome(task.status, task.reason)}
    return {column: whole[column] for column in columns}


def show(
    task_id: Annotated[str, Parameter(help="The id that add returned.")],
    /,
    *,
    full: Annotated[
        bool,
        Parameter(
            negative=(),
            help="With the request, the last response, and what the task said of itself: report, progress, files. For"
            " that the secret is needed.",
        ),
    ] = (False),
    response: Annotated[
        str | None,
        Parameter(
            allow_leading_hyphen=True,
            help="Write the content of the last response, as far as it is kept, to this file, or to standard output"
            " (-), and nothing else. For that the secret is needed.",
        ),
    ] = None,
    common: Common = NOTHING,
) -> int:
    """Tell what is known of one task, and its whole life in order."""
    if response is not None and (full or common.as_json):
        raise UsageError("--response: it writes the content and nothing else; leave --full and --json out")
    keyring = (common.keyring() or Keyring([])) if full or response is not None else None
    known = common.ask(lambda admin: _look(admin, task_id, keyring))
    if not isinstance(known, showing.Known):
        return _unknown(task_id, known)
    if response is not None and keyring is not None:
        return write_content(task_id, known.response, common.settings(), keyring, response)
    if common.as_json:
        task = {**as_json(known.task), "chosen": str(known.task.chosen)}
        write_json({"task": task, "life": as_json(known.life), **known.secret()})
    else:
        known.write()
    return 0


async def _look(admin: Admin, task_id: str, keyring: Keyring | None) -> showing.Known | Sequence[str]:
    """Return what is known of a task, unsealed where there are keys; or, if it is unknown, where it was looked for."""
    task = await admin.find(task_id)
    if task is None:
        return admin.queues
    kept = await admin.log(task)
    known = showing.Known(task, kept, story(task, kept))
    if keyring is None:
        return known
    try:
        known.request = await admin.request(task, keyring) or "no longer stored: a completed task's is, with keep=all"
    except RecordError as error:
        known.request = str(error)
    known.unseal(keyring)
    return known


def _unknown(task_id: str, queues: Sequence[str]) -> int:
    names = ", ".join(queues)
    complain(f"no task {task_id!r} in {names}: never committed, forgotten since, or in another queue (--queue)")
    return 1


def log(task_id: Annotated[str, Parameter(help="The id that add returned.")], /, *, common: Common = NOTHING) -> int:
    """Tell every change of one task's state in order: when, by whom, and what came of it."""
    known = common.ask(lambda admin: _look(admin, task_id, None))
    if not isinstance(known, showing.Known):
        return _unknown(task_id, known)
    if common.as_json:
        write_json({"id": task_id, "queue": known.task.queue, "log": as_json(known.life)})
    else:
        showing.write_life(known.life)
    return 0


def stats(
    *,
    owner: Annotated[
        str | None, Parameter(help="Count only tasks of this user id, by stage; needs the secret.")
    ] = None,
    common: Common = NOTHING,
) -> None:
    """Count the tasks of each queue, and name its consumers."""
    if owner is not None:
        _stats_of_owner(Meant(owner=owner).terms(common), common)
        return
    found = common.ask(lambda admin: admin.stats())
    host = socket.gethostname()
    warnings = [words for queue in found if (words := unserved(queue, host=host, runs=checks.running))]
    if common.as_json:
        queues = [{**as_json(queue), "stages": figures.stages_of(queue)} for queue in found]
        write_json({"queues": queues, "stages": figures.total(map(figures.stages_of, found)), "warnings": warnings})
        return
    counts = [state for state in STATES if state != "running"]
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


def _stats_of_owner(terms: Sequence[Term], common: Common) -> None:
    async def count(admin: Admin) -> list[tuple[str, Mapping[Any, int]]]:
        found = [task async for task in admin.each(Query(terms=tuple(terms)))]
        return [(name, figures.stages(task for task in found if task.queue == name)) for name in admin.queues]

    counted = common.ask(count)
    if common.as_json:
        queues = [{"queue": name, "stages": stages} for name, stages in counted]
        write_json({"queues": queues, "stages": figures.total(stages for _, stages in counted)})
        return
    rows = [(name, *map(str, stages.values())) for name, stages in counted]
    write_table(("queue", *STAGE_LABELS.values()), rows)


def times(
    *,
    meant: Meant = ANY,
    limit: Annotated[int, Parameter(help="At most so many routes.")] = 20,
    common: Common = NOTHING,
) -> None:
    """Tell for how long completed tasks ran, by route, or by path where there is none; with --json of each task too."""
    if limit < 1:
        raise UsageError(f"--limit: {limit} must be 1 or more")
    query = Query(terms=(Term("state", "=", ("completed",)), *meant.terms(common)))

    async def collect(admin: Admin) -> list[TaskState]:
        return [task async for task in admin.each(query)]

    tasks = common.ask(collect)
    found = figures.spreads(tasks)
    if common.as_json:
        each = [
            {"id": task.id, "queue": task.queue, "route": task.route, "path": task.path, "seconds": ran(task)}
            | {"completed": timestamp(task.changed)}
            for task in tasks
        ]
        write_json({"times": each, "by": as_json(found)})
        return
    rows = [
        (one.name, str(one.count), *(f"{size:.3f}" for size in (one.min, one.p50, one.p95, one.max)))
        for one in found[:limit]
    ]
    write_table(("route or path", "count", "min", "p50", "p95", "max"), rows)
    if len(found) > limit:
        complain(f"{len(found) - limit} more, which took less time altogether (--limit)")
