"""The values everything else passes around: frozen, without behaviour beyond their own encoding.

A Task is what was recorded and never changes. What happens to it (its TaskState) lives beside it in the broker, is
small, and is written by the broker alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import product
from typing import Final, Literal, TypeAlias

import msgpack

from .errors import RecordError
from .fast_init import by_place, fast_init

StateName: TypeAlias = Literal[
    "prepared", "scheduled", "queued", "reserved", "running", "waiting", "completed", "failed", "cancelled", "archived"
]

# Priorities are those of Jakarta Messaging (JMSPriority): 0 to 9, the highest first, 4 unless somebody says otherwise.
NORMAL_PRIORITY: Final = 4
PRIORITIES: Final = range(10)

# A task's flags: its parent waits for it; its own end is its own, whatever its children come to; it was taken out of
# the line, and its id is still there. Above these stands who has chosen its queue.
CHILD: Final = 1
MASTER: Final = 2
GHOST: Final = 4
CHOSEN_SHIFT: Final = 3
CHOSEN_MASK: Final = 7

MAX_RECORD_BYTES: Final = 64 * 1024 * 1024
# An array is given its room before its items are seen, at every level of nesting.
MAX_ARRAY: Final = 16384


class Chosen(IntEnum):
    """Who has chosen a task's queue: the weakest first, each giving way to those after it."""

    UNKNOWN = 0
    DEFAULT = 1
    FILE = 2
    BROKER = 3
    VIEW = 4
    ADD = 5

    def __str__(self) -> str:
        """Return it for a person."""
        return _CHOSEN_BY[self]


_CHOSEN_BY: Final = {
    Chosen.UNKNOWN: "",
    Chosen.DEFAULT: "no rule: the default queue",
    Chosen.FILE: "a rule in the file",
    Chosen.BROKER: "a rule in the broker",
    Chosen.VIEW: "the view's defaults",
    Chosen.ADD: "add itself",
}


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One recorded HTTP request.

    ``target`` is the canonical path and query; ``headers`` are (lower-case name, value) pairs, never framing and never
    ours; ``host`` and ``scheme`` are those the public used (may be empty: the consumer's target's then); times are
    milliseconds since 1970. ``timeout`` is in seconds; None means the consumer's default, as for ``retry_max_count``.
    ``parent`` is the task whose delivery has added this one, and waits for it if this is its ``child``;
    ``master_status``: what becomes of children of its own does not change its end. ``route``: the pattern of its path
    that somebody has named; ``chosen``: who has chosen the queue. ``on_success`` and ``on_failure`` are targets of
    tasks that follow from its end.
    """

    id: str
    queue: str
    method: str
    target: str
    host: str = ""
    scheme: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    user_id: str | None = None
    created: int = 0
    expires: int = 0
    due: int = 0
    label: str = ""
    timeout: float | None = None
    retry_max_count: int | None = None
    priority: int = NORMAL_PRIORITY
    parent: str = ""
    route: str = ""
    child: bool = False
    master_status: bool = False
    on_success: str = ""
    on_failure: str = ""
    chosen: Chosen = field(default=Chosen.UNKNOWN, compare=False)

    @property
    def path(self) -> str:
        """The target without its query: this part may be shown and logged."""
        return self.target.partition("?")[0]

    @property
    def size(self) -> int:
        """Bytes of target, headers and body (a header's name and value, and four bytes a line)."""
        size = len(self.target) + len(self.body)
        for name, value in self.headers:
            size += len(name) + len(value) + 4
        return size

    def encode(self) -> bytes:
        """Return the part of the task that is sealed, as msgpack; what a broker may read travels beside it."""
        fields = (
            self.method,
            self.target,
            self.host,
            self.scheme,
            self.headers,
            self.body,
            self.user_id,
            self.created,
            self.expires,
            self.label,
            self.timeout,
            self.retry_max_count,
            self.parent,
            self.route,
            self.child,
            self.master_status,
            self.on_success,
            self.on_failure,
        )
        packed: bytes = msgpack.Packer().pack(fields)
        return packed

    @staticmethod
    def decode(task_id: str, queue: str, raw: bytes) -> "Task":
        """Take what ``encode`` made and return the task; raise RecordError (``format``) for anything else.

        Limits: 64 MiB in all, 16384 headers; no maps, no extension types, no trailing bytes, exactly the fields
        expected.
        """
        if len(raw) > MAX_RECORD_BYTES:
            raise RecordError("format", f"task {task_id}: the record has {len(raw)} bytes, over {MAX_RECORD_BYTES}")
        try:
            fields = msgpack.unpackb(
                raw, use_list=False, ext_hook=_refuse_extension, max_array_len=MAX_ARRAY, max_map_len=0, max_ext_len=0
            )
        except ValueError as error:
            kind = type(error).__name__
            raise RecordError("format", f"task {task_id}: the record is not msgpack ({kind})") from error
        # msgpack makes values of exactly these types; so a bool is no number here.
        if not isinstance(fields, tuple) or tuple(map(type, fields)) not in _SHAPES:
            raise RecordError("format", f"task {task_id}: {_misfit(fields)}")
        for pair in fields[4]:
            if not (type(pair) is tuple and len(pair) == 2 and type(pair[0]) is type(pair[1]) is str):
                raise RecordError("format", f"task {task_id}: headers in the record are not pairs of text")
        return _decoded(task_id, queue, *fields)


_FIELD_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "method": (str,),
    "target": (str,),
    "host": (str,),
    "scheme": (str,),
    "headers": (tuple,),
    "body": (bytes,),
    "user_id": (str, type(None)),
    "created": (int,),
    "expires": (int,),
    "label": (str,),
    "timeout": (int, float, type(None)),
    "retry_max_count": (int, type(None)),
    "parent": (str,),
    "route": (str,),
    "child": (bool,),
    "master_status": (bool,),
    "on_success": (str,),
    "on_failure": (str,),
}
# Records of before there were parents and routes, which have their defaults then.
_FIELDS_ONCE: Final = 12
# The types that the fields of a record may have together: looked up at once.
_SHAPES: Final = frozenset(
    shape[:count] for shape in product(*_FIELD_TYPES.values()) for count in (_FIELDS_ONCE, len(_FIELD_TYPES))
)
_decoded: Final = by_place(Task, "id", "queue", *_FIELD_TYPES)


