"""A forged or altered request is never accepted: 20,000 of them, of every kind, and a second opinion on some.

``make mutations`` tries a million.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Final

import pytest

from taskqueue.errors import SignatureError
from tests.deliveries import KEYRING, check, signed, with_value
from tests.mutations import MUTATORS, WireRequest, meaning, mutations
from tests.unit.oracle import oracle_accepts

MUTATIONS: Final = int(os.environ.get("MUTATIONS", "20000"))  # noqa: TID251  the tests' own switch
REQUESTS: Final = {
    "user": signed(headers=(("Content-Type", "text/plain"), ("Cookie", "a=1; b=2"), ("Authorization", "Basic dTpw"))),
    "anonymous": signed("GET", "/", headers=(("Accept", "*/*"),), body=b"", user_id=None),
}


@pytest.fixture(params=REQUESTS)
def request_signed(request: pytest.FixtureRequest) -> WireRequest:
    """Each delivery in turn."""
    return REQUESTS[request.param]


@pytest.mark.timeout(60 + MUTATIONS / 1000)
def test_no_altered_request_is_accepted(request_signed: WireRequest) -> None:
    assert check(request_signed).delivery == 7
    reasons: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    each = MUTATIONS // len(REQUESTS)
    for what, altered in islice(mutations(request_signed, random.Random(20_000)), each):
        try:
            proof = check(altered)
        except SignatureError as error:
            reasons[error.reason] += 1
            kinds.update(what.split(" + "))
        else:
            pytest.fail(f"{what}: accepted as {proof}: {altered}")
    assert sum(reasons.values()) == each
    assert set(reasons) == {"signature", "key"}  # a clock is looked at only when the rest is proved
    assert {mutator.__name__ for mutator in MUTATORS} == set(kinds)
    assert min(kinds.values()) > 100, kinds


def test_what_http_holds_equal_is_still_accepted(request_signed: WireRequest) -> None:
    """The refusals above come from what was altered, not from any difference at all."""
    respelled = tuple((name.upper(), f"\t{value} ") for name, value in reversed(request_signed.headers))
    equal = WireRequest(request_signed.method, request_signed.target, respelled, request_signed.body)
    assert meaning(equal) == meaning(request_signed)
    proof = check(with_value(equal, "HOST", str.upper))
    assert proof == check(request_signed)


def test_the_generator_repeats_itself_from_its_seed() -> None:
    def first(seed: int) -> Iterator[WireRequest]:
        return (mutation.request for mutation in islice(mutations(signed(), random.Random(seed)), 200))

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
