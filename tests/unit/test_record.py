"""From the arguments of add, and the request that runs, to a task. What is wrong is told by name, with the remedy."""

import io
import math
import re
import uuid
import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yarl

from taskqueue import record
from taskqueue.errors import BodyUnavailable, InvalidTask, UnknownQueue
from taskqueue.record import Draft, Frame, draft
from taskqueue.request import CURRENT, CurrentRequest, CurrentTask
from taskqueue.target import Limits
from taskqueue.task import Task

NOW = 1_790_000_000_000
DAY = 24 * 3600 * 1000
OUTSIDE = Frame(("default", "mail"), Limits(), ("", ""), None)


@dataclass(frozen=True)
class Upload:
    """The body of a request that nobody reads here."""

    declared: int | None = None

    def fetch(self) -> None:
        raise AssertionError("drafting a task reads no body")

    async def finish(self, limit: int) -> bytes:
        raise AssertionError("drafting a task reads no body")


REQUEST = CurrentRequest(
    headers=(
        ("Host", "www.example.org"),
        ("Cookie", "session=canary-cookie"),
        ("Authorization", "Bearer canary-token"),
        ("Content-Type", "application/json"),
        ("Content-Language", "de"),
        ("Content-Length", "2"),
        ("Accept-Language", "de"),
        ("X-Trace", "one"),
        ("X-Task-Id", "canary-forged"),
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "1"),
    ),
    host="www.example.org",
    scheme="https",
    body=Upload(2),
    user_id=lambda: "ada",
)
INSIDE = replace(OUTSIDE, request=REQUEST)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_now_ms", lambda: NOW)


def drafted(
    url: object = "/x",
    method: str | None = None,
    params: Any = None,
    headers: Any = None,
    payload: Any = CURRENT,
    queue: Any = None,
    *,
    frame: Frame = OUTSIDE,
    **options: Any,
) -> Draft:
    """Return what add would record."""
    return draft(frame, url, method, params, headers, payload, queue, **options)


def made(*args: Any, **options: Any) -> Task:
    """Return the task that add would record."""
    return drafted(*args, **options).task


def refusal(*args: Any, kind: type[Exception] = InvalidTask, **options: Any) -> str:
    """Return the message with which add refuses."""
    with pytest.raises(kind) as caught:
        drafted(*args, **options)
    assert "canary" not in str(caught.value)
    return str(caught.value)


def headers_of(task: Task) -> dict[str, str]:
    """Return a task's headers; none stands there twice."""
    assert len(dict(task.headers)) == len(task.headers)
    return dict(task.headers)


# Bad input: each row says what is wrong and what would be right.

BAD_URLS: list[tuple[object, list[str]]] = [
    ("", ["url: ", "'/"]),
    (b"/x", ["url: ", "not bytes"]),
    (None, ["url: ", "not NoneType"]),
    (PurePosixPath("/x"), ["url: ", "not PurePosixPath"]),
    ("reindex", ["url: ", "'/reindex'"]),
    ("?x=1", ["url: ", "path is empty", "'/reports/build'"]),
    ("//host/x", ["url: ", "'/x'"]),
    ("/\\host", ["url: "]),
    ("http://host/x", ["url: ", "'/x'"]),
    ("file:///etc/passwd", ["url: "]),
    ("https://ada:canary@host/x", ["url: ", "'/x'"]),
    ("/a\rb", ["url: ", "U+000D at position 2", "'/a%0Db'"]),
    ("/a\nb", ["url: ", "U+000A at position 2", "'/a%0Ab'"]),
    ("/a\0b", ["url: ", "U+0000 at position 2", "'/ab'"]),
    ("/a\tb", ["url: ", "U+0009 at position 2", "'/a%09b'"]),
    ("/a b", ["url: ", "' '", "%20"]),
    ("/ü", ["url: ", "'ü'", "%C3%BC"]),
    ("/a%2Fb", ["url: ", "%2F"]),
    ("/a%00b", ["url: ", "%00"]),
    ("/a%zzb", ["url: ", "%"]),
    ("/a/../b", ["url: ", ".."]),
    ("/a/%2e%2e/b", ["url: "]),
    ("/a/./b", ["url: "]),
    ("/x#part", ["url: ", "fragment", "'/x'"]),
    ("/" + "x" * 8192, ["url: ", "8193 bytes", "limit of 8192"]),
]


