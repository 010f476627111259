"""What claims to be a delivery, receipts, user ids and times: the header values beside the signature."""

import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqueue.errors import InvalidTask
from taskqueue.keys import Keyring
from taskqueue.receipt import Receipt, check_receipt, receipt
from taskqueue.reporting import TYPES
from taskqueue.signature import is_claimed
from taskqueue.stamp import read, stamp
from tests.deliveries import HOST, KEYRING, OTHER, TASK, check, signed, task_headers

# ---- claims


@pytest.mark.parametrize(
    "header",
    [
        ("X-Task-Id", "1"),
        ("x-task-id", ""),
        ("x_task_id", "1"),
        ("X_TASK-USER_ID", "root"),
        ("X-Task-", ""),
        ("X-Task-Anything", "1"),
        ("X-Task-Receipt", "1"),
        ("Signature-Input", 'tq=("@method");tag="taskqueue"'),
        ("signature_input", 'other=();created=1;  tag="taskqueue"'),
        ("SIGNATURE-INPUT", 'a=();tag="x", b=();tag="taskqueue";alg="none"'),
    ],
)
def test_what_claims_to_be_a_delivery(header: tuple[str, str]) -> None:
    assert is_claimed([("Host", HOST), header, ("Accept", "*/*")])


@pytest.mark.parametrize(
    "header",
    [
        ("Accept", "*/*"),
        ("X-Tasks", "1"),
        ("X-Task", "1"),
        ("X-Taskqueue-Id", "1"),
        ("My-X-Task-Id", "1"),
        ("Idempotency-Key", TASK),
        ("Signature", "tq=:AA==:"),
        ("Signature-Input", 'sig1=("@method");created=1;keyid="k"'),
        ("Signature-Input", 'sig1=();tag="taskqueue2"'),
        ("Signature-Input", 'sig1=();xtag="taskqueue"'),
        ("Signature-Input", r'sig1=();nonce=";tag=\"taskqueue\""'),
        ("X-Note", ';tag="taskqueue"'),
        ("", ""),
    ],
)
def test_what_does_not_claim_to_be_a_delivery(header: tuple[str, str]) -> None:
    assert not is_claimed([("Host", HOST), header])


def test_nothing_claims_nothing() -> None:
    assert not is_claimed([])


def test_all_that_is_sent_is_a_claim() -> None:
    assert all(is_claimed([pair]) for pair in task_headers() if pair[0] != "Idempotency-Key")
    assert is_claimed([pair for pair in signed().headers if pair[0] == "Signature-Input"])


# ---- receipts


@pytest.mark.parametrize("logged_in", [True, False])
def test_a_receipt(logged_in: bool) -> None:  # noqa: FBT001  a parameter of the test
    value = receipt(KEYRING.current, task_id=TASK, delivery=7, logged_in=logged_in)
    assert check_receipt(KEYRING, value, task_id=TASK, delivery=7) == Receipt(logged_in)
    assert set(value) <= set(string.ascii_lowercase + string.digits + ".")
    both = Keyring(["a newer secret, 0123456789 0123456789", "a secret of the application, 0123456789"])
    assert check_receipt(both, value, task_id=TASK, delivery=7) == Receipt(logged_in)


@pytest.mark.parametrize("reported", TYPES)
def test_a_receipt_covers_the_type_of_a_report(reported: str) -> None:
    def checked(value: str, told: str | None) -> Receipt | None:
        return check_receipt(KEYRING, value, task_id=TASK, delivery=7, reported=told)

    value = receipt(KEYRING.current, task_id=TASK, delivery=7, logged_in=True, reported=reported)
    plain = receipt(KEYRING.current, task_id=TASK, delivery=7, logged_in=True)
    others = [other for other in (None, "", "fatal", *TYPES) if other != reported]
    assert checked(value, reported) == Receipt(logged_in=True, reported=reported)
    assert [checked(value, other) for other in others] == [None] * len(others)
    assert (checked(plain, None), checked(plain, reported)) == (Receipt(logged_in=True), None)


