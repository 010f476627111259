"""One task as a person sees it: what is known of it, its life in order, and, unsealed, what it was asked and has said.

What proves who somebody is is never shown: the values of such headers are masked.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .inspector import Log
from .keys import Keyring
from .query import STAGE_LABELS, STAGE_OF
from .seal import unseal_note, unseal_response
from .story import Step, outcome
from .tables import moment, printable, span, timestamp, write_pairs, write_table
from .task import CHILD, MASTER, Response, Task, TaskState

MASKED: Final = frozenset({"cookie", "set-cookie", "authorization", "proxy-authorization", "x-task-receipt"})
SHOWN_BYTES: Final = 4096
# What a task has said of itself, and how it is kept.
_JSON: Final = ("report", "progress", "files")
_TEXT: Final = ("redirect", "output")
NOTHING_REPORTED: Final[Mapping[str, Any]] = {
    "type": "info",
    "message": "The task completed and reported nothing.",
    "data": None,
    "children": [],
}


@dataclass(slots=True)
class Known:
    """What was found of a task; ``request`` is a text if there is none to be had, and says why.

    ``notes`` is what the task has said of itself: report, progress, files, redirect, output.
    """

    task: TaskState
    log: Log
    life: Sequence[Step]
    request: Task | str | None = None
    response: Response | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def unseal(self, keyring: Keyring) -> None:
        """Open what is kept in the log; what cannot be opened is left out."""
        queue, task_id, kept = self.task.queue, self.task.id, self.log.fields
        if "response" in kept:
            self.response = unseal_response(keyring, queue, task_id, kept["response"])
        for name in (*_JSON, *_TEXT):
            raw = unseal_note(keyring, queue, task_id, name, kept[name]) if name in kept else None
            if raw is not None:
                self.notes[name] = json.loads(raw) if name in _JSON else raw.decode(errors="replace")
        if self.task.state == "completed" and "report" not in kept:
            self.notes["report"] = dict(NOTHING_REPORTED)

    def secret(self) -> dict[str, Any]:
        """Return what was sealed as JSON takes it, without what is not there."""
        shown: dict[str, Any] = {}
        if self.request is not None:
            shown["request"] = self.request if isinstance(self.request, str) else _request(self.request)
        if self.response is not None:
            shown["response"] = response_as_json(self.response)
        return shown | self.notes

    def write(self) -> None:
        """Write it all to standard output."""
        _write_known(self.task, self.log, sealed=self.request is None)
        print()
        write_life(self.life)
        if self.request is not None:
            _write_request(self.request)
        if self.response is not None:
            write_response(self.response, "last response")
        _write_notes(self.notes)


def _write_known(task: TaskState, log: Log, *, sealed: bool) -> None:
    def given(*names: str) -> list[tuple[str, str]]:
        return [(name, str(getattr(task, name) or "")) for name in names]

    children = ", ".join(f"{count} {word}" for count, word in ((task.open, "open"), (task.spoilt, "failed")) if count)
    write_pairs(
        [
            *given("id", "queue", "state"),
            ("stage", STAGE_LABELS[STAGE_OF[task.state]]),
            *given("method", "path", "label", "route"),
            ("queue chosen by", str(task.chosen)),
            ("priority", str(task.priority)),
            *given("owner"),
            ("parent", task.parent + (", which waits for it" if task.flags & CHILD else "")),
            ("children", children + (", which do not change its end" if children and task.flags & MASTER else "")),
            *given("attempt", "delivery", "crashes"),
            ("outcome", outcome(task.status, task.reason)),
            ("consumer", task.holder),
            ("sealed", ", ".join(sorted(log.fields)) + " (--full)" if sealed and log.fields else ""),
        ]
    )


def write_life(life: Sequence[Step]) -> None:
    """Write a life to standard output, one moment a line."""
    rows = [
        (
            moment(step.at) or "?",
            "" if step.seconds is None else f"+{span(step.seconds)}",
            step.what,
            str(step.delivery or ""),
            step.actor,
            step.detail,
        )
        for step in life
    ]
    write_table(("time", "after", "what", "delivery", "by", "detail"), rows)


def _request(task: Task) -> dict[str, Any]:
    about = {name: getattr(task, name) for name in ("method", "target", "scheme", "host", "user_id")}
    about |= {"timeout": task.timeout, "retry_max_count": task.retry_max_count}
    about |= {"created": timestamp(task.created), "expires": timestamp(task.expires), "headers": _masked(task.headers)}
    return about | _content("body", task.body)


def response_as_json(response: Response) -> dict[str, Any]:
    """Return a response as JSON takes it."""
    about = {"status": response.status, "headers": _masked(response.headers)}
    return about | _content("content", response.content)


def _masked(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, "***" if name.lower() in MASKED else value) for name, value in headers]


def _content(name: str, content: bytes) -> dict[str, str]:
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content).decode()}


def _write_request(task: Task | str) -> None:
    print()
    if isinstance(task, str):
        write_pairs([("request", task)])
        return
    about = _request(task)
    known = ("method", "target", "scheme", "host", "user_id", "timeout", "retry_max_count")
    pairs = [(name, "" if about[name] is None else str(about[name])) for name in known]
    pairs += [("created", moment(task.created)), ("expires", moment(task.expires))]
    size = f"{len(task.body)} bytes" if task.body else "none"
    write_pairs([*pairs, *about["headers"], ("body", size)])
    _write_content(task.body)


def write_response(response: Response, name: str) -> None:
    """Write a response to standard output, under this name."""
    print()
    pairs = [(name, str(response.status)), *_masked(response.headers)]
    write_pairs([*pairs, ("content", f"{len(response.content)} bytes" if response.content else "none")])
    _write_content(response.content)


def _write_content(content: bytes) -> None:
    text = _content("text", content).get("text")
    for line in (text or "")[:SHOWN_BYTES].splitlines():
        print(f"  {printable(line)}")
    if len(content) > SHOWN_BYTES or (content and text is None):
        print("  ... --json shows all of it")


def _write_notes(notes: Mapping[str, Any]) -> None:
    pairs = [(name, _compact(notes[name])) for name in ("progress", *_TEXT, "files") if name in notes]
    if pairs:
        print()
        write_pairs(pairs)
    if "report" in notes:
        print()
        for line in report_lines(notes["report"]):
            print(line)


def report_lines(report: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """Yield a report as lines, what is below another one indented."""
    data = "" if report.get("data") is None else f"  {_compact(report['data'])}"
    yield printable(f"{'  ' * depth}{report.get('type', '')}: {report.get('message', '')}{data}")
    for child in report.get("children") or ():
        yield from report_lines(child, depth + 1)


def _compact(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