def _misfit(fields: object) -> str:
    """Return what is wrong with fields of no known shape."""
    if isinstance(fields, tuple) and len(fields) in (_FIELDS_ONCE, len(_FIELD_TYPES)):
        for (name, kinds), value in zip(_FIELD_TYPES.items(), fields, strict=False):
            if type(value) not in kinds:
                return f"{name} in the record is a {type(value).__name__}"
    return "the record has not the fields of a task"


def _refuse_extension(code: int, _data: bytes) -> object:
    raise ValueError(f"extension type {code}")


@fast_init
@dataclass(frozen=True, slots=True)
class SealedTask:
    """A task as a broker stores it: the sealed record, and the few things that may be read without the secret.

    ``due`` is in ms since 1970; 0 means at once, a negative number a delay in ms that counts from the commit.
    ``owner`` is the index of its user (see ``keys.owner_index``), "" for nobody; ``flags`` a sum of CHILD, MASTER and
    who has chosen its queue.
    """

    id: str
    queue: str
    record: bytes
    due: int
    method: str
    path: str
    label: str
    priority: int = NORMAL_PRIORITY
    owner: str = ""
    route: str = ""
    parent: str = ""
    flags: int = 0

    @property
    def values(self) -> tuple[str | bytes | int, ...]:
        """What a store is told of it, in this order."""
        return (
            self.id,
            self.record,
            self.due,
            self.method,
            self.path,
            self.label,
            self.priority,
            self.owner,
            self.route,
            self.parent,
            self.flags,
        )


@fast_init
@dataclass(frozen=True, slots=True)
class Reservation:
    """One delivery of one task to one consumer.

    ``delivery`` only grows and fences late answers; ``attempt`` counts spent tries, this one included, and a release
    gives it back; ``crashes`` counts the consumers that died with it.
    """

    id: str
    queue: str
    record: bytes
    delivery: int
    attempt: int
    crashes: int


@fast_init
@dataclass(frozen=True, slots=True)
class Verdict:
    """What an outcome means: ``complete``, ``retry`` in ``delay`` seconds, ``fail`` because of ``reason``, ``release``.

    ``status`` is the response's, or 0 when there was none; ``slow`` is for how many seconds the application asked that
    the whole queue be left alone.
    """

    kind: Literal["complete", "retry", "fail", "release"]
    reason: str = ""
    status: int = 0
    delay: float = 0.0
    slow: float = 0.0


@dataclass(frozen=True, slots=True)
class Response:
    """What the application last answered to a task that failed or is retried: the first 16 KiB of its content.

    ``kept`` is how many bytes are kept of the content: if there are more than these, all of them are in a file (see
    ``Storage.open_response``). ``size`` is how many it had. Neither can be less than what is here.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    content: bytes
    kept: int = 0
    size: int = 0

    def __post_init__(self) -> None:
        """Raise the numbers to what is here: of short ones nobody says them."""
        object.__setattr__(self, "kept", max(self.kept, len(self.content)))
        object.__setattr__(self, "size", max(self.size, self.kept))


@fast_init
@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of one delivery, as told to the broker.

    ``response`` is the last one, sealed, to be kept. ``on_success`` and ``on_failure`` are the tasks that are queued
    when this one has completed or failed.
    """

    id: str
    delivery: int
    verdict: Verdict
    response: bytes = b""
    on_success: SealedTask | None = None
    on_failure: SealedTask | None = None


@fast_init
@dataclass(frozen=True, slots=True)
class TaskState:
    """Where a task is and what has happened to it; times are milliseconds of the broker's clock, 0 if not yet.

    ``reserved`` and ``begun`` are of the latest delivery; ``status`` and ``reason`` of the latest outcome; ``holder``
    is the consumer that has it, or had it last. ``open`` counts its children that have not ended, ``spoilt`` those that
    have failed; else as in SealedTask.
    """

    id: str
    queue: str
    state: StateName
    delivery: int
    attempt: int
    crashes: int
    added: int
    due: int
    reserved: int
    begun: int
    changed: int
    status: int
    reason: str
    holder: str
    method: str
    path: str
    label: str
    priority: int = NORMAL_PRIORITY
    owner: str = ""
    route: str = ""
    parent: str = ""
    flags: int = 0
    open: int = 0
    spoilt: int = 0

    @property
    def chosen(self) -> Chosen:
        """Who has chosen its queue."""
        number = self.flags >> CHOSEN_SHIFT & CHOSEN_MASK
        return Chosen(number) if number <= Chosen.ADD else Chosen.UNKNOWN


def total_bytes(tasks: Sequence[SealedTask]) -> int:
    """Return how many bytes the records of these tasks have together."""
    return sum(len(task.record) for task in tasks)
