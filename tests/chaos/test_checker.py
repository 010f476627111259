"""The checker sees each fault it is there for, and nothing else."""

from typing import Any

import pytest

from tests.chaos.checker import Verdict, check, percentile
from tests.chaos.ledger import Event, parse

SOUND = """
1 producer adding a b c d
2 producer acknowledged a b
2 producer aborted c
2 producer uncertain d
3 target started a 1 1
4 target finished a 1
5 target started b 1 1
"""


def judged(text: str, more: str = "") -> Verdict:
    events = [line.split() for line in f"{text}\n{more}".splitlines() if line.strip()]
    return check(sorted(Event(float(at), source, word, tuple(about)) for at, source, word, *about in events))


def found(verdict: Verdict) -> dict[str, Any]:
    """Return what a sound run has none of, without the failed: lists of names."""
    named = {name: value for name, value in vars(verdict).items() if value and isinstance(value, list)}
    return {name: value for name, value in named.items() if isinstance(value[0], str) and name != "failed"}


def test_a_sound_run_is_sound() -> None:
    verdict = judged(SOUND, "6 target finished b 1")
    assert verdict.sound
    assert found(verdict) == {}
    assert (verdict.acknowledged, verdict.aborted, verdict.uncertain) == (2, 1, 1)


@pytest.mark.parametrize(
    ("more", "fault", "names"),
    [
        ("", "lost", ["b"]),
        ("6 nemesis failed b crashed", "", []),
        ("6 target finished b 1\n7 target started c 1 1", "phantom", ["c"]),
        ("6 target finished b 1\n7 target started x 1 1", "phantom", ["x"]),
        ("6 target finished b 1\n7 target started d 1 1", "", []),
        ("6 target finished b 1\n7 nemesis stranded c1:id", "stranded", ["c1:id"]),
        ("6 target finished b 1\n7 target started b 1 1", "doubly_started", ["b:1"]),
        ("6 nemesis killed c1 b:1\n7 target started b 2 2\n8 target finished b 2", "", []),
        ("6 nemesis target-killed\n7 target started b 2 2\n8 target finished b 2", "", []),
        ("6 nemesis killed c1 b:1\n7 target started b 2 1\n8 target finished b 2", "fenced_starts", ["b:1"]),
        ("6 target finished b 1\n6.5 nemesis target-killed\n7 target started b 2 2", "unexplained", ["b:1"]),
        ("6 target finished b 1\n7 nemesis fenced c1 b:1", "fenced_changes", ["b:1"]),
        ("6 nemesis fenced c1 b:1\n7 target started b 2 2\n8 target finished b 2", "", []),
        ("6 target finished b 1\n7 nemesis ended c1 75", "", []),
        ("6 target finished b 1\n7 nemesis ended c1 0", "fenced_exits", ["c1:0"]),
        ("6 target finished b 1\n7 nemesis broken in two places", "broken", ["in two places"]),
    ],
)
def test_each_fault_is_seen(more: str, fault: str, names: list[str]) -> None:
    verdict = judged(SOUND, more)
    assert found(verdict) == ({fault: names} if fault else {})
    assert verdict.sound == (fault in {"", "unexplained"})


def test_what_is_counted_and_timed() -> None:
    verdict = judged(
        SOUND,
        """
        6 nemesis killed c1 a:1 b:1
        6.5 nemesis returned c1
        6.75 nemesis claimed c1
        7 inside started b 2 3
        8 inside finished b 2
        9 nemesis redis-back
        9.5 nemesis target-back
        10 inside started a 2 2
        10 nemesis target-back
        10.25 target started d 1 1
        11 inside finished a 2
        """,
    )
    assert (verdict.repeated_starts, verdict.repeated_completions) == (2, 1)
    assert verdict.repeats_per_kill == [(2, 2)]
    assert verdict.unstarted_attempts == 1, "b has spent three with two starts"
    frozen = judged(SOUND, "6 target finished b 1\n7 nemesis fenced c1 e:1\n8 target started e 2 2")
    assert frozen.unstarted_attempts == 0, "e was taken after begin"
    assert verdict.claiming == [0.25]
    assert (verdict.same_name, verdict.after_redis, verdict.after_target) == ([0.5], [1.0], [0.25])


def test_a_line_that_was_cut_off_is_none() -> None:
    assert list(parse("target", ["1 started a 1 1\n", "2 star"])) == [Event(1, "target", "started", ("a", "1", "1"))]


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile([3, 1, 2], share) for share in (0.0, 0.5, 0.99)] == [1, 2, 3]
