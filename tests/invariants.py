"""What must be true of a queue in Redis whenever no script runs, read from the whole keyspace.

Each known task stands in exactly one place, that place agrees with its state, its record is there as long as it may
still be needed, and no key exists that the map of keys in taskqueue/brokers/redis.py does not name.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

NORMAL: Final = 4
PLACES: Final = {
    "scheduled": {"scheduled"},
    "prepared": {"prepared"},
    "failed": {"failed"},
    "finished": {"completed"},
}


@dataclass
class Queue:
    """One queue as found: ids by place, packed states, sizes of records and their sum as counted, logs, consumers."""

    waiting: list[bytes] = field(default_factory=list)
    lines: dict[int, list[bytes]] = field(default_factory=dict)
    indexes: dict[str, dict[bytes, float]] = field(default_factory=dict)
    reserved: dict[str, list[bytes]] = field(default_factory=dict)
    states: dict[bytes, list[Any]] = field(default_factory=dict)
    records: set[bytes] = field(default_factory=set)
    stored: int = 0
    weighed: int = 0
    logs: set[bytes] = field(default_factory=set)
    leases: set[str] = field(default_factory=set)
    consumers: set[str] = field(default_factory=set)

    def places(self) -> dict[str, list[bytes]]:
        """Return every place with the ids in it, the front of a line last."""
        found = {"waiting": self.waiting, **{name: list(ids) for name, ids in self.indexes.items()}}
        found |= {f"line:{priority}": ids for priority, ids in self.lines.items()}
        return found | {f"reserved:{name}": ids for name, ids in self.reserved.items()}


def read_queues(client: Any, namespace: str) -> dict[str, Queue]:
    """Return all queues of a namespace; fail on a key outside the schema."""
    queues: dict[str, Queue] = {}
    pattern = re.compile(
        rf"{re.escape(namespace)}:{{(?P<queue>[a-z0-9-]+)}}(:(?P<kind>p[0-9]|[a-z]+)(:(?P<name>.+))?)?", re.DOTALL
    )
    keys: list[bytes] = list(client.scan_iter(count=1000))
    for key in sorted(keys):
        match = pattern.fullmatch(key.decode("utf-8", "surrogateescape"))
        assert match, f"a key outside the schema: {key!r}"
        queue = queues.setdefault(match["queue"], Queue())
        _read(client, key, queue, match["kind"] or "", match["name"])
    return queues


def _read(client: Any, key: bytes, queue: Queue, kind: str, name: str | None) -> None:
    if re.fullmatch("(p[0-9])?", kind) and name is None:
        line = queue.lines.setdefault(int(kind[1:]), []) if kind else queue.waiting
        line += client.lrange(key, 0, -1)
    elif kind in PLACES and name is None:
        queue.indexes[kind] = dict(client.zrange(key, 0, -1, withscores=True))
    elif (kind, name) == ("state", None):
        queue.states = {task_id: msgpack.unpackb(raw) for task_id, raw in client.hgetall(key).items()}
    elif (kind, name) == ("records", None):
        records = client.hgetall(key)
        queue.records, queue.stored = set(records), sum(map(len, records.values()))
    elif (kind, name) == ("control", None):
        queue.weighed = int(client.hget(key, "bytes") or 0)
    elif (kind, name) == ("consumers", None):
        queue.consumers = {member.decode() for member in client.smembers(key)}
    elif kind == "reserved" and name:
        queue.reserved[name] = client.lrange(key, 0, -1)
    elif kind == "consumer" and name:
        queue.leases.add(name)
    elif kind == "log" and name:
        queue.logs.add(name.encode("utf-8", "surrogateescape"))
    else:
        raise AssertionError(f"a key outside the schema: {key!r}")


def assert_invariants(client: Any, namespace: str = "taskqueue") -> dict[str, Queue]:
    """Check every queue of this namespace, and that the server holds nothing else; return the queues."""
    queues = read_queues(client, namespace)
    for queue in queues.values():
        check_queue(queue)
    return queues


def check_queue(queue: Queue) -> None:
    """Check one queue as found."""
    seen = Counter(task_id for ids in queue.places().values() for task_id in ids)
    assert [task_id for task_id, times in seen.items() if times > 1] == [], "in more than one place"
    assert set(seen) == set(queue.states), "places and states do not name the same tasks"
    assert queue.logs <= set(seen), "a log of no task"
    assert queue.consumers <= queue.leases, "a consumer without a lease"  # a dead one keeps its epoch for a day
    assert set(queue.reserved) <= queue.consumers, "a reservation of no consumer"
    for place, ids in queue.places().items():
        kind, _, name = place.partition(":")
        allowed = {"waiting": {"queued"}, "line": {"queued"}, "reserved": {"reserved", "running"}, **PLACES}[kind]
        priority = NORMAL if kind == "waiting" else int(name) if kind == "line" else None
        for task_id in ids:
            state, delivery, attempt, crashes = queue.states[task_id][:4]
            assert state in allowed, f"{task_id!r} is in {place} with state {state}"
            assert 0 <= attempt <= delivery, (task_id, attempt, delivery)
            assert 0 <= crashes <= delivery, (task_id, crashes, delivery)
            assert kind != "reserved" or queue.states[task_id][11] == name, f"{task_id!r} has another holder"
            assert priority in (None, queue.states[task_id][16]), f"{task_id!r} is in the line of another priority"
            needs_record = state not in {"completed", "failed"}
            assert task_id in queue.records or not needs_record, f"{task_id!r} ({state}) has no record"
    kept = {task_id for task_id in seen if queue.states[task_id][0] != "completed"}
    assert queue.records <= kept, "a record of no task, or of a completed one"
    assert queue.weighed == queue.stored, "the bytes counted are not those stored"
