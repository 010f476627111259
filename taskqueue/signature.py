"""One delivery, signed: the application can prove who sent it, and that nothing which matters was changed on the way.

HTTP Message Signatures (RFC 9421) with hmac-sha256, as a fixed profile. A delivery has exactly one signature, and from
the headers that are present follows exactly one list of components, in one order, with one set of parameters; the
verifier compares with that and negotiates nothing. Covered are method, authority, path, query and body (by
Content-Digest, RFC 9530), every X-Task-* header, Idempotency-Key, and Content-Type, Cookie and Authorization when
sent. Other headers are not: between consumer and application belong a loopback, a unix socket or TLS.

Stricter than the RFC: a covered header may be sent once only, in one spelling (no ``x_task_id``). Different from it:
the authority keeps its port as sent, because behind a proxy the verifier cannot know which port is the default one.

Header values are text as decoded by UTF-8 with surrogateescape, so that every byte on the wire is one text.
"""

import hashlib
import hmac
import re
from binascii import b2a_base64
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from .components import DIGEST, PREFIX, HeaderPairs, layout, refused
from .errors import InvalidTask, SignatureError
from .fast_init import by_place, fast_init
from .keys import Keyring, SubKeys, mac_sha256
from .stamp import read, stamp

LABEL: Final = "tq"
_LABEL: Final = LABEL.encode()
TAG: Final = "taskqueue"
MANUAL_TAG: Final = "taskqueue-manual"
"""Of a delivery that a person makes by hand, past the queue: a door must have been told to accept those."""
LIFETIME: Final = 60
SKEW: Final = 30
MAX_SIGNATURE_CHARS: Final = 8 * 1024

_NONCE: Final = re.compile(r"[A-Za-z0-9_-]{16,64}")
# What stands in Signature-Input after the components: created, expires, nonce, key id and tag.
_PARAMETERS: Final = re.compile(
    r";created=([1-9][0-9]{0,11});expires=([1-9][0-9]{0,11})"
    rf';nonce="({_NONCE.pattern})";keyid="([0-9a-f]{{8}})";alg="hmac-sha256";tag="({TAG}|{MANUAL_TAG})"'
)
_OUR_TAG: Final = re.compile(rf'; *tag="(?:{TAG}|{MANUAL_TAG})"')
# A comma is encoded: where a server joins two headers of one name with it, what comes out was never sent.
_PLAIN: Final = re.compile(r"[!-$&-+\--~]+")
_VISIBLE: Final = "".join(map(chr, range(0x21, 0x7F))).replace("%", "").replace(",", "")
_UNSIGNED: Final = frozenset((DIGEST,))
# Takes the place of a key that is not known, so that such a request costs as much as any other forged one.
_NO_KEY: Final = bytes(32)


@fast_init
@dataclass(frozen=True, slots=True)
class Proof:
    """What a verified delivery says of itself; times in milliseconds since 1970.

    ``target`` is the candidate that was signed; ``user_id`` is decoded, None for an anonymous task; ``content_digest``
    is what its body must have, None for a delivery in process, whose body nobody could change. ``parent`` is the id of
    the task that has added this one, None if none has. ``manual``: it was made by hand.
    """

    task_id: str
    queue: str
    user_id: str | None
    attempt: int
    delivery: int
    max_attempts: int
    enqueued_at: int
    deadline: int
    key_id: str
    nonce: str
    target: str
    content_digest: str | None
    manual: bool = False
    parent: str | None = None


_proof_of: Final = by_place(Proof)


def sign(
    keys: SubKeys,
    *,
    method: str,
    authority: str,
    target: str,
    headers: HeaderPairs,
    body: bytes,
    created: int,
    nonce: str,
    manual: bool = False,
) -> list[tuple[str, str]]:
    """Return the headers to add to a delivery: Content-Digest, Signature-Input and Signature.

    ``headers`` are all others that will be sent; ``target`` is path and query exactly as on the request line;
    ``created`` is in whole seconds since 1970; ``nonce`` is 16 to 64 characters of base64url, fresh for each delivery;
    ``manual``: it is made by hand. Raises SignatureError for what no door would accept: a covered header twice, missing
    or in another spelling, a line break in a value, a target that is not canonical.
    """
    shape = layout(headers)
    if shape.own:
        raise refused("headers: Content-Digest and Signature headers are made here; none may be given")
    if not _NONCE.fullmatch(nonce):
        raise ValueError("nonce: 16 to 64 characters of A-Z a-z 0-9 - _ are needed")
    if not _is_canonical(target):
        raise refused("target: it must begin with / and have no empty query")
    if shape.missing != _UNSIGNED:
        _require_none(shape.missing - _UNSIGNED)
    digest = content_digest(body)
    params = (
        f'{shape.listed};created={created};expires={created + LIFETIME};nonce="{nonce}"'
        f';keyid="{keys.key_id}";alg="hmac-sha256";tag="{MANUAL_TAG if manual else TAG}"'
    )
    values = (*_derived(method, authority, target), digest, *shape.values(headers))
    signature = _signature(keys.sign, signature_base(shape.base, values, params)).decode()
    return [("Content-Digest", digest), ("Signature-Input", f"{LABEL}={params}"), ("Signature", signature)]


