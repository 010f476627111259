"""``taskqueue list | show | stats | retry | doctor | acl``: what a person asks, and how it is answered.

Tables on a terminal, aligned text in a pipe, one JSON document with ``--json``, in which times are RFC 3339 in UTC.
Nothing but the answer goes to standard output; warnings and progress go to standard error. What is known of tasks
without their secret is shown to everybody who may read the store; a request itself only with ``--full`` and the secret,
and Cookie and Authorization never.
"""

import asyncio
import json
import secrets
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Final, TypeVar

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress

from . import doctor as checks
from . import settings, showing
from .acl import ROLES, USER, default_user, set_user
from .admin import STATES, Admin, Filter, Step, outcome, unserved
from .broker import connect, kept_secret, require_shared
from .catalogue import FILE, ROWS, Settings
from .doctor import Finding
from .durability import durability
from .errors import ConfigError, RecordError, UsageError
from .inspector import ConsumerInfo, QueueStats
from .keys import Keyring
from .tables import COLOURS, aligned, moment, printable, span, timestamp, write_table
from .target import Limits
from .task import StateName, TaskState

Result = TypeVar("Result")

_TIMES: Final[Mapping[type, Sequence[str]]] = {
    TaskState: ("added", "due", "reserved", "begun", "changed"),
    Step: ("at",),
    ConsumerInfo: ("claimed",),
}


