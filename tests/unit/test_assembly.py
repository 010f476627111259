"""What of the settings becomes a consumer: which strategy, with which weights."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from taskqueue import assembly, cli, settings
from taskqueue.catalogue import Settings
from taskqueue.errors import AppNotFound, ConfigError
from taskqueue.strategy import Strict, Weighted
from tests.tasks import SECRET


class Mine:
    """A strategy as a user writes it: all to the first in the alphabet."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights

    def share(self, free: int, promising: list[str]) -> dict[str, int]:
        return {min(promising): free}


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ModuleType("strategies")
    vars(made).update(Mine=Mine, nothing=dict, joined=os.path.join)
    monkeypatch.setitem(sys.modules, "strategies", made)


def chosen(**variables: str) -> Settings:
    return settings.load(environ=variables, directory=Path("/"))


def test_weights_come_with_the_queues() -> None:
    made = assembly._strategy(chosen(TASKQUEUE_QUEUES="a:3,b"), ["a", "b", "of the application"])
    assert isinstance(made, Weighted)
    assert made.share(5, ["a", "b", "of the application"]) == {"a": 3, "b": 1, "of the application": 1}


@pytest.mark.accept("TA07")
def test_a_strategy_is_named() -> None:
    assert isinstance(assembly._strategy(chosen(TASKQUEUE_STRATEGY="strict"), ["a"]), Strict)
    mine = assembly._strategy(chosen(TASKQUEUE_STRATEGY="strategies:Mine", TASKQUEUE_QUEUES="a,b:2"), ["a", "b"])
    assert isinstance(mine, Mine)
    assert mine.weights == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("strategies:nothing", ConfigError, "makes a dict, which cannot share slots: it needs a method share"),
        ("strategies:joined", ConfigError, "joined raised TypeError: .*; it is called with the weights by queue"),
        ("strategies:missing", AppNotFound, "strategy: .*missing"),
        ("nowhere:Mine", AppNotFound, "strategy: .*nowhere"),
        ("weigthed", ConfigError, "STRATEGY: 'weigthed' must be weighted, strict, or a class of yours"),
    ],
)
def test_a_strategy_that_is_none_is_told(name: str, error: type[ConfigError], told: str) -> None:
    with pytest.raises(error, match=told):
        assembly._strategy(chosen(TASKQUEUE_STRATEGY=name), ["a"])


async def test_the_directory_for_files_may_be_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = {
        "name": "one",
        "target": "http://127.0.0.1:1",
        "url": "redis://127.0.0.1:1/0",
        "queues": ["a"],
        "storage": str(tmp_path / "files"),
    }
    made = settings.load(flags, environ={"TASKQUEUE_SECRET": SECRET})
    _, tq = await cli._server(made, None)
    assert tq.has_storage
    assert tq.storage_directory == tmp_path / "files"
