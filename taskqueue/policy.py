"""What an outcome means: complete the task, retry it, fail it, or give it back unspent.

One delivery ends in one outcome, and ``decide`` turns that into one verdict. The order of its questions matters. First:
did the request reach the application, and was it the application that answered? A receipt proves it; an answer without
one came from something in between, a login page, a proxy, a wrong port, and says nothing about the task. Only then does
the status count. Where nothing was attempted the task is released, so that a dead target or a wrong setting does not
burn the queue; the consumer leaves that target alone for a while.

``warning`` says the same to a person, for the log.
"""

from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple, TypeAlias

from .fast_init import fast_init
from .reporting import Report
from .task import Verdict

# Reasons of a complete verdict.
REDIRECTED: Final = "redirected"  # 302 or 303 after a successful view: done, but worth a warning
# Reasons of a retry; a fail after the last one is EXHAUSTED.
TIMEOUT: Final = "timeout"  # no answer within the task's time
BROKEN: Final = "broken"  # connection lost after sending, or an answer that is none
REPLAYED: Final = "replayed"  # the door had seen this delivery before
BUSY: Final = "busy"  # 408, 409, 423, 425, 429
SERVER: Final = "server"  # 5xx
ASKED: Final = "asked"  # X-Task-Retry: yes
# Reasons of a retry or a fail.
MISROUTED: Final = "misrouted"  # something other than the application answered
# Reasons of a fail.
EXHAUSTED: Final = "exhausted"  # retries used up
REDIRECT: Final = "redirect"  # 3xx that does not mean success
AUTH: Final = "auth"  # 401, 403
USER_GONE: Final = "user-gone"  # the door could not log the user in
NOT_FOUND: Final = "not-found"  # 404
CLIENT: Final = "client"  # any other 4xx
DECLINED: Final = "declined"  # X-Task-Retry: no
REPORTED: Final = "reported"  # the task has reported an error, whatever its status
FORMAT: Final = "format"  # the record is not a task
SEAL: Final = "seal"  # the record was altered
# Reasons of a release.
REFUSED: Final = "refused"  # connection refused
DNS: Final = "dns"  # name not found
TLS: Final = "tls"  # TLS failure
PROXY: Final = "proxy"  # 502, 503, 504 from a proxy: nothing behind it
UNPROVED: Final = "unproved"  # the target has never given a receipt
SIGNATURE: Final = "signature"  # the door could not verify
KEY: Final = "key"  # the door, or this consumer, has not the secret
SKEW: Final = "skew"  # clocks too far apart
MANUAL: Final = "manual"  # the door takes nothing that was made by hand
VERSION: Final = "version"  # the record is of a newer version

_BUSY_STATUSES: Final = frozenset((408, 409, 423, 425, 429))
_PROXY_STATUSES: Final = frozenset((502, 503, 504))
# One for each status: nearly every delivery ends as one of these.
_SUCCESSES: Final = {status: Verdict("complete", status=status) for status in range(200, 300)}
_LARGEST_DOUBLING: Final = 64  # beyond it the ceiling is reached whatever the setting; keeps the float finite


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A response was read to its end, or, in process, the application returned (then ``receipted`` is true).

    ``receipted``: it carries a valid receipt for this delivery, ``logged_in`` being what that says of the user. The
    others are header values as received: ``Location``, ``Retry-After``, ``X-Task-Retry``, ``X-Task-Refused``.
    ``headers`` and the beginning of the ``content``, which had ``size`` bytes, are kept of an answer that is no
    success, for people.
    ``reported`` is the type that the receipt says counts for what the task has reported in the application, empty if it
    has nothing; ``report`` is what the response itself reports.
    """

    status: int
    receipted: bool
    logged_in: bool = False
    location: str | None = None
    retry_after: str | None = None
    task_retry: str | None = None
    refused: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    content: bytes = b""
    reported: str = ""
    report: Report | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class NotSent:
    """Nothing reached the application; ``reason`` is REFUSED, DNS, TLS or another short word for why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The application may have begun and nobody knows how it ended; ``reason`` is TIMEOUT or BROKEN."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The record could not be opened and was not sent; ``reason`` is a RecordError's: FORMAT, SEAL, VERSION or KEY."""

    reason: str


