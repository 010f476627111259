"""Which headers travel with a task, which do not, and who wins."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict, MultiDict

from taskqueue.errors import InvalidTask
from taskqueue.headers import caller_headers, check_host, check_size, copied_headers, merge_headers
from taskqueue.target import Limits

LIMITS = Limits()


def refusal(headers: Any) -> str:
    """Return the message with which these headers are refused."""
    with pytest.raises(InvalidTask) as caught:
        caller_headers(headers, LIMITS)
    return str(caught.value)


def copied_names(*names: str, content: bool = True, credentials: bool = True) -> list[str]:
    """Return which of these headers of a current request travel."""
    return [
        name for name, _ in copied_headers([(name, "v") for name in names], content=content, credentials=credentials)
    ]


def test_names_come_in_lower_case_and_the_mapping_stays_as_it_was() -> None:
    given_headers = {"X-Report": "1", "ACCEPT": "text/html, */*;q=0.1", "x-tab": "a\tb", "X-Empty": ""}
    before = dict(given_headers)
    assert caller_headers(given_headers, LIMITS) == [
        ("x-report", "1"),
        ("accept", "text/html, */*;q=0.1"),
        ("x-tab", "a\tb"),
        ("x-empty", ""),
    ]
    assert given_headers == before
    assert list(given_headers) == list(before)


@pytest.mark.parametrize("headers", [None, {}, [], ()])
def test_no_headers(headers: Any) -> None:
    assert caller_headers(headers, LIMITS) == []


@pytest.mark.parametrize(
    "headers",
    [
        [("Accept", "a"), ("accept", "b")],
        (["Accept", "a"], ["accept", "b"]),
        iter([("Accept", "a"), ("accept", "b")]),
        MultiDict([("accept", "a"), ("accept", "b")]),
        CIMultiDict([("Accept", "a"), ("Accept", "b")]),
    ],
    ids=["pairs", "lists", "iterator", "multidict", "case-insensitive"],
)
def test_a_header_may_be_repeated_where_that_is_said_on_purpose(headers: Any) -> None:
    assert caller_headers(headers, LIMITS) == [("accept", "a"), ("accept", "b")]


def test_two_spellings_in_one_mapping_are_ambiguous() -> None:
    message = refusal({"Accept": "s3cret", "accept": "s3cret"})
    assert "'Accept' and 'accept' are the same header" in message
    assert "s3cret" not in message


@pytest.mark.parametrize("name", ["Authorization", "Content-Type", "Host"])
def test_what_has_one_value_is_not_repeated(name: str) -> None:
    assert f"'{name.lower()}' may be given only once" in refusal([(name, "a"), (name.lower(), "b")])


@pytest.mark.parametrize("name", ["", "X A", "X:A", "X_A", "X\r\nA", "Ä", "X(A", "x\x00", '"x"', "\u212aeep"])
def test_a_name_is_a_token_without_underscore(name: str) -> None:
    message = refusal({name: "s3cret"})
    assert f"headers: {name!r} is no header name" in message
    assert ("write '-'" in message) == ("_" in name)
    assert "s3cret" not in message


def outcome(headers: Mapping[Any, Any], limits: Limits) -> tuple[Any, Any]:
    """Return what becomes of these headers, types included, or why they are refused."""
    try:
        pairs = caller_headers(headers, limits)
    except InvalidTask as error:
        return "refused", str(error)
    return pairs, [(type(name), type(value)) for name, value in pairs]


class Text(str):
    """Text of a kind of its own, as members of an enumeration are."""

    __slots__ = ()


names_given = st.sampled_from(
    ["X-A", "x-a", "Accept", "accept", "Host", "Cookie", "X_A", "TE", "Content-Type", Text("X-B"), "", "X A", 7, None]
)
values_given = (
    st.sampled_from(["", "a", "a b", "a  b", " a", "a ", " ", "a\tb", "\t", "a\n", "ä", "\ud800", b"a", 7, None])
    | st.text(alphabet=" \tab~", max_size=6)
    | st.text(alphabet="ab", max_size=3).map(Text)
)


@given(st.dictionaries(names_given, values_given, max_size=4), st.integers(0, 40))
@example({"Host": "a b"}, 0)
@example({"X-A": "ä"}, 0)
def test_a_dict_is_checked_all_at_once_with_the_outcome_of_any_other_mapping(headers: Any, limit: int) -> None:
    for limits in (LIMITS, Limits(headers=limit)):
        assert outcome(headers, limits) == outcome(MappingProxyType(headers), limits)


REFUSED_NAMES = [
    "Content-Length",
    "transfer-encoding",
    "CONNECTION",
    "Keep-Alive",
    "TE",
    "Trailer",
    "Upgrade",
    "HTTP2-Settings",
    "Expect",
    "Proxy-Authorization",
    "Proxy-Connection",
    "X-Task-Id",
    "x-task-user-id",
    "X-Task-Anything",
    "Signature",
    "Signature-Input",
    "Content-Digest",
    "Idempotency-Key",
    "User-Agent",
]


@pytest.mark.parametrize("name", REFUSED_NAMES)
def test_what_a_delivery_sets_itself_is_refused_from_the_caller_and_dropped_from_a_copy(name: str) -> None:
    assert f"headers: {name!r} is set by each delivery itself" in refusal({name: "s3cret"})
    assert copied_names(name, "accept") == ["accept"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("s3cret\r\nX-Admin: 1", "control character"),
        ("s3cret\n", "control character"),
        ("s3cret\x00", "control character"),
        ("s3cret\x7f", "control character"),
        ("s3cret ä", "RFC 8187"),
        ("s3cret \ud800", "not ASCII"),
        (" s3cret", "strip"),
        ("s3cret\t", "strip"),
        (b"s3cret", "is bytes; give str"),
        (7, "is int; give str"),
        (None, "is NoneType; give str"),
    ],
)
def test_a_value_is_plain_ascii_and_never_shown(value: object, reason: str) -> None:
    message = refusal({"X-Report": value})
    assert "'X-Report'" in message
    assert reason in message
    assert "s3cret" not in message


@pytest.mark.parametrize(
    "headers", ["accept: s3cret", b"s3cret", 7, ["s3cret"], [("a", "s3cret", "c")], {b"accept": "s3cret"}]
)
def test_headers_of_another_shape_are_refused(headers: Any) -> None:
    message = refusal(headers)
    assert message.startswith("headers: ")
    assert "s3cret" not in message


def test_headers_over_the_limit_are_refused_with_both_sizes() -> None:
    assert caller_headers({"x-a": "b" * 93}, Limits(headers=100))
    with pytest.raises(InvalidTask, match=r"^headers: 101 bytes.*limit of 100"):
        caller_headers({"x-a": "b" * 94}, Limits(headers=100))
    with pytest.raises(InvalidTask, match=r"^headers: 101 bytes.*limit of 100"):
        check_size([("x-a", "ä" * 47)], Limits(headers=100))


@pytest.mark.parametrize("host", ["example.org", "example.org:8080", "127.0.0.1:1", "[::1]:65535", "my_app", "[::1]"])
def test_a_caller_may_name_the_host(host: str) -> None:
    assert caller_headers({"HOST": host}, LIMITS) == [("host", host)]


@pytest.mark.parametrize(
    "host", ["", "a b", "a/b", "user@a", "a:b", "a:", "a:65536", "a:8\u0660", "::1", "a,b", "a?b", "a\n", "[x]"]
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(InvalidTask, match="'host' must be"):
        check_host(host)


def test_end_to_end_headers_travel_in_order_and_in_lower_case() -> None:
    names = ["Accept", "Accept-Language", "X-Forwarded-Proto", "X-Forwarded-For", "Origin", "X-Request-Id", "Cookie"]
    assert copied_names(*names) == [name.lower() for name in names]


DROPPED = [
    "Host",
    "Range",
    "Accept-Encoding",
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "If-Range",
    "Signature-Agent",
    "traceparent",
    "tracestate",
    "baggage",
    "X_Forwarded_User",
    "bad name",
    "coo\u212aie",
    "",
]


@pytest.mark.parametrize("name", DROPPED)
def test_what_spoke_of_one_exchange_is_dropped(name: str) -> None:
    assert copied_names(name, name.upper(), "accept") == ["accept"]


def test_what_connection_names_is_dropped_too() -> None:
    headers = [
        ("X-Hop", "1"),
        ("Connection", "close, x-hop"),
        ("connection", "X-Other ,"),
        ("x-other", "2"),
        ("x", "3"),
    ]
    assert copied_headers(headers, content=True, credentials=True) == [("x", "3")]


def test_content_headers_travel_with_the_content() -> None:
    names = ("content-type", "content-encoding", "content-language", "content-length", "content-digest")
    assert copied_names(*names) == ["content-type", "content-encoding", "content-language"]
    assert copied_names(*names, content=False) == []


def test_credentials_travel_only_when_asked() -> None:
    assert copied_names("Cookie", "AUTHORIZATION", "X-Api") == ["cookie", "authorization", "x-api"]
    assert copied_names("Cookie", "AUTHORIZATION", "X-Api", credentials=False) == ["x-api"]


def test_a_value_that_could_not_be_sent_byte_for_byte_is_dropped() -> None:
    headers = [
        ("a", "x\r\ny"),
        ("b", "x\x00"),
        ("c", "x\udcff"),
        ("d", "Zoë \u20ac"),
        ("e", " \tx\ty "),
        ("f", "x\x7f"),
    ]
    assert copied_headers(headers, content=True, credentials=True) == [("d", "Zoë \u20ac"), ("e", "x\ty")]


def test_cookie_lines_become_one() -> None:
    headers = [("Cookie", "a=1"), ("X", "y"), ("cookie", ""), ("COOKIE", "b=2; c=3")]
    merged = [("cookie", "a=1; b=2; c=3"), ("x", "y")]
    assert copied_headers(headers, content=True, credentials=True) == merged
    assert list(merge_headers([], headers)) == merged


def test_the_callers_own_header_wins_in_any_spelling() -> None:
    copied = [("ACCEPT", "copied"), ("cookie", "a=1"), ("X", "1"), ("accept", "copied too")]
    own = [("Accept", "own"), ("ACCEPT", "own too"), ("y", "2")]
    assert merge_headers(copied, own) == (
        ("cookie", "a=1"),
        ("x", "1"),
        ("accept", "own"),
        ("accept", "own too"),
        ("y", "2"),
    )
    assert copied[0] == ("ACCEPT", "copied")
    assert own[0] == ("Accept", "own")


arbitrary = st.lists(st.tuples(st.text() | st.sampled_from(["Connection", "Cookie", "X-Task-Id", "Via"]), st.text()))


@given(arbitrary)
def test_whatever_a_request_held_what_travels_can_be_sent(headers: list[tuple[str, str]]) -> None:
    for name, value in copied_headers(headers, content=True, credentials=True):
        assert re.fullmatch(r"[a-z0-9!#$%&'*+\-.^`|~]+", name)
        assert not name.startswith(("x-task-", "signature", "proxy-", "if-"))
        assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value)
        assert value.encode().decode() == value
        assert value == value.strip(" \t")


@given(arbitrary)
def test_whatever_a_caller_gives_is_accepted_clean_or_refused(headers: list[tuple[str, str]]) -> None:
    try:
        accepted = caller_headers(headers, LIMITS)
    except InvalidTask:
        return
    assert accepted == [(name.lower(), value) for name, value in headers]
    assert all(
        name.isascii() and value.isascii() and value.isprintable() for name, value in accepted if "\t" not in value
    )
