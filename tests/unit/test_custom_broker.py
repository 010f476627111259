"""A broker of the application's own, by its class path: found, called and checked, for both sides alike."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import taskqueue
from taskqueue import cli, settings
from taskqueue.broker import UNLIMITED, Capacity, connect
from taskqueue.durability import durability
from taskqueue.errors import ConfigError
from tests.tasks import SECRET

pytestmark = pytest.mark.accept("CT36")

SHOP: Final = """
from taskqueue.brokers.local import LocalBroker
from taskqueue.errors import ConfigError

made = []

class Broker(LocalBroker):
    def __init__(self, url, *, namespace, capacity, durability):
        made.append((url, namespace, capacity, durability))
        super().__init__("local://shop", namespace=namespace, capacity=capacity)

class inner:
    Broker = Broker

def make(url, **options): return Broker(url, **options)
def picky(url, **options): raise ConfigError("url: region is missing; append ?region=")
def failing(url, **options): raise LookupError("no region")
def too_few(url): return Broker(url)
def number(url, **options): return 7
def half(url, **options): return Half()

class Half:
    async def push(self, queue, tasks, *, deadline): ...
    async def aclose(self): ...

seven = 7
"""
URL: Final = "python://shop_queues:Broker?region=eu"


@pytest.fixture(autouse=True)
def _shop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A module of the application's in the current directory."""
    (tmp_path / "shop_queues.py").write_text(SHOP)
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in ("shop_queues", "broken"):
        sys.modules.pop(name, None)


def made() -> list[Any]:
    found: list[Any] = sys.modules["shop_queues"].made
    return found


@pytest.mark.parametrize("name", ["Broker", "make", "inner.Broker"])
def test_what_has_the_name_is_called_with_all_that_connect_takes(name: str) -> None:
    url, capacity, level = f"python://shop_queues:{name}?region=eu", Capacity(tasks=3), durability("memory")
    broker = connect(url, namespace="shop", capacity=capacity, durability=level)
    assert made() == [(url, "shop", capacity, level)]
    assert type(broker).__name__ == "Broker"


@pytest.mark.parametrize("source", ["argument", "variable", "file"])
async def test_a_producer_uses_it(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if source == "variable":
        monkeypatch.setenv("TASKQUEUE_URL", URL)
    if source == "file":
        (tmp_path / "taskqueue.toml").write_text(f'url = "{URL}"')
    url = URL if source == "argument" else None
    tq = taskqueue.TaskQueue(url, secret=SECRET, queues=[source], public_url="https://example.org")
    task_id = await tq.push("/a")
    assert made() == [(URL, "taskqueue", tq.capacity, None)]
    state = await tq.get(task_id)
    assert state is not None
    assert state.state == "queued"


async def test_a_consumer_uses_it() -> None:
    flags = {"url": URL, "name": "one", "target": "http://127.0.0.1:1"}
    chosen = settings.load(flags, environ={"TASKQUEUE_SECRET": SECRET})
    _, tq = await cli._server(chosen, None)
    assert made() == [(URL, "taskqueue", tq.capacity, None)]


def test_so_do_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.app, ["stats", "--url", URL]) == 0
    assert "default  0" in capsys.readouterr().out
    assert made() == [(URL, "taskqueue", UNLIMITED, None)]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("shop_queues", "it must be python://package.module:attribute, for example python://shop.queues:ShopBroker"),
        ("shop_queues:Broker/x", "it must be python://package.module:attribute"),
        ("shop:Broker", "there is no module shop in .*; its modules are broken, shop_queues"),
        ("broken:Broker", "importing broken failed: No module named 'nowhere_to_be_found'"),
        ("shop_queues:Brokr", "shop_queues has no Brokr; it has .*Broker"),
        ("shop_queues:seven", "shop_queues:seven cannot be called with a URL and the keywords namespace, capacity,"),
        ("shop_queues:too_few", "shop_queues:too_few cannot be called .*; it must be a class or function that takes"),
        ("shop_queues:failing", "shop_queues:failing failed: LookupError: no region"),
        ("shop_queues:number", "shop_queues:number makes a int without push, prepare, .*; it must make what"),
        ("shop_queues:half", "shop_queues:half makes a Half without prepare, promote, .* taskqueue.broker.Broker"),
    ],
)
def test_what_is_none_is_told_with_the_rule(path: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^url: 'python://{path.replace('.', '[.]')}': {words}") as caught:
        connect(f"python://{path}", namespace="taskqueue")
    assert cli.exit_code(caught.value) == 78


def test_what_the_application_refuses_itself_is_told_as_it_is() -> None:
    with pytest.raises(ConfigError, match=r"^url: region is missing; append \?region=$"):
        connect("python://shop_queues:picky", namespace="taskqueue")


def test_no_password_is_told() -> None:
    with pytest.raises(ConfigError, match="no module shop") as caught:
        connect("python://shop:Broker?password=hunter2&store=redis://ann:hunter2@h/0", namespace="taskqueue")
    assert "hunter2" not in str(caught.value)
