"""Finding tasks: the same is found as by looking at every task, and no more is read than needed."""

import itertools
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest

from taskqueue import finding
from taskqueue.admin import Admin
from taskqueue.broker import Broker, Lease
from taskqueue.finding import Found
from taskqueue.query import STATES, Query, Term, parse, parse_sort
from taskqueue.task import CHILD, Reservation, SealedTask, Settlement, TaskState, Verdict
from tests.stores import Inspectable, RedisStore
from tests.tasks import opaque

DONE: Final = Verdict("complete", status=200)
LOST: Final = Verdict("fail", "not-found", 404)
AGAIN: Final = Verdict("retry", "server", 503, delay=3600.0)


def soon() -> float:
    return time.monotonic() + 10


@dataclass
class Shop:
    """A store with tasks of every kind in two queues."""

    broker: Broker
    place: Inspectable
    ids: list[tuple[str, str]] = field(default_factory=list)
    lease: Lease | None = None

    @property
    def admin(self) -> Admin:
        return Admin(self.broker, ["default", "mail"])

    async def push(self, *tasks: SealedTask) -> None:
        self.ids += [(task.queue, task.id) for task in tasks]
        await self.broker.push(tasks[0].queue, tasks, deadline=soon())

    async def take(self, count: int) -> Sequence[Reservation]:
        if self.lease is None:
            self.lease, _ = await self.broker.claim("default", "one", begins=True, deadline=soon())
        token = secrets.token_hex(4)
        taken = await self.broker.exchange(self.lease, (), token=token, want=count, room=2**20, deadline=soon())
        assert len(taken.reservations) == count
        return taken.reservations

    async def end(self, taken: Sequence[Reservation], verdict: Verdict) -> None:
        assert self.lease is not None
        ended = [Settlement(one.id, one.delivery, verdict) for one in taken]
        await self.broker.exchange(self.lease, ended, token=secrets.token_hex(4), want=0, room=0, deadline=soon())

    async def everything(self) -> list[TaskState]:
        found = [await self.broker.get(queue, task_id, deadline=soon()) for queue, task_id in self.ids]
        return [task for task in found if task is not None]

    async def find(self, text: str = "", **page: Any) -> Found:
        return await self.admin.tasks(query_of(text, **page))


