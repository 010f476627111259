"""What a store says when it has refused a move, as an error of ours: one wording, whatever the store."""

from ..broker import Capacity, Lease
from ..errors import BrokerUnavailable, ConfigError, Fenced, NameInUse, QueueClosed, QueueFull


def late(before: str = "") -> BrokerUnavailable:
    """Return what to raise for new tasks that came to the store when their producer had given up.

    ``before``: what the store had said when it was asked before.
    """
    why = f" ({before})" if before else ""
    return BrokerUnavailable(f"the store came to the command only after the deadline, and refused it{why}")


def full(queue: str, capacity: Capacity) -> QueueFull:
    """Return what to raise for tasks that would be too much."""
    return QueueFull(
        f"queue {queue}: it holds all it may ({capacity.tasks or 'any number of'} tasks,"
        f" {capacity.bytes or 'any number of'} bytes); wait for its consumers, or raise max_tasks, max_bytes"
    )


def closed(queue: str) -> QueueClosed:
    """Return what to raise for new tasks of a queue that takes none."""
    return QueueClosed(
        f"queue {queue}: somebody has closed it, and it takes no tasks; taskqueue queues open {queue} opens it"
    )


def disabled(queue: str) -> ConfigError:
    """Return what to raise for a consumer of a queue that nobody is to serve."""
    return ConfigError(
        f"queue {queue}: it is disabled; leave it out, or enable it with: taskqueue queues enable {queue}"
    )


def removed(queue: str, unknown: int) -> BrokerUnavailable:
    """Return what to raise for so many prepared tasks that nobody knows any more."""
    return BrokerUnavailable(f"{unknown} prepared task(s) of queue {queue} were removed before the commit")


def taken(queue: str, consumer: str) -> NameInUse:
    """Return what to raise for a name that is not as free as it was found to be."""
    return NameInUse(f"consumer {consumer} of queue {queue}: another server has just taken the name")


def fenced(lease: Lease) -> Fenced:
    """Return what to raise for a lease that another consumer has ended."""
    return Fenced(f"consumer {lease.consumer} of queue {lease.queue}: another server has taken over the name")


def forgotten(lease: Lease) -> Fenced:
    """Return what to raise for a lease of which the store knows nothing."""
    return Fenced(
        f"consumer {lease.consumer} of queue {lease.queue}: the store has lost its data, or was emptied", gone=True
    )
