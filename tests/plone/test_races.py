"""A task never sees the ZODB as it was before the transaction that added it."""

import os
from collections.abc import Iterator

import pytest

from tests.plone.instance import Instance

RUNS = int(os.environ.get("RUNS", "20"))  # noqa: TID251 - the tests' own


@pytest.fixture(params=["over http", "in process"])
def polled(request: pytest.FixtureRequest, plone: Instance) -> Iterator[Instance]:
    """The site, and a consumer that looks for tasks all the time."""
    with plone.consumer(request.param, "--concurrent-limit=4", "--poll-max=0.02"):
        yield plone


@pytest.mark.timeout(600)
def test_a_task_sees_what_was_committed_with_it(polled: Instance) -> None:
    for run in range(RUNS):
        polled.forget()
        assert polled.fetch(f"/Plone/@@do?url=/Plone/@@see&value={run}").status == 200
        (effect,) = polled.done(1)
        assert effect["sees"] == effect["told"] == str(run)
