"""The table of verdicts, row by row, and what holds for every outcome there can be."""

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqueue import policy
from taskqueue.policy import Answered, Broken, NotSent, Outcome, Rules, Unreadable, backoff, decide, warning
from taskqueue.reporting import Report
from taskqueue.task import Verdict

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT
RULES = Rules()
NO_RECEIPT = Rules(receipt_required=False)


def judge(
    outcome: Outcome,
    *,
    attempt: int = 1,
    rules: Rules = RULES,
    anonymous: bool = False,
    target_known: bool = True,
    jitter: float = 0.0,
) -> Verdict:
    return decide(
        outcome, attempt=attempt, rules=rules, anonymous=anonymous, target_known=target_known, now=NOW, jitter=jitter
    )


def proved(status: int, **headers: Any) -> Answered:
    """Return an answer with a receipt that says the task's user was logged in."""
    return Answered(status=status, receipted=True, logged_in=True, **headers)


def stray(status: int, **headers: Any) -> Answered:
    """Return an answer without a receipt."""
    return Answered(status=status, receipted=False, **headers)


def told(verdict: Verdict) -> str:
    """Return kind and reason in one word, as the table below writes them."""
    return f"{verdict.kind} {verdict.reason}".strip()


NOT_LOGGED_IN = Answered(status=302, receipted=True, logged_in=False, location="/login?next=/x")

ROWS: list[tuple[Outcome, str]] = [
    # 2xx with receipt
    (proved(200), "complete"),
    (proved(201), "complete"),
    (proved(202), "complete"),
    (proved(204), "complete"),
    (proved(299), "complete"),
    # 302, 303 with receipt; the rows for anonymous tasks are below
    (proved(302, location="/done"), "complete redirected"),
    (proved(303, location="/done"), "complete redirected"),
    (NOT_LOGGED_IN, "fail redirect"),
    (replace(NOT_LOGGED_IN, status=303), "fail redirect"),
    # other 3xx with receipt
    (proved(300), "fail redirect"),
    (proved(301, location="/x/"), "fail redirect"),
    (proved(304), "fail redirect"),
    (proved(305), "fail redirect"),
    (proved(307), "fail redirect"),
    (proved(308), "fail redirect"),
    # what another try may cure
    (proved(408), "retry busy"),
    (proved(409), "retry busy"),
    (proved(423), "retry busy"),
    (proved(425), "retry busy"),
    (proved(429), "retry busy"),
    (proved(500), "retry server"),
    (proved(502), "retry server"),
    (proved(503), "retry server"),
    (proved(504), "retry server"),
    (proved(599), "retry server"),
    (Broken("timeout"), "retry timeout"),
    (Broken("broken"), "retry broken"),
    (stray(403, refused="replayed"), "retry replayed"),
    # statuses that do not exist
    (proved(0), "retry broken"),
    (proved(101), "retry broken"),
    (proved(600), "retry broken"),
    (proved(-1), "retry broken"),
    # nothing reached the application
    (NotSent("refused"), "release refused"),
    (NotSent("dns"), "release dns"),
    (NotSent("tls"), "release tls"),
    (stray(502), "release proxy"),
    (stray(503), "release proxy"),
    (stray(504), "release proxy"),
    # a wrong setting
    (stray(403, refused="signature"), "release signature"),
    (stray(403, refused="key"), "release key"),
    (stray(403, refused="skew"), "release skew"),
    (Unreadable("version"), "release version"),
    (Unreadable("key"), "release key"),
    # a record nobody can ever open
    (Unreadable("seal"), "fail seal"),
    (Unreadable("format"), "fail format"),
    # any other answer without receipt
    (stray(200), "retry misrouted"),
    (stray(302, location="/login"), "retry misrouted"),
    (stray(404), "retry misrouted"),
    (stray(403), "retry misrouted"),
    (stray(500), "retry misrouted"),
    (stray(0), "retry misrouted"),
    (stray(200, refused="signature"), "retry misrouted"),
    (stray(403, refused="user-gone"), "retry misrouted"),
    (stray(403, refused="no such word"), "retry misrouted"),
    (stray(404, task_retry="no"), "retry misrouted"),
    # the application's own no
    (proved(401), "fail auth"),
    (proved(403), "fail auth"),
    (proved(403, refused="user-gone"), "fail user-gone"),
    (proved(403, refused="signature"), "fail auth"),
    (proved(404), "fail not-found"),
    (proved(400), "fail client"),
    (proved(405), "fail client"),
    (proved(410), "fail client"),
    (proved(422), "fail client"),
    (proved(499), "fail client"),
    # X-Task-Retry
    (proved(500, task_retry="no"), "fail declined"),
    (proved(429, task_retry=" No "), "fail declined"),
    (proved(404, task_retry="no"), "fail not-found"),
    (proved(200, task_retry="no"), "complete"),
    (proved(404, task_retry="yes"), "retry asked"),
    (proved(403, task_retry="YES"), "retry asked"),
    (proved(301, task_retry="yes"), "retry asked"),
    (proved(200, task_retry="yes"), "retry asked"),
    (proved(500, task_retry="yes"), "retry server"),
    (proved(404, task_retry="perhaps"), "fail not-found"),
    # a report with an error makes a failure of what would be a success
    (proved(200, reported="error"), "fail reported"),
    (proved(303, reported="error"), "fail reported"),
    (proved(200, reported="warning"), "complete"),
    (proved(500, reported="error"), "retry server"),
    (proved(404, reported="error"), "fail not-found"),
    (proved(200, reported="error", task_retry="yes"), "retry asked"),
    (proved(200, report=Report("success", "a", children=[Report("error", "b")])), "fail reported"),
    (proved(200, report=Report("success", "a", children=[Report("warning", "b")])), "complete"),
    (stray(200, report=Report("error", "a")), "retry misrouted"),
]


