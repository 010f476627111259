"""Settings: what may be chosen, and who chose it.

The only reader of the environment and of configuration files, for the web process and for the consumer. Each setting is
declared once, as a field below; its flag, variable, key, check and documentation follow from that. A flag wins over a
variable, a variable over the file, the file over the default; of what an application says itself, see
``options.preferring``, only a flag is stronger. What nobody knows is refused: a misspelt setting that is
silently ignored is the fault that is found last.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, NamedTuple, TextIO, get_type_hints
from urllib.parse import quote

from . import files, options
from .errors import ConfigError, UsageError
from .options import Choice, Option, Seconds, Whole

PREFIX: Final = "TASKQUEUE_"
CONFIG: Final = "TASKQUEUE_CONFIG"
FILE: Final = "taskqueue.toml"
STORE: Final = ".taskqueue"
PYPROJECT: Final = "pyproject.toml"

# Kubernetes tells every pod of a service named taskqueue, or taskqueue-something, by variables that look like ours.
_SERVICE_LINK: Final = re.compile(
    r"TASKQUEUE(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


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
            help="Application to call in this process instead: package.module:attribute, or a factory of one. Its own"
            " TaskQueue then says where the queues are.",
            parse=options.import_path,
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
            help="Where the queues are: redis://host:port/db, rediss:// (TLS), unix:///path/to.sock,"
            " redis+sentinel://host,host/service or embedded:///directory.",
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
        tuple[str, ...],
        Option(
            help="Queues that take tasks, and that this consumer serves. Repeat the flag, or put commas between them.",
            parse=options.queue_names,
            flag="--queue",
        ),
    ] = ("default",)
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
        return self.name or _missing("name", "instance1", UsageError)

    def required_target(self) -> str:
        """Return where the application answers, or the app; raise UsageError for none, both, or what an app decides."""
        if self.app and self.target:
            raise UsageError("target: --app calls the application in this process; give one of the two")
        for name in ("url", "namespace", "secret_file", "durability") if self.app else ():
            if self.origin(name) == "flag":
                row = ROWS[name]
                raise UsageError(
                    f"{row.flag}: with --app this comes from the application's TaskQueue; leave the flag out, and set"
                    f" it there, or for both by {row.variable} or {FILE}"
                )
        return self.app or self.target or _missing("target", "http://127.0.0.1:8000", UsageError)

    def required_url(self) -> str:
        """Return the broker's URL; raise ConfigError with the remedies if there is none."""
        return self.url or _missing("url", "redis://127.0.0.1:6379/0", ConfigError)

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
    """A setting as it is documented; ``flag`` is empty if there is none, as for what a process list must not show."""

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


def load(
    flags: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    config: str | None = None,
) -> Settings:
    """Read all sources and return the settings.

    ``flags``: by field name, None for one not given. ``environ`` and ``directory`` are the process's own unless given;
    an empty variable counts as not set. ``config`` names the file, else TASKQUEUE_CONFIG does, else it is
    ``taskqueue.toml``, else the table ``[tool.taskqueue]`` of ``pyproject.toml``, in that directory. Raises UsageError
    for what is misspelt or breaks a rule, ConfigError for a file that cannot be read.
    """
    environ = os.environ if environ is None else environ
    directory = directory or Path.cwd()
    named = config or environ.get(CONFIG)
    chosen: dict[str, _Given] = {}
    for source in (
        _file(directory, named),
        _variables(environ, directory),
        _named(options.preferred, "application", directory),
        _named(flags or {}, "flag", directory),
    ):
        given = {item.name: item for item in source}
        if "secrets" in given and "secret_file" in given:
            raise UsageError(f"{given['secret_file'].where}: the secret is given beside it; one of the two is enough")
        if "secrets" in given or "secret_file" in given:
            chosen.pop("secrets", None)
            chosen.pop("secret_file", None)
        chosen |= given
    values: dict[str, Any] = {item.name: item.parsed() for item in chosen.values()}
    origins = {item.name: item.origin for item in chosen.values()}
    if "secret_file" in chosen:
        values["secrets"] = _secrets_in(chosen["secret_file"])
        origins["secrets"] = origins["secret_file"]
    if values.get("dev"):
        of_dev = {"url": f"embedded://{quote(str((directory / STORE).absolute()))}", "name": "dev"}
        origins = dict.fromkeys(of_dev, "dev") | origins
        values = of_dev | values
    return Settings(**values, origins=MappingProxyType(origins))


