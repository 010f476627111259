"""What a task reports of its work: a tree of messages, as values and as JSON.

A message made of a template and the values in it keeps both beside the finished text, so that whoever shows it may
translate it. A tree says what the worst of its nodes says, at any depth: one error, and the task has failed.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias, cast

from .errors import InvalidReport

Type: TypeAlias = Literal["info", "success", "warning", "error"]
Value: TypeAlias = str | int | float | bool | None
"""What may stand for a name in a template."""

TYPES: Final[tuple[Type, ...]] = ("info", "success", "warning", "error")  # the last of them in a tree counts for it
MEDIA_TYPE: Final = "application/vnd.taskqueue.report+json"
MAX_LEVELS: Final = 20
MAX_NODES: Final = 1000
MAX_BYTES: Final = 64 * 1024

_NAMED: Final = re.compile(r"\{\{|\}\}|\{([^\W\d]\w*)\}|[{}]")
_KEYS: Final = frozenset(("type", "message", "data", "children", "template", "interpolation"))
_CHILDREN: Final = len(b',"children":[],')


class _Tally:
    """What one tree holds so far, known to all its nodes; ``closed`` says why nothing can be added."""

    def __init__(self) -> None:
        self.nodes, self.bytes, self.closed = 0, 0, ""

    def take(self, nodes: int, size: int, levels: int) -> None:
        """Count these in; raises InvalidReport."""
        if self.closed:
            raise InvalidReport(f"report: {self.closed}")
        for name, found, most in (
            ("levels", levels, MAX_LEVELS),
            ("nodes", self.nodes + nodes, MAX_NODES),
            ("bytes as JSON", self.bytes + size, MAX_BYTES),
        ):
            if found > most:
                raise InvalidReport(
                    f"report: it would have {found} {name}, over the limit of {most}; report a summary, and save the"
                    " details as a file (taskqueue.storage)"
                )
        self.nodes, self.bytes = self.nodes + nodes, self.bytes + size


class Report:
    """A message of one type, with data, and reports below it.

    ``type`` is info, success, warning or error. Of ``message`` and the ``interpolation`` given as keywords, ``{name}``
    in the message standing for the value of that name (text, number, bool or None; ``{{`` is a brace), the finished
    text is kept as ``message`` and the message as it was as ``template``; without keywords it is a text like any other.
    ``data`` is any JSON value. Raises InvalidReport for anything else, and over 20 levels, 1000 nodes or 64 KiB.
    """

    __slots__ = ("_children", "_level", "_tally", "data", "interpolation", "message", "template", "type")

    def __init__(
        self,
        kind: str,
        message: str,
        /,
        data: object = None,
        *,
        children: Iterable["Report"] = (),
        **interpolation: Value,
    ) -> None:
        template = message if interpolation else ""
        if interpolation:
            message = _filled(_text("message", message), _checked(interpolation))
        self._set(kind, message, data, template, interpolation)
        for child in children:
            self.attach(child)

    def _set(self, kind: object, message: object, data: object, template: str, named: Mapping[str, Value]) -> None:
        if kind not in TYPES:
            raise InvalidReport(f"type: {str(kind)[:40]!r} must be one of {', '.join(TYPES)}")
        self.type: Type = kind
        self.message: str = _text("message", message)
        self.data: Any = json.loads(_encoded("data", data))  # a copy of its own: the caller's may change
        self.template, self.interpolation = template, dict(named)
        self._children: list[Report] = []
        self._level = 1
        self._tally = _Tally()
        self._tally.take(1, len(_encoded("message", self._head())) + _CHILDREN, 1)

    def __repr__(self) -> str:
        below = f", {len(self._children)} below" if self._children else ""
        return f"Report({self.type!r}, {self.message[:100]!r}{below})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Report) and self.as_json() == other.as_json()

    __hash__ = None  # type: ignore[assignment]  # it grows

    @property
    def children(self) -> tuple["Report", ...]:
        """The reports below this one, in order."""
        return tuple(self._children)

    @property
    def worst(self) -> Type:
        """The type that counts for the whole tree: error before warning before success before info."""
        return TYPES[max(TYPES.index(node.type) for node in self.walk())]

    def add(
        self,
        kind: str,
        message: str,
        /,
        data: object = None,
        *,
        children: Iterable["Report"] = (),
        **interpolation: Value,
    ) -> "Report":
        """Make a report below this one and return it; takes and raises what Report does."""
        return self.attach(Report(kind, message, data, children=children, **interpolation))

    def attach(self, child: "Report") -> "Report":
        """Put a report below this one, with all below it, and return it; raises InvalidReport."""
        if not isinstance(child, Report):
            raise InvalidReport(f"children: {type(child).__name__} is no taskqueue.Report")
        if child._level != 1 or child._tally is self._tally:
            raise InvalidReport("children: a report has one place only; make another one")
        below = list(child.walk())
        levels = self._level + max(node._level for node in below)
        self._tally.take(child._tally.nodes, child._tally.bytes, levels)
        for node in below:
            node._tally, node._level = self._tally, node._level + self._level
        self._children.append(child)
        return child

    def walk(self) -> Iterator["Report"]:
        """Yield this report and all below it, each before those below it."""
        waiting: list[Report] = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node._children))

    def close(self, why: str) -> None:
        """Let nothing be added any more, anywhere in this tree; ``why`` stands in the error that says so."""
        self._tally.closed = why

    def translated(self, translate: Callable[[str], str]) -> str:
        """Return the message in another language; ``translate`` gets the template, or the message if it has none.

        A translation with a name that has no value is not used.
        """
        if not self.template:
            return translate(self.message)
        try:
            return _filled(translate(self.template), self.interpolation)
        except InvalidReport:
            return self.message

    def as_json(self) -> dict[str, Any]:
        """Return the tree as JSON has it."""
        return {**self._head(), "children": [child.as_json() for child in self._children]}

    def encode(self) -> bytes:
        """Return the tree as JSON."""
        return _encoded("report", self.as_json())

    def _head(self) -> dict[str, Any]:
        head: dict[str, Any] = {"type": self.type, "message": self.message, "data": self.data}
        if self.template:
            head |= {"template": self.template, "interpolation": self.interpolation}
        return head

    @classmethod
    def around(cls, message: str, /, **interpolation: Value) -> "Report":
        """Return what stands around the several reports of one task, and counts for no limit."""
        made = cls("info", message, children=(), **interpolation)
        made._level = made._tally.nodes = made._tally.bytes = 0
        return made

    @classmethod
    def decode(cls, raw: bytes) -> "Report":
        """Return the report in what ``encode`` made, also ``around`` others; raises InvalidReport."""
        return _parsed(raw, around=True)


def parse(raw: bytes) -> Report:
    """Return the report in somebody's JSON.

    It must be an object with ``type`` and ``message``, and may have ``data``, ``children``, and both ``template`` and
    ``interpolation``: nothing else, no key twice, no NaN, at most 64 KiB. Raises InvalidReport.
    """
    if len(raw) > MAX_BYTES:
        raise InvalidReport(f"report: more than {MAX_BYTES} bytes of JSON")
    return _parsed(raw, around=False)


def instead(state: str, reason: str = "", status: int = 0) -> Report | None:
    """Return what is shown of a task in this state that has reported nothing; None before its end.

    Of a failure no more than its reason and the response's status: what went wrong is in the application's log.
    """
    if state == "completed":
        return Report("info", "The task completed and reported nothing.")
    if state == "failed":
        return Report("error", "The task failed ({reason}, status {status}).", reason=reason, status=status)
    return None


def _parsed(raw: bytes, *, around: bool) -> Report:
    try:
        found = json.loads(raw, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidReport(f"report: this is not JSON ({type(error).__name__})") from None
    return _tree(found, 0 if around else 1)


def _tree(found: object, level: int) -> Report:
    if not isinstance(found, dict) or not _KEYS.issuperset(found) or not {"type", "message"} <= found.keys():
        raise InvalidReport(f"report: each must be an object with type and message; known are {', '.join(_KEYS)}")
    template, named, children = found.get("template", ""), found.get("interpolation", {}), found.get("children", [])
    if not isinstance(children, list) or not isinstance(template, str) or not isinstance(named, dict):
        raise InvalidReport("report: children must be a list, template a text, interpolation an object")
    if level > MAX_LEVELS:
        raise InvalidReport(f"report: more than {MAX_LEVELS} levels")
    node = Report.__new__(Report)
    node._set(found["type"], found["message"], found.get("data"), template, _checked(named))
    if level == 0:
        node._level = node._tally.nodes = node._tally.bytes = 0
    for child in children:
        node.attach(_tree(child, level + 1))
    return node


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidReport(f"{name}: a text is needed, not {type(value).__name__ if value != '' else 'nothing'}")
    return value


def _checked(interpolation: Mapping[str, object]) -> Mapping[str, Value]:
    for name, value in interpolation.items():
        if not isinstance(value, str | int | float | None):
            raise InvalidReport(f"{name}: text, a number, a bool or None is needed, not {type(value).__name__}")
    return cast("Mapping[str, Value]", interpolation)


def _filled(template: str, values: Mapping[str, Value]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        if found[1] is None or found[1] not in values:
            raise InvalidReport(
                f"message: {found[0]} has no value; give it as a keyword, or write {{{{ and }}}} for braces"
            )
        return str(values[found[1]])

    return _NAMED.sub(value, template)


def _encoded(name: str, value: object) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidReport(f"{name}: it must be what JSON can say, and UTF-8: {error}") from None
