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
    "waiting": {"waiting"},
    "finished": {"completed"},
    "failed": {"failed"},
    "cancelled": {"cancelled"},
    "archived": {"archived"},
}
HELD: Final = {"reserved", "running"}
ENDED: Final = {"completed", "failed", "cancelled", "archived"}
# Fields of a packed state.
REASON, PRIORITY, PARENT, FLAGS, OPEN = 10, 16, 19, 20, 21
BY: Final = {"owner": 17, "label": 15, "route": 18}
CHILD, GHOST = 1, 4


@dataclass
class Queue:
    """One queue as found: ids by place, packed states, sizes of records and their sum as counted, logs, consumers.

    ``waiting`` is the line of the normal priority; ``found`` ids by owner, label and route.
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
    found: dict[str, set[bytes]] = field(default_factory=dict)
    marks: dict[bytes, bytes] = field(default_factory=dict)
    ghosts: int = 0
    leases: set[str] = field(default_factory=set)
    consumers: set[str] = field(default_factory=set)

    def places(self) -> dict[str, list[bytes]]:
        """Return every place with the ids in it, the front of a line last."""
        found = {name: list(ids) for name, ids in self.indexes.items()}
        found |= {f"line:{priority}": ids for priority, ids in {NORMAL: self.waiting, **self.lines}.items()}
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
        queue.marks = client.hgetall(key)
    elif kind == "consumers":
        queue.consumers = {member.decode() for member in client.smembers(key)}
    else:
        raise AssertionError(f"a key outside the schema: {key!r}")


def _read_one_of_many(client: Any, key: bytes, queue: Queue, kind: str, name: str) -> None:
    if kind == "by":
        queue.found[name] = set(client.zrange(key, 0, -1))
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
        check_families(queue)
    return queues


def check_queue(queue: Queue) -> None:
    """Check one queue as found."""
    seen = Counter(task_id for ids in queue.places().values() for task_id in ids)
    # A ghost's id is still in its line.
    ghosts = [task_id for task_id, task in queue.states.items() if is_ghost(task)]
    seen.subtract(ghosts)
    assert [task_id for task_id, times in seen.items() if times != 1] == [], "not in one place"
    assert set(seen) == set(queue.states), "places and states do not name the same tasks"
    assert queue.ghosts == len(ghosts), "the ghosts counted are not those in the lines"
    assert queue.logs <= set(seen), "a log of no task"
    assert queue.consumers <= queue.leases, "a consumer without a lease"  # a dead one keeps its epoch for a day
    assert set(queue.reserved) <= queue.consumers, "a reservation of no consumer"
    assert all(queue.states[task_id][0] in HELD for task_id in queue.marks), "a mark of what is not under way"
    for place, ids in queue.places().items():
        kind, _, name = place.partition(":")
        for task_id in ids:
            _check_task(task_id, queue.states[task_id], kind, name)
    needing = {task_id for task_id, task in queue.states.items() if task[0] not in {*ENDED, "waiting"}}
    assert needing <= queue.records, "a task that is to run has no record"
    kept = {task_id for task_id, task in queue.states.items() if task[0] not in ENDED - {"failed"}}
    assert queue.records <= kept, "a record of no task, or of one that ended"
    assert queue.weighed == queue.stored, "the bytes counted are not those stored"
    assert queue.found == _found(queue), "not found by what they are, or by what they are not"


def _check_task(task_id: bytes, task: list[Any], kind: str, name: str) -> None:
    state, delivery, attempt, crashes = task[:4]
    if not (kind == "line" and is_ghost(task)):
        allowed = {"line": {"queued"}, "reserved": HELD, **PLACES}[kind]
        assert state in allowed, f"{task_id!r} is in {kind}:{name} with state {state}"
    assert 0 <= attempt <= delivery, (task_id, attempt, delivery)
    assert 0 <= crashes <= delivery, (task_id, crashes, delivery)
    assert kind != "reserved" or task[11] == name, f"{task_id!r} has another holder"
    assert kind != "line" or task[PRIORITY] == int(name), f"{task_id!r} is in the line of another priority"


def is_ghost(task: list[Any]) -> bool:
    """Tell whether a task's id is in a line although the task is not."""
    return bool(int(task[FLAGS]) & GHOST)


def _found(queue: Queue) -> dict[str, set[bytes]]:
    """Return by what tasks should be found; nobody knows it of those whose state something else has written over."""
    found: dict[str, set[bytes]] = {}
    for task_id, task in queue.states.items():
        for by, place in BY.items():
            if task[place]:
                found.setdefault(f"{by}:{task[place]}", set()).add(task_id)
    spoilt = {task_id for task_id, task in queue.states.items() if task[REASON] == "format"}
    for value, ids in queue.found.items():
        found[value] = found.get(value, set()) | (ids & spoilt)
    return found


def check_families(queue: Queue) -> None:
    """Check that each parent counts exactly its children that have not ended, and waits for nobody else."""
    children = [task for task in queue.states.values() if task[FLAGS] & CHILD and task[0] not in ENDED]
    going_on = Counter(task[PARENT].encode() for task in children)
    for task_id, task in queue.states.items():
        assert task[OPEN] == going_on[task_id], f"{task_id!r} counts {task[OPEN]} children, not {going_on[task_id]}"
        assert task[0] != "waiting" or task[OPEN] > 0, f"{task_id!r} waits for no child"
