"""``taskqueue config | secret``: the settings, and what they need."""

import json
import secrets
import sys
from collections.abc import Sequence
from typing import Annotated, Final

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from . import settings
from .asking import CONFIG_FLAG, example
from .catalogue import OPTIONS

config_app: Final = App(
    name="config", help="The settings, and who chose them.", help_epilogue=example("taskqueue config show --origin")
)


def register(app: App) -> None:
    """Add these commands to ``taskqueue``."""
    app.command(config_app)
    app.command(secret, help_epilogue=example("TASKQUEUE_SECRET=$(taskqueue secret)"))
    config_app.command(show, help_epilogue=example("taskqueue config show --origin", "taskqueue config show --json"))


def secret() -> None:
    """Make a secret for TASKQUEUE_SECRET: the same for the application and its consumers, and nobody else."""
    print(secrets.token_urlsafe(48))


def show(
    *,
    origin: Annotated[bool, Parameter(negative=(), show_default=False, help="With where each comes from.")] = False,
    as_json: Annotated[
        bool, Parameter(name="--json", negative=(), show_default=False, help="As one JSON object.")
    ] = False,
    config: Annotated[str | None, CONFIG_FLAG] = None,
) -> None:
    """Show every setting as a consumer started here would have it, secrets and passwords masked."""
    chosen = settings.load(config=config)
    values = {name: chosen.public(name) for name in OPTIONS}
    if as_json:
        both = {name: {"value": value, "origin": chosen.origin(name)} for name, value in values.items()}
        print(json.dumps(both if origin else values, indent=2))
        return
    rows = [(name, _as_text(value), *([chosen.origin(name)] if origin else [])) for name, value in values.items()]
    write_table(("setting", "value", *(["origin"] if origin else [])), rows)


def write_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows to standard output: a table on a terminal, else tab-separated lines without a head."""
    if not sys.stdout.isatty():
        print(*("\t".join(row) for row in rows), sep="\n")
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    Console(markup=False).print(table)


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
