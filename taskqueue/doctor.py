"""Why does nothing happen? Each check looks for one mistake, and says how to mend it.

The checks are plain functions on what was found: settings, what the store says of itself, counts. Only ``examine``
asks the store. What can only be seen from outside the application, by asking it, is in ``probe``.
"""

import asyncio
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from .admin import gone
from .broker import Broker, connect, require_shared
from .catalogue import Settings
from .durability import Durability, kept
from .durability import Level as Kept
from .errors import BrokerUnavailable, ConfigError
from .inspector import ConsumerInfo, Control, Inspector, QueueStats, StoreInfo
from .keys import Keyring
from .policy import KEY
from .routes import NO_ROUTES, Routes, with_ruled
from .task import TaskState

Level = Literal["ok", "warning", "error"]

PATIENCE: Final = 5.0
# A memory this full is soon none; tasks are refused when it is.
NEARLY_FULL: Final = 0.8
FULL: Final = 0.95
# Seconds: delays are off by as much; signatures are refused from 30 on.
CLOCK_OFF: Final = 2.0
CLOCK_WRONG: Final = 30.0
# Seconds to listen for the beat of a consumer, which comes twice a second.
LISTEN: Final = 3.0
# The store decides after 60 s; a little later somebody should have asked it to.
IN_DOUBT_MS: Final = 75_000
LOOKED_AT: Final = 200
# What to do about a store that only its own process sees.
LOOK_INSIDE: Final = "ask inside the application (tq.get, tq.size, tq.broker.inspector)"
# What people write into examples, and forget there. Random text of 64 letters holds none of them in a million years.
_SAMPLE: Final = re.compile(
    r"change.?me|change.?this|replace.?(me|this)|example|sample|placeholder|insecure|your.?secret|my.?secret|password"
    r"|secret.?key|tests.?only|dont.?use|do.?not.?use|0123456789|123456789|abcdefghij|deadbeef|qwerty",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; ``remedy`` says what to do, and is empty if all is well."""

    check: str
    level: Level
    what: str
    remedy: str = ""


def of_error(check: str, error: Exception, remedy: str) -> Finding:
    """Return a finding for what was raised; an error of ours brings its remedy after the semicolon."""
    what, _, own = str(error).partition("; ")
    return Finding(check, "error", what, own or remedy)


# Settings.


def check_url(chosen: Settings) -> Finding:
    """Look whether there is a URL, and one that names a store that can be seen from here."""
    try:
        require_shared(chosen.required_url(), LOOK_INSIDE)
        connect(chosen.required_url(), namespace=chosen.namespace)
    except ConfigError as error:
        return of_error("url", error, "set TASKQUEUE_URL, for example to redis://127.0.0.1:6379/0")
    return Finding("url", "ok", f"{chosen.public('url')} ({chosen.origin('url')})")


def check_secret(secrets: Sequence[str]) -> Finding:
    """Look whether the secret is there, long enough, and nobody's example."""
    make = "make one with: taskqueue secret, and set TASKQUEUE_SECRET for the application and every consumer"
    try:
        Keyring(secrets)
    except ConfigError as error:
        return Finding("secret", "error", str(error).partition("; ")[0], make)
    if any(_SAMPLE.search(secret) for secret in secrets):
        return Finding("secret", "error", "the secret looks like an example that others know too", make)
    many = f", {len(secrets)} are accepted" if len(secrets) > 1 else ""
    return Finding("secret", "ok", f"long enough{many}")


# The store.


def check_durability(info: StoreInfo, declared: Durability | None) -> list[Finding]:
    """Look whether tasks survive what they were declared to survive; undeclared, the death of the store."""
    level = declared.level if declared else None
    findings = [_volatility(level) if info.volatile else _persistence(info, level)]
    return [*findings, _replicas(info, declared)] if declared and declared.replicas else findings


def _replicas(info: StoreInfo, declared: Durability) -> Finding:
    what = f"{info.replicas} replica(s) are connected, {declared.replicas} confirm each commit"
    if info.replicas < declared.replicas:
        remedy = f"start and connect more, or declare less (durability, here {declared})"
        return Finding("replicas", "error", f"{what}: every commit will be uncertain", remedy)
    if info.replicas > declared.replicas:
        what += ": one that is promoted while the old primary still takes tasks may lack what the others confirmed"
        remedy = f"declare replica:{info.replicas}; a commit is then uncertain whenever one of them is away"
        return Finding("replicas", "warning", what, remedy)
    return Finding("replicas", "ok", what)


def _volatility(declared: Kept | None) -> Finding:
    what = "the store is inside this process: what waits when it ends is lost"
    if declared == "memory":
        return Finding("persistence", "ok", f"{what}, as declared ({declared})")
    return Finding("persistence", "warning", what, "declare durability memory, or take embedded:// or redis://")


def _persistence(info: StoreInfo, declared: Kept | None) -> Finding:
    check = "persistence"
    found = kept(appendonly=info.appendonly, fsync=info.fsync)
    as_declared = f", as declared ({declared})" if declared else ""
    if found is None:
        what = "the store does not tell whether it has an append-only file"
        return Finding(check, "warning", what, "ask whoever runs it whether appendonly is yes")
    if declared == "memory" and found == "memory":
        return Finding(check, "ok", f"the append-only file is off{as_declared}")
    if found == "memory":
        what = "the append-only file is off: committed tasks are lost when the store dies"
        what += f", and {declared} is declared" if declared else ""
        remedy = "set appendonly yes in its configuration (CONFIG SET appendonly yes, then CONFIG REWRITE)"
        return Finding(check, "error" if declared in ("process", "disk") else "warning", what, remedy)
    if declared != "disk" or found == "disk":
        return Finding(check, "ok", f"the append-only file is on{as_declared}")
    remedy = "set appendfsync always (CONFIG SET appendfsync always, then CONFIG REWRITE), or declare process"
    if info.fsync is None:
        what = "disk is declared, and the store does not tell its appendfsync"
        return Finding(check, "warning", what, remedy)
    what = f"disk is declared, and appendfsync is {info.fsync}: a power cut takes what was not yet synced"
    return Finding(check, "error", what, remedy)


def check_role(info: StoreInfo) -> Finding:
    """Look whether the store takes writes."""
    what = f"{info.product} {info.version} answers"
    if info.primary:
        return Finding("broker", "ok", what)
    remedy = "give the URL of the primary, or of the sentinels: redis+sentinel://host,host/service"
    return Finding("broker", "error", f"{what}, and is a replica: it takes no tasks", remedy)


def check_eviction(info: StoreInfo) -> Finding:
    """Look whether the store may throw tasks away when its memory is full."""
    remedy = "set maxmemory-policy noeviction, and keep caches in a store of their own"
    if info.eviction is None:
        return Finding("eviction", "warning", "the store does not tell its maxmemory-policy", remedy)
    if info.eviction == "noeviction":
        return Finding("eviction", "ok", "maxmemory-policy is noeviction")
    what = f"maxmemory-policy is {info.eviction}: a store whose memory is full throws away what it was to keep"
    return Finding("eviction", "error", what, remedy)


def check_memory(info: StoreInfo) -> Finding:
    """Look whether there is room for tasks."""
    used = f"{info.used_bytes / 2**20:.0f} MiB"
    if not info.max_bytes:
        return Finding("memory", "ok", f"{used} used, no maxmemory")
    part = info.used_bytes / info.max_bytes
    what = f"{used} of {info.max_bytes / 2**20:.0f} MiB used ({part:.0%})"
    if part < NEARLY_FULL:
        return Finding("memory", "ok", what)
    remedy = "raise maxmemory, or find out what fills it: taskqueue stats; a full store refuses tasks"
    return Finding("memory", "error" if part >= FULL else "warning", what, remedy)


def check_clock(info: StoreInfo) -> Finding:
    """Look whether the store's clock goes like ours."""
    off = abs(info.clock_offset)
    if off < CLOCK_OFF:
        return Finding("clock", "ok", "the store's clock and this one agree")
    what = f"the store's clock is {off:.0f} s {'ahead of' if info.clock_offset > 0 else 'behind'} this one"
    remedy = "synchronise both (chrony, systemd-timesyncd): delays, expiry and signatures go by them"
    return Finding("clock", "error" if off >= CLOCK_WRONG else "warning", what, remedy)


# Queues.


def check_consumers(
    stats: QueueStats, *, host: str, runs: Callable[[int], bool], silent: Collection[str] = (), route: str = ""
) -> Finding:
    """Look whether somebody takes tasks off this queue; ``silent`` are the names whose beat was not heard.

    ``route`` is a pattern that a rule sends there.
    """
    check = f"consumers of {stats.queue}"
    ended = [one for one in stats.consumers if one.name in silent or gone(one, host=host, runs=runs)]
    left = [consumer.name for consumer in stats.consumers if consumer not in ended]
    if left:
        return Finding(check, "ok", f"{', '.join(left)}; {stats.queued} task(s) wait")
    dead = ", ".join(f"{consumer.name} (process {consumer.pid} on {consumer.host})" for consumer in ended)
    what = f"no longer running, or hung: {dead}" if dead else "none runs"
    what += f", and the rule of {route} names this queue" if route else ""
    held = stats.queued + stats.reserved
    first = "" if "disabled" not in stats.control else f"taskqueue queues enable {stats.queue}, then "
    name = ended[0].name if ended else "instance1"
    start = f"{first}start one: taskqueue-server --name={name} --queue {stats.queue}"
    if not held:
        return Finding(check, "warning", what, start)
    return Finding(check, "error", f"{held} task(s) wait or are held, and nobody consumes; {what}", start)


# What each word does, and what takes it back.
_WORDS: Final[Mapping[Control, tuple[str, str]]] = {
    "paused": ("it is paused: no task is given out", "resume {}"),
    "closed": ("it is closed: whoever adds a task gets an error", "open {}"),
    "disabled": ("it is disabled: no task is given out, and no consumer starts", "enable {}"),
    "limit": ("its limit over all consumers is reached", "limit {} 0"),
}


def check_control(stats: QueueStats) -> Finding:
    """Look whether an operator's word, or the application's, keeps tasks from being added or given out."""
    check = f"control of {stats.queue}"
    if stats.slowed and not stats.control:
        what = f"the application has asked for patience: no task is given out for {stats.slowed / 1000:.0f} s"
        return Finding(
            check, "warning", what, "find out what answers with Retry-After: taskqueue list --state scheduled"
        )
    limit = stats.control.get("limit")
    full = limit is not None and stats.reserved >= limit and stats.queued > 0
    said = [_WORDS[word] for word in stats.control if word != "limit" or full]
    if not said:
        return Finding(check, "ok", "nothing is said of it" if limit is None else f"limit {limit}")
    remedy = "; ".join(f"taskqueue queues {back.format(stats.queue)}" for _, back in said)
    return Finding(check, "warning", "; ".join(what for what, _ in said), f"if that is not meant any more: {remedy}")


def check_doubt(queue: str, prepared: Sequence[TaskState], *, now: int) -> Finding:
    """Look for tasks whose producer has died between vote and commit; ``now`` in ms of the store's clock."""
    check = f"commits into {queue}"
    old = [task for task in prepared if now - task.changed > IN_DOUBT_MS]
    if not old:
        return Finding(check, "ok", "none is in doubt")
    what = f"{len(old)} prepared task(s) in doubt, neither committed nor aborted for over a minute, as {old[0].id}"
    remedy = (
        "a running consumer sets them aside as failed (in-doubt); then decide whether each is to run: taskqueue list"
        f" --state failed --queue {queue}, taskqueue retry ID"
    )
    return Finding(check, "warning", what, remedy)


def check_returned(queue: str, scheduled: Sequence[TaskState]) -> Finding:
    """Look for tasks that came back because a consumer, or the application it asked, has not their secret."""
    check, back = f"secret for {queue}", [task for task in scheduled if task.reason == KEY]
    if not back:
        return Finding(check, "ok", "no task has come back for want of it")
    what = f"{len(back)} task(s) came back: {back[0].holder}, or the application it asks, has another secret than they"
    remedy = "give applications and consumers the same TASKQUEUE_SECRET; the tasks come again by themselves"
    return Finding(check, "error", what, remedy)


def check_failed(stats: QueueStats, latest: Sequence[TaskState]) -> Finding:
    """Look for failed tasks, and name the reasons of the latest."""
    check, queue = f"failures in {stats.queue}", stats.queue
    if not stats.failed:
        return Finding(check, "ok", "no failed task")
    reasons = Counter(task.reason or "?" for task in latest).most_common(3)
    named = ", ".join(f"{reason} {count}" for reason, count in reasons)
    what = f"{stats.failed} failed task(s); the latest by reason: {named}"
    remedy = f"taskqueue list --state failed --queue {queue}; mend the cause; taskqueue retry --queue {queue}"
    return Finding(check, "warning", what, remedy)


def check_names(found: Sequence[str], configured: Sequence[str]) -> Finding:
    """Look for queues in the store that the settings do not name: a misspelt one is consumed by nobody."""
    strange = [name for name in found if name not in configured]
    if not strange:
        return Finding("queue names", "ok", f"the settings name {', '.join(configured)}, the store holds no other")
    what = f"the store holds {', '.join(strange)}, which the settings here do not name ({', '.join(configured)})"
    remedy = "compare TASKQUEUE_QUEUES of application and consumers; look into one with: taskqueue stats --queue "
    return Finding("queue names", "warning", what, remedy + strange[0])


# Asking.


async def examine(
    broker: Broker,
    queues: Sequence[str],
    *,
    declared: Durability | None = None,
    host: str = "",
    runs: Callable[[int], bool] | None = None,
    routes: Callable[[], Awaitable[Routes]] | None = None,
) -> list[Finding]:
    """Ask the store and return what all its checks found; ``host`` and ``runs`` tell who lives on this machine.

    ``routes``: asked for the rules, whose queues are looked at as well.
    """
    try:
        info = await broker.inspector.store(deadline=_soon())
    except BrokerUnavailable as error:
        remedy = (
            "is it running, is the address right, does a firewall stand between? try redis-cli -u with the same URL"
        )
        return [of_error("broker", error, remedy)]
    except ConfigError as error:
        return [of_error("broker", error, "give the URL a user that may run INFO, TIME, EVALSHA and all key commands")]
    findings = [
        check_role(info),
        *check_durability(info, declared),
        check_eviction(info),
        check_memory(info),
        check_clock(info),
    ]
    ruled = await routes() if routes else NO_ROUTES
    queues = with_ruled(queues, ruled)
    asked = _Asked(
        broker, round((time.time() + info.clock_offset) * 1000), host or socket.gethostname(), runs or running, ruled
    )
    for queue in queues:
        findings += await _queue(asked, queue)
    try:
        findings.append(check_names(await broker.inspector.queues(deadline=_soon()), queues))
    except (BrokerUnavailable, ConfigError) as error:
        findings.append(Finding("queue names", "warning", f"could not look: {error}", "allow the user SCAN"))
    return findings


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is looked into: ``now`` in ms of its clock; who lives here, see ``examine``; the rules there are."""

    broker: Broker
    now: int
    host: str
    runs: Callable[[int], bool]
    routes: Routes


async def _queue(asked: _Asked, queue: str) -> list[Finding]:
    broker, host, runs = asked.broker, asked.host, asked.runs
    inspector, deadline = broker.inspector, _soon()
    try:
        stats = await inspector.stats(queue, deadline=deadline)
        latest = await inspector.tasks(queue, "failed", limit=LOOKED_AT, offset=0, deadline=deadline)
        scheduled = await inspector.tasks(queue, "scheduled", limit=LOOKED_AT, offset=0, deadline=deadline)
        # The oldest stand last.
        offset = max(0, stats.prepared - LOOKED_AT)
        prepared = await inspector.tasks(queue, "prepared", limit=LOOKED_AT, offset=offset, deadline=deadline)
        # Every kind of key is touched once, so that a key of somebody else's is found.
        await broker.get(queue, "doctor", deadline=deadline)
        await inspector.record(queue, "doctor", deadline=deadline)
        perhaps = [one for one in stats.consumers if not gone(one, host=host, runs=runs)]
        silent = await _silent(inspector, queue, perhaps) if stats.queued + stats.reserved else set()
    except (BrokerUnavailable, ConfigError) as error:
        return [of_error(f"keys of {queue}", error, "set TASKQUEUE_NAMESPACE to a prefix that nobody else uses")]
    return [
        Finding(f"keys of {queue}", "ok", "ours"),
        check_control(stats),
        check_consumers(stats, host=host, runs=runs, silent=silent, route=asked.routes.leading_to(queue)),
        check_doubt(queue, prepared, now=asked.now),
        check_returned(queue, scheduled),
        check_failed(stats, latest),
    ]


async def _silent(inspector: Inspector, queue: str, consumers: Sequence[ConsumerInfo]) -> set[str]:
    """Return those of whom no beat is heard; the others have beaten, or have left in good order."""
    until = time.monotonic() + LISTEN
    beats = {consumer.name: consumer.beat for consumer in consumers}
    while beats and time.monotonic() < until:
        await asyncio.sleep(LISTEN / 20)
        again = await inspector.stats(queue, deadline=_soon())
        now = {consumer.name: consumer.beat for consumer in again.consumers}
        beats = {name: beat for name, beat in beats.items() if now.get(name) == beat}
    return set(beats)


def running(pid: int) -> bool:
    """Tell whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _soon() -> float:
    return time.monotonic() + PATIENCE