@pytest.mark.parametrize(("url", "parts"), BAD_URLS, ids=lambda value: repr(value)[:30])
def test_a_bad_url_is_refused(url: object, parts: Sequence[str]) -> None:
    message = refusal(url)
    assert [part for part in parts if part not in message] == [], message


ROWS: list[tuple[dict[str, Any], list[str]]] = [
    ({"params": {"a": None}}, ["params: ", "'a'", "NoneType"]),
    ({"params": {"a": {"b": 1}}}, ["params: ", "'a'", "dict", "json="]),
    ({"params": {"a": [[1]]}}, ["params: ", "'a'", "list"]),
    ({"params": {"a": math.nan}}, ["params: ", "'a'", "NaN"]),
    ({"params": {"a": b"canary"}}, ["params: ", "'a'", "bytes"]),
    ({"params": {"a": Decimal(1)}}, ["params: ", "'a'", "Decimal", "str()"]),
    ({"params": {1: "canary"}}, ["params: ", "key 1 is int"]),
    ({"params": "a=1"}, ["params: ", "mapping", "not str"]),
    ({"params": {"a": "x" * 9000}}, ["url: ", "limit of 8192", "payload="]),
    ({"method": "get"}, ["method: ", "'get'", "write 'GET'"]),
    ({"method": "GET /x"}, ["method: ", "'GET /x'", "GET, HEAD, POST, PUT, PATCH, DELETE"]),
    ({"method": ""}, ["method: ", "''"]),
    ({"method": "CONNECT"}, ["method: ", "'CONNECT'", "is not replayed"]),
    ({"method": "TRACE"}, ["method: ", "'TRACE'", "is not replayed"]),
    ({"method": "OPTIONS"}, ["method: ", "'OPTIONS'", "is not replayed"]),
    ({"headers": {"X Name": "canary"}}, ["headers: ", "'X Name'"]),
    ({"headers": {"X:Name": "canary"}}, ["headers: ", "'X:Name'"]),
    ({"headers": {"X_Name": "canary"}}, ["headers: ", "'X_Name'", "'-'"]),
    ({"headers": {"": "canary"}}, ["headers: ", "''"]),
    ({"headers": {"X-Ü": "canary"}}, ["headers: ", "'X-Ü'"]),
    ({"headers": {"X-Name": "canary\r\nEvil: 1"}}, ["headers: ", "'X-Name'", "control character"]),
    ({"headers": {"X-Name": "canary\udc80"}}, ["headers: ", "'X-Name'", "not ASCII"]),
    ({"headers": {"X-Name": 7}}, ["headers: ", "'X-Name'", "int", "str"]),
    ({"headers": {"Cookie": "x" * 40_000}}, ["headers: ", "limit of 32768", "payload"]),
    ({"headers": {"Host": "canary/x"}}, ["headers: ", "'host'", "example.org"]),
    ({"payload": {"a": 1}}, ["payload: ", "not dict", "json="]),
    ({"payload": iter([b""])}, ["payload: ", "read a file or an iterator to its end first"]),
    ({"payload": io.BytesIO(b"")}, ["payload: ", "not BytesIO", "read a file"]),
    ({"payload": 7}, ["payload: ", "not int"]),
    ({"payload": "canary\udc80"}, ["payload: ", "surrogate"]),
    (
        {"payload": b"x" * (10 * 1024 * 1024 + 1)},
        ["payload: ", "10485761 bytes", "limit of 10485760", "store the data"],
    ),
    ({"json": {"a": "x" * (10 * 1024 * 1024)}}, ["json: ", "limit of 10485760", "store the data"]),
    ({"json": {"a": math.nan}}, ["json: ", "NaN"]),
    ({"json": {"a": object()}}, ["json: ", "object", "convert"]),
    ({"json": 1, "payload": b"canary"}, ["payload: ", "either payload or json"]),
    ({"json": 1, "payload": None}, ["payload: ", "either payload or json"]),
    ({"eta": datetime(2030, 1, 1)}, ["eta: ", "no time zone", "datetime.now(UTC)"]),  # noqa: DTZ001
    ({"eta": math.nan}, ["eta: ", "datetime is needed, not float"]),
    ({"eta": "2030-01-01"}, ["eta: ", "datetime is needed, not str"]),
    ({"eta": datetime.max.replace(tzinfo=UTC)}, ["eta: ", "over 365 days"]),
    ({"delay": math.nan}, ["delay: ", "nan"]),
    ({"delay": math.inf}, ["delay: ", "inf"]),
    ({"delay": -1}, ["delay: ", "-1", "from 0 up"]),
    ({"delay": timedelta(seconds=-1)}, ["delay: ", "-1.0", "from 0 up"]),
    ({"delay": timedelta(days=365, milliseconds=1)}, ["delay: ", "over 365 days"]),
    ({"delay": 10**400}, ["delay: ", "over 365 days"]),
    ({"delay": "5"}, ["delay: ", "seconds or a timedelta is needed, not str"]),
    ({"delay": True}, ["delay: ", "not bool"]),
    ({"delay": Decimal(1)}, ["delay: ", "not Decimal"]),
    ({"delay": 1, "eta": datetime.now(UTC)}, ["delay: ", "either delay or eta"]),
    ({"user_id": 7}, ["user_id: ", "not int", "str(user.id)"]),
    ({"user_id": ""}, ["user_id: ", "empty", "None"]),
    ({"user_id": "u" * 257}, ["user_id: ", "257 characters", "limit of 256"]),
    ({"user_id": "canary\n"}, ["user_id: ", "control character"]),
    ({"user_id": object()}, ["user_id: ", "not object"]),
    ({"label": "x" * 201}, ["label: ", "201 characters", "limit of 200"]),
    ({"label": "canary\x1b[0m"}, ["label: ", "control character"]),
    ({"label": b""}, ["label: ", "not bytes"]),
    ({"label": 0}, ["label: ", "not int"]),
    ({"timeout": 0}, ["timeout: ", "0 must be seconds above 0, at most 86400"]),
    ({"timeout": -1.5}, ["timeout: ", "-1.5"]),
    ({"timeout": math.nan}, ["timeout: ", "nan"]),
    ({"timeout": 86_400.5}, ["timeout: ", "86400.5"]),
    ({"timeout": "5"}, ["timeout: ", "'5'"]),
    ({"timeout": True}, ["timeout: ", "True"]),
    ({"retry_max_count": -1}, ["retry_max_count: ", "-1 must be a whole number from 0 to 1000"]),
    ({"retry_max_count": 1001}, ["retry_max_count: ", "1001"]),
    ({"retry_max_count": 1.0}, ["retry_max_count: ", "1.0"]),
    ({"retry_max_count": True}, ["retry_max_count: ", "True"]),
]


