"""What may be replayed is written in one way; what may not is refused with the reason and the remedy."""

import re
from collections.abc import Callable
from decimal import Decimal
from enum import Enum, IntEnum
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote_to_bytes, urlparse, urlsplit

import pytest
import yarl
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.datastructures import URL, URLPath

from taskqueue import target
from taskqueue.errors import ConfigError, InvalidTask
from taskqueue.target import Limits, quote_path, target_of

LIMITS = Limits()


class Page(str, Enum):  # noqa: UP042 - as applications write it; str() of a member is not its value
    HOME = "/home"


class Level(IntEnum):
    HIGH = 3


def refusal(call: Callable[[], object]) -> str:
    """Return the message with which ``call`` is refused."""
    with pytest.raises(InvalidTask) as caught:
        call()
    return str(caught.value)


ACCEPTED: list[tuple[object, str]] = [
    ("/", "/"),
    ("/reports/build", "/reports/build"),
    ("/x?a=1&a=2", "/x?a=1&a=2"),
    ("/x?", "/x"),
    ("/x??", "/x??"),
    ("/x?q=a/b?c:d@e", "/x?q=a/b?c:d@e"),
    ("/x?q=%2F%00%c3%a4+%41", "/x?q=%2F%00%c3%a4+%41"),
    ("/a//b/", "/a//b/"),
    ("/-._~!$&'()*+,;=:@", "/-._~!$&'()*+,;=:@"),
    ("/%7euser/%41", "/~user/A"),
    ("/a%3bb%21", "/a;b!"),
    ("/%c3%a4", "/%C3%A4"),
    ("/%252F%2525", "/%252F%2525"),
    ("/%ff%0a%5c%3f%23", "/%FF%0A%5C%3F%23"),
    ("/...", "/..."),
    ("/.well-known/x", "/.well-known/x"),
    (Page.HOME, "/home"),
    (yarl.URL("https://example.org:8443/a b/ü?x=ä"), "/a%20b/%C3%BC?x=%C3%A4"),
    (yarl.URL("/x?y=1"), "/x?y=1"),
    (yarl.URL("https://example.org"), "/"),
    (URL("https://user:pw@example.org/x?y=1"), "/x?y=1"),
    (URL("https://example.org"), "/"),
    (URLPath("/items/1", protocol="http", host="example.org"), "/items/1"),
    (urlsplit("https://example.org/x?y=1"), "/x?y=1"),
    (urlparse("/a;b?y=1"), "/a;b?y=1"),
]


@pytest.mark.parametrize(("url", "expected"), ACCEPTED, ids=str)
def test_a_target_is_written_in_its_one_form(url: object, expected: str) -> None:
    assert target_of(url, None, LIMITS) == expected
    assert target_of(expected, None, LIMITS) == expected


