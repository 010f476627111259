"""For the tests of an application: see which tasks its requests add, and run them, without Redis, secret or consumer.

>>> with taskqueue.capture() as tasks:
...     client.post("/reports", data={"year": 2026})
>>> assert tasks.find("/reports/build").user_id == "ada"
>>> await tasks.drain(app)
"""

import reprlib
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .keys import Keyring
from .policy import Rules, decide, warning
from .producer import captures, drains
from .task import Task, Verdict

if TYPE_CHECKING:
    from .replay import Replayer

# Seconds for a task that names none, as for a server that is told nothing else.
TIMEOUT: Final = 600.0


@dataclass(frozen=True, slots=True)
class Drained:
    """What became of a task: the verdict after so many ``attempts``; ``remark`` says it to a person, if it is amiss."""

    task: Task
    verdict: Verdict
    attempts: int
    remark: str

    @property
    def status(self) -> int:
        """The last response's status, 0 if there was none."""
        return self.verdict.status

    @property
    def completed(self) -> bool:
        """Whether the task is done."""
        return self.verdict.kind == "complete"


class Tasks(list[Task]):
    """The tasks that were committed, in order: a list, with ways to ask for some of them."""

    @property
    def paths(self) -> list[str]:
        """Return the path of each task, without its query."""
        return [task.path for task in self]

    def select(self, path: str | None = None, **fields: object) -> "Tasks":
        """Return the tasks with this path (without query) and these values of a Task's fields, maybe none.

        For example ``tasks.select("/mail", queue="mail", user_id=None)``. Raises TypeError for what is no such field.
        """
        wanted = _wanted(path, fields)
        return Tasks(task for task in self if _agreeing(task, wanted) == len(wanted))

    def find(self, path: str | None = None, **fields: object) -> Task:
        """Return the one task that ``select`` finds; raise AssertionError for none, naming the nearest, or many."""
        found = self.select(path, **fields)
        if len(found) == 1:
            return found[0]
        wanted = _wanted(path, fields)
        asked = _shown(wanted) or "any fields"
        if found:
            raise AssertionError(f"{len(found)} tasks, not one, have {asked}: {_listed(found)}")
        if not self:
            raise AssertionError(f"no task has {asked}: none was committed")
        nearest = max(self, key=lambda task: _agreeing(task, wanted))
        differs = {name: getattr(nearest, name) for name, value in wanted.items() if getattr(nearest, name) != value}
        nearly = f"{nearest.method} {nearest.path} with {_shown(differs)}"
        raise AssertionError(f"no task has {asked}; nearest is {nearly}; all: {_listed(self)}")

    async def drain(
        self, app: object, *, retries: int = 0, check: bool = True, lifespan: bool = True, limit: int = 1000
    ) -> list[Drained]:
        """Run these tasks against an application with its door, in order, and those they add, until none is left.

        ``app`` is an ASGI, WSGI or aiohttp application; it is called in this process. A task is tried again up to
        ``retries`` times where a server would (it may allow itself fewer); delays, of retries too, are not waited for.
        ``lifespan``: whether to start the application before and stop it after; not if the test does. In a test that is
        not asynchronous: ``asyncio.run(tasks.drain(app))``. Returns what became of each. Raises AssertionError for the
        first task that does not complete (not with ``check=False``; the others stay in the list), and for a chain of
        tasks that add tasks without end: more than ``limit``. Raises TypeError for what is no application.
        """
        done: list[Drained] = []
        with capture() as added:
            async with _calling(app, lifespan=lifespan) as replayer:
                while self:
                    if len(done) == limit:
                        raise AssertionError(f"{limit} tasks have run, and there are more: {_listed(self)}")
                    done.append(await _drained(replayer, self.pop(0), retries))
                    self.extend(added)
                    added.clear()
                    if check and not done[-1].completed:
                        task = done[-1].task
                        raise AssertionError(f"{task.method} {task.path} did not complete: {done[-1].remark}")
        return done


@contextmanager
def capture() -> Iterator[Tasks]:
    """Collect what every TaskQueue of this process commits, in any thread, instead of queueing it.

    What is aborted is not collected. Captures may be nested: the innermost collects.
    """
    tasks = Tasks()
    captures.append(tasks)
    try:
        yield tasks
    finally:
        # By identity: two captures that hold the same tasks are equal.
        captures[:] = [other for other in captures if other is not tasks]


@asynccontextmanager
async def _calling(app: object, *, lifespan: bool) -> AsyncIterator["Replayer"]:
    """Give a way to call this application; its door believes a key that is made for the purpose."""
    from .loading import Application, kind_of, replayer_for  # noqa: PLC0415  the HTTP client comes with it

    kind = kind_of(app)
    if kind is None:
        raise TypeError(f"drain: {type(app).__name__} is not an ASGI, WSGI or aiohttp application")
    keyring = Keyring((secrets.token_urlsafe(48),))
    replayer = replayer_for(Application("", kind, app), keyring, concurrent_limit=1, started=not lifespan)
    drains.append(keyring)
    try:
        async with replayer:
            yield replayer
    finally:
        drains[:] = [other for other in drains if other is not keyring]


async def _drained(replayer: "Replayer", task: Task, retries: int) -> Drained:
    from .replay import Delivery  # noqa: PLC0415  see _calling

    most = retries if task.retry_max_count is None else min(retries, task.retry_max_count)
    timeout = task.timeout or TIMEOUT
    attempt = 0
    while True:
        attempt += 1
        outcome = await replayer.replay(
            Delivery(task=task, delivery=attempt, attempt=attempt, max_attempts=most + 1, timeout=timeout)
        )
        verdict = decide(
            outcome,
            attempt=attempt,
            rules=Rules(retry_max_count=most),
            anonymous=task.user_id is None,
            target_known=False,
            now=time.time(),
            jitter=0.0,
        )
        if verdict.kind != "retry":
            return Drained(task, verdict, attempt, warning(outcome, verdict) or "")


def _wanted(path: str | None, fields: Mapping[str, object]) -> dict[str, object]:
    unknown = [name for name in fields if not hasattr(Task, name)]
    if unknown:
        raise TypeError(f"{unknown[0]!r} is no field of a Task")
    return dict(fields) if path is None else {"path": path, **fields}


def _agreeing(task: Task, wanted: Mapping[str, object]) -> int:
    return sum(getattr(task, name) == value for name, value in wanted.items())


def _shown(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={reprlib.repr(value)}" for name, value in values.items())


def _listed(tasks: Tasks) -> str:
    return ", ".join(f"{task.method} {task.path}" for task in tasks[:20]) + (" ..." if len(tasks) > 20 else "")
