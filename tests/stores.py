"""The stores a broker can be tried on, and what a test looks at in one without asking a broker."""

import itertools
from collections.abc import Mapping
from typing import Any, Final, Protocol

from taskqueue.broker import UNLIMITED, Broker, Capacity, connect
from taskqueue.brokers.local_store import clock, here
from taskqueue.brokers.memory import MemoryQueue
from taskqueue.brokers.memory_tasks import HELD
from tests.invariants import Queue, assert_invariants, check_queue
from tests.model.local import dump
from tests.model.proof import as_queue
from tests.servers import RedisServer

NAMESPACE: Final = "taskqueue"
_numbers: Final = itertools.count(1)


class Inspectable(Protocol):
    """A store that a test has for itself, without data at first."""

    url: str

    def open(self, *, namespace: str = NAMESPACE, capacity: Capacity = UNLIMITED) -> Broker:
        """Return a new broker in this store."""
        ...

    def queues(self) -> dict[str, Queue]:
        """Return every queue as it stands; fail if an invariant does not hold."""
        ...

    def queue(self, name: str = "default") -> Queue:
        """Return one queue as it stands."""
        ...

    def everything(self) -> dict[tuple[str, str], Any]:
        """Return all there is, by queue and by place in it: equal only if nothing has changed."""
        ...

    def clock(self) -> int:
        """Return what the store's clock shows, in ms."""
        ...

    def backdate(self, index: str, times: Mapping[str, int], *, queue: str = "default") -> None:
        """Let those of these tasks that stand in an index of a queue have come there at other times, in ms."""
        ...

    def misplace(self, task_id: str) -> None:
        """Take a task's id out of its line, its index, or the list of its holder, but leave its state as it is."""
        ...

    def lose(self) -> None:
        """Lose all data."""
        ...


def in_line(client: Any, queue: str = "default") -> list[str]:
    """Return the ids in line in a real server, the front first; for tests that look while others are at work."""
    return [task_id.decode() for task_id in reversed(client.lrange(f"{NAMESPACE}:{{{queue}}}", 0, -1))]


class RedisStore:
    """A real server."""

    def __init__(self, server: RedisServer) -> None:
        self.url, self._client = server.url, server.client()

    def open(self, *, namespace: str = NAMESPACE, capacity: Capacity = UNLIMITED) -> Broker:
        return connect(self.url, namespace=namespace, capacity=capacity)

    def queues(self) -> dict[str, Queue]:
        return assert_invariants(self._client)

    def queue(self, name: str = "default") -> Queue:
        return self.queues().get(name, Queue())

    def everything(self) -> dict[tuple[str, str], Any]:
        keys: list[bytes] = list(self._client.scan_iter(count=1000))
        parts = [(key, key.decode().partition("{")[2].partition("}")) for key in keys]
        return {(queue, place): self._client.dump(key) for key, (queue, _, place) in parts}

    def clock(self) -> int:
        seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def backdate(self, index: str, times: Mapping[str, int], *, queue: str = "default") -> None:
        self._client.zadd(f"{NAMESPACE}:{{{queue}}}:{index}", dict(times), xx=True)

    def misplace(self, task_id: str) -> None:
        removed = self._client.zrem(f"{NAMESPACE}:{{default}}:scheduled", task_id)
        for key in self._client.scan_iter(f"{NAMESPACE}:{{default}}*", _type="list"):
            removed += self._client.lrem(key, 0, task_id)
        assert removed == 1

    def lose(self) -> None:
        self._client.flushall()


class LocalStore:
    """A store inside this process that no other test has."""

    def __init__(self) -> None:
        self._name = f"test-{next(_numbers)}"
        self.url = f"local://{self._name}"

    def open(self, *, namespace: str = NAMESPACE, capacity: Capacity = UNLIMITED) -> Broker:
        return connect(self.url, namespace=namespace, capacity=capacity)

    def queues(self) -> dict[str, Queue]:
        found = {queue.name: dump(queue) for queue in here.find(self._name, NAMESPACE).queues()}
        queues = {name: as_queue(places) for name, places in found.items() if places}
        for queue in queues.values():
            check_queue(queue)
        return queues

    def queue(self, name: str = "default") -> Queue:
        return self.queues().get(name, Queue())

    def everything(self) -> dict[tuple[str, str], Any]:
        stores = [store for (name, _), store in here._stores.items() if name == self._name]
        return {
            (queue.name, place.decode()): value
            for store in stores
            for queue in store.queues()
            for place, value in dump(queue).items()
        }

    def clock(self) -> int:
        return clock()

    def backdate(self, index: str, times: Mapping[str, int], *, queue: str = "default") -> None:
        found = self._stored(queue)
        named = {f"by:{by}:{value}": one for (by, value), one in found.found.items()}
        chosen = (named | found.indexes)[index]
        for task_id in times.keys() & chosen.times.keys():
            chosen.put(task_id, times[task_id])

    def _stored(self, queue: str) -> MemoryQueue:
        (found,) = (one for one in here.find(self._name, NAMESPACE).queues() if one.name == queue)
        return found

    def misplace(self, task_id: str) -> None:
        found = self._stored("default")
        task = found.states[task_id]
        if task.state in HELD:
            found.consumers[task.holder].held.remove(task_id)
        else:
            found._take_out(task)

    def lose(self) -> None:
        for key in [key for key in here._stores if key[0] == self._name]:
            del here._stores[key]
