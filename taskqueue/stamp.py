"""Times on the wire: RFC 3339 in UTC with three decimals, as in ``2026-01-31T09:30:00.250Z``, up to the year 9999."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

_SECOND: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)  # its isoformat names no offset
# What follows the second: there are no more than these.
_ENDINGS: Final = tuple(f".{rest:03}Z" for rest in range(1000))
_RESTS: Final = {ending: rest for rest, ending in enumerate(_ENDINGS)}


def stamp(milliseconds: int) -> str:
    """Return a time in milliseconds since 1970 as text."""
    seconds, rest = divmod(milliseconds, 1000)
    return _text(seconds) + _ENDINGS[rest]


def read(value: str) -> int:
    """Return the milliseconds since 1970; raises ValueError for what ``stamp`` does not write."""
    rest = _RESTS.get(value[19:])
    if rest is None:
        raise ValueError("not a time")
    return _milliseconds(value[:19]) + rest


# Tasks that are added or delivered together share the second.
@lru_cache(maxsize=64)
def _text(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()


@lru_cache(maxsize=64)
def _milliseconds(second: str) -> int:
    if not _SECOND.fullmatch(second):
        raise ValueError("not a time")
    return (datetime.fromisoformat(second) - _EPOCH) // timedelta(seconds=1) * 1000