def _flag(name: str) -> Parameter:
    row = ROWS[name]
    return Parameter(name=row.flag, negative=(), help=f"{row.help} [{row.variable}]")


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What every command takes."""

    url: Annotated[str | None, _flag("url")] = None
    namespace: Annotated[str | None, _flag("namespace")] = None
    queues: Annotated[
        list[str] | None,
        Parameter(name="--queue", negative=(), help="Only this queue; may be repeated. [TASKQUEUE_QUEUES]"),
    ] = None
    config: Annotated[str | None, Parameter(help=f"File to read instead of ./{FILE}. [{settings.CONFIG}]")] = None
    as_json: Annotated[bool, Parameter(name="--json", negative=(), help="One JSON document.")] = False

    def settings(self, **more: object) -> Settings:
        """Return the settings with these flags over them."""
        flags = {"url": self.url, "namespace": self.namespace, "queues": self.queues, **more}
        return settings.load(flags, config=self.config)

    def ask(self, question: Callable[[Admin], Awaitable[Result]]) -> Result:
        """Put a question to the store and return the answer."""
        chosen = self.settings()
        require_shared(chosen.required_url(), checks.LOOK_INSIDE)
        broker = connect(chosen.required_url(), namespace=chosen.namespace)

        async def work() -> Result:
            try:
                return await question(Admin(broker, chosen.queues))
            finally:
                await broker.aclose()

        return asyncio.run(work())

    def keyring(self) -> Keyring | None:
        """Return the keys made of the secrets, None if there is none; raises ConfigError for one that is too short."""
        known = _known_secrets(self.settings())
        return Keyring(known) if known else None


NOTHING: Final = Common()


def _known_secrets(chosen: Settings) -> Sequence[str]:
    kept = kept_secret(chosen.url) if chosen.url and not chosen.secrets else None
    return chosen.secrets or ([kept] if kept else [])


def register(app: App) -> None:
    """Add these commands to ``taskqueue``."""
    app.command(list_tasks, name="list", help_epilogue="Example:\n  taskqueue list --state failed --path '/reports/*'")
    app.command(show, help_epilogue="Example:\n  taskqueue show 2f1c4a0e-6b0e-4d0b-9a53-0a8e4f1d7c11")
    app.command(stats, help_epilogue="Example:\n  taskqueue stats --json")
    app.command(retry, help_epilogue="Example:\n  taskqueue retry --reason exhausted --path '/reports/*'")
    app.command(doctor, help_epilogue="Example:\n  taskqueue doctor --target http://127.0.0.1:8000")
    app.command(acl, help_epilogue="Example:\n  taskqueue acl --role consumer --user instance1")


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
        write_json({"tasks": _plain(tasks)})
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

    async def look(admin: Admin) -> showing.Known | None:
        task = await admin.find(task_id)
        if task is None:
            return None
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
    if known is None:
        queues = ", ".join(common.settings().queues)
        complain(f"no task {task_id!r} in {queues}: never committed, forgotten since, or in another queue (--queue)")
        return 1
    if common.as_json:
        write_json({"task": _plain(known.task), "life": _plain(known.life), **known.secret()})
    else:
        known.write()
    return 0


def stats(*, common: Common = NOTHING) -> None:
    """Count the tasks of each queue, and name its consumers."""
    found = common.ask(lambda admin: admin.stats())
    host = socket.gethostname()
    warnings = [words for queue in found if (words := unserved(queue, host=host, runs=checks.running))]
    if common.as_json:
        write_json({"queues": _plain(found), "warnings": warnings})
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


def retry(
    *ids: Annotated[str, Parameter(help="Failed tasks, by id.", negative=())],
    reason: Annotated[str | None, Parameter(help="All that failed for this reason, such as exhausted.")] = None,
    path: Annotated[str | None, Parameter(help="All with this path; * stands for anything.")] = None,
    all_failed: Annotated[bool, Parameter(name="--all", negative=(), help="All failed tasks.")] = False,
    yes: Annotated[bool, Parameter(negative=(), help="Do not ask.")] = False,
    common: Common = NOTHING,
) -> int:
    """Queue failed tasks again, with all their attempts: by id, by filter, or all."""
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
        queued = common.ask(
            lambda admin: admin.retry(tasks, keyring, progress=lambda done: bar.update(part, completed=done))
        )
    asked = len(set(ids)) or len(tasks)
    if common.as_json:
        write_json({"asked": asked, "queued": queued})
    else:
        print(f"{queued} of {asked} task(s) queued again")
    return 0 if queued == asked else 1


async def _named(admin: Admin, ids: Sequence[str]) -> list[TaskState]:
    """Return those of these tasks that have failed; complain about the others."""
    found = []
    for task_id in dict.fromkeys(ids):
        task = await admin.find(task_id)
        if task is None:
            complain(f"no task {task_id!r} in {', '.join(admin.queues)}; is it in another queue (--queue)?")
        elif task.state != "failed":
            complain(f"task {task_id} is {task.state}; only failed ones can be queued again")
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


def doctor(
    *,
    target: Annotated[str | None, _flag("target")] = None,
    common: Common = NOTHING,
) -> int:
    """Look for what keeps tasks from running; exit code 1 if there is an error."""
    findings = asyncio.run(_examine(target, common))
    if common.as_json:
        write_json({"findings": _plain(findings)})
    else:
        _write_findings(findings)
    return 1 if any(finding.level == "error" for finding in findings) else 0


async def _examine(target: str | None, common: Common) -> list[Finding]:
    from . import probe  # noqa: PLC0415  brings the HTTP client, which no other command needs

    try:
        chosen = common.settings(target=target)
        url = checks.check_url(chosen)
        secret = checks.check_secret(_known_secrets(chosen) if url.level == "ok" else chosen.secrets)
    except ConfigError as error:
        return [checks.of_error("settings", error, "taskqueue config show --origin")]
    findings = [url, secret]
    if url.level == "ok":
        broker = connect(chosen.required_url(), namespace=chosen.namespace)
        try:
            declared = durability(chosen.durability) if chosen.durability else None
            findings += await checks.examine(broker, chosen.queues, declared=declared)
        finally:
            await broker.aclose()
    if chosen.target is None:
        return [*findings, Finding("target", "ok", "not asked: none is set (--target)")]
    try:
        keyring = Keyring(_known_secrets(chosen))
    except ConfigError:
        keyring = None  # That has been found above.
    return findings + await probe.examine(
        chosen.target, keyring, queue=chosen.queues[0], public_url=chosen.public_url, body_limit=Limits().body
    )


def acl(
    *,
    role: Annotated[str | None, Parameter(help=f"Only this role: {', '.join(ROLES)}.")] = None,
    user: Annotated[str | None, Parameter(help="The user's name, instead of the namespace and role.")] = None,
    common: Common = NOTHING,
) -> None:
    """Print the Redis commands that make a user for each role, with the least rights and a new password."""
    if role is not None and role not in ROLES:
        raise UsageError(f"--role: {role!r} is none; the roles are {', '.join(ROLES)}")
    if user is not None and (role is None or not USER.fullmatch(user)):
        raise UsageError(f"--user: {user!r} must be 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', and --role be given")
    chosen = common.settings()
    queues = chosen.queues if common.queues else ()
    users = []
    for name in [role] if role else ROLES:
        about = {"role": name, "user": user or default_user(chosen.namespace, name), "password": secrets.token_hex(32)}
        command = set_user(ROLES[name], about["user"], about["password"], namespace=chosen.namespace, queues=queues)
        users.append({**about, "for": ROLES[name].help, "command": command})
    if common.as_json:
        write_json({"users": users})
        return
    print(*(one["command"] for one in users), sep="\n")
    complain("the passwords are new; each belongs into its user's URL: redis://USER:PASSWORD@host:port/db")


def _write_findings(findings: Sequence[Finding]) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    lines = aligned([(finding.level, finding.check, printable(finding.what)) for finding in findings])
    for finding, line in zip(findings, lines, strict=True):
        console.print(line, style=COLOURS[finding.level] if sys.stdout.isatty() else None)
        if finding.remedy:
            console.print(f"{'':<9}remedy: {printable(finding.remedy)}")


def _plain(value: Any) -> Any:
    """Return one of our values as JSON takes it, times as RFC 3339."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not is_dataclass(value):
        return value
    times = _TIMES.get(type(value), ())
    named = ((field.name, getattr(value, field.name)) for field in fields(value))
    return {name: timestamp(item) if name in times else _plain(item) for name, item in named}


def write_json(document: object) -> None:
    """Write one JSON document to standard output."""
    print(json.dumps(document, indent=2))


def complain(words: str) -> None:
    """Say something on standard error, where it is in nobody's way."""
    print(f"taskqueue: {printable(words)}", file=sys.stderr)
