"""A TCP proxy for faults, aimed at requests that hold a marker: it cuts the line, delays, swallows or splits."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

Fault = Literal["cut before", "cut after", "cut within", "swallow", "delay", "split"]
# Seconds.
DELAY: Final = 0.05


@dataclass
class Proxy:
    """Between a client and ``port`` of this machine; ``hits`` counts the faults that have happened."""

    target_port: int
    port: int = 0
    hits: int = 0
    dropping: bool = False
    """Whether all bytes vanish, both ways, on lines that stay open: a cable pulled out."""
    tls: ssl.SSLContext | None = None
    """What clients are spoken to with, if not in the clear."""
    _fault: tuple[Fault, bytes, int] | None = None
    _server: asyncio.Server | None = None
    _jobs: set["asyncio.Task[None]"] = field(default_factory=set)

    @property
    def url(self) -> str:
        """The URL of Redis behind this proxy."""
        if self.tls is not None:
            return f"rediss://127.0.0.1:{self.port}/0?ssl_cert_reqs=none&ssl_check_hostname=false"
        return f"redis://127.0.0.1:{self.port}/0"

    def inject(self, fault: Fault, marker: bytes, *, times: int = 1) -> None:
        """Let this happen to the next ``times`` requests that contain the marker (each as one chunk of bytes).

        ``cut before``: the line is cut, the request is lost. ``cut after``: the request is carried out, the reply lost.
        ``cut within``: half of the reply's first packet gets through. ``swallow``: from then on that line is open, and
        nothing passes. ``delay``: it passes a moment later. ``split``: it passes byte by byte, as does all that follows
        on that line, both ways.
        """
        self._fault = (fault, marker, times)

    async def start(self) -> None:
        """Accept connections, on the same port as before if there was one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections, cut those there are."""
        if self._server is not None:
            self._server.close()
        jobs = tuple(self._jobs)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        job = asyncio.current_task()
        assert job is not None
        self._jobs.add(job)
        far_writer = None
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            await self._relay(reader, writer, far_reader, far_writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # Cut, as asked.
        finally:
            self._jobs.discard(job)
            for end in (writer, far_writer):
                if end is not None:
                    end.transport.abort()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        split = asyncio.Event()
        replies = asyncio.create_task(self._copy(far_reader, writer, split))
        try:
            while chunk := await reader.read(1 << 20):
                if self.dropping:
                    continue
                fault = self._strike(chunk)
                if fault == "cut before":
                    return
                if fault == "swallow":
                    await asyncio.Event().wait()
                if fault == "delay":
                    await asyncio.sleep(DELAY)
                if fault == "split":
                    split.set()
                if fault in ("cut after", "cut within"):
                    replies.cancel()
                    await asyncio.gather(replies, return_exceptions=True)
                await _pass_on(chunk, far_writer, split)
                if fault == "cut after":
                    await far_reader.read(1)
                    return
                if fault == "cut within":
                    reply = await far_reader.read(1 << 20)
                    await _pass_on(reply[: len(reply) // 2], writer, split)
                    return
        finally:
            replies.cancel()
            await asyncio.gather(replies, return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, split: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(1 << 20):
                if not self.dropping:
                    await _pass_on(chunk, writer, split)
        writer.close()

    def _strike(self, chunk: bytes) -> Fault | None:
        if self._fault is None or self._fault[1] not in chunk:
            return None
        fault, marker, times = self._fault
        self._fault = (fault, marker, times - 1) if times > 1 else None
        self.hits += 1
        return fault


async def _pass_on(chunk: bytes, writer: asyncio.StreamWriter, split: asyncio.Event) -> None:
    size = 1 if split.is_set() else max(1, len(chunk))
    for start in range(0, len(chunk), size):
        writer.write(chunk[start : start + size])
        await writer.drain()
        await asyncio.sleep(0)  # so that it is on its way before the next one


@asynccontextmanager
async def proxied(port: int, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """Run a Proxy to a port of this machine."""
    proxy = Proxy(port, tls=tls)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
