"""What may be chosen: the checks that turn what a person wrote into a value, and how an option describes itself.

A check takes what a flag or a variable (text) or a file (a TOML value) says. It returns the value, or raises ValueError
with the rule and an example, written to stand behind the value: whoever calls it knows where that came from.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from .broker import masked
from .durability import durability
from .errors import InvalidTask
from .headers import check_host
from .retention import retention_rules
from .target import check_consumer_name, check_queue_name

MASK: Final = "***"
PORTS: Final = 65536
PASTE: Final = "config:"

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9._:\-]{1,64}")
_BASE: Final = re.compile(r"https?://([^/]+)/?")
_IMPORT_PATH: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_MEMORY: Final = re.compile(r"[1-9][0-9]{0,8}|[1-9][0-9]?%")
_ADDRESS: Final = re.compile(r"([A-Za-z0-9.\-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")

preferred: Final[dict[str, object]] = {}
"""What the application around the command line says itself, by the names of the settings; see ``preferring``."""


@contextmanager
def preferring(values: Mapping[str, object]) -> Iterator[None]:
    """Let these values win over variables and files: where an application brings the command line, its word counts."""
    before = dict(preferred)
    preferred.update(values)
    try:
        yield
    finally:
        preferred.clear()
        preferred.update(before)


def unknown(names: Iterable[str], known: Iterable[str], *, prefix: str = "") -> Iterator[str]:
    """Yield for each name that is not known what was probably meant: neither case nor a common prefix tells that."""
    bare = {name.removeprefix(prefix).upper(): name for name in known}
    for name in names:
        if name not in bare.values():
            likely = difflib.get_close_matches(name.removeprefix(prefix).upper(), bare, n=1)
            hint = f"did you mean {bare[likely[0]]}?" if likely else f"known are {', '.join(bare.values())}"
            yield f"{name}: {hint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What a setting is beside its name, type and default.

    ``parse`` checks a value and ``shown`` makes one fit for eyes. ``flag`` and ``key`` replace the names that the
    setting's own would give; a flag of None means that there is none.
    """

    help: str
    parse: Callable[[object], object]
    shown: Callable[[object], object] = lambda value: value
    flag: str | None = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within limits, both included."""

    low: int
    high: int = 10**18 - 1

    def __call__(self, value: object) -> int:
        """Return the number, or raise ValueError."""
        text = str(value).strip() if isinstance(value, str | int) else ""
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not self.low <= int(text) <= self.high:
            raise ValueError(f"must be a whole number from {self.low} to {self.high}")
        return int(text)


@dataclass(frozen=True, slots=True)
class Seconds:
    """Seconds within limits, both included; where there is no upper one, ``inf`` is for ever, and None."""

    low: float
    high: float

    def __call__(self, value: object) -> float | None:
        """Return the seconds, or raise ValueError."""
        seconds = self._number(value)
        if not self.low <= seconds <= self.high:
            bounds = f"from {self.low:g} to {self.high:g}" if self.high < math.inf else f"{self.low:g} or more, or inf"
            raise ValueError(f"must be a number of seconds, {bounds}")
        return None if math.isinf(seconds) else seconds

    @staticmethod
    def _number(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return math.nan
        try:
            return float(value)
        except (ValueError, OverflowError):
            return math.nan


_WEIGHT: Final = Whole(1, 1000)


class Choice:
    """One of a few words, in any case."""

    def __init__(self, *words: str) -> None:
        self._words = words

    def __call__(self, value: object) -> str:
        """Return the word, or raise ValueError."""
        word = str(value).lower()
        if word not in self._words:
            raise ValueError(f"must be one of {', '.join(self._words)}")
        return word


def truth(value: object) -> bool:
    """Return a yes or no."""
    if isinstance(value, bool):
        return value
    word = value.lower() if isinstance(value, str) else ""
    if word not in _TRUE + _FALSE:
        raise ValueError("must be true or false")
    return word in _TRUE


def text(value: object) -> str:
    """Return a text that says something, without white space around it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text")
    return value.strip()