Outcome: TypeAlias = Answered | NotSent | Broken | Unreadable


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings of the table.

    ``retry_max_count``: retries after the first attempt, 0 for none. ``backoff_min``, ``backoff_max``: seconds.
    ``receipt_required``: false for an application without the door; then statuses alone decide.
    ``misrouted_max``: up to which attempt an answer without receipt is retried, as long as retries are left at all.
    ``retry_after_max``: the most seconds that a Retry-After is believed; more is taken as this. ``slow_max``: the most
    seconds that one of a 429 or 503 slows down the whole queue.
    """

    retry_max_count: int = 10
    backoff_min: float = 1.0
    backoff_max: float = 600.0
    receipt_required: bool = True
    misrouted_max: int = 3
    retry_after_max: float = 24 * 3600.0
    slow_max: float = 600.0


def decide(
    outcome: Outcome, *, attempt: int, rules: Rules, anonymous: bool, target_known: bool, now: float, jitter: float
) -> Verdict:
    """Take how a delivery ended and return what becomes of the task; never raises.

    ``attempt`` counts spent tries, this one included, from 1. ``anonymous``: the task has no user. ``target_known``:
    this target has given a valid receipt before. ``now``: seconds since 1970, for a Retry-After that is a date.
    ``jitter``: a random number from 0 to 1. A ``release`` does not depend on attempts, and asks the consumer to leave
    the target alone for a while, except after Unreadable, which is no fault of the target.
    """
    retrying = _Retrying(attempt, rules, now, jitter)
    match outcome:
        case Unreadable(reason):
            return Verdict("release" if reason in (VERSION, KEY) else "fail", reason)
        case NotSent(reason):
            return Verdict("release", reason)
        case Broken(reason):
            return retrying.verdict(reason)
        case Answered():
            unproved = None if outcome.receipted else _judge_unreceipted(outcome, retrying, target_known=target_known)
            return unproved or _judge_answer(outcome, retrying, anonymous=anonymous)


class _Retrying(NamedTuple):
    """Whether and when this attempt may be followed by another."""

    attempt: int
    rules: Rules
    now: float
    jitter: float

    def verdict(self, reason: str, status: int = 0, retry_after: str | None = None) -> Verdict:
        if self.attempt > self.rules.retry_max_count:
            return Verdict("fail", EXHAUSTED, status)
        delay = backoff(self.attempt, self.rules, jitter=self.jitter)
        asked = min(_seconds_asked(retry_after, now=self.now), self.rules.retry_after_max)
        # Too many requests, or no service: that is said of the application, not of this task alone.
        slow = min(asked, self.rules.slow_max) if status in (429, 503) else 0.0
        return Verdict("retry", reason, status, max(delay, asked), max(0.0, slow))


def _judge_unreceipted(answer: Answered, retrying: _Retrying, *, target_known: bool) -> Verdict | None:
    """Judge an answer that nothing proves to be the application's; None: its status counts all the same."""
    if answer.status == 403 and answer.refused == REPLAYED:
        return retrying.verdict(REPLAYED, answer.status)
    if answer.status == 403 and answer.refused in (SIGNATURE, KEY, SKEW, MANUAL):
        return Verdict("release", answer.refused, answer.status)
    if not retrying.rules.receipt_required:
        return None
    if answer.status in _PROXY_STATUSES or not target_known:
        return Verdict("release", PROXY if answer.status in _PROXY_STATUSES else UNPROVED, answer.status)
    if retrying.attempt > retrying.rules.misrouted_max:
        return Verdict("fail", MISROUTED, answer.status)
    # Its Retry-After does not count: whoever wrote it is not the application.
    return retrying.verdict(MISROUTED, answer.status)


def _judge_answer(answer: Answered, retrying: _Retrying, *, anonymous: bool) -> Verdict:
    """Judge the application's own answer: its wish about a retry, or else its status."""
    verdict = _judge_status(answer, retrying, anonymous=anonymous)
    if verdict.kind == "complete" and _has_error(answer):
        verdict = Verdict("fail", REPORTED, answer.status)
    wish = (answer.task_retry or "").strip().lower()
    if wish == "yes" and verdict.kind != "retry":
        return retrying.verdict(ASKED, answer.status, answer.retry_after)
    if wish == "no" and verdict.kind == "retry":
        return Verdict("fail", DECLINED, answer.status)
    return verdict


def _has_error(answer: Answered) -> bool:
    return answer.reported == "error" or (answer.report is not None and answer.report.worst == "error")


def report_of(outcome: Outcome | None, rules: Rules) -> Report | None:
    """Return what the application's response itself reports, if it does; None for what others may have answered."""
    if not isinstance(outcome, Answered) or (rules.receipt_required and not outcome.receipted):
        return None
    return outcome.report


