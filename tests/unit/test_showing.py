"""What a person is shown of a task that has reported nothing, or nothing that can be read."""

from dataclasses import replace

from taskqueue.inspector import Log
from taskqueue.keys import Keyring
from taskqueue.reporting import Report, instead
from taskqueue.seal import NONCE_BYTES, seal_note
from taskqueue.showing import Known
from tests.tasks import KEYRING
from tests.unit.test_story import NEW

COMPLETED = replace(NEW, state="completed")
OTHERS = Keyring(["another secret, of 32 bytes or more: 0123456789"])


def shown(keyring: Keyring, raw: bytes | None) -> Report | None:
    nonce = bytes(NONCE_BYTES)
    fields = {} if raw is None else {"report": seal_note(keyring, NEW.queue, NEW.id, "report", raw, nonce=nonce)}
    known = Known(COMPLETED, Log(fields=fields), [])
    known.unseal(KEYRING)
    return known.said.report


def test_what_stands_for_a_report_that_was_not_made() -> None:
    nothing = instead("completed")
    assert nothing is not None
    report = Report("info", "42 rows")
    assert shown(KEYRING, report.encode()) == report
    assert shown(KEYRING, None) == nothing
    assert shown(KEYRING, b"") == nothing  # an earlier delivery has reported something
    assert shown(OTHERS, report.encode()) is None
