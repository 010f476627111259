"""A life in order, whatever is known of it."""

from dataclasses import replace
from typing import Final

from taskqueue.inspector import Act, Ended, Log, Released
from taskqueue.story import Step, story
from taskqueue.task import TaskState

ADDED: Final = 1_000_000
NEW: Final = TaskState(
    id="t",
    queue="default",
    state="queued",
    delivery=0,
    attempt=0,
    crashes=0,
    added=ADDED,
    due=0,
    reserved=0,
    begun=0,
    changed=ADDED,
    status=0,
    reason="",
    holder="",
    method="POST",
    path="/reports",
    label="",
)
RETRIED: Final = Ended(1, 1, ADDED + 10, ADDED + 20, ADDED + 520, 503, "server", "one", "retry")
EXHAUSTED: Final = Ended(2, 2, ADDED + 1600, ADDED + 1610, ADDED + 1700, 500, "exhausted", "two", "fail")


def told(state: TaskState, *ended: Ended) -> list[tuple[str, int]]:
    return [(step.what, step.delivery) for step in story(state, Log(ended))]


def test_a_new_task_was_added_and_is_queued() -> None:
    assert story(NEW, Log()) == [
        Step(ADDED, "added", detail="POST /reports"),
        Step(ADDED, "queued", seconds=0.0),
    ]


def test_a_completed_task_tells_who_took_it_and_how_long_it_ran() -> None:
    done = replace(
        NEW,
        state="completed",
        delivery=1,
        attempt=1,
        reserved=ADDED + 10,
        begun=ADDED + 20,
        changed=ADDED + 1520,
        status=204,
        holder="one",
    )
    assert story(done, Log()) == [
        Step(ADDED, "added", detail="POST /reports"),
        Step(ADDED + 10, "reserved", 1, "attempt 1", 0.01, "one"),
        Step(ADDED + 20, "begun", 1, "", 0.01, "one"),
        Step(ADDED + 1520, "completed", 1, "204", 1.5, "one"),
    ]


def test_retries_failure_and_times_are_told_in_order() -> None:
    failed = replace(
        NEW, state="failed", delivery=2, due=ADDED + 1500, changed=EXHAUSTED.ended, status=500, reason="exhausted"
    )
    steps = story(failed, Log((RETRIED, EXHAUSTED)))
    assert [(step.what, step.delivery, step.detail) for step in steps] == [
        ("added", 0, "POST /reports"),
        ("reserved", 1, "attempt 1"),
        ("begun", 1, ""),
        ("retry", 1, "503 server"),
        ("due", 0, ""),
        ("reserved", 2, "attempt 2"),
        ("begun", 2, ""),
        ("failed", 2, "500 exhausted"),
    ]
    assert [step.seconds for step in steps] == [None, 0.01, 0.01, 0.5, 0.98, 0.1, 0.01, 0.09]
    assert [step.actor for step in steps] == ["", "one", "one", "one", "", "two", "two", "two"]


def test_a_retry_that_waits_ends_with_the_time_it_is_due() -> None:
    waiting = replace(NEW, state="scheduled", delivery=1, due=ADDED + 9000, changed=RETRIED.ended, reason="server")
    assert told(waiting, RETRIED) == [("added", 0), ("reserved", 1), ("begun", 1), ("retry", 1), ("due", 0)]


def test_a_delayed_task_waits_until_it_is_due() -> None:
    assert told(replace(NEW, state="scheduled", due=ADDED + 9000)) == [("added", 0), ("scheduled", 0), ("due", 0)]
    taken = replace(NEW, state="reserved", delivery=1, due=ADDED + 9000, reserved=ADDED + 9500, changed=ADDED + 9500)
    assert told(taken) == [("added", 0), ("due", 0), ("reserved", 1)]


