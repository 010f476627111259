"""What was last answered to a task that failed: kept sealed, shown to who has the secret, gone when it is of no use."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import pytest
from aiohttp import web

from tests.acceptance.test_consumer import consumer, push, reached, running
from tests.servers import RedisServer
from tests.target import Target, listening
from tests.tasks import SECRET
from tests.work import Ran, queue_at

CANARY: Final = "canary-9f3b"
LOG: Final = "taskqueue:{default}:log:"
KIB_16: Final = 16 * 1024


@pytest.fixture
def client(any_server: RedisServer) -> Any:
    return any_server.client()


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch, taskqueue: Callable[..., Ran]) -> None:
    """The command knows the secret."""
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)


def failed(
    server: RedisServer, *, status: int = 422, body: bytes = b"", states: tuple[str, ...] = ("failed",), **options: Any
) -> str:
    """Let a task fail with this answer, and then succeed if it is tried again; return its id."""

    async def scenario() -> str:
        async with listening() as target:

            async def answer(_request: web.Request) -> web.StreamResponse:
                if len(target.paths) > 1:
                    return web.Response()
                headers = {"Set-Cookie": f"session={CANARY}", "X-Why": f"{CANARY}-header"}
                return web.Response(status=status, headers=headers, body=body)

            target.handler = answer
            return await _runs(server, target, states, options)

    return asyncio.run(scenario())


async def _runs(server: RedisServer, target: Target, states: tuple[str, ...], options: Any) -> str:
    tq = queue_at(server)
    async with running(consumer(server.url, target)):
        (task_id,) = await push(tq, "/report", **options)
        for state in states:
            await reached(tq, task_id, state)
    await tq.aclose()
    return task_id


@pytest.mark.usefixtures("secret")
class TestShown:
    def test_with_the_secret_and_without_its_cookies(
        self, taskqueue: Callable[..., Ran], any_server: RedisServer
    ) -> None:
        task_id = failed(any_server, body="the year 2026 is missing ✗\n".encode())
        response = taskqueue("show", task_id, "--full", "--json").document["response"]
        assert (response["status"], response["content"]) == (422, "the year 2026 is missing ✗\n")
        headers = {name.lower(): value for name, value in response["headers"]}
        assert headers["x-why"] == f"{CANARY}-header"
        assert "set-cookie" not in headers  # it would tell nobody anything, and prove who somebody is
        shown = taskqueue("show", task_id, "--full")
        assert ["last", "response", "422"] in shown.lines
        assert "the year 2026 is missing" in shown.out
        assert f"session={CANARY}" not in shown.out

    def test_only_when_asked_for(self, taskqueue: Callable[..., Ran], any_server: RedisServer) -> None:
        task_id = failed(any_server, body=b"private")
        assert "response" not in taskqueue("show", task_id, "--json").document
        assert "private" not in taskqueue("show", task_id).out

    def test_not_with_another_secret(
        self, taskqueue: Callable[..., Ran], any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task_id = failed(any_server, body=b"private")
        monkeypatch.setenv("TASKQUEUE_SECRET", SECRET[::-1])
        assert "response" not in taskqueue("show", task_id, "--full", "--json").document

    def test_not_if_it_was_altered_or_is_another_tasks(
        self, taskqueue: Callable[..., Ran], any_server: RedisServer, client: Any
    ) -> None:
        one, other = failed(any_server, body=b"one"), failed(any_server, body=b"other")
        client.hset(LOG + one, "response", client.hget(LOG + other, "response"))
        assert "response" not in taskqueue("show", one, "--full", "--json").document
        sealed = client.hget(LOG + other, "response")
        for altered in (sealed[:-1] + bytes([sealed[-1] ^ 1]), sealed[:10], b""):
            client.hset(LOG + other, "response", altered)
            assert "response" not in taskqueue("show", other, "--full", "--json").document

    @pytest.mark.parametrize("size", [KIB_16, KIB_16 + 1, 100_000])
    def test_sixteen_kib_of_it(self, taskqueue: Callable[..., Ran], any_server: RedisServer, size: int) -> None:
        task_id = failed(any_server, body=b"x" * size)
        assert taskqueue("show", task_id, "--full", "--json").document["response"]["content"] == "x" * KIB_16
        assert "--json shows all of it" in taskqueue("show", task_id, "--full").out

    def test_bytes_that_are_no_text(self, taskqueue: Callable[..., Ran], any_server: RedisServer) -> None:
        task_id = failed(any_server, body=b"\xff\x00")
        response = taskqueue("show", task_id, "--full", "--json").document["response"]
        assert (response["content_base64"], "content" in response) == ("/wA=", False)

    def test_the_last_one_also_of_a_task_that_is_tried_again(
        self, taskqueue: Callable[..., Ran], any_server: RedisServer
    ) -> None:
        task_id = failed(any_server, status=503, states=("failed",), body=b"busy", retry_max_count=0)
        document = taskqueue("show", task_id, "--full", "--json").document
        assert (document["task"]["reason"], document["response"]["content"]) == ("exhausted", "busy")
        assert [step["detail"] for step in document["life"] if step["what"] == "failed"] == ["503 exhausted"]


class TestKept:
    def test_sealed(self, any_server: RedisServer, client: Any) -> None:
        task_id = failed(any_server, body=CANARY.encode() * 10)
        assert client.hexists(LOG + task_id, "response")
        assert [key for key in client.scan_iter() if CANARY.encode() in (client.dump(key) or b"")] == []
        assert CANARY.encode() not in client.hget(LOG + task_id, "response")

    def test_no_longer_than_it_is_of_use(self, any_server: RedisServer, client: Any) -> None:
        """A task that completes in the end leaves its log, and nothing of what was answered."""
        task_id = failed(any_server, status=503, states=("completed",), body=b"busy")
        assert client.hkeys(LOG + task_id) == [b"1"]

    def test_not_after_a_reset(self, any_server: RedisServer, client: Any) -> None:
        failed(any_server, body=b"x")

        async def reset() -> None:
            tq = queue_at(any_server)
            await tq.reset("default")
            await tq.aclose()

        asyncio.run(reset())
        assert client.keys(LOG + "*") == []

    def test_not_after_a_trim(self, any_server: RedisServer, client: Any) -> None:
        failed(any_server, body=b"x")

        async def trim() -> None:
            tq = queue_at(any_server)
            await tq.broker.trim("default", [("failed", 0, 0)], most=10, deadline=time.monotonic() + 10)
            await tq.aclose()

        asyncio.run(trim())
        assert client.keys(LOG + "*") == []
