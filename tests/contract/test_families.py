"""Tasks that belong together: parents that wait for their children, masters that do not, and what follows from an end.

In every store.
"""

from collections.abc import AsyncIterator

import pytest

from taskqueue.broker import Broker, Capacity, Lease
from taskqueue.task import CHILD, MASTER, SealedTask, Verdict
from tests.moves import (
    COMPLETE,
    FAIL,
    begun,
    claimed,
    ended,
    exchange,
    ids,
    names_of,
    push,
    reserve,
    retry,
    settle,
    soon,
    state_of,
    withdraw,
)
from tests.stores import Inspectable
from tests.tasks import opaque

RETRY = Verdict("retry", "status", 503, 0)


@pytest.fixture
async def broker(store: Inspectable) -> AsyncIterator[Broker]:
    broker = store.open()
    yield broker
    await broker.aclose()
    store.queues()


@pytest.fixture
async def lease(broker: Broker) -> Lease:
    return await claimed(broker)


def child(task_id: str, parent: str = "parent", *, flags: int = CHILD, due: int = 0) -> SealedTask:
    return opaque(task_id, parent=parent, flags=flags, due=due)


async def family(broker: Broker, lease: Lease, *children: str, verdict: Verdict = COMPLETE, flags: int = 0) -> None:
    """Let a parent add these children while it runs, and end with this verdict."""
    await push(broker, [opaque("parent", flags=flags)])
    (held,) = await begun(broker, lease)
    await push(broker, [child(task_id) for task_id in children])
    await settle(broker, lease, ended(held, verdict))


async def end(broker: Broker, lease: Lease, *verdicts: Verdict) -> None:
    """Take as many tasks from the line, and let them end with these verdicts."""
    held = await begun(broker, lease, len(verdicts))
    pairs = zip(held, verdicts, strict=True)
    assert await settle(broker, lease, *(ended(item, verdict) for item, verdict in pairs)) == []


