"""What a replayable request is: target, method, body, and the names beside it.

A task is replayed later, by another process, with a signature over exactly these bytes. So everything is checked and
written in its one canonical form when the task is recorded, where the developer sees the error, and never touched
again. What is ambiguous is refused with a suggestion, not repaired: a guess would run under somebody's identity. The
rules for headers are in ``headers``.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes, urlencode

from .errors import ConfigError, InvalidTask

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

# RFC 3986, 3.3: what a path may hold as it is. quote() adds letters, digits and "-._~".
_PATH_SAFE: Final = "/:@!$&'()*+,;="
_FOREIGN_IN_PATH: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~/:@!$&'()*+,;=%]")
_FOREIGN_IN_QUERY: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~/:@!$&'()*+,;=%?]")
# Most paths: one letter and digit after the other. Without "/." none of it is written in another way.
_PLAIN_PATH: Final = re.compile(r"(?!//)/[A-Za-z0-9\-._~/:@!$&'()*+,;=]*")
_SCHEME: Final = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]*:")
_UNSENDABLE: Final = re.compile(r"[\x00\ud800-\udfff]")  # NUL ends strings elsewhere; a lone surrogate is no text
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_QUEUE_NAME: Final = re.compile(r"[a-z0-9\-]{1,64}")
_CONSUMER_NAME: Final = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_MAX_USER_ID: Final = 256
_MAX_LABEL: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one task and one transaction may weigh.

    ``target`` (path and query), ``headers`` (names, values and four bytes a line), ``body`` and ``transaction`` (the
    records of one transaction together) are bytes; ``timeout`` is how many seconds a task may take that names none.
    """

    target: int = 8 * 1024
    headers: int = 32 * 1024
    body: int = 10 * 1024 * 1024
    transaction: int = 64 * 1024 * 1024
    timeout: float = 600.0


def target_of(url: object, params: Mapping[str, object] | None, limits: Limits) -> str:
    """Take a path with or without query, and ``params`` to add to the query; return the canonical request target.

    ``url`` is a str, or a framework's URL object (yarl, Starlette, ``urllib.parse``) of which path and query count.
    ``params`` are form-encoded: a list repeats its key, bool is ``true`` or ``false``; None, NaN, nesting are refused.
    The result is ASCII: RFC 3986 characters only, no dot segment, no fragment, no lone ``?``; in the path each byte is
    written in one way only, so that it can be rebuilt from the decoded path. Raises InvalidTask.
    """
    target = url if params is None and type(url) is str and _is_plain(url) else _canonical(url, params)
    if len(target) > limits.target:
        raise InvalidTask(
            f"url: the target has {len(target)} bytes with its query, over the limit of {limits.target};"
            " send the data as payload= or json= instead"
        )
    return target


def _is_plain(path: str) -> bool:
    """Tell whether nothing is to be said of a path, and it is its own canonical form; one with "/." may be too."""
    return _PLAIN_PATH.fullmatch(path) is not None and "/." not in path


def _canonical(url: object, params: Mapping[str, object] | None) -> str:
    path, query = _path_and_query(url)
    path = _canonical_path(path)
    flaw = _FOREIGN_IN_QUERY.search(query) if query else None
    if flaw:
        # The query may hold a token or a name: only the character and its place are told.
        remedy = "remove it" if _UNSENDABLE.match(flaw.group()) else f"write {quote(flaw.group())!r}"
        raise InvalidTask(f"url: {_described(flaw)} is not allowed in a query (counted after the '?'); {remedy}")
    added = _encoded_params(params)
    query = f"{query}&{added}" if query and added else query or added
    return f"{path}?{query}" if query else path


def quote_path(decoded: bytes) -> str:
    """Take a percent-decoded path and return its canonical form, the one ``target_of`` makes (RFC 3986, 3.3)."""
    return quote(decoded, safe=_PATH_SAFE)


def _path_and_query(url: object) -> tuple[str, str]:
    if isinstance(url, str):
        # Not str(url): that would give "Page.HOME" for a member of class Page(str, Enum).
        path, fragment_mark, fragment = str.__str__(url).partition("#")
        path, _, query = path.partition("?")
    else:
        path, query, fragment = _parts_of_object(url)
        fragment_mark = fragment
    if not path.startswith("/") or path.startswith(("//", "/\\")):
        raise InvalidTask(f"url: {_not_a_path(path, query)}")
    if fragment_mark:
        raise InvalidTask(f"url: a fragment (#...) never reaches a server; give {_shown(_corrected(path), query)}")
    return path, query


