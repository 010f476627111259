"""Looking into a queue in Redis: what waits, what ran, who consumes; and queueing again what has failed.

Everything here is for people and tools. It reads ranges and single keys; only ``queues`` goes through all of them.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, get_args

import msgpack

from ..errors import BrokerUnavailable, ConfigError
from ..inspector import Act, By, ConsumerInfo, Control, Ended, Log, QueueStats, Released, StoreInfo
from ..task import NORMAL_PRIORITY, PRIORITIES, StateName, TaskState
from .calls import Arguments

INDEXES: Final[dict[StateName, str]] = {
    "scheduled": ":scheduled",
    "prepared": ":prepared",
    "failed": ":failed",
    "completed": ":finished",
    "waiting": ":waiting",
    "cancelled": ":cancelled",
    "archived": ":archived",
}
CONTROLS: Final[tuple[Control, ...]] = get_args(Control)
# Fields of a task's log that are not what the task, or the application, has said.
_RECORD: Final = b"record"
_RELEASED: Final = b"released"
_ACT: Final = b"act:"
# What follows from the end of a task that still waits for its children.
_FOLLOWING: Final = (b"completed", b"failed")
# Where a packed state holds what tasks are found by.
_BY: Final[Mapping[By, int]] = {"owner": 17, "label": 15, "route": 18}


STATE_FIELDS: Final = 23


class Store(Protocol):
    """What the inspector needs of a RedisBroker."""

    def key(self, queue: str) -> str:
        """Return the key of a queue's list."""
        ...

    async def command(self, name: str, *arguments: str | bytes | int, deadline: float) -> Any:
        """Carry out a plain command."""
        ...

    async def script(self, name: str, queue: str, arguments: Callable[[], Arguments], *, deadline: float) -> Any:
        """Carry out a script on a queue."""
        ...


