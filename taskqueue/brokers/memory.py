"""One queue as Python values: every script of taskqueue/lua, told again for a store inside one process.

Each method is one move, with the effect and the limits of the script of its name. Nothing here waits, locks or asks for
the time: ``at`` is the store's clock in ms since 1970, and who calls sees to it that one move is made at a time. Nobody
else writes here, so that what the scripts do about entries that are not of their making has no place here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from ..broker import Beat, Lease, Owner, Seen, Trimmed
from ..identity import Identity
from ..task import Reservation, SealedTask, Settlement
from .memory_acts import Acts
from .memory_ends import in_ms
from .memory_tasks import HELD
from .places import Admission, Consumer, TaskLog
from .reasons import closed, disabled, fenced, forgotten, full, late, removed, taken

# So many at a time, so that no move takes long.
GIVEN_BACK_AT_ONCE: Final = 200
MOVED_AT_ONCE: Final = 100
_NOBODY: Final = Identity("", 0, "", "")


class MemoryQueue(Acts):
    """One queue: the moves of producers and consumers, and all that Acts can do."""

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
            self._enqueue(self._store(task, at), at)
        self._hint()

    def prepare(self, tasks: Sequence[SealedTask], admission: Admission, *, at: int) -> None:
        """Store tasks without queueing them; else as push."""
        for task in self._admitted(tasks, admission, at):
            self._list_in(self._store(task, at), "prepared", at)

    def _admitted(self, tasks: Sequence[SealedTask], admission: Admission, at: int) -> list[SealedTask]:
        """Return those that are new, if there is time and room for all of them."""
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
        return list(fresh.values())

    def promote(self, ids: Sequence[str], *, at: int) -> None:
        """Queue what was prepared, or set aside as in-doubt, in this order; raises BrokerUnavailable if one is gone."""
        unknown = sum(task_id not in self.states for task_id in ids)
        if unknown:
            raise removed(self.name, unknown)
        for task_id in ids:
            task = self.states[task_id]
            if task.state == "prepared":
                self._take_out(task)
                self._enqueue(task, at)
            elif (task.state, task.reason) == ("failed", "in-doubt"):
                self._take_out(task)
                self._enqueue(self._open_child(replace(task, reason=""), failed=True), at)
        self._hint()

    def discard(self, ids: Sequence[str], *, at: int) -> int:
        """Forget what is prepared, or set aside as in-doubt; return how many that were."""
        forgotten = 0
        for task_id in ids:
            task = self.states.get(task_id)
            doubtful = task is not None and (task.state, task.reason) == ("failed", "in-doubt")
            if task is not None and (doubtful or task.state == "prepared"):
                if doubtful:
                    # The failure that its parent was told of did not happen.
                    task = self._open_child(task, failed=True)
                self._forget(task)
                self._tell_parent(task, "cancelled", at)
                forgotten += 1
        return forgotten

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
                task = replace(task, crashes=task.crashes + 1)
            else:
                task = replace(task, attempt=task.attempt - 1)
            self._log_release(task_id, "lost", task.holder, at)
            if task_id in self.marks:
                self._obey(task, at)
            else:
                self._put_in_front(task, at)
            consumer.held.pop()
        if returned:
            self._hint()
        return len(returned)

    def beat(self, lease: Lease) -> Beat:
        """Show that a consumer lives, and return what it is to know; raises Fenced."""
        self._mine(lease).beat += 1
        others = [(name, one) for name, one in sorted(self.consumers.items()) if name != lease.consumer]
        marked = tuple(task_id for task_id in self.marks if self.states[task_id].holder == lease.consumer)
        return Beat(tuple(Seen(name, one.epoch, str(one.beat)) for name, one in others if one.watched), marked)

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
        # What is marked is to end, so it does not begin.
        if task is None or (task.delivery, task.state) != (delivery, "reserved") or task_id in self.marks:
            return False
        self._save(replace(task, begun=at), "running", at)
        return True

    def note(self, task_id: str, delivery: int, fields: Mapping[str, bytes]) -> bool:
        """Keep these fields in a task's log, of an empty one nothing; False if this delivery is not under way."""
        task = self.states.get(task_id)
        if task is None or task.delivery != delivery or task.state not in HELD:
            return False
        kept = self.log_of(task_id).fields
        kept.update(fields)
        for name in fields:
            if not kept[name]:
                del kept[name]
        return True

    def settle(self, lease: Lease, settlements: Sequence[Settlement], *, keep: bool, at: int) -> list[str]:
        """End deliveries, given in the order they were reserved; return the ids of those no longer held.

        ``keep``: the requests of what completes stay. Raises Fenced.
        """
        mine, stale = self._mine(lease), []
        slow = max((in_ms(item.verdict.slow) for item in settlements), default=0)
        if slow:
            self.slowed = max(self.slowed, at + slow)
        # From last to first, so that what is released stands in front in the order it came.
        for item in reversed(settlements):
            task = self.states.get(item.id)
            if task is None or (task.delivery, task.holder) != (item.delivery, lease.consumer):
                stale.append(item.id)
            elif task.state in HELD:
                self._end(task, item, keep=keep, at=at)
                mine.held.remove(item.id)
        return stale

    # ---- housekeeping

    def due(self, in_doubt_after: int, *, at: int) -> int | None:
        """Queue what has fallen due, set aside what was prepared so many ms ago; return ms until the next is due."""
        for task_id in self.indexes["scheduled"].until(at, MOVED_AT_ONCE):
            task = self.states[task_id]
            self._take_out(task)
            self._enqueue(replace(task, due=min(task.due, at)), at)
        for task_id in self.indexes["prepared"].until(at - in_doubt_after, MOVED_AT_ONCE):
            self.indexes["prepared"].remove(task_id)
            self._fail(self.states[task_id], "in-doubt", at)
        following = self.indexes["scheduled"].earliest
        return None if following is None else max(0, following - at)

    def trim(self, limits: Sequence[tuple[str, int, int]], *, most: int, at: int) -> Trimmed:
        """Forget at most ``most`` tasks that were kept long enough, by (index, ms kept, number kept)."""
        left, with_files = most, list[str]()
        for name, kept, count in limits:
            index = self.indexes[name]
            old = index.until(at - kept, left)
            surplus = min(len(index) - count, left)
            for task_id in index.first(surplus) if surplus > len(old) else old:
                if not {"files", "response_file"}.isdisjoint(self.logs.get(task_id, TaskLog()).fields):
                    with_files.append(task_id)
                self._forget(self.states[task_id])
                left -= 1
        return Trimmed(most - left, tuple(with_files))


def _next(epoch: str, random: str) -> str:
    return f"{int(epoch.partition('-')[0] or 0) + 1}-{random}"
