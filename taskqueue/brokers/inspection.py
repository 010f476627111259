"""Looking into a queue in Redis: what waits, what ran, who consumes; and queueing again what has failed.

Everything here is for people and tools. It reads ranges and single keys; only ``queues`` goes through all of them.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, get_args

import msgpack

from ..broker import ConsumerInfo, Control, Ended, QueueStats, StoreInfo
from ..errors import BrokerUnavailable, ConfigError
from ..task import NORMAL_PRIORITY, PRIORITIES, StateName, TaskState
from .calls import Arguments

INDEXES: Final[dict[StateName, str]] = {
    "scheduled": ":scheduled",
    "prepared": ":prepared",
    "failed": ":failed",
    "completed": ":finished",
}
CONTROLS: Final[tuple[Control, ...]] = get_args(Control)
# The last response in a task's log; its other fields are deliveries.
RESPONSE: Final = b"response"


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
        scheduled, prepared, failed, completed, clock, control, names, *queued = await self._ask(
            *(*counts, ("TIME",), ("HGETALL", f"{key}:control"), ("SMEMBERS", f"{key}:consumers")),
            *(("LLEN", line) for line in lines(key)),
            deadline=deadline,
        )
        said = {name.decode(): value for name, value in zip(control[::2], control[1::2], strict=True)}
        consumers = [await self._consumer(key, name.decode(), deadline=deadline) for name in sorted(names)]
        now = int(clock[0]) * 1000 + int(clock[1]) // 1000
        return QueueStats(
            queue=queue,
            queued=sum(queued),
            scheduled=scheduled,
            prepared=prepared,
            reserved=sum(consumer.holds for consumer in consumers),
            failed=failed,
            completed=completed,
            oldest=await self._oldest(queue, now, deadline=deadline) if sum(queued) else 0,
            slowed=max(0, int(said.get("slowed", 0)) - now),
            consumers=consumers,
            control={name: int(said[name]) for name in CONTROLS if name in said},
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
        fields, holds = await self._ask(
            ("HMGET", f"{key}:consumer:{name}", "host", "pid", "claimed", "beat"),
            ("LLEN", f"{key}:reserved:{name}"),
            deadline=deadline,
        )
        host, pid, claimed, beat = fields
        return ConsumerInfo(name, (host or b"").decode(), int(pid or 0), int(claimed or 0), holds, int(beat or 0))

    async def tasks(self, queue: str, state: StateName, *, limit: int, offset: int, deadline: float) -> list[TaskState]:
        """See Inspector."""
        ids = await self._ids(queue, state, limit=limit, offset=offset, deadline=deadline)
        if not ids:
            return []
        key = f"{self._broker.key(queue)}:state"
        packed = await self._broker.command("HMGET", key, *ids, deadline=deadline)
        found = [state_of(queue, task_id.decode(), raw) for task_id, raw in zip(ids, packed, strict=True) if raw]
        # What is held is one list for both states, and any task may have moved on between the two questions.
        return [task for task in found if task.state == state]

    async def _ids(self, queue: str, state: StateName, *, limit: int, offset: int, deadline: float) -> list[Any]:
        key = self._broker.key(queue)
        last = offset + limit - 1
        if state == "queued":
            return await self._waiting(key, limit=limit, offset=offset, deadline=deadline)
        if state in ("reserved", "running"):
            names = await self._broker.command("SMEMBERS", f"{key}:consumers", deadline=deadline)
            lists: list[tuple[str | int, ...]] = [
                ("LRANGE", f"{key}:reserved:{name.decode()}", 0, last) for name in sorted(names)
            ]
            held = [task_id for ids in await self._ask(*lists, deadline=deadline) for task_id in ids]
            return held[offset : offset + limit]
        if state in INDEXES:
            return list(await self._broker.command("ZREVRANGE", key + INDEXES[state], offset, last, deadline=deadline))
        return []

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

    async def life(self, queue: str, task_id: str, *, deadline: float) -> list[Ended]:
        """See Inspector."""
        flat = await self._broker.command("HGETALL", f"{self._broker.key(queue)}:log:{task_id}", deadline=deadline)
        lines = []
        for delivery, raw in zip(flat[::2], flat[1::2], strict=True):
            if delivery == RESPONSE:
                continue
            attempt, reserved, begun, ended, status, reason, consumer, verdict = msgpack.unpackb(raw)
            lines.append(Ended(int(delivery), attempt, reserved, begun, ended, status, reason, consumer, verdict))
        return sorted(lines, key=lambda line: line.delivery)

    async def record(self, queue: str, task_id: str, *, deadline: float) -> bytes | None:
        """See Inspector."""
        raw = await self._broker.command("HGET", f"{self._broker.key(queue)}:records", task_id, deadline=deadline)
        return None if raw is None else bytes(raw)

    async def response(self, queue: str, task_id: str, *, deadline: float) -> bytes | None:
        """See Inspector."""
        key = f"{self._broker.key(queue)}:log:{task_id}"
        raw = await self._broker.command("HGET", key, RESPONSE, deadline=deadline)
        return None if raw is None else bytes(raw)

    async def retry(self, queue: str, tasks: Sequence[tuple[str, bytes]], *, deadline: float) -> int:
        """See Inspector."""
        arguments = [value for task in tasks for value in task]
        return int(await self._broker.script("retry", queue, lambda: arguments, deadline=deadline))

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


def state_of(queue: str, task_id: str, raw: bytes) -> TaskState:
    """Return a task's state from its packed form; raises BrokerUnavailable if something else wrote it."""
    try:
        state, delivery, attempt, crashes, added, due, reserved, begun, changed, status, reason, holder, _, *shown = (
            msgpack.unpackb(raw)
        )
        method, path, label, priority = shown
    except (ValueError, TypeError) as error:
        raise BrokerUnavailable(f"task {task_id}: its state in redis is not readable") from error
    return TaskState(
        task_id, queue, state, delivery, attempt, crashes, added, due, reserved, begun, changed, status, reason, holder,
        method, path, label, priority,
    )  # fmt: skip