class RedisInspector:
    """The Inspector of a RedisBroker."""

    def __init__(self, broker: Store) -> None:
        """Take the broker whose connection is used."""
        self._broker = broker

    async def _ask(self, *commands: tuple[str | int, ...], deadline: float) -> list[Any]:
        """Carry out several commands in one round trip."""
        calls = [self._broker.command(str(name), *rest, deadline=deadline) for name, *rest in commands]
        return list(await asyncio.gather(*calls))

    async def stats(self, queue: str, *, deadline: float) -> QueueStats:
        """See Inspector."""
        key = self._broker.key(queue)
        counts: list[tuple[str | int, ...]] = [("ZCARD", key + suffix) for suffix in INDEXES.values()]
        clock, control, names, *counted = await self._ask(
            *(("TIME",), ("HGETALL", f"{key}:control"), ("SMEMBERS", f"{key}:consumers"), *counts),
            *(("LLEN", line) for line in lines(key)),
            deadline=deadline,
        )
        said = {name.decode(): value for name, value in zip(control[::2], control[1::2], strict=True)}
        consumers = [await self._consumer(key, name.decode(), deadline=deadline) for name in sorted(names)]
        now = int(clock[0]) * 1000 + int(clock[1]) // 1000
        ghosts, in_line = int(said.get("ghosts", 0)), sum(counted[len(INDEXES) :])
        indexed: dict[str, int] = dict(zip(INDEXES, counted, strict=False))
        return QueueStats(
            queue=queue,
            queued=max(0, in_line - ghosts),
            reserved=sum(consumer.holds for consumer in consumers),
            **indexed,
            oldest=await self._oldest(queue, now, deadline=deadline) if in_line > ghosts else 0,
            slowed=max(0, int(said.get("slowed", 0)) - now),
            consumers=consumers,
            control={name: int(said[name]) for name in CONTROLS if name in said},
            ghosts=ghosts,
        )

    async def _oldest(self, queue: str, now: int, *, deadline: float) -> int:
        """Return for how many ms the first in line has waited, in whichever line that is longest."""
        key = self._broker.key(queue)
        fronts = await self._ask(*(("LINDEX", line, -1) for line in lines(key)), deadline=deadline)
        ids = [front for front in fronts if front is not None]
        states = await self._broker.command("HMGET", f"{key}:state", *ids, deadline=deadline) if ids else []
        first = [state_of(queue, task_id.decode(), raw) for task_id, raw in zip(ids, states, strict=True) if raw]
        return max((now - task.changed for task in first), default=0)

    async def _consumer(self, key: str, name: str, *, deadline: float) -> ConsumerInfo:
        fields, holds, handed = await self._ask(
            ("HMGET", f"{key}:consumer:{name}", "host", "pid", "claimed", "beat"),
            ("LLEN", f"{key}:reserved:{name}"),
            ("HGET", f"{key}:handed", name),
            deadline=deadline,
        )
        host, pid, claimed, beat = fields
        holds += handed is not None
        return ConsumerInfo(name, (host or b"").decode(), int(pid or 0), int(claimed or 0), holds, int(beat or 0))

    async def tasks(
        self,
        queue: str,
        state: StateName,
        *,
        limit: int,
        offset: int,
        since: int | None = None,
        until: int | None = None,
        deadline: float,
    ) -> list[TaskState]:
        """See Inspector."""
        if state in INDEXES:
            key = self._broker.key(queue) + INDEXES[state]
            ids = await self._latest(key, limit, offset, since, until, deadline=deadline)
        else:
            ids = await self._ids(queue, state, limit=limit, offset=offset, deadline=deadline)
        # What is held is one list for both states, and any task may have moved on between the two questions.
        return [task for task in await self._states(queue, ids, deadline=deadline) if task.state == state]

    async def _states(self, queue: str, ids: Sequence[bytes], *, deadline: float) -> list[TaskState]:
        if not ids:
            return []
        packed = await self._broker.command("HMGET", f"{self._broker.key(queue)}:state", *ids, deadline=deadline)
        return [state_of(queue, task_id.decode(), raw) for task_id, raw in zip(ids, packed, strict=True) if raw]

    async def _latest(
        self, index: str, limit: int, offset: int, since: int | None, until: int | None, *, deadline: float
    ) -> list[bytes]:
        """Return ids of a sorted set, the latest first; ranges by score cost as little as those by rank."""
        if since is None and until is None:
            last = offset + limit - 1
            return list(await self._broker.command("ZREVRANGE", index, offset, last, deadline=deadline))
        highest, lowest = "+inf" if until is None else until, "-inf" if since is None else since
        return list(
            await self._broker.command(
                *("ZREVRANGEBYSCORE", index, highest, lowest, "LIMIT", offset, limit), deadline=deadline
            )
        )

    async def index(
        self,
        queue: str,
        by: By,
        value: str,
        *,
        limit: int,
        offset: int,
        since: int | None = None,
        until: int | None = None,
        deadline: float,
    ) -> list[TaskState]:
        """See Inspector."""
        key = f"{self._broker.key(queue)}:by:{by}:{value}"
        ids = await self._latest(key, limit, offset, since, until, deadline=deadline)
        return await self._states(queue, ids, deadline=deadline)

    async def count(self, queue: str, by: By, value: str, *, deadline: float) -> int:
        """See Inspector."""
        return int(await self._broker.command("ZCARD", f"{self._broker.key(queue)}:by:{by}:{value}", deadline=deadline))

    async def _ids(self, queue: str, state: StateName, *, limit: int, offset: int, deadline: float) -> list[Any]:
        key = self._broker.key(queue)
        if state == "queued":
            return await self._waiting(key, limit=limit, offset=offset, deadline=deadline)
        names = await self._broker.command("SMEMBERS", f"{key}:consumers", deadline=deadline)
        lists: list[tuple[str | int, ...]] = [
            ("LRANGE", f"{key}:reserved:{name.decode()}", 0, offset + limit - 1) for name in sorted(names)
        ]
        handed, *reserved = await self._ask(("HGETALL", f"{key}:handed"), *lists, deadline=deadline)
        held = [*handed[1::2], *(task_id for ids in reserved for task_id in ids)]
        return held[offset : offset + limit]

    async def _waiting(self, key: str, *, limit: int, offset: int, deadline: float) -> list[Any]:
        """Return ids in the order in which they are given out: line after line, the highest priority first."""
        found: list[Any] = []
        counts = await self._ask(*(("LLEN", line) for line in lines(key)), deadline=deadline)
        for line, count in zip(lines(key), counts, strict=True):
            if offset < count and len(found) < limit:
                last = offset + limit - len(found)
                ids = await self._broker.command("LRANGE", line, -last, -offset - 1, deadline=deadline)
                found += reversed(ids)
            offset = max(0, offset - count)
        return found

    async def log(self, queue: str, task_id: str, *, deadline: float) -> Log:
        """See Inspector."""
        flat = await self._broker.command("HGETALL", f"{self._broker.key(queue)}:log:{task_id}", deadline=deadline)
        return log_of(dict(zip(flat[::2], flat[1::2], strict=True)))

    async def record(self, queue: str, task_id: str, *, deadline: float) -> bytes | None:
        """See Inspector."""
        key = self._broker.key(queue)
        found: list[bytes | None] = await self._ask(
            ("HGET", f"{key}:records", task_id), ("HGET", f"{key}:log:{task_id}", "record"), deadline=deadline
        )
        return next((record for record in found if record is not None), None)

    async def retry(self, queue: str, tasks: Sequence[tuple[str, bytes]], *, actor: str = "", deadline: float) -> int:
        """See Inspector."""
        arguments = [actor, *(value for task in tasks for value in task)]
        return int(await self._broker.script("retry", queue, lambda: arguments, deadline=deadline))

    async def scan(self, queue: str, cursor: int, *, deadline: float) -> tuple[int, list[TaskState]]:
        """See Inspector."""
        key = f"{self._broker.key(queue)}:state"
        following, flat = await self._broker.command("HSCAN", key, cursor, "COUNT", 500, deadline=deadline)
        pairs = zip(flat[::2], flat[1::2], strict=True)
        readable = [(task_id, raw) for task_id, raw in pairs if _fields(raw) is not None]
        return int(following), [state_of(queue, task_id.decode(errors="replace"), raw) for task_id, raw in readable]

    async def store(self, *, deadline: float) -> StoreInfo:
        """See Inspector."""
        info, clock = await self._ask(("INFO",), ("TIME",), deadline=deadline)
        offset = int(clock[0]) + int(clock[1]) / 1e6 - time.time()
        lines = info_lines(info)
        return StoreInfo(
            product="valkey" if "valkey_version" in lines else "redis",
            version=lines.get("valkey_version") or lines.get("redis_version", ""),
            appendonly=None if "aof_enabled" not in lines else lines["aof_enabled"] == "1",
            fsync=await self._fsync(deadline=deadline),
            eviction=lines.get("maxmemory_policy"),
            used_bytes=int(lines.get("used_memory", 0)),
            max_bytes=int(lines.get("maxmemory", 0)),
            clock_offset=offset,
            primary=lines.get("role", "master") == "master",
            replicas=int(lines.get("connected_slaves", 0)),
        )

    async def _fsync(self, *, deadline: float) -> str | None:
        try:
            _, value = await self._broker.command("CONFIG", "GET", "appendfsync", deadline=deadline)
        except (ConfigError, ValueError):
            return None  # Many a user may not ask, and many a managed store does not answer.
        return str(value.decode())

    async def queues(self, *, deadline: float) -> list[str]:
        """See Inspector."""
        before, after = self._broker.key("\0").split("\0")
        cursor, found = b"", set[str]()
        while cursor != b"0":
            cursor, keys = await self._broker.command(
                *("SCAN", cursor or 0, "MATCH", f"{before}*{after}:[cs]*", "COUNT", 1000), deadline=deadline
            )
            for key in keys:
                queue, _, kind = key.decode(errors="replace").removeprefix(before).partition(f"{after}:")
                if kind in ("consumers", "state"):
                    found.add(queue)
        return sorted(found)