REFUSED: list[tuple[object, list[str]]] = [
    (None, ["NoneType", "'/reports/build'"]),
    (b"/x", ["not bytes"]),
    (PurePosixPath("/x"), ["not PurePosixPath"]),
    (urlsplit(b"/x"), ["not SplitResultBytes"]),
    (7, ["not int"]),
    ("", ["empty", "'/reports/build'"]),
    ("?x=1", ["empty"]),
    ("reindex", ["start with a slash; give '/reindex'"]),
    ("reindex?token=s3cret", ["'/reindex' with its query"]),
    ("../x", ["start with a slash; give '/x'"]),
    (yarl.URL("reindex"), ["'/reindex'"]),
    ("//host/x", ["absolute", "give the path: '/x'"]),
    ("//host", ["absolute", "give the path: '/'"]),
    ("/\\host/x", ["absolute", "give the path: '/x'"]),
    ("http://user:s3cret@host/x?token=s3cret", ["absolute", "give the path: '/x' with its query"]),
    ("HTTPS://host", ["absolute", "give the path: '/'"]),
    ("file:///etc/passwd", ["absolute", "'/etc/passwd'"]),
    ("localhost:8000/x", ["absolute", "'/x'"]),
    (yarl.URL("https://host//evil/x"), ["absolute", "'/x'"]),
    ("/a b", ["' ' at position 2", "'/a%20b'"]),
    ("/a\tb", ["U+0009 at position 2", "'/a%09b'"]),
    ("/a\r\nX: y", ["U+000D at position 2", "'/a%0D%0AX:%20y'"]),
    ("/a\x00b", ["U+0000 at position 2", "'/ab'"]),
    ("/ä", ["'ä' at position 1", "'/%C3%A4'"]),
    ("/a\\b", ["position 2", "'/a%5Cb'"]),
    ('/"<>^`{|}[]', ["""'"' at position 1""", "'/%22%3C%3E%5E%60%7B%7C%7D%5B%5D'"]),
    ("/\ud800x", ["U+D800 at position 1", "'/x'"]),
    ("/a%zz", ["'%' at position 2", "hexadecimal", "'/a%25zz'"]),
    ("/100%", ["'%' at position 4", "'/100%25'"]),
    (URL("http://host/a b"), ["position 2", "'/a%20b'"]),
    ("/a%2Fb", ["%2F at position 2", "params="]),
    ("/a%2fb", ["%2f at position 2"]),
    ("/a%00b", ["%00 at position 2"]),
    ("/a/../b", ["dot segments", "'/b'"]),
    ("/a/./b", ["dot segments", "'/a/b'"]),
    ("/a/%2E%2e/b", ["dot segments", "'/b'"]),
    ("/a/.%2e", ["dot segments"]),
    ("/..", ["dot segments", "'/'"]),
    ("/x#part", ["fragment", "'/x'"]),
    ("/x?token=s3cret#", ["fragment", "'/x' with its query"]),
    (URL("http://host/x#part"), ["fragment"]),
    ("/x?a b&token=s3cret", ["' ' at position 1", "query", "'%20'"]),
    ("/x?a=\u20ac", ["'\u20ac' at position 2", "'%E2%82%AC'"]),
    ("/x?a=[1]", ["'[' at position 2", "'%5B'"]),
    ("/x?a=\n", ["U+000A at position 2", "'%0A'"]),
    ("/x?a=\ud800", ["U+D800", "remove it"]),
    ("/x?a=%4", ["'%' at position 2", "'%25'"]),
]


@pytest.mark.parametrize(("url", "parts"), REFUSED, ids=ascii)
def test_what_is_not_a_target_is_refused_with_the_remedy(url: object, parts: list[str]) -> None:
    message = refusal(lambda: target_of(url, None, LIMITS))
    assert message.startswith("url: ")
    assert [part for part in parts if part not in message] == []
    assert "s3cret" not in message


def test_the_limit_counts_path_and_query_together() -> None:
    assert len(target_of("/" + "a" * 8189, {"b": ""}, Limits(target=8193))) == 8193
    message = refusal(lambda: target_of("/" + "a" * 8189, {"b": ""}, LIMITS))
    assert "8193 bytes" in message
    assert "limit of 8192" in message
    assert "payload=" in message


PARAMS: list[tuple[str, dict[str, Any], str]] = [
    ("/v?a=1", {"b": 2}, "/v?a=1&b=2"),
    ("/v", {"b": 2}, "/v?b=2"),
    ("/v?", {"b": 2}, "/v?b=2"),
    ("/v?a=1", {}, "/v?a=1"),
    ("/v", {"b": []}, "/v"),
    ("/v", {"b": [1, "x", True], "c": ("y",)}, "/v?b=1&b=x&b=true&c=y"),
    ("/v", {"yes": True, "no": False}, "/v?yes=true&no=false"),
    ("/v", {"f": 1.5, "g": 1e300, "i": -7}, "/v?f=1.5&g=1e%2B300&i=-7"),
    ("/v", {"q": "a b&c=ä/?#%"}, "/v?q=a+b%26c%3D%C3%A4%2F%3F%23%25"),
    ("/v", {"": ""}, "/v?="),
    ("/v", {"page": Page.HOME, "level": Level.HIGH}, "/v?page=%2Fhome&level=3"),
]