def query_of(text: str = "", *, sort: str = "-changed", limit: int = 20, offset: int = 0) -> Query:
    terms = parse(text, now=time.time_ns() // 1_000_000, owners=lambda user: [user]) if text else []
    return Query(terms=tuple(terms), sort=parse_sort(sort), limit=limit, offset=offset)


def made(number: int, *, queue: str = "default", **fields: Any) -> SealedTask:
    """Return the task of this number, with an owner, a label and a route in turns."""
    of = {
        "owner": ("", "ada", "bob")[number % 3],
        "label": ("nightly", "", "weekly", "nightly")[number % 4],
        "route": ("/reports/{year}", "")[number % 2],
        "path": f"/reports/{number}" if number % 2 == 0 else f"/mail/{number}",
        "priority": (4, 4, 9, 0)[number % 4],
    }
    return replace(opaque(f"t{number:02}", queue=queue), **{**of, **fields})


@pytest.fixture
async def shop(place: Inspectable) -> AsyncIterator[Shop]:
    shop = Shop(place.open(), place)
    yield shop
    await shop.broker.aclose()
    place.queues()


async def fill(shop: Shop) -> None:
    """Put tasks into every state."""
    await shop.push(*(made(number) for number in range(22)))
    await shop.end(await shop.take(5), DONE)
    await shop.end(await shop.take(4), LOST)
    await shop.end(await shop.take(2), AGAIN)
    (parent,) = await shop.take(1)
    await shop.push(made(50, parent=parent.id, flags=CHILD, due=-3_600_000))
    await shop.end([parent], DONE)
    running, *_ = await shop.take(3)
    assert await shop.broker.begin("default", running.id, running.delivery, deadline=soon())
    await shop.push(*(made(number, due=-60_000 * number) for number in (33, 31, 32)))
    prepared = [made(number) for number in (40, 41)]
    shop.ids += [("default", task.id) for task in prepared]
    await shop.broker.prepare("default", prepared, deadline=soon())
    completed = [task.id for task in await shop.everything() if task.state == "completed"]
    waiting = [task.id for task in await shop.everything() if task.state == "queued"]
    for ids, word in ((completed[:2], "archived"), (waiting[:2], "cancelled"), (waiting[2:3], "archived")):
        done = await shop.broker.withdraw("default", ids, word, actor="ada@desk", force=False, deadline=soon())  # type: ignore[arg-type]
        assert set(done) == {word}
    await shop.push(*(made(number, queue="mail") for number in range(60, 66)))
    assert {task.state for task in await shop.everything()} == set(STATES)


TEXTS: Final = [
    "",
    "state = completed",
    "state IN failed, cancelled, archived",
    "state = queued",
    "state = scheduled",
    "state = running",
    "state = reserved",
    "stage = in_progress",
    "stage = created AND queue = mail",
    "owner = ada",
    "owner IN ada, bob AND state = failed",
    "owner = ''",
    "owner != ada",
    "label = nightly",
    "label IN nightly, weekly",
    "route = '/reports/{year}' AND label = nightly",
    "label = ''",
    "owner = nobody",
    "path LIKE /reports/%",
    "path NOT LIKE /reports/% AND priority >= 4",
    "added >= 1h AND label = nightly",
    "added < 1h",
    "changed > 1h AND changed < +1h",
    "changed > +1h",
    "due > +30m AND state = scheduled",
    "id = t03",
    "id IN t03, t60, nobody AND queue = mail",
    "parent != ''",
    "status = 404 AND reason = not-found",
]


SORTS: Final = ("-changed", "changed", "-added", "added", "due", "-due", "path", "-priority", "label")
PAGES: Final = ((100, 0), (3, 0), (1, 0), (4, 2), (2, 5))


@pytest.mark.accept("TA33")
async def test_the_same_is_found_as_by_looking_at_all(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "PAGE", 3)
    await fill(shop)
    everything = await shop.everything()
    asked = itertools.product(TEXTS, SORTS)
    if isinstance(shop.place, RedisStore):
        # A part of them, in which each order and each page has its turn: round trips take their time.
        asked = itertools.islice(asked, 0, None, 4)  # type: ignore[assignment]
    for (text, sort), (limit, offset) in zip(asked, itertools.cycle(PAGES), strict=False):
        query = query_of(text, sort=sort, limit=limit, offset=offset)
        meant = [task for task in everything if query.takes(task)]
        meant.sort(key=query.sort.key, reverse=query.sort.descending)
        found = await shop.admin.tasks(query)
        about = (text, sort, limit, offset)
        assert [task.id for task in found.tasks] == [task.id for task in meant[offset:][:limit]], about
        assert (found.more, found.complete) == (len(meant) > offset + limit, True), about
        assert found.total in (None, len(meant)), about
    for text in TEXTS:
        each = [task.id async for task in shop.admin.each(query_of(text))]
        assert sorted(each) == sorted(task.id for task in everything if query_of(text).takes(task)), text


async def test_twenty_is_the_number_on_a_page_unless_somebody_says_otherwise(shop: Shop) -> None:
    await shop.push(*(made(number) for number in range(21)))
    found = await shop.find()
    assert (len(found.tasks), found.more, found.total) == (20, True, 21)


async def test_what_is_hidden_is_in_no_page_and_no_total(shop: Shop) -> None:
    await shop.push(*(made(number) for number in range(6)))
    found = await shop.admin.tasks(query_of(limit=2), hidden=lambda task: task.path.startswith("/mail"))
    assert ([task.id for task in found.tasks], found.more, found.total) == (["t04", "t02"], True, None)
    each = [task.id async for task in shop.admin.each(query_of(), hidden=lambda task: task.id != "t05")]
    assert each == ["t05"]


@pytest.mark.accept("TA31")
async def test_who_asks_for_one_owner_sees_nobody_elses_and_who_asks_for_all_sees_all(shop: Shop) -> None:
    await fill(shop)
    assert {task.owner for task in (await shop.find("owner = ada", limit=100)).tasks} == {"ada"}
    assert {task.owner for task in (await shop.find(limit=100)).tasks} == {"", "ada", "bob"}


async def test_too_many_to_be_sorted_are_said_to_be(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "PAGE", 3)
    monkeypatch.setattr(finding, "MOST_SORTED", 10)
    await shop.push(*(made(number) for number in range(12)))
    await shop.end(await shop.take(4), DONE)
    # The line has no order of its own: of its 8 tasks and 4 others 10 are sorted, each source having its share.
    found = await shop.find(sort="path", limit=100)
    assert (len(found.tasks), found.complete, found.total) == (10, False, 12)
    assert sum(task.state == "completed" for task in found.tasks) == 4
    found = await shop.find("state = completed", sort="path", limit=100)
    assert (len(found.tasks), found.complete, found.total) == (4, True, 4)
    # Where the order is that of the index, there may be any number.
    monkeypatch.setattr(finding, "MOST_SORTED", 2)
    found = await shop.find("state = completed", limit=2)
    assert (len(found.tasks), found.more, found.complete, found.total) == (2, True, True, 4)


async def test_a_task_that_moves_while_others_are_read_is_told_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "PAGE", 2)
    await shop.push(*(made(number) for number in range(8)))
    taken = await shop.take(8)
    await shop.end(taken[:6], LOST)
    seen: list[str] = []
    async for task in shop.admin.each(Query(terms=(Term("state", "=", ("failed",)),))):
        if not seen:
            await shop.end(taken[6:], LOST)
        seen.append(task.id)
    assert len(seen) == len(set(seen))
    assert set(seen) >= {one.id for one in taken[:6]}