@pytest.mark.parametrize(("outcome", "expected"), ROWS, ids=str)
def test_each_row_of_the_table(outcome: Outcome, expected: str) -> None:
    verdict = judge(outcome)
    assert told(verdict) == expected
    assert verdict.status == (outcome.status if isinstance(outcome, Answered) else 0)
    assert (verdict.delay > 0) == (verdict.kind == "retry")


FIRST_CONTACT: list[tuple[Outcome, str]] = [
    (stray(200), "release unproved"),
    (stray(302), "release unproved"),
    (stray(403), "release unproved"),
    (stray(403, refused="user-gone"), "release unproved"),
    (stray(404), "release unproved"),
    (stray(500), "release unproved"),
    (stray(999), "release unproved"),
    (stray(502), "release proxy"),
    (stray(403, refused="key"), "release key"),
    (stray(403, refused="replayed"), "retry replayed"),
    (proved(200), "complete"),
    (proved(404), "fail not-found"),
    (Broken("timeout"), "retry timeout"),
]


@pytest.mark.parametrize(("outcome", "expected"), FIRST_CONTACT, ids=str)
def test_before_a_target_has_given_a_receipt(outcome: Outcome, expected: str) -> None:
    assert told(judge(outcome, target_known=False)) == expected


WITHOUT_DOOR: list[tuple[Outcome, str]] = [
    (stray(200), "complete"),
    (stray(302, location="/login"), "fail redirect"),
    (stray(303, location="/login"), "fail redirect"),
    (stray(301), "fail redirect"),
    (stray(403), "fail auth"),
    (stray(404), "fail not-found"),
    (stray(400), "fail client"),
    (stray(409), "retry busy"),
    (stray(500), "retry server"),
    (stray(503), "retry server"),
    (stray(0), "retry broken"),
    (stray(500, task_retry="no"), "fail declined"),
    (stray(404, task_retry="yes"), "retry asked"),
    (stray(403, refused="signature"), "release signature"),
    (stray(403, refused="replayed"), "retry replayed"),
    (NotSent("refused"), "release refused"),
]


@pytest.mark.parametrize(("outcome", "expected"), WITHOUT_DOOR, ids=str)
def test_without_the_door_the_status_decides(outcome: Outcome, expected: str) -> None:
    assert told(judge(outcome, rules=NO_RECEIPT, target_known=False)) == expected
    assert told(judge(outcome, rules=NO_RECEIPT, target_known=True)) == expected


@pytest.mark.parametrize("status", [302, 303])
@pytest.mark.parametrize("rules", [RULES, NO_RECEIPT], ids=["receipts", "no receipts"])
def test_the_redirect_of_an_anonymous_task_is_a_success(status: int, rules: Rules) -> None:
    answer = Answered(status=status, receipted=rules.receipt_required, location="/done")
    assert judge(answer, rules=rules, anonymous=True) == Verdict("complete", "redirected", status)


@pytest.mark.parametrize("most", [0, 1, 2, 10])
@pytest.mark.parametrize(
    "outcome", [proved(500), proved(409), Broken("timeout"), proved(404, task_retry="yes")], ids=str
)
def test_there_are_as_many_retries_as_were_allowed(most: int, outcome: Outcome) -> None:
    rules = Rules(retry_max_count=most)
    kinds = [judge(outcome, attempt=attempt, rules=rules).kind for attempt in range(1, most + 3)]
    assert kinds == ["retry"] * most + ["fail"] * 2
    last = judge(outcome, attempt=most + 1, rules=rules)
    assert last == Verdict("fail", "exhausted", outcome.status if isinstance(outcome, Answered) else 0)


