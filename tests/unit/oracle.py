"""A second opinion on signatures: an independent implementation of RFC 9421 and RFC 9530."""

# The library marks what it exports in mypy's way only.
# pyright: reportPrivateImportUsage=false

from dataclasses import dataclass
from datetime import timedelta

from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    VerifyResult,
    algorithms,
)
from multidict import CIMultiDict

from taskqueue.keys import Keyring
from tests.mutations import WireRequest


@dataclass
class _Message:
    method: str
    url: str
    headers: CIMultiDict[str]


class _Keys(HTTPSignatureKeyResolver):
    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def resolve_public_key(self, key_id: str) -> bytes | None:
        keys = self._keyring.find(key_id)
        return keys.sign if keys else None

    def resolve_private_key(self, key_id: str) -> bytes | None:
        return self.resolve_public_key(key_id)


def oracle(keyring: Keyring, request: WireRequest) -> VerifyResult:
    """Return what the library says of a request; raises its exceptions."""
    # A port that is not the scheme's own: the profile keeps every port, the RFC drops the default one.
    message = _Message(request.method, f"http://{request.authority}{request.target}", CIMultiDict(request.headers))
    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.HMAC_SHA256, key_resolver=_Keys(keyring))
    verifier.max_clock_skew = timedelta(days=36_500)  # it asks the real clock, and tests have their own
    (result,) = verifier.verify(message, expect_tag="taskqueue", expect_label="tq", body=request.body)
    return result


def oracle_accepts(keyring: Keyring, request: WireRequest) -> bool:
    """Return whether the library finds the signature valid."""
    try:
        oracle(keyring, request)
    except (InvalidSignature, HTTPMessageSignaturesException):
        return False
    return True