def _parts_of_object(url: object) -> tuple[str, str, str]:
    """Return path, query and fragment of a framework's URL object, as they are encoded in it."""
    is_yarl = hasattr(url, "raw_query_string")
    path = getattr(url, "raw_path" if is_yarl else "path", None)
    query = getattr(url, "raw_query_string" if is_yarl else "query", None)
    if not (isinstance(path, str) and isinstance(query, str)):
        raise InvalidTask(
            f"url: a str such as '/reports/build' or a framework's URL object is needed, not {type(url).__name__}"
        )
    parameters = getattr(url, "params", "")  # urlparse() splits "/a;b" in two
    if isinstance(parameters, str) and parameters:
        path = f"{path};{parameters}"
    if not path and getattr(url, "netloc", None):
        path = "/"
    return path, query, str(getattr(url, "fragment", ""))


def _not_a_path(path: str, query: str) -> str:
    """Return what is wrong with a path that does not begin with exactly one slash."""
    if not path:
        return "the path is empty; give one such as '/reports/build'"
    if not _SCHEME.match(path) and not path.startswith(("//", "/\\")):
        return f"the path must start with a slash; give {_shown(_corrected('/' + path), query)}"
    rest = re.sub(r"^(?:[/\\]{2}[^/\\]*)?", "", _SCHEME.sub("", path, count=1))
    meant = rest if rest.startswith("/") else "/" + rest.partition("/")[2]
    return (
        f"absolute URLs are not replayed; give the path: {_shown(_corrected(meant), query)},"
        " or the framework's URL object"
    )


def _canonical_path(path: str) -> str:
    if _is_plain(path):
        return path
    flaw = _FOREIGN_IN_PATH.search(path)
    if flaw:
        raise InvalidTask(f"url: {_described(flaw)} is not allowed in a path; give {_shown(_corrected(path))}")
    ambiguous = re.search(r"%(2f|00)", path, re.IGNORECASE)
    if ambiguous:
        # Servers and frameworks disagree on both: the same bytes would reach different views.
        raise InvalidTask(
            f"url: {ambiguous.group()} at position {ambiguous.start()} of the path is read differently by different"
            " servers; pass that value in params= or in the payload"
        )
    if any(unquote(segment) in (".", "..") for segment in path.split("/")):
        raise InvalidTask(f"url: {_shown(path)} has dot segments; give {_shown(_corrected(path))}")
    return quote_path(unquote_to_bytes(path))


def _corrected(path: str) -> str:
    """Return the acceptable path nearest to what was probably meant, for a suggestion."""
    kept: list[str] = []
    sendable = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", _UNSENDABLE.sub("", path))
    for segment in sendable.split("/"):
        if unquote(segment) == "..":
            kept = kept[:-1]
        elif unquote(segment) != ".":
            kept.append(segment)
    return "/" + quote("/".join(kept), safe=_PATH_SAFE + "%").lstrip("/")


def _shown(path: str, query: str = "") -> str:
    """Return the path as an error may show it: cut when long, without the query."""
    return repr(path if len(path) <= 120 else path[:120] + "...") + (" with its query" if query else "")


def _described(flaw: re.Match[str]) -> str:
    character = flaw.group()
    name = repr(character) if character.isprintable() else f"U+{ord(character):04X}"
    return f"{name} at position {flaw.start()}" + (" without two hexadecimal digits" if character == "%" else "")


def _encoded_params(params: Mapping[str, object] | None) -> str:
    if params is None:
        return ""
    if not isinstance(params, Mapping):
        raise InvalidTask(f"params: a mapping such as {{'year': 2026}} is needed, not {type(params).__name__}")
    pairs: list[tuple[str, str]] = []
    for key, value in params.items():
        if not isinstance(key, str):
            raise InvalidTask(f"params: the key {key!r} is {type(key).__name__}; keys must be str")
        pairs += [(key, text) for text in _texts(key, value)]
    try:
        return urlencode(pairs)
    except UnicodeEncodeError as error:
        raise InvalidTask("params: a key or value holds a lone surrogate, which is not text; remove it") from error


def _texts(key: str, value: object) -> Iterator[str]:
    """Yield the text or texts of one parameter."""
    for item in value if isinstance(value, list | tuple) else (value,):
        if isinstance(item, bool):
            yield "true" if item else "false"
        elif isinstance(item, str):
            yield str.__str__(item)
        elif isinstance(item, int):
            yield int.__repr__(item)
        elif isinstance(item, float) and math.isfinite(item):
            yield float.__repr__(item)
        else:
            kind = "NaN or infinite" if isinstance(item, float) else type(item).__name__
            raise InvalidTask(
                f"params: the value of {key!r} is {kind}; str, int, finite float, bool or a flat list of these is"
                " needed: leave the key out for None, use json= for nested data, str() for the rest"
            )


