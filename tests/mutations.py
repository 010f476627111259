"""Altered deliveries: what somebody between consumer and application, or beside them, could make of a signed request.

``mutations`` is endless and repeatable from its generator's seed. Every request it yields differs in meaning from the
one it was given, and could be written on a wire: spellings that HTTP holds equal (the case of names, of methods and of
hosts, spaces around values, the order of fields, a ``?`` without query) do not count as different, and line breaks and
``#`` are left out, for they would make another request, or the same, of it.
"""

import hashlib
import random
import re
import string
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

Pairs: TypeAlias = tuple[tuple[str, str], ...]

SIGNED: Final = ("content-type", "cookie", "authorization", "idempotency-key", "content-digest", "host")
ENVELOPE: Final = ("signature", "signature-input")

_TOKEN: Final = string.ascii_letters + string.digits + "-_.!~+"
_IN_TARGET: Final = string.ascii_letters + string.digits + "-._~%/?=&;,:@"
# Beside visible ASCII and the space: one letter of two bytes, and one byte that is no text.
_IN_VALUE: Final = string.ascii_letters + string.digits + string.punctuation + " é\udcff"


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request as it goes over the wire; ``headers`` include Host, values are UTF-8 with surrogateescape."""

    method: str
    target: str
    headers: Pairs
    body: bytes

    @property
    def authority(self) -> str:
        """The first Host, or nothing."""
        return next((value.strip(" \t") for name, value in self.headers if name.lower() == "host"), "")


class Mutation(NamedTuple):
    """``what`` names the kinds of change that made the request."""

    what: str
    request: WireRequest


Mutator: TypeAlias = Callable[[WireRequest, random.Random], WireRequest]


def mutations(request: WireRequest, rng: random.Random) -> Iterator[Mutation]:
    """Yield, without end, requests that mean something else than this signed one: one to three changes each."""
    original = meaning(request)
    while True:
        chosen = rng.choices(MUTATORS, k=rng.choice((1, 1, 1, 2, 3)))
        altered = request
        for mutator in chosen:
            altered = mutator(altered, rng)
        if meaning(altered) != original:
            yield Mutation(" + ".join(mutator.__name__ for mutator in chosen), altered)


def meaning(request: WireRequest) -> object:
    """Return what a delivery says where it is signed, without what HTTP holds equal; other headers may be anything."""
    path, mark, query = request.target.partition("?")
    fields = [
        (name.lower(), value.strip(" \t").lower() if name.lower() == "host" else value.strip(" \t"))
        for name, value in request.headers
        if _is_signed(name.replace("_", "-")) or name.replace("_", "-").lower() in ENVELOPE
    ]
    return request.method.upper(), path + (mark if query else "") + query, sorted(fields), request.body


# ---- changes of text and of headers


def _flip(text: str, rng: random.Random, alphabet: str) -> str:
    at = rng.randrange(len(text)) if text else 0
    return text[:at] + rng.choice(alphabet) + text[at + 1 :]


def _edit(text: str, rng: random.Random, alphabet: str) -> str:
    at = rng.randrange(len(text)) if text else 0
    return rng.choice(
        (
            _flip(text, rng, alphabet),
            text[:at] + text[at + 1 :],
            text[:at] + rng.choice(alphabet) + text[at:],
            text[:at],
        )
    )


def _is_signed(name: str) -> bool:
    return name.lower().startswith("x-task-") or name.lower() in SIGNED


def _places(request: WireRequest, *names: str) -> list[int]:
    """Return where these headers stand; without names, all that are signed."""
    return [
        at
        for at, (name, _) in enumerate(request.headers)
        if (name.lower() in names if names else _is_signed(name))
    ]  # fmt: skip


def _put(request: WireRequest, at: int, *pairs: tuple[str, str]) -> WireRequest:
    """Return the request with these headers in the place of one."""
    return replace(request, headers=(*request.headers[:at], *pairs, *request.headers[at + 1 :]))


def _change(
    request: WireRequest, rng: random.Random, places: Sequence[int], change: Callable[[str], str]
) -> WireRequest:
    if not places:
        return request
    at = rng.choice(places)
    name, value = request.headers[at]
    return _put(request, at, (name, change(value)))


def _insert(request: WireRequest, rng: random.Random, pair: tuple[str, str]) -> WireRequest:
    at = rng.randint(0, len(request.headers))
    return replace(request, headers=(*request.headers[:at], pair, *request.headers[at:]))


# ---- request line, Host and body


def method_changed(request: WireRequest, rng: random.Random) -> WireRequest:
    others = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", _flip(request.method, rng, "ABCXYZ"))
    return replace(request, method=rng.choice(others))


def target_edited(request: WireRequest, rng: random.Random) -> WireRequest:
    return replace(request, target="/" + _edit(request.target[1:], rng, _IN_TARGET))


def target_in_other_spelling(request: WireRequest, rng: random.Random) -> WireRequest:
    target = request.target
    at = rng.randrange(1, len(target)) if len(target) > 1 else 0
    return replace(
        request,
        target=rng.choice(
            (
                "/" + target,
                "/." + target,
                "/x/.." + target,
                target[:at] + f"%{ord(target[at]):02X}" + target[at + 1 :],
                target.replace("?", "%3F", 1),
                target.replace("%", "%25", 1),
                target.swapcase(),
                target + ("&" if "?" in target else "?") + "admin=1",
            )
        ),
    )


def host_changed(request: WireRequest, rng: random.Random) -> WireRequest:
    return _change(
        request,
        rng,
        _places(request, "host"),
        lambda host: rng.choice(
            (_edit(host, rng, _TOKEN + ":"), "evil.example", f"{host}:81", f"{host}.", f"x.{host}", "")
        ),
    )


def host_sent_twice(request: WireRequest, rng: random.Random) -> WireRequest:
    return _insert(request, rng, (rng.choice(("Host", "host")), rng.choice((request.authority, "evil.example"))))


def body_edited(request: WireRequest, rng: random.Random) -> WireRequest:
    body = request.body
    at = rng.randrange(len(body)) if body else 0
    flipped = bytes([body[at] ^ 1 << rng.randrange(8)]) if body else b"\0"
    return replace(
        request,
        body=rng.choice((body[:at] + flipped + body[at + 1 :], body[:at], body + b"\n", body[:at] + b"\0" + body[at:])),
    )


def body_with_its_own_digest(request: WireRequest, rng: random.Random) -> WireRequest:
    altered = body_edited(request, rng)
    digest = f"sha-256=:{b64encode(hashlib.sha256(altered.body).digest()).decode()}:"
    return _change(altered, rng, _places(altered, "content-digest"), lambda _: digest)


def digest_by_other_algorithm(request: WireRequest, rng: random.Random) -> WireRequest:
    other = f"sha-512=:{b64encode(hashlib.sha512(request.body).digest()).decode()}:"
    places = _places(request, "content-digest")
    return _change(request, rng, places, lambda old: rng.choice((other, f"{old}, {other}", f"{other}, {old}", "")))


# ---- signed headers


def value_edited(request: WireRequest, rng: random.Random) -> WireRequest:
    return _change(request, rng, _places(request), lambda value: _edit(value, rng, _IN_VALUE))


def values_exchanged(request: WireRequest, rng: random.Random) -> WireRequest:
    places = _places(request)
    if len(places) < 2:
        return request
    one, other = rng.sample(places, 2)
    (name, value), (other_name, other_value) = request.headers[one], request.headers[other]
    return _put(_put(request, one, (name, other_value)), other, (other_name, value))


def name_edited(request: WireRequest, rng: random.Random) -> WireRequest:
    places = _places(request)
    if not places:
        return request
    at = rng.choice(places)
    name, value = request.headers[at]
    return _put(request, at, (_edit(name, rng, _TOKEN) or "x", value))


def name_with_underscores(request: WireRequest, rng: random.Random) -> WireRequest:
    places = _places(request, *ENVELOPE) + _places(request)
    if not places:
        return request
    at = rng.choice(places)
    name, value = request.headers[at]
    return _put(request, at, (name.replace("-", "_", rng.choice((1, -1))), value))


def header_dropped(request: WireRequest, rng: random.Random) -> WireRequest:
    places = _places(request, *ENVELOPE) + _places(request)
    return _put(request, rng.choice(places)) if places else request


def header_sent_twice(request: WireRequest, rng: random.Random) -> WireRequest:
    places = _places(request, *ENVELOPE) + _places(request)
    if not places:
        return request
    name, value = request.headers[rng.choice(places)]
    name = rng.choice((name, name.lower(), name.upper(), name.replace("-", "_")))
    return _insert(request, rng, (name, rng.choice((value, _edit(value, rng, _IN_VALUE), ""))))


def header_added(request: WireRequest, rng: random.Random) -> WireRequest:
    return _insert(request, rng, (rng.choice(_ADDED), rng.choice(("admin", "1", "", "a, b"))))


_ADDED: Final = (
    "X-Task-User-Id",
    "X-Task-Role",
    "x_task_user_id",
    "X_TASK_ID",
    "X-Task-",
    "x-task-é",
    "Content-Type",
    "Cookie",
    "Authorization",
    "content_type",
    "AUTHORIZATION",
    "Idempotency_Key",
)


# ---- the signature itself


def components_changed(request: WireRequest, rng: random.Random) -> WireRequest:
    def change(value: str) -> str:
        head, opened, rest = value.partition("(")
        listed, closed, tail = rest.partition(")")
        components = listed.split(" ")
        at = rng.randrange(len(components))
        shuffled = rng.sample(components, len(components))
        with_parameter = f"{components[at]};{rng.choice(('sf', 'bs', 'tr', 'req'))}"
        changed = rng.choice(
            (
                components[:at] + components[at + 1 :],
                components[:at] + components[at : at + 1] + components[at:],
                [*components[:at], '"user-agent"', *components[at:]],
                [*components[:at], with_parameter, *components[at + 1 :]],
                components[:at],
                shuffled,
                [component.upper() for component in components],
            )
        )
        return head + opened + rng.choice((" ", " ", "  ")).join(changed) + closed + tail

    return _change(request, rng, _places(request, "signature-input"), change)


def parameters_changed(request: WireRequest, rng: random.Random) -> WireRequest:
    def change(value: str) -> str:
        head, *parameters = value.split(";")
        at = rng.randrange(len(parameters)) if parameters else 0
        substitute = rng.choice(_SUBSTITUTES)
        name = substitute.partition("=")[0]
        substituted = [substitute if parameter.startswith(f"{name}=") else parameter for parameter in parameters]
        changed = rng.choice(
            (
                substituted,
                parameters[:at] + parameters[at + 1 :],
                [*parameters, *parameters[at : at + 1]],
                rng.sample(parameters, len(parameters)),
                [*parameters, 'extra="1"'],
            )
        )
        return rng.choice((";", ";", "; ")).join((head, *changed))

    return _change(request, rng, _places(request, "signature-input"), change)


_SUBSTITUTES: Final = (
    "created=1",
    "created=9999999999",
    "created=-5",
    "expires=9999999999",
    "expires=0",
    'nonce=""',
    'nonce="AAAAAAAAAAAAAAAAAAAAAA"',
    'keyid="00000000"',
    'keyid=""',
    'alg="none"',
    'alg="hmac-sha512"',
    'alg="ed25519"',
    "alg=hmac-sha256",
    'tag="other"',
    'tag=""',
)


def life_moved(request: WireRequest, rng: random.Random) -> WireRequest:
    """Move created and expires together, as somebody with an old recording would."""
    seconds = rng.choice((-1, 1, 3600))
    return _change(
        request,
        rng,
        _places(request, "signature-input"),
        lambda value: re.sub(
            "(created|expires)=([0-9]{1,12})", lambda found: f"{found[1]}={int(found[2]) + seconds}", value
        ),
    )


def envelope_edited(request: WireRequest, rng: random.Random) -> WireRequest:
    return _change(request, rng, _places(request, *ENVELOPE), lambda value: _edit(value, rng, _IN_VALUE))


def label_changed(request: WireRequest, rng: random.Random) -> WireRequest:
    label = rng.choice(("tq2", "sig1", "TQ", "*", ""))
    for at in _places(request, *rng.choice((ENVELOPE, ENVELOPE[:1], ENVELOPE[1:]))):
        name, value = request.headers[at]
        request = _put(request, at, (name, label + value.removeprefix("tq")))
    return request


def second_signature(request: WireRequest, rng: random.Random) -> WireRequest:
    for at in _places(request, *rng.choice((ENVELOPE, ENVELOPE[:1], ENVELOPE[1:]))):
        name, value = request.headers[at]
        other = "x" + value.removeprefix("tq")
        request = _put(request, at, (name, rng.choice((f"{value}, {other}", f"{other},{value}", f"{value}, {value}"))))
    return request


def signature_forged(request: WireRequest, rng: random.Random) -> WireRequest:
    forged = b64encode(rng.randbytes(rng.choice((32, 32, 0, 31, 64)))).decode()
    return _change(request, rng, _places(request, "signature"), lambda _: f"tq=:{forged}:")


MUTATORS: Final[tuple[Mutator, ...]] = (
    method_changed,
    target_edited,
    target_in_other_spelling,
    host_changed,
    host_sent_twice,
    body_edited,
    body_with_its_own_digest,
    digest_by_other_algorithm,
    value_edited,
    values_exchanged,
    name_edited,
    name_with_underscores,
    header_dropped,
    header_sent_twice,
    header_added,
    components_changed,
    parameters_changed,
    life_moved,
    envelope_edited,
    label_changed,
    second_signature,
    signature_forged,
)
