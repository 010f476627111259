"""What a consumer has done and what its queues hold, for Prometheus (text format 0.0.4).

Needs ``prometheus-client``, the extra ``metrics``. Labels are queues, states and reasons: few, and none that a task or
a user could choose.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .broker import Broker
from .errors import BrokerUnavailable, ConfigError
from .inspector import QueueStats
from .signs import Ending, Signs

log = logging.getLogger("taskqueue.server")

# Seconds: how old counts of queues may be, and how long the broker has to give new ones.
FRESH: Final = 5.0
CALL_DEADLINE: Final = 1.0
BUCKETS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 3600.0)
STATES: Final = ("queued", "scheduled", "prepared", "reserved", "failed", "completed")
STATUS: Final = {"complete": "completed", "fail": "failed"}


class Metrics:
    """The metrics of one consumer, in a registry of their own."""

    def __init__(self, broker: Broker, queues: Sequence[str], signs: Signs, *, version: str) -> None:
        """Take whom to ask about these queues, and the signs of the consumer, which are watched from now on."""
        self._broker, self._queues = broker, tuple(queues)
        self._registry = registry = CollectorRegistry()
        self._counts = _Counts()
        registry.register(self._counts)
        self._asking, self._asked = asyncio.Lock(), -FRESH
        self._finished = Counter(
            "taskqueue_finished", "Deliveries that completed or failed their task.", ["queue", "status"],
            registry=registry,
        )  # fmt: skip
        self._retries = Counter(
            "taskqueue_retries", "Deliveries that end in another try.", ["queue", "reason"], registry=registry
        )
        self._wait = Histogram(
            "taskqueue_wait_seconds", "From add, a delay included, to the first try.", ["queue"],
            buckets=BUCKETS, registry=registry,
        )  # fmt: skip
        self._run = Histogram(
            "taskqueue_run_seconds", "How long a try took.", ["queue"], buckets=BUCKETS, registry=registry
        )
        for name, about, read in (
            ("taskqueue_consumer_busy", "Tasks that run here.", lambda: signs.running),
            ("taskqueue_consumer_capacity", "How many may.", lambda: signs.capacity or float("inf")),
        ):
            Gauge(name, about, registry=registry).set_function(read)
        registry.register(_Errors(signs))
        Gauge("taskqueue_build_info", "The release.", ["version"], registry=registry).labels(version).set(1)
        signs.on_ended.append(self._note)

    async def text(self) -> bytes:
        """Return all of them; those of queues at most 5 s old, and none if the broker does not answer within 1 s."""
        async with self._asking:
            if time.monotonic() - self._asked >= FRESH:
                self._counts.stats = await self._stats()
                self._asked = time.monotonic()
        return generate_latest(self._registry)

    async def _stats(self) -> Sequence[QueueStats]:
        deadline = time.monotonic() + CALL_DEADLINE
        try:
            async with asyncio.timeout(2 * CALL_DEADLINE):
                asked = (self._broker.inspector.stats(queue, deadline=deadline) for queue in self._queues)
                return await asyncio.gather(*asked)
        except (BrokerUnavailable, ConfigError, TimeoutError) as error:
            log.debug("queues were not counted: %s", error)
            return ()

    def _note(self, ending: Ending) -> None:
        if ending.kind == "release":
            return
        if ending.kind in STATUS:
            self._finished.labels(ending.queue, STATUS[ending.kind]).inc()
        else:
            self._retries.labels(ending.queue, ending.reason).inc()
        if ending.waited is not None and ending.first:
            self._wait.labels(ending.queue).observe(ending.waited)
        if ending.ran is not None:
            self._run.labels(ending.queue).observe(ending.ran)


class _Errors(Collector):
    """The errors that the signs count."""

    def __init__(self, signs: Signs) -> None:
        self._signs = signs

    def collect(self) -> Iterator[Metric]:
        """Yield it."""
        yield CounterMetricFamily(
            "taskqueue_broker_errors", "Exchanges that the broker did not answer.", value=self._signs.errors
        )


class _Counts(Collector):
    """What was last counted in the queues; nothing if nothing could be."""

    def __init__(self) -> None:
        self.stats: Sequence[QueueStats] = ()

    def collect(self) -> Iterator[Metric]:
        """Yield it."""
        tasks = GaugeMetricFamily("taskqueue_tasks", "Tasks by state.", labels=["queue", "state"])
        oldest = GaugeMetricFamily(
            "taskqueue_oldest_wait_seconds", "How long the first in line has waited.", labels=["queue"]
        )
        consumers = GaugeMetricFamily("taskqueue_consumers", "Consumers of the queue.", labels=["queue"])
        for stats in self.stats:
            for state in STATES:
                tasks.add_metric([stats.queue, state], getattr(stats, state))
            oldest.add_metric([stats.queue], stats.oldest / 1000)
            consumers.add_metric([stats.queue], len(stats.consumers))
        yield from (tasks, oldest, consumers)
