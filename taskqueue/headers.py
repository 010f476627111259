"""Which headers a task carries: those its developer gives, and those copied from the request that recorded it.

The two are judged differently. What a developer asks for and cannot have is an error, told when the task is recorded.
What a browser or a proxy happened to send is dropped without a word if it spoke of that one exchange: its connection,
its framing, its caches, its trace. Names are lower-case from here on, so that they are compared and signed in one
spelling only.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from .errors import InvalidTask
from .target import Limits

# RFC 9110, 5.6.2, without "_": CGI and WSGI cannot tell "x_task_id" from "x-task-id".
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^`|~]+")
# RFC 9110, 5.5: a tab may stand inside a value, no other control may; a lone surrogate is no text.
_UNSENDABLE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
# Most values: visible ASCII and, inside, spaces and tabs. What does not match is looked at more closely.
_PLAIN: Final = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._\-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")

_CONNECTION: Final = frozenset(
    ("connection", "http2-settings", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)
_DELIVERY: Final = frozenset(
    ("content-digest", "content-length", "expect", "idempotency-key", "signature", "signature-input", "user-agent")
)
_OURS: Final = ("proxy-", "x-task-")
# What spoke of the exchange the task was recorded in; the host is recorded apart.
_EXCHANGE: Final = frozenset(("accept-encoding", "baggage", "host", "range", "traceparent", "tracestate"))
_CREDENTIALS: Final = frozenset(("authorization", "cookie"))
_ONCE: Final = frozenset(("authorization", "content-type", "host"))


def caller_headers(
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None, limits: Limits
) -> list[tuple[str, str]]:
    """Take the headers a developer gave and return them as (lower-case name, value) pairs, in order.

    The argument is never changed. A ``host`` among them was checked with ``check_host``. Raises InvalidTask for a name
    that is no token or is set by the delivery itself, for a value that is not plain ASCII, for one name in two
    spellings in a mapping, and above the limit; no message shows a value.
    """
    if headers is None:
        return []
    pairs = _plain_pairs(headers, limits) if type(headers) is dict else None
    return _checked_pairs(headers, limits) if pairs is None else pairs


def _plain_pairs(headers: dict[str, str], limits: Limits) -> list[tuple[str, str]] | None:
    """Return the headers of a dict as most are, checked all at once; None if they need to be looked at one by one."""
    names = _plain_names(tuple(headers))
    if names is None:
        return None
    values = list(headers.values())
    if {*map(type, values)} != {str}:
        return None
    # Where two spaces meet, one has begun or ended a value, or a value is empty, or it has two itself.
    text = " ".join(("", *values, ""))
    if "  " in text or not (text.isascii() and text.isprintable()):
        return None
    lower, size = names
    if len(text) + size > limits.headers:
        raise _too_large(len(text) + size, limits)
    return list(zip(lower, values, strict=True))


@lru_cache(maxsize=256)
def _plain_names(names: tuple[str, ...]) -> tuple[tuple[str, ...], int] | None:
    """Return the names of a dict in lower case, and the size of its headers less that of its values joined by spaces.

    None if there is something to be said of one of them, or if more than its characters matters of a value.
    """
    try:
        lower = tuple([_checked_name(name) for name in names if isinstance(name, str)])
    except InvalidTask:
        return None
    if len({*lower}) < len(names) or "host" in lower:
        return None
    return lower, sum(map(len, names)) + 4 * len(names) - (len(names) + 1)


def _checked_pairs(headers: Mapping[str, str] | Iterable[tuple[str, str]], limits: Limits) -> list[tuple[str, str]]:
    """Check these headers one by one, and return them."""
    spellings: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    size = 0
    for pair in _given_pairs(headers):
        name, value = _checked_pair(pair)
        lower = _checked_name(name)
        if lower in spellings:
            other = spellings[lower]
            if other != name and isinstance(headers, Mapping):
                raise InvalidTask(f"headers: {other!r} and {name!r} are the same header; give one of them")
            if lower in _ONCE:
                raise InvalidTask(f"headers: {name!r} may be given only once")
        else:
            spellings[lower] = name
        if type(value) is not str or lower == "host" or not _PLAIN.fullmatch(value):
            value = _checked_value(lower, name, value)
        pairs.append((lower, value))
        size += len(name) + len(value) + 4  # what was checked is ASCII
    if size > limits.headers:
        raise _too_large(size, limits)
    return pairs


def copied_headers(headers: Iterable[tuple[str, str]], *, content: bool, credentials: bool) -> list[tuple[str, str]]:
    """Take the current request's headers and return those that travel with a task: the end-to-end ones.

    Dropped: what belongs to the connection (RFC 9110, 7.6.1, and what ``Connection`` names), framing, conditions,
    ``Range``, ``Accept-Encoding``, ``Expect``, ``User-Agent``, ``Idempotency-Key``, ``Host``, trace context, all that
    proves a delivery, and what could not be sent byte for byte. ``content``: keep ``Content-*``, because the body is
    copied too. ``credentials``: keep ``Cookie`` (several lines become one, RFC 6265, 5.4) and ``Authorization``.
    """
    present = [(_known_name(name), value.strip(" \t")) for name, value in headers]
    named_by_connection = {
        option.strip().lower() for (name, _), value in present if name == "connection" for option in value.split(",")
    }
    kept = [
        (name, value)
        for (name, travels), value in present
        if travels
        and name not in named_by_connection
        and (content or not name.startswith("content-"))
        and (credentials or name not in _CREDENTIALS)
        and (value.isprintable() or not _UNSENDABLE.search(value))
    ]
    return with_one_cookie(kept)


def merge_headers(copied: Sequence[tuple[str, str]], own: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return both lists as one, names in lower case; a copied header gives way to the caller's own of that name."""
    mine = [(name.lower(), value) for name, value in own]
    replaced = {name for name, _ in mine}
    kept = [(lower, value) for name, value in copied if (lower := name.lower()) not in replaced]
    return tuple(with_one_cookie(kept + mine))


