"""What all doors share: who may come in as a delivery, as whom, and what is answered when it cannot be.

A door stands outermost in an application. A request that claims to be a delivery is proved before the application
sees it; one that is proved starts at most once, runs as its task's user, and gets a receipt on every response. Around
every request the door opens a transaction and ends it with the request. The doors themselves know how their framework
hands over requests and responses; what is decided is decided here.
"""

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, Self, TypeAlias, TypeVar, cast

from .admission import RECEIPT, REPORT, Admission, Headers, notes_for
from .answers import BROKEN_OFF, RETRY_AFTER, Answer, refused
from .components import HeaderPairs
from .errors import BrokerUnavailable, ConfigError, InvalidTask, SignatureError
from .headers import check_host
from .hiding import HiddenPaths
from .keys import Keyring
from .nonces import Nonces
from .portal import in_portal
from .producer import AtCommit, TaskQueue, captures, drains
from .receipt import receipt
from .record import CARRY_A_BODY
from .request import Body, CurrentRequest, CurrentTask, Handover
from .signature import Proof, check_body, is_claimed, verify

if TYPE_CHECKING:
    from .loading import Kind

log = logging.getLogger("taskqueue.door")

Value = TypeVar("Value")
Body_co = TypeVar("Body_co", covariant=True)
Subject = TypeVar("Subject")  # what a framework calls the request: a scope, a Request
LoadUser: TypeAlias = Callable[[str], object | Awaitable[object | None] | None]
UserId: TypeAlias = Callable[[Subject], str | Awaitable[str | None] | None]
Credentials: TypeAlias = Literal["copy", "drop"]
ReplayGuard: TypeAlias = Literal["begin", "process"]
"""Who sees to it that a delivery starts only once: the broker, or the memory of this process.

With ``"process"`` nobody notes what has begun. A consumer with the application inside (``--app``) knows that, and takes
all that it held when it died for begun. One over HTTP cannot know it, and takes it for not begun: it runs again and has
spent no attempt, as it would have if the connection breaks off, the first ten times.
"""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as it came in. ``at`` is when, in seconds since 1970; ``targets`` as for ``signature.verify``."""

    method: str
    targets: Sequence[str]
    headers: HeaderPairs
    handover: Handover | None = None
    at: float = field(default_factory=time.time)

    @property
    def authority(self) -> str:
        """The Host header as sent; two of them are refused in any delivery."""
        return next((value for name, value in self.headers if name.lower() == "host"), "")

    @property
    def recorded_scheme(self) -> str | None:
        """The scheme of the request in which a task was recorded, if a delivery names one.

        A server asks who may forward for others before it believes that; a proved delivery is believed.
        """
        values = [value for name, value in self.headers if name.lower() == "x-forwarded-proto"]
        return values[0] if values in (["http"], ["https"]) else None

    @property
    def claimed(self) -> bool:
        """Whether this says of itself to be a delivery."""
        return self.handover is not None or is_claimed(self.headers)


class Read(Protocol[Body_co]):
    """A door's way to read a request's body: what it returns, or what is awaited for that, is the body or an answer."""

    def __call__(self, *, keep: bool) -> Body_co:
        """Read all of it; ``keep`` is False if nobody wants it.

        Then it is only to be off the connection: where a server closes that with something unread, as gunicorn and
        hypercorn do, the answer is lost, and a consumer with a wrong secret would not learn what is wrong.
        """
        ...


class Door(Generic[Subject]):
    """The settings of a door, and its decisions."""

    def __init__(
        self,
        tq: TaskQueue,
        *,
        load_user: LoadUser | None,
        user_id: UserId[Subject],
        credentials: Credentials | None,
        task_only: Iterable[str],
        replay_guard: ReplayGuard,
        allow_manual: bool,
    ) -> None:
        """Take what the doors take, see there; raises ConfigError."""
        if credentials not in ("copy", "drop", None):
            raise ConfigError(f"credentials: {credentials!r} must be 'copy', 'drop' or None")
        if replay_guard not in ("begin", "process"):
            raise ConfigError(f"replay_guard: {replay_guard!r} must be 'begin' or 'process'")
        if not isinstance(allow_manual, bool):
            raise ConfigError(f"allow_manual: {allow_manual!r} must be True or False")
        self.tq: Final = tq
        self._replays: Callable[[], AtCommit] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._load_user, self._user_id = load_user, user_id
        self._user_id_is_async = _is_async(user_id)
        self._copies_credentials = credentials == "copy" if credentials else load_user is None
        self._task_only: Final = HiddenPaths(task_only)
        self._allow_manual: Final = allow_manual
        self._asks_broker: Final = replay_guard == "begin"
        self._seen: Final = Nonces()
        if not self._asks_broker:
            tq.notes_starts = False

    def stands_in(
        self,
        kind: "Kind",
        make: Callable[[], Any],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        ready: Callable[[], bool] = lambda: True,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Note which application this is the door of, for commits in mode ``sync``; parameters as for SyncMode."""

        @functools.cache
        def replays() -> AtCommit:
            from .syncmode import SyncMode  # noqa: PLC0415 - only who has that mode pays for it

            return SyncMode(self.tq, kind, make, loop=loop, ready=ready, state=state)

        self._replays = self.tq.replays = replays
        self._loop = loop

    def stands_in_it(self, loop: asyncio.AbstractEventLoop | None = None) -> bool:
        """Return whether that is noted, and not of another event loop, or of another door of the same TaskQueue."""
        return self._replays is not None and self._replays is self.tq.replays and self._loop is loop

    def hides(self, path: str, mount: str = "") -> bool:
        """Return whether this decoded path, or what follows ``mount`` in it, is there for tasks only."""
        return self._task_only.hide(path, mount)

    def request(
        self, arrival: Arrival, subject: Subject, *, scheme: str, body: Body | None, admission: Admission | None
    ) -> CurrentRequest:
        """Return what the queue is told of a request; a task that adds tasks passes on its own user."""
        ask: Callable[[], str | None] | None = None
        later: Callable[[], Awaitable[str | None]] | None = None
        if self._user_id_is_async and admission is None:
            later = functools.partial(self._user_id_later, subject)
        else:
            ask = functools.partial(self._user_id_now, subject, admission)
        return CurrentRequest(
            headers=arrival.headers,
            host=_host(arrival.authority),
            scheme=scheme,
            body=body,
            user_id=ask,
            user_id_later=later,
            credentials=self._copies_credentials,
            task=admission.task if admission else None,
            notes=admission.notes if admission else None,
        )

    def _user_id_now(self, subject: Subject, admission: Admission | None) -> str | None:
        if admission is not None:
            return admission.task.user_id
        user_id = self._user_id(subject)
        if user_id is None or isinstance(user_id, str):
            return user_id
        if inspect.iscoroutine(user_id):
            user_id.close()
        raise InvalidTask(
            f"user_id: the door's user_id gave {type(user_id).__name__}, not a str; if it must be awaited, write it as"
            " `async def`, if it is a number, give str(...)"
        )

    async def _user_id_later(self, subject: Subject) -> str | None:
        return await cast("Awaitable[str | None]", self._user_id(subject))

    async def admit(self, arrival: Arrival, read: Read[Awaitable[bytes | Answer]]) -> Admission | Answer:
        """Take a request that claims to be a delivery, and how to read its body or learn why there is none to be had.

        Return it as let in, its user loaded, or what is answered instead. Of what is not proved no body is kept.
        """
        proof = self._proved(arrival)
        if isinstance(proof, Answer):
            return proof if await read(keep=False) is not BROKEN_OFF else BROKEN_OFF
        content = self._checked(arrival, proof, await read(keep=True))
        if isinstance(content, Answer):
            return content
        refusal = await self._begin(arrival, proof)
        if refusal is not None:
            return refusal
        with _Login(proof) as login:
            found = self._find_user(proof)
            login.user = await found if inspect.isawaitable(found) else found
        return self._admitted(arrival, proof, content, login)

    def admit_sync(self, arrival: Arrival, read: Read[bytes | Answer]) -> Admission | Answer:
        """Do the same in a thread: a plain ``load_user`` is called there, as the application's own code would be."""
        proof = self._proved(arrival)
        if isinstance(proof, Answer):
            return proof if read(keep=False) is not BROKEN_OFF else BROKEN_OFF
        content = self._checked(arrival, proof, read(keep=True))
        if isinstance(content, Answer):
            return content
        refusal = self._in_portal(functools.partial(self._begin, arrival, proof))
        if refusal is not None:
            return refusal
        with _Login(proof) as login:
            found = self._find_user(proof)
            login.user = self._in_portal(functools.partial(_value, found)) if inspect.isawaitable(found) else found
        return self._admitted(arrival, proof, content, login)

    def _in_portal(self, call: Callable[[], Awaitable[Value]]) -> Value:
        return in_portal(self.tq, self.tq.aclose, call)

    def _proved(self, arrival: Arrival) -> Proof | Answer:
        try:
            return self._proof(arrival)
        except SignatureError as error:
            return _refusal(arrival, error)

    def _checked(self, arrival: Arrival, proof: Proof, content: bytes | Answer) -> bytes | Answer:
        """Return the body that was signed, or what is answered: with a receipt if it is this task that must change."""
        if content is BROKEN_OFF:
            return BROKEN_OFF
        if isinstance(content, Answer):
            return replace(content, headers=content.headers + self._receipt(arrival, proof, logged_in=False))
        try:
            check_body(proof, content)
        except SignatureError as error:
            return _refusal(arrival, error)
        return content

    async def _begin(self, arrival: Arrival, proof: Proof) -> Answer | None:
        """Return None if this delivery may start, or what is answered instead."""
        try:
            begins = await self._begins(proof)
        except BrokerUnavailable as error:
            log.error("a delivery did not start, because that could not be noted: %s", error)  # noqa: TRY400 - an outage
            return Answer(503, "The start of this task could not be noted; try again.\n", (RETRY_AFTER,))
        if begins:
            return None
        text = f"delivery {proof.delivery} of task {proof.task_id} has started before, or was taken back"
        return _refusal(arrival, SignatureError("replayed", text))

    def _find_user(self, proof: Proof) -> object | Awaitable[object | None] | None:
        return None if self._load_user is None or proof.user_id is None else self._load_user(proof.user_id)

    def _admitted(self, arrival: Arrival, proof: Proof, content: bytes, login: "_Login") -> Admission | Answer:
        admission = self._admission(arrival, proof, content, login.user)
        if login.failed:
            refusal = Answer(500, "The user of this task could not be loaded.\n")
        elif login.user is None and self._load_user is not None and proof.user_id is not None:
            gone = SignatureError("user-gone", f"load_user knows no such user (task {proof.task_id})")
            refusal = _refusal(arrival, gone)
        else:
            return admission
        return replace(refusal, headers=refusal.headers + admission.headers())

    @property
    def _keyring(self) -> Keyring:
        return drains[-1] if drains else self.tq.keyring

    def _proof(self, arrival: Arrival) -> Proof:
        if arrival.handover is not None:
            return arrival.handover.proof
        return verify(
            self._keyring,
            method=arrival.method,
            authority=arrival.authority,
            targets=arrival.targets,
            headers=arrival.headers,
            now=arrival.at,
            allow_manual=self._allow_manual,
        )

    async def _begins(self, proof: Proof) -> bool:
        if captures:
            return True  # A test drains its tasks, and no broker knows them.
        if proof.manual or not self._asks_broker:
            return not proof.nonce or self._seen.add(proof.nonce, now=time.monotonic())
        deadline = time.monotonic() + self.tq.commit_deadline
        return await self.tq.broker.begin(proof.queue, proof.task_id, proof.delivery, deadline=deadline)

    def _admission(self, arrival: Arrival, proof: Proof, content: bytes, user: object | None) -> Admission:
        if arrival.handover is not None:  # in process it counts from here on
            self._receipt(arrival, proof, logged_in=user is not None)
        if proof.manual:
            log.info("task %s is run by hand", proof.task_id)
        task = CurrentTask(
            id=proof.task_id,
            queue=proof.queue,
            user_id=proof.user_id,
            user=user,
            attempt=proof.attempt,
            delivery=proof.delivery,
            max_attempts=proof.max_attempts,
            enqueued_at=proof.enqueued_at,
            deadline=proof.deadline,
            parent=proof.parent,
            manual=proof.manual,
        )
        return Admission(
            task,
            content,
            notes_for(self.tq, proof),
            functools.partial(self._receipt, arrival, proof, logged_in=user is not None),
            self.tq.run_sync,
        )

    def _receipt(self, arrival: Arrival, proof: Proof, reported: str = "", *, logged_in: bool) -> Headers:
        """Return the receipt as headers; in process it is noted on the handover instead."""
        handover = arrival.handover
        if handover is not None:
            handover.admitted, handover.logged_in, handover.reported = True, logged_in, reported
            return ()
        value = receipt(
            self._keyring.current,
            task_id=proof.task_id,
            delivery=proof.delivery,
            logged_in=logged_in,
            reported=reported,
        )
        return ((RECEIPT, value), *(((REPORT, reported),) if reported else ()))


class _Login:
    """Collects the task's user; an error of the application's own is logged and noted."""

    def __init__(self, proof: Proof) -> None:
        self._proof = proof
        self.user: object | None = None
        self.failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False
        log.error("task %s: load_user failed", self._proof.task_id, exc_info=error)
        self.failed = True
        return True


async def _value(awaitable: Awaitable[Value]) -> Value:
    return await awaitable


def may_carry_body(method: str, declared: int | None, *, chunked: bool) -> bool:
    """Return whether there may be a body worth copying; ``declared`` is the Content-Length."""
    return method in CARRY_A_BODY and (chunked if declared is None else declared > 0)


def _refusal(arrival: Arrival, error: SignatureError) -> Answer:
    path = arrival.targets[0].partition("?")[0][:200]
    log.warning("refused (%s): %s %s: %s", error.reason, arrival.method, path, error)
    return refused(error)


# The same few come again and again.
@functools.lru_cache(maxsize=64)
def _host(authority: str) -> str:
    """Return the host a task names itself by; none if the client sent nonsense, and then the consumer's counts."""
    try:
        return check_host(authority)
    except InvalidTask:
        return ""


def _is_async(function: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - an async __call__
