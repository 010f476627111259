"""What every command of ``taskqueue`` takes, and how it puts its question and answers.

Tables on a terminal, aligned text in a pipe, one JSON document with ``--json``, in which times are RFC 3339 in UTC.
Nothing but the answer goes to standard output; warnings and progress go to standard error.
"""

import asyncio
import getpass
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Final, TypeVar

from cyclopts import Parameter

from . import loading, settings
from .acting import Actor
from .admin import Admin
from .broker import Broker, connect, kept_secret, require_shared
from .catalogue import FILE, ROWS, Settings
from .doctor import LOOK_INSIDE
from .finding import soon
from .inspector import ConsumerInfo
from .keys import Keyring
from .query import STAGE_LABELS, STAGE_OF, ran
from .routes import Routes, table_of, with_ruled
from .routing import kept_routes
from .story import Step
from .tables import printable, timestamp
from .task import TaskState

Result = TypeVar("Result")

_TIMES: Final[Mapping[type, Sequence[str]]] = {
    TaskState: ("added", "due", "reserved", "begun", "changed"),
    Step: ("at",),
    ConsumerInfo: ("claimed",),
}


CONFIG_FLAG: Final = Parameter(
    help=f"File to read instead of ./{FILE} or [tool.taskqueue] in ./{settings.PYPROJECT}. [{settings.CONFIG}]"
)


def example(*lines: str) -> str:
    """Return what stands below a command's options: how it is used."""
    return "\n".join(["Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


def flag(name: str) -> Parameter:
    """Return the flag of a setting."""
    row = ROWS[name]
    return Parameter(name=row.flag, negative=(), help=f"{row.help} [{row.variable}]")


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Which store is meant, and how to answer."""

    url: Annotated[str | None, flag("url")] = None
    namespace: Annotated[str | None, flag("namespace")] = None
    config: Annotated[str | None, Parameter(help=f"File to read instead of ./{FILE}. [{settings.CONFIG}]")] = None
    as_json: Annotated[bool, Parameter(name="--json", negative=(), help="One JSON document.")] = False

    def settings(self, **more: object) -> Settings:
        """Return the settings with these flags over them."""
        return settings.load({"url": self.url, "namespace": self.namespace, **more}, config=self.config)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Common(Store):
    """What every command takes that looks at queues."""

    queues: Annotated[
        list[str] | None,
        Parameter(name="--queue", negative=(), help="Only this queue; may be repeated. [TASKQUEUE_QUEUES]"),
    ] = None

    def settings(self, **more: object) -> Settings:
        """Return the settings with these flags over them."""
        return Store.settings(self, queues=self.queues, **more)

    def ask(self, question: Callable[[Admin], Awaitable[Result]]) -> Result:
        """Put a question to the store and return the answer."""
        chosen = self.settings()
        require_shared(chosen.required_url(), LOOK_INSIDE)
        broker = connect(chosen.required_url(), namespace=chosen.namespace)

        async def work() -> Result:
            try:
                queues = self.queues and chosen.queues
                return await question(Admin(broker, queues or await known_queues(broker, chosen)))
            finally:
                await broker.aclose()

        return asyncio.run(work())

    def keyring(self) -> Keyring | None:
        """Return the keys made of the secrets, None if there is none; raises ConfigError for one that is too short."""
        known = known_secrets(self.settings())
        return Keyring(known) if known else None


NOTHING: Final = Common()


async def known_queues(broker: Broker, chosen: Settings) -> Sequence[str]:
    """Return the queues that the settings name, and those that only a rule does."""
    return with_ruled(chosen.queues, await known_routes(broker, chosen))


async def known_routes(broker: Broker, chosen: Settings) -> Routes:
    """Return the rules, those in the broker and those of the settings; raises BrokerUnavailable."""
    kept = await kept_routes(broker, deadline=soon())
    return Routes(table_of(kept), table_of(chosen.routes))


def who() -> str:
    """Return who runs this command, as it stands in the logs of tasks: user and host; without a name, its number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container mostly; which of them is a matter of the release of Python
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def acting(common: Common, work: Callable[[Actor, Admin], Awaitable[Result]]) -> Result:
    """Let somebody do something in the store, under the name of who runs this command."""
    hook = common.settings().on_event
    on_event = loading.function("on_event", hook) if hook else None
    return common.ask(lambda admin: work(Actor(admin, who(), on_event=on_event), admin))


def known_secrets(chosen: Settings) -> Sequence[str]:
    """Return the secrets of these settings, or the one that the store keeps itself."""
    kept = kept_secret(chosen.url) if chosen.url and not chosen.secrets else None
    return chosen.secrets or ([kept] if kept else [])


def as_json(value: Any) -> Any:
    """Return one of our values as JSON takes it, times as RFC 3339."""
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if not is_dataclass(value):
        return value
    times = _TIMES.get(type(value), ())
    named = ((field.name, getattr(value, field.name)) for field in fields(value))
    document = {name: timestamp(item) if name in times else as_json(item) for name, item in named}
    return document | _meaning(value) if isinstance(value, TaskState) else document


def _meaning(task: TaskState) -> dict[str, Any]:
    """Return what a task's state means, and for how long it ran."""
    stage = STAGE_OF[task.state]
    return {"stage": stage, "stage_label": STAGE_LABELS[stage], "seconds": ran(task)}


def write_json(document: object) -> None:
    """Write one JSON document to standard output."""
    print(json.dumps(document, indent=2))


def complain(words: str) -> None:
    """Say something on standard error, where it is in nobody's way."""
    print(f"taskqueue: {printable(words)}", file=sys.stderr)
