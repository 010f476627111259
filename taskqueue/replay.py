"""Replaying: one delivery of one task becomes exactly one request, and what came of it an Outcome.

A client library wants to be helpful: it keeps cookies, follows redirects, asks proxies, inflates bodies, sends again
what it thinks was lost. Each of that would show one user's session to another, sign what is not sent, or run a task
twice unseen. So the client is one of our own that does none of it, and the tests look at the bytes on the wire.
"""

import functools
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self, TypeAlias
from urllib.parse import urlsplit

from .content import KEPT_BYTES
from .errors import ConfigError, InvalidTask, SignatureError
from .fast_init import fast_init
from .headers import check_host
from .httpclient import HttpClient
from .keys import Keyring, SubKeys
from .policy import FORMAT, Answered, Outcome, Unreadable
from .receipt import check_receipt
from .signature import delivery_headers, sign
from .task import Task
from .wire import Received, request_head

VERSION: Final = "0.1.0"
USER_AGENT: Final = f"taskqueue/{VERSION}"
# Of these methods a request without a body tells no length (RFC 9110, 8.6).
_BODILESS: Final = ("GET", "HEAD")


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One handing-out of a task: what the application is told of it, and ``timeout``, the seconds it may take.

    ``keep``: the answer is to be shown also if it is a success; ``most``: so many bytes of it.
    """

    task: Task
    delivery: int
    attempt: int
    max_attempts: int
    timeout: float
    keep: bool = False
    most: int = KEPT_BYTES


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
        self._client: HttpClient | None = None

    async def __aenter__(self) -> Self:
        """Make the client; no connection yet."""
        parts = urlsplit(self.address)
        self._client = HttpClient(
            parts.hostname or "",
            parts.port or (443 if parts.scheme == "https" else 80),
            tls=parts.scheme == "https",
            unix_socket=self._unix_socket,
            connect_timeout=self._connect_timeout,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close every connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def prepare(self, delivery: Delivery) -> Replay:
        """See Replayer. The request is signed here."""
        task = delivery.task
        try:
            headers = signed_headers(delivery, self._host, self._keyring.current, manual=self._manual)
        except SignatureError:
            return _unreadable
        if task.body or task.method not in _BODILESS:
            headers.append(("Content-Length", str(len(task.body))))
        head = request_head(task.method, task.target, headers)
        return functools.partial(self._replay, delivery, head) if head else _unreadable

    async def replay(self, delivery: Delivery) -> Outcome:
        """See Replayer."""
        return await self.prepare(delivery)()

    async def _replay(self, delivery: Delivery, head: bytes) -> Outcome:
        if self._client is None:
            raise RuntimeError("HttpReplayer: use it as a context manager")
        task, everything = delivery.task, self._manual or delivery.keep
        received = await self._client.request(
            head, task.body, method=task.method, timeout=delivery.timeout, everything=everything, most=delivery.most
        )
        if not isinstance(received, Received):
            return received
        return answered(self._keyring, delivery, received, everything=everything)


async def _unreadable() -> Outcome:
    return Unreadable(FORMAT)


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


def answered(keyring: Keyring, delivery: Delivery, received: Received, *, everything: bool = False) -> Answered:
    """Return the outcome for a response; ``everything``: it is to be shown also if it is a success."""
    status, headers, content = received
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
        headers=tuple(headers.items()) if status >= 300 or everything else (),
        content=content.shown,
        size=content.size,
        reported="" if receipt is None else receipt.reported,
        report=content.report(delivery.task.id),
    )