def check_size(headers: Iterable[tuple[str, str]], limits: Limits) -> None:
    """Raise InvalidTask if these headers together (name, value and four bytes a line) are over the limit."""
    size = 0
    for name, value in headers:
        size += len(name) + len(value if value.isascii() else value.encode()) + 4
    if size > limits.headers:
        raise _too_large(size, limits)


def _too_large(size: int, limits: Limits) -> InvalidTask:
    return InvalidTask(
        f"headers: {size} bytes, the current request's included, are over the limit of {limits.headers};"
        " send the data in the payload"
    )


def check_host(host: str) -> str:
    """Return the host, or host:port, that a task names itself by (RFC 9110, 7.2); raise InvalidTask for all else."""
    match = _HOST.fullmatch(host)
    if not match or int(match["port"] or 0) > 65535:
        raise InvalidTask("headers: 'host' must be a host name or address with or without port, as in example.org:8080")
    return host


def _given_pairs(headers: object) -> Iterable[object]:
    items = headers.items() if isinstance(headers, Mapping) else headers
    if isinstance(headers, str | bytes) or not isinstance(items, Iterable):
        raise InvalidTask(f"headers: a mapping or (name, value) pairs are needed, not {type(headers).__name__}")
    return items


def _checked_pair(pair: object) -> tuple[str, object]:
    if type(pair) is tuple and len(pair) == 2 and type(pair[0]) is str:
        return pair
    if not (isinstance(pair, tuple | list) and len(pair) == 2):
        raise InvalidTask(f"headers: each must be a (name, value) pair, not {type(pair).__name__}")
    name, value = pair
    if not isinstance(name, str):
        raise InvalidTask(f"headers: a name is {type(name).__name__}; names must be str")
    return name, value


@lru_cache(maxsize=1024)
def _checked_name(name: str) -> str:
    lower = name.lower()
    shown = repr(name[:80])
    if not _NAME.fullmatch(name):
        hint = "; write '-' for '_'" if "_" in name else ""
        raise InvalidTask(f"headers: {shown} is no header name: ASCII letters, digits and !#$%&'*+-.^`|~ only{hint}")
    if lower in _CONNECTION or lower in _DELIVERY or lower.startswith(_OURS):
        raise InvalidTask(f"headers: {shown} is set by each delivery itself; leave it out")
    return lower


def _checked_value(lower: str, name: str, value: object) -> str:
    shown = repr(name[:80])
    if not isinstance(value, str):
        raise InvalidTask(f"headers: the value of {shown} is {type(value).__name__}; give str")
    text = str.__str__(value)
    if not text.isascii():
        raise InvalidTask(f"headers: the value of {shown} is not ASCII; percent-encode it, or write it as in RFC 8187")
    if _UNSENDABLE.search(text):
        raise InvalidTask(f"headers: the value of {shown} holds a control character; remove or percent-encode it")
    if text != text.strip(" \t"):
        raise InvalidTask(f"headers: the value of {shown} begins or ends with white space, which is lost; strip it")
    return check_host(text) if lower == "host" else text


@lru_cache(maxsize=256)
def _known_name(name: str) -> tuple[str, bool]:
    """Return the name of one of the current request's headers in lower case, and whether it may go with a task.

    What is no name does not: that is asked before lower(), which turns the Kelvin sign into a plain k.
    """
    if not _NAME.fullmatch(name):
        return "", False
    lower = name.lower()
    of_this_exchange = lower in _CONNECTION or lower in _DELIVERY or lower in _EXCHANGE
    return lower, not of_this_exchange and not lower.startswith((*_OURS, "if-", "signature"))


def with_one_cookie(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers with all cookies in the first cookie line: HTTP/2 splits them, HTTP/1.1 allows one line."""
    cookies = [value for name, value in headers if name == "cookie" and value]
    if len(cookies) < 2:
        return headers
    first = next(index for index, (name, value) in enumerate(headers) if name == "cookie" and value)
    return [
        (name, "; ".join(cookies) if index == first else value)
        for index, (name, value) in enumerate(headers)
        if name != "cookie" or index == first
    ]
