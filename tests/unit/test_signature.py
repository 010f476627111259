"""One delivery signed: the profile of RFC 9421, what a proof tells, and what is not signed in the first place."""

from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqueue.components import HeaderPairs, base_of
from taskqueue.errors import SignatureError
from taskqueue.keys import mac_sha256
from taskqueue.signature import Proof, content_digest, sign, signature_base
from tests.deliveries import (
    CREATED,
    HOST,
    KEYRING,
    NONCE,
    TASK,
    check,
    refusal,
    signed,
    task_headers,
    with_value,
    without,
)
from tests.mutations import WireRequest
from tests.unit.oracle import oracle

# ---- the standard


def test_the_example_of_the_rfc() -> None:
    """RFC 9421, appendix B.2.5, and its key of B.1.5."""
    key = b64decode("uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==")
    params = '("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
    base = signature_base(
        base_of(("date", "@authority", "content-type")),
        ("Tue, 20 Apr 2021 02:07:55 GMT", "example.com", "application/json"),
        params,
    )
    assert b64encode(mac_sha256(key, base)) == b"pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="
    assert base.splitlines() == [
        b'"date": Tue, 20 Apr 2021 02:07:55 GMT',
        b'"@authority": example.com',
        b'"content-type": application/json',
        b'"@signature-params": ' + params.encode(),
    ]


def test_a_delivery_on_the_wire() -> None:
    request = signed()
    assert [name for name, _ in request.headers[-3:]] == ["Content-Digest", "Signature-Input", "Signature"]
    assert dict(request.headers)["Signature-Input"] == (
        'tq=("@method" "@authority" "@path" "@query" "content-digest" "x-task-attempt" "x-task-deadline"'
        ' "x-task-delivery" "x-task-enqueued-at" "x-task-id" "x-task-max-attempts" "x-task-queue" "x-task-user-id"'
        ' "idempotency-key" "content-type" "cookie")'
        f';created={CREATED};expires={CREATED + 60};nonce="{NONCE}";keyid="{KEYRING.current.key_id}"'
        ';alg="hmac-sha256";tag="taskqueue"'
    )
    assert task_headers() == [
        ("X-Task-Id", TASK),
        ("X-Task-User-Id", "alice"),
        ("X-Task-Queue", "default"),
        ("X-Task-Attempt", "2"),
        ("X-Task-Delivery", "7"),
        ("X-Task-Max-Attempts", "11"),
        ("X-Task-Enqueued-At", "2026-01-01T00:00:00.001Z"),
        ("X-Task-Deadline", "2026-01-01T00:10:00.999Z"),
        ("Idempotency-Key", TASK),
    ]


def test_the_digest_of_a_body() -> None:
    """RFC 9530, appendix D: the empty body has a digest too."""
    assert content_digest(b"") == "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"


@pytest.mark.parametrize(
    "request_signed",
    [
        signed(),
        signed("GET", "/", headers=(), body=b"", user_id=None),
        signed("DELETE", "/a%2Fb/%C3%A9?x=%3F&y=?", headers=(("Authorization", "Bearer x.y"),), body=b""),
        signed("PUT", "/~x;y=1/@z", headers=(("Content-Type", "image/png"),), body=bytes(range(256)) * 40),
        signed("POST", "/", user_id="žofie %, admin"),
        signed("PATCH", "/?&=", authority="[::1]:8000"),
        signed("HEAD", "//double/slash", headers=(), body=b"", authority="app.example"),
    ],
    ids=lambda request: f"{request.method} {request.target}",
)
def test_a_library_reads_it_as_we_do(request_signed: WireRequest) -> None:
    result = oracle(KEYRING, request_signed)
    fields = {name.lower(): value for name, value in request_signed.headers}
    task = sorted(name for name in fields if name.startswith("x-task-"))
    sent = [name for name in ("content-type", "cookie", "authorization") if name in fields]
    expected = ["@method", "@authority", "@path", "@query", "content-digest", *task, "idempotency-key", *sent]
    assert [name.strip('"') for name in result.covered_components] == [*expected, "@signature-params"]
    assert result.body == request_signed.body
    assert result.nonce == check(request_signed).nonce == NONCE


# ---- what a proof tells


