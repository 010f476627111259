"""``taskqueue add``: a task of a person's own, or of a script's, queued at once."""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from . import settings
from .admin import Admin, in_use
from .asking import Store, example, known_secrets, write_json
from .broker import require_shared
from .doctor import LOOK_INSIDE
from .errors import InvalidTask, UsageError
from .producer import TaskQueue
from .record import queue_name
from .request import UNSET
from .routes import with_ruled

FROM_FILE: Final = "@"


def register(app: App) -> None:
    """Add this command to ``taskqueue``."""
    app.command(
        add,
        help_epilogue=example(
            "taskqueue add /reports/build --param year=2026 --delay 60",
            "taskqueue add /mail --json-body '{\"to\": \"ada\"}' --header 'Accept-Language: de' --user-id ada",
        ),
    )


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """When a task runs, and how long and how often it may."""

    delay: Annotated[float | None, Parameter(help="Not before so many seconds from now.")] = None
    eta: Annotated[str | None, Parameter(help="Not before this time, with its zone, as in 2026-12-24T18:00+01:00.")] = (
        None
    )
    priority: Annotated[int | None, Parameter(help="0 to 9; in its queue the highest goes first, 4 is usual.")] = None
    timeout: Annotated[float | None, Parameter(help="Seconds that a delivery may take.")] = None
    retry_max_count: Annotated[int | None, Parameter(help="Retries after the first attempt.")] = None

    def options(self) -> dict[str, Any]:
        """Return them as ``push`` takes them."""
        about = {"delay": self.delay, "priority": self.priority, "timeout": self.timeout}
        return about | {"retry_max_count": self.retry_max_count, "eta": _time(self.eta)}


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a request carries."""

    params: Annotated[
        list[str] | None, Parameter(name="--param", negative=(), help="NAME=VALUE for the query; may be repeated.")
    ] = None
    headers: Annotated[
        list[str] | None, Parameter(name="--header", negative=(), help="'Name: value'; may be repeated.")
    ] = None
    payload: Annotated[
        str | None, Parameter(help="The body as text; @FILE takes that of a file, @- what comes on standard input.")
    ] = None
    json_body: Annotated[str | None, Parameter(help="The body as JSON, or @FILE, or @-.")] = None

    def options(self) -> dict[str, Any]:
        """Return them as ``push`` takes them; reads what a file holds."""
        return {
            "params": _params(self.params or ()),
            "headers": [_header(line) for line in self.headers or ()],
            "payload": None if self.payload is None else _read("--payload", self.payload),
            "json": UNSET if self.json_body is None else _json(self.json_body),
        }


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """What is queued when a task has ended."""

    on_success: Annotated[str | None, Parameter(help="Path of a task that is queued when this one completes.")] = None
    on_failure: Annotated[str | None, Parameter(help="Path of a task that is queued when this one fails.")] = None

    def options(self) -> dict[str, Any]:
        """Return them as ``push`` takes them."""
        return {"on_success": self.on_success, "on_failure": self.on_failure}


HERE: Final = Store()
AT_ONCE: Final = When()
EMPTY: Final = Content()
NOTHING: Final = Following()


def add(
    path: Annotated[str, Parameter(help="Path of the request, with or without a query.")],
    /,
    *,
    method: Annotated[str | None, Parameter(help="Without it POST if there is a body, else GET.")] = None,
    queue: Annotated[str | None, Parameter(help="The queue, if not the one that add takes by itself.")] = None,
    user_id: Annotated[str | None, Parameter(help="The user that it runs as; without it nobody.")] = None,
    label: Annotated[str | None, Parameter(help="Words for lists and logs.")] = None,
    when: When = AT_ONCE,
    content: Content = EMPTY,
    following: Following = NOTHING,
    store: Store = HERE,
) -> None:
    """Queue a request and print the id of the task. The secret is needed: whoever has it may add for any user."""
    chosen = store.settings()
    url = chosen.required_url()
    require_shared(url, LOOK_INSIDE)
    settings.announce(dev=False, config=store.config)  # its routes count for this task too
    tq = TaskQueue(
        url,
        secret=known_secrets(chosen),
        queues={*chosen.queues, *([queue] if queue else [])},
        namespace=chosen.namespace,
        public_url=chosen.public_url,
        max_tasks=chosen.max_tasks,
        max_bytes=chosen.max_bytes,
        durability=chosen.durability,
    )
    given = content.options()
    if given["json"] is not UNSET and given["payload"] is None:
        del given["payload"]
    said = {"method": method, "queue": queue, "user_id": user_id, "label": label}
    about = {**said, **when.options(), **following.options(), **given}
    try:
        task_id, queue = asyncio.run(_pushed(tq, path, about, known=chosen.queues))
    except InvalidTask as error:
        raise UsageError(str(error)) from None
    if store.as_json:
        write_json({"id": task_id, "queue": queue})
    else:
        print(task_id)


async def _pushed(tq: TaskQueue, path: str, about: dict[str, Any], *, known: Sequence[str]) -> tuple[str, str]:
    """Return the id of the task, and its queue, which a rule may have chosen."""
    try:
        queue = about["queue"]
        known = with_ruled(known, await tq.try_routes())
        if queue not in (None, *known) and not in_use(await Admin(tq.broker, known).stats_of(queue)):
            raise UsageError(
                f"--queue: nobody uses {queue!r}, and the settings name {', '.join(known)}; misspelt? If not, start a"
                " consumer for it first, or name it in TASKQUEUE_QUEUES"
            )
        task_id = await tq.push(path, **about)
        state = await tq.get(task_id)
        return task_id, queue_name(queue, tq.queues) if state is None else state.queue
    finally:
        await tq.aclose()


def _params(pairs: Sequence[str]) -> dict[str, list[str]] | None:
    found: dict[str, list[str]] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not (name and sign):
            raise UsageError(f"--param: {pair!r} must be NAME=VALUE")
        found.setdefault(name, []).append(value)
    return found or None


def _header(line: str) -> tuple[str, str]:
    name, sign, value = line.partition(":")
    if not (name.strip() and sign):
        raise UsageError("--header: each must be 'Name: value'")  # not shown: it may be a credential
    return name.strip(), value.strip()


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise UsageError(f"--eta: {text!r} must be a time with its zone, as in 2026-12-24T18:00+01:00")
    return time


def _json(text: str) -> object:
    try:
        return json.loads(_read("--json-body", text))
    except ValueError as error:
        raise UsageError(f"--json-body: this is not JSON: {error}") from None


def _read(flag: str, text: str) -> bytes:
    """Return the text in bytes, or what the file that it names holds."""
    if not text.startswith(FROM_FILE):
        return text.encode("utf-8", "surrogateescape")
    name = text.removeprefix(FROM_FILE)
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"{flag}: {name!r} cannot be read: {error.strerror}") from None
