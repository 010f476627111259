"""Every error this library raises, as one small tree.

A class's docstring says what it means for the task; the message of an instance names the argument, the rule and the
remedy. No message ever holds a secret, a header value or a body.
"""

from collections.abc import Sequence


class TaskQueueError(Exception):
    """Base of everything raised on purpose by this library."""


class ConfigError(TaskQueueError):
    """A setting is missing or wrong; nothing was started, nothing was stored."""


class UsageError(ConfigError):
    """A flag, variable or key of a file is misspelt, or its value breaks a rule: the person who set it can tell."""


class AppNotFound(ConfigError):
    """The application named cannot be imported, or is none that can be called."""


class InvalidTask(TaskQueueError, ValueError, TypeError):
    """``add`` was given something that cannot be replayed; nothing was recorded.

    Both a ``ValueError`` and a ``TypeError``, so that code which catches either of them keeps working.
    """


class UnknownQueue(InvalidTask):
    """The queue named is not one of the TaskQueue's queues."""


class NoTransaction(TaskQueueError):
    """``add`` was called where nothing would ever commit it; nothing was recorded."""


class InvalidReport(TaskQueueError, ValueError, TypeError):
    """A task said something of itself that cannot be kept; nothing of it was."""


class NotInTask(TaskQueueError):
    """What only a running task may do was called outside the delivery of one."""


class StorageError(TaskQueueError):
    """A file of a task is not there, or cannot be opened: it was changed, cut short, or sealed with another secret."""


class BodyUnavailable(TaskQueueError):
    """The current request's body could not be copied; the whole transaction is aborted.

    ``status`` is what the client should be told: 413 too large, 400 broken off, 408 not sent in time.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class BrokerUnavailable(TaskQueueError):
    """The broker could not be reached, or refused, before the deadline: the tasks will not run."""


class QueueFull(BrokerUnavailable):
    """A queue holds as much as it may: the tasks will not run. Try again later."""


class QueueClosed(BrokerUnavailable):
    """A queue takes no tasks until somebody opens it again: the tasks will not run."""


class NotKept(BrokerUnavailable):
    """What a task said of itself could not be stored: its answer is not told either, and it runs again."""


class ReplyLost(BrokerUnavailable):
    """A command was sent and no reply came before the deadline: it may or may not have been carried out."""


class CommitUncertain(TaskQueueError):
    """The commit's outcome is unknown: the tasks named in ``ids`` may run, or may not."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = tuple(ids)
        super().__init__(
            f"the broker's answer was lost: {len(self.ids)} task(s) may or may not run: {', '.join(self.ids[:5])}"
            + (" ..." if len(self.ids) > 5 else "")
        )


class AppFailed(TaskQueueError):
    """The application is to be called in this process, and its own startup has failed."""


class Fenced(TaskQueueError):
    """Another consumer has taken over this name: whatever this one still does changes nothing.

    ``gone``: nobody has; the broker lost its data and with it the lease. The name may be claimed again.
    """

    def __init__(self, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.gone = gone


class NameInUse(TaskQueueError):
    """The consumer's name belongs to another server that lives."""


class RecordError(TaskQueueError):
    """A stored record cannot be used; ``reason`` is ``format``, ``seal``, ``version`` or ``key``.

    ``format`` and ``seal`` are final: the task is set aside. ``version`` and ``key`` may be cured by an upgrade or by
    adding a secret, so the task is given back.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class SignatureError(TaskQueueError):
    """A delivery may not come in.

    ``reason`` is ``signature``, ``key``, ``skew``, ``manual``, ``replayed`` or ``user-gone``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
