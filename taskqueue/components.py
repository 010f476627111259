"""Which components of a delivery its signature covers: they follow from the names of its headers.

Requests come with the same names again and again, so what follows from a list of names is remembered.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Final, TypeAlias

from .errors import SignatureError

HeaderPairs: TypeAlias = Sequence[tuple[str, str]]

PREFIX: Final = "x-task-"
DIGEST: Final = "content-digest"
_DERIVED: Final = ("@method", "@authority", "@path", "@query")
_ALWAYS: Final = frozenset(
    {
        "x-task-id",
        "x-task-queue",
        "x-task-attempt",
        "x-task-delivery",
        "x-task-max-attempts",
        "x-task-enqueued-at",
        "x-task-deadline",
        "idempotency-key",
        DIGEST,
    }
)
_WHEN_SENT: Final = ("content-type", "cookie", "authorization")
_OWN: Final = (DIGEST, "signature-input", "signature")
# Sent once and in one spelling. Host is among them because two of them could prove one name and show another.
_ONCE: Final = _ALWAYS.union(_WHEN_SENT, _OWN, ("x-task-user-id", "host"))

_TASK_HEADER: Final = re.compile(r"x-task-[a-z0-9-]*[a-z0-9]")
# A list of more than so many is a stranger's, and not remembered.
MANY: Final = 64
_NAME: Final = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Layout:
    """What follows from a list of header names, for a signature.

    ``own``: the places of the headers that signing adds, by their names; ``missing``: what every delivery has, and is
    not among these; ``listed``: the names of all that is covered, in the profile's order, serialised, and ``base``: see
    ``base_of``; ``places``: where the headers of those stand, in this order, Content-Digest first if it is there, and
    ``index``: which of these each name is.
    """

    own: Mapping[str, int]
    missing: frozenset[str]
    listed: str
    base: tuple[str, ...]
    places: tuple[int, ...]
    index: Mapping[str, int]

    def values(self, headers: HeaderPairs) -> list[str]:
        """Return the values of the components that are headers."""
        return [headers[place][1].strip(" \t") for place in self.places]

    def added(self, headers: HeaderPairs, name: str) -> str:
        """Return the value of a header that signing adds, empty without it."""
        place = self.own.get(name)
        return "" if place is None else headers[place][1].strip(" \t")


def layout(headers: HeaderPairs) -> Layout:
    """Return what follows from the names of these headers; refuse a second one this profile knows, or spelt otherwise.

    Raises SignatureError.
    """
    names = tuple(map(_NAME, headers))
    return _layout(names) if len(names) <= MANY else _layout.__wrapped__(names)


@lru_cache(maxsize=128)
def _layout(names: tuple[str, ...]) -> Layout:
    known = _known(names)
    task = sorted(name for name in known if name.startswith(PREFIX))
    said = tuple(name for name in (*task, "idempotency-key", *_WHEN_SENT) if name in known)
    sent = (DIGEST, *said) if DIGEST in known else said
    components = (*_DERIVED, DIGEST, *said)
    listed = '" "'.join(components)
    return Layout(
        own={name: known[name] for name in _OWN if name in known},
        missing=_ALWAYS.difference(known),
        listed=f'("{listed}")',
        base=base_of(components),
        places=tuple(known[name] for name in sent),
        index={name: index for index, name in enumerate(sent)},
    )


def base_of(components: Sequence[str]) -> tuple[str, ...]:
    """Return a signature base without its values: what stands before each of them, and after each an empty place."""
    lines = (f'"{name}": ' for name in (*components, "@signature-params"))
    return tuple(piece for number, line in enumerate(lines) for piece in ("\n" * (number > 0) + line, ""))


def _known(names: tuple[str, ...]) -> Mapping[str, int]:
    """Return the names of these that the profile knows, in lower case, with their places; refuse as ``layout``."""
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        lower = name.lower()
        if lower not in _ONCE:
            folded = lower.replace("_", "-")
            if not folded.startswith(PREFIX) and folded not in _ONCE:
                continue
            if not _TASK_HEADER.fullmatch(lower):
                raise refused(f"header {name[:64]!r}: only letters, digits and - may be in its name")
        if lower in places:
            raise refused(f"header {lower[:64]!r} is sent more than once")
        if not name.isascii():
            raise refused(f"header {name[:64]!r}: its name is not ASCII")
        places[lower] = place
    return places


def refused(message: str) -> SignatureError:
    """Return the error for a request that no door would take."""
    return SignatureError("signature", message)
