"""From settings to a consumer: what ``taskqueue-server`` and the consumer in a web process have in common."""

from collections.abc import Callable, Sequence

from . import loading
from .doubts import Doubts
from .errors import UsageError
from .policy import Rules
from .producer import TaskQueue
from .replay import Replayer
from .server import TaskQueueServer
from .settings import Settings


def server_for(
    chosen: Settings,
    tq: TaskQueue,
    replayer: Replayer,
    *,
    name: str,
    queues: Sequence[str],
    limit: Callable[[], int] | None = None,
) -> TaskQueueServer:
    """Return a server with these settings; ``limit`` tells the concurrent limit where it changes.

    Whoever has the TaskQueue closes it. Raises ConfigError.
    """
    companions = []
    if chosen.resolve:
        companions.append(Doubts(tq.broker, queues, loading.function("resolve", chosen.resolve)).watch)
    return TaskQueueServer(
        tq.broker,
        replayer,
        tq.keyring,
        name=name,
        queues=queues,
        concurrent_limit=limit or chosen.concurrent_limit,
        rules=Rules(retry_max_count=chosen.retry_max_count, receipt_required=chosen.receipt),
        timeout=chosen.timeout,
        stop_grace=chosen.stop_grace,
        poll_max=chosen.poll_max,
        wait_broker=chosen.wait_broker,
        lease=chosen.lease,
        on_failed=loading.function("on_failed", chosen.on_failed) if chosen.on_failed else None,
        begins=lambda: tq.notes_starts,
        companions=companions,
    )


def narrowed(tq: TaskQueue, wanted: Sequence[str] | None, *, where: str) -> Sequence[str]:
    """Return those of the application's queues that are wanted, or all; raises UsageError for one it has not got."""
    for name in wanted or ():
        if name not in tq.queues:
            raise UsageError(f"{where}: {name!r} is none of the application's queues: {', '.join(tq.queues)}")
    return wanted or tq.queues
