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
    "waiting": {"waiting"},
    "cancelled": {"cancelled"},
    "archived": {"archived"},
}
ENDED: Final = ("completed", "failed", "cancelled", "archived")
# Where a state holds what tasks are found by.
BY: Final = {"owner": 17, "label": 15, "route": 18}
GHOST: Final = 4


@dataclass
class Queue:
    """One queue as found: ids by place, packed states, sizes of records and their sum as counted, logs, consumers.

    ``waiting`` is the line of normal priority.
    """

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
    by: dict[bytes, dict[bytes, float]] = field(default_factory=dict)
    marks: set[bytes] = field(default_factory=set)
    ghosts: int = 0
    idle: set[str] = field(default_factory=set)
    handed: dict[str, bytes] = field(default_factory=dict)

    def ghost_ids(self) -> set[bytes]:
        """Return those that were withdrawn while in a line, where their ids still are."""
        return {task_id for task_id, state in self.states.items() if state[20] & GHOST}

    def places(self) -> dict[str, list[bytes]]:
        """Return every place with the ids in it, the front of a line last."""
        found = {name: list(ids) for name, ids in self.indexes.items()}
        found |= {f"line:{priority}": ids for priority, ids in {NORMAL: self.waiting, **self.lines}.items()}
        for name in {*self.reserved, *self.handed}:
            handed = [self.handed[name]] if name in self.handed else []
            found[f"reserved:{name}"] = [*self.reserved.get(name, ()), *handed]
        return found


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
    elif name:
        _read_one_of_many(client, key, queue, kind, name)
    elif kind == "state":
        queue.states = {task_id: msgpack.unpackb(raw) for task_id, raw in client.hgetall(key).items()}
    elif kind == "records":
        records = client.hgetall(key)
        queue.records, queue.stored = set(records), sum(map(len, records.values()))
    elif kind == "control":
        queue.weighed, queue.ghosts = (int(value or 0) for value in client.hmget(key, "bytes", "ghosts"))
    elif kind == "marks":
        queue.marks = set(client.hkeys(key))
    else:
        _read_of_consumers(client, key, queue, kind)


def _read_of_consumers(client: Any, key: bytes, queue: Queue, kind: str) -> None:
    if kind == "consumers":
        queue.consumers = {member.decode() for member in client.smembers(key)}
    elif kind == "idle":
        queue.idle = {name.decode().partition(":")[0] for name in client.zrange(key, 0, -1)}
    elif kind == "handed":
        queue.handed = {name.decode(): task_id for name, task_id in client.hgetall(key).items()}
    else:
        raise AssertionError(f"a key outside the schema: {key!r}")


def _read_one_of_many(client: Any, key: bytes, queue: Queue, kind: str, name: str) -> None:
    if kind == "by":
        queue.by[name.encode("utf-8", "surrogateescape")] = dict(client.zrange(key, 0, -1, withscores=True))
    elif kind == "reserved":
        queue.reserved[name] = client.lrange(key, 0, -1)
    elif kind == "consumer":
        queue.leases.add(name)
    elif kind == "log":
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
    _check_places(queue)
    _check_records(queue)
    _check_finding(queue)
    _check_families(queue)


def _check_places(queue: Queue) -> None:
    """Each task is in one place; a ghost's id is in its line as well."""
    places, ghosts = queue.places(), queue.ghost_ids()
    for place, ids in places.items():
        if place.startswith("line:"):
            left = [task_id for task_id in ids if task_id in ghosts]
            assert len(set(left)) == len(left), "a ghost twice in a line"
            assert all(queue.states[task_id][16] == int(place[5:]) for task_id in left), "a ghost in another line"
            places[place] = [task_id for task_id in ids if task_id not in ghosts]
            ghosts -= set(left)
    assert ghosts == set(), "a ghost in no line"
    assert queue.ghosts == len(queue.ghost_ids()), "the ghosts counted are not those there are"
    seen = Counter(task_id for ids in places.values() for task_id in ids)
    assert [task_id for task_id, times in seen.items() if times > 1] == [], "in more than one place"
    assert set(seen) == set(queue.states), "places and states do not name the same tasks"
    assert queue.logs <= set(seen), "a log of no task"
    assert queue.consumers <= queue.leases, "a consumer without a lease"  # a dead one keeps its epoch for a day
    assert {*queue.reserved, *queue.handed} <= queue.consumers, "a reservation of no consumer"
    assert queue.idle <= queue.consumers, "somebody waits who is no consumer"
    for place, ids in places.items():
        kind, _, name = place.partition(":")
        allowed = {"line": {"queued"}, "reserved": {"reserved", "running"}, **PLACES}[kind]
        for task_id in ids:
            state, delivery, attempt, crashes = queue.states[task_id][:4]
            assert state in allowed, f"{task_id!r} is in {place} with state {state}"
            assert 0 <= attempt <= delivery, (task_id, attempt, delivery)
            assert 0 <= crashes <= delivery, (task_id, crashes, delivery)
            assert kind != "reserved" or queue.states[task_id][11] == name, f"{task_id!r} has another holder"
            assert kind != "line" or queue.states[task_id][16] == int(name), f"{task_id!r} is in another's line"


def _check_records(queue: Queue) -> None:
    """What is still to run has its record, and what never runs again has none, unless in its log."""
    for task_id, (state, *_) in queue.states.items():
        needs_record = state in {"prepared", "scheduled", "queued", "reserved", "running"}
        assert task_id in queue.records or not needs_record, f"{task_id!r} ({state}) has no record"
    kept = {task_id for task_id, (state, *_) in queue.states.items() if state not in ENDED or state == "failed"}
    assert queue.records <= kept, "a record of no task, or of one that is not to run"
    assert queue.weighed == queue.stored, "the bytes counted are not those stored"


def _check_finding(queue: Queue) -> None:
    """Each known task, and no other, is found by its owner, its label and its route."""
    expected: dict[str, set[bytes]] = {}
    for task_id, state in queue.states.items():
        for by, place in BY.items():
            if state[place]:
                expected.setdefault(f"{by}:{state[place]}", set()).add(task_id)
    # Nobody knows any more what those were found by whose state something else has written over.
    spoilt = {task_id for task_id, state in queue.states.items() if state[10] == "format"}
    found: dict[str, set[bytes]] = {}
    for name, ids in queue.by.items():
        if known := {*ids} - (spoilt - expected.get(name.decode(errors="replace"), set())):
            found[name.decode(errors="replace")] = known
    assert found == expected, "what tasks are found by is not what they have"


def _check_families(queue: Queue) -> None:
    """A parent counts the children that have not ended, waits only for such, and nothing else is marked to end."""
    counted = Counter(state[19] for state in queue.states.values() if state[20] & 1 and state[0] not in ENDED)
    for task_id, state in queue.states.items():
        count = counted[task_id.decode(errors="replace")]
        assert state[21] == count, f"{task_id!r} counts {state[21]} children, and has {count}"
        assert state[22] >= 0, f"{task_id!r} counts {state[22]} failed children"
        assert state[0] != "waiting" or (count > 0 and not state[20] & 2), f"{task_id!r} waits for nothing"
    under_way = {task_id for task_id, state in queue.states.items() if state[0] in ("reserved", "running")}
    assert queue.marks <= under_way, "a mark of a task that is not under way"
