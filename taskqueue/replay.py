"""Replaying: one delivery of one task becomes exactly one request, and what came of it an Outcome.

A client library wants to be helpful: it keeps cookies, follows redirects, asks proxies, inflates bodies, sends again
what it thinks was lost. Each of that would show one user's session to another, sign what is not sent, or run a task
twice unseen. So all of it is off, and the tests look at the bytes on the wire.
"""

import asyncio
import functools
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeAlias
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from .errors import ConfigError, InvalidReport, InvalidTask, SignatureError
from .fast_init import fast_init
from .headers import check_host
from .keys import Keyring, SubKeys
from .policy import BROKEN, DNS, FORMAT, REFUSED, TIMEOUT, TLS, Answered, Broken, NotSent, Outcome, Unreadable
from .receipt import check_receipt
from .reporting import MAX_BYTES, MEDIA_TYPE, Report, parse
from .signature import delivery_headers, sign
from .task import Task

log = logging.getLogger("taskqueue.server")

VERSION: Final = "0.1.0"
USER_AGENT: Final = f"taskqueue/{VERSION}"
# Seconds an idle connection is kept: less than what common servers do (gunicorn 2, uvicorn 5), or a request would now
# and then meet a connection that is just being closed, and nobody could tell whether it was carried out.
KEEP_ALIVE: Final = 1.5
PIECE_BYTES: Final = 64 * 1024
# How much of an answer that is no success is kept, for people.
KEPT_BYTES: Final = 16 * 1024
_NO_TYPE: Final = ("Content-Type",)


class _Request(aiohttp.ClientRequest):
    """A request that adds none to its headers; to leave them out of each costs more."""

    DEFAULT_HEADERS: dict[Any, str] = {}  # noqa: RUF012 - as the library has it


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One handing-out of a task: what the application is told of it, and ``timeout``, the seconds it may take.

    ``keep``: the answer is to be shown also if it is a success.
    """

    task: Task
    delivery: int
    attempt: int
    max_attempts: int
    timeout: float
    keep: bool = False


Replay: TypeAlias = Callable[[], Awaitable[Outcome]]
"""Makes one request, called once, and returns what came of it; raises nothing but a cancellation."""


class Replayer(Protocol):
    """A way to the application. Used as an asynchronous context manager around all its replays."""

    @property
    def address(self) -> str:
        """Where the application is, for people."""
        ...

    def prepare(self, delivery: Delivery) -> Replay:
        """Do for a delivery what needs no waiting; it is to start at once."""
        ...

    async def replay(self, delivery: Delivery) -> Outcome:
        """Do both; return what came of it; raises nothing but a cancellation."""
        ...

    async def __aenter__(self) -> Self:
        """Get ready."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close every connection."""
        ...


