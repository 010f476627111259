"""HTTP/1.1 on one connection: a request, sent once, and the one response to it, read to its end by aiohttp's parser."""

import asyncio
import contextlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpResponseParser, RawResponseMessage
from aiohttp.streams import StreamReader

from .content import KEPT_BYTES, Content
from .policy import BROKEN, TIMEOUT, Broken

# A larger body is sent bit by bit, each when the one before is on its way, and never copied.
PIECE_BYTES: Final = 64 * 1024
# What cannot stand in a line of a request (RFC 9110, 5.5): every control character but the tab.
_CONTROLS: Final = bytes(code for code in (*range(0x20), 0x7F) if code != 0x09)


def request_head(method: str, target: str, headers: Iterable[tuple[str, str]]) -> bytes | None:
    """Return request line and headers, encoded; None if they could not be sent byte for byte."""
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers]]
    try:
        head = "\r\n".join(lines).encode()
    except UnicodeEncodeError:
        return None
    controls = len(head) - len(head.translate(None, _CONTROLS))
    if controls != 2 * len(lines) - 2 or " " in target or "\t" in target:  # more than what is between the lines
        return None
    return head + b"\r\n\r\n"


class Received(NamedTuple):
    """A response that was read to its end; ``headers`` is caseless."""

    status: int
    headers: Mapping[str, str]
    content: Content


class OwnFlow(BaseProtocol):
    """What a parser slows down that is full: nothing, because what it has read is taken from it at once."""

    def pause_reading(self) -> None:
        """See BaseProtocol."""

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """See BaseProtocol."""


class Owner(Protocol):
    """Whose connections they are; ``own_flow`` is for their parsers."""

    loop: asyncio.AbstractEventLoop
    own_flow: OwnFlow

    def keep(self, connection: "Connection") -> None:
        """Take back one that can be used again."""
        ...

    def lost(self, connection: "Connection") -> None:
        """Note that this one is closed."""
        ...


class Connection(asyncio.Protocol):
    """One connection: idle, or busy with one request until the response to it has ended."""

    __slots__ = (
        "_answer", "_blocked", "_everything", "_message", "_most", "_owner", "_parser", "_payload", "_received",
        "_surplus", "_transport", "_unsent", "deadline",
    )  # fmt: skip

    def __init__(self, owner: Owner) -> None:
        """Take whose it is."""
        self.deadline = math.inf
        """When the request on it has had its time, or, while it is idle, when it has been kept long enough."""
        self._owner = owner
        self._transport: Any = None  # an asyncio.Transport from connection_made on
        self._answer: asyncio.Future[Received | Broken] | None = None  # None while idle
        self._blocked = False  # the transport wants no more for now
        self._unsent = memoryview(b"")
        self._forget()

    def _forget(self) -> None:
        """Let go of the last exchange."""
        self._parser: Any = None
        self._message: RawResponseMessage | None = None
        self._payload: StreamReader | None = None
        self._received: Received | None = None
        self._surplus = False  # there was a second response

    def is_fit(self, now: float) -> bool:
        """Return whether an idle one can take a request."""
        return now < self.deadline and not self._transport.is_closing()

    def request(
        self, head: bytes, body: bytes, *, method: str, everything: bool, most: int = KEPT_BYTES, deadline: float
    ) -> "asyncio.Future[Received | Broken]":
        """Send it and return what will hold the response, or why there is none; whoever cancels that has to abort."""
        owner = self._owner
        self.deadline, self._everything, self._most = deadline, everything, most
        self._parser = HttpResponseParser(
            owner.own_flow,
            owner.loop,
            PIECE_BYTES,
            response_with_body=method != "HEAD",
            read_until_eof=True,
            auto_decompress=False,
        )
        self._answer = answer = owner.loop.create_future()
        if len(body) <= PIECE_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._unsent = memoryview(body)
            self._send()
        return answer

    def expire(self) -> None:
        """Note that the deadline is over."""
        if self._answer is None:
            self.abort()
        else:
            self._end(Broken(TIMEOUT))

    def abort(self) -> None:
        """Close it at once."""
        self.deadline = math.inf
        self._unsent = memoryview(b"")
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.BaseProtocol."""
        self._transport = transport

    def pause_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        self._blocked = True

    def resume_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        self._blocked = False
        self._send()

    def _send(self) -> None:
        while self._unsent and not self._blocked and not self._transport.is_closing():
            piece, self._unsent = self._unsent[:PIECE_BYTES], self._unsent[PIECE_BYTES:]
            self._transport.write(piece)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._answer is None:  # Nobody has asked; the next request must not be given this for an answer.
            self.abort()
            return
        try:
            messages, _, _ = self._parser.feed_data(data)
            for message, payload in messages:
                self._begin(message, payload)
            if self._received is None or self._payload is None:
                return
            if not self._payload.at_eof():
                self._received.content.take(self._payload.read_nowait())
            if self._payload.is_eof():
                # Told that nothing more comes, the parser shows what it holds of a second response.
                self._surplus = self._surplus or self._parser.feed_eof() is not None
                self._end(self._received)
        except HttpProcessingError:
            self._end(Broken(BROKEN))

    def _begin(self, message: RawResponseMessage, payload: StreamReader) -> None:
        """Take the head of a response."""
        if self._received is not None:
            self._surplus = True
        elif message.code >= 200:
            content = Content(message.headers, shown=self._most if message.code >= 300 or self._everything else 0)
            self._message, self._payload = message, payload
            self._received = Received(message.code, message.headers, content)
        elif message.code == 101 or message.code < 100:
            raise HttpProcessingError(message="neither a response nor one that comes before it")

    def eof_received(self) -> None:
        """See asyncio.Protocol: there will be no more; some responses end so."""
        if self._answer is None:
            return
        with contextlib.suppress(HttpProcessingError):  # It was cut off, and so has not ended.
            self._parser.feed_eof()
        ended = self._payload is not None and self._payload.is_eof()
        self._surplus = True
        self._end(self._received if ended and self._received is not None else Broken(BROKEN))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - what was received counts
        """See asyncio.BaseProtocol."""
        self._owner.lost(self)
        self.eof_received()

    def _end(self, outcome: Received | Broken) -> None:
        """Tell what came of the request; keep the connection if nothing of it is left on either side."""
        answer, message, self._answer = self._answer, self._message, None
        if answer is None:
            return
        clean = (
            isinstance(outcome, Received)
            and message is not None
            and not (message.should_close or self._surplus or answer.done())
            and not (self._unsent or self._transport.get_write_buffer_size())
        )
        self._forget()
        if clean:
            self._owner.keep(self)
        else:
            self.abort()
        if not answer.done():
            answer.set_result(outcome)
