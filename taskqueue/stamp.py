"""Times on the wire: RFC 3339 in UTC with three decimals, as in ``2026-01-31T09:30:00.250Z``, up to the year 9999."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

_SECOND: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)  # its isoformat names no offset


def stamp(milliseconds: int) -> str:
    """Return a time in milliseconds since 1970 as text."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_text(seconds)}.{rest:03}Z"


def read(value: str) -> int:
    """Return the milliseconds since 1970; raises ValueError for what ``stamp`` does not write."""
    second, rest, zone = value[:20], value[20:23], value[23:]
    if zone != "Z" or len(rest) != 3 or not (rest.isascii() and rest.isdigit()):
        raise ValueError("not a time")
    return _milliseconds(second) + int(rest)


# Tasks that are added or delivered together share the second.
@lru_cache(maxsize=64)
def _text(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()


@lru_cache(maxsize=64)
def _milliseconds(second: str) -> int:
    if not _SECOND.fullmatch(second):
        raise ValueError("not a time")
    return (datetime.fromisoformat(second[:-1]) - _EPOCH) // timedelta(seconds=1) * 1000
