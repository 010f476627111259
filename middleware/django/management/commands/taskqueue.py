"""``manage.py taskqueue ...``: the command ``taskqueue`` and, as ``manage.py taskqueue server``, the consumer."""

import sys
from argparse import REMAINDER
from collections.abc import Sequence
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser

from .....cli import app as admin_app
from .....cli import run, server_app
from .....middleware.django import configuration
from .....middleware.django.queue import task_queue
from .....options import preferring
from .....settings import load

# What of TASKQUEUE the commands need to know, by the names of their settings.
_SHARED: Final = {
    "URL": "url",
    "SECRET": "secrets",
    "QUEUES": "queues",
    "NAMESPACE": "namespace",
    "PUBLIC_URL": "public_url",
    "DURABILITY": "durability",
    "STORAGE": "storage",
}
# The project as it is installed in this process; needs no setting, and nothing but Django.
_APP: Final = "django.core.asgi:get_asgi_application"
_TASK_QUEUE: Final = f"{task_queue.__module__}:{task_queue.__name__}"


class Command(BaseCommand):
    """Forwards to the command line of the queue, which then knows where the project's queues are."""

    help = "Look after the task queue: list, show, stats, retry, doctor, ...; `server` consumes, `relay` pushes."
    requires_system_checks: Sequence[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Take whatever the queue's command line takes."""
        parser.add_argument("arguments", nargs=REMAINDER)

    def run_from_argv(self, argv: list[str]) -> None:
        """Forward the arguments, --help and all, except those for manage.py itself; exit."""
        parser = CommandParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--settings")
        parser.add_argument("--pythonpath")
        _, arguments = parser.parse_known_args(argv[2:])
        sys.exit(_forward(arguments))

    def handle(self, *_: Any, **options: Any) -> None:
        """Do the same for ``call_command``; raises CommandError for an exit code that is not 0."""
        code = _forward(options["arguments"])
        if code:
            raise CommandError(f"taskqueue: exit code {code}", returncode=code)


def _forward(arguments: Sequence[str]) -> int:
    given = configuration.given(configuration.OF_QUEUE)
    known = {_SHARED[key]: given[key.lower()] for key in _SHARED if given.get(key.lower()) is not None}
    if list(arguments) == ["relay"]:
        arguments = ["relay", _TASK_QUEUE]
    if list(arguments[:1]) != ["server"]:
        with preferring(known):
            return run(admin_app, arguments)
    chosen = load()
    if chosen.app is None and chosen.target is None and not any(word.startswith("--target") for word in arguments):
        known["app"] = _APP
    with preferring(known):
        return run(server_app, arguments[1:])
