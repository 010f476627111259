"""The commands of both programs, and the examples that stand in their help."""

from collections.abc import Iterator
from typing import NamedTuple

from cyclopts import App

from taskqueue.cli import app, server_app


class Command(NamedTuple):
    """A command: the words that call it, and its examples."""

    words: tuple[str, ...]
    examples: tuple[str, ...]
    app: App


def commands() -> Iterator[Command]:
    """Yield every command, the two programs first."""
    for program in (app, server_app):
        yield from _of(program, (program.name[0],))


def _of(command: App, words: tuple[str, ...]) -> Iterator[Command]:
    lines = (command.help_epilogue or "").splitlines()
    yield Command(words, tuple(line.strip() for line in lines[1:]), command)
    for name in command:
        if not name.startswith("-"):
            yield from _of(command[name], (*words, name))