@pytest.mark.accept("TA26")
class TestParents:
    async def test_a_parent_ends_after_its_last_child(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await family(broker, lease, "a", "b")
        parent = await state_of(broker, "parent")
        assert (parent.state, parent.open, parent.spoilt, parent.status) == ("waiting", 2, 0, 200)
        stats = await broker.inspector.stats("default", deadline=soon())
        assert (stats.waiting, stats.queued, stats.reserved) == (1, 2, 0)
        await end(broker, lease, COMPLETE)
        assert ((await state_of(broker, "parent")).state, (await state_of(broker, "parent")).open) == ("waiting", 1)
        await end(broker, lease, COMPLETE)
        parent = await state_of(broker, "parent")
        assert (parent.state, parent.open, parent.reason) == ("completed", 0, "")
        assert store.queue().records == set()
        assert set(store.queue().indexes) == {"finished"}

    async def test_children_may_end_before_their_parent(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("parent")])
        (held,) = await begun(broker, lease)
        await push(broker, [child("a"), child("b")])
        await end(broker, lease, COMPLETE, COMPLETE)
        assert await names_of(broker, "parent") == ["running"]
        await settle(broker, lease, ended(held))
        assert await names_of(broker, "parent") == ["completed"]

    @pytest.mark.parametrize("order", [(FAIL, COMPLETE), (COMPLETE, FAIL), (FAIL, FAIL)])
    async def test_any_failed_child_fails_it_but_only_after_the_last(
        self, broker: Broker, store: Inspectable, lease: Lease, order: tuple[Verdict, Verdict]
    ) -> None:
        await family(broker, lease, "a", "b")
        await end(broker, lease, order[0])
        assert await names_of(broker, "parent") == ["waiting"]
        await end(broker, lease, order[1])
        parent = await state_of(broker, "parent")
        assert (parent.state, parent.reason, parent.spoilt) == ("failed", "children", order.count(FAIL))
        assert b"parent" in store.queue().records, "it can be retried"

    async def test_a_child_that_failed_while_it_ran_fails_it(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("parent")])
        (held,) = await begun(broker, lease)
        await push(broker, [child("a")])
        await end(broker, lease, FAIL)
        assert await names_of(broker, "parent") == ["running"]
        await settle(broker, lease, ended(held))
        assert ((await state_of(broker, "parent")).state, (await state_of(broker, "parent")).reason) == (
            "failed",
            "children",
        )

    async def test_a_child_that_is_tried_again_is_waited_for(self, broker: Broker, lease: Lease) -> None:
        await family(broker, lease, "a")
        await end(broker, lease, RETRY)
        assert await names_of(broker, "a", "parent") == ["scheduled", "waiting"]
        await broker.hasten("default", ["a"], actor="", deadline=soon())
        await end(broker, lease, Verdict("release", "stopped"))
        assert await names_of(broker, "a", "parent") == ["queued", "waiting"]
        await end(broker, lease, COMPLETE)
        assert await names_of(broker, "a", "parent") == ["completed", "completed"]

    @pytest.mark.parametrize("word", ["cancelled", "archived"])
    async def test_a_withdrawn_child_does_not_hang_it(self, broker: Broker, lease: Lease, word: str) -> None:
        await family(broker, lease, "running", "queued", "done")
        await push(broker, [child("later", due=-60_000)])
        (running,) = await begun(broker, lease)
        said = await broker.withdraw(
            *("default", ["running", "queued", "later"], word),  # type: ignore[arg-type]
            actor="",
            force=True,
            deadline=soon(),
        )
        assert said == ["marked", word, word]
        assert (await state_of(broker, "parent")).open == 2
        await settle(broker, lease, ended(running))
        await end(broker, lease, COMPLETE)
        assert await names_of(broker, "running", "queued", "later", "parent") == [word, word, word, "completed"]

    async def test_it_ends_with_the_withdrawal_of_its_last_child(self, broker: Broker, lease: Lease) -> None:
        await family(broker, lease, "a")
        assert await withdraw(broker, "a") == ["cancelled"]
        assert await names_of(broker, "a", "parent") == ["cancelled", "completed"]

    async def test_a_child_lost_with_its_holder_is_waited_for_unless_it_was_to_end(
        self, broker: Broker, lease: Lease
    ) -> None:
        await family(broker, lease, "a", "b")
        await begun(broker, lease, 2)
        await withdraw(broker, "a", force=True)
        again = await claimed(broker)
        assert await names_of(broker, "a", "b", "parent") == ["cancelled", "queued", "waiting"]
        await end(broker, again, COMPLETE)
        assert await names_of(broker, "parent") == ["completed"]

    async def test_grandchildren(self, broker: Broker, lease: Lease) -> None:
        await family(broker, lease, "child")
        (held,) = await begun(broker, lease)
        await push(broker, [child("grandchild", "child")])
        await settle(broker, lease, ended(held))
        assert await names_of(broker, "parent", "child") == ["waiting", "waiting"]
        await end(broker, lease, FAIL)
        assert await names_of(broker, "parent", "child", "grandchild") == ["failed"] * 3
        assert (await state_of(broker, "parent")).reason == "children"

    @pytest.mark.parametrize("verdict", [FAIL, RETRY])
    async def test_a_parent_that_did_not_complete_does_not_wait(
        self, broker: Broker, lease: Lease, verdict: Verdict
    ) -> None:
        await family(broker, lease, "a", verdict=verdict)
        state = {"fail": "failed", "retry": "scheduled"}[verdict.kind]
        assert await names_of(broker, "parent") == [state]
        await end(broker, lease, COMPLETE)
        assert ((await state_of(broker, "parent")).state, (await state_of(broker, "parent")).open) == (state, 0)

    async def test_a_parent_that_ended_gets_no_children_any_more(self, broker: Broker, lease: Lease) -> None:
        await family(broker, lease)
        await push(broker, [child("late"), child("stray", "unknown")])
        for task_id in ("late", "stray"):
            assert (await state_of(broker, task_id)).flags == 0
        await end(broker, lease, FAIL, COMPLETE)
        assert ((await state_of(broker, "parent")).state, (await state_of(broker, "parent")).spoilt) == ("completed", 0)
        assert (await state_of(broker, "late")).parent == "parent", "that is still known"

    async def test_who_is_no_child_is_not_waited_for(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("parent")])
        (held,) = await begun(broker, lease)
        await push(broker, [child("other", flags=0)])
        await settle(broker, lease, ended(held))
        assert await names_of(broker, "parent") == ["completed"]

    @pytest.mark.parametrize(("word", "force"), [("cancelled", False), ("archived", True)])
    async def test_one_that_waits_can_be_withdrawn(
        self, broker: Broker, lease: Lease, word: str, *, force: bool
    ) -> None:
        await family(broker, lease, "a")
        assert await withdraw(broker, "parent", word="archived") == ["waiting"]
        assert await withdraw(broker, "parent", word=word, force=force) == [word]  # type: ignore[arg-type]
        assert await names_of(broker, "parent", "a") == [word, "queued"]
        await end(broker, lease, FAIL)
        assert await names_of(broker, "parent", "a") == [word, "failed"]

    async def test_purging_its_children_ends_it(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await family(broker, lease, "a", "b")
        await push(broker, [child("later", due=-60_000)])
        assert await broker.purge("default", most=9, deadline=soon()) == 3
        assert await names_of(broker, "parent") == ["completed"]
        assert set(store.queue().states) == {b"parent"}


class TestVotedChildren:
    """Children added in a transaction that is not decided yet."""

    async def _voted(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("parent")])
        (held,) = await begun(broker, lease)
        await broker.prepare("default", [child("a"), child("b")], deadline=soon())
        await settle(broker, lease, ended(held))
        assert await names_of(broker, "parent") == ["waiting"]

    async def test_discarded_they_are_waited_for_no_longer(
        self, broker: Broker, store: Inspectable, lease: Lease
    ) -> None:
        await self._voted(broker, lease)
        for _ in range(2):
            await broker.discard("default", ["a"], deadline=soon())
            assert (await state_of(broker, "parent")).open == 1
        await broker.discard("default", ["b"], deadline=soon())
        assert await names_of(broker, "parent") == ["completed"]
        assert set(store.queue().states) == {b"parent"}

    async def test_promoted_they_are_waited_for(self, broker: Broker, lease: Lease) -> None:
        await self._voted(broker, lease)
        for _ in range(2):
            await broker.promote("default", ["a", "b"], deadline=soon())
        await end(broker, lease, COMPLETE)
        assert await names_of(broker, "parent") == ["waiting"]
        await end(broker, lease, COMPLETE)
        assert await names_of(broker, "parent") == ["completed"]

    async def _doubted(self, broker: Broker, store: Inspectable, lease: Lease, task_id: str) -> None:
        await self._voted(broker, lease)
        store.backdate("prepared", {task_id: store.clock() - 60_001})
        await broker.due("default", deadline=soon())
        parent = await state_of(broker, "parent")
        assert (parent.state, parent.open, parent.spoilt) == ("waiting", 1, 1)

    async def test_in_doubt_they_count_as_failed_until_that_is_decided(
        self, broker: Broker, store: Inspectable, lease: Lease
    ) -> None:
        await self._doubted(broker, store, lease, "a")
        await broker.promote("default", ["a", "b"], deadline=soon())
        parent = await state_of(broker, "parent")
        assert (parent.open, parent.spoilt) == (2, 0)
        await end(broker, lease, COMPLETE, COMPLETE)
        assert await names_of(broker, "parent") == ["completed"]

    async def test_in_doubt_and_discarded_they_never_were(
        self, broker: Broker, store: Inspectable, lease: Lease
    ) -> None:
        await self._doubted(broker, store, lease, "a")
        await broker.discard("default", ["a", "b"], deadline=soon())
        assert await names_of(broker, "parent") == ["completed"]


