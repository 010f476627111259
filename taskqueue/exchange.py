"""One request and its response on their way through an ASGI door: copied on the way in, held back on the way out."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import replace
from typing import Any, Final, TypeAlias

from .admission import OURS, Admission, Headers
from .answers import UNCAUGHT, Answer, answer_to_uncaught, not_committed
from .tee import Tee
from .transaction import Transaction, bound

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_OURS: Final = frozenset(name.encode() for name in OURS)
# What carries the body, or names a file that is it (extensions pathsend and zerocopysend).
_BODY: Final = frozenset(("http.response.body", "http.response.pathsend", "http.response.zerocopysend"))


class Exchange:
    """Lets one call of an application pass, with its transaction.

    Of a response whose request has added tasks, or said something of itself as a task, nothing leaves before that is
    stored; of a stream, all but its end.
    """

    def __init__(self, receive: Receive, send: Send, *, commits_early: bool, admission: Admission | None) -> None:
        """Take the server's side, when to commit, and the delivery if it is one."""
        self.tee: Tee | None = None
        self._receive, self._send = receive, send
        self._commits_early = commits_early
        self._admission = admission
        self._held: list[Message] = []  # of the response, until the commit
        self._status = 0
        self._left: float = math.inf  # bytes of the response's body still to come, if it declares how many
        self._begun = False  # something of the response was sent
        self._complete = asyncio.Event()  # the application has sent all of it
        self._asked = False  # the application has the whole request
        self._replaced = False  # by an answer of ours

    async def run(self, app: App, scope: Scope, transaction: Transaction) -> None:
        """Call the application, end its transaction, let go of its response; raises what the application raises."""
        self._transaction = transaction
        try:
            with bound(transaction):
                await app(scope, self._receive_for_app, self._send_for_app)
            if transaction.state == "open":
                await self._end()
            else:
                await self._keep_if_possible()
            await self._let_go()
        except UNCAUGHT as error:
            transaction.abort()
            answer = answer_to_uncaught(error)
            if self._begun or answer is None:
                raise
            await self._keep_if_possible()
            await self._replace(answer)
        except BaseException as error:
            transaction.abort()
            if self._admission is not None and not self._begun and isinstance(error, Exception):
                await self._keep_if_possible()
                await self._replace(Answer(500, "Internal Server Error\n"))
            raise
        finally:
            if self.tee is not None:
                self.tee.close()

    async def pull(self) -> None:
        """Read a piece of the request's body for the tee alone."""
        self._copy(await self._receive())

    async def _receive_for_app(self) -> Message:
        if self._asked or self._status:
            return await self._receive_until_complete()
        message = await self._receive()
        self._copy(message)
        return message

    async def _receive_until_complete(self) -> Message:
        """Return what the server says; once the response is complete, that the client is gone.

        So every server says then, and some applications wait for it; but it cannot know while the end is held here.
        """
        if self._complete.is_set():
            return {"type": "http.disconnect"}
        received = asyncio.ensure_future(self._receive())
        complete = asyncio.ensure_future(self._complete.wait())
        try:
            await asyncio.wait((received, complete), return_when=asyncio.FIRST_COMPLETED)
        finally:
            received.cancel()
            complete.cancel()
            await asyncio.gather(received, complete, return_exceptions=True)
            if not received.cancelled() and received.exception() is None:
                self._copy(received.result())
        return {"type": "http.disconnect"} if received.cancelled() else received.result()

    def _copy(self, message: Message) -> None:
        self._asked = not message.get("more_body", False)
        if self.tee is None:
            return
        if message["type"] == "http.disconnect":
            self.tee.break_off()
        else:
            self.tee.copy(message.get("body", b""))
            if not message.get("more_body", False):
                self.tee.end()

    async def _send_for_app(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            message = await self._start(message)
        streams = kind in _BODY and self._streams(message)
        if self._replaced:
            return
        if self._held or (self._waits() and not streams):
            self._held.append(message)
            if streams:
                await self._let_go()
        else:
            await self._pass(message)

    async def _start(self, message: Message) -> Message:
        headers = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in _OURS]
        declared = next((value for name, value in headers if name.lower() == b"content-length"), b"")
        self._left = int(declared) if declared.isdigit() else math.inf
        self._status = message["status"]
        if self._commits_early and self._transaction.state == "open":
            await self._end()
        return {**message, "headers": headers}

    def _streams(self, message: Message) -> bool:
        """Return whether this is a piece of the body, and its last byte is still to come."""
        more = bool(message.get("more_body", False))
        self._left -= len(message.get("body", b""))
        if not more:
            self._complete.set()
        return more and self._left > 0

    def _waits(self) -> bool:
        """Return whether a success is not to be told yet, or what the task has said of itself is not stored yet."""
        says = self._admission is not None and self._admission.pending
        return says or (self._succeeded and self._transaction.pending)

    @property
    def _succeeded(self) -> bool:
        return 0 < self._status < 400

    async def _let_go(self) -> None:
        held, self._held = self._held, []
        for message in held:
            await self._pass(message)

    async def _pass(self, message: Message) -> None:
        """Let a message leave; a start with the receipt as it is by then."""
        if message["type"] == "http.response.start":
            self._begun = True
            message = {**message, "headers": [*message["headers"], *raw(self._receipt())]}
        await self._send(message)

    def _receipt(self) -> Headers:
        return () if self._admission is None else self._admission.headers()

    async def _keep_if_possible(self) -> None:
        if self._admission is not None:
            await self._admission.keep_if_possible()

    async def _end(self) -> None:
        """Store what the task says of itself, and commit or abort.

        If it cannot be stored or committed, tell so in place of the response, or break it off.
        """
        ids = self._transaction.ids
        if not self._succeeded:
            self._transaction.abort()
        try:
            if self._admission is not None:
                await self._admission.keep()
            if self._succeeded:
                if self.tee is not None:
                    self.tee.release()
                await self._transaction.commit()
        except Exception as error:
            self._transaction.abort()
            answer = not_committed(error, ids)
            if answer is None or (self._begun and self._held):
                raise
            if not self._begun:
                await self._replace(answer)

    async def _replace(self, answer: Answer) -> None:
        """Answer in place of the application, of whose response nothing was sent."""
        self._held, self._replaced, self._begun = [], True, True
        await send_answer(self._send, replace(answer, headers=answer.headers + self._receipt()))


def raw(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI has them."""
    return [(name.encode(), value.encode()) for name, value in headers]


async def send_answer(send: Send, answer: Answer) -> None:
    """Send a whole response."""
    body = answer.text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers + raw(answer.headers)})
    await send({"type": "http.response.body", "body": body})
