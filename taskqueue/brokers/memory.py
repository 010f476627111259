"""One queue as Python values: every script of taskqueue/lua, told again for a store inside one process.

Each method is one move, with the effect and the limits of the script of its name. Nothing here waits, locks or asks for
the time: ``at`` is the store's clock in ms since 1970, and who calls sees to it that one move is made at a time. Nobody
else writes here, so that what the scripts do about entries that are not of their making has no place here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from ..broker import Lease, Owner, Seen
from ..identity import Identity
from ..inspector import Control, Ended
from ..task import Reservation, SealedTask, Settlement, StateName, TaskState, Verdict
from .places import INDEX_OF, Admission, Consumer, Index, Lines, Log
from .reasons import closed, disabled, fenced, forgotten, full, late, removed, taken

# So many at a time, so that no move takes long.
GIVEN_BACK_AT_ONCE: Final = 500
MOVED_AT_ONCE: Final = 100
_HELD: Final = ("reserved", "running")
_NOBODY: Final = Identity("", 0, "", "")


class MemoryQueue:
    """One queue. ``hint`` is called whenever something may be waiting."""

    def __init__(self, name: str, hint: Callable[[], None]) -> None:
        self.name: Final = name
        self._hint = hint
        self.consumers: dict[str, Consumer] = {}
        self.control: dict[Control, int] = {}
        self.slowed = 0
        self._empty()

    def _empty(self) -> None:
        self.lines = Lines()
        self.indexes = {name: Index() for name in INDEX_OF.values()}
        self.states: dict[str, TaskState] = {}
        self.records: dict[str, bytes] = {}
        self.logs: dict[str, Log] = {}
        self.bytes = 0

    # ---- what several moves do

    def _save(self, task: TaskState, state: StateName, at: int) -> None:
        self.states[task.id] = replace(task, state=state, changed=at)

    def _schedule(self, task: TaskState, at: int) -> None:
        self.indexes["scheduled"].put(task.id, task.due)
        self._save(task, "scheduled", at)

    def _enqueue(self, task: TaskState, at: int) -> None:
        """To the back of the line, or among the scheduled until its time."""
        if task.due > at:
            self._schedule(task, at)
        else:
            self.lines.append(task)
            self._save(task, "queued", at)

    def _put_in_front(self, task: TaskState, at: int) -> None:
        self.lines.put_back(task)
        self._save(task, "queued", at)

    def _fail(self, task: TaskState, reason: str, at: int) -> None:
        self.indexes["failed"].put(task.id, at)
        self._save(replace(task, reason=reason), "failed", at)

    def _keep_record(self, task_id: str, record: bytes) -> None:
        self._drop_record(task_id)
        self.records[task_id] = record
        self.bytes += len(record)

    def _drop_record(self, task_id: str) -> None:
        self.bytes -= len(self.records.pop(task_id, b""))

    def _mine(self, lease: Lease) -> Consumer:
        """Return the consumer of a lease that holds; raise Fenced for another."""
        mine = self.consumers.get(lease.consumer)
        if mine is None:
            raise forgotten(lease)
        if mine.epoch != lease.epoch:
            raise fenced(lease)
        return mine

    # ---- a producer's moves

    def push(self, tasks: Sequence[SealedTask], admission: Admission, *, at: int) -> None:
        """Store tasks and queue them, all or none; raises BrokerUnavailable when it is late, QueueClosed, QueueFull.

        An id that is known already is left as it is: a repeat changes nothing, and is never refused.
        """
        for task in self._admitted(tasks, admission, at):
            self._enqueue(task, at)
        self._hint()

    def prepare(self, tasks: Sequence[SealedTask], admission: Admission, *, at: int) -> None:
        """Store tasks without queueing them; else as push."""
        for task in self._admitted(tasks, admission, at):
            self.indexes["prepared"].put(task.id, at)
            self._save(task, "prepared", at)

    def _admitted(self, tasks: Sequence[SealedTask], admission: Admission, at: int) -> Sequence[TaskState]:
        """Store the records of those that are new, if there is time and room, and return what is to become of them."""
        fresh: dict[str, SealedTask] = {}
        for task in tasks:
            if task.id not in self.states:
                fresh.setdefault(task.id, task)
        not_after, capacity = admission
        size = sum(len(task.record) for task in fresh.values())
        # What has failed is kept for people, and has a limit of its own.
        held = len(self.records) - len(self.indexes["failed"])
        if fresh and at > not_after:
            raise late()
        if fresh and "closed" in self.control:
            raise closed(self.name)
        if fresh and (0 < capacity.tasks < held + len(fresh) or 0 < capacity.bytes < self.bytes + size):
            raise full(self.name, capacity)
        for task in fresh.values():
            self._keep_record(task.id, task.record)
        return [self._new(task, at) for task in fresh.values()]

    def _new(self, task: SealedTask, at: int) -> TaskState:
        due = task.due if task.due >= 0 else at - task.due
        shown = (task.method, task.path, task.label, task.priority)
        return TaskState(task.id, self.name, "prepared", 0, 0, 0, at, due, 0, 0, at, 0, "", "", *shown)

    def promote(self, ids: Sequence[str], *, at: int) -> None:
        """Queue what was prepared, or set aside as in-doubt, in this order; raises BrokerUnavailable if one is gone."""
        unknown = sum(task_id not in self.states for task_id in ids)
        if unknown:
            raise removed(self.name, unknown)
        for task_id in ids:
            task = self.states[task_id]
            if task.state == "prepared":
                self._enqueue(task, at)
                self.indexes["prepared"].remove(task_id)
            elif (task.state, task.reason) == ("failed", "in-doubt"):
                self._enqueue(replace(task, reason=""), at)
                self.indexes["failed"].remove(task_id)
        self._hint()

    def discard(self, ids: Sequence[str]) -> int:
        """Forget what is prepared, or set aside as in-doubt; return how many that were."""
        known = [task for task_id in dict.fromkeys(ids) if (task := self.states.get(task_id))]
        prepared = [task for task in known if task.state == "prepared"]
        doubtful = [task for task in known if (task.state, task.reason) == ("failed", "in-doubt")]
        for task in prepared + doubtful:
            self._forget(task.id, task.state)
        return len(prepared) + len(doubtful)

    def _forget(self, task_id: str, index: str) -> None:
        self.indexes[index].remove(task_id)
        self._remove(task_id)

    def _remove(self, task_id: str) -> None:
        self._drop_record(task_id)
        del self.states[task_id]
        self.logs.pop(task_id, None)

    # ---- a consumer's name

    def owner(self, consumer: str) -> Owner:
        """Return who has this name."""
        known = self.consumers.get(consumer)
        return Owner(known.epoch, str(known.beat), known.identity) if known else Owner("", "", _NOBODY)

    def claim(
        self, consumer: str, random: str, identity: Identity, *, begins: bool, dead: Owner | None, at: int
    ) -> tuple[Lease, int, int]:
        """Take a name and give back what it held; return the lease, how many were given back, how many are left.

        Repeat with the same random text until none is left. Raises NameInUse if the owner is not the one found dead,
        ConfigError if nobody is to serve this queue.
        """
        if "disabled" in self.control:
            raise disabled(self.name)
        owner = self.owner(consumer)
        known = self.consumers.get(consumer)
        if known is None or known.random != random:
            if dead is not None and (dead.epoch, dead.beat) != (owner.epoch, owner.beat):
                raise taken(self.name, consumer)
            held = known.held if known else []
            known = Consumer(_next(owner.epoch, random), identity, begins, at, held)
            self.consumers[consumer] = known
        returned = self._give_back(known, begins=begins, at=at)
        return Lease(self.name, consumer, known.epoch), returned, len(known.held)

    def reclaim(self, dead: Seen, random: str, *, at: int) -> tuple[int, int]:
        """Fence a consumer found dead and give back what it held; return how many, and how many are left, as claim.

        Nothing is done if it has shown that it lives, or somebody else was quicker.
        """
        known = self.consumers.get(dead.consumer)
        if known is None:
            return 0, 0
        if known.random != random:
            if (known.epoch, str(known.beat)) != (dead.epoch, dead.beat):
                return 0, 0
            known.epoch, known.token, known.count = _next(known.epoch, random), "", 0
        returned = self._give_back(known, begins=known.begins, at=at)
        known.watched = bool(known.held)
        return returned, len(known.held)

    def _give_back(self, consumer: Consumer, *, begins: bool, at: int) -> int:
        """Give back to the front, in the order it had; what had not begun has spent nothing."""
        returned = consumer.held[: -GIVEN_BACK_AT_ONCE - 1 : -1]
        for task_id in returned:
            task = self.states[task_id]
            if task.state == "running" or not begins:
                self._put_in_front(replace(task, crashes=task.crashes + 1), at)
            else:
                self._put_in_front(replace(task, attempt=task.attempt - 1), at)
            consumer.held.pop()
        if returned:
            self._hint()
        return len(returned)

    def beat(self, lease: Lease) -> list[Seen]:
        """Show that a consumer lives, and return the others; raises Fenced."""
        self._mine(lease).beat += 1
        others = [(name, one) for name, one in sorted(self.consumers.items()) if name != lease.consumer]
        return [Seen(name, one.epoch, str(one.beat)) for name, one in others if one.watched]

    def leave(self, lease: Lease) -> None:
        """Give up a name; with something still held it stays, for others to reclaim. Raises Fenced."""
        if not self._mine(lease).held:
            del self.consumers[lease.consumer]

    # ---- a consumer's moves

    def reserve(self, lease: Lease, token: str, want: int, room: int, *, at: int) -> list[Reservation]:
        """Move up to ``want`` tasks, ``room`` bytes, to this consumer; the same token gives the same. Raises Fenced."""
        mine = self._mine(lease)
        if mine.token == token and mine.count:
            given = mine.held[-mine.count :]
        else:
            given = self._take(lease.consumer, mine, self._allowed(want, at), room, at)
            mine.token, mine.count = token, len(given)
        tasks = [self.states[task_id] for task_id in given]
        return [
            Reservation(task.id, self.name, self.records[task.id], task.delivery, task.attempt, task.crashes)
            for task in tasks
        ]

    def _allowed(self, want: int, at: int) -> int:
        """Return how many of so many tasks may be given out now."""
        # An application that asked for patience (Retry-After) is left alone until then.
        if at < self.slowed or "paused" in self.control or "disabled" in self.control:
            return 0
        # The limit counts what all consumers hold, the dead included until they are found: it may still run.
        held = sum(len(one.held) for one in self.consumers.values())
        return min(want, self.control.get("limit", want + held) - held)

    def _take(self, name: str, mine: Consumer, want: int, room: int, at: int) -> list[str]:
        given: list[str] = []
        size = 0
        while len(given) < want and (fronts := self.lines.fronts()):
            task = self.states[fronts[0]]
            size += len(self.records[task.id])
            if given and size > room:
                break
            self.lines.take(task)
            delivery, attempt = task.delivery + 1, task.attempt + 1
            task = replace(task, delivery=delivery, attempt=attempt, reserved=at, begun=0, holder=name)
            mine.held.append(task.id)
            self._save(task, "reserved", at)
            given.append(task.id)
        return given

    def begin(self, task_id: str, delivery: int, *, at: int) -> bool:
        """Note that a delivery starts to run; False if it has already, or is not the one that is reserved."""
        task = self.states.get(task_id)
        if task is None or (task.delivery, task.state) != (delivery, "reserved"):
            return False
        self._save(replace(task, begun=at), "running", at)
        return True

    def settle(self, lease: Lease, settlements: Sequence[Settlement], *, at: int) -> list[str]:
        """End deliveries, given in the order they were reserved; return the ids of those no longer held.

        Raises Fenced.
        """
        mine, stale = self._mine(lease), []
        slow = max((_ms(item.verdict.slow) for item in settlements), default=0)
        if slow:
            self.slowed = max(self.slowed, at + slow)
        # From last to first, so that what is released stands in front in the order it came.
        for item in reversed(settlements):
            task = self.states.get(item.id)
            if task is None or (task.delivery, task.holder) != (item.delivery, lease.consumer):
                stale.append(item.id)
            elif task.state in _HELD:
                self._end(replace(task, status=item.verdict.status, reason=item.verdict.reason), item, at)
                mine.held.remove(item.id)
        return stale

    def _end(self, task: TaskState, item: Settlement, at: int) -> None:
        verdict, due = item.verdict, at + _ms(item.verdict.delay)
        if verdict.kind == "complete":
            self.indexes["finished"].put(task.id, at)
            self._save(task, "completed", at)
            self._drop_record(task.id)
            self.logs.get(task.id, Log()).response = b""
        elif verdict.kind == "release":
            task = replace(task, attempt=task.attempt - 1, due=due)
            (self._schedule if due > at else self._put_in_front)(task, at)
        else:
            self._note(task, verdict, item.response, at)
            if verdict.kind == "retry":
                self._schedule(replace(task, due=due), at)
            else:
                self._fail(task, task.reason, at)

    def _note(self, task: TaskState, verdict: Verdict, response: bytes, at: int) -> None:
        log = self.logs.setdefault(task.id, Log())
        log.ended[task.delivery] = Ended(
            *(task.delivery, task.attempt, task.reserved, task.begun, at),
            *(task.status, task.reason, task.holder, verdict.kind),
        )
        log.response = response or log.response

    # ---- housekeeping, and what people do

    def due(self, in_doubt_after: int, *, at: int) -> int | None:
        """Queue what has fallen due, set aside what was prepared so many ms ago; return ms until the next is due."""
        for task_id in self.indexes["scheduled"].until(at, MOVED_AT_ONCE):
            self.indexes["scheduled"].remove(task_id)
            self._enqueue(self.states[task_id], at)
        for task_id in self.indexes["prepared"].until(at - in_doubt_after, MOVED_AT_ONCE):
            self.indexes["prepared"].remove(task_id)
            self._fail(self.states[task_id], "in-doubt", at)
        following = self.indexes["scheduled"].earliest
        return None if following is None else max(0, following - at)

    def trim(self, limits: Sequence[tuple[str, int, int]], *, most: int, at: int) -> int:
        """Forget at most ``most`` tasks that were kept long enough, by (index, ms kept, number kept)."""
        left = most
        for name, kept, count in limits:
            index = self.indexes[name]
            old = index.until(at - kept, left)
            surplus = min(len(index) - count, left)
            for task_id in index.first(surplus) if surplus > len(old) else old:
                self._forget(task_id, name)
                left -= 1
        return most - left

    def say(self, changes: Mapping[Control, int | None]) -> None:
        """Say how the queue is to be run; None takes a word back."""
        for name, value in changes.items():
            self.control.pop(name, None)
            if value is not None:
                self.control[name] = value
        self._hint()

    def purge(self, most: int) -> int:
        """Forget up to ``most`` tasks that wait, in the lines and for their time, the least urgent first."""
        waiting = list(islice(self.lines.backwards(), most))
        scheduled = self.indexes["scheduled"].first(most - len(waiting))
        for task_id in waiting:
            self.lines.take(self.states[task_id])
            self._remove(task_id)
        for task_id in scheduled:
            self._forget(task_id, "scheduled")
        return len(waiting) + len(scheduled)

    def reset(self) -> None:
        """Empty the queue. Consumers keep their leases: what they still run is settled as stale."""
        for consumer in self.consumers.values():
            consumer.held.clear()
        self._empty()

    def retry(self, tasks: Sequence[tuple[str, bytes]], *, at: int) -> int:
        """Queue failed tasks again, each with a new record or b"" to keep the old; return how many were."""
        queued = 0
        for task_id, record in tasks:
            task = self.states.get(task_id)
            if task is not None and task.state == "failed":
                if record:
                    self._keep_record(task_id, record)
                self._enqueue(replace(task, attempt=0, crashes=0, due=0, status=0, reason=""), at)
                self.indexes["failed"].remove(task_id)
                queued += 1
        if queued:
            self._hint()
        return queued


def _next(epoch: str, random: str) -> str:
    return f"{int(epoch.partition('-')[0] or 0) + 1}-{random}"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
