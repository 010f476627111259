"""Do this later: record an HTTP request in a transaction, replay it against the same application as the same user."""

from . import storage
from .consume import Consume
from .errors import (
    BodyUnavailable,
    BrokerUnavailable,
    CommitUncertain,
    ConfigError,
    InvalidReport,
    InvalidTask,
    NotInTask,
    NoTransaction,
    TaskQueueError,
    UnknownQueue,
)
from .producer import TaskQueue, add, current_task, transaction
from .reporting import Report
from .request import CURRENT, CurrentTask
from .target import Limits
from .task import Task, TaskState
from .tasklog import TaskLogFilter
from .telling import progress, redirect_to, report
from .testing import capture

__all__ = [
    "CURRENT",
    "BodyUnavailable",
    "BrokerUnavailable",
    "CommitUncertain",
    "ConfigError",
    "Consume",
    "CurrentTask",
    "InvalidReport",
    "InvalidTask",
    "Limits",
    "NoTransaction",
    "NotInTask",
    "Report",
    "Task",
    "TaskLogFilter",
    "TaskQueue",
    "TaskQueueError",
    "TaskState",
    "UnknownQueue",
    "add",
    "capture",
    "current_task",
    "progress",
    "redirect_to",
    "report",
    "storage",
    "transaction",
]
