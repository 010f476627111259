"""One delivery from reservation to verdict: open the record, replay it, decide, and tell people in one log line."""

import logging
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from .broker import CALL_DEADLINE, Broker
from .content import KEPT_BYTES
from .errors import RecordError, TaskQueueError
from .fast_init import fast_init
from .following import following
from .hooks import FailedTask, failed_task
from .keys import Keyring
from .policy import BROKEN, Answered, Broken, NotSent, Outcome, Rules, Unreadable, decide, report_of, warning
from .replay import Delivery, Replay, Replayer
from .reporting import Report
from .response_files import ResponseFiles
from .seal import NONCE_BYTES, seal_note, seal_response, unseal
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
# A fault of ours in one replay must not end the others; whether the task ran is unknown.
FAULT: Final = "task %s: the replay itself failed"
# Of an answer's headers these prove something, and tell nobody anything.
NOT_KEPT: Final = frozenset(("set-cookie", "x-task-receipt"))
BROKEN_OFF: Final = Broken(BROKEN)


def _ids(reservation: Reservation) -> dict[str, object]:
    return {"task_id": reservation.id, "queue": reservation.queue, "attempt": reservation.attempt}


async def _broken_off() -> Outcome:
    return BROKEN_OFF


@fast_init
@dataclass(frozen=True, slots=True)
class Prepared:
    """A delivery that can start: the task, or why its record did not open; its ``replay``, or else its ``verdict``.

    The ``reservation`` is without its record: while the task runs, its body is enough to keep.
    """

    reservation: Reservation
    task: Task | RecordError
    verdict: Verdict | None = None
    replay: Replay = _broken_off