def test_a_receipt_for_something_else() -> None:
    value = receipt(KEYRING.current, task_id=TASK, delivery=7, logged_in=True)
    assert check_receipt(KEYRING, value, task_id=TASK, delivery=8) is None
    assert check_receipt(KEYRING, value, task_id=TASK[:-1] + "2", delivery=7) is None
    assert check_receipt(OTHER, value, task_id=TASK, delivery=7) is None
    impostor = replace(OTHER.current, key_id=KEYRING.current.key_id)
    forged = receipt(impostor, task_id=TASK, delivery=7, logged_in=True)
    assert check_receipt(KEYRING, forged, task_id=TASK, delivery=7) is None
    by_other_key = receipt(
        replace(KEYRING.current, receipt=KEYRING.current.sign), task_id=TASK, delivery=7, logged_in=True
    )
    assert check_receipt(KEYRING, by_other_key, task_id=TASK, delivery=7) is None


def test_what_is_no_receipt() -> None:
    value = receipt(KEYRING.current, task_id=TASK, delivery=7, logged_in=True)
    others = [None, "", "1", value[:-1], f"{value}0", f"{value}, {value}", value.upper(), f"{value[:9]}é", "\ud800"]
    others += [
        f"{value}é",
        f"{value}\udcff",
        value.replace(".user.", ".anonymous."),
        value[:8],
        f"{value[:8]}\udcff",
        "x" * 100_000,
    ]
    others += [value[:at] + ("0" if value[at] != "0" else "1") + value[at + 1 :] for at in range(len(value))]
    assert [check_receipt(KEYRING, other, task_id=TASK, delivery=7) for other in others] == [None] * len(others)


# ---- user ids and times


@pytest.mark.parametrize(
    ("user_id", "sent"),
    [
        ("alice", "alice"),
        ("alice@example.com", "alice@example.com"),
        ("0", "0"),
        ("urn:x:1;role=a,b", "urn:x:1;role=a%2Cb"),
        ("100%", "100%25"),
        ("%41", "%2541"),
        (" a b ", "%20a%20b%20"),
        ("žofie", "%C5%BEofie"),
        ("日", "%E6%97%A5"),
        ("a\r\nX-Admin: 1", "a%0D%0AX-Admin:%201"),
        ("\0\x7f", "%00%7F"),
    ],
)
def test_user_ids(user_id: str, sent: str) -> None:
    assert dict(task_headers(user_id))["X-Task-User-Id"] == sent
    assert check(signed(user_id=user_id)).user_id == user_id


def test_no_user_no_header() -> None:
    assert "X-Task-User-Id" not in dict(task_headers(None))


@pytest.mark.parametrize(("user_id", "rule"), [("", "empty"), ("a\ud800", "lone surrogate")])
def test_user_ids_that_are_none(user_id: str, rule: str) -> None:
    with pytest.raises(InvalidTask, match=rf"^user_id: .*{rule}"):
        task_headers(user_id)


@given(st.integers(0, 253_402_300_799_999))
def test_times_lose_nothing(milliseconds: int) -> None:
    text = stamp(milliseconds)
    assert len(text) == len("2026-01-01T00:00:00.001Z")
    assert read(text) == milliseconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-31T09:30:00Z",
        "2026-01-31T09:30:00.25Z",
        "2026-01-31T09:30:00.2500Z",
        "2026-01-31T09:30:00.250",
        "2026-01-31T09:30:00.250z",
        "2026-01-31T09:30:00.250Z\n",
        "2026-01-31T09:30:00.+25Z",
        "2026-01-31T09:30:00. 25Z",
        "2026-01-31T09:30:00.2_5Z",
        "2026-01-31T09:30:00.25\u0663Z",
        "2026-01-31T09:30:00.25\u00b2Z",
        "2026-01-31T09:30:00,250Z",
        "2026-01-31 09:30:00.250Z",
        "2026-01-31T09:30:60.250Z",
        "2026-02-30T09:30:00.250Z",
        "\u0662026-01-31T09:30:00.250Z",
    ],
)
def test_a_time_is_read_only_as_it_is_written(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read(text)
