"""How the commands log: for eyes, for a log collector, or for the journal of systemd.

Only the commands install a handler; imported into an application, this library logs to whatever that has set up. What
a caller passes as ``extra`` becomes a field of its own in every format.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TextIO

log = logging.getLogger("taskqueue")

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# A task's message says these already; in a line for eyes they would stand twice.
_SAID: Final = frozenset({"method", "path", "status", "verdict", "reason"})
_COLOURS: Final = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}
_GREY: Final = "2"
# Syslog's numbers (RFC 5424, 6.2.1), which the journal reads from the beginning of a line.
_PRIORITIES: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
# What could move a terminal's cursor or begin a line that nobody logged.
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in b"\t"}
_CONTROLS_OF_MANY: Final = {code: text for code, text in _CONTROLS.items() if code not in b"\n"}


class ConsoleFormatter(logging.Formatter):
    """One line for eyes: local time, level, message, fields; a traceback below it."""

    def __init__(self, *, colour: bool = False) -> None:
        """``colour``: by level, in the escape sequences that every terminal knows."""
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = f"{datetime.fromtimestamp(record.created):%H:%M:%S}"  # noqa: DTZ006  the reader's own time
        fields = " ".join(f"{name}={_plain(value)}" for name, value in _fields(record) if name not in _SAID)
        level = self._painted(f"{record.levelname:<7}", _COLOURS.get(record.levelno, ""))
        line = f"{self._painted(time, _GREY)} {level} {_message(record)}"
        if fields:
            line += f"  {self._painted(fields, _GREY)}"
        return "\n".join([line, *_traceback(record)])

    def _painted(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour and colour else text


class JournalFormatter(logging.Formatter):
    """As for eyes, but the journal keeps the time, and takes the level from the number before each line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = [f"{name}={_plain(value)}" for name, value in _fields(record) if name not in _SAID]
        priority = _PRIORITIES.get(record.levelno, 6)
        lines = [" ".join([_message(record), *fields]), *_traceback(record)]
        return "\n".join(f"<{priority}>{line}" for line in lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, fields, and the traceback as ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; what JSON does not know is written as text."""
        return json.dumps(_entry(record), default=str)


class LogfmtFormatter(logging.Formatter):
    """The same as JSON, as ``name=value`` pairs: what is not one plain word stands in quotes."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return " ".join(f"{name}={_word(value)}" for name, value in _entry(record).items())


STYLES: Final[Mapping[str, Callable[[], logging.Formatter]]] = {
    "console": ConsoleFormatter,
    "journal": JournalFormatter,
    "json": JsonFormatter,
    "logfmt": LogfmtFormatter,
}


def setup(style: str, level: str, *, stream: TextIO | None = None, colour: bool = False) -> logging.Handler:
    """Send everything from ``level`` on to ``stream`` (standard error) in one of STYLES, uncaught exceptions included.

    ``colour`` is for the console style. Whatever handlers the process had are replaced. Returns the handler, for
    ``keep``.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setLevel(level.upper())
    handler.setFormatter(ConsoleFormatter(colour=colour) if style == "console" else STYLES[style]())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    return handler


def fields(**values: object) -> Callable[[logging.LogRecord], bool]:
    """Return a filter that gives every entry these fields."""

    def add(record: logging.LogRecord) -> bool:
        vars(record).update(values)
        return True

    return add


def keep(handler: logging.Handler) -> None:
    """Let our own entries go on to this handler, after an application was imported that has set up logging its way."""
    ours = logging.getLogger("taskqueue")
    if handler not in logging.getLogger().handlers:
        ours.addHandler(handler)
        ours.setLevel(handler.level)
        ours.propagate = False
    for name in tuple(logging.root.manager.loggerDict):
        if name == ours.name or name.startswith(f"{ours.name}."):
            logging.getLogger(name).disabled = False


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("ended by an error that nobody expected: %s", kind.__name__, exc_info=(kind, error, trace))


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    return ((name, value) for name, value in vars(record).items() if name not in _OWN)


def _entry(record: logging.LogRecord) -> dict[str, Any]:
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    entry: dict[str, Any] = {"time": time, "level": record.levelname.lower(), "logger": record.name}
    entry |= {"message": record.getMessage(), **dict(_fields(record))}
    trace = list(_traceback(record))
    return entry | {"exception": "\n".join(trace)} if trace else entry


def _message(record: logging.LogRecord) -> str:
    return record.getMessage().translate(_CONTROLS)


def _traceback(record: logging.LogRecord) -> Iterator[str]:
    if record.exc_info:
        text = logging.Formatter().formatException(record.exc_info)
        yield from text.translate(_CONTROLS_OF_MANY).split("\n")


def _plain(value: object) -> str:
    return str(value).translate(_CONTROLS)


def _word(value: object) -> str:
    text = "true" if value is True else "false" if value is False else "" if value is None else str(value)
    return json.dumps(text) if not text.isprintable() or set(text) & set(' ="\\') else text
