"""From ``package.module:attribute`` to an application, what kind it is, and the TaskQueue it uses."""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from .configured import instances
from .errors import AppNotFound, ConfigError
from .importing import imported
from .inprocess import AiohttpReplayer, AsgiReplayer, WsgiReplayer
from .keys import Keyring
from .options import PASTE
from .producer import TaskQueue
from .replay import Replayer

Kind = Literal["asgi", "wsgi", "aiohttp"]
MOST_THREADS: Final = 100


@dataclass(frozen=True, slots=True)
class Application:
    """An application that can be called in this process."""

    name: str
    kind: Kind
    call: Any


async def load(name: str) -> Application:
    """Import the application named ``package.module:attribute``, or call the factory of that name (sync or async).

    Or make the one that ``config:`` and a path name, as PasteDeploy does (Zope, Pyramid). The current directory is
    searched first. Raises AppNotFound with the candidates; an error of the application's own while it is imported or
    made is the cause.
    """
    if name.startswith(PASTE):
        return Application(name, "wsgi", _deployed(name))
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise AppNotFound(f"app: {name!r} must be package.module:attribute, for example main:app")
    found = imported(name, lambda words: AppNotFound(f"app: {words}"), likely=kind_of)
    kind = kind_of(found)
    if kind is None and _is_factory(found):
        found = await _made(name, found)
        kind = kind_of(found)
    if kind is None:
        raise AppNotFound(
            f"app: {name} is {_what(found)}: neither an ASGI, WSGI or aiohttp application nor a factory"
            " without arguments that makes one"
        )
    return Application(name, kind, found)


async def _made(name: str, factory: Callable[[], object]) -> object:
    try:
        made = factory()
        return await made if inspect.isawaitable(made) else made
    except Exception as error:
        raise AppNotFound(f"app: {name} failed: {type(error).__name__}: {error}") from error


def function(setting: str, name: str) -> Callable[..., Any]:
    """Import what a setting names as ``package.module:function``; raises AppNotFound if it cannot be called."""
    found = _named(setting, name)
    if not callable(found):
        raise AppNotFound(f"{setting}: {name} is {_what(found)}, and must be a function")
    return cast("Callable[..., Any]", found)


def task_queue_at(setting: str, name: str) -> TaskQueue:
    """Import what a setting names as a TaskQueue with an outbox, or a function that returns one; raises ConfigError."""
    found = _named(setting, name)
    if _is_factory(found):
        found = found()
    if not isinstance(found, TaskQueue):
        raise AppNotFound(
            f"{setting}: {name} is {_what(found)}, and must be a TaskQueue, or a function that returns it"
        )
    if not found.outboxes:
        raise ConfigError(
            f"{setting}: {name} has no outbox; see bind(tq, Session, outbox=True), or TASKQUEUE['OUTBOX']"
        )
    return found


def kind_of(app: object) -> Kind | None:
    """Return what kind of application this is, or None if it is none."""
    web = sys.modules.get("aiohttp.web")
    if web is not None and isinstance(app, web.Application):
        return "aiohttp"
    if not callable(app) or inspect.isclass(app):
        return None
    names = _required_arguments(app)
    is_async = inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(app.__call__)
    if names is not None and len(names) == 3 and (is_async or names == ["scope", "receive", "send"]):
        return "asgi"
    return "wsgi" if names is not None and len(names) == 2 and not is_async else None


def replayer_for(
    app: Application,
    keyring: Keyring,
    *,
    concurrent_limit: int,
    started: bool = False,
    state: Mapping[str, Any] | None = None,
) -> Replayer:
    """Return the way to call this application, with as many threads as tasks may run if it needs threads.

    ``started``: somebody else starts and stops it; ``state``: what it has then put into that of its lifespan (ASGI).
    """
    if app.kind == "aiohttp":
        return AiohttpReplayer(app.call, keyring, started=started)
    if app.kind == "wsgi":
        return WsgiReplayer(app.call, threads=concurrent_limit or MOST_THREADS)
    return AsgiReplayer(app.call, started=started, state=state)


def task_queue() -> TaskQueue:
    """Return the TaskQueue that the imported application uses; raises ConfigError if there is none, or several."""
    found: list[TaskQueue] = list(instances)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError("app: it has made no TaskQueue; make one at import, and mount its middleware")
    raise ConfigError(
        f"app: it has made {len(found)} TaskQueues, and a server consumes one; start it with --target instead of --app,"
        " and name --url and --queue"
    )


def _named(setting: str, name: str) -> Any:
    return imported(name, lambda words: AppNotFound(f"{setting}: {words}"))


def _deployed(name: str) -> Any:
    try:
        from paste.deploy import loadapp  # noqa: PLC0415 - only who has such a file pays for it
    except ImportError:
        raise AppNotFound(f"app: {name} is read through PasteDeploy; pip install PasteDeploy") from None
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return loadapp(name, relative_to=str(Path.cwd()))
    except Exception as error:
        raise AppNotFound(f"app: making {name} failed: {type(error).__name__}: {error}") from error


def _what(found: object) -> str:
    return f"the class {found.__name__}" if inspect.isclass(found) else f"of type {type(found).__name__}"


def _is_factory(found: object) -> bool:
    return callable(found) and not inspect.isclass(found) and _required_arguments(found) == []


def _required_arguments(function: Callable[..., Any]) -> list[str] | None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [one.name for one in parameters if one.kind in kinds and one.default is one.empty]