def verify(
    keyring: Keyring,
    *,
    method: str,
    authority: str,
    targets: Sequence[str],
    headers: HeaderPairs,
    now: float,
    allow_manual: bool = False,
) -> Proof:
    """Return what a delivery proves about itself before its body is read, or raise SignatureError.

    Its body is then still to be compared, see ``check_body``. ``targets`` are the candidates for path and query (as on
    the request line; without the mount point), tried in order; ``headers`` are all that were received; ``now`` is in
    seconds since 1970, when the request began to arrive; ``allow_manual``: take one that was made by hand. Reasons:
    ``signature`` (missing, malformed, not matching, or a header that may not be), ``key`` (signed with a secret that is
    not in the keyring), ``skew`` (genuine, but ``created - 30 <= now <= created + 60`` does not hold: 30 s for clocks
    that go ahead; for those behind the lifetime itself leaves room), ``manual`` (genuine, but made by hand).
    """
    shape = layout(headers)
    given_input, given = shape.added(headers, "signature-input"), shape.added(headers, "signature")
    if not given_input or not given:
        raise refused("X-Task-* headers need Signature-Input and Signature: only taskqueue-server sends them")
    if len(given_input) > MAX_SIGNATURE_CHARS or len(given) > MAX_SIGNATURE_CHARS:
        raise refused(f"Signature-Input or Signature is longer than {MAX_SIGNATURE_CHARS} characters")
    _require_none(shape.missing)
    expected = f"{LABEL}={shape.listed}"
    match = _PARAMETERS.fullmatch(given_input, len(expected)) if given_input.startswith(expected) else None
    if match is None:
        raise refused("Signature-Input is not what the headers sent call for; does a proxy add or drop headers?")
    created, expires, nonce, key_id, tag = match.groups()
    keys = keyring.find(key_id)
    secret, raw = keys.sign if keys else _NO_KEY, given.encode("ascii", "backslashreplace")
    values, params = shape.values(headers), given_input[len(LABEL) + 1 :]
    for target in targets:
        base = signature_base(shape.base, (*_derived(method, authority, target), *values), params)
        if hmac.compare_digest(_signature(secret, base), raw) and keys and _is_canonical(target):
            break
    else:
        raise _unproved(None if keys else key_id)
    _check_clock(int(created), int(expires), now)
    manual = tag == MANUAL_TAG
    if manual and not allow_manual:
        raise SignatureError("manual", "a delivery made by hand; only a door with allow_manual=True lets those in")
    return _proof(shape.index, values, key_id, nonce, target, manual=manual)


def check_body(proof: Proof, body: bytes) -> None:
    """Raise SignatureError (``signature``) unless this is the body that was signed."""
    if proof.content_digest is not None and proof.content_digest != content_digest(body):
        raise refused(f"Content-Digest does not match the body of {len(body)} bytes")


def is_claimed(headers: HeaderPairs) -> bool:
    """Return whether a request claims to be a delivery, by any X-Task-* header or a signature with our tag.

    Every spelling counts that some server might read as ``x-task-``. A signature of the application's own does not.
    """
    for name, value in headers:
        if name[:1] in "xXsS":
            folded = name.lower().replace("_", "-")
            if folded.startswith(PREFIX) or (folded == "signature-input" and _OUR_TAG.search(value)):
                return True
    return False


def delivery_headers(
    *,
    task_id: str,
    queue: str,
    user_id: str | None,
    attempt: int,
    delivery: int,
    max_attempts: int,
    enqueued_at: int,
    deadline: int,
    parent: str = "",
) -> list[tuple[str, str]]:
    """Return the headers that tell the application which delivery this is, ready to be signed.

    ``enqueued_at`` and ``deadline`` are milliseconds since 1970, sent as RFC 3339 in UTC with three decimals
    (``2026-01-31T09:30:00.250Z``), which loses nothing up to the year 9999. Of the user id all but visible ASCII, and
    the percent sign and the comma, is percent-encoded as UTF-8. Raises InvalidTask for an empty one, or with a lone
    surrogate. ``parent``: the id of the task that has added this one.
    """
    return [
        ("X-Task-Id", task_id),
        *(() if user_id is None else (("X-Task-User-Id", _encode_user(user_id)),)),
        ("X-Task-Queue", queue),
        ("X-Task-Attempt", str(attempt)),
        ("X-Task-Delivery", str(delivery)),
        ("X-Task-Max-Attempts", str(max_attempts)),
        ("X-Task-Enqueued-At", stamp(enqueued_at)),
        ("X-Task-Deadline", stamp(deadline)),
        *((("X-Task-Parent-Id", parent),) if parent else ()),
        ("Idempotency-Key", task_id),
    ]


