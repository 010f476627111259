"""What may be chosen: every setting with its type, check, default and help, declared once.

A setting is a field below; its flag, variable, key, check and documentation follow from that. Who has chosen what,
``settings`` reads from the environment and from files.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Annotated, Any, Final, NamedTuple, get_type_hints

from . import options
from . import routes as rules
from .content import KEPT_BYTES
from .errors import ConfigError, UsageError
from .options import Choice, Option, Seconds, Whole

PREFIX: Final = "TASKQUEUE_"
FILE: Final = "taskqueue.toml"
STORE: Final = ".taskqueue"


DEFAULT_QUEUES: Final = options.queue_names("default")


def _most(what: str) -> Option:
    # Without a flag: it is those who add that ask, not the server.
    return Option(help=f"A queue that holds so many {what} takes no more; 0: no limit.", parse=Whole(0), flag=None)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """Every setting, checked; ``load`` makes it. Neither its repr nor ``public`` tells a secret or a password."""

    name: Annotated[
        str | None,
        Option(help="Name of this consumer; no two that run may share one.", parse=options.consumer_name),
    ] = None
    target: Annotated[
        str | None,
        Option(
            help="Where the application answers: http://host:port or https://host.",
            parse=options.base_url,
            shown=options.hidden_password,
        ),
    ] = None
    app: Annotated[
        str | None,
        Option(
            help="Application to call in this process instead: package.module:attribute, or a factory of one, or"
            " config:etc/zope.ini. Its own TaskQueue then says where the queues are.",
            parse=options.application,
        ),
    ] = None
    dev: Annotated[
        bool,
        Option(
            help=f"For development: where no url is set, a store of its own in ./{STORE}, with a secret of its own;"
            " where no name is, the name dev.",
            parse=options.truth,
        ),
    ] = False
    url: Annotated[
        str | None,
        Option(
            help="Where the queues are: redis://host:port/db, rediss:// (TLS), unix:///path/to.sock, redis+sentinel://"
            "host,host/service, embedded:///directory, local:// (this process) or python://package.module:attribute.",
            parse=options.broker_url,
            shown=options.hidden_password,
        ),
    ] = None
    secrets: Annotated[
        tuple[str, ...],
        Option(
            help="Secrets of 32 bytes or more, commas between them: the first seals and signs, all are accepted. Write"
            " them only into a file that is kept out of version control.",
            parse=options.texts,
            shown=options.hidden,
            flag=None,
            key="secret",
        ),
    ] = ()
    secret_file: Annotated[
        str | None, Option(help="File with the secrets, one a line, instead of the above.", parse=options.text)
    ] = None
    namespace: Annotated[str, Option(help="What every key in the broker begins with.", parse=options.namespace)] = (
        "taskqueue"
    )
    durability: Annotated[
        str | None,
        Option(
            help="What a commit is to survive: memory, process (the store's death), disk (a power cut) or replica:N (N"
            " replicas have it). taskqueue doctor checks it.",
            parse=options.durability_level,
        ),
    ] = None
    queues: Annotated[
        options.Queues,
        Option(
            help="Queues that take tasks, and that this consumer serves; name:3 gives one a weight. Repeat the flag, or"
            " put commas between them.",
            parse=options.queue_names,
            shown=options.shown_queues,
            flag="--queue",
        ),
    ] = DEFAULT_QUEUES
    routes: Annotated[
        tuple[rules.Route, ...],
        Option(
            help="Rules by path: tables [[route]] with path and queue, category or hidden; as a variable,"
            " /reports/*=slow,/mail/*=mail.",
            parse=rules.from_settings,
            shown=rules.shown,
            flag=None,
            key="route",
        ),
    ] = ()
    strategy: Annotated[
        str,
        Option(
            help="How free slots are shared among queues: weighted, strict (the highest weight first), or a class of"
            " yours, package.module:attribute.",
            parse=options.strategy_name,
        ),
    ] = "weighted"
    max_tasks: Annotated[int, _most("tasks, failed ones left out,")] = 1_000_000
    max_bytes: Annotated[int, _most("bytes of records")] = 0
    public_url: Annotated[
        str | None,
        Option(
            help="Scheme and host for tasks that are added outside a request.",
            parse=options.base_url,
            shown=options.hidden_password,
        ),
    ] = None
    concurrent_limit: Annotated[
        int, Option(help="How many tasks may run at a time; 0: no limit.", parse=Whole(0, 10_000))
    ] = 1
    retry_max_count: Annotated[
        int, Option(help="How often a task is retried that does not say so itself.", parse=Whole(0, 1000))
    ] = 10
    timeout: Annotated[
        float, Option(help="Seconds for a task that does not say so itself.", parse=Seconds(0.1, 86_400))
    ] = 600.0
    connect_timeout: Annotated[
        float, Option(help="Seconds to wait for a connection to the target.", parse=Seconds(0.1, 600))
    ] = 5.0
    stop_grace: Annotated[
        float, Option(help="Seconds for running tasks at a stop; then they are given back.", parse=Seconds(0, 86_400))
    ] = 25.0
    poll_max: Annotated[
        float, Option(help="Seconds between two looks at an idle queue, at most.", parse=Seconds(0.02, 3600))
    ] = 1.0
    lease: Annotated[
        float,
        Option(help="Seconds without a beat after which another consumer counts as dead.", parse=Seconds(2, 3600)),
    ] = 8.0
    receipt: Annotated[
        bool,
        Option(
            help="Believe only answers with a receipt of the door; the flag is for an application that has no door.",
            parse=options.truth,
            flag="--no-receipt",
        ),
    ] = True
    wait_broker: Annotated[
        float | None,
        Option(help="Seconds to wait for a broker that does not answer; inf: for ever.", parse=Seconds(0, math.inf)),
    ] = None
    relay: Annotated[
        str | None,
        Option(
            help="TaskQueue with an outbox to push from as well: package.module:attribute. With --app its own is.",
            parse=options.import_path,
        ),
    ] = None
    on_failed: Annotated[
        str | None,
        Option(
            help="Function to call with each task that has failed for good: package.module:function, plain or async.",
            parse=options.import_path,
        ),
    ] = None
    on_event: Annotated[
        str | None,
        Option(
            help="Function to call with each Event of a task: its deliveries' ends, and what commands do to it.",
            parse=options.import_path,
        ),
    ] = None
    keep: Annotated[
        str,
        Option(
            help="Whose requests and answers stay in the log: failed (of tasks that failed), or all (of those that"
            " completed too, until they are trimmed, so that they can be looked at and run again).",
            parse=Choice("failed", "all"),
        ),
    ] = "failed"
    storage: Annotated[
        str | None,
        Option(
            help="Directory for the files that tasks save, sealed; the same for application, consumers and tools.",
            parse=options.directory,
        ),
    ] = None
    response_bytes: Annotated[
        int,
        Option(
            help="How much of an answer is kept that is kept at all: the first 16 KiB with the task, all of it, where"
            " there is a storage, as a file.",
            parse=Whole(KEPT_BYTES, 64 * 1024 * 1024),
        ),
    ] = 1024 * 1024
    retain: Annotated[
        tuple[str, ...],
        Option(
            help="How long and how many tasks that have ended are kept, as completed=24h/10000, failed=30d/10000, or"
            " mail.completed=7d for one queue; states: completed, failed, cancelled, archived.",
            parse=options.retained,
        ),
    ] = ()
    resolve: Annotated[
        str | None, Option(help="Function that knows whether a task in doubt is to run.", parse=options.import_path)
    ] = None
    log_format: Annotated[
        str,
        Option(
            help="auto, console, json or logfmt. auto: console on a terminal or under journald, else json.",
            parse=Choice("auto", "console", "json", "logfmt"),
        ),
    ] = "auto"
    log_level: Annotated[
        str,
        Option(
            help="The least that is logged: debug, info, warning or error.",
            parse=Choice("debug", "info", "warning", "error"),
        ),
    ] = "info"
    limit: Annotated[
        int | None,
        Option(help="Take so many tasks and exit; only with exactly one --queue.", parse=Whole(1)),
    ] = None
    burst: Annotated[
        bool,
        Option(
            help="Exit when nothing waits, nothing is due and nothing runs; what is delayed is left for later.",
            parse=options.truth,
        ),
    ] = False
    workers: Annotated[
        int,
        Option(
            help="How many processes consume, as NAME-1, NAME-2, ...; each with the whole concurrent limit.",
            parse=Whole(1, 1000),
        ),
    ] = 1
    max_memory: Annotated[
        str | None,
        Option(
            help="Start no task above so many MiB of this process, or above this part of the machine's: 512 or 90%.",
            parse=options.memory,
        ),
    ] = None
    max_load: Annotated[
        float | None,
        Option(help="Start no task above this load average per core (1 min).", parse=options.load),
    ] = None
    health_addr: Annotated[
        str | None,
        Option(
            help="Answer /livez, /readyz and /metrics at this host:port; of --workers, the second at the next port.",
            parse=options.address,
        ),
    ] = None
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def origin(self, name: str) -> str:
        """Return who chose this field: ``flag``, the name of the variable or of the file, ``dev``, or ``default``."""
        return self.origins.get(name, "default")

    def public(self, name: str) -> Any:
        """Return this field's value, secrets and passwords masked."""
        value = getattr(self, name)
        return None if value is None else OPTIONS[name].shown(value)

    def required_name(self) -> str:
        """Return the consumer's name; raise UsageError if there is none."""
        return self.name or missing("name", "instance1", UsageError)

    def required_target(self) -> str:
        """Return where the application answers, or the app; raise UsageError for none, both, or what an app decides."""
        if self.app and self.target:
            raise UsageError("target: --app calls the application in this process; give one of the two")
        for name in ("url", "namespace", "secret_file", "durability", "storage") if self.app else ():
            if self.origin(name) == "flag":
                row = ROWS[name]
                raise UsageError(
                    f"{row.flag}: with --app this comes from the application's TaskQueue; leave the flag out, and set"
                    f" it there, or for both by {row.variable} or {FILE}"
                )
        return self.app or self.target or missing("target", "http://127.0.0.1:8000", UsageError)

    def check_together(self) -> None:
        """Raise UsageError for a limit without one queue that was chosen, or what several processes cannot have."""
        if self.health_addr and options.host_and_port(self.health_addr)[1] + self.workers > options.PORTS:
            raise UsageError(f"health_addr: {self.workers} workers need as many ports from {self.health_addr} on")
        if self.limit is None:
            return
        # With an application the queues are its own, and only the flag chooses among them.
        chosen = self.origin("queues") == "flag" if self.app else self.origin("queues") != "default"
        if not chosen or len(self.queues) != 1:
            raise UsageError("limit: it counts the tasks of one queue; name that with --queue")
        if self.workers > 1:
            raise UsageError("limit: it counts the tasks of one process; leave --workers out")

    def of_worker(self, number: int) -> "Settings":
        """Return these settings for one of the processes of ``--workers``, counted from 1."""
        address = None
        if self.health_addr:
            host, port = options.host_and_port(self.health_addr)
            address = f"{host}:{port + number - 1}"
        return replace(self, name=f"{self.required_name()}-{number}", workers=1, health_addr=address)

    def required_url(self) -> str:
        """Return the broker's URL; raise ConfigError with the remedies if there is none."""
        return self.url or missing("url", "redis://127.0.0.1:6379/0", ConfigError)

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={self.public(name)!r}' for name in OPTIONS)})"


