"""One delivery from reservation to verdict: open the record, replay it, decide, and tell people in one log line."""

import logging
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Protocol

from .broker import CALL_DEADLINE
from .errors import BrokerUnavailable, RecordError
from .following import following
from .hooks import FailedTask, failed_task
from .keys import Keyring
from .policy import BROKEN, Answered, Broken, NotSent, Outcome, Rules, Unreadable, decide, warning
from .replay import Delivery, Replayer
from .seal import NONCE_BYTES, seal_response, unseal
from .signs import EndedTask, Ending
from .task import Reservation, Response, Settlement, Task, Verdict

log = logging.getLogger("taskqueue.server")

LEVELS: Final = {"complete": logging.INFO, "retry": logging.WARNING, "fail": logging.ERROR, "release": logging.DEBUG}
# Seconds. A record this release cannot open is parked, so that those behind it are served meanwhile.
PARKED: Final = 60.0
# With so many consumers that died while it ran, a task runs alone; if that one dies too, it was the task.
SUSPECT_AFTER: Final = 2
# So many deliveries of a task may come to nothing without a spent attempt when its connection breaks.
SPARED: Final = 10


class Begin(Protocol):
    """Broker.begin."""

    def __call__(self, queue: str, task_id: str, delivery: int, *, deadline: float) -> Awaitable[bool]:
        """Note that this delivery starts; False if it has already."""
        ...


def _ids(reservation: Reservation) -> dict[str, object]:
    return {"task_id": reservation.id, "queue": reservation.queue, "attempt": reservation.attempt}