@dataclass(frozen=True, slots=True)
class _Given:
    """What one source says of one field; ``where`` tells people, ``base`` is what a path in it starts from."""

    name: str
    value: object
    origin: str
    where: str
    base: Path

    def parsed(self) -> Any:
        option = OPTIONS[self.name]
        try:
            return option.parse(self.value)
        except ConfigError as error:
            raise UsageError(f"{self.where}: {str(error).partition(': ')[2]}") from None
        except ValueError as error:
            raise UsageError(f"{self.where}: {option.shown(self.value)!r} {error}") from None


def _named(values: Mapping[str, object], origin: str, directory: Path) -> Iterator[_Given]:
    for name, value in values.items():
        if value is not None:
            yield _Given(name, value, origin, ROWS[name].flag if origin == "flag" else name, directory)


def _variables(environ: Mapping[str, str], directory: Path) -> Iterator[_Given]:
    known = {row.variable: row.name for row in ROWS.values()}
    ours = sorted(name for name in environ if name.startswith(PREFIX) and not _SERVICE_LINK.fullmatch(name))
    _refuse_unknown("environment", ours, [*known, CONFIG])
    for variable in ours:
        if variable in known and environ[variable]:
            yield _Given(known[variable], environ[variable], variable, variable, directory)


def _file(directory: Path, named: str | None) -> Iterator[_Given]:
    for name in [named] if named else [FILE, PYPROJECT]:
        path = directory / name
        if not named and not path.is_file():
            continue
        content = files.toml(path, name, CONFIG)
        if path.name == PYPROJECT:
            content = content.get("tool", {}).get("taskqueue")
            if content is None and not named:
                continue
        if not isinstance(content, dict):
            raise ConfigError(f"{name}: it has no table [tool.taskqueue]")
        known = {row.key: row.name for row in ROWS.values()}
        _refuse_unknown(name, content, known)
        for key, value in content.items():
            yield _Given(known[key], value, name, f"{name}: {key}", path.parent)
        return


def _secrets_in(given: _Given) -> tuple[str, ...]:
    return files.secrets_in(given.base / options.text(given.value), given.where)


def _refuse_unknown(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    faults = list(options.unknown(names, known, prefix=PREFIX))
    if faults:
        raise UsageError(f"{where}: no such setting: {'; '.join(faults)}")


def _missing(name: str, example: str, kind: type[ConfigError]) -> str:
    row = ROWS[name]
    raise kind(
        f"{name}: none is set; give {row.flag} {example}, or set {row.variable}, or write"
        f' {row.key} = "{example}" into {FILE}'
    )


def announce(*, dev: bool, config: str | None) -> None:
    """Tell whatever this process imports from now on what ``--dev`` and ``--config`` have said."""
    if dev:
        os.environ[f"{PREFIX}DEV"] = "1"
    if config:
        os.environ[CONFIG] = str(Path(config).absolute())


def colours(stream: TextIO) -> bool:
    """Tell whether to write to this stream in colour: a terminal, and nobody objects (NO_COLOR, TERM=dumb)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def log_style(chosen: Settings, stream: TextIO) -> str:
    """Return the format of logs that are written to this stream."""
    if chosen.log_format != "auto":
        return chosen.log_format
    if under_journald(stream):
        return "journal"
    return "console" if stream.isatty() else "json"


def under_journald(stream: TextIO) -> bool:
    """Tell whether this stream goes to systemd's journal (JOURNAL_STREAM holds its device and inode)."""
    journal = os.environ.get("JOURNAL_STREAM")
    if not journal:
        return False
    status = os.fstat(stream.fileno())
    return journal == f"{status.st_dev}:{status.st_ino}"
