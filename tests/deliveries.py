"""Signed deliveries for tests: made as taskqueue-server makes them, changed, and verified as a door does."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest

from taskqueue.components import HeaderPairs, base_of
from taskqueue.errors import SignatureError
from taskqueue.keys import Keyring, SubKeys, mac_sha256
from taskqueue.signature import (
    Proof,
    check_body,
    delivery_headers,
    sign,
    signature_base,
    verify,
)
from tests.mutations import WireRequest

KEYRING: Final = Keyring(["a secret of the application, 0123456789"])
OTHER: Final = Keyring(["another secret, which is not known here"])
CREATED: Final = 1_767_225_600
NONCE: Final = "n0nce-n0nce-n0nce_42AA"
HOST: Final = "app.example:8000"
TASK: Final = "0b6f6f0e-8f4f-4e55-9c5e-6d3c1f0a7b21"


def task_headers(user_id: str | None = "alice") -> list[tuple[str, str]]:
    """Return the headers of one delivery."""
    return delivery_headers(
        task_id=TASK,
        queue="default",
        user_id=user_id,
        attempt=2,
        delivery=7,
        max_attempts=11,
        enqueued_at=1_767_225_600_001,
        deadline=1_767_226_200_999,
    )


def signed(
    method: str = "POST",
    target: str = "/reports/build?year=2026",
    *,
    headers: HeaderPairs = (("Content-Type", "text/plain"), ("Cookie", "a=1; b=2"), ("Accept", "*/*")),
    body: bytes = b"year=2026",
    user_id: str | None = "alice",
    keys: SubKeys = KEYRING.current,
    created: int = CREATED,
    authority: str = HOST,
) -> WireRequest:
    """Return a delivery as taskqueue-server would send it."""
    sent = [("Host", authority), *headers, *task_headers(user_id)]
    added = sign(
        keys, method=method, authority=authority, target=target, headers=sent, body=body, created=created, nonce=NONCE
    )
    return WireRequest(method, target, (*sent, *added), body)


def check(
    request: WireRequest,
    *,
    keyring: Keyring = KEYRING,
    targets: Sequence[str] | None = None,
    now: float = CREATED + 1.5,
) -> Proof:
    """Verify a request as a door would."""
    proof = verify(
        keyring,
        method=request.method,
        authority=request.authority,
        targets=[request.target] if targets is None else targets,
        headers=request.headers,
        now=now,
    )
    check_body(proof, request.body)
    return proof


def refusal(request: WireRequest, **options: Any) -> SignatureError:
    """Return the error with which this request is refused."""
    with pytest.raises(SignatureError) as caught:
        check(request, **options)
    return caught.value


def with_header(request: WireRequest, name: str, value: str) -> WireRequest:
    """Return the request with this header besides."""
    return replace(request, headers=(*request.headers, (name, value)))


def with_value(request: WireRequest, name: str, change: Callable[[str], str]) -> WireRequest:
    """Return the request with the value of one header changed."""
    assert sum(sent == name for sent, _ in request.headers) == 1
    return replace(
        request, headers=tuple((sent, change(value) if sent == name else value) for sent, value in request.headers)
    )


def without(request: WireRequest, name: str) -> WireRequest:
    """Return the request without one header."""
    assert name in dict(request.headers)
    return replace(request, headers=tuple(pair for pair in request.headers if pair[0] != name))


def forged_with(request: WireRequest, change: Callable[[str], str], key: bytes = KEYRING.current.sign) -> WireRequest:
    """Return the request with other signature parameters, properly signed: what only a holder of the key can make."""
    request = with_value(request, "Signature-Input", change)
    fields = {name.lower(): value for name, value in request.headers}
    params = fields["signature-input"].partition("=")[2]
    path, _, query = request.target.partition("?")
    fields |= {"@method": request.method, "@authority": HOST, "@path": path, "@query": f"?{query}"}
    names = tuple(name.strip('"') for name in params[1 : params.index(")")].split(" "))
    mac = mac_sha256(key, signature_base(base_of(names), [fields[name] for name in names], params))
    return with_value(request, "Signature", lambda _: f"tq=:{b64encode(mac).decode()}:")