class Courier:
    """Carries deliveries to one target and remembers what it learnt of it."""

    def __init__(
        self,
        replayer: Replayer,
        keyring: Keyring,
        rules: Rules,
        *,
        timeout: float,
        failed: Callable[[FailedTask], None],
        begin: Begin,
        begins: Callable[[], bool],
        keep: bool = False,
    ) -> None:
        """Take the way to the application.

        ``timeout`` is in seconds, for tasks that name none; ``failed`` is told of each delivery that fails its task;
        ``begin`` is the broker's, ``begins`` whether the application, if it has a door, calls it for each delivery;
        ``keep``: answers to tasks that complete are kept too.
        """
        self._begin, self._door_begins = begin, begins
        self._replayer, self._keyring, self._rules, self._timeout = replayer, keyring, rules, timeout
        self._failed, self._keep = failed, keep
        self._target_known = False
        self._longest = timeout
        self.target_down: str | None = None
        """Why the target is to be left alone for a moment, or None while it answers."""

        self.on_ended: Callable[[Ending], None] = lambda _: None
        """Told how each delivery has ended."""

    def patience(self) -> float:
        """Return the most seconds that any task so far may take."""
        return self._longest

    def begins(self) -> bool:
        """Return whether the application notes the start of each delivery."""
        return self._rules.receipt_required and self._door_begins()

    async def deliver(self, reservation: Reservation, record: bytes) -> Settlement:
        """Replay the task in this record and return what becomes of it; raises nothing but a cancellation."""
        opened = self._opened(reservation, record)
        del record  # While the task runs, its body is enough to keep.
        verdict, outcome = await self._judged(reservation, opened)
        response = self._kept_response(reservation, verdict, outcome)
        settlement = Settlement(reservation.id, reservation.delivery, verdict, response)
        if isinstance(opened, Task) and (opened.on_success or opened.on_failure):
            return self._followed(settlement, opened)
        return settlement

    def _kept_response(self, reservation: Reservation, verdict: Verdict, outcome: Outcome | None) -> bytes:
        """Return the answer sealed, to be kept: of a failure, or of every task if everything is kept."""
        wanted = verdict.kind in ("retry", "fail") or (self._keep and verdict.kind == "complete")
        if not (wanted and isinstance(outcome, Answered)):
            return b""
        kept = Response(outcome.status, outcome.headers, outcome.content)
        nonce = os.urandom(NONCE_BYTES)
        return seal_response(self._keyring, reservation.queue, reservation.id, kept, nonce=nonce)

    def _followed(self, settlement: Settlement, task: Task) -> Settlement:
        """Return the settlement with what follows from it."""
        verdict, now = settlement.verdict, time.time_ns() // 1_000_000
        if verdict.kind not in ("complete", "fail"):
            return settlement
        success = None
        if verdict.kind == "complete":
            success = following(self._keyring, task, settlement.delivery, verdict, "on_success", now=now)
        failure = following(self._keyring, task, settlement.delivery, verdict, "on_failure", now=now)
        return replace(settlement, on_success=success, on_failure=failure)

    def _opened(self, reservation: Reservation, record: bytes) -> Task | RecordError:
        try:
            return unseal(self._keyring, queue=reservation.queue, task_id=reservation.id, record=record)
        except RecordError as error:
            return error

    async def _judged(self, reservation: Reservation, task: Task | RecordError) -> tuple[Verdict, Outcome | None]:
        if isinstance(task, RecordError):
            verdict = self._decide(Unreadable(task.reason), reservation, None)
            log.log(LEVELS["fail"], "%s: %s", verdict.kind, task, extra=_ids(reservation))
            if verdict.kind == "fail":
                self._failed(failed_task(reservation, None, verdict))
            self._note(reservation, None, verdict, None, None)
            return replace(verdict, delay=PARKED), None
        retries = self._rules.retry_max_count if task.retry_max_count is None else task.retry_max_count
        started = time.monotonic()
        outcome: Outcome | None = None
        if time.time() * 1000 > task.expires:
            verdict = Verdict("fail", "expired")
        elif reservation.attempt > retries + 1 or reservation.crashes > SUSPECT_AFTER:
            verdict = Verdict("fail", "crashed")
        else:
            outcome = await self._replay(task, reservation, retries)
            if outcome == Broken(BROKEN) and await self._never_began(reservation):
                outcome = NotSent(BROKEN)
            verdict = self._decide(outcome, reservation, task)
        self._learn(outcome, verdict)
        seconds = time.monotonic() - started
        waited = max(0.0, time.time() - seconds - task.created / 1000)
        self._note(reservation, task, verdict, waited, seconds if outcome is not None else None)
        self._tell(task, reservation, outcome, verdict, seconds, waited)
        if verdict.kind == "fail":
            self._failed(failed_task(reservation, task, verdict))
        return verdict, outcome

    async def _replay(self, task: Task, reservation: Reservation, retries: int) -> Outcome:
        delivery = Delivery(
            task=task,
            delivery=reservation.delivery,
            attempt=reservation.attempt,
            max_attempts=retries + 1,
            timeout=task.timeout or self._timeout,
        )
        self._longest = max(self._longest, delivery.timeout)
        try:
            return await self._replayer.replay(delivery)
        except Exception:
            # A fault of ours in one replay must not end the others; whether the task ran is unknown.
            log.exception("task %s: the replay itself failed", task.id, extra=_ids(reservation))
            return Broken(BROKEN)

    async def _never_began(self, reservation: Reservation) -> bool:
        """Tell whether the application has not begun this delivery, and see to it that it never will.

        An application that is being stopped closes connections on which a request has just come in. That is a deploy,
        and spends no attempt; but something else that breaks each time must come to an end.
        """
        if not self.begins() or reservation.delivery - reservation.attempt >= SPARED:
            return False
        deadline = time.monotonic() + CALL_DEADLINE
        try:
            return await self._begin(reservation.queue, reservation.id, reservation.delivery, deadline=deadline)
        except BrokerUnavailable as error:
            log.debug("task %s: whether it had begun is unknown: %s", reservation.id, error)
            return False

    def _note(
        self, reservation: Reservation, task: Task | None, verdict: Verdict, waited: float | None, ran: float | None
    ) -> None:
        first = reservation.attempt == 1
        shown = (task.method, task.path, task.label, task.route) if task else ("", "", "", "")
        ended = EndedTask(reservation.id, *shown, verdict.status, reservation.attempt)
        self.on_ended(Ending(reservation.queue, verdict.kind, verdict.reason, first, waited, ran, ended))

    def _decide(self, outcome: Outcome, reservation: Reservation, task: Task | None) -> Verdict:
        rules = self._rules
        if task is not None and task.retry_max_count is not None:
            rules = replace(rules, retry_max_count=task.retry_max_count)
        return decide(
            outcome,
            attempt=reservation.attempt,
            rules=rules,
            anonymous=task is None or task.user_id is None,
            target_known=self._target_known,
            now=time.time(),
            jitter=random.random(),
        )

    def _learn(self, outcome: Outcome | None, verdict: Verdict) -> None:
        if outcome is None:
            return
        if isinstance(outcome, Answered) and outcome.receipted:
            self._target_known = True
        if verdict.kind != "release":
            if self.target_down is not None:
                log.warning("target %s: answers again", self._replayer.address)
            self.target_down = None
        elif self.target_down != verdict.reason:
            self.target_down = verdict.reason
            log.warning(
                "target %s: left alone, tried again every half second, no attempt spent; %s",
                self._replayer.address,
                warning(outcome, verdict),
            )

    def _tell(
        self,
        task: Task,
        reservation: Reservation,
        outcome: Outcome | None,
        verdict: Verdict,
        seconds: float,
        waited: float,
    ) -> None:
        remark = warning(outcome, verdict) if outcome is not None else f"{verdict.kind} {verdict.reason}"
        level = max(LEVELS[verdict.kind], logging.WARNING if verdict.kind == "complete" and remark else 0)
        if not log.isEnabledFor(level):
            return
        log.log(
            level,
            "%s %s %s%s",
            task.method,
            task.path,
            remark or f"{verdict.kind} {verdict.status}",
            f", again in {verdict.delay:.1f} s" if verdict.kind == "retry" else "",
            extra={
                **_ids(reservation),
                "method": task.method,
                "path": task.path,
                "status": verdict.status,
                "verdict": verdict.kind,
                "reason": verdict.reason,
                "run_ms": round(seconds * 1000, 1),
                "wait_ms": round(waited * 1000),
            },
        )