def test_a_misrouted_task_is_tried_three_times_more_and_then_fails_by_that_name() -> None:
    verdicts = [told(judge(stray(200), attempt=attempt)) for attempt in range(1, 6)]
    assert verdicts == ["retry misrouted"] * 3 + ["fail misrouted"] * 2
    assert told(judge(stray(200), attempt=2, rules=Rules(retry_max_count=1))) == "fail exhausted"


RETRY_AFTER = [
    (None, 1.0),
    ("", 1.0),
    ("0", 1.0),
    ("30", 30.0),
    (" 30 ", 30.0),
    ("Fri, 15 Jan 2027 08:02:00 GMT", 120.0),
    ("Friday, 15-Jan-27 08:02:00 GMT", 120.0),
    ("Fri Jan 15 08:02:00 2027", 120.0),
    ("Fri, 15 Jan 2027 07:00:00 GMT", 1.0),
    ("999999999", 86400.0),
    ("9" * 5000, 86400.0),
    ("Fri, 15 Jan 2100 08:00:00 GMT", 86400.0),
    ("Fri, 99 Jan 2027 08:00:00 GMT", 1.0),
    ("Fri, 15 Jan 2027 08:00:00 +99999999999999", 1.0),
    ("-5", 1.0),
    ("1.5", 1.0),
    ("\u0663\u0660", 1.0),
    ("soon", 1.0),
]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("header", "delay"), RETRY_AFTER)
def test_retry_after_lengthens_the_delay_within_bounds(status: int, header: str | None, delay: float) -> None:
    answer = replace(proved(status), retry_after=header)
    assert judge(answer).delay == delay


def test_a_date_is_read_as_gmt_wherever_the_consumer_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XXX-8")
        time.tzset()
        delays = {judge(proved(503, retry_after=header)).delay for header, delay in RETRY_AFTER if delay == 120}
    time.tzset()
    assert delays == {120.0}


def test_retry_after_never_shortens_the_delay() -> None:
    assert judge(proved(503, retry_after="30"), attempt=9, jitter=0.5).delay == pytest.approx(1 + 0.5 * 511)


def test_nobody_but_the_application_is_believed_about_the_delay() -> None:
    assert judge(stray(429, retry_after="3600")).delay == 1.0
    assert judge(stray(429, retry_after="3600"), rules=NO_RECEIPT).delay == 3600.0


@pytest.mark.parametrize(("attempt", "ceiling"), [(1, 2), (2, 4), (3, 8), (9, 512), (10, 600), (11, 600), (10**6, 600)])
def test_the_ceiling_of_the_backoff_doubles_up_to_ten_minutes(attempt: int, ceiling: float) -> None:
    assert backoff(attempt, RULES, jitter=0.0) == 1.0
    assert backoff(attempt, RULES, jitter=0.5) == pytest.approx((1 + ceiling) / 2)
    assert backoff(attempt, RULES, jitter=1.0) == ceiling


def test_tasks_that_failed_together_do_not_come_back_together() -> None:
    assert len({backoff(1, RULES, jitter=draw / 100) for draw in range(100)}) == 100


WARNINGS: list[tuple[Outcome, list[str]]] = [
    (proved(303, location="/done"), ["complete redirected", "answered 303", "Location '/done'", "never followed"]),
    (NOT_LOGGED_IN, ["fail redirect", "Location '/login' with a query", "load_user"]),
    (proved(301, location="/x/"), ["answered 301", "Location '/x/'", "trailing slash"]),
    (proved(304), ["answered 304", "If-None-Match"]),
    (proved(307, location=""), ["Location ''"]),
    (stray(200, location="/a"), ["retry misrouted", "answered 200 without receipt", "Location '/a'", "outermost"]),
    (stray(502), ["release proxy", "answered 502 without receipt"]),
    (stray(403, refused="signature"), ["release signature", "proxy"]),
    (stray(403, refused="key"), ["release key", "TASKQUEUE_SECRET"]),
    (stray(403, refused="skew"), ["release skew", "clocks", "30 seconds"]),
    (proved(403, refused="user-gone"), ["fail user-gone", "answered 403", "log the task's user in"]),
    (Unreadable("key"), ["release key", "TASKQUEUE_SECRET"]),
    (Unreadable("version"), ["release version", "upgrade"]),
    (NotSent("dns"), ["release dns"]),
    (proved(500), ["retry server", "answered 500"]),
    (proved(404), ["fail not-found", "answered 404"]),
]


