"""How long what has ended is kept."""

import pytest

from taskqueue.retention import USUAL, Retention, retention_rules

HOUR = 3_600_000


def test_what_nobody_speaks_of_is_as_usual() -> None:
    assert Retention().limits("default") == list(USUAL.values())


def test_a_queues_own_word_counts_more_than_that_for_all() -> None:
    rules = retention_rules(["completed=2h/5", "mail.completed=/7", "a-b.failed=0s", " archived = 1d "])
    kept = Retention(rules=rules)
    assert kept.limits("default")[0] == ("finished", 2 * HOUR, 5)
    assert kept.limits("mail")[0] == ("finished", 2 * HOUR, 7)
    assert kept.limits("a-b")[1] == ("failed", 0, 10_000)
    assert kept.limits("default")[3] == ("archived", 24 * HOUR, 10_000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("completed", "must be STATE=TIME/NUMBER"),
        ("running=1h", "for completed, failed, cancelled, archived"),
        ("completed=", "a number with s, m, h or d"),
        ("completed=/", "a number with s, m, h or d"),
        ("completed=5", "a number with s, m, h or d"),
        ("completed=1h/x", "a number with s, m, h or d"),
        ("a b.completed=1h", "names a queue that is none"),
        (".completed=1h", "names a queue that is none"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_the_rule(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        retention_rules([text])


def test_nothing_is_said_twice() -> None:
    with pytest.raises(ValueError, match="says twice"):
        retention_rules(["mail.failed=1h", "mail.failed=2h"])
