"""Model and server, step by step: each reply, each key and each hint. ``make model STEPS=1000000`` walks further."""

import os
from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from tests.model.local import Local
from tests.model.model import Model
from tests.model.proof import Episode, described, difference, exactly, fewest, first_difference, report, violation
from tests.model.real import Real, sources
from tests.model.sequences import SEQUENCES
from tests.model.steps import AT
from tests.model.values import Outcome, Step
from tests.model.walk import CALLS, CLEAN, FAMILIES
from tests.servers import RedisServer

STEPS: Final = int(os.environ.get("STEPS", "20000"))  # noqa: TID251  the tests' own switch, no setting of the library
SEED: Final = os.environ.get("SEED", "1")  # noqa: TID251  as STEPS


@pytest.fixture
def real(redis_server: RedisServer) -> Iterator[Real]:
    real = Real(redis_server, sources())
    yield real
    real.close()


@pytest.mark.timeout(60 + STEPS / 100)
def test_a_server_does_what_the_model_does(real: Real) -> None:
    found = first_difference(real, SEED, STEPS)
    if found:
        pytest.fail(f"SEED={SEED} STEPS={STEPS}\n{report(real, found)}")


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_known_sequence_ends_as_in_the_model(real: Real, name: str) -> None:
    found = difference(real, exactly(SEQUENCES[name]))
    assert found is None, found.what


@pytest.mark.accept("CT35")
@pytest.mark.timeout(60 + STEPS / 100)
def test_a_queue_inside_this_process_does_what_the_model_does() -> None:
    local = Local()
    found = first_difference(local, SEED, STEPS // 4, garbage=False)
    if found:
        pytest.fail(f"SEED={SEED} STEPS={STEPS}\n{report(local, found)}")


def to_the_end(model: Model, walk: Episode) -> Iterator[Step]:
    """Yield a walk, and then steps until every task has ended and is forgotten."""
    clock = AT
    for step in walk.steps(model):
        yield step
        clock = step.clock
    yield Step(clock, "forget")
    yield Step(clock, "control", (b"paused", b"", b"closed", b"", b"disabled", b"", b"limit", b""))
    limits = [value for index in (b"finished", b"failed", b"cancelled", b"archived") for value in (index, 0, 0)]
    while model.states:
        held = [name for name, ids in model.reserved.items() if ids]
        if prepared := model.indexes[b"prepared"]:
            yield Step(clock, "discard", tuple(prepared))
        elif held:
            lease = model.leases[held[0]]
            yield Step(clock, "reclaim", (held[0], b"r-end", lease[b"epoch"], lease[b"beat"]))
        elif any(model.lines.values()) or model.indexes[b"scheduled"]:
            yield Step(clock, "purge", (100,))
        else:
            yield Step(clock, "trim", (100, *limits))


@pytest.mark.parametrize("number", range(12))
def test_nothing_is_left_of_what_has_ended_and_was_trimmed(any_server: RedisServer, number: int) -> None:
    real, model, steps = Real(any_server, sources()), Model(), list[Step]()
    for step in to_the_end(model, Episode(f"{SEED}/{number}", (CLEAN, FAMILIES)[number % 2], 200)):
        model.apply(step)
        steps.append(step)
    assert difference(real, exactly(steps), check=True) is None
    real.close()
    left = model.keys()
    assert not {b"bytes", b"ghosts"} & left.pop(b":control", {}).keys()
    assert {key for key in left if not key.startswith(b":consumer")} == set()


class TestTheProof:
    """A comparison that never differs would prove nothing."""

    @pytest.fixture
    def one(self, any_server: RedisServer) -> Iterator[Real]:
        real = Real(any_server, sources())
        yield real
        real.close()

    def test_a_model_that_is_wrong_is_found_out_by_the_fewest_steps(
        self, one: Real, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def to_the_back(model: Model, task_id: bytes, task: object) -> None:
            model.lines[4].append(task_id)
            model._save(task_id, task, b"queued")  # type: ignore[arg-type]

        monkeypatch.setattr(Model, "_give_back", to_the_back)
        found = first_difference(one, SEED, 5000)
        assert found
        text = report(one, found)
        assert "Step(" in text
        # Two tasks, a consumer, what it takes and what it gives back: hardly any other step is needed.
        assert text.count("Step(") <= 6

    @pytest.mark.parametrize(
        ("found", "words"),
        [
            (Outcome(2, [b""], {b":state": {b"a": b"x"}}), "reply"),
            (Outcome(1, [], {b":state": {b"a": b"x"}}), "hints"),
            (Outcome(1, [b""], {b":state": {b"a": b"y"}}), ":state a"),
            (Outcome(1, [b""], {b":state": {b"a": b"x"}, b"outside:k": [b"1"]}), "outside:k"),
        ],
    )
    def test_each_part_of_an_outcome_counts(self, found: Outcome, words: str) -> None:
        wanted = Outcome(1, [b""], {b":state": {b"a": b"x"}})
        assert described(wanted, wanted) == ""
        assert words in described(wanted, found)

    def test_a_broken_invariant_is_told(self) -> None:
        assert "places and states" in violation({b"": [b"id"]})
        assert violation({}) == ""

    def test_a_script_that_survives_a_flush_is_told(self, one: Real) -> None:
        one.clean()
        one.run([Step(AT, "due", (1,))])
        one._loaded.clear()  # as if the flush had come, but the server had kept the script
        (outcome,) = one.run([Step(AT, "due", (1,))])
        assert outcome.reply[0] == "not forgotten"

    def test_every_script_is_walked(self) -> None:
        assert set(sources()) <= set(CALLS)

    @pytest.mark.parametrize("needed", [[], [3], [0, 9], [2, 3, 8]])
    def test_what_need_not_be_there_is_left_out(self, needed: list[int]) -> None:
        steps = [Step(number, "due") for number in range(10)]

        def fails(some: Sequence[Step]) -> bool:
            return {steps[number] for number in needed} <= set(some)

        assert fewest(steps, fails) == [steps[number] for number in needed]