@pytest.mark.parametrize(("url", "params", "expected"), PARAMS)
def test_params_are_form_encoded_and_joined_to_the_query(url: str, params: dict[str, Any], expected: str) -> None:
    before = dict(params)
    assert target_of(url, params, LIMITS) == expected
    assert params == before


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "NoneType"),
        (float("nan"), "NaN"),
        (float("-inf"), "infinite"),
        (b"s3cret", "bytes"),
        ({"s3cret": 1}, "dict"),
        ([["s3cret"]], "list"),
        (["s3cret", None], "NoneType"),
        ({"s3cret"}, "set"),
        (Decimal(1), "Decimal"),
    ],
)
def test_a_parameter_without_one_plain_form_is_refused_by_key(value: object, kind: str) -> None:
    message = refusal(lambda: target_of("/v", {"year": value}, LIMITS))
    assert "'year'" in message
    assert kind in message
    assert "s3cret" not in message


@pytest.mark.parametrize("params", ["a=1", [("a", 1)], 7, {1: "x"}, {"a": "\ud800"}, {"\ud800": 1}])
def test_params_of_another_shape_are_refused(params: Any) -> None:
    assert refusal(lambda: target_of("/v", params, LIMITS)).startswith("params: ")


paths = st.lists(st.binary(max_size=8), min_size=1, max_size=4).map(lambda parts: b"/" + b"/".join(parts))


@given(paths)
def test_the_path_can_be_rebuilt_from_what_it_decodes_to(decoded: bytes) -> None:
    """WSGI applications see only the decoded path; the signature covers the encoded one."""
    path = quote_path(decoded)
    ambiguous = decoded.startswith(b"//") or b"\x00" in decoded or {b".", b".."} & set(decoded.split(b"/"))
    if ambiguous:
        assert refusal(lambda: target_of(path, None, LIMITS))
    else:
        assert target_of(path, None, LIMITS) == path
        assert unquote_to_bytes(path) == decoded
        everything_encoded = "".join("/" if byte == ord("/") else f"%{byte:02x}" for byte in decoded)
        assert target_of(everything_encoded, None, LIMITS) == path


@given(st.text(max_size=9) | st.text("/.%2fFeE\\?#&=: \x00a0", max_size=12).map(lambda text: "/" + text))
@example("/%")
@example(".\x00")
def test_any_text_is_canonical_afterwards_or_refused_with_a_remedy_that_works(url: str) -> None:
    try:
        accepted = target_of(url, None, LIMITS)
    except InvalidTask as error:
        suggested = re.search(r"(?:give|give the path:|a slash:) '(/[^']*)'", str(error))
        if suggested and not re.search(r"%(?:2f|00)", suggested[1], re.IGNORECASE):
            assert target_of(suggested[1], None, LIMITS)
        return
    assert re.fullmatch(r"/[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*(\?[A-Za-z0-9\-._~!$&'()*+,;=:@/?%]+)?", accepted)
    assert not accepted.startswith("//")
    assert target_of(accepted, None, LIMITS) == accepted


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))
    )
)
def test_any_text_survives_as_a_parameter(params: dict[str, str]) -> None:
    query = target_of("/v?first=1", params, Limits(target=10**6)).partition("?")[2]
    assert parse_qsl(query, keep_blank_values=True) == [("first", "1"), *params.items()]
    assert parse_qs(query)["first"] == ["1"] or "first" in params


@pytest.mark.accept("CT13")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_six_methods_are_replayed(method: str) -> None:
    assert target.check_method(method, has_body=False) == method


@pytest.mark.accept("CT13")
def test_the_method_follows_from_the_body() -> None:
    assert target.check_method(None, has_body=True) == "POST"
    assert target.check_method(None, has_body=False) == "GET"


@pytest.mark.accept("CT13")
@pytest.mark.parametrize("method", ["", "CONNECT", "TRACE", "OPTIONS", "GET /x", "GET\r\n", "purge", b"GET", 7])
def test_other_methods_are_refused_with_the_list(method: Any) -> None:
    assert "GET, HEAD, POST, PUT, PATCH, DELETE" in refusal(lambda: target.check_method(method, has_body=False))


def test_a_method_in_lower_case_is_refused_with_its_correction() -> None:
    assert "write 'PATCH'" in refusal(lambda: target.check_method("patch", has_body=False))


@pytest.mark.parametrize(
    ("payload", "body"),
    [
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (memoryview(b"abcd").cast("H"), b"abcd"),
        ("ä", b"\xc3\xa4"),
        ("", b""),
    ],
)
def test_a_body_is_bytes_or_text(payload: object, body: bytes) -> None:
    taken = target.check_body(payload, LIMITS)
    assert taken == body
    assert type(taken) is bytes


