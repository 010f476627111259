"""What an operator does to single tasks: cancel, archive, hasten, restart, retry. In every store."""

from collections.abc import AsyncIterator

import pytest

from taskqueue.broker import Beat, Broker, Lease, Withdrawal
from taskqueue.inspector import Act
from taskqueue.task import Verdict
from tests.moves import (
    COMPLETE,
    FAIL,
    OPERATOR,
    begun,
    claimed,
    ended,
    ids,
    log_of,
    names_of,
    push,
    reclaim,
    reserve,
    retry,
    seen,
    settle,
    soon,
    state_of,
    stats_of,
    withdraw,
)
from tests.stores import Inspectable
from tests.tasks import opaque, opaque_tasks

WORDS: tuple[Withdrawal, ...] = ("cancelled", "archived")
RELEASE = Verdict("release", "stopped")


@pytest.fixture
async def broker(store: Inspectable) -> AsyncIterator[Broker]:
    broker = store.open()
    yield broker
    await broker.aclose()
    store.queues()


@pytest.fixture
async def lease(broker: Broker) -> Lease:
    return await claimed(broker)


async def acts_of(broker: Broker, task_id: str) -> list[tuple[str, str]]:
    return [(act.what, act.actor) for act in (await log_of(broker, task_id)).acts]


async def given_in_all(broker: Broker, lease: Lease) -> list[str]:
    """Return the ids of all that is given out, however many calls that takes."""
    given: list[str] = []
    for _ in range(10):
        given += ids(await reserve(broker, lease, 100))
    return given


@pytest.mark.parametrize("word", WORDS)
class TestWhatWaits:
    @pytest.mark.accept("TA22", "TA23")
    async def test_it_never_runs(self, broker: Broker, store: Inspectable, lease: Lease, word: Withdrawal) -> None:
        first, second, third = await push(broker, opaque_tasks(3))
        assert await withdraw(broker, second, word=word) == [word]
        assert (await state_of(broker, second)).state == word
        assert await broker.size("default", deadline=soon()) == 2
        stats = await stats_of(broker)
        assert (stats.queued, getattr(stats, word)) == (2, 1)
        assert ids(await reserve(broker, lease, 9)) == [first, third]
        assert await broker.size("default", deadline=soon()) == 0
        stats = await stats_of(broker)
        assert (stats.queued, stats.reserved, stats.ghosts, getattr(stats, word)) == (0, 2, 0, 1)
        assert store.queue().records == {first.encode(), third.encode()}

    async def test_an_empty_line_looks_empty(self, broker: Broker, word: Withdrawal) -> None:
        pushed = await push(broker, [opaque(priority=priority) for priority in (0, 4, 9)])
        assert await withdraw(broker, *pushed, word=word) == [word] * 3
        assert await broker.size("default", deadline=soon()) == 0
        stats = await stats_of(broker)
        assert (stats.queued, stats.oldest, getattr(stats, word)) == (0, 0, 3)
        assert await broker.inspector.tasks("default", "queued", limit=9, offset=0, deadline=soon()) == []

    async def test_many_of_them_hide_nothing_behind_them(self, broker: Broker, lease: Lease, word: Withdrawal) -> None:
        pushed = await push(broker, opaque_tasks(350))
        await withdraw(broker, *pushed[:300], word=word)
        assert await given_in_all(broker, lease) == pushed[300:]

    async def test_what_waits_for_its_time_does_not_fall_due(
        self, broker: Broker, store: Inspectable, lease: Lease, word: Withdrawal
    ) -> None:
        await push(broker, [opaque("later", due=-60_000)])
        assert await withdraw(broker, "later", word=word) == [word]
        assert store.queue().indexes == {word: {b"later": (await state_of(broker, "later")).changed}}
        assert await broker.due("default", deadline=soon()) is None
        assert await reserve(broker, lease) == []

    async def test_its_request_is_kept_and_takes_no_room(
        self, broker: Broker, store: Inspectable, word: Withdrawal
    ) -> None:
        await push(broker, [opaque("id", record=b"as it was")])
        await withdraw(broker, "id", word=word)
        assert await broker.inspector.record("default", "id", deadline=soon()) == b"as it was"
        assert (store.queue().records, store.queue().weighed) == (set(), 0)

    async def test_who_did_it_is_kept(self, broker: Broker, word: Withdrawal) -> None:
        await push(broker, [opaque("id")])
        await withdraw(broker, "id", word=word)
        changed = (await state_of(broker, "id")).changed
        assert list((await log_of(broker, "id")).acts) == [Act(changed, word, OPERATOR)]

    async def test_a_repeat_changes_nothing(self, broker: Broker, store: Inspectable, word: Withdrawal) -> None:
        pushed = await push(broker, opaque_tasks(2))
        await withdraw(broker, *pushed, word=word)
        before = store.everything()
        assert await withdraw(broker, *pushed, word=word) == [word, word]
        assert store.everything() == before

    async def test_what_is_not_decided_yet_or_unknown_is_left_alone(
        self, broker: Broker, store: Inspectable, word: Withdrawal
    ) -> None:
        await broker.prepare("default", [opaque("voted")], deadline=soon())
        before = store.everything()
        assert await withdraw(broker, "voted", "unknown", word=word, force=True) == ["prepared", "unknown"]
        assert store.everything() == before