def lines(key: str) -> list[str]:
    """Return the keys of a queue's lines, of the highest priority first."""
    return [key if priority == NORMAL_PRIORITY else f"{key}:p{priority}" for priority in reversed(PRIORITIES)]


def info_lines(info: bytes) -> dict[str, str]:
    """Return what INFO says, by name."""
    return dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)


def log_of(fields: Mapping[bytes, bytes]) -> Log:
    """Return what stands in a task's log."""
    ended: list[Ended] = []
    acts: list[Act] = []
    released: Released | None = None
    said: dict[str, bytes] = {}
    for name, value in fields.items():
        if name.isdigit():
            attempt, reserved, begun, at, status, reason, consumer, verdict = msgpack.unpackb(value)
            ended.append(Ended(int(name), attempt, reserved, begun, at, status, reason, consumer, verdict))
        elif name.startswith(_ACT):
            _, at, what = name.decode().split(":", 2)
            acts.append(Act(int(at), what, value.decode(errors="replace")))
        elif name == _RELEASED:
            released = Released(*msgpack.unpackb(value))
        elif name != _RECORD and name not in _FOLLOWING:
            said[name.decode(errors="replace")] = value
    return Log(sorted(ended, key=lambda line: line.delivery), sorted(acts, key=lambda line: line.at), released, said)


def found_by(key: str, states: Iterable[tuple[bytes, bytes]]) -> dict[str, list[bytes]]:
    """Return by which owner, label and route these tasks are found: the index's key, and their ids."""
    indexes: dict[str, list[bytes]] = {}
    for task_id, raw in states:
        fields = _fields(raw)
        for by, place in _BY.items():
            if fields and fields[place]:
                indexes.setdefault(f"{key}:by:{by}:{fields[place]}", []).append(task_id)
    return indexes


def _fields(raw: bytes) -> list[Any] | None:
    """Return the fields of a packed state; None if something else wrote it."""
    try:
        fields = msgpack.unpackb(raw)
    except ValueError:
        return None
    return fields if isinstance(fields, list) and len(fields) == STATE_FIELDS else None


def state_of(queue: str, task_id: str, raw: bytes) -> TaskState:
    """Return a task's state from its packed form; raises BrokerUnavailable if something else wrote it."""
    fields = _fields(raw)
    if fields is None:
        raise BrokerUnavailable(f"task {task_id}: its state in redis is not readable")
    # All but the token of the start, which is for begin alone.
    return TaskState(task_id, queue, *fields[:12], *fields[13:])
