"""Requests as bytes on a connection: captured from a consumer as an eavesdropper would, altered, and sent again."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import taskqueue
from taskqueue.replay import HttpReplayer
from tests.doors import Consumer, delivery_of
from tests.mutations import WireRequest
from tests.tasks import KEYRING

FRAMING = ("content-length", "transfer-encoding", "connection", "expect")


@dataclass(frozen=True)
class WireResponse:
    """An answer; status 0 if the server closed the connection without one. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def captured(tq: taskqueue.TaskQueue, base: str) -> WireRequest:
    """Return the delivery to this address of the one task waiting, without delivering it."""
    ((reservation, task),) = await Consumer(tq).reserve()
    if not task.host:
        task = replace(task, host=urlsplit(base).netloc)
    caught: list[WireRequest] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("utf-8", "surrogateescape").removesuffix("\r\n\r\n")
        line, *fields = head.split("\r\n")
        pairs = [(name, value.strip()) for name, _, value in (field.partition(":") for field in fields)]
        length = next((int(value) for name, value in pairs if name.lower() == "content-length"), 0)
        headers = tuple(pair for pair in pairs if pair[0].lower() not in FRAMING)
        method, target, _ = line.split(" ")
        caught.append(WireRequest(method, target, headers, await reader.readexactly(length)))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        async with HttpReplayer(f"http://{host}:{port}", KEYRING) as replayer:
            await replayer.replay(delivery_of(reservation, task))
    return caught[0]


async def send(base: str, request: WireRequest) -> WireResponse:
    """Send this request over a connection of its own, byte for byte but for its framing."""
    framing = f"Content-Length: {len(request.body)}\r\nConnection: close\r\n"
    fields = "".join(f"{name}: {value}\r\n" for name, value in request.headers)
    head = f"{request.method} {request.target} HTTP/1.1\r\n{fields}{framing}\r\n"
    parts = urlsplit(base)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(head.encode("utf-8", "surrogateescape") + request.body)
        return parsed(await reader.read())
    except ConnectionError:
        return parsed(b"")
    finally:
        writer.close()


def parsed(raw: bytes) -> WireResponse:
    """Return the response in these bytes."""
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    pairs = (field.partition(":") for field in fields)
    status = int(line.split(" ")[1]) if line else 0
    return WireResponse(status, {name.lower(): value.strip() for name, _, value in pairs}, body)