def _judge_status(answer: Answered, retrying: _Retrying, *, anonymous: bool) -> Verdict:
    status = answer.status
    if status in _SUCCESSES:
        return _SUCCESSES[status]
    if status in (302, 303) and (anonymous or answer.logged_in):
        # A form that succeeds answers like this; without its user it would be the way to the login page.
        return Verdict("complete", REDIRECTED, status)
    if 300 <= status <= 399:
        return Verdict("fail", REDIRECT, status)
    if 400 <= status <= 499 and status not in _BUSY_STATUSES:
        return Verdict("fail", _client_reason(answer), status)
    reason = BUSY if status in _BUSY_STATUSES else SERVER if 500 <= status <= 599 else BROKEN
    return retrying.verdict(reason, status, answer.retry_after)


def _client_reason(answer: Answered) -> str:
    if answer.status in (401, 403):
        return USER_GONE if answer.refused == USER_GONE else AUTH
    return NOT_FOUND if answer.status == 404 else CLIENT


def backoff(attempt: int, rules: Rules, *, jitter: float) -> float:
    """Return how many seconds to wait after this attempt (from 1): exponential with full jitter.

    Between ``backoff_min`` and a ceiling that doubles with each attempt, up to ``backoff_max``, every delay is equally
    likely: tasks that failed together do not come back together, not even the first time.
    """
    ceiling = min(rules.backoff_max, rules.backoff_min * 2.0 ** min(attempt, _LARGEST_DOUBLING))
    return rules.backoff_min + jitter * max(0.0, ceiling - rules.backoff_min)


def _seconds_asked(retry_after: str | None, *, now: float) -> float:
    """Return the seconds a Retry-After asks for (RFC 9110, 10.2.3: a number or a date), 0 if it says nothing."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])  # more digits than any limit has
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    return when.replace(tzinfo=when.tzinfo or UTC).timestamp() - now


_ADVICE: Final = {
    REFUSED: "nobody listens there: does the application run, and is the target right?",
    DNS: "its name is not found: is the target right?",
    TLS: "does it answer https, with a valid certificate for this name?",
    SIGNATURE: "the door could not verify the delivery: does a proxy on the way change Host, path or headers?",
    KEY: "the secrets of this consumer and of the application differ: compare TASKQUEUE_SECRET",
    SKEW: "the clocks of this consumer and of the application differ by more than 30 seconds",
    MANUAL: "the door takes no delivery made by hand: give it allow_manual=True, where that may be",
    UNPROVED: "no answer of this target has carried a receipt yet: is the target right, does the door stand outermost?"
    " (--no-receipt is for applications without the door)",
    PROXY: "a proxy answered, the application behind it did not",
    MISROUTED: "something other than the application answered, a proxy or a login page perhaps: is the target right,"
    " does the door stand outermost?",
    REDIRECTED: "taken as done; redirects are never followed",
    REPORTED: "its report has an error: taskqueue show tells which",
    USER_GONE: "the door could not log the task's user in: removed or locked since?",
    VERSION: "the record was written by a newer version: upgrade this consumer",
}


def warning(outcome: Outcome, verdict: Verdict) -> str | None:
    """Return the sentence that tells a person about this verdict, or None if it is the plain good end.

    It names status and Location (without query, which may hold secrets) and the setting that is likely wrong.
    """
    if verdict.kind == "complete" and not verdict.reason:
        return None
    if isinstance(outcome, Answered):
        cause = f"answered {outcome.status}" + ("" if outcome.receipted else " without receipt")
        if outcome.location is not None:
            cause += f", Location {_location_shown(outcome.location)}"
    else:
        cause = outcome.reason
    advice = _redirect_advice(verdict.status) if verdict.reason == REDIRECT else _ADVICE.get(verdict.reason)
    told = (f"{verdict.kind} {verdict.reason}", cause if cause != verdict.reason else None, advice)
    return ": ".join(part for part in told if part)


def _redirect_advice(status: int) -> str:
    if status in (302, 303):
        return "the task's user was not logged in, so this may be the login page: check the door's load_user"
    if status == 304:
        return "the view answers for a cache: the task must not carry conditions such as If-None-Match"
    return (
        "redirects are never followed: check the url's trailing slash, its host, and the scheme (public_url, and what"
        " the application takes from its proxy)"
    )


def _location_shown(location: str) -> str:
    without_query = location.replace("#", "?").partition("?")[0]
    return repr(without_query[:200]) + (" with a query" if without_query != location else "")
