"""``"taskqueue.middleware.django.outbox"`` in INSTALLED_APPS, and a migrate, for ``TASKQUEUE["OUTBOX"]``: the table."""
