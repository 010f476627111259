"""A forged or altered request is never accepted: 20,000 of them, of every kind, and a second opinion on some."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest

from taskqueue.errors import SignatureError
from taskqueue.keys import Keyring
from taskqueue.signature import Proof, delivery_headers, sign, verify
from tests.mutations import MUTATORS, WireRequest, meaning, mutations
from tests.unit.oracle import oracle_accepts

KEYRING = Keyring(["a secret of the application, 0123456789"])
NOW = int(time.time())  # the library that gives the second opinion asks the clock

REQUESTS = {
    "user": ("POST", "/reports/build?year=2026&q=%C3%A9", "alice", b"a=1&b=2", True),
    "anonymous": ("GET", "/", None, b"", False),
}


def signed(kind: str) -> WireRequest:
    """Return one of the deliveries as taskqueue-server would send it."""
    method, target, user_id, body, with_credentials = REQUESTS[kind]
    headers = [("Host", "app.example:8000"), ("User-Agent", "taskqueue/1"), ("Accept", "*/*")]
    if with_credentials:
        headers += [("Content-Type", "text/plain"), ("Cookie", "a=1; b=2"), ("Authorization", "Basic dTpw")]
    headers += delivery_headers(
        task_id="0b6f6f0e-8f4f-4e55-9c5e-6d3c1f0a7b21",
        queue="default",
        user_id=user_id,
        attempt=1,
        delivery=3,
        max_attempts=11,
        enqueued_at=NOW * 1000,
        deadline=NOW * 1000 + 600_000,
    )
    headers += sign(
        KEYRING.current,
        method=method,
        authority="app.example:8000",
        target=target,
        headers=headers,
        body=body,
        created=NOW,
        nonce="n0nce-n0nce-n0nce",
    )
    return WireRequest(method, target, tuple(headers), body)


def check(request: WireRequest) -> Proof:
    """Verify a request as a door would."""
    return verify(
        KEYRING,
        method=request.method,
        authority=request.authority,
        targets=[request.target],
        headers=request.headers,
        body=request.body,
        now=NOW + 1.5,
    )


@pytest.fixture(params=REQUESTS)
def request_signed(request: pytest.FixtureRequest) -> WireRequest:
    """Each delivery in turn."""
    return signed(request.param)


def test_no_altered_request_is_accepted(request_signed: WireRequest) -> None:
    assert check(request_signed).delivery == 3
    reasons: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for what, altered in islice(mutations(request_signed, random.Random(20_000)), 10_000):
        try:
            proof = check(altered)
        except SignatureError as error:
            reasons[error.reason] += 1
            kinds.update(what.split(" + "))
        else:
            pytest.fail(f"{what}: accepted as {proof}: {altered}")
    assert sum(reasons.values()) == 10_000
    assert set(reasons) == {"signature", "key"}  # a clock is looked at only when the rest is proved
    assert {mutator.__name__ for mutator in MUTATORS} == set(kinds)
    assert min(kinds.values()) > 100, kinds


def test_what_http_holds_equal_is_still_accepted(request_signed: WireRequest) -> None:
    """The refusals above come from what was altered, not from any difference at all."""
    respelled = tuple((name.upper(), f"\t{value} ") for name, value in reversed(request_signed.headers))
    equal = WireRequest(request_signed.method, request_signed.target, respelled, request_signed.body)
    assert meaning(equal) == meaning(request_signed)
    proof = verify(
        KEYRING,
        method=equal.method,
        authority="APP.example:8000",
        targets=[equal.target],
        headers=equal.headers,
        body=equal.body,
        now=NOW,
    )
    assert proof == check(request_signed)


def test_the_generator_repeats_itself_from_its_seed() -> None:
    def first(seed: int) -> Iterator[WireRequest]:
        return (mutation.request for mutation in islice(mutations(signed("user"), random.Random(seed)), 200))

    assert list(first(1)) == list(first(1))
    assert list(first(1)) != list(first(2))


def test_a_library_refuses_the_same(request_signed: WireRequest) -> None:
    """Where a signed component's value was altered, the RFC alone refuses, so a library must agree."""
    assert oracle_accepts(KEYRING, request_signed)
    plain = {"method_changed", "body_edited", "value_edited", "values_exchanged", "life_moved", "signature_forged"}
    of_plain_kinds = (
        altered for what, altered in mutations(request_signed, random.Random(1)) if plain.issuperset(what.split(" + "))
    )
    disagreed = [altered for altered in islice(of_plain_kinds, 300) if oracle_accepts(KEYRING, altered)]
    assert disagreed == []
