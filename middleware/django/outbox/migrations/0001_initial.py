"""The table, as it was first."""

from typing import Any, ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """Makes the table."""

    initial = True
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar[list[Any]] = [
        migrations.CreateModel(
            name="Row",
            fields=[
                ("sequence", models.BigAutoField(primary_key=True, serialize=False)),
                ("id", models.CharField(max_length=36)),
                ("queue", models.CharField(max_length=200)),
                ("record", models.BinaryField()),
                ("size", models.PositiveIntegerField()),
                ("due", models.BigIntegerField()),
                ("method", models.CharField(max_length=16)),
                ("path", models.TextField()),
                ("label", models.CharField(max_length=200)),
            ],
            options={"db_table": "taskqueue_outbox", "ordering": ("sequence",)},
        ),
    ]
