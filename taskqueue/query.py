"""Which tasks are meant: terms that a task must meet, an order and a page; and the words in which people say so.

A term is ``FIELD OPERATOR VALUE``, as in ``state IN failed, cancelled``, ``path LIKE /reports/%`` or ``added > 2h``;
several are joined by AND. A value with blanks in it stands in quotes. In a pattern ``%`` stands for anything, ``_`` for
any one character and a backslash takes that from them. A time is ``2h`` (that long ago; ``s m h d``), ``+2h`` (in the
future) or a date as in ISO 8601, of the local time zone unless it names one; a time that has not come is in no term.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, Literal, TypeAlias, cast

from .errors import UsageError
from .task import StateName, TaskState

Stage: TypeAlias = Literal["created", "in_progress", "completed", "failed", "archived", "cancelled"]
"""What a task's state means to those who wait for it."""

STAGES: Final[Mapping[Stage, Sequence[StateName]]] = {
    "created": ("queued", "scheduled", "prepared"),
    "in_progress": ("reserved", "running", "waiting"),
    "completed": ("completed",),
    "failed": ("failed",),
    "archived": ("archived",),
    "cancelled": ("cancelled",),
}
STATES: Final[tuple[StateName, ...]] = tuple(state for states in STAGES.values() for state in states)
STAGE_OF: Final[Mapping[StateName, Stage]] = {state: stage for stage, states in STAGES.items() for state in states}
# For people who see one word for each.
STAGE_LABELS: Final[Mapping[Stage, str]] = {
    "created": "Queued",
    "in_progress": "In Progress",
    "completed": "Completed",
    "failed": "Failed",
    "archived": "Archived",
    "cancelled": "Cancelled",
}