def test_what_happens_within_one_millisecond_is_told_in_order_too() -> None:
    instant = replace(RETRIED, reserved=ADDED, begun=ADDED, ended=ADDED + 1)
    again = replace(NEW, state="running", delivery=2, due=ADDED + 1, reserved=ADDED + 1, begun=ADDED + 1)
    words = [what for what, _ in told(again, instant)]
    assert words == ["added", "reserved", "begun", "retry", "due", "reserved", "begun"]


def test_a_task_given_back_says_so_and_names_no_due_time() -> None:
    back = replace(
        NEW, delivery=1, reserved=ADDED + 10, due=ADDED + 30, changed=ADDED + 30, reason="refused", holder="one"
    )
    assert told(back) == [("added", 0), ("reserved", 1), ("queued", 0)]
    assert story(back, Log())[-1].detail == "given back, last reason: refused"


def test_a_task_parked_for_its_record_says_why() -> None:
    parked = replace(
        NEW, state="scheduled", delivery=1, reserved=ADDED + 1, due=ADDED + 60_000, changed=ADDED + 2, reason="key"
    )
    assert told(parked) == [("added", 0), ("reserved", 1), ("scheduled", 0), ("due", 0)]
    assert story(parked, Log())[2].detail == "given back: key"


def test_deliveries_of_which_nothing_is_kept_are_counted() -> None:
    later = replace(RETRIED, delivery=4)
    state = replace(NEW, state="scheduled", delivery=4, due=ADDED + 9000, changed=later.ended)
    missing = story(state, Log((later,)))[1]
    assert (missing.at, missing.what) == (None, "released")
    assert missing.detail == "deliveries 1 to 3: given back, or lost with the consumer"
    assert story(replace(NEW, state="running", delivery=2), Log())[1].detail.startswith("delivery 1: ")


def test_a_failed_task_that_was_queued_again_says_so() -> None:
    failed = replace(EXHAUSTED, delivery=1)
    again = replace(NEW, delivery=1, changed=ADDED + 5000)
    assert story(again, Log((failed,)))[-1] == Step(
        ADDED + 5000, "queued", detail="again, after it had failed", seconds=(5000 - 1700) / 1000
    )
    taken = replace(again, state="reserved", delivery=2, reserved=ADDED + 6000, changed=ADDED + 6000)
    assert told(taken, failed) == [
        ("added", 0),
        ("reserved", 1),
        ("begun", 1),
        ("failed", 1),
        ("queued", 0),
        ("reserved", 2),
    ]
    assert story(taken, Log((failed,)))[4].at is None


def test_a_task_set_aside_without_delivery_tells_the_reason() -> None:
    aside = replace(NEW, state="failed", changed=ADDED + 60_000, reason="in-doubt")
    assert story(aside, Log())[-1] == Step(ADDED + 60_000, "failed", detail="in-doubt", seconds=60.0)


# What was done to it, and by whom.


def words(state: TaskState, log: Log) -> list[tuple[str, str]]:
    return [(step.what, step.actor) for step in story(state, log)]


def test_giving_back_is_told_with_its_times() -> None:
    back = replace(NEW, state="running", delivery=4, reserved=ADDED + 900, begun=ADDED + 950, holder="two")
    log = Log(released=Released(ADDED + 100, ADDED + 800, 3, "lost", "one"))
    steps = story(back, log)
    assert [(step.at, step.what, step.actor, step.detail) for step in steps[1:]] == [
        (ADDED + 100, "released", "", "the first of 3 times"),
        (ADDED + 800, "released", "one", "lost with the consumer"),
        (ADDED + 900, "reserved", "two", "attempt 0"),
        (ADDED + 950, "begun", "two", ""),
    ]


