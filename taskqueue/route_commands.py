"""``taskqueue route``: the rules kept in the broker, which every process that adds tasks follows within 10 s."""

import socket
from typing import Annotated, Final

from cyclopts import App, Parameter

from . import doctor
from .admin import Admin, gone
from .asking import NOTHING, Common, complain, example, write_json
from .errors import UsageError
from .inspector import QueueStats
from .routes import Route, Routes, route, table_of
from .tables import write_table

route_app: Final = App(
    name="route",
    help="The rules that say to which queue the tasks of a path go, and of what kind they are.",
    help_epilogue=example("taskqueue route", "taskqueue route '/reports/*' slow --category export"),
)

Path = Annotated[str, Parameter(help="Paths: * stands for anything, {year} for one part between slashes.")]


def register(app: App) -> None:
    """Add these commands to ``taskqueue``."""
    app.command(route_app)
    route_app.default(list_or_set)
    route_app.command(remove, help_epilogue=example("taskqueue route remove '/reports/*'"))


def list_or_set(
    path: Path | None = None,
    queue: Annotated[str | None, Parameter(help="The queue their tasks go to; a new one is made known.")] = None,
    /,
    *,
    category: Annotated[str | None, Parameter(help="One word for what kind of work they are.")] = None,
    hidden: Annotated[bool, Parameter(negative=(), help="Leave them out of the lists that users see.")] = False,
    common: Common = NOTHING,
) -> None:
    """List the rules; with a path, keep a rule for it, instead of any other."""
    if path is None:
        if category or hidden:
            raise UsageError("route: name the path that is meant, as in '/reports/*'")
        _write(Routes(common.ask(lambda admin: admin.routes()), table_of(common.settings().routes)), common)
        return
    rule = route(path, queue, category, hidden or None)

    async def work(admin: Admin) -> QueueStats | None:
        await admin.route(path, rule)
        return None if rule.queue is None else await admin.stats_of(rule.queue)

    stats = common.ask(work)
    if stats is not None and all(gone(one, host=socket.gethostname(), runs=doctor.running) for one in stats.consumers):
        complain(
            f"warning: queue {stats.queue}: nobody consumes; start a consumer again that has no --queue of its own, or"
            f" one with --queue {stats.queue}"
        )
    if common.as_json:
        write_json({"route": _plain(rule, "broker")})
    else:
        print(rule)


def remove(path: Path, /, *, common: Common = NOTHING) -> int:
    """Keep no rule for a path in the broker; what its queue holds stays there."""
    kept = common.ask(lambda admin: admin.route(path, None))
    if not kept:
        complain(f"the broker keeps no rule of {path!r}; taskqueue route lists those there are")
    if common.as_json:
        write_json({"removed": kept})
    elif kept:
        print(f"{path} removed")
    return 0 if kept else 1


def _write(routes: Routes, common: Common) -> None:
    found = [(one, "broker") for one in routes.broker] + [(one, "file") for one in routes.file]
    if common.as_json:
        write_json({"routes": [_plain(one, where) for one, where in found]})
        return
    rows = [(one.path, one.queue or "", one.category or "", "yes" if one.hidden else "", where) for one, where in found]
    write_table(("route", "queue", "category", "hidden", "where"), rows)


def _plain(rule: Route, where: str) -> dict[str, object]:
    return {"route": rule.path, **rule.said(), "where": where}
