"""A socket on which a test says byte for byte what it likes."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

Talk: TypeAlias = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What is said on a connection; it gets its number, from 1."""


class Conversations:
    """Those that are under way, and how many there were; each connection is closed when its own has ended."""

    def __init__(self, talk: Talk) -> None:
        self.port = self.connections = 0
        self._talk = talk
        self._jobs: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        job = asyncio.current_task()
        assert job is not None
        self._jobs.add(job)
        try:
            await self._talk(self.connections, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # The client has closed, or the test is over.
        finally:
            self._jobs.discard(job)
            writer.close()

    async def close(self) -> None:
        jobs = tuple(self._jobs)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


@asynccontextmanager
async def talking(talk: Talk, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Conversations]:
    """Listen on a port of this machine."""
    made = Conversations(talk)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls, limit=1 << 20)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.close()
