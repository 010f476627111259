"""What the doors answer themselves, in place of an application."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .errors import BodyUnavailable, BrokerUnavailable, CommitUncertain, NotKept, QueueFull, SignatureError

log = logging.getLogger("taskqueue.door")

REFUSED: Final = "x-task-refused"
RETRY_AFTER: Final = ("retry-after", "1")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that the door gives itself: plain text, names of headers in lower case."""

    status: int
    text: str
    headers: tuple[tuple[str, str], ...] = ()


BROKEN_OFF: Final = Answer(400, "The body was broken off.\n")
"""What a door's way to read says of a client that has gone."""


def refused(error: SignatureError) -> Answer:
    """Return the answer to what says to be a delivery and may not come in."""
    return Answer(403, f"Refused: {error.reason}\n", ((REFUSED, error.reason),))


def too_large(limit: int) -> Answer:
    """Return the answer to a delivery whose body is over the limit in bytes."""
    return Answer(413, f"The body is over the limit of {limit} bytes.\n")


def not_committed(error: Exception, ids: Sequence[str]) -> Answer | None:
    """Return what the client is told when the commit of these tasks failed, and log it with their ids.

    None for an error that is not the queue's: it is to be raised.
    """
    match error:
        case NotKept():
            log.error("%s; its answer is not told, and it will run again", error)
            text = "What this task says of itself could not be stored; try again.\n"
            return Answer(503, text, (RETRY_AFTER,))
        case BodyUnavailable():
            answer = Answer(error.status, f"{error}\n")
        case CommitUncertain():
            text = f"It is not known whether the {len(error.ids)} task(s) of this request were queued: they may run.\n"
            answer = Answer(503, text, (RETRY_AFTER,))
        case QueueFull():
            text = "The queue is full: none of the tasks of this request will run. Try again later.\n"
            answer = Answer(503, text, (RETRY_AFTER,))
        case BrokerUnavailable():
            answer = Answer(503, "The tasks of this request could not be queued: none will run.\n", (RETRY_AFTER,))
        case _:
            return None
    may_run = "may run" if isinstance(error, CommitUncertain) else "will not run"
    log.error("%d task(s) %s: %s: %s", len(ids), may_run, error, ", ".join(ids), extra={"task_ids": list(ids)})
    return answer


UNCAUGHT: Final = (BodyUnavailable, BrokerUnavailable, CommitUncertain)
"""What ``add``, ``push`` and a vote raise of things that are not the application's fault."""


def answer_to_uncaught(error: Exception) -> Answer | None:
    """Return what the client is told when the application let one of ``UNCAUGHT`` pass; None for any other error.

    What stands in an application on the door's behalf raises SignatureError: what only it can see keeps a task out.
    """
    if isinstance(error, SignatureError):
        log.warning("refused (%s): %s", error.reason, error)
        return refused(error)
    if isinstance(error, BodyUnavailable):
        return Answer(error.status, f"{error}\n")
    if not isinstance(error, UNCAUGHT):
        return None
    log.error("answered with 503: %s", error)
    return Answer(503, "A task of this request could not be queued. Try again later.\n", (RETRY_AFTER,))
