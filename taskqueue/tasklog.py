"""The running task's id on the application's own log lines."""

import logging

from .producer import current_task


class TaskLogFilter(logging.Filter):
    """Puts ``task_id``, ``task_queue``, ``task_attempt`` and ``task_user`` on every record logged during a delivery.

    Add it to a handler (a logger's filters do not see what its children log). What a record has already stays. A format
    that names the fields needs ``default``: what they say outside a delivery, and ``task_user`` in a task of nobody.
    Without it they are left off there.
    """

    def __init__(self, default: str | None = None) -> None:
        """Take what the fields say where there is nothing to say."""
        super().__init__()
        self._default = default

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; every record passes."""
        task = current_task()
        fields = {
            "task_id": task.id if task else None,
            "task_queue": task.queue if task else None,
            "task_attempt": task.attempt if task else None,
            "task_user": task.user_id if task else None,
        }
        for name, value in fields.items():
            told = self._default if value is None else value
            if told is not None and not hasattr(record, name):
                setattr(record, name, told)
        return True