# What is read.


class Read:
    """How many tasks were asked for, from where."""

    def __init__(self, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, int]] = []
        kind: Any = type(broker.inspector)
        tasks, index = kind.tasks, kind.index

        async def counted_tasks(inspector: Any, queue: str, state: str, *, limit: int, **more: Any) -> Any:
            self.asked.append((state, limit))
            return await tasks(inspector, queue, state, limit=limit, **more)

        async def counted_index(inspector: Any, queue: str, by: str, value: str, *, limit: int, **more: Any) -> Any:
            self.asked.append((by, limit))
            return await index(inspector, queue, by, value, limit=limit, **more)

        monkeypatch.setattr(kind, "tasks", counted_tasks)
        monkeypatch.setattr(kind, "index", counted_index)


async def test_no_more_is_read_than_the_page_needs(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "PAGE", 30)
    for start in range(0, 300, 50):
        await shop.push(*(made(number, owner="ada") for number in range(start, start + 50)))
        await shop.end(await shop.take(50), DONE)
    await shop.push(made(900, owner="bob"))
    read = Read(shop.broker, monkeypatch)

    async def asked(text: str, **page: Any) -> list[tuple[str, int]]:
        read.asked.clear()
        await shop.find(text, **page)
        return read.asked

    assert await asked("state = completed", limit=20) == [("completed", 21)]
    assert await asked("state = completed", limit=20, offset=250) == [("completed", 21)], "what is before is not read"
    assert await asked("state = completed", sort="changed", limit=5) == [("completed", 6)]
    assert await asked("owner = ada", sort="-added", limit=5) == [("owner", 6)]
    assert await asked("owner = bob", limit=20) == [("owner", 30)], "one task is quickly sorted"
    assert await asked("owner = ada AND state = completed", limit=5) == [("completed", 6)], "almost all are hers"
    assert await asked("owner = bob AND state = completed", limit=5) == [("owner", 30)]
    assert await asked("state = completed AND changed > +1h", limit=20) == [("completed", 21)]
    assert await asked("id = t00") == []
    pages = await asked("state = completed AND path LIKE /nowhere/%", limit=4)
    assert pages[:4] == [("completed", size) for size in (5, 10, 20, 30)], "there is no index of paths"
    assert len(pages) >= 12


async def test_what_is_rarely_found_together_is_looked_for_where_there_is_less(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many tasks have the label, and many have failed, but no task has both."""
    monkeypatch.setattr(finding, "PAGE", 10)
    await shop.push(*(made(number, label="weekly") for number in range(50)))
    await shop.end(await shop.take(50), LOST)
    await shop.push(*(made(number, label="nightly") for number in range(50, 98)))
    await shop.end(await shop.take(48), DONE)
    read = Read(shop.broker, monkeypatch)
    monkeypatch.setattr(finding, "MOST_SORTED", 30)
    found = await shop.find("label = nightly AND state = failed", limit=1)
    assert (found.tasks, found.more) == ([], False)
    sources = [source for source, _ in read.asked]
    assert sources[0] == "failed"
    assert sources[-1] == "label"
    assert sum(limit for source, limit in read.asked if source == "failed") < 50
    found = await shop.find("label = nightly", limit=3)
    assert [task.label for task in found.tasks] == ["nightly"] * 3
