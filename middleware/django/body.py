"""The body of a Django request, to be copied although a view parses it: exactly the bytes that came."""

import io
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from django.http import HttpRequest

from ...answers import Answer
from ...door import may_carry_body
from ...errors import BodyUnavailable
from ...middleware.wsgi import read_all
from ...tee import Connection, InputTee

_CONNECTIONS: Final = ("gunicorn.socket", "werkzeug.socket")


class Stream:
    """The body as it comes from a WSGI server: what the view reads is copied on its way."""

    def __init__(self, source: Any, *, declared: int, limit: int, connection: Connection | None) -> None:
        """Take Django's stream of it, and limits in bytes as for ``InputTee``."""
        self.declared: Final[int | None] = declared
        self._tee = InputTee(source, declared=declared, limit=limit, connection=connection)

    def fetch(self) -> None:
        """Read what the view has not read yet; it gets that all the same. Raises BodyUnavailable (408)."""
        self._tee.fetch()

    async def finish(self, limit: int) -> bytes:
        """Return all of it, as far as it was read; raises BodyUnavailable, InvalidTask."""
        return self._tee.content(limit)

    def forget(self) -> None:
        """Let go of the copy."""
        self._tee.close()

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to ``size`` bytes, all that is left if negative or None."""
        return self._tee.read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return a line, its first ``size`` bytes at most."""
        return self._tee.readline(size)

    def __iter__(self) -> Iterator[bytes]:
        """Give line after line."""
        return iter(self.readline, b"")

    def close(self) -> None:
        """Do nothing: Django closes its stream when it has read it, and then the copy is still needed."""


class File:
    """The body in the file into which Django has put it, before it asked anybody, as it does under ASGI."""

    def __init__(self, request: HttpRequest, file: BinaryIO) -> None:
        """Take the request and its file."""
        self._request, self._file = request, file
        self.declared: Final[int | None] = _size(file)

    def fetch(self) -> None:
        """Do nothing: it is all here."""

    async def finish(self, limit: int) -> bytes:
        """Return all of it; raises BodyUnavailable if it is over ``limit`` bytes."""
        if self._file.closed:
            kept: bytes = self._request.body  # Django closes the file when it has read it all
            return kept
        size = _size(self._file)
        if size > limit:
            raise BodyUnavailable(
                f"payload: the current request's body has {size} bytes, over the limit of {limit}", status=413
            )
        position = self._file.tell()
        self._file.seek(0)
        try:
            return self._file.read()
        finally:
            self._file.seek(position)


def copy_of(request: HttpRequest, limit: int) -> Stream | File | None:
    """Put a copy beside the request's body, if it may have one."""
    source = request._stream
    if source.seekable():
        file = File(request, source)
        return file if may_carry_body(_method(request), file.declared, chunked=False) else None
    declared = _declared(request)
    if not may_carry_body(_method(request), declared, chunked=False):
        return None
    connection = next((request.META[name] for name in _CONNECTIONS if name in request.META), None)
    stream = Stream(source, declared=declared, limit=limit, connection=connection)
    request._stream = stream
    return stream


def content_of(request: HttpRequest, limit: int, *, keep: bool) -> bytes | Answer:
    """Return a delivery's body, or the answer to one that cannot be taken; the limit is in bytes."""
    source = request._stream
    declared = _size(source) if source.seekable() else _declared(request)
    return read_all(source, declared, limit, keep=keep)


def give_back(request: HttpRequest, content: bytes) -> None:
    """Let the application read this body."""
    request._stream = io.BytesIO(content)
    request.META["CONTENT_LENGTH"] = str(len(content))
    if "wsgi.input" in request.META:
        request.META["wsgi.input"] = request._stream


def _method(request: HttpRequest) -> str:
    return request.method or ""


def _declared(request: HttpRequest) -> int:
    """Return how many bytes Django will read: without a Content-Length none, however the client frames them."""
    text = request.META.get("CONTENT_LENGTH") or ""
    return int(text) if text.isdecimal() else 0


def _size(file: BinaryIO) -> int:
    position = file.tell()
    try:
        return file.seek(0, io.SEEK_END)
    finally:
        file.seek(position)
