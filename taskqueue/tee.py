"""A copy of the current request's body, made while the application reads it.

Frameworks that have parsed a form cannot give its bytes again; some then give none, without an error. So a door lets
every piece pass through here on its way to the application. Nothing is read ahead: uploads, back-pressure and
``Expect: 100-continue`` stay as they were. Only a commit that needs the whole body reads what the application left.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from typing import Final, Literal

from .errors import BodyUnavailable, InvalidTask

SPOOL_BYTES: Final = 64 * 1024
# Seconds for the rest of a body that the handler left unread.
DRAIN_SECONDS: Final = 5.0


class Tee:
    """The copy of one body: a file in memory up to 64 KiB, on disk above; over the limit only the mark that it was."""

    def __init__(self, pull: Callable[[], Awaitable[None]], *, declared: int | None, limit: int) -> None:
        """Take how to read one piece more (it calls ``copy``, ``end`` or ``break_off``) and the limit in bytes."""
        self.declared: Final = declared
        self._pull, self._limit = pull, limit
        self._file: tempfile.SpooledTemporaryFile[bytes] | None = None
        self._size = 0
        self._state: Literal["open", "whole", "broken"] = "open"
        self._released = False

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

    def release(self) -> None:
        """Note that the handler has been left: from now on the rest may be read here."""
        self._released = True

    def close(self) -> None:
        """Forget the copy. May be called twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    async def finish(self, limit: int) -> bytes:
        """Return the whole body, reading what is left of it within 5 s once the handler has been left.

        Raises BodyUnavailable with the status for the client: 413 over ``limit`` bytes, 400 broken off, 408 not sent
        in time; InvalidTask while the handler may still read it.
        """
        limit = min(limit, self._limit)
        if self._state == "open" and self._size <= limit:
            await self._drain(limit)
        if self._size > limit:
            raise BodyUnavailable(
                f"payload: the current request's body is over the limit of {limit} bytes; give payload=None, a payload"
                " of your own (a reference to where you stored it), or raise limits.body",
                status=413,
            )
        if self._state == "broken":
            raise BodyUnavailable("payload: the client broke off while it sent the current request's body", status=400)
        if self._file is None:
            return b""
        self._file.seek(0)
        return self._file.read()

    async def _drain(self, limit: int) -> None:
        if not self._released:
            raise InvalidTask(
                "payload: the handler has not read the current request's body to its end, so it cannot be copied yet;"
                " read it first, or give payload="
            )
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._state == "open" and self._size <= limit:
                    await self._pull()
        except TimeoutError:
            raise BodyUnavailable(
                f"payload: the rest of the current request's body did not come within {DRAIN_SECONDS:.0f} s", status=408
            ) from None


class Whole:
    """The body of a proved delivery, which the door has read already."""

    def __init__(self, body: bytes) -> None:
        """Take all of it."""
        self._body = body
        self.declared: Final = len(body)

    async def finish(self, limit: int) -> bytes:
        """Return it; raises BodyUnavailable if it is over ``limit`` bytes."""
        if len(self._body) > limit:
            raise BodyUnavailable(
                f"payload: this task's body has {len(self._body)} bytes, over the limit of {limit}", status=413
            )
        return self._body