class Courier:
    """Carries deliveries to one target and remembers what it learnt of it."""

    def __init__(
        self,
        replayer: Replayer,
        keyring: Keyring,
        rules: Rules,
        broker: Broker,
        *,
        timeout: float,
        failed: Callable[[FailedTask], None],
        begins: Callable[[], bool],
        keep: bool = False,
        files: ResponseFiles | None = None,
    ) -> None:
        """Take the way to the application, and the broker.

        ``timeout`` is in seconds, for tasks that name none; ``failed`` is told of each delivery that fails its task;
        ``begins`` whether the application, if it has a door, has the broker note the start of each delivery;
        ``keep``: answers to tasks that complete are kept too; ``files``: long ones as files.
        """
        self._broker, self._door_begins = broker, begins
        self._replayer, self._keyring, self._rules, self._timeout = replayer, keyring, rules, timeout
        self._failed, self._keep, self._files = failed, keep, files
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

    def prepare(self, reservation: Reservation) -> Prepared:
        """Open the record, and do for its delivery what needs no waiting."""
        known = Reservation(
            reservation.id, reservation.queue, b"", reservation.delivery, reservation.attempt, reservation.crashes
        )
        try:
            task = unseal(self._keyring, queue=known.queue, task_id=known.id, record=reservation.record)
        except RecordError as error:
            return Prepared(known, error)
        retries = self._rules.retry_max_count if task.retry_max_count is None else task.retry_max_count
        if time.time() * 1000 > task.expires:
            return Prepared(known, task, verdict=Verdict("fail", "expired"))
        if known.attempt > retries + 1 or known.crashes > SUSPECT_AFTER:
            return Prepared(known, task, verdict=Verdict("fail", "crashed"))
        timeout = task.timeout or self._timeout
        self._longest = max(self._longest, timeout)
        delivery = Delivery(
            task=task,
            delivery=known.delivery,
            attempt=known.attempt,
            max_attempts=retries + 1,
            timeout=timeout,
            keep=self._keep,
            most=self._files.most if self._files else KEPT_BYTES,
        )
        try:
            return Prepared(known, task, replay=self._replayer.prepare(delivery))
        except Exception:
            log.exception(FAULT, known.id, extra=_ids(known))
            return Prepared(known, task, replay=_broken_off)

    async def deliver(self, prepared: Prepared) -> Settlement:
        """Replay this task and return what becomes of it; raises nothing but a cancellation."""
        reservation, task, verdict = prepared.reservation, prepared.task, prepared.verdict
        if isinstance(task, RecordError):
            return Settlement(reservation.id, reservation.delivery, self._unopened(reservation, task))
        started = time.monotonic()
        outcome: Outcome | None = None
        if verdict is None:
            outcome = await self._replay(prepared)
            verdict = self._decide(outcome, reservation, task)
            self._learn(outcome, verdict)
        seconds = time.monotonic() - started
        waited = max(0.0, time.time() - seconds - task.created / 1000)
        self._note(reservation, task, verdict, waited, seconds if outcome is not None else None)
        self._tell(task, reservation, outcome, verdict, seconds, waited)
        if verdict.kind == "fail":
            self._failed(failed_task(reservation, task, verdict))
        report = report_of(outcome, self._rules)
        if report is not None:
            await self._keep_report(reservation, report)
        response = b""
        if verdict.kind != "complete" or self._keep or self._files:  # of most answers nothing is kept
            response = await self._kept_response(reservation, verdict, outcome)
        settlement = Settlement(reservation.id, reservation.delivery, verdict, response)
        return self._followed(settlement, task) if task.on_success or task.on_failure else settlement

    def _unopened(self, reservation: Reservation, error: RecordError) -> Verdict:
        """Return what becomes of a task whose record could not be opened."""
        verdict = self._decide(Unreadable(error.reason), reservation, None)
        log.log(LEVELS["fail"], "%s: %s", verdict.kind, error, extra=_ids(reservation))
        if verdict.kind == "fail":
            self._failed(failed_task(reservation, None, verdict))
        self._note(reservation, None, verdict, None, None)
        return replace(verdict, delay=PARKED)

    async def _kept_response(self, reservation: Reservation, verdict: Verdict, outcome: Outcome | None) -> bytes:
        """Return the answer sealed, to be kept: of a failure, or of every task if everything is kept.

        A long one is kept as a file before: what is told of it is true when it is told.
        """
        wanted = verdict.kind in ("retry", "fail") or (self._keep and verdict.kind == "complete")
        if not (wanted and isinstance(outcome, Answered)):
            if self._files and verdict.kind == "complete":
                await self._files.remove(reservation)
            return b""
        headers = tuple(pair for pair in outcome.headers if pair[0].lower() not in NOT_KEPT)
        kept = await self._files.keep(reservation, outcome) if self._files else 0
        response = Response(outcome.status, headers, outcome.content[:KEPT_BYTES], kept=kept, size=outcome.size)
        nonce = os.urandom(NONCE_BYTES)
        return seal_response(self._keyring, reservation.queue, reservation.id, response, nonce=nonce)

    async def _keep_report(self, reservation: Reservation, report: Report) -> None:
        """Keep in the task's log what its answer reports, while the delivery is still under way."""
        queue, task_id, nonce = reservation.queue, reservation.id, os.urandom(NONCE_BYTES)
        fields = {"report": seal_note(self._keyring, queue, task_id, "report", report.encode(), nonce=nonce)}
        deadline = time.monotonic() + CALL_DEADLINE
        try:
            await self._broker.note(queue, task_id, reservation.delivery, fields, deadline=deadline)
        except TaskQueueError as error:
            log.warning("task %s: its report is lost: %s", task_id, error, extra=_ids(reservation))

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

    async def _replay(self, prepared: Prepared) -> Outcome:
        try:
            outcome = await prepared.replay()
        except Exception:
            log.exception(FAULT, prepared.reservation.id, extra=_ids(prepared.reservation))
            outcome = BROKEN_OFF
        if isinstance(outcome, Broken) and outcome == BROKEN_OFF and await self._never_began(prepared.reservation):
            return NotSent(BROKEN)
        return outcome

    async def _never_began(self, reservation: Reservation) -> bool:
        """Tell whether the application has not begun this delivery, and see to it that it never will.

        An application that is being stopped closes connections on which a request has just come in. That is a deploy,
        and spends no attempt; but something else that breaks each time must come to an end.
        """
        if not self.begins() or reservation.delivery - reservation.attempt >= SPARED:
            return False
        deadline = time.monotonic() + CALL_DEADLINE
        try:
            return await self._broker.begin(reservation.queue, reservation.id, reservation.delivery, deadline=deadline)
        except TaskQueueError as error:
            log.debug("task %s: whether it had begun is unknown: %s", reservation.id, error)
            return False

    def _note(
        self, reservation: Reservation, task: Task | None, verdict: Verdict, waited: float | None, ran: float | None
    ) -> None:
        first, attempt, status = reservation.attempt == 1, reservation.attempt, verdict.status
        if task is None:
            ended = EndedTask(reservation.id, "", "", "", "", status, attempt)
        else:
            ended = EndedTask(reservation.id, task.method, task.path, task.label, task.route, status, attempt)
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

    def _learn(self, outcome: Outcome, verdict: Verdict) -> None:
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
        if verdict.kind == "complete" and not verdict.reason and not log.isEnabledFor(LEVELS["complete"]):
            return
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