@pytest.mark.parametrize(
    ("payload", "remedy"),
    [
        ({"a": 1}, "json="),
        ([1], "json="),
        (BytesIO(b"x"), "read a file"),
        (iter([b"x"]), "iterator"),
        (7, "not int"),
        (None, "NoneType"),
        ("\ud800", "surrogate"),
    ],
)
def test_other_payloads_are_refused_with_the_remedy(payload: object, remedy: str) -> None:
    message = refusal(lambda: target.check_body(payload, LIMITS))
    assert message.startswith("payload: ")
    assert remedy in message


def test_a_body_over_the_limit_is_refused_with_both_sizes() -> None:
    assert len(target.check_body("ä" * 5, Limits(body=10))) == 10
    for call in (
        lambda: target.check_body("ä" * 6, Limits(body=10)),
        lambda: target.check_body(bytes(12), Limits(body=10)),
        lambda: target.json_body("a" * 10, Limits(body=10)),
    ):
        message = refusal(call)
        assert "12 bytes" in message
        assert "limit of 10" in message


def test_json_is_compact_utf8() -> None:
    assert target.json_body({"a": [1, None, "ä"]}, LIMITS) == '{"a":[1,null,"ä"]}'.encode()
    assert target.json_body(None, LIMITS) == b"null"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {b"s3cret"}, {("s3cret",): 1}, "\ud800"])
def test_what_has_no_json_form_is_refused(value: object) -> None:
    message = refusal(lambda: target.json_body(value, LIMITS))
    assert message.startswith("json: ")
    assert "s3cret" not in message


def test_circular_data_is_refused() -> None:
    circle: list[object] = []
    circle.append(circle)
    assert "circular" in refusal(lambda: target.json_body(circle, LIMITS))


@pytest.mark.parametrize("user_id", ["bob", "Zoë", "a b@example.org", "x" * 256, None])
def test_a_user_id_is_short_text_or_nobody(user_id: str | None) -> None:
    assert target.check_user_id(user_id) == user_id


@pytest.mark.parametrize(
    ("user_id", "reason"),
    [
        (7, "str(user.id)"),
        (b"bob", "bytes"),
        ("", "None for a task without a user"),
        ("x" * 257, "257 characters are over the limit of 256"),
        ("bob\r\nX-Admin: 1", "U+000D at position 3"),
        ("bob\x85", "U+0085 at position 3"),
        ("bob\ud800", "U+D800 at position 3"),
    ],
)
def test_other_user_ids_are_refused(user_id: object, reason: str) -> None:
    message = refusal(lambda: target.check_user_id(user_id))
    assert message.startswith("user_id: ")
    assert reason in message
    assert "bob" not in message


@pytest.mark.parametrize("label", ["", "monthly report", "x" * 200])
def test_a_label_is_short_text(label: str) -> None:
    assert target.check_label(label) == label


@pytest.mark.parametrize(
    ("label", "reason"), [("x" * 201, "201"), ("a\nb", "U+000A at position 1"), (None, "NoneType")]
)
def test_other_labels_are_refused(label: object, reason: str) -> None:
    message = refusal(lambda: target.check_label(label))
    assert message.startswith("label: ")
    assert reason in message


@pytest.mark.parametrize("name", ["default", "mail-2", "0", "a" * 64])
def test_queue_names(name: str) -> None:
    assert target.check_queue_name(name) == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Mail_Host.2", "'mail-host-2' would do"),
        ("a" * 65, "1 to 64"),
        ("{q}", "'q' would do"),
        ("a:b", "'a-b' would do"),
        ("mail\n", "'mail' would do"),
        ("", "a-z, 0-9 and '-'"),
        (None, "NoneType"),
    ],
)
def test_other_queue_names_are_refused_with_one_that_would_do(name: object, hint: str) -> None:
    with pytest.raises(ConfigError, match=r"^queue: ") as caught:
        target.check_queue_name(name)
    assert hint in str(caught.value)


def test_consumer_names() -> None:
    for name in ("instance1", "web-1.example_A", "x" * 64):
        assert target.check_consumer_name(name) == name
    for wrong in ("", "a b", "a:b", "x" * 65, "x\n", "ä", None):
        with pytest.raises(ConfigError, match="instance1"):
            target.check_consumer_name(wrong)
