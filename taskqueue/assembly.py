"""From settings to a consumer: what ``taskqueue-server`` and the consumer in a web process have in common."""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from . import loading
from .broker import masked, replays_at_commit
from .catalogue import Settings
from .doubts import Doubts
from .errors import ConfigError, StorageError, UsageError
from .events import Events
from .hooks import OnFailed
from .intake import Intake
from .policy import Rules
from .producer import TaskQueue
from .replay import Replayer
from .response_files import ResponseFiles
from .retention import Retention, retention_rules
from .routes import with_ruled
from .server import TaskQueueServer
from .signs import Signs
from .strategy import Strategy, Strict, Weighted
from .sweeping import Sweeper

log = logging.getLogger("taskqueue.server")


def server_for(
    chosen: Settings,
    tq: TaskQueue,
    replayer: Replayer,
    *,
    name: str,
    queues: Sequence[str],
    limit: Callable[[], int] | None = None,
    companions: Sequence[Callable[[], Awaitable[None]]] = (),
    intake: Intake | None = None,
) -> TaskQueueServer:
    """Return a server with these settings; ``limit`` tells the concurrent limit where it changes.

    ``companions`` and ``intake`` as for a TaskQueueServer.

    Whoever has the TaskQueue closes it. Raises ConfigError.
    """
    if replays_at_commit(tq.broker):
        raise ConfigError(
            f"url: {masked(tq.url)!r} has each commit replay its tasks itself, and this consumer would take them from"
            " it; remove ?mode=sync, or the consumer"
        )
    intake = intake or Intake(tq.broker, queues)
    return TaskQueueServer(
        tq.broker,
        replayer,
        tq.keyring,
        name=name,
        queues=queues,
        concurrent_limit=limit or chosen.concurrent_limit,
        rules=rules_for(chosen),
        timeout=chosen.timeout,
        stop_grace=chosen.stop_grace,
        poll_max=chosen.poll_max,
        wait_broker=chosen.wait_broker,
        lease=chosen.lease,
        on_failed=on_failed_for(chosen),
        begins=lambda: tq.notes_starts,
        companions=(*companions, *_beside(chosen, tq, intake.signs, name, queues)),
        intake=intake,
        strategy=_strategy(chosen, queues),
        retention=Retention(chosen.keep == "all", retention_rules(chosen.retain), forgotten=_remover(tq)),
        files=ResponseFiles(tq.storage, tq.broker, most=chosen.response_bytes) if tq.has_storage else None,
    )


def _beside(
    chosen: Settings, tq: TaskQueue, signs: Signs, name: str, queues: Sequence[str]
) -> Iterator[Callable[[], Awaitable[None]]]:
    """Yield what runs beside the consumer's loop because a setting asks for it."""
    if chosen.resolve:
        yield Doubts(tq.broker, queues, loading.function("resolve", chosen.resolve)).watch
    if chosen.on_event:
        events = Events(loading.function("on_event", chosen.on_event), consumer=name)
        signs.on_ended.append(events.ended)
        yield events.watch
    if tq.has_storage:
        yield Sweeper(tq.storage, tq.broker).watch


def _remover(tq: TaskQueue) -> Callable[[str, Sequence[str]], object]:
    """Return what removes the files of tasks that are forgotten; where this consumer knows no storage, nothing does."""

    def remove(queue: str, ids: Sequence[str]) -> None:
        try:
            tq.storage.remove(queue, ids)
        except (ConfigError, StorageError, OSError) as error:
            log.warning("queue %s: the files of %d forgotten task(s) stay: %s", queue, len(ids), error)

    return remove


def rules_for(chosen: Settings) -> Rules:
    """Return what these settings say of outcomes."""
    return Rules(retry_max_count=chosen.retry_max_count, receipt_required=chosen.receipt)


def on_failed_for(chosen: Settings) -> OnFailed | None:
    """Return whom these settings want told of failed tasks; raises AppNotFound."""
    return loading.function("on_failed", chosen.on_failed) if chosen.on_failed else None


def _strategy(chosen: Settings, queues: Sequence[str]) -> Strategy:
    """Return the strategy with the weights of these queues, 1 where none is named; raises AppNotFound, ConfigError."""
    weights = {queue: chosen.queues.weights.get(queue, 1) for queue in queues}
    kinds: Mapping[str, Callable[[Mapping[str, float]], Strategy]] = {"weighted": Weighted, "strict": Strict}
    make = kinds.get(chosen.strategy) or loading.function("strategy", chosen.strategy)
    try:
        made = make(weights)
    except Exception as error:
        raise ConfigError(
            f"strategy: {chosen.strategy} raised {type(error).__name__}: {error}; it is called with the weights by"
            " queue, see taskqueue.strategy.Strategy"
        ) from error
    if not callable(getattr(made, "share", None)):
        raise ConfigError(
            f"strategy: {chosen.strategy} makes a {type(made).__name__}, which cannot share slots: it needs a method"
            " share(free, promising), see taskqueue.strategy.Strategy"
        )
    return made


def narrowed(tq: TaskQueue, wanted: Sequence[str] | None, *, where: str) -> Sequence[str]:
    """Return those of the application's queues that are wanted, or all; raises UsageError for one it has not got.

    With them count those that rules name, as far as they are known (see ``TaskQueue.read_routes``).
    """
    known = with_ruled(tq.queues, tq.routes)
    for name in wanted or ():
        if name not in known:
            raise UsageError(f"{where}: {name!r} is none of the application's queues: {', '.join(known)}")
    return wanted or known
