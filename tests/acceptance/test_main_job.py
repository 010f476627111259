"""The main job from end to end: a browser's request, its tasks, a consumer, and the application again.

Over HTTP and in process, in two frameworks: the same views, the same promises.
"""

import io
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import taskqueue
from taskqueue.errors import InvalidTask
from taskqueue.replay import VERSION, Replayer
from tests import shop as shops
from tests.invariants import assert_invariants
from tests.rights import granted, refused
from tests.servers import RedisServer
from tests.shop import Arrived, Reply, Shop, consuming, open_shop
from tests.waiting import until


@pytest.fixture(params=shops.WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(way: str, any_server: RedisServer) -> Iterator[str]:
    """Where a consumer of this way finds the queues: as a user with the rights of its role and no more."""
    yield granted(any_server, "app" if way.endswith("in process") else "consumer")
    assert refused(any_server) == []


@pytest.fixture
def door_url(way: str, any_server: RedisServer) -> str:
    """Where the application finds them; a consumer in its process is the same user."""
    return granted(any_server, "app" if way.endswith("in process") else "door")


@pytest.fixture
async def opened(way: str, any_server: RedisServer, door_url: str) -> AsyncIterator[tuple[Shop, Replayer]]:
    async with open_shop(way, door_url, task_only=["/tasks/"]) as both:
        yield both
    assert_invariants(any_server.client())


async def one_arrived(shop: Shop, replayer: Replayer, url: str) -> Arrived:
    """Consume until one task is done; return how it arrived."""
    async with consuming(url, replayer):
        await shop.finished(1)
    (arrived,) = shop.arrived
    return arrived


@pytest.mark.accept("CT06", "CT40")
async def test_a_thousand_of_one_request_run_once_each_and_in_order(shop: Shop, replayer: Replayer, url: str) -> None:
    await shop.order(lambda: [taskqueue.add(f"/{number}") for number in range(1000)])
    async with consuming(url, replayer):
        await shop.finished(1000)
    assert [target for target, _ in shop.done] == [f"/{number}" for number in range(1000)]


@pytest.mark.accept("CT07")
async def test_parameters_are_joined_to_the_url(shop: Shop, replayer: Replayer, url: str) -> None:
    await shop.order(lambda: taskqueue.add("/v?a=1", params={"b": 2, "c": ["x y", "é"], "d": True}))
    arrived = await one_arrived(shop, replayer, url)
    assert arrived.target == "/v?a=1&b=2&c=x+y&c=%C3%A9&d=true"


@pytest.mark.accept("CT08", "CT09")
async def test_headers_are_copied_and_overridden_in_any_spelling(shop: Shop, replayer: Replayer, url: str) -> None:
    own = {"x-TOKEN": "own", "ACCEPT-language": "de"}
    browser = {
        "Host": "shop.example.org",
        "Cookie": "user=ada",
        "Accept-Language": "en",
        "X-Token": "copied",
        "X-Other": "copied too",
        "User-Agent": "Mozilla/5.0",
        "If-None-Match": '"1"',
        "Range": "bytes=0-1",
    }
    await shop.order(lambda: taskqueue.add("/v", headers=own), headers=browser)
    headers = (await one_arrived(shop, replayer, url)).headers
    assert own == {"x-TOKEN": "own", "ACCEPT-language": "de"}
    expected = {
        "host": "shop.example.org",
        "cookie": "user=ada",
        "accept-language": "de",
        "x-token": "own",
        "x-other": "copied too",
        "user-agent": f"taskqueue/{VERSION}",
    }
    assert expected.items() <= headers.items()
    assert not {"if-none-match", "range"} & headers.keys()


@pytest.mark.accept("CT10")
async def test_a_body_is_copied_byte_for_byte(shop: Shop, replayer: Replayer, url: str) -> None:
    body = bytes(range(256)) * 8192
    await shop.order(
        lambda: taskqueue.add("/v", method="POST"),
        method="POST",
        data=io.BytesIO(body),
        headers={"Content-Type": "application/x-odd"},
    )
    arrived = await one_arrived(shop, replayer, url)
    assert shop.done == [("/v", body)]
    assert (arrived.headers["content-type"], arrived.headers["content-length"]) == ("application/x-odd", "2097152")


@pytest.mark.accept("CT11", "CT12")
@pytest.mark.parametrize(
    ("options", "method", "body"),
    [
        ({"payload": None, "method": "POST"}, "POST", b""),
        ({"payload": "Grüße"}, "POST", "Grüße".encode()),
        ({"payload": b"\x00\xff", "method": "PUT"}, "PUT", b"\x00\xff"),
        ({"json": {"a": [1, None]}}, "POST", b'{"a":[1,null]}'),
        ({"method": "POST"}, "POST", b""),
    ],
)
async def test_a_payload_is_what_was_given(
    options: dict[str, Any], method: str, body: bytes, shop: Shop, replayer: Replayer, url: str
) -> None:
    await shop.order(lambda: taskqueue.add("/v", **options))
    arrived = await one_arrived(shop, replayer, url)
    assert (arrived.method, shop.done) == (method, [("/v", body)])
    assert arrived.headers["content-length"] == str(len(body))


@pytest.mark.accept("CT16", "CT17", "TA21")
async def test_a_task_runs_as_who_added_it(way: str, url: str, door_url: str) -> None:
    async with open_shop(way, door_url, load_user=str.upper) as (shop, replayer):
        await shop.order(lambda: taskqueue.add("/as-ada"), headers={"Cookie": "user=ada"})
        await shop.order(lambda: taskqueue.add("/as-nobody"))
        async with consuming(url, replayer):
            await shop.finished(2)
        ada, nobody = shop.arrived
        assert (ada.headers["x-task-user-id"], ada.user) == ("ada", "ADA")
        assert ada.task is not None
        assert ada.task.user_id == "ada"
        assert "cookie" not in ada.headers, "not needed where the user is loaded"
        assert nobody.user is None
        assert "x-task-user-id" not in nobody.headers
        spoofed = await shop.request("GET", "/as-ada", headers={"X-Task-User-Id": "ada", "X-Task-Id": "1"})
        assert (spoofed.status, spoofed.headers["X-Task-Refused"]) == (403, "signature")
        assert len(shop.arrived) == 2


@pytest.mark.accept("CT18")
async def test_a_view_for_tasks_is_hidden_from_everybody_else(shop: Shop, replayer: Replayer, url: str) -> None:
    assert (await shop.request("GET", "/tasks/build")).status == 404
    await shop.order(lambda: taskqueue.add("/tasks/build"))
    async with consuming(url, replayer):
        await shop.finished(1)
    assert shop.done == [("/tasks/build", b"")]


@pytest.mark.accept("CT27")
async def test_never_more_run_than_the_limit(shop: Shop, replayer: Replayer, url: str) -> None:
    async def crowded() -> bool:
        return shop.running >= 3 or len(shop.arrived) == 20

    async def slow(arrived: Arrived) -> None:
        await until(crowded, "three run at once, or the last ones")
        shop.done.append((arrived.target, b""))

    shop.views["/slow"] = slow
    await shop.order(lambda: [taskqueue.add("/slow") for _ in range(20)])
    shop.most_running = 0
    async with consuming(url, replayer, concurrent_limit=3):
        await shop.finished(20)
    assert shop.most_running == 3


async def added(shop: Shop, *paths: str, **options: Any) -> list[str]:
    ids: list[str] = []
    await shop.order(lambda: ids.extend(taskqueue.add(path, **options) for path in paths))
    return ids


@pytest.mark.accept("CT29")
@pytest.mark.parametrize(
    ("status", "state", "reason", "attempts"),
    [
        (400, "failed", "client", 1),
        (401, "failed", "auth", 1),
        (403, "failed", "auth", 1),
        (404, "failed", "not-found", 1),
        (422, "failed", "client", 1),
        (408, "failed", "exhausted", 3),
        (429, "failed", "exhausted", 3),
        (500, "failed", "exhausted", 3),
        (503, "failed", "exhausted", 3),
    ],
)
async def test_what_fails_is_logged_and_kept(
    status: int,
    state: str,
    reason: str,
    attempts: int,
    shop: Shop,
    replayer: Replayer,
    url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def view(_arrived: Arrived) -> Reply:
        return status, {}

    shop.views["/v"] = view
    caplog.set_level(logging.INFO, "taskqueue.server")
    (task_id,) = await added(shop, "/v?token=private", retry_max_count=2)
    async with consuming(url, replayer):
        found = await shop.reached(task_id, state)
    assert (found.reason, found.attempt, found.status, len(shop.arrived)) == (reason, attempts, status, attempts)
    lines = [record for record in caplog.records if "GET /v" in record.getMessage()]
    assert [record.levelno for record in lines] == [logging.WARNING] * (attempts - 1) + [logging.ERROR]
    assert f"answered {status}" in lines[-1].getMessage()
    assert "private" not in caplog.text


@pytest.mark.accept("CT30")
@pytest.mark.parametrize("retries", [0, 1, 4])
async def test_a_conflict_is_tried_again_as_often_as_allowed(
    retries: int, shop: Shop, replayer: Replayer, url: str
) -> None:
    async def conflict(_arrived: Arrived) -> Reply:
        return 409, {}

    shop.views["/v"] = conflict
    (task_id,) = await added(shop, "/v", retry_max_count=retries)
    (later,) = await added(shop, "/later")
    async with consuming(url, replayer):
        assert (await shop.reached(task_id, "failed")).attempt == retries + 1
        await shop.reached(later, "completed")
    conflicts = [arrived for arrived in shop.arrived if arrived.target == "/v"]
    assert [arrived.headers["x-task-attempt"] for arrived in conflicts] == [
        str(number) for number in range(1, retries + 2)
    ]
    assert {arrived.headers["x-task-max-attempts"] for arrived in conflicts} == {str(retries + 1)}


async def test_a_conflict_that_ends_is_done(shop: Shop, replayer: Replayer, url: str) -> None:
    async def conflict(arrived: Arrived) -> Reply:
        assert arrived.task is not None
        return (409 if arrived.task.attempt < 3 else 200), {}

    shop.views["/v"] = conflict
    (task_id,) = await added(shop, "/v")
    async with consuming(url, replayer):
        assert (await shop.reached(task_id, "completed")).attempt == 3


@pytest.mark.accept("CT34")
async def test_a_view_that_raises_frees_its_slot(
    shop: Shop, replayer: Replayer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def raises(_arrived: Arrived) -> None:
        raise LookupError("there is no such report")

    shop.views["/raises"] = raises
    *failing, sixth = await added(shop, *["/raises"] * 5, "/sixth", retry_max_count=0)
    async with consuming(url, replayer):
        await shop.reached(sixth, "completed")
        for task_id in failing:
            found = await shop.reached(task_id, "failed")
            assert (found.reason, found.status) == ("exhausted", 500)
    assert caplog.text.count("LookupError: there is no such report") >= 5, "the operator sees each traceback"


@pytest.mark.accept("CT28")
async def test_a_redirect_after_a_form_is_done_and_not_followed(
    shop: Shop, replayer: Replayer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def form(_arrived: Arrived) -> Reply:
        return 303, {"Location": "/thanks?token=private"}

    shop.views["/form"] = form
    (task_id,) = await added(shop, "/form", method="POST")
    async with consuming(url, replayer):
        assert (await shop.reached(task_id, "completed")).status == 303
    assert [arrived.target for arrived in shop.arrived] == ["/form"]
    assert "answered 303, Location '/thanks' with a query" in caplog.text
    assert "private" not in caplog.text


@pytest.mark.accept("CT03")
async def test_what_a_failed_request_added_never_runs(shop: Shop, replayer: Replayer, url: str) -> None:
    async def fails(_arrived: Arrived) -> Reply:
        taskqueue.add("/never")
        return 500, {}

    async def refused(_arrived: Arrived) -> None:
        with pytest.raises(InvalidTask):
            taskqueue.add("no-slash")

    shop.views["/fails"], shop.views["/refused"] = fails, refused
    assert (await shop.request("GET", "/fails")).status == 500
    assert (await shop.request("GET", "/refused")).status == 200
    await shop.order(lambda: taskqueue.add("/marker"))
    async with consuming(url, replayer):
        await shop.finished(1)
    assert shop.done == [("/marker", b"")]


async def test_a_task_may_add_tasks_as_the_same_user(shop: Shop, replayer: Replayer, url: str) -> None:
    async def first(_arrived: Arrived) -> None:
        taskqueue.add("/second")

    shop.views["/first"] = first
    await shop.order(lambda: taskqueue.add("/first"), headers={"Cookie": "user=ada"})
    async with consuming(url, replayer):
        await shop.finished(1)
    assert [arrived.headers["x-task-user-id"] for arrived in shop.arrived] == ["ada", "ada"]
    assert shop.arrived[1].target == "/second"


async def test_past_its_time_a_task_is_a_time_out(shop: Shop, replayer: Replayer, url: str) -> None:
    async def hangs(arrived: Arrived) -> None:
        await until(ended, "the test is over")

    over = False

    async def ended() -> bool:
        return over

    shop.views["/hangs"] = hangs
    (task_id,) = await added(shop, "/hangs", timeout=0.2, retry_max_count=0)
    (later,) = await added(shop, "/later")
    async with consuming(url, replayer):
        found = await shop.reached(task_id, "failed")
        assert (found.reason, found.status) == ("exhausted", 0)
        await shop.reached(later, "completed")
    over = True