@pytest.mark.parametrize(("arguments", "parts"), ROWS, ids=lambda value: re.sub("0x[0-9a-f]+", "", repr(value))[:50])
def test_bad_input_is_refused_by_name_with_the_rule(arguments: dict[str, Any], parts: Sequence[str]) -> None:
    message = refusal(**arguments)
    assert [part for part in parts if part not in message] == [], message


OURS = (
    *("Content-Length", "Transfer-Encoding", "Connection", "Expect", "TE", "Upgrade", "Trailer", "Keep-Alive"),
    *("Proxy-Authorization", "X-Task-Id", "X-Task-User-Id", "Signature", "Signature-Input", "Content-Digest"),
    *("User-Agent", "Idempotency-Key"),
)


@pytest.mark.parametrize("name", OURS)
def test_what_a_delivery_sets_is_refused_from_the_caller_and_dropped_from_the_request(name: str) -> None:
    assert f"'{name}' is set by each delivery itself" in refusal(headers={name: "canary"})
    arrived = replace(REQUEST, headers=((name, "canary"), ("X-Kept", "1")))
    assert made(frame=replace(OUTSIDE, request=arrived)).headers == (("x-kept", "1"),)


@pytest.mark.parametrize("name", ["", "Mail", "mailx", "{mail}", "default,mail", "m" * 65, 7, b"mail", ["mail"]])
@pytest.mark.accept("CT14")
def test_an_unknown_queue_is_refused_with_those_there_are(name: object) -> None:
    message = refusal(queue=name, kind=UnknownQueue)
    assert message.startswith(f"queue: {name!r} is not one of default, mail; ")
    assert "queues=" in message


def test_every_refusal_is_caught_as_a_value_error_or_a_type_error_too() -> None:
    for kind in (ValueError, TypeError):
        with pytest.raises(kind):
            drafted("//host")


# The target and the queue.


@pytest.mark.accept("CT07")
def test_params_are_joined_to_the_query() -> None:
    assert made("/v?a=1", params={"b": 2}).target == "/v?a=1&b=2"
    assert made(yarl.URL("https://example.org/v?a=1"), params={"b": [True, "ä"]}).target == "/v?a=1&b=true&b=%C3%A4"


