"""The table of the outbox."""

from django.db import models


class Row(models.Model):
    """A task that is committed and not pushed yet: sealed as in the broker; ``due`` as there, but no delay."""

    sequence = models.BigAutoField(primary_key=True)
    id = models.CharField(max_length=36)
    queue = models.CharField(max_length=200)
    record = models.BinaryField()
    size = models.PositiveIntegerField()
    due = models.BigIntegerField()
    method = models.CharField(max_length=16)
    path = models.TextField()
    label = models.CharField(max_length=200)

    class Meta:
        """Its name in the database, and the order in which rows are pushed."""

        db_table = "taskqueue_outbox"
        ordering = ("sequence",)

    def __str__(self) -> str:
        return f"{self.method} {self.path} ({self.id})"
