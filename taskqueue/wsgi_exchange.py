"""One request and its response on their way through a WSGI door: copied on the way in, held back on the way out."""

import inspect
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from .admission import OURS, Admission
from .answers import Answer, answer_to_uncaught, not_committed
from .tee import InputTee
from .transaction import Transaction, bound

log = logging.getLogger("taskqueue.door")


class WsgiExchange:
    """Lets one call of an application pass, with its transaction; where it matters it is the iterable of the response.

    Servers use threads again, and a response is made in several visits of one: the application's context variables are
    kept here between them, and in the thread there is never a trace of a request.
    """

    def __init__(
        self,
        start_response: StartResponse,
        transaction: Transaction,
        tee: InputTee | None,
        admission: Admission | None,
    ) -> None:
        """Take the server's side, what was begun for this request, and the delivery if it is one."""
        self._tell_server, self._transaction = start_response, transaction
        self._tee, self._admission = tee, admission
        with bound(transaction):
            self._context = copy_context()
        self._head: tuple[str, list[tuple[str, str]], Any] = ("", [], None)
        self._write_to_server: Callable[[bytes], object] | None = None  # there is one once the response has begun
        self._held: list[bytes] = []  # of the response, until the commit
        self._left: float = math.inf  # bytes of the response's body still to come, if it declares how many
        self._replaced = False  # by an answer of ours
        self._pieces: Iterator[bytes] = iter(())
        self._close_app: Callable[[], object] | None = None
        self._ended = False  # the application has said all, and its transaction is over

    def run(self, app: WSGIApplication, environ: WSGIEnvironment) -> Iterable[bytes]:
        """Call the application; return what the server is to send."""
        result: Iterable[bytes] = ()
        try:
            result = self._context.run(app, environ, self._start)
            if not _is_whole(result, environ):
                self._pieces, self._close_app = iter(result), getattr(result, "close", None)
                return self
            self._end()
        except BaseException as error:  # noqa: BLE001 - raised again unless it is for the door to answer
            self._fail(error)
        if self._tee is not None:
            self._tee.close()
        if self._replaced:
            self._begin()
            return self._held
        if self._held:
            self._flush()
        self._begin()
        return result

    def __iter__(self) -> Iterator[bytes]:
        """Give the response's body."""
        return self

    def __next__(self) -> bytes:
        """Return the next piece of the response's body; before the last one the tasks are stored."""
        if not self._ended:
            piece = self._advance()
            if piece is not None:
                return piece
        rest, self._held = b"".join(self._held), []
        if not rest:
            raise StopIteration
        return rest

    def close(self) -> None:
        """Let the application clean up. A server that has not taken all pieces has lost its client."""
        try:
            self._close()
            if not self._ended:
                self._left = 0  # nobody can be told any more
                self._end()
        except BaseException:
            self._transaction.abort()
            raise
        finally:
            if self._tee is not None:
                self._tee.close()

    def _advance(self) -> bytes | None:
        """Return the next piece that may leave, or None if the application has ended, well or not."""
        try:
            while (piece := self._context.run(self._next)) is not None:
                if self._passes(piece):
                    self._begin()
                    held, self._held = self._held, []
                    return b"".join([*held, piece])
                self._held.append(piece)
            self._close()
            self._end()
        except BaseException as error:  # noqa: BLE001 - raised again unless it is for the door to answer
            self._fail(error)
        self._begin()
        return None

    def _next(self) -> bytes | None:
        return next(self._pieces, None)

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Callable[[bytes], object]:
        """Take status and headers from the application: the server hears of them when a piece may leave."""
        if self._write_to_server is not None:
            return self._tell_server(status, headers, exc_info)  # which raises: it is too late
        if self._head[0] and exc_info is None:
            raise AssertionError("start_response: called twice without exc_info")
        self._head = (status, [pair for pair in headers if pair[0].lower() not in OURS], exc_info)
        declared = next((value for name, value in headers if name.lower() == "content-length"), "")
        self._left = int(declared) if declared.isdecimal() else math.inf
        return self._write

    def _write(self, piece: bytes) -> None:
        """Send a piece at once, as old applications do."""
        passes = self._passes(piece)
        self._held.append(piece)
        if passes:
            self._flush()

    def _flush(self) -> None:
        held, self._held = self._held, []
        self._begin()
        if self._write_to_server is not None:
            self._write_to_server(b"".join(held))

    def _passes(self, piece: bytes) -> bool:
        """Return whether a piece may leave before the commit: nothing waits for that, or it is not the last one."""
        self._left -= len(piece)
        says = self._admission is not None and self._admission.pending
        waits = says or (self._succeeded and self._transaction.pending)
        return not waits or (self._left > 0 and bool(piece))

    @property
    def _succeeded(self) -> bool:
        return bool(self._head[0]) and int(self._head[0][:3]) < 400

    def _begin(self) -> None:
        """Tell the server status and headers, once."""
        status, headers, exc_info = self._head
        if self._write_to_server is None and status:
            arguments = () if exc_info is None else (exc_info,)
            receipt = () if self._admission is None else self._admission.headers()
            self._write_to_server = self._tell_server(status, [*headers, *receipt], *arguments)
            self._head = (status, headers, None)

    def _close(self) -> None:
        close, self._close_app = self._close_app, None
        if close is not None:
            self._context.run(close)

    def _end(self) -> None:
        """Store what the task says of itself, and commit or abort.

        If it cannot be stored or committed, tell so in place of the response, or break it off.
        """
        self._ended = True
        ids = self._transaction.ids
        if not self._succeeded:
            self._transaction.abort()
        try:
            if self._admission is not None:
                self._admission.keep_sync()
            if self._succeeded:
                if self._tee is not None and self._transaction.copies_body:
                    self._tee.drain()
                self._transaction.commit_sync()
        except Exception as error:
            self._transaction.abort()
            answer = not_committed(error, ids)
            if answer is None or (self._write_to_server is not None and self._left > 0):
                raise
            self._replace(answer)

    def _fail(self, error: BaseException) -> None:
        """Answer in place of the application if that is for the door to do, else raise the error again."""
        self._ended = True
        self._transaction.abort()
        if self._tee is not None:
            self._tee.close()  # a server does not close what it never got
        if self._write_to_server is not None or not isinstance(error, Exception):
            raise error
        if self._admission is not None:
            self._admission.keep_if_possible_sync()
        answer = answer_to_uncaught(error)
        if answer is not None:
            self._replace(answer)
        elif self._admission is not None:
            log.error("task %s: the application raised", self._admission.task.id, exc_info=error)
            self._replace(Answer(500, "Internal Server Error\n"))
        else:
            raise error

    def _replace(self, answer: Answer) -> None:
        """Answer in place of the application, of whose response nothing was sent."""
        if self._write_to_server is None:
            status, headers, text = _written(answer)
            self._head, self._held, self._replaced = (status, headers, None), [text], True


def _is_whole(result: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    """Return whether the application has nothing left to do for this: it is all there, or a file that the server sends.

    The server gets it as it is, and may make use of that.
    """
    wrapper = environ.get("wsgi.file_wrapper")
    return type(result) in (list, tuple) or (inspect.isclass(wrapper) and isinstance(result, wrapper))


def _written(answer: Answer) -> tuple[str, list[tuple[str, str]], bytes]:
    text = answer.text.encode()
    headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(text)))]
    return f"{answer.status} {HTTPStatus(answer.status).phrase}", [*headers, *answer.headers], text


def send_answer(start_response: StartResponse, answer: Answer) -> Iterable[bytes]:
    """Answer in place of the application."""
    status, headers, text = _written(answer)
    start_response(status, headers)
    return [text]