class HttpReplayer:
    """Replays over HTTP/1.1 to one base address, each request signed (see ``signature``)."""

    def __init__(
        self,
        target: str,
        keyring: Keyring,
        *,
        connect_timeout: float = 5.0,
        unix_socket: str | None = None,
        manual: bool = False,
    ) -> None:
        """Take ``http://host:port`` or ``https://host``, and ``connect_timeout`` in seconds. Raises ConfigError.

        With ``unix_socket`` the connection goes to that path, and the target only names the host. ``manual``: what is
        sent is made by hand, and of every answer the beginning is kept.
        """
        parts = urlsplit(target)
        if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
            raise ConfigError(
                f"target: {parts.scheme}://{parts.hostname or ''} must be a scheme and a host without user, as in"
                " http://127.0.0.1:8000"
            )
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise ConfigError(f"target: {target!r} must end after the host: the path comes from each task")
        try:
            self.address = f"{parts.scheme}://{check_host(parts.netloc)}"
        except InvalidTask:
            raise ConfigError(f"target: {target!r} names no host, or no port, that can be") from None
        self._host = parts.netloc
        self._keyring = keyring
        self._connect_timeout = connect_timeout
        self._unix_socket = unix_socket
        self._manual = manual
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Make the session; no connection yet."""
        connector: aiohttp.BaseConnector = (
            aiohttp.UnixConnector(self._unix_socket, limit=0, keepalive_timeout=KEEP_ALIVE)
            if self._unix_socket
            else aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE)
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            request_class=_Request,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout),
        )
        # aiohttp sends an idempotent request again, unasked, when a kept connection was closed under it. There is no
        # public switch; a test counts the requests that arrive, so that a renamed attribute cannot pass unnoticed.
        session._retry_connection = False
        self._session = session
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    def prepare(self, delivery: Delivery) -> Replay:
        """See Replayer. The request is signed here."""
        try:
            headers = signed_headers(delivery, self._host, self._keyring.current, manual=self._manual)
        except SignatureError:
            return _unreadable
        if delivery.task.body:
            headers.append(("Content-Length", str(len(delivery.task.body))))
        return functools.partial(self._replay, delivery, headers)

    async def replay(self, delivery: Delivery) -> Outcome:
        """See Replayer."""
        return await self.prepare(delivery)()

    async def _replay(self, delivery: Delivery, headers: Iterable[tuple[str, str]]) -> Outcome:
        try:
            async with asyncio.timeout(delivery.timeout):
                return await self._exchange(delivery, headers)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _failure(error)

    async def _exchange(self, delivery: Delivery, headers: Iterable[tuple[str, str]]) -> Outcome:
        task = delivery.task
        if self._session is None:
            raise RuntimeError("HttpReplayer: use it as a context manager")
        async with self._session.request(
            task.method,
            URL(self.address + task.target, encoded=True),
            headers=headers,
            data=_pieces(task.body) if len(task.body) > PIECE_BYTES else task.body or None,
            skip_auto_headers=None if any(name == "content-type" for name, _ in task.headers) else _NO_TYPE,
            allow_redirects=False,
        ) as response:
            # Read to its end, or the application may be cut off in its work.
            everything = self._manual or delivery.keep
            content = Content(response.headers, shown=response.status >= 300 or everything)
            while not response.content.at_eof():
                content.take(await response.content.readany())
            answer = answered(self._keyring, delivery, response.status, response.headers, content)
            return replace(answer, headers=tuple(response.headers.items())) if everything else answer


async def _unreadable() -> Outcome:
    return Unreadable(FORMAT)


async def _pieces(body: bytes) -> AsyncIterator[memoryview]:
    """Yield a large body bit by bit: of bytes, and of a file in memory, the client library would make a copy."""
    view = memoryview(body)
    for start in range(0, len(view), PIECE_BYTES):
        yield view[start : start + PIECE_BYTES]


def signed_headers(
    delivery: Delivery, target_host: str, keys: SubKeys, *, manual: bool = False
) -> list[tuple[str, str]]:
    """Return all headers of a delivery but framing, freshly signed. Raises SignatureError for what cannot be sent."""
    task, now = delivery.task, time.time()
    host, headers = request_headers(delivery, target_host, now=now)
    signed = sign(
        keys,
        method=task.method,
        authority=host,
        target=task.target,
        headers=headers,
        body=task.body,
        created=int(now),
        nonce=os.urandom(16).hex(),
        manual=manual,
    )
    return [("Host", host), *headers, *signed]


def request_headers(delivery: Delivery, target_host: str, *, now: float) -> tuple[str, list[tuple[str, str]]]:
    """Return the Host of a delivery and all its other headers but framing and signature; ``now`` as ``time.time()``."""
    task = delivery.task
    headers = [("User-Agent", USER_AGENT), *task.headers]
    if task.scheme and "x-forwarded-proto" not in dict(task.headers):
        headers.append(("X-Forwarded-Proto", task.scheme))
    headers += delivery_headers(
        task_id=task.id,
        queue=task.queue,
        user_id=task.user_id,
        attempt=delivery.attempt,
        delivery=delivery.delivery,
        max_attempts=delivery.max_attempts,
        enqueued_at=task.created,
        deadline=round((now + delivery.timeout) * 1000),
        parent=task.parent,
    )
    return task.host or target_host, headers


class Content:
    """What is kept of a response's content: the beginning of what people want to see, and all of a report."""

    def __init__(self, headers: Mapping[str, str], *, shown: bool) -> None:
        """Take the response's headers, caseless, and whether its content is for people to see."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        self._shown = KEPT_BYTES if shown else 0
        self._reports = kind == MEDIA_TYPE
        self._most = MAX_BYTES + 1 if self._reports else self._shown  # one more, to know what is too long
        self._kept = b""

    def take(self, piece: bytes) -> None:
        """Take a piece of it."""
        if len(self._kept) < self._most:
            self._kept += piece[: self._most - len(self._kept)]

    @property
    def shown(self) -> bytes:
        """The beginning, for people."""
        return self._kept[: self._shown]

    def report(self, task_id: str) -> Report | None:
        """Return the report that it is; one that cannot be read is logged, and changes nothing for the task."""
        if not self._reports:
            return None
        try:
            return parse(self._kept)
        except InvalidReport as error:
            log.warning("task %s: its answer calls itself a report: %s", task_id, error, extra={"task_id": task_id})
            return None


def answered(
    keyring: Keyring, delivery: Delivery, status: int, headers: Mapping[str, str], content: Content
) -> Answered:
    """Return the outcome for a response that was read to its end; ``headers`` caseless."""
    receipt = check_receipt(
        keyring,
        headers.get("x-task-receipt"),
        task_id=delivery.task.id,
        delivery=delivery.delivery,
        reported=headers.get("x-task-report"),
    )
    return Answered(
        status=status,
        receipted=receipt is not None,
        logged_in=receipt is not None and receipt.logged_in,
        location=headers.get("location"),
        retry_after=headers.get("retry-after"),
        task_retry=headers.get("x-task-retry"),
        refused=headers.get("x-task-refused"),
        headers=tuple(headers.items()) if status >= 300 else (),
        content=content.shown,
        reported="" if receipt is None else receipt.reported,
        report=content.report(delivery.task.id),
    )


def _failure(error: aiohttp.ClientError | OSError | ValueError) -> Outcome:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return NotSent(DNS)
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch():
            return NotSent(TLS)
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return NotSent(REFUSED)
        case TimeoutError():
            return Broken(TIMEOUT)
        case _:
            # Broken off, or an answer that is not HTTP: in any case after the request was sent.
            return Broken(BROKEN)
