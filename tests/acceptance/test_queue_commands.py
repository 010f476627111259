"""``taskqueue queues``: what an operator says of a queue, from any machine."""

from dataclasses import replace
from typing import Any

import pytest

from taskqueue.errors import QueueClosed
from taskqueue.task import Verdict
from tests.tasks import opaque, opaque_tasks
from tests.work import Doing, Work


def test_the_list_tells_what_waits_and_what_was_said(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(*opaque_tasks(2), replace(opaque(), priority=9), opaque(due=-3_600_000))
        await work.take()

    assert taskqueue("queues", "pause", "default").lines == [["QUEUE", "SAID"], ["default", "paused"]]
    assert taskqueue("queues", "limit", "default", "5").lines[1:] == [["default", "paused,", "limit", "5"]]
    head, row = taskqueue("queues").lines
    assert head == ["QUEUE", "WAITING", "DELAYED", "RUNNING", "CONSUMERS", "SAID"]
    assert row == ["default", "2", "1", "1", "1", "paused,", "limit", "5"]
    (said,) = taskqueue("queues", "--json").document["queues"]
    assert said == {
        "queue": "default",
        "waiting": 2,
        "delayed": 1,
        "running": 1,
        "consumers": 1,
        "paused": True,
        "closed": False,
        "disabled": False,
        "limit": 5,
    }


@pytest.mark.parametrize(
    ("verb", "back", "word"),
    [("pause", "resume", "paused"), ("close", "open", "closed"), ("disable", "enable", "disabled")],
)
def test_each_word_can_be_taken_back(taskqueue: Any, verb: str, back: str, word: str) -> None:
    assert taskqueue("queues", verb, "default", "mail", "--json").document == {
        "queues": [
            {"queue": name, "paused": False, "closed": False, "disabled": False, "limit": None} | {word: True}
            for name in ("default", "mail")
        ]
    }
    assert taskqueue("queues", back, "default").lines == [["QUEUE", "SAID"], ["default", "nothing"]]
    assert taskqueue("queues", "limit", "default", "0").lines[1:] == [["default", "nothing"]]


def test_a_name_that_nobody_knows_is_worth_a_warning(taskqueue: Any, store: Doing) -> None:
    assert taskqueue("queues", "pause", "default").err == ""
    asked = taskqueue("queues", "pause", "defualt")
    assert (asked.code, asked.lines[1:]) == (0, [["defualt", "paused"]])
    assert "queue defualt: nobody uses it, and the settings name default; misspelt?" in asked.err

    @store
    async def _(work: Work) -> None:
        await work.push(*opaque_tasks(1))

    assert taskqueue("queues", "pause", "default", "--queue", "mail").err == ""


def test_what_is_closed_takes_nothing(taskqueue: Any, store: Doing) -> None:
    assert taskqueue("queues", "close", "default").code == 0

    @store
    async def _(work: Work) -> None:
        with pytest.raises(QueueClosed):
            await work.push(*opaque_tasks(1))

    assert taskqueue("queues", "open", "default").code == 0

    @store
    async def _(work: Work) -> None:
        await work.push(*opaque_tasks(1))


def test_a_purge_wants_to_be_confirmed(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(*opaque_tasks(3), opaque(due=-3_600_000))
        await work.take()

    refused = taskqueue("queues", "purge", "default")
    assert (refused.code, refused.out) == (2, "")
    assert "3 task(s) would be forgotten" in refused.err
    assert "--yes" in refused.err
    assert taskqueue("queues", "purge", "default", "--yes").out == "3 task(s) forgotten\n"
    assert taskqueue("queues", "purge", "default", "--json").document == {"forgotten": 0}
    assert taskqueue("queues").lines[1][1:4] == ["0", "0", "1"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("pause",), "requires"),
        (("pause", "no such name!"), "queue"),
        (("limit", "default", "-1"), "0 (no limit) or more"),
        (("limit", "default"), "requires"),
        (("purge",), "requires"),
        (("freeze", "default"), "freeze"),
    ],
)
def test_what_is_misspelt_is_told(taskqueue: Any, words: tuple[str, ...], told: str) -> None:
    ran = taskqueue("queues", *words)
    assert ran.code in (2, 78)
    assert told in ran.err


def test_every_command_has_an_example_that_is_understood(taskqueue: Any) -> None:
    for verb in ("pause", "resume", "close", "open", "disable", "enable", "limit", "purge"):
        lines = taskqueue("queues", verb, "--help").out.splitlines()
        example = next(line for line in reversed(lines) if "taskqueue queues" in line)
        assert taskqueue(*example.split()[1:]).code == 0, example


def test_a_queue_is_drained_when_nothing_is_left_to_run(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(*opaque_tasks(2), opaque(due=-3_600_000))

    ran = taskqueue("queues", "drain", "default", "--timeout", "0", "--json")
    assert (ran.code, ran.document) == (1, {"queues": ["default"], "left": 3})

    @store
    async def _(work: Work) -> None:
        with pytest.raises(QueueClosed):
            await work.push(*opaque_tasks(1))
        await work.end(await work.take(2), Verdict("complete", status=200))
        await work.broker.purge("default", most=10, deadline=1e12)

    assert taskqueue("queues", "drain", "default").out == "0 task(s) left in default, closed\n"
    assert taskqueue("queues", "drain", "--timeout", "1").code == 2
