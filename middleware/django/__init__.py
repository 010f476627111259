"""The door of a Django project: an application to install, a middleware, and one ``TASKQUEUE`` dictionary of settings.

Inside ``atomic()`` a task belongs to the database: it is stored when the outermost block has committed, and forgotten
with the block that is rolled back. Outside, it belongs to the request: it is stored if that has succeeded.
"""

from ...middleware.django.door import TaskQueueMiddleware, task_only
from ...middleware.django.queue import TaskQueue, add, task_queue
from ...middleware.django.users import authenticated_user, load_user

__all__ = [
    "TaskQueue",
    "TaskQueueMiddleware",
    "add",
    "authenticated_user",
    "load_user",
    "task_only",
    "task_queue",
]
