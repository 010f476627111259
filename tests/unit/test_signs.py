"""What a consumer shows of itself: which of its states count as progress."""

import pytest

from taskqueue.signs import Ending, Signs


def consuming(*, poll_max: float = 1.0, at: float = 100.0) -> Signs:
    signs = Signs(poll_max=poll_max)
    signs.beats = {"default": at, "mail": at}
    signs.progressed(at)
    return signs


def test_it_is_ready_once_the_broker_has_answered() -> None:
    signs = Signs()
    assert signs.unready(0.0) == "starting: no exchange with the broker yet"
    assert consuming().unready(100.0) is None


@pytest.mark.parametrize(("poll_max", "last"), [(0.02, 3.0), (1.0, 3.0), (5.0, 15.0)])
def test_without_an_exchange_within_three_polls_it_makes_no_progress(poll_max: float, last: float) -> None:
    signs = consuming(poll_max=poll_max)
    signs.beats = dict.fromkeys(signs.beats, 200.0)
    assert signs.unready(100.0 + last) is None
    assert str(signs.unready(100.1 + last)).startswith("the broker has not answered for")


def test_a_queue_whose_beats_are_not_answered_is_named() -> None:
    signs = consuming(poll_max=60.0)
    signs.beats = {"default": 110.0, "mail": 100.0}
    assert signs.unready(103.0) is None
    assert signs.unready(110.0) == "no beat was answered for 10 s: queue mail"


def test_paused_and_stopping_it_is_not_ready_and_the_first_reason_to_stop_counts() -> None:
    signs, changes = consuming(), list[str]()
    signs.on_change.append(lambda: changes.append(signs.phase))
    signs.pause(paused=True)
    assert signs.unready(100.0) == "paused"
    signs.pause(paused=False)
    assert signs.unready(100.0) is None
    signs.stop("fenced")
    signs.stop("it was told to")
    assert signs.unready(100.0) == "stopping: fenced"
    signs.progressed(101.0)
    assert signs.unready(101.0) == "stopping: fenced"
    assert changes == ["consuming", "consuming", "stopping"]


def test_what_is_given_back_was_not_done() -> None:
    signs, seen = Signs(), list[Ending]()
    signs.on_ended.append(seen.append)
    for kind in ("complete", "retry", "fail", "release"):
        signs.ended(Ending("default", kind, "", first=True, waited=None, ran=None))
    assert signs.done == 3
    assert [ending.kind for ending in seen] == ["complete", "retry", "fail", "release"]
