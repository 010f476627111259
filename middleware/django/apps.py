"""What Django installs: the checks, and the project's TaskQueue at start-up, where a consumer looks for it."""

from django.apps import AppConfig
from django.core import checks

from ...middleware.django import configuration
from ...middleware.django.checks import check, check_database
from ...middleware.django.queue import task_queue


class TaskQueueConfig(AppConfig):
    """``"taskqueue.middleware.django"`` in INSTALLED_APPS."""

    name = "taskqueue.middleware.django"
    label = "taskqueue"
    verbose_name = "Task queue"

    def ready(self) -> None:
        """Register the checks, and make the TaskQueue unless they will say what is wrong with its settings."""
        checks.register(check)
        checks.register(check_database, checks.Tags.database)
        if not configuration.faults():
            task_queue()
