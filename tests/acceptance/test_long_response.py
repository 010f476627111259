"""An answer that is longer than what is kept with its task: a file of the task, and how it is got back whole."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from taskqueue import settings
from taskqueue.assembly import server_for
from taskqueue.errors import StorageError
from taskqueue.policy import Rules
from taskqueue.producer import TaskQueue
from taskqueue.replay import HttpReplayer
from taskqueue.storage import Storage
from tests.acceptance.test_consumer import push, reached, running
from tests.servers import RedisServer
from tests.target import Target, listening
from tests.tasks import KEYRING, SECRET
from tests.work import Ran

KIB: Final = 1024
CANARY: Final = b"canary-9f3b"
LONG: Final = (CANARY * 30_000)[: 300 * KIB]


@dataclass
class Place:
    """A queue, a storage and an application that gives one answer after the other, the last one again and again."""

    server: RedisServer
    directory: Path
    answers: list[web.Response] = field(default_factory=list)

    @property
    def storage(self) -> Storage:
        return Storage(self.directory, KEYRING, namespace="taskqueue")

    def queue(self, *, storage: bool = True) -> TaskQueue:
        where = str(self.directory) if storage else None
        return TaskQueue(self.server.url, secret=SECRET, queues=["default"], namespace="taskqueue", storage=where)

    def run(self, *states: str, storage: bool = True, settings_: Mapping[str, object] | None = None) -> str:
        """Push a task, let it come to these states one after the other, by operators if need be; return its id."""
        return asyncio.run(self._run(states, storage, settings_ or {}))

    async def _run(self, states: tuple[str, ...], storage: bool, flags: Mapping[str, object]) -> str:  # noqa: FBT001 - as run has it
        async with listening() as target:
            target.handler = self._answer(target)
            tq, consumed = self.queue(storage=storage), self.queue(storage=storage)
            chosen = settings.load(flags, environ={}, directory=self.directory.parent)
            replayer = HttpReplayer(target.url, KEYRING)
            async with running(server_for(chosen, consumed, replayer, name="one", queues=["default"])):
                (task_id,) = await push(tq, "/report", retry_max_count=len(self.answers) - 1)
                for state in states:
                    await reached(tq, task_id, state)
            await tq.aclose()
        return task_id

    def _answer(self, target: Target) -> Callable[[web.Request], Any]:
        async def answer(_request: web.Request) -> web.StreamResponse:
            given = self.answers[min(len(target.paths), len(self.answers)) - 1]
            return web.Response(status=given.status, body=given.body, headers=given.headers)

        return answer

    def trim(self, task_id: str) -> None:
        """Let a consumer forget everything."""

        async def forget() -> None:
            tq = self.queue()
            chosen = settings.load({"retain": "failed=0s,completed=0s"}, environ={}, directory=self.directory.parent)
            replayer = HttpReplayer("http://127.0.0.1:1", KEYRING)
            asked = self.queue()
            async with running(server_for(chosen, tq, replayer, name="two", queues=["default"])):
                until = time.monotonic() + 20
                while await asked.get(task_id) is not None or self.files():
                    assert time.monotonic() < until, self.files()
                    await asyncio.sleep(0.02)
            await asked.aclose()

        asyncio.run(forget())

    def files(self) -> list[Path]:
        return [path for path in self.directory.rglob("*") if path.is_file()]


@pytest.fixture
def place(any_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    soon = Rules(retry_max_count=0, receipt_required=False, backoff_min=0.01, backoff_max=0.01)
    monkeypatch.setattr("taskqueue.assembly.rules_for", lambda _chosen: soon)
    return Place(any_server, tmp_path / "files")


@pytest.fixture
def show(taskqueue: Callable[..., Ran], place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """``taskqueue show`` by somebody who has the secret and the storage."""
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)
    monkeypatch.setenv("TASKQUEUE_STORAGE", str(place.directory))
    return lambda *arguments: taskqueue("show", *arguments)


def answered(body: bytes, status: int = 422, kind: str = "text/html") -> web.Response:
    return web.Response(status=status, body=body, content_type=kind)


def sizes(ran: Ran) -> tuple[int, int, int]:
    """Return how much of the response is shown, how much is kept, and how much it was."""
    response = ran.document["response"]
    return len(response["content"]), response["kept"], response["size"]


class TestWhole:
    def test_it_comes_back_by_the_storage_and_the_command(self, place: Place, show: Callable[..., Ran]) -> None:
        place.answers = [answered(LONG)]
        task_id = place.run("failed")
        with place.storage.open_response(task_id) as file:
            assert (file.content_type, file.read()) == ("text/html", LONG)
        ran = show(task_id, "--response", "answer.html")
        assert (ran.code, ran.out, ran.err) == (0, "307200 bytes written to answer.html\n", "")
        assert Path("answer.html").read_bytes() == LONG
        ran = show(task_id, "--response", "-")
        assert (ran.code, ran.out.encode(), ran.err) == (0, LONG, "")
        assert sizes(show(task_id, "--full", "--json")) == (16 * KIB, 300 * KIB, 300 * KIB)
        assert ["sealed", "response", "(--full)"] in show(task_id).lines
        shown = show(task_id, "--full")
        assert ["content", "307200", "bytes"] in shown.lines
        assert "--response FILE writes all of it" in shown.out

    @pytest.mark.parametrize("size", [0, 5, 16 * KIB])
    def test_a_short_one_is_no_file(self, place: Place, show: Callable[..., Ran], size: int) -> None:
        place.answers = [answered(b"x" * size)]
        task_id = place.run("failed")
        assert place.files() == []
        assert show(task_id, "--response", "answer").code == 0
        assert Path("answer").read_bytes() == b"x" * size

    @pytest.mark.parametrize("flags", [{}, {"response_bytes": 100_000}])
    def test_it_is_cut_and_says_so(self, place: Place, show: Callable[..., Ran], flags: dict[str, int]) -> None:
        kept = flags.get("response_bytes", 1024 * KIB)
        place.answers = [answered(b"x" * (3072 * KIB))]
        task_id = place.run("failed", settings_=flags)
        ran = show(task_id, "--response", "answer")
        assert (ran.code, Path("answer").read_bytes()) == (0, b"x" * kept)
        assert f"of 3145728 bytes the first {kept} are kept" in ran.err
        assert sizes(show(task_id, "--full", "--json")) == (16 * KIB, kept, 3072 * KIB)
        assert f"3145728 bytes, of which the first {kept} are kept" in show(task_id, "--full").out

    def test_one_byte_more(self, place: Place, show: Callable[..., Ran]) -> None:
        place.answers = [answered(b"x" * (16 * KIB + 1))]
        task_id = place.run("failed", settings_={"response_bytes": 16 * KIB + 1})
        assert sizes(show(task_id, "--full", "--json")) == (16 * KIB, 16 * KIB + 1, 16 * KIB + 1)
        assert show(task_id, "--response", "answer").err == ""
        assert Path("answer").stat().st_size == 16 * KIB + 1

    def test_of_a_success_if_everything_is_kept(self, place: Place, show: Callable[..., Ran]) -> None:
        place.answers = [answered(LONG, 200)]
        task_id = place.run("completed")
        assert place.files() == []
        task_id = place.run("completed", settings_={"keep": "all"})
        assert show(task_id, "--response", "answer").code == 0
        assert Path("answer").read_bytes() == LONG

    def test_sealed(self, place: Place) -> None:
        place.answers = [answered(LONG)]
        place.run("failed")
        assert len(place.files()) == 1
        assert not any(CANARY in path.read_bytes() for path in place.files())
        client = place.server.client()
        assert [key for key in client.scan_iter() if CANARY in (client.dump(key) or b"")] == []


class TestGone:
    def test_with_its_task(self, place: Place) -> None:
        place.answers = [answered(LONG)]
        task_id = place.run("failed")
        assert len(place.files()) == 1
        place.trim(task_id)
        assert place.files() == []

    def test_when_a_later_answer_is_short(self, place: Place, show: Callable[..., Ran]) -> None:
        place.answers = [answered(LONG, 503), answered(b"short", 422)]
        task_id = place.run("failed")
        assert place.files() == []
        with pytest.raises(StorageError, match="no response is kept as a file"):
            place.storage.open_response(task_id)
        assert show(task_id, "--response", "answer").code == 0
        assert Path("answer").read_bytes() == b"short"
        assert "response_file" not in show(task_id).out

    def test_when_the_task_completes_after_all(self, place: Place) -> None:
        place.answers = [answered(LONG, 503), answered(b"fine", 200)]
        task_id = place.run("completed")
        assert place.files() == []
        assert place.server.client().hkeys(f"taskqueue:{{default}}:log:{task_id}") == [b"1"]

    def test_when_a_later_long_one_takes_its_place(self, place: Place, show: Callable[..., Ran]) -> None:
        other = b"y" * 200_000
        place.answers = [answered(LONG, 503), answered(other, 422, "text/plain")]
        task_id = place.run("failed")
        assert len(place.files()) == 1
        assert show(task_id, "--response", "answer").code == 0
        assert Path("answer").read_bytes() == other


class TestNotThere:
    def test_without_a_storage_it_is_cut_as_ever(
        self, place: Place, show: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("TASKQUEUE_STORAGE")
        place.answers = [answered(LONG)]
        task_id = place.run("failed", storage=False)
        assert place.files() == []
        assert sizes(show(task_id, "--full", "--json")) == (16 * KIB, 16 * KIB, 300 * KIB)
        ran = show(task_id, "--response", "answer")
        assert Path("answer").read_bytes() == LONG[: 16 * KIB]
        assert "of 307200 bytes the first 16384 are kept" in ran.err
        assert place.server.client().hkeys(f"taskqueue:{{default}}:log:{task_id}") == [b"1", b"response"]

    def test_where_nothing_can_be_written_the_task_is_settled(
        self, place: Place, show: Callable[..., Ran], caplog: pytest.LogCaptureFixture
    ) -> None:
        place.directory.write_bytes(b"a file")
        place.answers = [answered(b"x" * 20_000, 503), answered(LONG)]
        task_id = place.run("failed")
        assert f"task {task_id}: of its answer only the first 16384 bytes are kept: " in caplog.text
        assert sizes(show(task_id, "--full", "--json")) == (16 * KIB, 16 * KIB, 300 * KIB)

    def test_the_command_says_what_is_wrong(
        self, place: Place, show: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place.answers = [answered(LONG)]
        task_id = place.run("failed")
        assert "'--full' looks like a flag" in show(task_id, "--response", "--full").err
        for arguments in (["--full"], ["--json"]):
            ran = show(task_id, "--response", "answer", *arguments)
            assert (ran.code, "leave --full and --json out" in ran.err) == (2, True)
        ran = show(task_id, "--response", "nowhere/answer")
        assert (ran.code, "--response: 'nowhere/answer' cannot be written: No such file" in ran.err) == (2, True)
        with monkeypatch.context() as patched:
            patched.setattr("sys.stdout.isatty", lambda: True)
            ran = show(task_id, "--response", "-")
        assert (ran.code, ran.out, "may do anything to a terminal" in ran.err) == (2, "", True)
        place.storage.save_response("default", task_id, b"another" * 10_000, "text/html")
        ran = show(task_id, "--response", "answer")
        assert (ran.code, "the file that is kept has another response" in ran.err) == (1, True)
        place.storage.remove_response("default", task_id)
        ran = show(task_id, "--response", "answer")
        assert (ran.code, "no response is kept as a file" in ran.err) == (1, True)
        monkeypatch.delenv("TASKQUEUE_STORAGE")
        ran = show(task_id, "--response", "answer")
        assert (ran.code, "storage: none is set" in ran.err) == (78, True)
        monkeypatch.setenv("TASKQUEUE_SECRET", SECRET[::-1])
        ran = show(task_id, "--response", "answer")
        assert (ran.code, "no response is kept, or the secret does not open it" in ran.err) == (1, True)
        assert not Path("answer").exists()
