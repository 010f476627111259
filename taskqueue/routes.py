"""What is said by route: patterns of paths, the rules that name a queue or a category for them, and who has the say.

Of several patterns in one place that match a path, the one without wild cards counts, else the one with the most
letters of its own, else the one with fewer ``*``, else the one declared first.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Final, Generic, Protocol, TypeVar
from urllib.parse import unquote_to_bytes

import msgpack

from .errors import ConfigError, InvalidTask
from .target import check_queue_name, quote_path
from .task import Chosen, Task

UNKNOWN: Final = "unknown"
"""The category of a task of which nobody has said one."""

# A parameter as routers write it: {year}, {year:int}, <year>, <int:year>.
_PARAMETER: Final = re.compile(r"\{[^{}/]+\}|<[^<>/]+>")
_STARS: Final = re.compile(r"\*+")
_CATEGORY: Final = re.compile(r"[A-Za-z0-9_\-]{1,64}")
_LONGEST: Final = 1000


class Said(Protocol):
    """What may be said of the tasks of a path, whoever says it; None: nothing."""

    @property
    def queue(self) -> str | None:
        """The queue they go to."""
        ...

    @property
    def category(self) -> str | None:
        """What kind of work they are, one word."""
        ...

    @property
    def hidden(self) -> bool | None:
        """Whether they are left out of the lists that users see."""
        ...


Saying = TypeVar("Saying", bound=Said)
Saying_co = TypeVar("Saying_co", bound=Said, covariant=True)


class Layer(Protocol[Saying_co]):
    """One place where something is said by path."""

    def of(self, target: str) -> tuple[str, Saying_co] | None:
        """Return the pattern that counts for a request target, or for a pattern itself, and what it says."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """A rule: what counts for tasks whose path matches ``path``, unless ``add`` or the view itself says otherwise."""

    path: str
    queue: str | None = None
    category: str | None = None
    hidden: bool | None = None

    def pack(self) -> bytes:
        """Return the rule as a broker keeps it, under its path."""
        return bytes(msgpack.packb({name: value for name, value in self.said().items() if value is not None}))

    def said(self) -> dict[str, Any]:
        """Return all it says, by name."""
        return {"queue": self.queue, "category": self.category, "hidden": self.hidden}

    def __str__(self) -> str:
        """Return it for a person: ``/reports/* = slow (category export, hidden)``."""
        more = [*([f"category {self.category}"] if self.category else []), *(["hidden"] if self.hidden else [])]
        queue = f" = {self.queue}" if self.queue else ""
        return f"{self.path}{queue}" + (f" ({', '.join(more)})" if more else "")


def route(path: object, queue: object = None, category: object = None, hidden: object = None) -> Route:
    """Check a rule and return it; raises ConfigError."""
    if not isinstance(path, str):
        raise ConfigError(f"path: {path!r} must be the path of a view, as in '/reports/*'")
    try:
        Pattern(path)
    except InvalidTask as error:
        raise ConfigError(str(error)) from None
    if queue is None and category is None and hidden is None:
        raise ConfigError(f"{path}: nothing is said of it; give a queue, a category or hidden")
    if queue is not None:
        check_queue_name(queue)
    return Route(path, None if queue is None else str(queue), check_category(category), check_hidden(hidden))


def check_category(word: object) -> str | None:
    """Return the word for a kind of work; raises ConfigError."""
    if word is None:
        return None
    if not isinstance(word, str) or not _CATEGORY.fullmatch(word):
        raise ConfigError(f"category: {word!r} must be one word of letters, digits, _ and -, for example export")
    return word


def check_hidden(hidden: object) -> bool | None:
    """Return whether tasks are left out of what users see; raises ConfigError."""
    if hidden is None or isinstance(hidden, bool):
        return hidden
    raise ConfigError(f"hidden: {hidden!r} must be true or false")


def unpacked(path: str, raw: bytes) -> Route:
    """Return a rule as a broker keeps it, without what a newer release may say; raises ConfigError."""
    try:
        said = msgpack.unpackb(raw, use_list=False)
        known = {name: said.get(name) for name in ("queue", "category", "hidden")}
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: the rule kept for it is not readable ({type(error).__name__})") from None
    return route(path, **known)


class Pattern:
    """Which paths are meant. ``*`` stands for anything, ``{year}`` and ``<int:year>`` for one part between slashes."""

    def __init__(self, text: str) -> None:
        """Take it as it is written, percent-encoded or not; raises InvalidTask."""
        if not isinstance(text, str) or not text.startswith(("/", "*")) or re.search(r"[?#]", text):
            raise InvalidTask(f"path: {text!r} must be the path of a view, as in '/reports/{{year}}' or '/reports/*'")
        if len(text) > _LONGEST:
            raise InvalidTask(f"path: a pattern of {len(text)} characters is too long; at most {_LONGEST}")
        self.text: Final = text
        self.key: Final = _quoted(text)
        chunks = _STARS.split(text)
        literals = [_quoted(literal) for chunk in chunks for literal in _PARAMETER.split(chunk)]
        self.exact: Final = len(literals) == 1
        self.rank: Final = (-sum(map(len, literals)), len(chunks))
        """Of two that match, the one whose rank is lower counts."""
        first, *others = [_expression(chunk, last=place == len(chunks)) for place, chunk in enumerate(chunks, 1)]
        # What a star has reached is never given back, so that no pattern takes long, whoever wrote it.
        rest = [f"(?>.*?{chunk})" for chunk in others[:-1]] + [f".*{chunk}" for chunk in others[-1:]]
        self._expression: Final = re.compile(first + "".join(rest), re.DOTALL)

    def matches(self, path: str) -> bool:
        """Tell whether this canonical path is meant."""
        return self._expression.fullmatch(path) is not None


def _expression(chunk: str, *, last: bool) -> str:
    """Return the expression for what stands between two stars; ``last``: it ends where the path does.

    Each parameter ends at the first place that fits, for good, as a star does: only what must reach the end looks on.
    """
    first, *literals = [re.escape(_quoted(literal)) for literal in _PARAMETER.split(chunk)]
    ends = [f"[^/]+?{literals.pop()}"] if literals and last else []
    return "".join([first, *(f"(?>[^/]+?{literal})" for literal in literals), *ends])


def _quoted(text: str) -> str:
    return quote_path(unquote_to_bytes(text))


class Table(Generic[Saying]):
    """What is said in one place, by pattern."""

    def __init__(self) -> None:
        self._exact: dict[str, tuple[str, Saying]] = {}
        self._patterns: list[tuple[Pattern, Saying]] = []
        self._written: dict[str, tuple[str, Saying]] = {}

    def __len__(self) -> int:
        """Return of how many patterns something is said."""
        return len(self._written)

    def __iter__(self) -> Iterator[Saying]:
        """Yield what is said, in the order of declaration."""
        return (said for _, said in self._written.values())

    def __contains__(self, path: str) -> bool:
        """Tell whether something is said of this very pattern, however it is encoded."""
        return _quoted(path) in (_quoted(known) for known in self._written)

    def add(self, path: str, said: Saying) -> None:
        """Note what is said of a pattern; raises InvalidTask for what is none."""
        pattern = Pattern(path)
        self._written[path] = path, said
        if pattern.exact:
            self._exact[pattern.key] = path, said
        else:
            self._patterns.append((pattern, said))
            self._patterns.sort(key=lambda one: one[0].rank)

    def of(self, target: str) -> tuple[str, Saying] | None:
        """See Layer."""
        if not self._written:
            return None
        path = target.partition("?")[0]
        found = self._exact.get(path) or self._written.get(path)
        if found is not None:
            return found
        return next(((pattern.text, said) for pattern, said in self._patterns if pattern.matches(path)), None)


def table_of(routes: Iterable[Route]) -> Table[Route]:
    """Return these rules as a table."""
    table: Table[Route] = Table()
    for one in routes:
        table.add(one.path, one)
    return table


@dataclass(frozen=True)
class Routes:
    """The rules that an application's tasks follow: those kept in the broker, as last read, and those in the file."""

    broker: Table[Route]
    file: Table[Route]

    @cached_property
    def queues(self) -> tuple[str, ...]:
        """Every queue that one of them names, sorted."""
        return tuple(sorted({one.queue for table in (self.broker, self.file) for one in table if one.queue}))

    def leading_to(self, name: str) -> str:
        """Return a pattern whose tasks go to this queue, "" if no rule names it."""
        return next((one.path for table in (self.broker, self.file) for one in table if one.queue == name), "")


NO_ROUTES: Final = Routes(Table(), Table())


def with_ruled(queues: Sequence[str], routes: Routes) -> tuple[str, ...]:
    """Return these queues, and then those that only a rule names."""
    return tuple(dict.fromkeys((*queues, *routes.queues)))


def choose(
    target: str, *, own: str | None, view: tuple[str, Said] | None, routes: Routes
) -> tuple[str | None, str, Chosen]:
    """Return the queue of a task, None for the default one, its route, and who has chosen, short of the broker's rules.

    ``own`` is what ``add`` has named, ``view`` what the view says of itself. The route is the pattern that has chosen,
    or, of a queue that no pattern has chosen, the first that matches.
    """
    rule = routes.file.of(target)
    matched = view or rule
    pattern = "" if matched is None else matched[0]
    if own is not None:
        return own, pattern, Chosen.ADD
    if view is not None and view[1].queue is not None:
        return view[1].queue, view[0], Chosen.VIEW
    if rule is not None and rule[1].queue is not None:
        return rule[1].queue, rule[0], Chosen.FILE
    return None, pattern, Chosen.DEFAULT


def routed(tasks: Sequence[Task], rules: Table[Route]) -> Sequence[Task]:
    """Return these tasks as the rules in the broker have it; those whose queue was chosen by somebody stronger stay."""
    return [_routed(task, rules) for task in tasks] if len(rules) else tasks


def _routed(task: Task, rules: Table[Route]) -> Task:
    found = rules.of(task.target)
    if found is None:
        return task
    path, rule = found
    if rule.queue is not None and task.chosen < Chosen.BROKER:
        return replace(task, queue=rule.queue, route=path, chosen=Chosen.BROKER)
    return task if task.route else replace(task, route=path)


def category_of(path: str, layers: Sequence[Layer[Said]]) -> str:
    """Return the category of a path, or of a route; the first layer that says one counts, ``unknown`` if none does."""
    return next((said.category for said in _said(path, layers) if said.category is not None), UNKNOWN)


def is_hidden(path: str, layers: Sequence[Layer[Said]]) -> bool:
    """Tell whether tasks of a path, or of a route, are left out of the lists that users see."""
    return next((said.hidden for said in _said(path, layers) if said.hidden is not None), False)


def _said(path: str, layers: Sequence[Layer[Said]]) -> Iterator[Said]:
    return (found[1] for layer in layers if (found := layer.of(path)) is not None)


# As a person writes them.

_KEYS: Final = tuple(field.name for field in fields(Route))


def from_settings(value: object) -> tuple[Route, ...]:
    """Return rules as a file has them, tables with ``path`` and more, or a variable: ``/reports/*=slow,/mail/*=mail``.

    Raises ConfigError, naming the table by number and path.
    """
    given = _pairs(value) if isinstance(value, str) else value
    if not isinstance(given, Sequence) or isinstance(given, bytes):
        raise ConfigError("route: must be tables, each [[route]] with a path, and queue, category or hidden")
    found: Table[Route] = Table()
    for number, item in enumerate(given, 1):
        try:
            one = _of_table(item, found)
        except ConfigError as error:
            raise ConfigError(f"route: number {number}: {error}") from None
        found.add(one.path, one)
    return tuple(found)


def _of_table(item: object, found: Table[Route]) -> Route:
    one = item if isinstance(item, Route) else route(**_checked(item))
    if one.path in found:
        raise ConfigError(f"{one.path}: there are two rules of it; one is enough")
    return one


def _checked(item: object) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise ConfigError(f"{item!r} must be a table, as in [[route]] with path = '/reports/*' and queue = 'slow'")
    unknown = [str(key) for key in item if key not in _KEYS]
    if unknown:
        raise ConfigError(f"{item.get('path', '')}: no such key: {unknown[0]}; known are {', '.join(_KEYS)}")
    if "path" not in item:
        raise ConfigError("path is missing, as in path = '/reports/*'")
    return item


def _pairs(text: str) -> list[dict[str, str]]:
    pairs = [part.strip().rpartition("=") for part in text.split(",") if part.strip()]
    return [{"path": path.strip(), "queue": queue.strip()} for path, _, queue in pairs]


def shown(value: object) -> object:
    """Return rules as a person reads them."""
    return tuple(map(str, value)) if isinstance(value, tuple) else value