def test_what_is_proved() -> None:
    assert check(signed()) == Proof(
        task_id=TASK,
        queue="default",
        user_id="alice",
        attempt=2,
        delivery=7,
        max_attempts=11,
        enqueued_at=1_767_225_600_001,
        deadline=1_767_226_200_999,
        key_id=KEYRING.current.key_id,
        nonce=NONCE,
        target="/reports/build?year=2026",
        content_digest=content_digest(b"year=2026"),
    )
    assert check(signed(user_id=None)).user_id is None


VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)
VALUES = st.binary().map(lambda raw: raw.replace(b"\n", b"").decode("utf-8", "surrogateescape"))
USERS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
    path=VISIBLE.map(lambda text: "/" + text.replace("?", "")),
    query=st.just("") | VISIBLE.map(lambda text: f"?{text}"),
    headers=st.dictionaries(st.sampled_from(["content-type", "Cookie", "AUTHORIZATION", "X-Other"]), VALUES),
    body=st.binary(),
    user_id=USERS,
)
def test_whatever_is_signed_is_accepted(
    method: str, path: str, query: str, headers: dict[str, str], body: bytes, user_id: str | None
) -> None:
    request = signed(method, path + query, headers=tuple(headers.items()), body=body, user_id=user_id)
    proof = check(request)
    assert (proof.target, proof.user_id) == (path + query, user_id)


def test_a_task_header_of_a_newer_release_is_covered_too() -> None:
    sent = [("Host", HOST), *task_headers(), ("X-Task-Label", "nightly")]
    added = sign(
        KEYRING.current, method="GET", authority=HOST, target="/", headers=sent, body=b"", created=CREATED, nonce=NONCE
    )
    request = WireRequest("GET", "/", (*sent, *added), b"")
    assert '"x-task-label"' in added[1][1]
    assert check(request).task_id == TASK
    assert refusal(without(request, "X-Task-Label")).reason == "signature"
    assert refusal(with_value(request, "X-Task-Label", str.upper)).reason == "signature"


def test_the_target_is_one_of_the_candidates() -> None:
    request = signed(target="/build?x=1")
    assert check(request, targets=["/app/build?x=1", "/build?x=1"]).target == "/build?x=1"
    assert check(request, targets=["/build?x=1", "/app/build?x=1"]).target == "/build?x=1"
    for others in ([], ["/app/build?x=1"], ["/build"], ["/build?x=1&"], ["/BUILD?x=1"]):
        assert refusal(request, targets=others).reason == "signature"


def test_a_question_mark_without_a_query_is_another_target() -> None:
    request = signed(target="/x")
    assert refusal(request, targets=["/x?"]).reason == "signature"
    assert check(signed(target="/x??"), targets=["/x", "/x?", "/x??"]).target == "/x??"


# ---- what is not signed in the first place


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([*task_headers(), ("Cookie", "a=1"), ("cookie", "b=2")], "'cookie' is sent more than once"),
        ([*task_headers(), ("X_Task_Id", TASK)], "only letters"),
        ([*task_headers(), ("Content-Digest", "sha-256=::")], "none may be given"),
        ([*task_headers(), ("signature", "x=:AA==:")], "none may be given"),
        (task_headers()[1:], "missing in a delivery: x-task-id"),
        ([], "missing in a delivery: idempotency-key, x-task-attempt"),
    ],
)
def test_what_no_door_would_accept_is_not_signed(headers: HeaderPairs, expected: str) -> None:
    with pytest.raises(SignatureError, match=expected) as caught:
        sign(
            KEYRING.current,
            method="GET",
            authority=HOST,
            target="/",
            headers=headers,
            body=b"",
            created=CREATED,
            nonce=NONCE,
        )
    assert caught.value.reason == "signature"


@pytest.mark.parametrize("target", ["", "x", "?x=1", "/x?", "http://app.example/", "*"])
def test_a_target_that_is_not_canonical_is_not_signed(target: str) -> None:
    with pytest.raises(SignatureError, match="target"):
        signed(target=target)


@pytest.mark.parametrize("nonce", ["", "short", "fifteen-letters", 'quoted"quoted"quoted', "n" * 65, "n" * 16 + "\n"])
def test_a_nonce_that_is_none(nonce: str) -> None:
    with pytest.raises(ValueError, match="nonce: 16 to 64"):
        sign(
            KEYRING.current,
            method="GET",
            authority=HOST,
            target="/",
            headers=task_headers(),
            body=b"",
            created=CREATED,
            nonce=nonce,
        )