def check_method(method: str | None, has_body: bool) -> str:  # noqa: FBT001 - reads well in its one call
    """Return the method; None means POST if there is a body, else GET. Raises InvalidTask for one not replayed."""
    if method is None:
        return "POST" if has_body else "GET"
    if isinstance(method, str) and method in METHODS:
        return str.__str__(method)
    upper = method.upper() if isinstance(method, str) else ""
    remedy = f"write {upper!r}" if upper in METHODS else f"one of {', '.join(METHODS)} is needed"
    shown = repr(method[:40]) if isinstance(method, str) else type(method).__name__
    raise InvalidTask(f"method: {shown} is not replayed; {remedy}")


def check_body(payload: object, limits: Limits) -> bytes:
    """Take bytes, bytearray, memoryview or str (sent as UTF-8) and return bytes. Raises InvalidTask for all else."""
    if type(payload) is bytes:  # as most are
        body = payload
    elif isinstance(payload, str):
        body = _utf8("payload", payload)
    elif isinstance(payload, bytes | bytearray | memoryview):
        body = bytes(payload)
    else:
        is_data = isinstance(payload, Mapping | list | tuple)
        remedy = "use json= for data" if is_data else "read a file or an iterator to its end first"
        raise InvalidTask(f"payload: bytes or str is needed, not {type(payload).__name__}; {remedy}")
    return _within_limit("payload", body, limits)


def json_body(value: object, limits: Limits) -> bytes:
    """Take what ``json=`` was given and return it as JSON (RFC 8259, UTF-8, compact). Raises InvalidTask."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except TypeError as error:
        raise InvalidTask(f"json: {error}; convert it first") from error
    except (ValueError, RecursionError) as error:
        raise InvalidTask("json: NaN, infinity, circular and very deep data have no JSON form; convert it") from error
    return _within_limit("json", _utf8("json", text), limits)


def _utf8(argument: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidTask(
            f"{argument}: it holds a lone surrogate, which is not text; remove it or give bytes"
        ) from error


def _within_limit(argument: str, body: bytes, limits: Limits) -> bytes:
    if len(body) > limits.body:
        raise InvalidTask(
            f"{argument}: {len(body)} bytes are over the limit of {limits.body};"
            " store the data where the task finds it and pass its name"
        )
    return body


def check_user_id(value: object) -> str | None:
    """Return the user's id, or None for nobody: 1 to 256 characters, none of them a control. Raises InvalidTask."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidTask(f"user_id: str or None is needed, not {type(value).__name__}; give str(user.id), say")
    if not value:
        raise InvalidTask("user_id: it is empty; give None for a task without a user")
    return _plain_text("user_id", value, _MAX_USER_ID)


def check_label(value: object) -> str:
    """Return the label, which is shown and logged: at most 200 characters, none a control. Raises InvalidTask."""
    if not isinstance(value, str):
        raise InvalidTask(f"label: str is needed, not {type(value).__name__}")
    return _plain_text("label", value, _MAX_LABEL)


def _plain_text(argument: str, value: str, limit: int) -> str:
    if len(value) > limit:
        raise InvalidTask(f"{argument}: {len(value)} characters are over the limit of {limit}; shorten it")
    flaw = _CONTROL.search(value)
    if flaw:
        raise InvalidTask(f"{argument}: {_described(flaw)} is a control character or no text; remove it")
    return str.__str__(value)


def check_queue_name(name: object) -> str:
    """Return the name of a queue: 1 to 64 of a-z, 0-9 and "-" (it is part of keys). Raises ConfigError."""
    if isinstance(name, str) and _QUEUE_NAME.fullmatch(name):
        return name
    likely = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64] if isinstance(name, str) else ""
    hint = f"; {likely!r} would do" if likely else ""
    raise ConfigError(f"queue: {_shown_name(name)} is no queue name: 1 to 64 of a-z, 0-9 and '-'{hint}")


def check_consumer_name(name: object) -> str:
    """Return the name of a consumer: 1 to 64 of A-Z, a-z, 0-9, ".", "_" and "-". Raises ConfigError."""
    if isinstance(name, str) and _CONSUMER_NAME.fullmatch(name):
        return name
    rule = "1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'"
    raise ConfigError(f"name: {_shown_name(name)} is no consumer name: {rule}, for example instance1")


def _shown_name(name: object) -> str:
    return repr(name[:80]) if isinstance(name, str) else type(name).__name__
