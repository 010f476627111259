"""Whoever can write to the store can neither read a task, nor change, swap or rename one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskqueue.errors import RecordError
from taskqueue.keys import Keyring
from taskqueue.seal import NONCE_BYTES, seal, seal_response, unseal, unseal_response
from taskqueue.task import Response, Task

OLD = "the-old-secret-0123456789-abcdefghijklmnop"
NEW = "the-new-secret-0123456789-abcdefghijklmnop"
KEYRING = Keyring([OLD])
NONCE = bytes(range(NONCE_BYTES))
TASK = Task(
    id="id-1",
    queue="default",
    method="POST",
    target="/reports/build?token=canary-query",
    headers=(("cookie", "session=canary-cookie"),),
    body=b"canary-body",
    user_id="canary-user",
    label="shown",
)


def record(keyring: Keyring = KEYRING, task: Task = TASK, nonce: bytes = NONCE) -> bytes:
    """Return the task as it is stored."""
    return seal(keyring, task, nonce=nonce).record


def opened(raw: bytes, *, keyring: Keyring = KEYRING, queue: str = "default", task_id: str = "id-1") -> Task:
    """Return the task in a record."""
    return unseal(keyring, queue=queue, task_id=task_id, record=raw)


def reason(raw: bytes, *, keyring: Keyring = KEYRING, queue: str = "default", task_id: str = "id-1") -> str:
    """Return why a record is refused."""
    with pytest.raises(RecordError) as caught:
        opened(raw, keyring=keyring, queue=queue, task_id=task_id)
    assert task_id in str(caught.value)
    assert "canary" not in str(caught.value)
    return caught.value.reason


def test_what_was_sealed_is_opened() -> None:
    assert opened(record()) == TASK


def test_beside_the_record_stands_only_what_may_be_read() -> None:
    stored = seal(KEYRING, TASK, nonce=NONCE)
    assert (stored.id, stored.queue, stored.due) == ("id-1", "default", 0)
    assert (stored.method, stored.path, stored.label) == ("POST", "/reports/build", "shown")
    assert b"canary" not in stored.record
    assert "canary" not in repr(stored)


def test_the_layout_is_that_of_stored_records() -> None:
    raw = record()
    assert raw[0] == 1
    assert raw[1:5].hex() == KEYRING.current.key_id
    assert raw[5:17] == NONCE
    assert len(raw) == 17 + len(TASK.encode()) + 16


def test_every_bit_counts() -> None:
    raw = record()
    for at in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[at] ^= 1 << bit
            expected = {0: "version", 1: "key", 2: "key", 3: "key", 4: "key"}.get(at, "seal")
            assert reason(bytes(changed)) == expected, (at, bit)


def test_every_length_but_its_own_is_refused() -> None:
    raw = record()
    for length in range(len(raw)):
        assert reason(raw[:length]) == ("format" if length < 17 else "seal"), length
    assert reason(raw + b"\0") == "seal"


@given(st.binary(max_size=100))
@settings(max_examples=100, deadline=None)
def test_bytes_that_nobody_sealed_are_refused(raw: bytes) -> None:
    assert reason(raw) in {"format", "version", "key", "seal"}
    assert reason(record()[:5] + raw) in {"format", "seal"}


def test_a_record_belongs_to_its_id_and_queue() -> None:
    assert reason(record(), task_id="id-2") == "seal"
    assert reason(record(), queue="mail") == "seal"


def test_id_and_queue_are_not_run_together() -> None:
    sealed = seal(KEYRING, Task(id="bc", queue="a", method="GET", target="/"), nonce=NONCE)
    assert reason(sealed.record, queue="ab", task_id="c") == "seal"


def test_the_inside_of_a_record_does_not_fit_another() -> None:
    other = seal(KEYRING, Task(id="id-2", queue="default", method="GET", target="/"), nonce=NONCE)
    assert reason(record()[:17] + other.record[17:]) == "seal"


def test_an_unknown_version_is_told_before_anything_else_is_read() -> None:
    assert reason(b"\x02" + record()[1:]) == "version"
    assert reason(b"\x02" + b"whatever a newer release may write") == "version"


def test_a_record_that_is_no_task_inside_is_refused_as_such() -> None:
    class Foreign(Task):
        def encode(self) -> bytes:
            return b"\xc0"

    foreign = Foreign(id="id-1", queue="default", method="GET", target="/")
    assert reason(record(task=foreign)) == "format"


def test_the_same_task_is_never_sealed_to_the_same_bytes() -> None:
    assert record(nonce=bytes(NONCE_BYTES))[17:] != record()[17:]


@pytest.mark.parametrize("size", [0, 8, 11, 13, 16])
def test_a_nonce_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"12 bytes are needed, not {size}"):
        record(nonce=bytes(size))


def test_a_secret_is_appended_put_first_and_the_old_one_dropped() -> None:
    appended, promoted, alone = Keyring([OLD, NEW]), Keyring([NEW, OLD]), Keyring([NEW])
    assert record(appended) == record(KEYRING)
    sealed_before, sealed_after = record(appended), record(promoted)
    for keyring in (appended, promoted):
        assert opened(sealed_before, keyring=keyring) == opened(sealed_after, keyring=keyring) == TASK
    assert opened(sealed_after, keyring=alone) == TASK
    assert reason(sealed_before, keyring=alone) == "key"
    assert reason(sealed_after, keyring=KEYRING) == "key"


@pytest.mark.parametrize(
    ("response", "kept", "size"),
    [
        (Response(200, (), b""), 0, 0),
        (Response(500, (("x-a", "b"),), b"abc"), 3, 3),
        (Response(500, (), b"abc", size=9), 3, 9),
        (Response(500, (), b"abc", kept=5, size=9), 5, 9),
        (Response(500, (), b"abc", kept=5), 5, 5),
    ],
)
def test_a_response_says_how_much_of_it_is_kept(response: Response, kept: int, size: int) -> None:
    found = unseal_response(
        KEYRING, "default", "id-1", seal_response(KEYRING, "default", "id-1", response, nonce=NONCE)
    )
    assert found == response
    assert (response.kept, response.size) == (kept, size)