class TestRetrying:
    async def test_a_child_that_is_retried_in_time_spoils_nothing(self, broker: Broker, lease: Lease) -> None:
        await family(broker, lease, "a", "b")
        await end(broker, lease, FAIL)
        assert await retry(broker, "a") == 1
        assert ((await state_of(broker, "parent")).open, (await state_of(broker, "parent")).spoilt) == (2, 0)
        await end(broker, lease, COMPLETE, COMPLETE)
        assert await names_of(broker, "parent") == ["completed"]

    async def test_a_cancelled_child_that_is_retried_is_waited_for(self, broker: Broker, lease: Lease) -> None:
        await family(broker, lease, "a", "b")
        await withdraw(broker, "a")
        assert await retry(broker, "a") == 1
        assert (await state_of(broker, "parent")).open == 2
        await end(broker, lease, COMPLETE, COMPLETE)
        assert await names_of(broker, "parent") == ["completed"]

    async def test_a_parent_that_is_retried_begins_without_its_failed_children(
        self, broker: Broker, lease: Lease
    ) -> None:
        await family(broker, lease, "a")
        await end(broker, lease, FAIL)
        assert await retry(broker, "a", "parent") == 2
        assert ((await state_of(broker, "a")).flags, (await state_of(broker, "parent")).spoilt) == (0, 0)
        await end(broker, lease, COMPLETE, COMPLETE)
        assert await names_of(broker, "a", "parent") == ["completed", "completed"]