@pytest.mark.parametrize("word", WORDS)
class TestWhatIsUnderWay:
    @pytest.mark.accept("TA22", "TA23")
    async def test_it_is_refused_without_force(
        self, broker: Broker, store: Inspectable, lease: Lease, word: Withdrawal
    ) -> None:
        await push(broker, opaque_tasks(2))
        (running,) = await begun(broker, lease)
        (reserved,) = await reserve(broker, lease)
        before = store.everything()
        assert await withdraw(broker, running.id, reserved.id, word=word) == ["running", "reserved"]
        assert store.everything() == before
        assert await settle(broker, lease, ended(running), ended(reserved)) == []
        assert await names_of(broker, running.id, reserved.id) == ["completed", "completed"]

    async def test_its_holder_is_told_by_the_beat(self, broker: Broker, lease: Lease, word: Withdrawal) -> None:
        await push(broker, opaque_tasks(2))
        held, _ = await begun(broker, lease, 2)
        other = await claimed(broker, "two")
        assert await withdraw(broker, held.id, word=word, force=True) == ["marked"]
        assert await names_of(broker, held.id) == ["running"]
        pulse = broker.pulse(timeout=5)
        for _ in range(2):
            assert pulse.beat(lease).marked == (held.id,)
            assert pulse.beat(other) == Beat((await seen(broker),))
        await settle(broker, lease, ended(held, RELEASE))
        assert pulse.beat(lease).marked == ()
        pulse.close()

    @pytest.mark.parametrize(
        "verdict", [COMPLETE, FAIL, Verdict("retry", "status", 503, 60), RELEASE, Verdict("release", "key", 0, 60)]
    )
    async def test_whatever_it_comes_to_does_not_overwrite_it(
        self, broker: Broker, store: Inspectable, lease: Lease, word: Withdrawal, verdict: Verdict
    ) -> None:
        await push(broker, [opaque("id")])
        (held,) = await begun(broker, lease)
        await withdraw(broker, "id", word=word, force=True)
        follows = opaque("after")
        settlement = ended(held, verdict, response=b"sealed", on_success=follows, on_failure=follows)
        for _ in range(2):
            assert await settle(broker, lease, settlement) == []
            state = await state_of(broker, "id")
            assert (state.state, state.status, state.reason) == (word, verdict.status, verdict.reason)
            queue = store.queue()
            assert (set(queue.states), queue.marks, queue.reserved, queue.records) == ({b"id"}, set(), {}, set())
        log = await log_of(broker, "id")
        (line,) = log.ended
        assert (line.delivery, line.consumer, line.verdict) == (1, "one", word)
        assert await acts_of(broker, "id") == [("marked", OPERATOR)]
        assert log.fields == {}

    async def test_what_has_not_begun_does_not_begin(self, broker: Broker, lease: Lease, word: Withdrawal) -> None:
        await push(broker, [opaque("id")])
        (held,) = await reserve(broker, lease)
        await withdraw(broker, "id", word=word, force=True)
        assert not await broker.begin("default", "id", held.delivery, deadline=soon())
        await settle(broker, lease, ended(held, RELEASE))
        assert await names_of(broker, "id") == [word]

    @pytest.mark.parametrize("taken", ["by the same name", "by another"])
    async def test_what_a_dead_one_held_is_not_given_out_again(
        self, broker: Broker, store: Inspectable, lease: Lease, word: Withdrawal, taken: str
    ) -> None:
        await push(broker, [opaque("begun"), opaque("spared"), opaque("reserved")])
        await begun(broker, lease)
        await reserve(broker, lease, 2)
        await withdraw(broker, "begun", "reserved", word=word, force=True)
        if taken == "by another":
            assert await reclaim(broker, await seen(broker)) == 3
        else:
            _, returned = await broker.claim("default", "one", begins=True, deadline=soon())
            assert returned == 3
        again = await claimed(broker, "two")
        assert ids(await reserve(broker, again, 9)) == ["spared"]
        assert await names_of(broker, "begun", "reserved") == [word, word]
        assert store.queue().marks == set()
        assert (await state_of(broker, "begun")).crashes == 1

    async def test_the_last_word_holds(self, broker: Broker, lease: Lease, word: Withdrawal) -> None:
        await push(broker, [opaque("id")])
        (held,) = await begun(broker, lease)
        for said in (*WORDS, word):
            assert await withdraw(broker, "id", word=said, force=True) == ["marked"]
        await settle(broker, lease, ended(held))
        assert await names_of(broker, "id") == [word]


