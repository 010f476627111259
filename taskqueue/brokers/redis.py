"""A queue in Redis or Valkey.

The keys of a queue ``q`` share one hash tag: ``ns:{q}`` is the LIST of waiting ids (tail is the front), beside it the
lines of other priorities, ``:p0`` to ``:p9`` (LISTs); ``:records`` (HASH id -> sealed task, never changed), ``:state``
(HASH id -> packed state), ``:reserved:<consumer>`` (LIST), ``:scheduled``, ``:prepared``, ``:waiting``, ``:finished``,
``:failed``, ``:cancelled``, ``:archived`` (ZSETs id -> ms), ``:by:owner:<index>``, ``:by:label:<label>``,
``:by:route:<route>`` (ZSETs id -> ms when added), ``:control`` (HASH), ``:marks`` (HASH id -> what a task under way is
to end as), ``:log:<id>`` (HASH: deliveries that ended, what was done to it, what it said of itself),
``:consumer:<name>`` (HASH: the lease), ``:consumers`` (SET of names), ``:idle`` (ZSET name:token -> ms: who waits),
``:handed`` (HASH name -> id: what came for whom), and the channels ``ns:{q}`` and ``ns:{q}:to:<consumer>``. While a
reset removes logs there is also ``:emptied``, the former ``:state``. Beside all queues stands ``ns:routes`` (HASH
pattern -> packed rule).
Every move is one script of ``taskqueue/lua``; this module only turns values into arguments and replies into values.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final
from weakref import WeakKeyDictionary

import msgpack
from redis import Redis

from ..broker import IN_DOUBT_AFTER_MS, UNLIMITED, Capacity, Exchange, Lease, Owner, Seen, Trimmed
from ..commit import Outcome
from ..durability import Durability
from ..errors import ConfigError
from ..identity import Identity, own
from ..task import SealedTask, Settlement, TaskState
from .acts import Acts
from .calls import Arguments, Copies, Load
from .connections import client_options, connected, pool_of
from .hearing import Hearing, reservation
from .inspection import RedisInspector, info_lines, lines, state_of
from .link import Health, Link
from .pulse import RedisPulse, require_lease
from .reasons import disabled, removed, taken
from .refusals import line_errors, translated
from .scripts import SCRIPTS
from .storing import Store
from .wire import Wire

_ONE_START: Final = Load(1, 0)


class RedisBroker(Acts):
    """A Broker in Redis 6.2 or newer, or Valkey: one connection per event loop, none before first use."""

    moves: ClassVar[bool] = False

    def __init__(
        self, url: str, *, namespace: str, capacity: Capacity = UNLIMITED, durability: Durability | None = None
    ) -> None:
        """Take the URL, the prefix of all keys, what a queue may hold, and what a commit is to survive.

        Raises ConfigError for a URL that redis-py cannot read.
        """
        try:
            self._url, self._pool = url, pool_of(url)
        except ValueError as error:
            raise ConfigError(f"url: {error}") from None
        self._namespace, self._capacity = namespace, capacity
        self._replicas = durability.replicas if durability else 0
        self._health = Health()
        self._links: WeakKeyDictionary[asyncio.AbstractEventLoop, Link] = WeakKeyDictionary()

    @property
    def _link(self) -> Link:
        return self._link_of(asyncio.get_running_loop())

    def _link_of(self, loop: asyncio.AbstractEventLoop) -> Link:
        link = self._links.get(loop)
        if link is None:
            link = self._links[loop] = Link(self._pool, self._health, moves=self.moves)
        return link

    def key(self, queue: str) -> str:
        """Return the key of the queue's list, base of all its other keys and name of its channel."""
        return f"{self._namespace}:{{{queue}}}"

    async def script(self, name: str, queue: str, arguments: Callable[[], Arguments], *, deadline: float) -> Any:
        """Carry out one script on a queue; ``arguments`` is asked when it is sent."""
        return await self._copied(name, queue, arguments, None, deadline=deadline)

    async def _copied(
        self, name: str, queue: str, arguments: Callable[[], Arguments], written: object, *, deadline: float
    ) -> Any:
        """Do so, and if the reply is the one that says ``written``, until as many replicas have it as were declared."""
        copies = Copies(self._replicas, written) if self._replicas and written is not None else None
        with translated():
            return await self._link.call(SCRIPTS[name], [self.key(queue)], arguments, deadline=deadline, copies=copies)

    def _store(self, name: str, queue: str, tasks: Sequence[SealedTask], *, deadline: float) -> Outcome:
        loop, replicas = asyncio.get_running_loop(), self._replicas
        link, outcome = self._link_of(loop), Outcome(loop=loop)
        copies = Copies(replicas, b"OK") if replicas else None
        store = Store(
            name,
            self.key(queue),
            tasks,
            outcome=outcome,
            deadline=deadline,
            capacity=self._capacity,
            copies=copies,
            clock=link,
        )
        link.begin(store)
        return outcome

    def push(self, queue: str, tasks: Sequence[SealedTask], *, deadline: float) -> Outcome:
        """See Broker. What is pushed at once travels together."""
        return self._store("push", queue, tasks, deadline=deadline)

    def prepare(self, queue: str, tasks: Sequence[SealedTask], *, deadline: float) -> Outcome:
        """See Broker. What is prepared at once travels together."""
        return self._store("prepare", queue, tasks, deadline=deadline)

    async def promote(self, queue: str, ids: Sequence[str], *, deadline: float) -> None:
        """See Broker."""
        unknown = await self._copied("promote", queue, lambda: ids, 0, deadline=deadline)
        if unknown:
            raise removed(queue, unknown)

    async def discard(self, queue: str, ids: Sequence[str], *, deadline: float) -> None:
        """See Broker."""
        await self.script("discard", queue, lambda: ids, deadline=deadline)

    async def begin(self, queue: str, task_id: str, delivery: int, *, deadline: float) -> bool:
        """See Broker. What begins at once travels together."""
        arguments = (task_id, delivery, secrets.token_hex(8))
        with translated():
            return bool(
                await self._link.call(
                    SCRIPTS["begin"], [self.key(queue)], lambda: arguments, deadline=deadline, load=_ONE_START
                )
            )

    async def note(
        self, queue: str, task_id: str, delivery: int, fields: Mapping[str, bytes], *, deadline: float
    ) -> bool:
        """See Broker."""
        arguments = (task_id, delivery, *(value for pair in fields.items() for value in pair))
        return bool(await self.script("note", queue, lambda: arguments, deadline=deadline))

    async def owner(self, queue: str, consumer: str, *, deadline: float) -> Owner:
        """See Broker."""
        names = ("epoch", "beat", "host", "pid", "boot", "start")
        fields = await self.command("HMGET", f"{self.key(queue)}:consumer:{consumer}", *names, deadline=deadline)
        epoch, beat, host, pid, boot, start = ((field or b"").decode() for field in fields)
        return Owner(epoch, beat, Identity(host, int(pid or 0), boot, start))

    async def claim(
        self, queue: str, consumer: str, *, dead: Owner | None = None, begins: bool, deadline: float
    ) -> tuple[Lease, int]:
        """See Broker."""
        await self._require_lasting(deadline=deadline)
        found_dead = (dead.epoch, dead.beat) if dead else ("*", "")
        me = own()
        arguments = (consumer, secrets.token_hex(8), me.host, me.pid, me.boot, me.start, int(begins), *found_dead)
        epoch, *counts = await self.script("claim", queue, lambda: arguments, deadline=deadline)
        if epoch == b"DISABLED":
            raise disabled(queue)
        if epoch == b"TAKEN":
            raise taken(queue, consumer)
        returned, left = counts
        while left:
            _, some, left = await self.script("claim", queue, lambda: arguments, deadline=deadline)
            returned += some
        return Lease(queue, consumer, epoch.decode()), returned

    async def _require_lasting(self, *, deadline: float) -> None:
        """Raise ConfigError for a store that throws tasks away when its memory is full."""
        try:
            info = info_lines(await self.command("INFO", "memory", deadline=deadline))
        except ConfigError:
            return  # This user may not ask: taskqueue doctor says so.
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and info.get("maxmemory", "0") != "0":
            raise ConfigError(
                f"maxmemory-policy: it is {policy}, with which redis throws tasks away when its memory is full; set it"
                " to noeviction (CONFIG SET maxmemory-policy noeviction, and in its configuration), and keep caches in"
                " a store of their own"
            )

    async def reclaim(self, queue: str, dead: Seen, *, deadline: float) -> int:
        """See Broker."""
        arguments = (dead.consumer, secrets.token_hex(8), dead.epoch, dead.beat)
        returned, left = await self.script("reclaim", queue, lambda: arguments, deadline=deadline)
        while left:
            some, left = await self.script("reclaim", queue, lambda: arguments, deadline=deadline)
            returned += some
        return int(returned)

    async def leave(self, lease: Lease, *, deadline: float) -> None:
        """See Broker."""
        arguments = (lease.consumer, lease.epoch)
        answer, *_ = await self.script("leave", lease.queue, lambda: arguments, deadline=deadline)
        require_lease(answer, lease)

    def pulse(self, *, timeout: float) -> RedisPulse:
        """See Broker."""
        return RedisPulse(lambda: self._client(timeout), self.key)

    def _client(self, timeout: float) -> Redis:
        """Return a synchronous client; its connection is made at first use."""
        return Redis.from_url(self._url, **client_options(timeout))

    async def exchange(
        self,
        lease: Lease,
        settlements: Sequence[Settlement],
        *,
        token: str,
        want: int,
        room: int,
        keep: bool = False,
        waits: bool = False,
        deadline: float,
    ) -> Exchange:
        """See Broker."""
        slow = max((round(item.verdict.slow * 1000) for item in settlements), default=0)
        told: list[str | bytes | int] = [lease.consumer, lease.epoch, token, want, room, slow, int(keep), int(waits)]
        for item in settlements:
            verdict = item.verdict
            delay = round(verdict.delay * 1000)
            told += (item.id, item.delivery, verdict.kind, delay, verdict.status, verdict.reason, item.response)
            told += (_packed(item.on_success), _packed(item.on_failure))
        answer, *said = await self.script("exchange", lease.queue, lambda: told, deadline=deadline)
        require_lease(answer, lease)
        stale, *given = said
        return Exchange([reservation(lease.queue, *one) for one in given], [task_id.decode() for task_id in stale])

    async def due(self, queue: str, *, deadline: float) -> float | None:
        """See Broker."""
        wait = await self.script("due", queue, lambda: (IN_DOUBT_AFTER_MS,), deadline=deadline)
        return None if wait < 0 else wait / 1000

    async def trim(self, queue: str, limits: Sequence[tuple[str, int, int]], *, most: int, deadline: float) -> Trimmed:
        """See Broker."""
        arguments = [most, *(value for limit in limits for value in limit)]
        count, *with_files = await self.script("trim", queue, lambda: arguments, deadline=deadline)
        return Trimmed(count, tuple(task_id.decode() for task_id in with_files))

    async def command(self, name: str, *arguments: str | bytes | int, deadline: float) -> Any:
        """Carry out one plain command; its first argument is a key in most of them."""
        with translated():
            return await self._link.call(name, (), lambda: arguments, deadline=deadline)

    async def get(self, queue: str, task_id: str, *, deadline: float) -> TaskState | None:
        """See Broker."""
        raw = await self.command("HGET", f"{self.key(queue)}:state", task_id, deadline=deadline)
        return None if raw is None else state_of(queue, task_id, raw)

    async def size(self, queue: str, *, deadline: float) -> int:
        """See Broker."""
        key = self.key(queue)
        calls = [self.command("LLEN", line, deadline=deadline) for line in lines(key)]
        ghosts, *counts = await _all([self.command("HGET", f"{key}:control", "ghosts", deadline=deadline), *calls])
        return max(0, sum(map(int, counts)) - int(ghosts or 0))

    async def routes(self, *, deadline: float) -> Mapping[str, bytes]:
        """See Broker."""
        flat = await self.command("HGETALL", f"{self._namespace}:routes", deadline=deadline)
        return {path.decode(errors="replace"): rule for path, rule in zip(flat[::2], flat[1::2], strict=True)}

    async def route(self, pattern: str, rule: bytes | None, *, deadline: float) -> None:
        """See Broker."""
        change = ("HDEL",) if rule is None else ("HSET", rule)
        await self.command(change[0], f"{self._namespace}:routes", pattern, *change[1:], deadline=deadline)

    @asynccontextmanager
    async def hints(self, queues: Sequence[str], consumer: str) -> AsyncIterator[AsyncIterator[str]]:
        """See Broker. The stream ends with BrokerUnavailable when the connection does."""
        channels = {self.key(queue).encode(): queue for queue in queues}
        late = {f"{self.key(queue)}:to:{consumer}".encode(): queue for queue in queues}
        hearing = Hearing(channels, late)
        with line_errors():
            wire = Wire(await connected(self._pool), hearing.say, hearing.say)
            try:
                yield hearing.listen(wire)
            finally:
                await wire.close(nowait=True)

    @property
    def trouble(self) -> str | None:
        """See Broker. Any loop's connection may have heard it, or that all is well again."""
        return self._health.trouble

    @property
    def inspector(self) -> RedisInspector:
        """See Broker."""
        return RedisInspector(self)

    async def aclose(self) -> None:
        """See Broker. Closes the connection of the running loop; those of other loops die with their loop."""
        link = self._links.pop(asyncio.get_running_loop(), None)
        if link is not None:
            await link.aclose()


def open_broker(
    url: str, *, namespace: str, capacity: Capacity = UNLIMITED, durability: Durability | None = None
) -> RedisBroker:
    """Return the broker for a ``redis://``, ``rediss://`` or ``unix://`` URL; see ``taskqueue.broker.connect``."""
    return RedisBroker(url, namespace=namespace, capacity=capacity, durability=durability)


def _packed(task: SealedTask | None) -> bytes:
    # The unpacker in Redis is older than the binary type.
    return b"" if task is None else bytes(msgpack.packb(task.values, use_bin_type=False))


async def _all(calls: Sequence[Any]) -> list[Any]:
    # gather starts them in order, so that they stand in this order in one round trip.
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
