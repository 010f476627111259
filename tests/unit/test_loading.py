"""From package.module:attribute to an application: what is found, and what is said where nothing is."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from taskqueue import TaskQueue, configured, loading
from taskqueue.errors import AppNotFound, ConfigError
from taskqueue.inprocess import AiohttpReplayer, AsgiReplayer, WsgiReplayer
from tests.tasks import KEYRING, SECRET

APPLICATIONS: Final = """
import functools
from aiohttp import web
from fastapi import FastAPI
from starlette.applications import Starlette

async def asgi(scope, receive, send): ...
def asgi_returned(scope, receive, send): return asgi(scope, receive, send)

class Asgi:
    async def __call__(self, scope, receive, send): ...
    async def method(self, scope, receive, send): ...

def wsgi(environ, start_response): return []

class Wsgi:
    def __call__(self, environ, start_response): return []

asgi_object = Asgi()
asgi_method = asgi_object.method
asgi_partial = functools.partial(asgi)
wsgi_object = Wsgi()
starlette = Starlette()
fastapi = FastAPI()
aiohttp = web.Application()

def make_asgi(): return asgi_object
def make_with_defaults(debug=False, *extra, **more): return asgi
async def make_asgi_later(): return fastapi
def make_wsgi(): return wsgi
def make_aiohttp(): return web.Application()
async def make_aiohttp_later(): return web.Application()

class holder:
    class inner:
        app = asgi_object

number = 7
none = None
async def not_one(scope, receive): ...
async def too_many(scope, receive, send, more): ...
def make_number(): return 7
def make_class(): return Asgi
"""

FOUND: Final = [
    ("asgi", "asgi"),
    ("asgi_returned", "asgi"),
    ("asgi_object", "asgi"),
    ("asgi_method", "asgi"),
    ("asgi_partial", "asgi"),
    ("starlette", "asgi"),
    ("fastapi", "asgi"),
    ("make_asgi", "asgi"),
    ("make_with_defaults", "asgi"),
    ("make_asgi_later", "asgi"),
    ("holder.inner.app", "asgi"),
    ("wsgi", "wsgi"),
    ("wsgi_object", "wsgi"),
    ("make_wsgi", "wsgi"),
    ("aiohttp", "aiohttp"),
    ("make_aiohttp", "aiohttp"),
    ("make_aiohttp_later", "aiohttp"),
]

Write = Callable[[str, str], None]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Write]:
    """Write a module into the current directory; it is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    yield write
    for name in ("applications", "shop", "mail", "broken", "paste_shop"):
        sys.modules.pop(name, None)


async def refused(name: str) -> AppNotFound:
    with pytest.raises(AppNotFound) as caught:
        await loading.load(name)
    return caught.value


@pytest.mark.parametrize(("attribute", "kind"), FOUND)
async def test_each_kind_is_found(attribute: str, kind: str, module: Write) -> None:
    module("applications.py", APPLICATIONS)
    found = await loading.load(f"applications:{attribute}")
    assert (found.name, found.kind) == (f"applications:{attribute}", kind)
    assert callable(found.call)


@pytest.mark.parametrize(
    ("attribute", "what"),
    [
        ("number", "of type int"),
        ("none", "of type NoneType"),
        ("Asgi", "the class Asgi"),
        ("not_one", "of type function"),
        ("too_many", "of type function"),
        ("make_number", "of type int"),
        ("make_class", "the class Asgi"),
    ],
)
async def test_what_is_no_application_is_named(attribute: str, what: str, module: Write) -> None:
    module("applications.py", APPLICATIONS)
    assert str(await refused(f"applications:{attribute}")) == (
        f"app: applications:{attribute} is {what}: neither an ASGI, WSGI or aiohttp application nor a factory without"
        " arguments that makes one"
    )


