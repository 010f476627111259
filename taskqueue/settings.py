"""Settings: who has chosen what.

The only reader of the environment and of configuration files, for the web process and for the consumer. What may be
chosen is in ``catalogue``. A flag wins over a variable, a variable over the file, the file over the default; of what an
application says itself, see ``options.preferring``, only a flag is stronger. What nobody knows is refused: a misspelt
setting that is silently ignored is the fault that is found last.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TextIO
from urllib.parse import quote

from . import files, options
from .catalogue import FILE, OPTIONS, PREFIX, ROWS, STORE, Settings
from .errors import ConfigError, UsageError

CONFIG: Final = "TASKQUEUE_CONFIG"
PYPROJECT: Final = "pyproject.toml"
# How a process of --workers is told which one it is; no setting.
WORKER: Final = "TASKQUEUE_WORKER"

# Kubernetes tells every pod of a service named taskqueue, or taskqueue-something, by variables that look like ours.
_SERVICE_LINK: Final = re.compile(
    r"TASKQUEUE(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


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
    if given_file := chosen.get("secret_file"):
        values["secrets"] = files.secrets_in(given_file.base / options.text(given_file.value), given_file.where)
        origins["secrets"] = given_file.origin
    if values.get("dev"):
        store = (directory / STORE).absolute()
        of_dev = {"url": f"embedded://{quote(str(store))}", "name": "dev", "storage": str(store / "files")}
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
    _refuse_unknown("environment", (name for name in ours if name != WORKER), [*known, CONFIG])
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


def _refuse_unknown(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    faults = list(options.unknown(names, known, prefix=PREFIX))
    if faults:
        raise UsageError(f"{where}: no such setting: {'; '.join(faults)}")


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


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """Which of the processes of ``--workers`` this is, from 1, and the descriptor that leads to the one above it."""

    number: int
    channel: int


def worker_place() -> WorkerPlace | None:
    """Return which worker this process is, or None; asked once, lest what it starts believe to be the same."""
    number, _, channel = os.environ.pop(WORKER, "").partition(":")
    return WorkerPlace(int(number), int(channel)) if channel else None


def environment_of_worker(place: WorkerPlace) -> dict[str, str]:
    """Return the environment of a worker: this one's, but it reports to the process above it, not to systemd."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_PID")}
    return kept | {WORKER: f"{place.number}:{place.channel}"}


def notify_socket() -> str | None:
    """Return where systemd wants to hear of this process (``Type=notify``), or None if it does not."""
    return os.environ.get("NOTIFY_SOCKET") or None


def watchdog() -> float | None:
    """Return within how many seconds systemd wants each sign of life of this process (``WatchdogSec=``), or None."""
    whose, period = os.environ.get("WATCHDOG_PID"), os.environ.get("WATCHDOG_USEC", "")
    if not period.isdecimal() or int(period) == 0 or (whose and whose != str(os.getpid())):
        return None
    return int(period) / 1_000_000
