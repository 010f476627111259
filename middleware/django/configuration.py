"""The ``TASKQUEUE`` dictionary of a project's settings: what may stand there, and what of it is wrong."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.module_loading import import_string

from ... import options
from ...errors import ConfigError
from ...target import Limits

OF_QUEUE: Final = (
    "URL",
    "SECRET",
    "QUEUES",
    "NAMESPACE",
    "PUBLIC_URL",
    "LIMITS",
    "COMMIT_DEADLINE",
    "MAX_TASKS",
    "MAX_BYTES",
    "DURABILITY",
    "STORAGE",
)
OF_DOOR: Final = ("LOAD_USER", "USER_ID", "CREDENTIALS", "TASK_ONLY", "REPLAY_GUARD", "ALLOW_MANUAL")
USING: Final = "USING"
OUTBOX: Final = "OUTBOX"
OUTBOX_APP: Final = "taskqueue.middleware.django.outbox"
_KNOWN: Final = (*OF_QUEUE, *OF_DOOR, USING, OUTBOX)
_FUNCTIONS: Final = ("LOAD_USER", "USER_ID")
# Where a str is taken for a list, what takes it says what is wrong.
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "URL": (str,),
    "SECRET": (str, list, tuple),
    "QUEUES": (list, tuple, set, frozenset, str),
    "NAMESPACE": (str,),
    "PUBLIC_URL": (str,),
    "LIMITS": (Limits,),
    "COMMIT_DEADLINE": (float, int),
    "MAX_TASKS": (int,),
    "MAX_BYTES": (int,),
    "DURABILITY": (str,),
    "STORAGE": (str,),
    "TASK_ONLY": (list, tuple, set, frozenset, str),
    "ALLOW_MANUAL": (bool,),
}
_NEVER_NONE: Final = ("COMMIT_DEADLINE", "TASK_ONLY", "REPLAY_GUARD", "ALLOW_MANUAL")


def faults() -> Sequence[str]:
    """Return what is wrong with the keys, one sentence each."""
    given = getattr(settings, "TASKQUEUE", {})
    if not isinstance(given, Mapping):
        return [f"TASKQUEUE: {type(given).__name__} must be a dictionary, as in TASKQUEUE = {{'URL': 'redis://...'}}"]
    found = [f"TASKQUEUE: no such key: {fault}" for fault in options.unknown(map(str, given), _KNOWN)]
    found += [f"TASKQUEUE: {key}: {fault}" for key, value in given.items() if (fault := _misfit(key, value))]
    alias = given.get(USING, DEFAULT_DB_ALIAS)
    if alias not in connections:
        found.append(f"TASKQUEUE: {USING}: {alias!r} is no database alias; known are {', '.join(connections)}")
    aliases = _outboxes(given)
    known = [alias for alias in aliases if isinstance(alias, str) and alias in connections]
    if len(known) < len(aliases):
        found.append(
            f"TASKQUEUE: {OUTBOX}: {given[OUTBOX]!r} must be True, or aliases of databases; known are"
            f" {', '.join(connections)}"
        )
    installed = any(f"{name}.".startswith(f"{OUTBOX_APP}.") for name in settings.INSTALLED_APPS)
    if aliases and not installed:
        found.append(f"TASKQUEUE: {OUTBOX}: needs {OUTBOX_APP!r} in INSTALLED_APPS, and then a migrate")
    return found


def _misfit(key: str, value: object) -> str | None:
    """Return in what a value is not of the type that its key takes."""
    if value is None:
        return "None is given; leave it out for the default" if key in _NEVER_NONE else None
    if key in _FUNCTIONS:
        fits, needed = callable(value) or isinstance(value, str), "a function, or its dotted path,"
    else:
        types = _TYPES.get(key, (object,))
        fits, needed = isinstance(value, types), " or ".join(kind.__name__ for kind in types)
        items = value if isinstance(value, list | tuple | set | frozenset) else ()
        if fits and not all(isinstance(item, str) for item in items):
            fits, needed = False, "a list of str"
    return None if fits else f"{needed} is needed, not {type(value).__name__}"


def _outboxes(given: Mapping[str, Any]) -> Sequence[object]:
    chosen = given.get(OUTBOX, False)
    if isinstance(chosen, bool):
        return [given.get(USING, DEFAULT_DB_ALIAS)] if chosen else []
    return list(chosen) if isinstance(chosen, list | tuple) else [chosen]


def outboxes() -> Sequence[str]:
    """Return the aliases of the databases in which tasks become rows; raises ConfigError."""
    chosen = {OUTBOX: False, USING: using(), **{key.upper(): value for key, value in given([OUTBOX]).items()}}
    return [str(alias) for alias in _outboxes(chosen)]


def given(keys: Sequence[str]) -> dict[str, Any]:
    """Return what the dictionary says of these keys, by the names of the parameters they stand for.

    Functions may be named by their dotted path. Raises ConfigError for what ``faults`` tells, and for a path that
    leads nowhere.
    """
    wrong = faults()
    if wrong:
        raise ConfigError("; ".join(wrong))
    values = {key: value for key, value in getattr(settings, "TASKQUEUE", {}).items() if key in keys}
    return {key.lower(): _function(key, value) if key in _FUNCTIONS else value for key, value in values.items()}


def _function(key: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return import_string(value)
    except ImportError as error:
        raise ConfigError(f"TASKQUEUE: {key}: {value!r} cannot be imported: {error}") from error


def using() -> str:
    """Return the alias of the database whose transactions count; raises ConfigError."""
    alias: str = given([USING]).get("using", DEFAULT_DB_ALIAS)
    return alias
