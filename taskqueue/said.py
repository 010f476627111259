"""What a task has said of itself, opened again: for those who show it. What cannot be opened counts as not said."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InvalidReport
from .keys import Keyring
from .reporting import Report
from .seal import unseal_note
from .storage import Saved


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a task is: ``done`` of ``total`` (None: nobody knows), and what it does."""

    done: float
    total: float | None
    message: str


@dataclass(frozen=True, slots=True)
class Said:
    """What the last delivery of a task has said.

    ``redirect``: where its result is, empty if it did not say; ``output``: which of its ``files`` is the result.
    """

    report: Report | None = None
    progress: Progress | None = None
    redirect: str = ""
    output: str = ""
    files: tuple[Saved, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            "report": None if self.report is None else self.report.as_json(),
            "progress": None if self.progress is None else _fields(self.progress),
            "redirect": self.redirect,
            "output": self.output,
            "files": [_fields(file) for file in self.files],
        }


def said(keyring: Keyring, queue: str, task_id: str, fields: Mapping[str, bytes]) -> Said:
    """Return what is in the fields of a task's log."""

    def raw(field: str) -> bytes:
        sealed = fields.get(field, b"")
        return (unseal_note(keyring, queue, task_id, field, sealed) or b"") if sealed else b""

    report, progress, files = raw("report"), raw("progress"), raw("files")
    return Said(
        report=_report(report) if report else None,
        progress=Progress(**json.loads(progress)) if progress else None,
        redirect=raw("redirect").decode(),
        output=raw("output").decode(),
        files=tuple(Saved(**file) for file in json.loads(files)) if files else (),
    )


def _report(raw: bytes) -> Report | None:
    try:
        return Report.decode(raw)
    except InvalidReport:  # of a newer release, which knows more types
        return None


def _fields(value: Progress | Saved) -> dict[str, Any]:
    return {name: getattr(value, name) for name in type(value).__dataclass_fields__}
