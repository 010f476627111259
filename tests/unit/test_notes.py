"""What a delivery says of itself, without any door: what is stored when, and in which order."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future

import pytest

from taskqueue import notes as module
from taskqueue.errors import BrokerUnavailable, InvalidReport, NotKept
from taskqueue.notes import Notes
from taskqueue.reporting import Report
from tests.waiting import until


class Store:
    """Keeps notes; while it is held up, or down, it does not."""

    def __init__(self) -> None:
        self.kept: list[dict[str, bytes]] = []
        self.down, self.gone, self.asked = False, False, 0
        self.free = asyncio.Event()
        self.free.set()

    async def keep(self, fields: Mapping[str, bytes]) -> bool:
        self.asked += 1
        await self.free.wait()
        if self.down:
            raise BrokerUnavailable("away")
        self.kept.append(dict(fields))
        return not self.gone


def in_this_loop(call: Callable[[], Awaitable[None]]) -> "Future[None]":
    async def run() -> None:
        await call()

    return asyncio.run_coroutine_threadsafe(run(), asyncio.get_running_loop())


@pytest.fixture
async def store() -> Store:
    return Store()


@pytest.fixture
async def notes(store: Store) -> Notes:
    return Notes("id-1", store.keep, in_this_loop)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.001)


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 3600.0)


async def test_nothing_said_is_nothing_stored(notes: Notes, store: Store) -> None:
    assert (notes.pending, notes.close()) == (False, "")
    await notes.keep()
    assert store.asked == 0


async def test_a_report_is_stored_once(notes: Notes, store: Store) -> None:
    notes.report(Report("info", "a")).add("warning", "b")
    assert notes.pending
    await notes.keep()
    assert (notes.pending, notes.close()) == (False, "warning")
    await notes.keep()
    assert [list(fields) for fields in store.kept] == [["report"]]


async def test_what_cannot_be_a_report_is_none(notes: Notes, store: Store) -> None:
    other = Report("info", "another tree").add("info", "a part of it")
    with pytest.raises(InvalidReport, match="one place"):
        notes.report(other)
    assert (notes.pending, notes.close()) == (False, "")
    with pytest.raises(InvalidReport, match="the answer of this task has begun"):
        notes.report(Report("info", "late"))
    await notes.keep()
    assert store.asked == 0


async def test_what_cannot_be_stored_is_still_to_be_stored(notes: Notes, store: Store) -> None:
    notes.report(Report("info", "a"))
    notes.say("redirect", b"/x")
    store.down = True
    with pytest.raises(NotKept, match="what task id-1 says of itself could not be stored: away"):
        await notes.keep()
    assert notes.pending
    store.down = False
    await notes.keep()
    assert [sorted(fields) for fields in store.kept] == [["redirect", "report"]]
    assert not notes.pending


async def test_a_delivery_that_was_taken_back_is_told_in_the_log(
    notes: Notes, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.gone = True
    notes.say("redirect", b"/x")
    await notes.keep()
    assert caplog.messages == ["task id-1: was taken back, and what it said of itself since is lost"]
    assert not notes.pending


@pytest.mark.usefixtures("never")
async def test_a_short_task_stores_its_last_progress_only(notes: Notes, store: Store) -> None:
    for done in range(100):
        notes.progress(str(done).encode())
    await notes.keep()
    assert store.kept == [{"progress": b"99"}]
    assert not notes.pending
    notes.progress(b"100")
    assert notes.pending
    await notes.keep()
    assert store.kept[1:] == [{"progress": b"100"}]


@pytest.mark.usefixtures("often")
async def test_progress_is_stored_meanwhile_and_again_after_a_rest(notes: Notes, store: Store) -> None:
    async def stored() -> bool:
        return not notes.pending

    for value in (b"1", b"2"):
        notes.progress(value)
        await until(stored, "the progress is stored")
    assert store.kept == [{"progress": b"1"}, {"progress": b"2"}]


@pytest.mark.usefixtures("often")
async def test_the_last_word_comes_after_one_that_is_on_its_way(notes: Notes, store: Store) -> None:
    async def asked() -> bool:
        return store.asked > 0

    store.free.clear()
    notes.progress(b"1")
    await until(asked, "the first is on its way")
    notes.progress(b"2")
    end = asyncio.create_task(notes.keep())
    await asyncio.sleep(0)
    assert store.asked == 1
    store.free.set()
    await end
    assert store.kept == [{"progress": b"1"}, {"progress": b"2"}]


@pytest.mark.usefixtures("often")
async def test_progress_survives_an_outage(notes: Notes, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async def tried() -> bool:
        return store.asked > 2

    store.down = True
    with caplog.at_level(logging.INFO):
        notes.progress(b"1")
        await until(tried, "it was tried more than once")
    store.down = False
    await notes.keep()
    assert store.kept[-1] == {"progress": b"1"}
    assert caplog.messages == []


async def test_what_an_earlier_delivery_said_is_taken_back(store: Store) -> None:
    notes = Notes("id-1", store.keep, in_this_loop, again=True)
    notes.report(Report("info", "a"))
    assert notes.pending
    await notes.keep()
    (fields,) = store.kept
    assert fields == {
        "report": Report("info", "a").encode(),
        "progress": b"",
        "redirect": b"",
        "output": b"",
        "files": b"",
    }
    assert not notes.pending


async def test_a_file_saved_again_is_listed_once(notes: Notes, store: Store) -> None:
    notes.add_file("a", {"size": 1}, output=False)
    notes.add_file("b", {"size": 2}, output=True)
    notes.add_file("a", {"size": 3}, output=False)
    await notes.keep()
    (fields,) = store.kept
    assert json.loads(fields["files"]) == [{"name": "a", "size": 3}, {"name": "b", "size": 2}]
    assert fields["output"] == b"b"