class TestWhatHasEnded:
    @pytest.mark.accept("TA23")
    async def test_it_can_be_archived(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await push(broker, [opaque("done"), opaque("failed"), opaque("cancelled")])
        done, failed = await reserve(broker, lease, 2)
        await settle(broker, lease, ended(done), ended(failed, FAIL))
        await withdraw(broker, "cancelled")
        assert await withdraw(broker, "done", "failed", "cancelled", word="archived") == ["archived"] * 3
        assert await names_of(broker, "done", "failed", "cancelled") == ["archived"] * 3
        assert set(store.queue().indexes) == {"archived"}
        assert await broker.inspector.record("default", "failed", deadline=soon()) == b"sealed"
        assert await acts_of(broker, "failed") == [("archived", OPERATOR)]
        assert (await state_of(broker, "failed")).reason == "exhausted"

    async def test_it_cannot_be_cancelled(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await push(broker, opaque_tasks(3))
        done, failed, archived = await reserve(broker, lease, 3)
        await settle(broker, lease, *(ended(item, verdict) for item, verdict in ((done, COMPLETE), (failed, FAIL))))
        await settle(broker, lease, ended(archived))
        await withdraw(broker, archived.id, word="archived")
        before = store.everything()
        refused = await withdraw(broker, done.id, failed.id, archived.id, force=True)
        assert refused == ["completed", "failed", "archived"]
        assert store.everything() == before

    async def test_what_is_archived_is_not_retried(self, broker: Broker, store: Inspectable) -> None:
        (task_id,) = await push(broker, opaque_tasks(1))
        await withdraw(broker, task_id, word="archived")
        before = store.everything()
        assert await retry(broker, task_id) == 0
        assert store.everything() == before


class TestRetrying:
    async def test_what_was_cancelled_runs_once_if_it_is_retried(
        self, broker: Broker, store: Inspectable, lease: Lease
    ) -> None:
        pushed = await push(broker, opaque_tasks(3))
        await withdraw(broker, *pushed)
        assert await retry(broker, *pushed[:2]) == 2
        assert await broker.size("default", deadline=soon()) == 2
        assert (await stats_of(broker)).queued == 2
        assert sorted(await given_in_all(broker, lease)) == sorted(pushed[:2])
        assert store.queue().weighed == 2 * len(b"sealed")
        assert await names_of(broker, *pushed) == ["reserved", "reserved", "cancelled"]

    async def test_also_after_its_place_in_the_line_was_passed(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id"), opaque("behind")])
        await withdraw(broker, "id")
        assert ids(await reserve(broker, lease, 9)) == ["behind"]
        assert await retry(broker, "id", record=b"sealed anew") == 1
        (again,) = await reserve(broker, lease, 9)
        assert (again.id, again.record, again.delivery, again.attempt) == ("id", b"sealed anew", 1, 1)
        assert await acts_of(broker, "id") == [("cancelled", OPERATOR), ("retried", OPERATOR)]

    async def test_it_ends_as_if_nothing_had_been(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        await withdraw(broker, "id")
        await retry(broker, "id")
        (held,) = await reserve(broker, lease)
        await settle(broker, lease, ended(held))
        assert await broker.inspector.record("default", "id", deadline=soon()) is None
        assert set(store.queue().indexes) == {"finished"}

    async def test_cancelled_and_retried_again_and_again(self, broker: Broker, lease: Lease) -> None:
        pushed = await push(broker, opaque_tasks(2))
        for _ in range(3):
            assert await withdraw(broker, pushed[0]) == ["cancelled"]
            assert await broker.size("default", deadline=soon()) == 1
            assert await retry(broker, pushed[0]) == 1
            assert await broker.size("default", deadline=soon()) == 2
        assert sorted(await given_in_all(broker, lease)) == sorted(pushed)

    async def test_who_retried_what_had_failed_is_kept(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        (held,) = await reserve(broker, lease)
        await settle(broker, lease, ended(held, FAIL))
        assert await retry(broker, "id", "unknown") == 1
        assert await acts_of(broker, "id") == [("retried", OPERATOR)]


class TestHastening:
    async def test_what_waits_for_its_time_is_next_in_the_order_asked_for(
        self, broker: Broker, store: Inspectable, lease: Lease
    ) -> None:
        await push(broker, [opaque("queued"), opaque("a", due=-60_000), opaque("b", due=-30_000)])
        await push(broker, [opaque("c", due=-60_000)])
        assert await broker.hasten("default", ["b", "queued", "a", "x"], actor=OPERATOR, deadline=soon()) == 2
        state = await state_of(broker, "a")
        assert (state.state, state.due) == ("queued", state.changed)
        assert await acts_of(broker, "a") == [("hastened", OPERATOR)]
        assert ids(await reserve(broker, lease, 9)) == ["b", "a", "queued"]
        assert store.queue().indexes == {"scheduled": {b"c": (await state_of(broker, "c")).due}}

    async def test_a_retry_need_not_wait(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        (held,) = await reserve(broker, lease)
        await settle(broker, lease, ended(held, Verdict("retry", "status", 503, 600)))
        assert await broker.hasten("default", ["id"], actor=OPERATOR, deadline=soon()) == 1
        (again,) = await reserve(broker, lease)
        assert (again.delivery, again.attempt) == (2, 2)

    async def test_its_consumers_are_told(self, broker: Broker) -> None:
        await push(broker, [opaque("id", due=-60_000)])
        async with broker.hints(["default"], "one") as hints:
            assert await anext(hints) == "default"
            await broker.hasten("default", ["id"], actor=OPERATOR, deadline=soon())
            assert await anext(hints) == "default"


class TestRestarting:
    async def _restart(self, broker: Broker, *task_ids: str) -> int:
        return await broker.restart("default", task_ids, actor=OPERATOR, deadline=soon())

    async def test_what_is_in_no_line_is_queued_again(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await push(broker, [opaque("lost"), opaque("there"), opaque("timeless", due=-60_000)])
        store.misplace("lost")
        store.misplace("timeless")
        assert await self._restart(broker, "lost", "there", "timeless", "unknown") == 2
        assert await self._restart(broker, "lost", "there", "timeless") == 0
        assert await names_of(broker, "timeless") == ["scheduled"]
        assert ids(await reserve(broker, lease, 9)) == ["there", "lost"]
        assert await acts_of(broker, "lost") == [("restarted", OPERATOR)]
        assert await acts_of(broker, "there") == []

    async def test_what_nobody_holds_is_queued_again(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await push(broker, [opaque("begun"), opaque("reserved"), opaque("held")])
        await begun(broker, lease)
        (_, held) = await reserve(broker, lease, 2)
        for task_id in ("begun", "reserved"):
            store.misplace(task_id)
        assert await self._restart(broker, "begun", "reserved", "held") == 2
        again = await reserve(broker, lease, 9)
        assert [(item.id, item.delivery, item.crashes) for item in again] == [("begun", 2, 1), ("reserved", 2, 0)]
        assert await settle(broker, lease, ended(held)) == []

    async def test_what_was_to_end_ends(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        await begun(broker, lease)
        await withdraw(broker, "id", force=True)
        store.misplace("id")
        assert await self._restart(broker, "id") == 1
        assert await names_of(broker, "id") == ["cancelled"]
        assert await reserve(broker, lease) == []