OPTIONS: Final[Mapping[str, Option]] = MappingProxyType(
    {
        name: hint.__metadata__[0]
        for name, hint in get_type_hints(Settings, include_extras=True).items()
        if hasattr(hint, "__metadata__")
    }
)


class Row(NamedTuple):
    """A setting as it is documented; ``flag`` is empty if there is none."""

    name: str
    flag: str
    variable: str
    key: str
    default: object
    help: str


def table() -> Iterator[Row]:
    """Yield every setting, in the order in which people meet them."""
    defaults = {item.name: item.default for item in fields(Settings)}
    for name, option in OPTIONS.items():
        key = option.key or name
        flag = "" if option.flag is None else option.flag or "--" + name.replace("_", "-")
        yield Row(name, flag, PREFIX + key.upper(), key, defaults[name], option.help)


ROWS: Final = {row.name: row for row in table()}


def missing(name: str, example: str, kind: type[ConfigError]) -> str:
    """Raise this error for a setting without which it does not go on, with the ways to set it."""
    row = ROWS[name]
    remedies = f'give {row.flag} {example}, or set {row.variable}, or write {row.key} = "{example}" into {FILE}'
    if name == "url":
        remedies += f"; or, for development, set {ROWS['dev'].variable}=1, as --dev does"
    raise kind(f"{name}: none is set; {remedies}")