@pytest.mark.accept("CT14")
def test_the_queue_is_default_or_else_the_first_in_the_alphabet() -> None:
    assert made().queue == "default"
    assert made(queue="mail").queue == "mail"
    assert made(frame=replace(OUTSIDE, queues=("zebra", "mail"))).queue == "mail"


def test_an_id_is_a_uuid_of_its_own() -> None:
    first, second = made().id, made().id
    assert first != second
    assert str(uuid.UUID(first, version=4)) == first


# Method and body.


@pytest.mark.accept("CT13")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_these_methods_are_replayed(method: str) -> None:
    assert made(method=method).method == method


@pytest.mark.accept("CT13")
def test_the_method_follows_from_what_was_given() -> None:
    assert made().method == "GET"
    assert made(frame=INSIDE).method == "GET", "the running request's method is no matter"
    assert made(payload=None).method == "GET"
    assert made(payload=b"").method == "POST"
    assert made(json=None).method == "POST"
    assert made(json={}, method="PUT").method == "PUT"


@pytest.mark.accept("CT11")
@pytest.mark.parametrize(
    ("payload", "body"),
    [(b"\0\xff", b"\0\xff"), (bytearray(b"ab"), b"ab"), (memoryview(b"ab"), b"ab"), ("ä", b"\xc3\xa4")],
)
def test_a_payload_is_taken_as_given(payload: object, body: bytes) -> None:
    for frame in (OUTSIDE, INSIDE):
        drawn = drafted(payload=payload, frame=frame)
        assert (drawn.task.body, drawn.copies_body) == (body, False)
        assert not [name for name, _ in drawn.task.headers if name.startswith("content-")]


def test_what_the_caller_does_to_a_payload_afterwards_is_no_matter() -> None:
    payload = bytearray(b"before")
    task = made(payload=payload)
    payload[:] = b"after!"
    assert task.body == b"before"


def test_json_brings_its_content_type_unless_the_caller_names_one() -> None:
    task = made(json={"a": ["ä", None]}, frame=INSIDE)
    assert task.body == '{"a":["ä",null]}'.encode()
    assert headers_of(task)["content-type"] == "application/json"
    assert "content-language" not in headers_of(task)
    own = made(json={}, headers={"CONTENT-Type": "application/problem+json"})
    assert own.headers == (("content-type", "application/problem+json"),)
    assert made(json=None).body == b"null"


@pytest.mark.accept("CT11")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_payload_none_is_an_empty_body(method: str) -> None:
    drawn = drafted(method=method, payload=None, frame=INSIDE)
    assert (drawn.task.body, drawn.copies_body) == (b"", False)
    assert not [name for name, _ in drawn.task.headers if name.startswith("content-")]


@pytest.mark.accept("CT12")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_the_requests_body_is_copied_with_its_content_headers_if_the_method_carries_one(method: str) -> None:
    drawn = drafted(method=method, frame=INSIDE)
    assert (drawn.task.body, drawn.copies_body) == (b"", True)
    assert headers_of(drawn.task)["content-type"] == "application/json"
    assert headers_of(drawn.task)["content-language"] == "de"
    assert "content-length" not in headers_of(drawn.task)


@pytest.mark.parametrize("method", ["GET", "HEAD", None])
def test_a_method_without_a_body_copies_none(method: str | None) -> None:
    drawn = drafted(method=method, frame=INSIDE)
    assert not drawn.copies_body
    assert not [name for name, _ in drawn.task.headers if name.startswith("content-")]


@pytest.mark.parametrize("frame", [OUTSIDE, replace(OUTSIDE, request=replace(REQUEST, body=None))])
def test_where_there_is_no_body_none_is_copied(frame: Frame) -> None:
    drawn = drafted(method="POST", frame=frame)
    assert not drawn.copies_body
    assert "content-type" not in headers_of(drawn.task)