@pytest.mark.parametrize(("outcome", "parts"), WARNINGS, ids=str)
def test_the_log_names_status_location_and_the_likely_setting(outcome: Outcome, parts: list[str]) -> None:
    sentence = warning(outcome, judge(outcome))
    assert sentence is not None
    assert [part for part in parts if part not in sentence] == []
    assert "next=" not in sentence


def test_the_log_tells_the_cause_behind_exhaustion() -> None:
    last = judge(Broken("timeout"), attempt=11)
    assert warning(Broken("timeout"), last) == "fail exhausted: timeout"
    assert warning(proved(500), judge(proved(500), attempt=11)) == "fail exhausted: answered 500"


def test_a_target_that_never_gave_a_receipt_is_explained() -> None:
    sentence = warning(stray(200), judge(stray(200), target_known=False))
    assert sentence is not None
    assert "--no-receipt" in sentence


def test_there_is_nothing_to_say_about_plain_success() -> None:
    assert warning(proved(204), judge(proved(204))) is None


def test_the_location_cannot_forge_a_log_line() -> None:
    answer = proved(301, location="/x\nINFO all is well" + "y" * 1000)
    sentence = warning(answer, judge(answer))
    assert sentence is not None
    assert "\n" not in sentence
    assert len(sentence) < 500


words = st.none() | st.sampled_from(["yes", "no", "signature", "key", "skew", "replayed", "user-gone"]) | st.text()
answers = st.builds(
    Answered,
    status=st.integers() | st.integers(min_value=100, max_value=599),
    receipted=st.booleans(),
    logged_in=st.booleans(),
    location=st.none() | st.text(),
    retry_after=st.none()
    | st.text()
    | st.integers().map(str)
    | st.datetimes().map(lambda when: f"{when:%a, %d %b %Y}"),
    task_retry=words,
    refused=words,
)
outcomes = (
    answers
    | st.builds(NotSent, st.sampled_from(["refused", "dns", "tls"]))
    | st.builds(Broken, st.sampled_from(["timeout", "broken"]))
    | st.builds(Unreadable, st.sampled_from(["format", "seal", "version", "key"]))
)
situations = st.fixed_dictionaries(
    {
        "attempt": st.integers(1, 12) | st.integers(1, 10**9),
        "anonymous": st.booleans(),
        "target_known": st.booleans(),
        "jitter": st.floats(min_value=0, max_value=1, exclude_max=True),
    }
)


@given(outcomes, situations, st.sampled_from([RULES, NO_RECEIPT]))
def test_every_outcome_has_a_verdict_and_a_sentence(outcome: Outcome, situation: dict[str, Any], rules: Rules) -> None:
    verdict = judge(outcome, rules=rules, **situation)
    assert verdict.kind in ("complete", "retry", "fail", "release")
    assert verdict.reason or verdict.kind == "complete"
    assert (warning(outcome, verdict) is None) == (verdict == Verdict("complete", "", verdict.status))


@given(outcomes, situations)
def test_only_a_retry_waits_and_within_bounds(outcome: Outcome, situation: dict[str, Any]) -> None:
    verdict = judge(outcome, **situation)
    if verdict.kind == "retry":
        assert situation["attempt"] <= RULES.retry_max_count
        asked = isinstance(outcome, Answered) and outcome.retry_after
        assert RULES.backoff_min <= verdict.delay <= (RULES.retry_after_max if asked else RULES.backoff_max)
    else:
        assert verdict.delay == 0.0


@given(answers, situations)
def test_nothing_completes_without_a_receipt(answer: Answered, situation: dict[str, Any]) -> None:
    assert judge(replace(answer, receipted=False), **situation).kind != "complete"


@given(outcomes, situations, st.integers(1, 12))
def test_a_release_never_depends_on_the_attempt(outcome: Outcome, situation: dict[str, Any], other: int) -> None:
    first = judge(outcome, **situation)
    second = judge(outcome, **{**situation, "attempt": other})
    assert (first.kind == "release") == (second.kind == "release")
    assert first.kind != "release" or first == second


def test_the_words_of_the_reasons_are_told_apart() -> None:
    reasons = [value for name, value in vars(policy).items() if name.isupper() and isinstance(value, str)]
    assert len(reasons) == len(set(reasons))


def test_a_report_is_believed_of_whom_the_answer_is() -> None:
    report = Report("info", "built")
    assert policy.report_of(proved(200, report=report), RULES) == report
    assert policy.report_of(stray(200, report=report), RULES) is None
    assert policy.report_of(stray(200, report=report), NO_RECEIPT) == report
    assert [policy.report_of(other, RULES) for other in (None, Broken("timeout"), proved(200))] == [None] * 3