@pytest.mark.accept("TA27")
class TestMasters:
    @pytest.mark.parametrize("verdict", [COMPLETE, FAIL])
    async def test_children_change_nothing(self, broker: Broker, lease: Lease, verdict: Verdict) -> None:
        await family(broker, lease, "a", "b", flags=MASTER)
        assert await names_of(broker, "parent") == ["completed"]
        before = await state_of(broker, "parent")
        await end(broker, lease, verdict)
        assert await withdraw(broker, "b") == ["cancelled"]
        after = await state_of(broker, "parent")
        assert (after.state, after.changed, after.reason) == ("completed", before.changed, "")

    async def test_nor_does_one_that_failed_before(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("parent", flags=MASTER)])
        (held,) = await begun(broker, lease)
        await push(broker, [child("a")])
        await end(broker, lease, FAIL)
        await settle(broker, lease, ended(held))
        assert await names_of(broker, "parent") == ["completed"]

    async def test_a_child_that_is_a_master_still_counts_for_its_parent(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("parent")])
        (held,) = await begun(broker, lease)
        await push(broker, [child("a", flags=CHILD + MASTER)])
        await settle(broker, lease, ended(held))
        (held,) = await begun(broker, lease)
        await push(broker, [child("grandchild", "a")])
        await settle(broker, lease, ended(held))
        assert await names_of(broker, "a", "parent") == ["completed", "completed"]