def content_digest(body: bytes) -> str:
    """Return the value of Content-Digest for a body (RFC 9530, sha-256)."""
    return f"sha-256=:{b2a_base64(hashlib.sha256(body).digest(), newline=False).decode()}:"


def signature_base(base: Sequence[str], values: Iterable[str], params: str) -> bytes:
    """Return the bytes that are signed (RFC 9421, 2.5): a base (see ``base_of``) with values and serialised parameters.

    Raises SignatureError if a value has a line break, which could pass for another component, or cannot be encoded.
    """
    said = (*values, params)
    pieces = list(base)
    pieces[1::2] = said
    try:
        filled = "".join(pieces).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise refused("a covered value has a lone surrogate") from None
    if "\n" in "".join(said):
        raise refused("a covered value has a line break")
    return filled


def _signature(key: bytes, base: bytes) -> bytes:
    return b"%s=:%s:" % (_LABEL, b2a_base64(mac_sha256(key, base), newline=False))


def _require_none(missing: AbstractSet[str]) -> None:
    if missing:
        raise refused(f"headers missing in a delivery: {', '.join(sorted(missing))}")


def _derived(method: str, authority: str, target: str) -> tuple[str, str, str, str]:
    path, _, query = target.partition("?")
    return method, authority.lower(), path, f"?{query}"


def _is_canonical(target: str) -> bool:
    # RFC 9421 signs "/x" and "/x?" alike, so only one of the two may be a target.
    return target.startswith("/") and target.find("?") != len(target) - 1


def _check_clock(created: int, expires: int, now: float) -> None:
    if expires != created + LIFETIME:
        raise refused(f"the signature must expire {LIFETIME} s after it was created, not {expires - created}")
    if not created - SKEW <= now <= expires:
        raise SignatureError(
            "skew",
            f"the signature is {now - created:.0f} s old, not between -{SKEW} and {LIFETIME}: the clocks of"
            " taskqueue-server and application differ (synchronise them), or the request was held up or captured",
        )


def _proof(
    index: Mapping[str, int], values: Sequence[str], key_id: str, nonce: str, target: str, *, manual: bool
) -> Proof:
    # Only proved values get here; a value that cannot be read comes from a sender of another version.
    user_id, parent = index.get("x-task-user-id"), index.get("x-task-parent-id")
    try:
        return _proof_of(
            values[index["x-task-id"]],
            values[index["x-task-queue"]],
            None if user_id is None else _decode_user(values[user_id]),
            int(values[index["x-task-attempt"]]),
            int(values[index["x-task-delivery"]]),
            int(values[index["x-task-max-attempts"]]),
            read(values[index["x-task-enqueued-at"]]),
            read(values[index["x-task-deadline"]]),
            key_id,
            nonce,
            target,
            values[index[DIGEST]],
            manual,
            None if parent is None else values[parent],
        )
    except ValueError:
        raise refused("an X-Task-* header has a value this release cannot read") from None


def _encode_user(user_id: str) -> str:
    if _PLAIN.fullmatch(user_id):
        return user_id
    if not user_id:
        raise InvalidTask("user_id: it is empty; give None for an anonymous task")
    try:
        return quote(user_id, safe=_VISIBLE)
    except UnicodeEncodeError:
        raise InvalidTask("user_id: a lone surrogate cannot be sent; give text that UTF-8 can encode") from None


def _decode_user(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    user_id = unquote(value, errors="strict")
    if not user_id or quote(user_id, safe=_VISIBLE) != value:
        raise ValueError("empty, or not the one encoding of its text")
    return user_id


def _unproved(unknown_key: str | None) -> SignatureError:
    if unknown_key is not None:
        return SignatureError(
            "key",
            f"signed with key {unknown_key}, which is none of this process's secrets: give application and"
            " taskqueue-server the same TASKQUEUE_SECRET, or append the new one to the list",
        )
    return refused(
        "the signature does not match: method, Host, path, query or a signed header was changed on the way;"
        " a proxy between taskqueue-server and the application must hand them on as they are"
    )