def test_a_task_retried_by_somebody_says_by_whom_and_when() -> None:
    failed = replace(EXHAUSTED, delivery=1)
    acts = (Act(ADDED + 5000, "retried", "ada@desk"),)
    again = replace(NEW, delivery=1, changed=ADDED + 5000)
    assert words(again, Log((failed,), acts))[-3:] == [("failed", "two"), ("retried", "ada@desk"), ("queued", "")]
    taken = replace(again, state="reserved", delivery=2, reserved=ADDED + 5000, changed=ADDED + 5000, holder="one")
    assert words(taken, Log((failed,), acts))[-3:] == [("failed", "two"), ("retried", "ada@desk"), ("reserved", "one")]
    assert None not in [step.at for step in story(taken, Log((failed,), acts))]


def test_a_cancelled_task_names_who_did_it() -> None:
    gone = replace(NEW, state="cancelled", changed=ADDED + 50)
    log = Log(acts=(Act(ADDED + 50, "cancelled", "ada@desk"),))
    assert words(gone, log) == [("added", ""), ("cancelled", "ada@desk")]
    shelved = replace(gone, state="archived", changed=ADDED + 90)
    log = Log(acts=(*log.acts, Act(ADDED + 90, "archived", "bob@desk")))
    assert words(shelved, log)[1:] == [("cancelled", "ada@desk"), ("archived", "bob@desk")]


def test_a_task_cancelled_while_it_ran_tells_who_marked_it_and_who_obeyed() -> None:
    ended = Ended(1, 1, ADDED + 10, ADDED + 20, ADDED + 90, 200, "", "one", "cancelled")
    gone = replace(NEW, state="cancelled", delivery=1, changed=ADDED + 90, holder="one")
    log = Log((ended,), (Act(ADDED + 50, "marked", "ada@desk"),))
    assert words(gone, log)[2:] == [("begun", "one"), ("marked", "ada@desk"), ("cancelled", "one")]
    lost = Log((), log.acts, Released(ADDED + 90, ADDED + 90, 1, "lost", "one"))
    assert words(gone, lost)[-2:] == [("released", "one"), ("cancelled", "ada@desk")]


def test_what_completed_before_it_was_archived_says_so() -> None:
    done = replace(NEW, state="archived", delivery=1, changed=ADDED + 90, reserved=ADDED + 10, status=200, holder="one")
    log = Log(acts=(Act(ADDED + 90, "archived", "ada@desk"),))
    assert words(done, log)[2:] == [("completed", "one"), ("archived", "ada@desk")]
    assert story(done, log)[2].at is None
    back = Log(acts=log.acts, released=Released(ADDED + 20, ADDED + 20, 1, "unreachable", "one"))
    assert words(replace(done, status=503), back)[1:] == [
        ("reserved", "one"),
        ("released", "one"),
        ("archived", "ada@desk"),
    ]
    waited = replace(done, delivery=0, reserved=0, status=0)
    assert words(waited, log)[1:] == [("archived", "ada@desk")]


def test_a_parent_waits_for_its_children_and_a_child_names_its_parent() -> None:
    parent = replace(NEW, state="waiting", delivery=1, changed=ADDED + 50, status=200, holder="one", open=2, parent="p")
    log = Log(ended=(Ended(1, 1, ADDED + 10, ADDED + 20, ADDED + 50, 200, "", "one", "waiting"),))
    assert story(parent, log)[0].actor == "p"
    waits = [("reserved", "one"), ("begun", "one"), ("waiting", "one")]
    assert words(parent, log)[1:] == waits
    spoilt = replace(parent, state="failed", reason="children", open=0, spoilt=1, changed=ADDED + 90)
    assert words(spoilt, log)[1:-1] == waits
    assert story(spoilt, log)[-1].detail == "200 children"
    done = replace(parent, state="completed", open=0, changed=ADDED + 90)
    assert words(done, log)[1:] == [*waits, ("completed", "")]


def test_a_task_queued_now_by_somebody_was_not_due() -> None:
    hastened = replace(NEW, changed=ADDED + 50, due=ADDED + 50)
    log = Log(acts=(Act(ADDED + 50, "hastened", "ada@desk"),))
    assert words(hastened, log)[-2:] == [("hastened", "ada@desk"), ("queued", "")]