async def test_a_missing_module_is_told_with_those_there_are(module: Write) -> None:
    module("shop.py", "")
    module("mail.py", "")
    message = str(await refused("shopp:app"))
    assert message.startswith("app: there is no module shopp in ")
    assert message.endswith("; its modules are mail, shop")
    module("shop/__init__.py", "")
    assert "there is no module shop.main in" in str(await refused("shop.main:app"))


async def test_in_an_empty_folder_no_modules_are_named(module: Write, tmp_path: Path) -> None:
    assert str(await refused("shop:app")) == f"app: there is no module shop in {tmp_path}"


async def test_a_missing_attribute_is_told_with_the_applications_there_are(module: Write) -> None:
    module("shop.py", "_hidden = number = 7\n" + APPLICATIONS)
    message = str(await refused("shop:ap"))
    applications = {"asgi", "asgi_object", "aiohttp", "fastapi", "starlette", "wsgi", "wsgi_object"}
    assert message.startswith("app: shop has no ap; it has ")
    assert applications <= set(message.partition("; it has ")[2].split(", "))
    assert "number" not in message
    assert "app: shop has no holder.outer.app" in str(await refused("shop:holder.outer.app"))


async def test_without_an_application_what_is_spelt_alike_is_named(module: Write) -> None:
    module("shop.py", "application_settings = 7\n")
    assert str(await refused("shop:application_setting")).endswith("; it has application_settings")
    assert str(await refused("shop:zzz")) == "app: shop has no zzz"


@pytest.mark.parametrize("name", ["shop", "shop:", ":app", ""])
async def test_a_name_without_both_parts_is_refused(name: str) -> None:
    assert str(await refused(name)) == f"app: {name!r} must be package.module:attribute, for example main:app"


@pytest.mark.parametrize(
    ("text", "cause", "told"),
    [
        ("1 / 0", ZeroDivisionError, "importing broken failed: ZeroDivisionError: division by zero"),
        ("import nowhere_to_be_found", ModuleNotFoundError, "importing broken failed: No module named 'nowhere_to_be"),
        ("from json import nothing", ImportError, "importing broken failed: ImportError: cannot import name 'nothing'"),
        ("def (", SyntaxError, "importing broken failed: SyntaxError: "),
    ],
)
async def test_an_error_of_the_module_itself_is_the_cause(
    text: str, cause: type[Exception], told: str, module: Write
) -> None:
    module("broken.py", text)
    error = await refused("broken:app")
    assert told in str(error)
    assert type(error.__cause__) is cause


@pytest.mark.parametrize("way", ["def", "async def"])
async def test_what_a_factory_raises_is_the_cause(way: str, module: Write) -> None:
    module("shop.py", f"{way} make(): raise LookupError('no database')\n")
    error = await refused("shop:make")
    assert str(error) == "app: shop:make failed: LookupError: no database"
    assert type(error.__cause__) is LookupError


async def test_what_answers_only_in_a_request_is_no_application(module: Write) -> None:
    module(
        "shop.py",
        "from werkzeug.local import LocalProxy\nrequest = LocalProxy(lambda: 1 / 0)\nasync def app(a, b, c): ...",
    )
    assert str(await refused("shop:nope")) == "app: shop has no nope; it has app"


def test_a_function_is_found_or_refused_under_the_name_of_its_setting(module: Write) -> None:
    module("shop.py", "def note(): return 1\nnumber = 7\n")
    assert loading.function("on_failed", "shop:note")() == 1
    for name, told in (
        ("shop:number", "on_failed: shop:number is of type int, and must be a function"),
        ("shop:nothing", "on_failed: shop has no nothing"),
        ("nowhere:note", "on_failed: there is no module nowhere in"),
    ):
        with pytest.raises(AppNotFound) as caught:
            loading.function("on_failed", name)
        assert str(caught.value).startswith(told)


# How it is called.


def test_each_kind_has_its_way() -> None:
    def application(kind: Any) -> loading.Application:
        return loading.Application("main:app", kind, lambda _environ, _start_response: [])

    kinds = {"asgi": AsgiReplayer, "wsgi": WsgiReplayer, "aiohttp": AiohttpReplayer}
    for kind, replayer in kinds.items():
        assert type(loading.replayer_for(application(kind), KEYRING, concurrent_limit=2)) is replayer