class TestFollowing:
    async def _end_with(self, broker: Broker, lease: Lease, verdict: Verdict) -> None:
        """Let a task end, after which ``good`` or ``bad`` may follow; told twice, as after a lost reply."""
        await push(broker, [opaque("first")])
        (held,) = await begun(broker, lease)
        settlement = ended(held, verdict, on_success=opaque("good"), on_failure=opaque("bad"))
        for _ in range(2):
            assert await settle(broker, lease, settlement) == []

    async def _known(self, broker: Broker, *task_ids: str) -> list[str]:
        found = [await broker.get("default", task_id, deadline=soon()) for task_id in task_ids]
        return [task.id for task in found if task is not None]

    @pytest.mark.parametrize(("verdict", "follows"), [
        (COMPLETE, ["good"]), (FAIL, ["bad"]), (Verdict("retry", "status", 503, 60), []),
        (Verdict("release", "key", 0, 60), []),
    ])  # fmt: skip
    async def test_once_for_each_end(self, broker: Broker, lease: Lease, verdict: Verdict, follows: list[str]) -> None:
        await self._end_with(broker, lease, verdict)
        assert ids(await reserve(broker, lease, 9)) == follows
        assert await self._known(broker, "good", "bad") == follows

    async def test_by_the_move_that_ends_it(self, broker: Broker, lease: Lease) -> None:
        await family(broker, lease)  # A server that has not seen the script yet asks for it, and reserves meanwhile.
        await push(broker, [opaque("first")])
        (held,) = await begun(broker, lease)
        given = await exchange(broker, lease, ended(held, on_success=opaque("good", record=b"as sealed")), want=9)
        (follows,) = given.reservations
        assert (follows.id, follows.record, follows.delivery) == ("good", b"as sealed", 1)

    async def test_a_repeat_after_it_has_run_and_gone_on_queues_it_no_more(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("first")])
        (held,) = await begun(broker, lease)
        settlement = ended(held, on_success=opaque("good"))
        await settle(broker, lease, settlement)
        await end(broker, lease, COMPLETE)
        await settle(broker, lease, settlement)
        assert await reserve(broker, lease, 9) == []

    async def test_consumers_are_told(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("first")])
        (held,) = await begun(broker, lease)
        async with broker.hints(["default"], "one") as hints:
            assert await anext(hints) == "default"
            await settle(broker, lease, ended(held, on_success=opaque("good")))
            assert await anext(hints) == "default"

    async def test_a_full_queue_takes_it_all_the_same(self, store: Inspectable) -> None:
        broker = store.open(capacity=Capacity(tasks=2))
        lease = await claimed(broker)
        await push(broker, [opaque("first"), opaque("second")])
        (held,) = await begun(broker, lease)
        await settle(broker, lease, ended(held, FAIL, on_failure=opaque("bad")))
        assert ids(await reserve(broker, lease, 9)) == ["second", "bad"]
        await broker.aclose()

    async def test_what_is_known_already_stays_as_it_is(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await push(broker, [opaque("first"), opaque("good", due=-60_000)])
        (held,) = await begun(broker, lease)
        await settle(broker, lease, ended(held, on_success=opaque("good", record=b"another")))
        assert await names_of(broker, "good") == ["scheduled"]
        assert await broker.inspector.record("default", "good", deadline=soon()) == b"sealed"
        assert store.queue().waiting == []

    async def test_it_may_wait_for_its_time(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("first")])
        (held,) = await begun(broker, lease)
        await settle(broker, lease, ended(held, on_success=opaque("good", due=-60_000)))
        state = await state_of(broker, "good")
        assert (state.state, state.due) == ("scheduled", state.added + 60_000)

    @pytest.mark.parametrize(("verdict", "follows"), [(COMPLETE, "good"), (FAIL, "bad")])
    async def test_of_a_parent_when_it_ends(self, broker: Broker, lease: Lease, verdict: Verdict, follows: str) -> None:
        await push(broker, [opaque("parent")])
        (held,) = await begun(broker, lease)
        await push(broker, [child("a"), child("b")])
        settlement = ended(held, on_success=opaque("good"), on_failure=opaque("bad"))
        await settle(broker, lease, settlement)
        await end(broker, lease, verdict)
        assert await self._known(broker, "good", "bad") == []
        await end(broker, lease, COMPLETE)
        await settle(broker, lease, settlement)
        assert ids(await reserve(broker, lease, 9)) == [follows]

    async def test_of_a_parent_whose_children_ended_before(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("parent")])
        (held,) = await begun(broker, lease)
        await push(broker, [child("a")])
        await end(broker, lease, FAIL)
        await settle(broker, lease, ended(held, on_success=opaque("good"), on_failure=opaque("bad")))
        assert ids(await reserve(broker, lease, 9)) == ["bad"]

    async def test_nothing_follows_from_a_parent_that_is_withdrawn(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("parent")])
        (held,) = await begun(broker, lease)
        await push(broker, [child("a")])
        await settle(broker, lease, ended(held, on_success=opaque("good"), on_failure=opaque("bad")))
        await withdraw(broker, "parent")
        await end(broker, lease, COMPLETE)
        assert await self._known(broker, "good", "bad") == []

    async def test_what_follows_is_shown_with_what_it_is_found_by(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("first")])
        (held,) = await begun(broker, lease)
        follows = opaque("good", label="of-first", owner="0123456789a", route="/good", parent="first", priority=7)
        await settle(broker, lease, ended(held, on_success=follows))
        state = await state_of(broker, "good")
        shown = (state.label, state.owner, state.route, state.parent, state.priority, state.flags)
        assert shown == ("of-first", "0123456789a", "/good", "first", 7, 0)