def test_a_body_that_says_it_is_too_long_is_refused_at_once() -> None:
    limits = Limits(body=100)
    for declared, fits in ((100, True), (None, True), (101, False)):
        frame = replace(OUTSIDE, limits=limits, request=replace(REQUEST, body=Upload(declared)))
        if fits:
            assert drafted(method="POST", frame=frame).copies_body
            continue
        with pytest.raises(BodyUnavailable, match="has 101 bytes, over the limit of 100; give payload=None") as caught:
            drafted(method="POST", frame=frame)
        assert caught.value.status == 413
        assert drafted(method="POST", payload=None, frame=frame).task.body == b""


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_body_that_servers_may_ignore_is_warned_of_where_it_was_given(method: str) -> None:
    with pytest.warns(UserWarning, match=f"payload: servers may ignore the body of a {method}; give method='POST'"):
        assert made(method=method, payload=b"x").body == b"x"
    with warnings.catch_warnings(action="error"):
        made(method=method, payload=b"")


# Headers, host, user.


@pytest.mark.accept("CT08")
def test_end_to_end_headers_are_copied() -> None:
    assert headers_of(made(frame=INSIDE)) == {
        "cookie": "session=canary-cookie",
        "authorization": "Bearer canary-token",
        "accept-language": "de",
        "x-trace": "one",
    }


@pytest.mark.accept("CT08")
@pytest.mark.parametrize("name", ["X-Trace", "x-trace", "X-TRACE"])
def test_the_callers_header_wins_in_any_spelling_and_his_dict_stays_as_it_was(name: str) -> None:
    own = {name: "two", "Cookie": "mine=1", "X-New": "3"}
    before = dict(own)
    headers = headers_of(made(headers=own, frame=INSIDE))
    assert own == before
    assert (headers["x-trace"], headers["cookie"], headers["x-new"]) == ("two", "mine=1", "3")


def test_the_callers_content_type_wins_over_that_of_the_copied_body() -> None:
    drawn = drafted(method="POST", headers={"Content-Type": "text/plain"}, frame=INSIDE)
    assert drawn.copies_body
    assert headers_of(drawn.task)["content-type"] == "text/plain"


def test_own_and_copied_headers_together_keep_the_limit() -> None:
    crowded = replace(REQUEST, headers=(("X-A", "a" * 20_000),))
    made(headers={"X-B": "b" * 12_000}, frame=replace(OUTSIDE, request=crowded))
    message = refusal(headers={"X-B": "b" * 13_000}, frame=replace(OUTSIDE, request=crowded))
    assert "the current request's included" in message
    assert "limit of 32768" in message


@pytest.mark.accept("CT08")
def test_host_and_scheme_are_those_the_public_used() -> None:
    assert (made().host, made().scheme) == ("", "")
    public = replace(OUTSIDE, public=("https", "public.example.org"))
    assert (made(frame=public).scheme, made(frame=public).host) == ("https", "public.example.org")
    inside = made(frame=replace(public, request=REQUEST))
    assert (inside.scheme, inside.host) == ("https", "www.example.org")
    own = made(headers={"HOST": "tenant.example.org:8080"}, frame=INSIDE)
    assert own.host == "tenant.example.org:8080"
    assert "host" not in headers_of(own)


def test_the_user_is_the_running_requests() -> None:
    assert made().user_id is None
    assert made(frame=INSIDE).user_id == "ada"
    for nobody in (replace(REQUEST, user_id=None), replace(REQUEST, user_id=lambda: None)):
        assert made(frame=replace(OUTSIDE, request=nobody)).user_id is None


def test_a_user_that_is_no_id_is_refused_like_one_that_was_given() -> None:
    numbered: Callable[[], Any] = lambda: 7  # noqa: E731
    message = refusal(frame=replace(OUTSIDE, request=replace(REQUEST, user_id=numbered)))
    assert message.startswith("user_id: str or None is needed, not int")


@pytest.mark.parametrize("user_id", ["bob", None])
def test_a_task_for_somebody_else_carries_no_session_of_this_user(user_id: str | None) -> None:
    drawn = drafted(user_id=user_id, frame=INSIDE)
    assert drawn.task.user_id == user_id
    assert headers_of(drawn.task) == {"accept-language": "de", "x-trace": "one"}
    own = made(user_id=user_id, headers={"Cookie": "mine=1"}, frame=INSIDE)
    assert headers_of(own)["cookie"] == "mine=1", "what the caller gives on purpose stays"


def test_a_door_that_loads_users_itself_copies_no_credentials() -> None:
    task = made(frame=replace(OUTSIDE, request=replace(REQUEST, credentials=False)))
    assert task.user_id == "ada"
    assert headers_of(task) == {"accept-language": "de", "x-trace": "one"}


