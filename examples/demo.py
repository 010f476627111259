"""The main job, before your eyes: an application queues requests to itself, a second process replays them.

    python examples/demo.py

Starts a private store, the application of demo_app.py and ``taskqueue-server``; queues a few requests and shows each
one's life. On a terminal it stays until Ctrl-C, so that you can try by hand; otherwise it ends by itself, with 0 if
everything was as promised. Nothing stays behind.
"""

import asyncio
import contextlib
import logging
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import aiohttp
from aiohttp import web
from demo_app import ABORTED, REPORTS, make_app
from rich.console import Console
from rich.live import Live
from rich.table import Table

import taskqueue

PATIENCE = 60.0
COLOURS = {"completed": "green", "failed": "red", "attempt": "yellow", "running": "cyan", "refused": "magenta"}
PROMISED_REPORTS = {"2025, built for nobody", "2026, built for Ada Lovelace", "flaky, done at attempt 3"}
console = Console()


@dataclass
class Story:
    """One line of the table: what is tried, what was promised, and what happened so far."""

    title: str
    promised: str
    task_id: str = ""
    seen: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        return bool(self.seen) and self.seen[-1] == self.promised

    def note(self, state: str) -> None:
        if not self.seen or self.seen[-1] != state:
            self.seen += (state,)
            if not console.is_terminal:
                console.print(f"{self.title}: {state}")


def table(stories: list[Story]) -> Table:
    drawn = Table(title="Requests queued by the application, and what became of them")
    for column in ("what", "life", "as promised"):
        drawn.add_column(column)
    for story in stories:
        life = " > ".join(f"[{COLOURS.get(state.split()[0], 'white')}]{state}[/]" for state in story.seen)
        drawn.add_row(story.title, life, "[green]yes[/]" if story.kept else "...")
    return drawn


@contextlib.asynccontextmanager
async def application(tq: taskqueue.TaskQueue) -> AsyncIterator[tuple[web.Application, str]]:
    app = make_app(tq)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield app, f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def consumer(address: str, environment: dict[str, str], log: Path) -> AsyncIterator[None]:
    command = str(Path(sys.executable).with_name("taskqueue-server"))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            command,
            "--name=demo",
            f"--target={address}",
            env=environment,
            stdout=output,
            stderr=output,
        )
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def queue_all(client: aiohttp.ClientSession, address: str, app: web.Application) -> list[Story]:
    """Use the application as people do; return what was queued."""
    stories = []
    async with client.post(f"{address}/reports", data={"year": "2025"}, allow_redirects=False) as answer:
        stories.append(Story("a report, for nobody logged in", "completed", answer.headers["X-Queued"]))
    await (await client.post(f"{address}/login", data={"user": "ada"}, allow_redirects=False)).read()
    async with client.post(f"{address}/reports", data={"year": "2026"}, allow_redirects=False) as answer:
        stories.append(Story("a report, for Ada", "completed", answer.headers["X-Queued"]))
    async with client.post(f"{address}/flaky") as answer:
        stories.append(Story("a view that fails twice, then succeeds", "completed", answer.headers["X-Queued"]))
    async with client.post(f"{address}/broken") as answer:
        await answer.read()
        stories.append(Story("a task of a request that failed", "never queued", app[ABORTED][0]))
    forged = {"X-Task-Id": "1", "X-Task-User-Id": "ada"}
    async with client.post(f"{address}/tasks/build", data={"year": "1815"}, headers=forged) as answer:
        story = Story("a forged task, to act as Ada", "refused with 403")
        story.note(f"refused with {answer.status}" if "X-Task-Refused" in answer.headers else "let in")
        stories.append(story)
    return stories


async def follow(tq: taskqueue.TaskQueue, stories: list[Story], show: Callable[[], None]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not all(story.kept for story in stories):
            for story in stories:
                if story.task_id:
                    found = await tq.get(story.task_id)
                    story.note(_words(found) if found else "never queued")
            show()
            await asyncio.sleep(0.05)


def _words(found: taskqueue.TaskState) -> str:
    if found.state == "scheduled":
        return f"attempt {found.attempt} answered {found.status}"
    return found.state


async def show_and_tell(tq: taskqueue.TaskQueue, app: web.Application, address: str, log: Path) -> int:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
        stories = await queue_all(client, address, app)
    live_table = Live(table(stories), console=console, auto_refresh=False) if console.is_terminal else NoLive()
    with live_table as live, contextlib.suppress(TimeoutError):
        await follow(tq, stories, lambda: live.update(table(stories), refresh=True))
    if not console.is_terminal:
        console.print(table(stories))
    console.print("The reports:", *REPORTS, sep="\n  ", highlight=False)
    if not all(story.kept for story in stories) or set(REPORTS) != PROMISED_REPORTS:
        console.print("[red]Not everything was as promised.[/] The consumer said:", log.read_text(), sep="\n")  # noqa: ASYNC240
        return 1
    console.print("[green]Everything was as promised.[/]")
    if console.is_terminal:
        console.print(f"Try it by hand at [bold]{address}[/]; Ctrl-C ends it and leaves nothing behind.")
        await asyncio.Event().wait()
    return 0


class NoLive:
    """Stands for the live table where there is no terminal."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, _table: Table, *, refresh: bool) -> None:
        pass


async def main() -> int:
    with tempfile.TemporaryDirectory(prefix="taskqueue-demo-") as folder:
        environment = {"TASKQUEUE_URL": f"embedded://{folder}/store", "TASKQUEUE_SECRET": secrets.token_urlsafe(48)}
        tq = taskqueue.TaskQueue(environment["TASKQUEUE_URL"], secret=environment["TASKQUEUE_SECRET"])
        logging.basicConfig(filename=Path(folder) / "application.log")  # One request fails on purpose, loudly.
        log = Path(folder) / "consumer.log"
        async with application(tq) as (app, address), consumer(address, environment, log):
            return await show_and_tell(tq, app, address, log)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        console.print("Stopped.")
