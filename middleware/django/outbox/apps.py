"""The application of its own that the outbox is, so that nobody gets a migration without needing it."""

from django.apps import AppConfig


class OutboxConfig(AppConfig):
    """``"taskqueue.middleware.django.outbox"`` in INSTALLED_APPS."""

    name = "taskqueue.middleware.django.outbox"
    label = "taskqueue_outbox"
    verbose_name = "Task queue: outbox"
    default_auto_field = "django.db.models.BigAutoField"