def test_a_user_that_must_be_awaited_is_left_to_the_commit() -> None:
    def later() -> Awaitable[str | None]:
        raise AssertionError("add awaits nothing")

    frame = replace(OUTSIDE, request=replace(REQUEST, user_id=None, user_id_later=later))
    assert drafted(frame=frame).copies_user
    assert not drafted(user_id=None, frame=frame).copies_user
    assert not drafted(user_id="bob", frame=frame).copies_user
    assert not drafted(frame=INSIDE).copies_user


# Times, label, and what overrides the server's settings.


@pytest.mark.parametrize(
    ("delay", "ms"),
    [(0, 0), (1, 1000), (0.25, 250), (timedelta(minutes=1), 60_000), (timedelta(days=365), 365 * DAY), (0.0001, 0)],
)
def test_a_delay_counts_from_the_commit(delay: float | timedelta, ms: int) -> None:
    task = made(delay=delay)
    assert (task.due, task.created) == (-ms, NOW)
    assert task.expires == NOW + ms + 35 * DAY


def at(ms: int, zone: tzinfo = UTC) -> datetime:
    """Return this time as a datetime."""
    return datetime.fromtimestamp(ms / 1000, zone)


@pytest.mark.parametrize("zone", [UTC, ZoneInfo("Asia/Kathmandu")], ids=str)
def test_an_eta_is_a_time_of_its_own_zone(zone: tzinfo) -> None:
    task = made(eta=at(NOW + 90_000, zone))
    assert task.due == NOW + 90_000
    assert task.expires == NOW + 90_000 + 35 * DAY


@pytest.mark.parametrize("ms", [NOW, NOW - 1, 0, -1])
def test_an_eta_that_is_over_means_now(ms: int) -> None:
    task = made(eta=at(ms))
    assert (task.due, task.expires) == (0, NOW + 35 * DAY)


def test_an_eta_may_be_a_year_ahead_and_no_more() -> None:
    assert made(eta=at(NOW + 365 * DAY)).due == NOW + 365 * DAY
    assert "eta: over 365 days ahead" in refusal(eta=at(NOW + 365 * DAY + 1))


def test_what_is_not_given_is_left_to_the_server() -> None:
    task = made()
    assert (task.due, task.label, task.timeout, task.retry_max_count) == (0, "", None, None)
    assert task.expires == NOW + 35 * DAY


def test_what_is_given_is_recorded() -> None:
    task = made(label="Report 2026", timeout=30, retry_max_count=0)
    assert (task.label, task.timeout, task.retry_max_count) == ("Report 2026", 30.0, 0)
    assert isinstance(task.timeout, float)
    assert made(timeout=86_400).timeout == 86_400


def test_whatever_add_accepts_survives_its_encoding() -> None:
    task = made(
        "/ä?q=1".replace("ä", "%C3%A4"),
        method="POST",
        payload="ä",
        headers={"X-A": "b"},
        user_id="ådä",
        label="ü",
        timeout=1,
        retry_max_count=1000,
    )
    assert Task.decode(task.id, task.queue, task.encode()) == task


@pytest.mark.parametrize("manual", [False, True])
def test_a_task_run_by_hand_waits_for_nothing_that_it_adds(manual: bool) -> None:  # noqa: FBT001  a parameter of the test
    task = CurrentTask(
        id="id-1",
        queue="mail",
        user_id=None,
        user=None,
        attempt=1,
        delivery=0 if manual else 1,
        max_attempts=1,
        enqueued_at=NOW,
        deadline=NOW,
        manual=manual,
    )
    frame = replace(OUTSIDE, request=replace(REQUEST, task=task))
    made = draft(frame, "/x", "GET", None, None, CURRENT, None, child=True).task
    assert (made.parent, made.queue, made.child) == ("id-1", "mail", not manual)


@pytest.mark.parametrize("end", ["on_success", "on_failure"])
def test_a_wrong_target_of_what_follows_is_told_by_its_own_name(end: str) -> None:
    options: dict[str, Any] = {end: "mail"}
    assert refusal(**options) == f"{end}: the path must start with a slash; give '/mail'"


def test_a_misspelt_argument_is_an_error() -> None:
    told = refusal(on_sucess="/mail")
    assert told.startswith("on_sucess: add takes no such argument; did you mean on_success? It takes child, delay, ")
    told = refusal(parms={"a": 1})
    assert told.startswith("parms: add takes no such argument; did you mean params? It takes child, ")
    assert refusal(zzz=1).startswith("zzz: add takes no such argument; it takes child, ")
