"""A copy of the current request's body, made while the application reads it.

Frameworks that have parsed a form cannot give its bytes again; some then give none, without an error. So a door lets
every piece pass through here on its way to the application. Nothing is read ahead: uploads, back-pressure and
``Expect: 100-continue`` stay as they were. Only a commit that needs the whole body reads what the application left.
"""

import asyncio
import io
import logging
import math
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Literal, Protocol
from wsgiref.types import InputStream

from .errors import BodyUnavailable, InvalidTask

log = logging.getLogger("taskqueue.door")

SPOOL_BYTES: Final = 64 * 1024
# Seconds for the rest of a body that the handler left unread.
DRAIN_SECONDS: Final = 5.0


class Copy:
    """What there is of one body: a file in memory up to 64 KiB, on disk above; over the limit only the mark of it."""

    def __init__(self, *, declared: int | None, limit: int) -> None:
        """Take the Content-Length and the limit, both in bytes."""
        self.declared: Final = declared
        self._limit = limit
        self._file: tempfile.SpooledTemporaryFile[bytes] | None = None
        self._size = 0
        self._state: Literal["open", "whole", "broken"] = "open"

    def copy(self, piece: bytes) -> None:
        """Keep a piece that the application is about to get."""
        self._size += len(piece)
        if self._size > self._limit:
            self.close()
        elif piece:
            if self._file is None:
                self._file = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 - see close
            self._file.write(piece)

    def end(self) -> None:
        """Note that the body is whole."""
        self._state = "whole"

    def break_off(self) -> None:
        """Note that the client has gone before the body was whole."""
        if self._state == "open":
            self._state = "broken"

    def close(self) -> None:
        """Forget the copy. May be called twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def lacks(self, limit: int) -> bool:
        """Return whether there is more to come, and room for it under ``limit`` bytes."""
        return self._state == "open" and self._size <= min(limit, self._limit)

    def content(self, limit: int) -> bytes:
        """Return the whole body; raises BodyUnavailable (413 over ``limit`` bytes, 400 broken off), InvalidTask."""
        limit = min(limit, self._limit)
        if self._size > limit:
            raise BodyUnavailable(
                f"payload: the current request's body is over the limit of {limit} bytes; give payload=None, a payload"
                " of your own (a reference to where you stored it), or raise limits.body",
                status=413,
            )
        if self._state == "broken":
            raise BodyUnavailable("payload: the client broke off while it sent the current request's body", status=400)
        if self._state == "open":
            raise InvalidTask(
                "payload: the handler has not read the current request's body to its end, so it cannot be copied yet;"
                " read it first, or give payload="
            )
        if self._file is None:
            return b""
        self._file.seek(0)
        return self._file.read()


class Tee(Copy):
    """The copy of a body that an event loop reads."""

    def __init__(self, pull: Callable[[], Awaitable[None]], *, declared: int | None, limit: int) -> None:
        """Take how to read one piece more (it calls ``copy``, ``end`` or ``break_off``) and the limit in bytes."""
        super().__init__(declared=declared, limit=limit)
        self._pull = pull
        self._released = False

    def release(self) -> None:
        """Note that the handler has been left: from now on the rest may be read here."""
        self._released = True

    def fetch(self) -> None:
        """Do nothing: only the event loop that serves this request can read its body."""

    async def finish(self, limit: int) -> bytes:
        """Return the whole body, reading what is left of it within 5 s once the handler has been left.

        Raises BodyUnavailable with the status for the client: 413 over ``limit`` bytes, 400 broken off, 408 not sent
        in time; InvalidTask while the handler may still read it.
        """
        if self._released and self.lacks(limit):
            await self._drain(limit)
        return self.content(limit)

    async def _drain(self, limit: int) -> None:
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while self.lacks(limit):
                    await self._pull()
        except TimeoutError:
            raise _too_slow() from None


class Connection(Protocol):
    """What of a socket is needed to wait for a limited time."""

    def gettimeout(self) -> float | None:
        """Return the seconds that it waits."""
        ...

    def settimeout(self, value: float | None, /) -> None:
        """Set them."""
        ...


class InputTee(Copy):
    """The copy of a body that a thread reads: it takes the place of ``wsgi.input`` (PEP 3333).

    Never more is asked of the server than the client has declared, because not every server knows where a body ends.
    It can be read again from any place if the server's input can: some frameworks begin anew after a conflict.
    """

    def __init__(self, source: InputStream, *, declared: int | None, limit: int, connection: Connection | None) -> None:
        """Take the server's input, the limit in bytes, and the connection if the server names it."""
        super().__init__(declared=declared, limit=limit)
        self._source, self._connection = source, connection
        self._place = 0  # of the next byte that the application reads
        self._begin = _place_of(source)
        self._given_back: io.BytesIO | None = None
        if declared == 0:
            self.end()

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to ``size`` bytes, all that is left if negative or None, none at the end."""
        if self._given_back is not None:
            return self._given_back.read(size)
        return self._take(self._source.read, size)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return a line, its first ``size`` bytes at most, none at the end."""
        if self._given_back is not None:
            return self._given_back.readline(size)
        return self._take(self._source.readline, size)

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        """Return lines until they have ``hint`` bytes, or all."""
        lines, size = [], 0
        for line in self:
            lines.append(line)
            size += len(line)
            if hint is not None and 0 < hint <= size:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        """Give line after line."""
        return iter(self.readline, b"")

    def seekable(self) -> bool:
        """Return whether the server's input can be read again."""
        return self._begin is not None

    def tell(self) -> int:
        """Return how many bytes stand before the next one; raises UnsupportedOperation if that is of no use."""
        if self._begin is None:
            raise io.UnsupportedOperation("the server's input cannot be read again")
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to another place, reading on to one that is not reached yet; return it. Raises UnsupportedOperation."""
        here = self.tell()
        if whence == io.SEEK_END:
            while self.read(SPOOL_BYTES):
                pass
        wanted = max(0, offset + (0 if whence == io.SEEK_SET else here if whence == io.SEEK_CUR else self._place))
        if wanted <= self._size:
            self._rewind(wanted)
        while self._place < wanted and self.read(min(SPOOL_BYTES, wanted - self._place)):
            pass
        return self._place

    def _rewind(self, place: int) -> None:
        again: Any = self._source  # of which WSGI demands no seek
        again.seek((self._begin or 0) + place)
        self._place = place

    def _take(self, method: Callable[..., bytes], size: int | None) -> bytes:
        left = math.inf if self.declared is None else self.declared - self._place
        everything = size is None or size < 0
        if size is None or everything or size > left:
            size = -1 if left == math.inf else int(left)
        if size == 0:
            return b""
        try:
            piece = method() if size < 0 else method(size)
        except Exception:
            self.break_off()
            raise
        self.copy(piece[max(0, self._size - self._place) :])
        self._place += len(piece)
        left -= len(piece)
        if left <= 0 or (self.declared is None and (not piece or (size < 0 and method == self._source.read))):
            self.end()
        elif not piece:
            self.break_off()
        return piece

    def fetch(self) -> None:
        """Read what the application has not read yet; it gets that all the same. Raises BodyUnavailable."""
        if self.lacks(self._limit):
            taken = self._place
            self.drain()
            if self.seekable():
                self._rewind(taken)
            else:
                self._given_back = io.BytesIO(self.content(self._limit)[taken:])

    def drain(self) -> None:
        """Read what the application left, as far as the limit goes; raises BodyUnavailable if it takes over 5 s.

        That long it waits only where the server names the connection; elsewhere the server's own time-outs count.
        """
        previous = self._connection.gettimeout() if self._connection else None
        until = time.monotonic() + DRAIN_SECONDS
        try:
            while self.lacks(self._limit):
                self._drain(until - time.monotonic())
        finally:
            if self._connection:
                self._connection.settimeout(previous)

    def _drain(self, seconds: float) -> None:
        if seconds <= 0:
            raise _too_slow()
        if self._connection:
            self._connection.settimeout(seconds)
        try:
            self.read(SPOOL_BYTES)
        except TimeoutError:
            raise _too_slow() from None
        except Exception as error:  # noqa: BLE001 - each server has its own for a client that is gone
            log.info("the rest of a body could not be read: %s", error)

    async def finish(self, limit: int) -> bytes:
        """Return the whole body, as far as it was read; raises as ``content`` does."""
        return self.content(limit)


def _place_of(source: InputStream) -> int | None:
    """Return where this input stands, or None if it cannot be read again."""
    again: Any = source
    seekable = getattr(again, "seekable", None)
    return again.tell() if seekable is not None and seekable() else None


def _too_slow() -> BodyUnavailable:
    return BodyUnavailable(
        f"payload: the rest of the current request's body did not come within {DRAIN_SECONDS:.0f} s", status=408
    )


class Whole:
    """The body of a proved delivery, which the door has read already."""

    def __init__(self, body: bytes) -> None:
        """Take all of it."""
        self._body = body
        self.declared: Final = len(body)

    def fetch(self) -> None:
        """Do nothing: it is all here."""

    async def finish(self, limit: int) -> bytes:
        """Return it; raises BodyUnavailable if it is over ``limit`` bytes."""
        if len(self._body) > limit:
            raise BodyUnavailable(
                f"payload: this task's body has {len(self._body)} bytes, over the limit of {limit}", status=413
            )
        return self._body
