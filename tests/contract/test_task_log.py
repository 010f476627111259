"""A task's life as it is kept, how tasks are found again, and that in the end nothing is left. In every store."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from taskqueue.broker import Broker, Capacity, Lease, Trimmed
from taskqueue.inspector import By, Log, Released
from taskqueue.task import CHILD, SealedTask, StateName, Verdict
from tests.moves import (
    COMPLETE,
    FAIL,
    begun,
    claimed,
    ended,
    exchange,
    ids,
    log_of,
    names_of,
    push,
    reserve,
    retry,
    settle,
    soon,
    state_of,
    stats_of,
    withdraw,
)
from tests.stores import Inspectable
from tests.tasks import opaque, opaque_tasks

RELEASE = Verdict("release", "stopped")
RETRY = Verdict("retry", "status", 503)
EVERY_INDEX = ("finished", "failed", "cancelled", "archived")


@pytest.fixture
async def broker(store: Inspectable) -> AsyncIterator[Broker]:
    broker = store.open()
    yield broker
    await broker.aclose()
    store.queues()


@pytest.fixture
async def lease(broker: Broker) -> Lease:
    return await claimed(broker)


async def note(broker: Broker, task_id: str, delivery: int, **fields: bytes) -> bool:
    return await broker.note("default", task_id, delivery, fields, deadline=soon())


@pytest.mark.accept("TA16")
async def test_the_states_of_a_life_come_in_their_order(broker: Broker, lease: Lease) -> None:
    await push(broker, [opaque("id", due=-60_000)])
    passed = [await state_of(broker, "id")]
    await broker.hasten("default", ["id"], actor="", deadline=soon())
    passed.append(await state_of(broker, "id"))
    (held,) = await reserve(broker, lease)
    passed.append(await state_of(broker, "id"))
    await broker.begin("default", "id", 1, deadline=soon())
    passed.append(await state_of(broker, "id"))
    await push(broker, [opaque("child", parent="id", flags=CHILD)])
    await settle(broker, lease, ended(held))
    passed.append(await state_of(broker, "id"))
    (child,) = await reserve(broker, lease)
    await settle(broker, lease, ended(child))
    passed.append(await state_of(broker, "id"))
    states = ["scheduled", "queued", "reserved", "running", "waiting", "completed"]
    assert [task.state for task in passed] == states
    times = [task.changed for task in passed]
    assert times == sorted(times)
    last = passed[-1]
    assert last.added <= last.reserved <= last.begun <= last.changed


class TestLog:
    async def test_what_is_unknown_has_none(self, broker: Broker, store: Inspectable) -> None:
        assert await log_of(broker, "unknown") == Log([], [])
        assert store.everything() == {}

    async def test_each_end_that_was_no_completion(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        for verdict in (RETRY, RETRY, FAIL):
            (held,) = await begun(broker, lease)
            await settle(broker, lease, ended(held, verdict))
            await broker.hasten("default", ["id"], actor="", deadline=soon())
        first, second, third = (await log_of(broker, "id")).ended
        assert (first.delivery, first.attempt, first.status, first.reason) == (1, 1, 503, "status")
        assert (second.delivery, second.attempt, second.verdict, second.consumer) == (2, 2, "retry", "one")
        assert (third.delivery, third.attempt, third.verdict, third.reason) == (3, 3, "fail", "exhausted")
        assert first.reserved <= first.begun <= first.ended <= second.reserved

    async def test_what_was_done_to_it_and_by_whom(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id", due=-60_000)])
        await broker.hasten("default", ["id"], actor="ada@desk", deadline=soon())
        await withdraw(broker, "id", actor="bob@sofa")
        await broker.inspector.retry("default", [("id", b"")], actor="eve@bed", deadline=soon())
        (held,) = await reserve(broker, lease)
        await withdraw(broker, "id", word="archived", force=True, actor="bob@sofa")
        await settle(broker, lease, ended(held))
        acts = (await log_of(broker, "id")).acts
        assert sorted((act.what, act.actor) for act in acts) == [
            ("cancelled", "bob@sofa"), ("hastened", "ada@desk"), ("marked", "bob@sofa"), ("retried", "eve@bed"),
        ]  # fmt: skip
        state = await state_of(broker, "id")
        assert all(state.added <= act.at <= state.changed for act in acts)
        assert [act.at for act in acts] == sorted(act.at for act in acts)

    async def test_when_it_was_given_back_and_how_often(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        assert (await log_of(broker, "id")).released is None
        (held,) = await reserve(broker, lease)
        await settle(broker, lease, ended(held, Verdict("release", "refused")))
        first = (await state_of(broker, "id")).changed
        assert (await log_of(broker, "id")).released == Released(first, first, 1, "refused", "one")
        await reserve(broker, await claimed(broker, "two"))
        await claimed(broker, "two")
        last = (await state_of(broker, "id")).changed
        assert (await log_of(broker, "id")).released == Released(first, last, 2, "lost", "two")

    async def test_a_response_is_that_of_the_last_end(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        for response, kept in ((b"first", b"first"), (b"", b"first"), (b"third", b"third")):
            (held,) = await reserve(broker, lease)
            await settle(broker, lease, ended(held, RETRY, response=response))
            assert (await log_of(broker, "id")).fields == {"response": kept}
            await broker.hasten("default", ["id"], actor="", deadline=soon())
        (held,) = await reserve(broker, lease)
        await settle(broker, lease, ended(held))
        assert (await log_of(broker, "id")).fields == {}


class TestNotes:
    async def test_they_are_kept_while_the_delivery_is_under_way(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        assert not await note(broker, "id", 0, report=b"queued")
        (held,) = await reserve(broker, lease)
        assert await note(broker, "id", 1, report=b"reserved", progress=b"none")
        await broker.begin("default", "id", 1, deadline=soon())
        assert await note(broker, "id", 1, report=b"running")
        for other in (0, 2):
            assert not await note(broker, "id", other, report=b"other")
        assert not await note(broker, "unknown", 1, report=b"other")
        await settle(broker, lease, ended(held, RETRY))
        assert not await note(broker, "id", 1, report=b"too late")
        assert (await log_of(broker, "id")).fields == {"report": b"running", "progress": b"none"}
        await broker.hasten("default", ["id"], actor="", deadline=soon())
        (again,) = await reserve(broker, lease)
        assert await note(broker, "id", again.delivery, progress=b"all")
        assert not await note(broker, "id", 1, progress=b"of the one before")
        await settle(broker, lease, ended(again))
        assert not await note(broker, "id", again.delivery, progress=b"too late")
        assert (await log_of(broker, "id")).fields == {"report": b"running", "progress": b"all"}

    async def test_what_is_lost_with_its_holder_notes_nothing_more(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        await begun(broker, lease)
        again = await claimed(broker)
        assert not await note(broker, "id", 1, report=b"of a dead one")
        await reserve(broker, again)
        assert not await note(broker, "id", 1, report=b"of a dead one")

    async def test_any_bytes(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        await reserve(broker, lease)
        content = bytes(range(256)) * 1000
        assert await note(broker, "id", 1, output=content)
        assert (await log_of(broker, "id")).fields == {"output": content}

    async def test_of_an_empty_field_nothing_is_kept(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        await reserve(broker, lease)
        assert await note(broker, "id", 1, output=b"a", files=b"b")
        assert await note(broker, "id", 1, files=b"", report=b"", redirect=b"c")
        assert (await log_of(broker, "id")).fields == {"output": b"a", "redirect": b"c"}


class TestKeeping:
    async def test_requests_of_what_completed_are_dropped_or_kept(
        self, broker: Broker, store: Inspectable, lease: Lease
    ) -> None:
        await push(broker, [opaque("dropped"), opaque("kept", record=b"as it was")])
        dropped, kept = await reserve(broker, lease, 2)
        await settle(broker, lease, ended(dropped))
        await settle(broker, lease, ended(kept, response=b"sealed"), keep=True)
        record = broker.inspector.record
        assert await record("default", "dropped", deadline=soon()) is None
        assert await record("default", "kept", deadline=soon()) == b"as it was"
        assert (await log_of(broker, "kept")).fields == {"response": b"sealed"}
        assert (store.queue().records, store.queue().logs) == (set(), {b"kept"})

    async def test_what_is_kept_takes_no_room(self, store: Inspectable) -> None:
        broker = store.open(capacity=Capacity(tasks=1, bytes=10))
        lease = await claimed(broker)
        for _ in range(3):
            await push(broker, [opaque(record=bytes(10))])
            (held,) = await reserve(broker, lease)
            await settle(broker, lease, ended(held), keep=True)
        assert (await stats_of(broker)).completed == 3
        await broker.aclose()

    async def test_of_a_parent_too(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await push(broker, [opaque("parent")])
        (held,) = await begun(broker, lease)
        await push(broker, [opaque("child", parent="parent", flags=CHILD)])
        await settle(broker, lease, ended(held), keep=True)
        (held,) = await begun(broker, lease)
        await settle(broker, lease, ended(held, FAIL), keep=True)
        assert await names_of(broker, "parent") == ["failed"]
        assert await broker.inspector.record("default", "parent", deadline=soon()) == b"sealed"
        assert await retry(broker, "parent") == 1
        assert store.queue().records == {b"child", b"parent"}


def of(by: By, value: str, task_id: str, *, due: int = 0) -> SealedTask:
    """Return a task that is found by this and by nothing else."""
    return replace(opaque(task_id, due=due, label=""), **{by: value})  # type: ignore[arg-type]


async def found(
    broker: Broker,
    by: By,
    value: str,
    *,
    limit: int = 99,
    offset: int = 0,
    since: int | None = None,
    until: int | None = None,
) -> list[str]:
    tasks = await broker.inspector.index(
        *("default", by, value),
        limit=limit,
        offset=offset,
        since=since,
        until=until,
        deadline=soon(),
    )
    return [task.id for task in tasks]


class TestFinding:
    """By owner, label and route, in whatever state, those added last first."""

    @pytest.mark.parametrize("by", ["owner", "label", "route"])
    async def test_by_each_of_these(self, broker: Broker, store: Inspectable, lease: Lease, by: By) -> None:
        await push(broker, [of(by, "mine", task_id) for task_id in ("a", "b", "c")])
        await push(broker, [of(by, "mine", "d", due=-60_000), of(by, "another's", "e"), of(by, "", "f")])
        store.backdate(f"by:{by}:mine", {"a": 1000, "b": 2000, "c": 3000, "d": 4000})
        done, failed = await reserve(broker, lease, 2)
        await settle(broker, lease, ended(done), ended(failed, FAIL))
        assert await withdraw(broker, "c") == ["cancelled"]
        assert await found(broker, by, "mine") == ["d", "c", "b", "a"]
        assert await found(broker, by, "another's") == ["e"]
        assert await found(broker, by, "nobody's") == []
        count = broker.inspector.count
        assert await count("default", by, "mine", deadline=soon()) == 4
        assert await count("default", by, "nobody's", deadline=soon()) == 0
        pages = [await found(broker, by, "mine", limit=3, offset=offset) for offset in (0, 3, 6)]
        assert pages == [["d", "c", "b"], ["a"], []]

    @pytest.mark.parametrize(("since", "until", "ids_found"), [
        (2000, None, "dcb"), (None, 3000, "cba"), (2000, 3000, "cb"), (2001, 2999, ""), (4001, None, ""),
        (None, 999, ""), (3000, 2000, ""),
    ])  # fmt: skip
    async def test_by_when_they_were_added(
        self, broker: Broker, store: Inspectable, since: int | None, until: int | None, ids_found: str
    ) -> None:
        await push(broker, [opaque(task_id) for task_id in "abcd"])
        store.backdate("by:label:label", {"a": 1000, "b": 2000, "c": 3000, "d": 4000})
        assert await found(broker, "label", "label", since=since, until=until) == list(ids_found)
        assert await found(broker, "label", "label", since=since, until=until, offset=1) == list(ids_found[1:])
        assert await found(broker, "label", "label", since=since, until=until, limit=1) == list(ids_found[:1])

    async def test_odd_names_are_names(self, broker: Broker) -> None:
        odd = ("a:b", "/path/{id:int}", "naïve", "{default}", "*")
        await push(broker, [opaque(f"id{number}", label=name, route=name) for number, name in enumerate(odd)])
        for number, name in enumerate(odd):
            assert await found(broker, "label", name) == await found(broker, "route", name) == [f"id{number}"]

    async def test_what_is_discarded_or_purged_is_found_no_more(self, broker: Broker, store: Inspectable) -> None:
        await broker.prepare("default", [opaque("voted"), opaque("doubted")], deadline=soon())
        await push(broker, [opaque("queued"), opaque("later", due=-60_000)])
        await broker.discard("default", ["voted", "doubted"], deadline=soon())
        assert sorted(await found(broker, "label", "label")) == ["later", "queued"]
        await broker.purge("default", most=9, deadline=soon())
        assert await found(broker, "label", "label") == []
        assert store.everything() == {}

    @pytest.mark.parametrize(("state", "index"), [
        ("completed", "finished"), ("failed", "failed"), ("cancelled", "cancelled"), ("archived", "archived"),
        ("scheduled", "scheduled"), ("prepared", "prepared"),
    ])  # fmt: skip
    async def test_those_of_a_state_by_when_they_came_into_it(
        self, broker: Broker, store: Inspectable, lease: Lease, state: StateName, index: str
    ) -> None:
        names = ["a", "b", "c", "d"]
        if state == "prepared":
            await broker.prepare("default", [opaque(task_id) for task_id in names], deadline=soon())
        else:
            await push(broker, [opaque(task_id, due=-60_000 * (state == "scheduled")) for task_id in names])
        if state in ("completed", "failed"):
            verdict = COMPLETE if state == "completed" else FAIL
            await settle(broker, lease, *(ended(item, verdict) for item in await reserve(broker, lease, 4)))
        elif state in ("cancelled", "archived"):
            await withdraw(broker, *names, word=state)
        store.backdate(index, {"a": 1000, "b": 2000, "c": 3000, "d": 4000})

        async def shown(
            since: int | None = None, until: int | None = None, limit: int = 9, offset: int = 0
        ) -> list[str]:
            tasks = await broker.inspector.tasks(
                *("default", state), limit=limit, offset=offset, since=since, until=until, deadline=soon()
            )
            return [task.id for task in tasks]

        assert await shown() == ["d", "c", "b", "a"]
        assert await shown(2000, 3000) == ["c", "b"]
        assert await shown(since=2000, limit=2, offset=1) == ["c", "b"]
        assert await shown(until=999) == []


class TestNothingIsLeft:
    """What was kept long enough is forgotten with all that was known of it."""

    async def _lives(self, broker: Broker, lease: Lease) -> None:
        """Let tasks come to every end, with everything in their logs that there can be."""
        shown: Any = {"owner": "0123456789a", "route": "/path", "label": "mine"}
        follows = opaque("follows", **shown)
        await push(broker, [opaque(task_id, **shown) for task_id in ("parent", "fails", "forced", "waits")])
        parent, fails, forced = await begun(broker, lease, 3)
        for item in (parent, fails, forced):
            fields = {"report": b"sealed", "progress": b"sealed", "redirect": b"/there", "output": b"sealed"}
            assert await note(broker, item.id, 1, **fields)
        assert await note(broker, "parent", 1, files=b"sealed")
        await push(broker, [opaque("child", parent="parent", flags=CHILD, priority=9, **shown)])
        await withdraw(broker, "forced", word="archived", force=True)
        await settle(
            broker,
            lease,
            ended(parent, response=b"sealed", on_success=follows, on_failure=opaque("other", **shown)),
            ended(fails, FAIL, response=b"sealed", on_failure=opaque("bad", **shown)),
            ended(forced),
            keep=True,
        )
        (child,) = await reserve(broker, lease)
        await settle(broker, lease, ended(child, RELEASE))
        (child,) = await reserve(broker, lease)
        await settle(broker, lease, ended(child), keep=True)
        await withdraw(broker, "waits")
        for item in await reserve(broker, lease, 9):
            await settle(broker, lease, ended(item))
        assert await names_of(broker, "parent", "fails", "forced", "waits", "follows", "bad", "child") == [
            *("completed", "failed", "archived", "cancelled", "completed", "completed", "completed"),
        ]  # fmt: skip

    async def test_after_it_was_trimmed(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await self._lives(broker, lease)
        everything = [(index, 0, 0) for index in EVERY_INDEX]
        assert await broker.trim("default", everything, most=100, deadline=soon()) == Trimmed(7, ("parent",))
        await broker.leave(lease, deadline=soon())
        assert store.everything() == {}

    async def test_those_with_a_file_are_told(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque(task_id) for task_id in ("saved", "answered", "both", "taken-back", "neither")])
        held = await begun(broker, lease, 5)
        for task_id, fields in (
            ("saved", {"files": b"sealed"}),
            ("answered", {"response_file": b"1"}),
            ("both", {"files": b"sealed", "response_file": b"1"}),
            ("taken-back", {"response_file": b"1"}),
            ("taken-back", {"response_file": b""}),
            ("neither", {"report": b"sealed"}),
        ):
            assert await note(broker, task_id, 1, **fields)
        await settle(broker, lease, *(ended(item, FAIL) for item in held))
        trimmed = await broker.trim("default", [("failed", 0, 0)], most=9, deadline=soon())
        assert (trimmed.count, sorted(trimmed.with_files)) == (5, ["answered", "both", "saved"])

    async def test_after_the_queue_was_emptied(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await self._lives(broker, lease)
        await push(broker, [opaque("queued"), opaque("ghost"), opaque("marked", priority=9)])
        await begun(broker, lease)
        await withdraw(broker, "ghost", "marked", force=True)
        await broker.prepare("default", [opaque("voted")], deadline=soon())
        await broker.reset("default", deadline=soon())
        await broker.leave(lease, deadline=soon())
        assert store.everything() == {}

    async def test_after_what_waits_was_purged(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        pushed = await push(broker, [*opaque_tasks(5), opaque("later", due=-60_000)])
        await withdraw(broker, *pushed[1:3])
        while await broker.purge("default", most=2, deadline=soon()):
            pass
        assert set(store.queue().states) == {task_id.encode() for task_id in pushed[1:3]}
        assert await broker.size("default", deadline=soon()) == 0
        assert await broker.trim("default", [("cancelled", 0, 0)], most=9, deadline=soon()) == Trimmed(2)
        await broker.leave(lease, deadline=soon())
        assert store.everything() == {}

    async def test_what_is_still_in_a_line_is_no_danger(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        """A withdrawn task that is trimmed and added again, while its id may still be in the line, runs once."""
        await push(broker, [opaque("first"), opaque("id"), opaque("last")])
        await withdraw(broker, "id")
        await broker.trim("default", [("cancelled", 0, 0)], most=9, deadline=soon())
        await push(broker, [opaque("id")])
        given = ids(await reserve(broker, lease, 9)) + ids(await reserve(broker, lease, 9))
        assert given.count("id") <= 1
        assert [task_id for task_id in given if task_id != "id"] == ["first", "last"]
        await broker.trim("default", [("cancelled", 0, 0)], most=9, deadline=soon())
        assert await broker.size("default", deadline=soon()) == 0
        assert store.queue().ghosts == 0

    @pytest.mark.parametrize("word", ["cancelled", "archived"])
    async def test_withdrawn_ones_are_kept_as_long_as_is_said(
        self, broker: Broker, store: Inspectable, word: str
    ) -> None:
        pushed = await push(broker, [opaque(due=-60_000) for _ in range(4)])
        await withdraw(broker, *pushed, word=word)  # type: ignore[arg-type]
        store.backdate(word, dict(zip(pushed, (1, 2, 3), strict=False)))
        assert await broker.trim("default", [(word, 3_600_000, 9)], most=2, deadline=soon()) == Trimmed(2)
        assert await broker.trim("default", [(word, 10**15, 1)], most=9, deadline=soon()) == Trimmed(1)
        assert set(store.queue().states) == {pushed[3].encode()}


async def test_a_reservation_that_is_repeated_shows_what_is_marked_too(broker: Broker, lease: Lease) -> None:
    await push(broker, [opaque("id")])
    given = await exchange(broker, lease, token="t")
    await withdraw(broker, "id", force=True)
    assert await exchange(broker, lease, token="t") == given
    await settle(broker, lease, ended(given.reservations[0]))
    assert await names_of(broker, "id") == ["cancelled"]
