"""What a verifier refuses, and which of the reasons it gives."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from taskqueue import signature
from taskqueue.components import base_of
from taskqueue.errors import SignatureError
from taskqueue.keys import Keyring, mac_sha256
from taskqueue.signature import signature_base
from tests.deliveries import (
    CREATED,
    HOST,
    KEYRING,
    NONCE,
    OTHER,
    TASK,
    check,
    forged_with,
    refusal,
    signed,
    with_header,
    with_value,
    without,
)
from tests.mutations import WireRequest

# ---- refusals: key, clock


def test_rotation_of_secrets() -> None:
    old, new = "the old secret, 0123456789 0123456789", "the new secret, 9876543210 9876543210"
    before, during, after = Keyring([old]), Keyring([new, old]), Keyring([new])
    by_old, by_new = signed(keys=before.current), signed(keys=during.current)
    assert check(by_old, keyring=before).key_id == check(by_old, keyring=during).key_id == before.current.key_id
    assert check(by_new, keyring=during).key_id == check(by_new, keyring=after).key_id == after.current.key_id
    assert refusal(by_old, keyring=after).reason == "key"
    assert refusal(by_new, keyring=before).reason == "key"
    assert before.current.key_id in str(refusal(by_old, keyring=after))


def test_the_id_of_a_key_is_no_key() -> None:
    impostor = replace(OTHER.current, key_id=KEYRING.current.key_id)
    assert refusal(signed(keys=impostor)).reason == "signature"


def test_the_key_that_stands_for_an_unknown_one_opens_nothing() -> None:
    request = signed(keys=replace(OTHER.current, sign=signature._NO_KEY))
    assert refusal(request).reason == "key"


def test_an_unknown_key_costs_as_much_as_a_wrong_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    macs: list[bytes] = []

    def counted(key: bytes, base: bytes) -> bytes:
        macs.append(base)
        return mac_sha256(key, base)

    targets = ["/app/reports/build?year=2026", "/reports/build?year=2026"]
    unknown, wrong = signed(keys=OTHER.current), with_value(signed(), "Signature", lambda value: value.swapcase())
    monkeypatch.setattr(signature, "mac_sha256", counted)
    assert refusal(unknown, targets=targets).reason == "key"
    assert len(macs) == 2
    assert refusal(wrong, targets=targets).reason == "signature"
    assert len(macs) == 4


@pytest.mark.parametrize("age", [-30, -29.5, 0, 1, 59.9, 60])
def test_clocks_may_differ_a_little(age: float) -> None:
    assert check(signed(), now=CREATED + age).task_id == TASK


@pytest.mark.parametrize("age", [-3600, -30.1, 60.1, 61, 3600])
def test_clocks_that_differ_more(age: float) -> None:
    error = refusal(signed(), now=CREATED + age)
    assert error.reason == "skew"
    assert f"{age:.0f} s old" in str(error)
    assert "synchronise" in str(error)


def test_the_clock_is_looked_at_only_when_the_rest_is_proved() -> None:
    """A stranger learns nothing of the clock, and a wrong secret is not reported as a wrong clock."""
    late = CREATED + 3600
    assert refusal(signed(keys=OTHER.current), now=late).reason == "key"
    assert refusal(replace(signed(), method="GET"), now=late).reason == "signature"


def test_a_body_is_compared_when_all_else_is_proved() -> None:
    """So a door need not read it before."""
    forged = replace(signed(), body=b"other")
    assert refusal(forged).reason == "signature"
    assert refusal(forged, now=CREATED + 3600).reason == "skew"
    assert refusal(replace(forged, method="GET")).args[0].startswith("the signature does not match")


@pytest.mark.parametrize("life", [0, 59, 61, 86_400])
def test_a_signature_lives_exactly_a_minute(life: int) -> None:
    request = signed()
    assert check(forged_with(request, lambda value: value)).task_id == TASK  # the helper can sign
    longer = forged_with(request, lambda value: value.replace(f"={CREATED + 60}", f"={CREATED + life}"))
    assert refusal(longer).reason == "signature"


# ---- refusals: headers


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda value: value.replace("tq=", "sig1="), "Signature-Input"),
        (lambda value: value.replace("hmac-sha256", "ed25519"), "Signature-Input"),
        (lambda value: value.replace('alg="hmac-sha256";', ""), "Signature-Input"),
        (lambda value: value.replace('tag="taskqueue"', 'tag="other"'), "Signature-Input"),
        (lambda value: value.replace(NONCE, "short"), "Signature-Input"),
        (lambda value: value.replace(KEYRING.current.key_id, "default"), "Signature-Input"),
        (lambda value: value.replace(' "cookie"', ""), "Signature-Input"),
        (lambda value: value.replace('"@path" "@query"', '"@query" "@path"'), "Signature-Input"),
        (lambda value: value.replace('"x-task-user-id" ', ""), "Signature-Input"),
        (lambda value: value + ";extra=1", "Signature-Input"),
    ],
)
def test_nothing_is_negotiated(change: Callable[[str], str], expected: str) -> None:
    """Not even with somebody who holds the key: one list of components, one set of parameters."""
    error = refusal(forged_with(signed(), change))
    assert error.reason == "signature"
    assert expected in str(error)


@pytest.mark.parametrize(
    ("request_altered", "expected"),
    [
        (without(signed(), "X-Task-Id"), "x-task-id"),
        (without(signed(), "X-Task-Deadline"), "x-task-deadline"),
        (without(signed(), "Idempotency-Key"), "idempotency-key"),
        (without(signed(), "Content-Digest"), "content-digest"),
        (without(signed(), "Signature"), "Signature"),
        (without(signed(), "Signature-Input"), "Signature-Input"),
        (without(signed(), "X-Task-User-Id"), "Signature-Input"),
        (without(signed(), "Cookie"), "Signature-Input"),
        (with_header(signed(), "X-Task-Id", TASK), "'x-task-id' is sent more than once"),
        (with_header(signed(), "x-task-id", TASK), "'x-task-id' is sent more than once"),
        (with_header(signed(), "Cookie", "c=3"), "'cookie' is sent more than once"),
        (with_header(signed(), "host", HOST), "'host' is sent more than once"),
        (with_header(signed(), "signature", "x=:AA==:"), "'signature' is sent more than once"),
        (with_header(signed(), "Signature-Input", "x=()"), "'signature-input' is sent more than once"),
        (with_header(signed(), "Content-Digest", "sha-256=::"), "'content-digest' is sent more than once"),
        (with_header(signed(), "x_task_id", TASK), "'x_task_id': only letters, digits and -"),
        (with_header(signed(), "X-Task_User-Id", "root"), "'X-Task_User-Id': only letters, digits and -"),
        (with_header(signed(user_id=None), "X_TASK_USER_ID", "root"), "only letters, digits and -"),
        (with_header(signed(), "content_type", "text/html"), "'content_type': only letters, digits and -"),
        (with_header(signed(), "X-Task-", "1"), "'X-Task-': only letters, digits and -"),
        (with_header(signed(), "X-Task-A B", "1"), "only letters, digits and -"),
        (with_header(signed(user_id=None), "X-Tas\N{KELVIN SIGN}-User-Id", "root"), "not ASCII"),
        (with_header(signed(), "X-Task-Role", "admin"), "Signature-Input"),
        (with_header(signed(), "Authorization", "Basic x"), "Signature-Input"),
        (with_value(signed(), "Content-Digest", lambda value: f"{value}, {value}"), "does not match"),
        (with_value(signed(), "Signature", lambda value: f"{value}, {value}"), "does not match"),
        (with_value(signed(), "Signature", lambda _: "tq=:\udcff:"), "does not match"),
        (with_value(signed(), "Signature", lambda _: "tq=:é:"), "does not match"),
        (with_value(signed(), "Signature", lambda _: ""), "Signature"),
        (with_value(signed(), "Signature", lambda value: value + "x" * 8192), "longer than 8192"),
        (with_value(signed(), "Signature-Input", lambda value: "a=();b, " * 1025 + value), "longer than 8192"),
        (replace(signed(), body=b"year=2027"), "Content-Digest does not match the body of 9 bytes"),
        (replace(signed(), body=b""), "Content-Digest does not match the body of 0 bytes"),
        (replace(signed(), method="PUT"), "does not match"),
        (replace(signed(), method="post"), "does not match"),
        (replace(signed(), target="/reports/build?year=2027"), "does not match"),
        (with_value(signed(), "Host", lambda _: "evil.example"), "does not match"),
        (without(signed(), "Host"), "does not match"),
        (with_value(signed(), "Cookie", lambda value: value + "\n"), "line break"),
        (with_value(signed(), "Cookie", lambda _: "\ud800"), "lone surrogate"),
    ],
)
def test_what_is_refused(request_altered: WireRequest, expected: str) -> None:
    error = refusal(request_altered)
    assert error.reason == "signature"
    assert expected in str(error)


def test_a_line_break_cannot_pass_for_another_component() -> None:
    """One value with a line break would be the base of two components: refused on both sides."""
    params = '("a" "b")'
    assert signature_base(base_of(("a", "b")), ("1", "2"), params).count(b"\n") == 2
    with pytest.raises(SignatureError, match="line break"):
        signature_base(base_of(("a",)), ('1\n"b": 2',), params)
    with pytest.raises(SignatureError, match="line break"):
        signed(headers=(("Cookie", 'a\n"authorization": root'),))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Task-Attempt", "two"),
        ("X-Task-Delivery", ""),
        ("X-Task-Enqueued-At", "1767225600001"),
        ("X-Task-Deadline", "2026-01-01T00:10:00.999"),
        ("X-Task-Deadline", "2026-13-01T00:10:00.999Z"),
        ("X-Task-User-Id", ""),
        ("X-Task-User-Id", "50%"),
        ("X-Task-User-Id", "%c3%a9"),
        ("X-Task-User-Id", "%FF"),
        ("X-Task-User-Id", "%61lice"),
        ("X-Task-User-Id", "é"),
        ("X-Task-User-Id", "\udcff"),
    ],
)
def test_a_proved_value_that_cannot_be_read(name: str, value: str) -> None:
    error = refusal(forged_with(with_value(signed(), name, lambda _: value), lambda params: params))
    assert error.reason == "signature"
    assert "cannot read" in str(error)


def test_no_message_holds_a_value() -> None:
    canary = "c4n4ry"
    request = signed(headers=(("Cookie", canary), ("Authorization", canary)), user_id=canary, body=canary.encode())
    for altered in (
        replace(request, method="GET"),
        replace(request, body=b""),
        with_header(request, "Cookie", canary),
        with_header(request, "x_task_user_id", canary),
        with_header(request, "Content-Type", canary),
        with_value(request, "Cookie", lambda value: f"{value}\n"),
        with_value(request, "Signature-Input", lambda value: f"{value};{canary}"),
        forged_with(with_value(request, "X-Task-Attempt", lambda _: canary), lambda params: params),
    ):
        assert canary not in str(refusal(altered))
    assert canary not in str(refusal(request, now=0))
