"""Keeping long answers as files: only a delivery that is under way has a say, and what fails changes nothing."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from taskqueue.content import KEPT_BYTES
from taskqueue.errors import BrokerUnavailable, StorageError
from taskqueue.policy import Answered
from taskqueue.response_files import FIELD, ResponseFiles
from taskqueue.storage import Storage
from taskqueue.task import Reservation
from tests.tasks import KEYRING

LONG = Answered(status=500, receipted=True, headers=(("Content-Type", "text/html"),), content=b"x" * (KEPT_BYTES + 1))
SHORT = Answered(status=500, receipted=True, content=b"x" * KEPT_BYTES)


class Store:
    """As much of a broker as is asked: whether a delivery is under way."""

    def __init__(self) -> None:
        self.answer: bool | Exception = True
        self.noted: list[Mapping[str, bytes]] = []

    async def note(
        self, _queue: str, _task_id: str, _delivery: int, fields: Mapping[str, bytes], *, deadline: float
    ) -> bool:
        assert deadline > 0
        self.noted.append(fields)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "files", KEYRING, namespace="taskqueue")


@pytest.fixture
def kept(store: Store, storage: Storage) -> ResponseFiles:
    return ResponseFiles(storage, store, most=10**6)  # type: ignore[arg-type]


def delivery(number: int) -> Reservation:
    return Reservation("id-1", "default", b"", number, number, 0)


async def test_a_long_one_is_noted_and_then_kept(kept: ResponseFiles, store: Store, storage: Storage) -> None:
    assert await kept.keep(delivery(1), LONG) == KEPT_BYTES + 1
    assert store.noted == [{FIELD: b"1"}]
    with storage.open_response("id-1") as file:
        assert (file.content_type, file.read()) == ("text/html", LONG.content)


async def test_of_a_short_one_nobody_is_told_and_the_first_looks_for_none(
    kept: ResponseFiles, store: Store, storage: Storage
) -> None:
    storage.save_response("default", "id-1", b"", "")
    assert await kept.keep(delivery(1), SHORT) == KEPT_BYTES
    assert (store.noted, storage.has_response("default", "id-1")) == ([], True)
    assert await kept.keep(delivery(2), SHORT) == KEPT_BYTES
    assert (store.noted, storage.has_response("default", "id-1")) == ([{FIELD: b""}], False)
    assert await kept.keep(delivery(3), SHORT) == KEPT_BYTES
    assert len(store.noted) == 1


async def test_a_delivery_that_was_taken_back_leaves_the_file_of_the_next(
    kept: ResponseFiles, store: Store, storage: Storage
) -> None:
    storage.save_response("default", "id-1", b"of the next", "")
    store.answer = False
    assert await kept.keep(delivery(2), LONG) == KEPT_BYTES
    assert await kept.keep(delivery(2), SHORT) == KEPT_BYTES
    with storage.open_response("id-1") as file:
        assert file.read() == b"of the next"


async def test_a_broker_that_is_away_is_told(
    kept: ResponseFiles, store: Store, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    store.answer = BrokerUnavailable("redis is away")
    assert await kept.keep(delivery(1), LONG) == KEPT_BYTES
    assert "task id-1: of its answer only the first 16384 bytes are kept: redis is away" in caplog.text
    assert not storage.has_response("default", "id-1")
    storage.save_response("default", "id-1", b"", "")
    await kept.remove(delivery(2))
    assert "task id-1: an earlier answer stays: redis is away" in caplog.text


@pytest.mark.parametrize("error", [OSError("no space left"), StorageError("no such id")])
async def test_a_disk_that_is_full_is_told(
    kept: ResponseFiles,
    storage: Storage,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(storage, "save_response", fails)
    assert await kept.keep(delivery(1), LONG) == KEPT_BYTES
    assert f"of its answer only the first 16384 bytes are kept: {error}" in caplog.text
