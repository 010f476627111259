"""A Django project with an outbox: in a block a task is a row, and so goes and stays with the block."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import checks
from django.core.management import call_command
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test.utils import override_settings

import taskqueue
from taskqueue.middleware import django as door
from taskqueue.middleware.django.checks import check, check_database
from taskqueue.middleware.django.outbox.models import Row
from taskqueue.middleware.django.outbox.rows import Rows
from taskqueue.relay import ROWS
from taskqueue.task import SealedTask
from tests.contract.test_doors_django import Site
from tests.contract.test_outbox import Broken, relaying
from tests.databases import Postgres
from tests.servers import RedisServer
from tests.tasks import SECRET
from tests.waiting import until

RIGHT = {"URL": "redis://127.0.0.1:1/0", "SECRET": SECRET}


@pytest.fixture
def site(any_server: RedisServer) -> Iterator[Site]:
    made = Site(any_server, outbox=["default"])
    yield made
    made.close()


def rows(using: str = "default") -> list[str]:
    return list(Row.objects.using(using).values_list("path", flat=True))


def relay(site: Site, *boxes: Any) -> None:
    """Relay until nothing waits any more."""

    async def nothing_waits() -> bool:
        return bool(await asyncio.to_thread(_closed, rows) == [])

    async def run() -> None:
        async with relaying(*(boxes or site.tq.outboxes), tq=site.tq):
            await until(nothing_waits, "the outbox is empty")
        await site.tq.aclose()

    asyncio.run(run())


def _closed(look: Any) -> Any:
    try:
        return look()
    finally:
        connections.close_all()


def test_a_task_is_a_row_and_lives_and_dies_with_its_block(site: Site) -> None:
    def view(_request: HttpRequest) -> HttpResponse:
        with transaction.atomic():
            taskqueue.add("/1")
            User.objects.create(username="ada")
            with suppress(LookupError), transaction.atomic():
                taskqueue.add("/dropped")
                raise LookupError
            with suppress(LookupError), taskqueue.transaction():
                taskqueue.add("/dropped-too")
                raise LookupError
            with taskqueue.transaction():
                taskqueue.add("/2")
        with suppress(LookupError), transaction.atomic():
            taskqueue.add("/dropped-at-last")
            raise LookupError
        taskqueue.add("/of-the-request")
        return HttpResponse(status=400)

    assert site.get(view) == 400
    assert (site.waiting, rows()) == ([], ["/1", "/2"])
    relay(site)
    assert (site.waiting, rows()) == (["/1", "/2"], [])


def test_the_broker_may_be_down_at_the_commit(private_server: RedisServer) -> None:
    site = Site(private_server, outbox=["default"])
    private_server.kill()
    with transaction.atomic():
        task_id = taskqueue.add("/later")
        with taskqueue.transaction():
            taskqueue.add("/later-too")
    private_server.restart()
    relay(site)
    assert site.waiting == ["/later", "/later-too"]
    assert site.tq.get_sync(task_id).state == "queued"
    site.close()


def test_a_database_without_outbox_stores_after_its_commit(any_server: RedisServer) -> None:
    site = Site(any_server, outbox=["other"])
    with transaction.atomic():
        door.add("/of-default")
    with transaction.atomic(using="other"):
        door.add("/of-other", using="other")
    assert (site.waiting, rows("default"), rows("other")) == (["/of-default"], [], ["/of-other"])
    site.close()


def test_a_relay_that_dies_after_its_push_only_repeats_it(site: Site) -> None:
    with transaction.atomic():
        taskqueue.add("/1")
    broken = Broken(site.tq.outboxes[0])

    async def run() -> None:
        async with relaying(broken, tq=site.tq):
            await broken.pushed.wait()
        await site.tq.aclose()

    asyncio.run(run())
    assert (site.waiting, rows()) == (["/1"], ["/1"])
    relay(site)
    assert (site.waiting, rows()) == (["/1"], [])


def test_many_are_pushed_in_order(site: Site) -> None:
    paths = [f"/{number}" for number in range(ROWS + 50)]
    with transaction.atomic():
        for path in paths:
            taskqueue.add(path)
    relay(site)
    assert site.waiting == paths


def test_a_transaction_has_its_limit(any_server: RedisServer) -> None:
    site = Site(any_server, outbox=["default"])
    site.tq.limits = taskqueue.Limits(transaction=100_000)
    with transaction.atomic():
        taskqueue.add("/1", payload=bytes(60_000))
        with pytest.raises(taskqueue.InvalidTask, match="over the limit of 100000"):
            taskqueue.add("/2", payload=bytes(60_000))
        with suppress(LookupError), transaction.atomic():
            taskqueue.add("/dropped", payload=bytes(30_000))
            raise LookupError
        taskqueue.add("/3", payload=bytes(30_000))
    assert rows() == ["/1", "/3"]
    site.close()


def test_a_capture_gets_what_is_committed(site: Site) -> None:
    with taskqueue.capture() as tasks, transaction.atomic():
        taskqueue.add("/later")
    assert (tasks.paths, rows()) == (["/later"], [])


async def test_where_rows_can_be_locked_relays_share_them(
    postgres: Postgres, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.database()
    of_server = {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres", "OPTIONS": {}}
    of_server["HOST"] = str(postgres.directory)
    monkeypatch.setitem(connections.settings, "pg", {**connections.settings["default"], **of_server})
    boxes = [Rows("pg"), Rows("pg")]

    def write() -> None:
        call_command("migrate", "taskqueue_outbox", verbosity=0, database="pg")
        with transaction.atomic(using="pg"):
            for number in range(ROWS + 3):
                site.tq.add(f"/{number}", using="pg")

    vars(site.tq)["has_outbox"] = frozenset(["pg"])
    await asyncio.to_thread(_closed, write)
    inside, outside, taken = asyncio.Event(), asyncio.Event(), list[int]()

    async def holding(tasks: Sequence[SealedTask]) -> Collection[str]:
        taken.append(len(tasks))
        inside.set()
        await outside.wait()
        return [task.id for task in tasks]

    async def passing(tasks: Sequence[SealedTask]) -> Collection[str]:
        taken.append(len(tasks))
        return ()

    holds = asyncio.create_task(boxes[0].pass_on(holding, without=()))
    await inside.wait()
    await boxes[1].pass_on(passing, without=())
    outside.set()
    assert (await holds, taken) == (ROWS, [ROWS, 3])
    assert await boxes[0].pass_on(passing, without=["default"]) == 0
    assert await boxes[0].pass_on(passing, without=()) == 3
    for box in boxes:
        await box.aclose()


# ---- settings


@pytest.mark.parametrize(
    ("chosen", "using", "aliases"),
    [
        (False, "default", []),
        (True, "default", ["default"]),
        (True, "other", ["other"]),
        (["other"], "default", ["other"]),
    ],
)
def test_the_setting_names_databases(chosen: Any, using: str, aliases: list[str]) -> None:
    with override_settings(TASKQUEUE={**RIGHT, "OUTBOX": chosen, "USING": using}):
        assert check() == []
        assert [box.using for box in door.task_queue().outboxes] == aliases  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("chosen", "installed", "text"),
    [
        (7, True, "OUTBOX: 7 must be True, or aliases of databases; known are default, other"),
        (["third"], True, r"OUTBOX: \['third'\] must be True"),
        (True, False, "OUTBOX: needs 'taskqueue.middleware.django.outbox' in INSTALLED_APPS, and then a migrate"),
    ],
)
def test_a_wrong_setting_is_told(chosen: Any, installed: bool, text: str) -> None:  # noqa: FBT001
    apps = ["taskqueue.middleware.django", *(["taskqueue.middleware.django.outbox"] if installed else [])]
    with override_settings(TASKQUEUE={**RIGHT, "OUTBOX": chosen}, INSTALLED_APPS=apps):
        (found,) = [one for one in check() if one.id == "taskqueue.E001"]
        with pytest.raises(taskqueue.ConfigError, match=text):
            raise taskqueue.ConfigError(found.msg)


@pytest.mark.usefixtures("site")
def test_a_table_that_is_missing_is_told() -> None:
    with override_settings(TASKQUEUE={**RIGHT, "OUTBOX": True}):
        assert check_database(databases=["default"]) == []
        with connections["default"].schema_editor() as editor:
            editor.delete_model(Row)
        try:
            (found,) = check_database(databases=["default", "other"])
            assert check_database(databases=["other"]) == check_database() == []
        finally:
            with connections["default"].schema_editor() as editor:
                editor.create_model(Row)
    assert isinstance(found, checks.Warning)
    assert (found.id, found.hint) == ("taskqueue.W003", "Run manage.py migrate.")


def test_the_migration_is_what_the_model_says() -> None:
    call_command("makemigrations", "taskqueue_outbox", check=True, dry_run=True, stdout=StringIO())
