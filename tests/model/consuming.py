"""The scripts that a consumer calls, and those who find one dead."""

from typing import Any, ClassVar, Final

from tests.model.places import GHOST, HELD, MASTER, NORMAL, Places
from tests.model.values import Task, Value, grouped, has, next_epoch, random_part

GIVEN_BACK_AT_ONCE: Final = 200
MOVED_AT_ONCE: Final = 100
SPOILT_AT_ONCE: Final = 100
LARGEST: Final = 65536
CONSUMERS: Final = (b"one", b"two", b"three")
# One that has left without a word: it may wait, and hears nothing.
DEAF: Final = b"three"


class Consuming(Places):
    """One method a script, with the same arguments and the same reply."""

    may_wait: ClassVar[bool] = True
    """Whether a consumer that finds nothing may be handed what comes later."""

    def _refusal(self, consumer: bytes, epoch: bytes) -> list[Any] | None:
        mine = self.leases.get(consumer, {}).get(b"epoch")
        if mine is None:
            return [b"GONE"]
        return None if mine == epoch else [b"FENCED"]

    def claim(
        self,
        consumer: bytes,
        random: bytes,
        host: bytes,
        pid: int,
        boot: bytes,
        start: bytes,
        begins: int,
        epoch_found: bytes,
        beat_found: bytes,
    ) -> list[Value]:
        if b"disabled" in self.control:
            return [b"DISABLED"]
        lease = self.leases[consumer]
        epoch = lease.get(b"epoch", b"")
        if random_part(epoch) != random:
            if epoch_found not in (b"*", epoch) or (epoch_found != b"*" and lease.get(b"beat", b"") != beat_found):
                return [b"TAKEN"]
            epoch = next_epoch(epoch, random)
            names = (b"epoch", b"host", b"pid", b"boot", b"start", b"begins", b"claimed", b"beat", b"token", b"count")
            fields = (epoch, host, b"%d" % pid, boot, start, b"%d" % begins, b"%d" % self.now, b"0", b"", b"0")
            self._wait_no_more(consumer)
            lease |= zip(names, fields, strict=True)
            self.expiring.discard(consumer)
            self.consumers.add(consumer)
        return [epoch, *self._return(consumer, begins=begins == 1)]

    def reclaim(self, consumer: bytes, random: bytes, epoch_found: bytes, beat_found: bytes) -> list[int]:
        lease = self.leases[consumer]
        epoch = lease.get(b"epoch")
        if epoch is None:
            return [0, 0]
        if random_part(epoch) != random:
            if (epoch, lease.get(b"beat", b"")) != (epoch_found, beat_found):
                return [0, 0]
            self._wait_no_more(consumer)
            lease |= {b"epoch": next_epoch(epoch, random), b"token": b"", b"count": b"0"}
        returned, left = self._return(consumer, begins=lease.get(b"begins") == b"1")
        if not left:
            self.expiring.add(consumer)
            self.consumers.discard(consumer)
        return [returned, left]

    def _return(self, consumer: bytes, *, begins: bool) -> tuple[int, int]:
        held = self.reserved[consumer]
        returned = held[: -GIVEN_BACK_AT_ONCE - 1 : -1]
        for task_id in returned:
            held.pop()
            task = self._load(task_id)
            if not task:
                self._set_aside(task_id, None)
            elif task.holder == consumer and task.state in HELD:
                self._return_one(task_id, task, begun=task.state == b"running" or not begins)
        if returned:
            self._hint()
        return len(returned), len(held)

    def _return_one(self, task_id: bytes, task: Task, *, begun: bool) -> None:
        task = task._replace(crashes=task.crashes + begun, attempt=task.attempt - (not begun))
        self._log_release(task_id, b"lost", task.holder)
        if mark := self.marks.get(task_id):
            self._obey(task_id, task, mark)
        else:
            self._give_back(task_id, task)

    def beat(self, consumer: bytes, epoch: bytes) -> list[Any]:
        if refusal := self._refusal(consumer, epoch):
            return refusal
        marked = [task_id for task_id in self.marks if (task := self._load(task_id)) and task.holder == consumer]
        lease = self.leases[consumer]
        lease[b"beat"] = b"%d" % (int(lease.get(b"beat", b"0")) + 1)
        reply: list[Any] = [b"OK", sorted(marked)]
        for name in sorted(self.consumers - {consumer}):
            other = self.leases[name]
            if b"epoch" in other:
                reply += (name, other[b"epoch"], other.get(b"beat", b""))
        return reply

    def leave(self, consumer: bytes, epoch: bytes) -> list[bytes]:
        if refusal := self._refusal(consumer, epoch):
            return refusal
        self._wait_no_more(consumer)
        if not self.reserved[consumer]:
            del self.leases[consumer]
            self.consumers.discard(consumer)
            self.expiring.discard(consumer)
        return [b"OK"]

    def due(self, in_doubt_after: int) -> int:
        for task_id in self._oldest(b"scheduled", self.now)[:MOVED_AT_ONCE]:
            task = self._load(task_id)
            if not task:
                self._set_aside(task_id, None)
            elif task.state == b"scheduled":
                self._enqueue(task_id, task._replace(due=min(task.due, self.now)))
            del self.indexes[b"scheduled"][task_id]
        for task_id in self._oldest(b"prepared", self.now - in_doubt_after)[:MOVED_AT_ONCE]:
            task = self._load(task_id)
            if task:
                self._fail(task_id, task, b"in-doubt")
            else:
                self._set_aside(task_id, None)
            del self.indexes[b"prepared"][task_id]
        following = min(self.indexes[b"scheduled"].values(), default=None)
        return -1 if following is None else int(max(0, following - self.now))

    # ---- from the line to the consumer

    def exchange(  # as the script is called
        self,
        consumer: bytes,
        epoch: bytes,
        token: bytes,
        count: int,
        room: int,
        slow: int,
        keep: int,
        waits: int,
        *endings: Any,
    ) -> list[Any]:
        if refusal := self._refusal(consumer, epoch):
            return refusal
        lease = self.leases[consumer]
        known, told = lease.get(b"count", b""), lease.get(b"token")
        handed = self._wait_no_more(consumer) if b"waits" in lease else None
        stale = self._settle(consumer, slow, keep, *endings)
        again = [handed] if handed is not None and self._still_held(consumer, handed) else []
        repeated = int(known) if told == token and known.isdigit() else 0
        return [b"OK", stale, *self._reserve(consumer, token, count, room, again, repeated, waits=waits == 1)]

    def _reserve(
        self, consumer: bytes, token: bytes, count: int, room: int, again: list[bytes], repeated: int, *, waits: bool
    ) -> list[Any]:
        lease, held = self.leases[consumer], self.reserved[consumer]
        if repeated:
            given = [task_id for task_id in held[-repeated:] if self._load(task_id) and task_id in self.records] + again
        else:
            given = self._take(consumer, allowed := self._allowed(count), room, again)
            lease |= {b"token": token, b"count": b"%d" % len(given)}
            if self.may_wait and waits and not given and allowed > 0:
                self.idle[b"%s:%s" % (consumer, token)], lease[b"waits"] = self.now, b"1"
        if given and len(self.consumers) > 1 and not any(self.lines.values()):
            self._hints.append(b"taken")
        return [self._given(task_id) for task_id in given]

    def _wait_no_more(self, consumer: bytes) -> bytes | None:
        """Return what was handed to a consumer while it waited, which is now among what it has reserved."""
        lease = self.leases[consumer]
        lease.pop(b"waits", None)
        self.idle.pop(b"%s:%s" % (consumer, lease.get(b"token", b"")), None)
        task_id = self.handed.pop(consumer, None)
        if task_id is not None:
            self.reserved[consumer].append(task_id)
        return task_id

    def _still_held(self, consumer: bytes, task_id: bytes | None) -> bool:
        task = self._load(task_id or b"")
        mine = task and task.holder == consumer and task.state in HELD
        return bool(mine) and task_id in self.records

    def _allowed(self, count: int) -> int:
        if self.now < self.control.get(b"slowed", 0) or {b"paused", b"disabled"} & set(self.control):
            return 0
        held = len(self.handed) + sum(len(self.reserved[name]) for name in self.consumers)
        return min(count, self.control[b"limit"] - held) if b"limit" in self.control else count

    def _lines_in_use(self) -> list[list[bytes]]:
        others = any(line for priority, line in self.lines.items() if priority != NORMAL)
        return [self.lines[priority] for priority in (range(9, -1, -1) if others else (NORMAL,))]

    def _take(self, consumer: bytes, count: int, room: int, handed: list[bytes]) -> list[bytes]:
        given = handed
        spoilt, size = 0, sum(len(self.records[task_id]) for task_id in handed)
        for line in self._lines_in_use():
            while line:
                if len(given) >= count or spoilt >= SPOILT_AT_ONCE:
                    return given
                task_id = line[0]
                task, record = self._load(task_id), self.records.get(task_id)
                if task and task.state == b"queued" and record is not None:
                    size += len(record)
                    if given and size > room:
                        return given
                    self._hand_over(task_id, task, consumer)
                    given.append(task_id)
                else:
                    spoilt += 1
                    self._pass_over(task_id, task)
                line.pop(0)
        return given

    def _hand_over(self, task_id: bytes, task: Task, consumer: bytes) -> None:
        self._give_out(task_id, task, consumer)
        self.reserved[consumer].append(task_id)

    def _give_out(self, task_id: bytes, task: Task, consumer: bytes) -> None:
        task = task._replace(delivery=task.delivery + 1, attempt=task.attempt + 1, reserved=self.now, begun=0)
        self._save(task_id, task._replace(holder=consumer, token=b""), b"reserved")

    def _pass_over(self, task_id: bytes, task: Task | None) -> None:
        if task and has(task, GHOST):
            self.states[task_id] = self._lay(task)
        elif not task or task.state == b"queued":
            self._set_aside(task_id, task)

    def _given(self, task_id: bytes) -> list[Any]:
        task = self._load(task_id)
        assert task
        return [task_id, self.records[task_id], int(task.delivery), int(task.attempt), int(task.crashes)]

    # ---- what is said of a delivery, and its end

    def begin(self, *starts: Any) -> list[int]:
        return [self._begin(*start) for start in grouped(starts, 3)]

    def _begin(self, task_id: bytes, delivery: int, token: bytes) -> int:
        task = self._load(task_id)
        if not task or task.delivery != delivery or task.state not in HELD:
            return 0
        if task.state == b"running":
            return int(task.token == token)
        if task_id in self.marks:
            return 0
        self._save(task_id, task._replace(begun=self.now, token=token), b"running")
        return 1

    def note(self, task_id: bytes, delivery: int, *fields: bytes) -> int:
        task = self._load(task_id)
        if not task or task.delivery != delivery or task.state not in HELD:
            return 0
        for name, value in grouped(fields, 2):
            if value:
                self.logs[task_id][name] = value
            else:
                self.logs[task_id].pop(name, None)
        return 1

    def _settle(self, consumer: bytes, slow: int, keep: int, *endings: Any) -> list[bytes]:
        if slow:
            self.control[b"slowed"] = max(self.control.get(b"slowed", 0), self.now + slow)
        stale = []
        for task_id, delivery, kind, delay, status, reason, response, *following in reversed(list(grouped(endings, 9))):
            task = self._load(task_id)
            if not task or (task.delivery, task.holder) != (delivery, consumer):
                stale.append(task_id)
            elif task.state in HELD:
                task = task._replace(status=status, reason=reason)
                self._end(task_id, task, kind, self.now + delay, response, following, keep=keep == 1)
                if task_id in self.reserved[consumer]:
                    self.reserved[consumer].remove(task_id)
        return stale

    def _end(
        self, task_id: bytes, task: Task, kind: bytes, due: int, response: bytes, following: list[bytes], *, keep: bool
    ) -> None:
        if mark := self.marks.get(task_id):
            self._log_ending(task_id, task, mark)
            self._obey(task_id, task, mark)
        elif kind == b"complete":
            self._complete(task_id, task, response, *following, keep=keep)
        elif kind == b"release":
            self._log_release(task_id, task.reason, task.holder)
            task = task._replace(attempt=task.attempt - 1, due=due)
            (self._enqueue if due > self.now else self._give_back)(task_id, task)
        else:
            self._log_ending(task_id, task, kind)
            if response:
                self.logs[task_id][b"response"] = response
            if kind == b"retry":
                self._list_in(task_id, task._replace(due=due), b"scheduled")
            else:
                self._fail_for_good(task_id, task, task.reason, following[1])

    def _log_ending(self, task_id: bytes, task: Task, kind: bytes) -> None:
        line = (task.attempt, task.reserved, task.begun, self.now, task.status, task.reason, task.holder, kind)
        self.logs[task_id][b"%d" % task.delivery] = line

    def _complete(
        self, task_id: bytes, task: Task, response: bytes, completed: bytes, failed: bytes, *, keep: bool
    ) -> None:
        log = self.logs[task_id]
        if keep:
            self._log_record(task_id)
        if response:
            log[b"response"] = response
        elif task.delivery > 1:
            log.pop(b"response", None)
        if task.open > 0 and not has(task, MASTER):
            for state, packed in ((b"completed", completed), (b"failed", failed)):
                log.pop(state, None)
                if packed:
                    log[state] = packed
            self._log_ending(task_id, task, b"waiting")
            self._list_in(task_id, task, b"waiting")
        elif task.spoilt > 0 and not has(task, MASTER):
            self._fail_for_good(task_id, task, b"children", failed)
        else:
            self._conclude(task_id, task, b"completed")
            self._drop_record(task_id)
            if completed:
                self._follow(completed)

    def _fail_for_good(self, task_id: bytes, task: Task, reason: bytes, following: bytes) -> None:
        self._fail(task_id, task, reason)
        if following:
            self._follow(following)
