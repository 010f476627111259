"""A target of the standard library: answers 204 at once, checks the work, and notes when each request came.

``python -m benchmarks.plain_target PORT``. ``GET /-/seen`` tells what it has seen; ``GET /-/arrivals`` tells when
(monotonic seconds), and forgets it.
"""

import asyncio
import json
import sys
import time
from typing import Final

from . import work

SEEN: Final = b"GET /-/seen "
ARRIVALS: Final = b"GET /-/arrivals "
HEAD: Final = b"POST %s HTTP/1.1\r\n" % work.PATH.encode()
LINES: Final = [f"\r\n{name}: {value}\r\n".lower().encode() for name, value in work.HEADERS.items()]
LENGTH: Final = b"\r\ncontent-length: %d\r\n" % len(work.BODY)
NO_CONTENT: Final = b"HTTP/1.1 204 No Content\r\n\r\n"

seen: Final = {"count": 0, "wrong": 0}
arrivals: Final[list[float]] = []


class Connection(asyncio.Protocol):
    """One kept connection, one request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end or self._transport is None:
            return
        if head.startswith(SEEN):
            self._transport.write(_answer(seen))
        elif head.startswith(ARRIVALS):
            self._transport.write(_answer(arrivals))
            arrivals.clear()
        elif len(body) < len(work.BODY):
            return
        else:
            arrivals.append(time.monotonic())
            seen["count"] += 1
            lower = head.lower() + b"\r\n"
            seen["wrong"] += (
                body != work.BODY
                or not head.startswith(HEAD[:-2])
                or any(line not in lower for line in (*LINES, LENGTH))
            )
            self._transport.write(NO_CONTENT)
        self._buffer = b""


def _answer(told: object) -> bytes:
    body = json.dumps(told).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