def texts(value: object) -> tuple[str, ...]:
    """Return the parts of a comma list, each once; a file, or a flag given several times, may bring several lists."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, Sequence):
        raise ValueError("must be a list of texts")  # noqa: TRY004  one kind of error for all that a person may write
    parts = tuple(dict.fromkeys(part.strip() for item in given for part in text(item).split(",") if part.strip()))
    if not parts:
        raise ValueError("must name at least one")
    return parts


def retained(value: object) -> tuple[str, ...]:
    """Return what is said of how long tasks are kept, each understood."""
    said = texts(value) if value else ()
    retention_rules(said)
    return said


def consumer_name(value: object) -> str:
    """Return the name of a consumer; raises ConfigError."""
    return check_consumer_name(value)


class Queues(tuple[str, ...]):  # noqa: SLOT001 - a tuple's slots cannot hold anything
    """Names of queues, in the order given; ``weights`` holds that of each, 1 unless it was named as ``name:3``."""

    weights: Mapping[str, int]


def queue_names(value: object) -> Queues:
    """Return the queues named, each maybe with a weight; raises ConfigError for a name that is none."""
    weights: dict[str, int] = {}
    for part in texts(value):
        name, colon, weight = part.partition(":")
        if check_queue_name(name) in weights:
            raise ValueError(f"names queue {name} twice")
        weights[name] = _weight(name, weight) if colon else 1
    queues = Queues(weights)
    queues.weights = weights
    return queues


def _weight(queue: str, weight: str) -> int:
    try:
        return _WEIGHT(weight)
    except ValueError as error:
        raise ValueError(f"gives queue {queue} the weight {weight!r}, which {error}") from None


def strategy_name(value: object) -> str:
    """Return ``weighted``, ``strict`` or the import path of a class."""
    name = text(value)
    if name in ("weighted", "strict"):
        return name
    try:
        return import_path(name)
    except ValueError:
        raise ValueError("must be weighted, strict, or a class of yours as package.module:attribute") from None


def shown_queues(value: object) -> object:
    """Return queues as they are written, with the weights that are not 1."""
    if not isinstance(value, Queues):
        return value
    return tuple(name if value.weights[name] == 1 else f"{name}:{value.weights[name]}" for name in value)


def namespace(value: object) -> str:
    """Return the beginning of keys: no brace, which would tear a queue out of its Cluster slot."""
    if not isinstance(value, str) or not _NAMESPACE.fullmatch(value):
        raise ValueError("must be 1 to 64 letters, digits or any of . _ : -, for example taskqueue")
    return value


def broker_url(value: object) -> str:
    """Return a URL that can be taken apart; which schemes there are, ``connect`` knows."""
    url = text(value)
    if not _readable(url):
        raise ValueError(
            "must be a URL, for example redis://127.0.0.1:6379/0; in a password, / ? # @ : must be percent-encoded"
        )
    return url


def durability_level(value: object) -> str:
    """Return a level of durability; raises ConfigError."""
    return str(durability(text(value).lower()))


def directory(value: object) -> str:
    """Return the absolute path of a directory, which need not be there."""
    path = text(value)
    if not path.startswith("/"):
        raise ValueError("must be the absolute path of a directory, for example /var/lib/taskqueue/files")
    return path


def import_path(value: object) -> str:
    """Return ``package.module:attribute``; whether it is there, importing it tells."""
    path = text(value)
    if not _IMPORT_PATH.fullmatch(path):
        raise ValueError("must be package.module:attribute, for example main:app")
    return path


def application(value: object) -> str:
    """Return ``package.module:attribute`` or ``config:`` and the path of a PasteDeploy file, as of Zope and Pyramid."""
    name = text(value)
    return name if name.startswith(PASTE) and name != PASTE else import_path(name)


def base_url(value: object) -> str:
    """Return scheme and host of a web address, which must name no more: the path comes from each task."""
    url = text(value)
    match = _BASE.fullmatch(url)
    try:
        check_host(match[1] if match else "")
    except InvalidTask:
        raise ValueError(
            "must be http:// or https:// and a host, without user, path and query, for example http://127.0.0.1:8000"
        ) from None
    return url.rstrip("/")


def memory(value: object) -> str:
    """Return how much memory: MiB as digits, or a part of the machine's as digits with a percent sign."""
    size = str(value).strip() if isinstance(value, str | int) else ""
    if not _MEMORY.fullmatch(size):
        raise ValueError("must be MiB as a whole number above 0, or 1% to 99%, for example 512 or 90%")
    return size


def load(value: object) -> float:
    """Return a load average per core."""
    try:
        load = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        load = math.nan
    if not 0 < load <= 1000:
        raise ValueError("must be a load average per core, a number above 0, for example 1.5")
    return load


def address(value: object) -> str:
    """Return where to listen: host:port, an IPv6 host in brackets."""
    found = _ADDRESS.fullmatch(text(value))
    if not found or not 0 < int(found[2]) < PORTS:
        raise ValueError("must be host:port, for example 127.0.0.1:9000, or 0.0.0.0:9000 for every interface")
    return found[0]


def host_and_port(address: str) -> tuple[str, int]:
    """Take apart what ``address`` has returned; an IPv6 host keeps its brackets."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def _readable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        if parts.scheme == "python" or parts.scheme.endswith("+sentinel"):
            return "://" in url  # What stands for a host, its broker takes apart.
        return "://" in url and bool(parts.scheme) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def hidden(value: object) -> object:
    """Return a secret, or several, as a row of asterisks each."""
    return [MASK] * len(value) if isinstance(value, tuple) else MASK


def hidden_password(value: object) -> object:
    """Return a URL with its password masked."""
    return masked(value) if isinstance(value, str) else value
