"""An application elsewhere, to which tasks are taken by hand."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from anyio.from_thread import start_blocking_portal

import taskqueue
from tests.doors import Reply, View, serving

LAPTOP: Final = "the secret of a laptop 0123456789-abcdefgh"


@dataclass
class Laptop:
    """What its view saw, and what it answers; it has a store and a secret of its own."""

    reply: Reply = field(default_factory=lambda: Reply(201, "made"))
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    tasks: list[taskqueue.CurrentTask | None] = field(default_factory=list)

    async def view(self, view: View) -> Reply:
        """Note the request, and add a task as any view may."""
        self.seen.append((view.method, view.query, await view.body()))
        self.tasks.append(taskqueue.current_task())
        taskqueue.add("/added", payload=None)
        return self.reply

    @contextmanager
    def running(self, secret: str = LAPTOP, **door: Any) -> Iterator[str]:
        """Run it in another thread; its tasks go into a store inside this process."""
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(self._serving(secret, door)) as base:
            yield base

    @asynccontextmanager
    async def _serving(self, secret: str, door: dict[str, Any]) -> AsyncIterator[str]:
        tq = taskqueue.TaskQueue("local://laptop", secret=secret, queues=["default"])
        try:
            async with serving("starlette", {"/build": self.view}, tq, **door) as base:
                yield base
        finally:
            await tq.aclose()
