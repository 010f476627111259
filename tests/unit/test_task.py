"""A task is decoded to what was encoded; whatever else stands in a record is refused, and costs no memory."""

import tracemalloc
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskqueue import task as task_module
from taskqueue.errors import RecordError
from taskqueue.task import SealedTask, Task, total_bytes

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MS = st.integers(min_value=0, max_value=2**53)
TASKS = st.builds(
    Task,
    id=TEXT,
    queue=TEXT,
    method=TEXT,
    target=TEXT,
    host=TEXT,
    scheme=TEXT,
    headers=st.lists(st.tuples(TEXT, TEXT), max_size=4).map(tuple),
    body=st.binary(max_size=200),
    user_id=st.none() | TEXT,
    created=MS,
    expires=MS,
    label=TEXT,
    timeout=st.none() | st.floats(allow_nan=False),
    retry_max_count=st.none() | st.integers(min_value=0, max_value=1000),
    parent=TEXT,
    route=TEXT,
    child=st.booleans(),
    master_status=st.booleans(),
    on_success=TEXT,
    on_failure=TEXT,
)
FIELDS = ("GET", "/", "", "", (), b"", None, 0, 0, "", None, None, "", "", False, False, "", "")


def refusal(raw: bytes) -> str:
    """Return the message with which these bytes are refused."""
    with pytest.raises(RecordError) as caught:
        Task.decode("id-1", "default", raw)
    assert caught.value.reason == "format"
    assert "id-1" in str(caught.value)
    return str(caught.value)


def packed(**changed: object) -> bytes:
    """Return a record's inside with some of its fields changed."""
    names = ("method", "target", "host", "scheme", "headers", "body", "user_id", "created", "expires", "label")
    at = {name: index for index, name in enumerate((*names, "timeout", "retry_max_count"))}
    fields = list(FIELDS)
    for name, value in changed.items():
        fields[at[name]] = value  # type: ignore[call-overload]
    return bytes(msgpack.packb(fields))


@given(TASKS)
@settings(max_examples=100, deadline=None)
def test_what_was_encoded_is_decoded(task: Task) -> None:
    assert Task.decode(task.id, task.queue, task.encode()) == task


def test_id_queue_and_due_travel_beside_the_record() -> None:
    task = Task(id="the-id", queue="the-queue", method="GET", target="/", due=123)
    assert b"the-" not in task.encode()
    assert Task.decode("other", "mail", task.encode()) == replace(task, id="other", queue="mail", due=0)


def test_the_fields_are_in_the_order_that_stored_records_have() -> None:
    task = Task(id="id-1", queue="default", method="GET", target="/")
    assert msgpack.unpackb(task.encode(), use_list=False) == FIELDS
    assert Task.decode("id-1", "default", packed()) == task
    # A record of before there were parents, routes and what follows.
    assert Task.decode("id-1", "default", bytes(msgpack.packb(FIELDS[:12]))) == task


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_other_bytes_are_refused(raw: bytes) -> None:
    refusal(raw)


@given(TASKS, st.data())
@settings(max_examples=50, deadline=None)
def test_a_record_cut_short_or_with_something_behind_it_is_refused(task: Task, data: st.DataObject) -> None:
    raw = task.encode()
    refusal(raw[: data.draw(st.integers(0, len(raw) - 1))])
    refusal(raw + data.draw(st.binary(min_size=1, max_size=5)))


@pytest.mark.parametrize(
    "fields",
    [
        {"method": b"GET"},
        {"target": None},
        {"host": 1},
        {"scheme": ["http"]},
        {"headers": "ab"},
        {"headers": ["ab"]},
        {"headers": [["a"]]},
        {"headers": [["a", "b", "c"]]},
        {"headers": [["a", b"b"]]},
        {"headers": [["a", 1]]},
        {"body": "text"},
        {"body": None},
        {"user_id": 7},
        {"user_id": b"ada"},
        {"created": 1.5},
        {"created": True},
        {"expires": "1"},
        {"label": None},
        {"timeout": "5"},
        {"timeout": False},
        {"retry_max_count": 1.0},
        {"retry_max_count": True},
    ],
    ids=str,
)
def test_a_field_of_another_type_is_refused_by_name(fields: dict[str, object]) -> None:
    assert next(iter(fields)) in refusal(packed(**fields))


@pytest.mark.parametrize("fields", [FIELDS[:-1], (*FIELDS, None), (), None, 1, b"", dict.fromkeys("abcdefghijkl", 1)])
def test_another_number_of_fields_is_refused(fields: object) -> None:
    refusal(bytes(msgpack.packb(fields)))


@pytest.mark.parametrize(
    "value",
    [
        msgpack.ExtType(1, b""),
        msgpack.ExtType(1, b"data"),
        msgpack.ExtType(127, b"x" * 300),
        msgpack.Timestamp(1),
        {},
        {1: 2},
        {"a": 1},
    ],
    ids=repr,
)
def test_extension_types_and_maps_are_refused(value: object) -> None:
    refusal(packed(headers=value))
    refusal(packed(headers=[["a", value]]))


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of 4 billion
        b"\xdf\xff\xff\xff\xff",  # a map of as many
        b"\xc6\xff\xff\xff\xff",  # bytes
        b"\xdb\xff\xff\xff\xff",  # text
        b"\xc9\xff\xff\xff\xff\x01",  # an extension
        b"\xdd\x00\x0f\x00\x00" * 500,  # arrays in arrays, each of nearly as many items as there are bytes
        b"\x91" * 100_000,  # as deep as it goes
    ],
    ids=lambda bomb: bomb[:5].hex(),
)
def test_a_bomb_is_refused_and_costs_no_memory(bomb: bytes) -> None:
    raw = bomb + b"\x00" * (1024 * 1024)
    tracemalloc.start()
    try:
        refusal(raw)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_record_over_the_limit_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Task(id="id-1", queue="default", method="GET", target="/").encode()
    monkeypatch.setattr(task_module, "MAX_RECORD_BYTES", len(raw) - 1)
    assert f"{len(raw)} bytes" in refusal(raw)


def test_more_headers_than_any_limit_allows_are_refused() -> None:
    most = task_module.MAX_ARRAY
    assert len(Task.decode("id-1", "default", packed(headers=[["a", ""]] * most)).headers) == most
    refusal(packed(headers=[["a", ""]] * (most + 1)))


def test_the_path_may_be_shown_and_the_query_not() -> None:
    task = Task(id="id-1", queue="default", method="GET", target="/a/b?token=1?2")
    assert task.path == "/a/b"


def test_the_size_counts_target_headers_and_body() -> None:
    task = Task(id="id-1", queue="q", method="GET", target="/12", headers=(("a", "bc"), ("d", "")), body=b"12345")
    assert task.size == 3 + (1 + 2 + 4) + (1 + 4) + 5


def test_the_bytes_of_sealed_tasks_are_those_of_their_records() -> None:
    assert total_bytes([]) == 0
    assert (
        total_bytes([SealedTask("a", "q", b"12", 0, "GET", "/", ""), SealedTask("b", "q", b"3", 0, "GET", "/", "")])
        == 3
    )