@pytest.mark.parametrize(("limit", "threads"), [(3, 3), (0, 100)])
def test_there_are_as_many_threads_as_tasks_may_run(limit: int, threads: int) -> None:
    replayer = loading.replayer_for(
        loading.Application("main:app", "wsgi", lambda _environ, _start_response: []), KEYRING, concurrent_limit=limit
    )
    assert isinstance(replayer, WsgiReplayer)
    assert vars(replayer)["_app"].executor._max_workers == threads


def test_a_wsgi_application_without_a2wsgi_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "a2wsgi", None)
    with pytest.raises(ConfigError, match=r"pip install 'http-taskqueue\[wsgi\]'"):
        WsgiReplayer(lambda _environ, _start_response: [], threads=1)


# Its TaskQueue.


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> list[TaskQueue]:
    """The TaskQueues of this process, none yet."""
    made: list[TaskQueue] = []
    monkeypatch.setattr(loading, "instances", made)
    return made


def test_the_only_one_is_taken(queues: list[TaskQueue]) -> None:
    queues.append(TaskQueue("redis://h", secret=SECRET))
    assert loading.task_queue() is queues[0]


def test_none_or_several_are_refused_with_the_remedy(queues: list[TaskQueue]) -> None:
    with pytest.raises(ConfigError, match="it has made no TaskQueue; make one at import, and mount its middleware"):
        loading.task_queue()
    queues += [TaskQueue("redis://h", secret=SECRET), TaskQueue("redis://h", secret=SECRET)]
    with pytest.raises(ConfigError, match=r"2 TaskQueues.* start it with --target instead of --app, and name --url"):
        loading.task_queue()


def test_every_one_made_is_known() -> None:
    tq = TaskQueue("redis://h", secret=SECRET)
    assert tq in configured.instances


def test_the_current_folder_is_searched_once(module: Write, tmp_path: Path) -> None:
    module("shop.py", "async def app(scope, receive, send): ...")
    for _ in range(2):
        assert asyncio.run(loading.load("shop:app")).kind == "asgi"
    assert sys.path.count(str(tmp_path)) == 1


PIPELINE: Final = """
[app:shop]
paste.app_factory = paste_shop:make

[filter:door]
paste.filter_app_factory = paste_shop:make_door

[pipeline:main]
pipeline = door shop
"""

PASTE_SHOP: Final = """
from taskqueue import TaskQueue
from taskqueue.middleware.wsgi import TaskQueueMiddleware

def make(_global_conf):
    return lambda environ, start_response: []

def make_door(app, _global_conf):
    return TaskQueueMiddleware(app, TaskQueue("redis://nowhere"))
"""


async def test_a_pipeline_of_pastedeploy_is_an_application(module: Write, tmp_path: Path) -> None:
    module("paste_shop.py", PASTE_SHOP)
    (tmp_path / "shop.ini").write_text(PIPELINE)
    found = await loading.load("config:shop.ini")
    assert (found.kind, type(found.call).__name__) == ("wsgi", "TaskQueueMiddleware")


async def test_a_file_of_pastedeploy_that_is_missing_or_wrong_is_told(tmp_path: Path, module: Write) -> None:
    with pytest.raises(AppNotFound, match=r"app: making config:none\.ini failed: .*none\.ini"):
        await loading.load("config:none.ini")
    (tmp_path / "wrong.ini").write_text("[app:main]\npaste.app_factory = nowhere_to_be_found:make\n")
    with pytest.raises(AppNotFound, match="nowhere_to_be_found"):
        await loading.load("config:wrong.ini")


async def test_without_pastedeploy_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paste.deploy", None)
    with pytest.raises(AppNotFound, match="pip install PasteDeploy"):
        await loading.load("config:shop.ini")