Operator: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">=", "LIKE", "NOT LIKE", "IN", "NOT IN"]
Value: TypeAlias = str | float
_COMPARED: Final[Mapping[str, Callable[[Value, Value], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_TEXTS: Final = ("id", "queue", "state", "stage", "owner", "label", "route", "method", "path", "reason", "holder")
_NUMBERS: Final = ("status", "priority", "attempt", "delivery", "crashes", "open", "spoilt", "seconds")
MOMENTS: Final = ("added", "changed", "due", "reserved", "begun")
FIELDS: Final = (*_TEXTS, "parent", *_NUMBERS, *MOMENTS)
_WORDS: Final[Mapping[str, Sequence[str]]] = {"state": STATES, "stage": tuple(STAGES)}


def ran(task: TaskState) -> float:
    """Return for how many seconds a task has run in its last delivery, or waited for its children too; 0: not yet.

    From its start in the application, or where nobody notes that, from when a consumer took it.
    """
    started = max(task.begun, task.reserved)
    ended = task.state in ("completed", "failed") and started
    return max(0, task.changed - started) / 1000 if ended else 0.0


def value_of(task: TaskState, field: str) -> Value:
    """Return what a task has in one of FIELDS; times are in ms since 1970."""
    if field == "stage":
        return STAGE_OF[task.state]
    return ran(task) if field == "seconds" else cast("Value", getattr(task, field))


@dataclass(frozen=True, slots=True)
class Term:
    """One thing that must hold of a task. ``owner`` is compared by index; of values IN takes any number, others one."""

    field: str
    operator: Operator
    values: tuple[Value, ...]

    def takes(self, task: TaskState) -> bool:
        """Tell whether it holds of this task."""
        return self.holds(value_of(task, self.field))

    def holds(self, value: Value) -> bool:
        """Tell whether it holds of a task that has this value there."""
        if self.field in MOMENTS and not value:
            return False
        if self.operator in _COMPARED:
            return _COMPARED[self.operator](value, self.values[0])
        wanted = not self.operator.startswith("NOT")
        if self.operator.endswith("IN"):
            return (value in self.values) is wanted
        return (_like(str(self.values[0])).fullmatch(str(value)) is not None) is wanted


@lru_cache
def _like(pattern: str) -> re.Pattern[str]:
    """Return the expression for a pattern; each part takes the first place that fits, so that it takes linear time."""
    parts = [""]
    for found in re.finditer(r"\\(.)|(.)", pattern, re.DOTALL):
        if found[2] == "%":
            parts.append("")
        else:
            parts[-1] += "." if found[2] == "_" else re.escape(found[1] or found[2])
    first, *rest = parts
    middle = "".join(f"(?>.*?{part})" for part in rest[:-1])
    return re.compile(first + middle + (f".*{rest[-1]}" if rest else ""), re.DOTALL)


@dataclass(frozen=True, slots=True)
class Sort:
    """An order: by one of FIELDS, and among equals by id."""

    field: str = "changed"
    descending: bool = True

    def key(self, task: TaskState) -> tuple[Value, str]:
        """Return what tasks are compared by."""
        return value_of(task, self.field), task.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """All terms must hold; in this order; ``limit`` tasks after the first ``offset``."""

    terms: tuple[Term, ...] = ()
    sort: Sort = Sort()
    limit: int = 20
    offset: int = 0

    def takes(self, task: TaskState) -> bool:
        """Tell whether a task is meant."""
        return all(term.takes(task) for term in self.terms)

    @property
    def states(self) -> list[StateName]:
        """The states in which a task that is meant can be."""
        return [state for state in STATES if self._holds("state", state) and self._holds("stage", STAGE_OF[state])]

    def queues(self, names: Iterable[str]) -> list[str]:
        """Return those of these queues in which a task that is meant can be."""
        return [name for name in names if self._holds("queue", name)]

    def _holds(self, field: str, value: Value) -> bool:
        return all(term.holds(value) for term in self.terms if term.field == field)

    def among(self, field: str) -> list[Value] | None:
        """Return the values of which a task must have one in this field, None if it may have others."""
        for term in self.terms:
            if term.field == field and term.operator in ("=", "IN"):
                return list(dict.fromkeys(term.values))
        return None

    def bounds(self, field: str) -> tuple[int | None, int | None]:
        """Return the least and the greatest value, in whole numbers, that a task can have in this field."""
        terms = [term for term in self.terms if term.field == field]
        low = [float(term.values[0]) for term in terms if term.operator in (">", ">=", "=")]
        high = [float(term.values[0]) for term in terms if term.operator in ("<", "<=", "=")]
        return math.floor(max(low)) if low else None, math.ceil(min(high)) if high else None


# What people write.

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_AGO: Final = re.compile(r"(\+?)(\d{1,6}(?:\.\d{1,3})?) ?([smhd])")
_FIELD: Final = re.compile(r"\s*([A-Za-z_]+)")
_OPERATOR: Final = re.compile(r"\s*(!=|<=|>=|=|<|>|(?:NOT\s+)?(?:LIKE|IN)\b)", re.IGNORECASE)
_QUOTED: Final = r"'([^']*)'|\"([^\"]*)\""
_ONE: Final = re.compile(rf"\s*(?:{_QUOTED}|([^\s'\"]\S*))")
_ITEM: Final = re.compile(rf"\s*(?:{_QUOTED}|([^\s'\",()][^\s,()]*))")
_AND: Final = re.compile(r"\s+AND\b", re.IGNORECASE)


def moment_of(text: str, *, now: int) -> int:
    """Return the time that is meant in ms since 1970, ``now`` too; raises UsageError."""
    if found := _AGO.fullmatch(text):
        distance = float(found[2]) * _UNITS[found[3]] * 1000
        return round(now + distance if found[1] else now - distance)
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{text!r} is no time: 90s, 5m, 2h or 7d ago, +2h in the future, or a date as in 2026-01-31 or"
            " 2026-01-31T12:00"
        ) from None


def parse_sort(text: str) -> Sort:
    """Return the order that is meant: a field, with ``-`` before it the greatest first; raises UsageError."""
    return Sort(checked_field(text.removeprefix("-")), text.startswith("-"))


def checked_field(name: str) -> str:
    """Return the name of a field; raises UsageError for any other."""
    if name not in FIELDS:
        raise UsageError(f"{name!r} is no field; the fields are {', '.join(FIELDS)}")
    return name


def parse(text: str, *, now: int, owners: Callable[[str], Sequence[str]]) -> list[Term]:
    """Return the terms in a text; raises UsageError, which says what is wrong where.

    ``now`` in ms since 1970; ``owners`` returns every index under which a user may be known, or raises.
    """
    terms, at = [], 0
    while True:
        term, at = _term(text, at, now=now, owners=owners)
        terms.append(term)
        if not text[at:].strip():
            return terms
        joint = _AND.match(text, at)
        if joint is None:
            raise UsageError(
                f"{text!r}: after {text[:at].strip()!r} AND or the end is expected; a value with blanks in it is"
                " written in quotes"
            )
        at = joint.end()


def _term(text: str, at: int, *, now: int, owners: Callable[[str], Sequence[str]]) -> tuple[Term, int]:
    name = _FIELD.match(text, at)
    if name is None:
        raise UsageError(f"{text!r}: FIELD OPERATOR VALUE is expected, as in: state IN failed, cancelled")
    field = name[1].lower()
    found = _OPERATOR.match(text, name.end())
    if found is None:
        raise UsageError(f"{text!r}: after {field} one of = != < <= > >= LIKE, NOT LIKE, IN, NOT IN is expected")
    word = cast("Operator", " ".join(found[1].upper().split()))
    written, end = _items(text, found.end()) if word.endswith("IN") else _one(text, found.end())
    try:
        return term_of(field, word, *written, now=now, owners=owners), end
    except UsageError as error:
        raise UsageError(f"{text!r}: {error}") from error


def term_of(field: str, word: Operator, *written: str, now: int, owners: Callable[[str], Sequence[str]]) -> Term:
    """Return the term with these values, as a person writes them; raises UsageError."""
    checked_field(field)
    if field not in (*_TEXTS, "parent") and word.endswith("LIKE"):
        raise UsageError(f"{field} is no text, so LIKE cannot be asked of it; = != < <= > >= IN, NOT IN can")
    if field == "owner":
        if word not in ("=", "!=", "IN", "NOT IN"):
            raise UsageError("owner is kept as an index, of which only =, !=, IN and NOT IN can be asked")
        # That of nobody is empty.
        indexes = tuple(index for user in written for index in (owners(user) if user else [""]))
        return Term(field, "IN" if word in ("=", "IN") else "NOT IN", indexes)
    if field in _WORDS and word in ("=", "!=", "IN", "NOT IN"):
        wrong = [value for value in written if value not in _WORDS[field]]
        if wrong:
            raise UsageError(f"{wrong[0]!r} is no {field}; there are {', '.join(_WORDS[field])}")
    if field in MOMENTS:
        return Term(field, word, tuple(moment_of(value, now=now) for value in written))
    return Term(field, word, tuple(_number(field, value) for value in written) if field in _NUMBERS else tuple(written))


def _number(field: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{field} is a number, {text!r} is none") from None


def _one(text: str, at: int) -> tuple[Sequence[str], int]:
    found = _ONE.match(text, at)
    if found is None:
        raise UsageError(f"{text!r}: a value is expected after {text[:at].strip()!r}; an empty one is ''")
    return [_plain(found)], found.end()


def _items(text: str, at: int) -> tuple[Sequence[str], int]:
    opened = re.compile(r"\s*\(").match(text, at)
    at = opened.end() if opened else at
    values: list[str] = []
    while True:
        found = _ITEM.match(text, at)
        if found is None:
            raise UsageError(f"{text!r}: values with commas between them are expected after {text[:at].strip()!r}")
        values.append(_plain(found))
        at = found.end()
        comma = re.compile(r"\s*,").match(text, at)
        if comma is None:
            break
        at = comma.end()
    if opened is None:
        return values, at
    closed = re.compile(r"\s*\)").match(text, at)
    if closed is None:
        raise UsageError(f"{text!r}: the bracket before {values[0]!r} is never closed")
    return values, closed.end()


def _plain(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group is not None)
