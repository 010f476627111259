"""How long what has ended is kept: by state, and by queue where somebody says so; then nothing of it is left."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from .errors import ConfigError
from .target import check_queue_name

_DAY: Final = 24 * 3600 * 1000
MOST: Final = 100_000_000
# By state: the index that it is kept in, for how many ms, how many at most; whichever comes first.
USUAL: Final[Mapping[str, tuple[str, int, int]]] = {
    "completed": ("finished", _DAY, 10_000),
    "failed": ("failed", 30 * _DAY, 10_000),
    "cancelled": ("cancelled", _DAY, 10_000),
    "archived": ("archived", 30 * _DAY, 10_000),
}
Rule: TypeAlias = tuple[int | None, int | None]

_UNITS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": _DAY}
_TIME: Final = re.compile(r"([0-9]{1,6})([smhd])")
_COUNT: Final = re.compile(r"[0-9]{1,9}")
_EXAMPLES: Final = (
    "for example completed=24h/10000 (whichever comes first), failed=/500, or of one queue mail.failed=90d"
)


def _nothing(_queue: str, _ids: Sequence[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept of tasks, and for how long.

    ``everything``: the requests and responses of tasks that completed stay in their logs too. ``rules``: by queue (""
    for all) and state, ms and number that differ from the usual. ``forgotten`` is called, in a thread, with a queue and
    those of its tasks that were forgotten and had files.
    """

    everything: bool = False
    rules: Mapping[tuple[str, str], Rule] = field(default_factory=dict)
    forgotten: Callable[[str, Sequence[str]], object] = field(default=_nothing, compare=False)

    def limits(self, queue: str) -> Sequence[tuple[str, int, int]]:
        """Return what holds for a queue: (index, ms kept, number kept) for each state."""
        return [(index, *self._limit(queue, state, ms, count)) for state, (index, ms, count) in USUAL.items()]

    def _limit(self, queue: str, state: str, ms: int, count: int) -> tuple[int, int]:
        for name in ("", queue):
            longest, most = self.rules.get((name, state), (None, None))
            ms, count = ms if longest is None else longest, count if most is None else most
        return ms, count


def retention_rules(texts: Sequence[str]) -> dict[tuple[str, str], Rule]:
    """Return what these texts say, each of one state; raises ValueError with the rule."""
    rules: dict[tuple[str, str], Rule] = {}
    for text in texts:
        where, equals, how = text.partition("=")
        queue, dot, state = where.strip().rpartition(".")
        if not equals or state not in USUAL:
            raise ValueError(f"says {text!r}; each must be STATE=TIME/NUMBER for {', '.join(USUAL)}, {_EXAMPLES}")
        if dot:
            _check_queue(queue)
        if (queue, state) in rules:
            raise ValueError(f"says twice what counts for {where.strip()}")
        rules[queue, state] = _rule(text, how.strip())
    return rules


def _check_queue(queue: str) -> None:
    try:
        check_queue_name(queue)
    except ConfigError as error:
        raise ValueError(f"names a queue that is none: {error}") from None


def _rule(text: str, how: str) -> Rule:
    time, slash, count = how.partition("/")
    match = _TIME.fullmatch(time)
    if (time and not match) or (slash and not _COUNT.fullmatch(count)) or not (time or count):
        raise ValueError(f"says {text!r}, whose time must be a number with s, m, h or d; {_EXAMPLES}")
    return int(match[1]) * _UNITS[match[2]] if match else None, min(int(count), MOST) if slash else None
