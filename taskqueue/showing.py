"""One task as a person sees it: what is known of it, its life in order, and, unsealed, what it was asked and has said.

What proves who somebody is is never shown: the values of such headers are masked.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from .inspector import Log
from .keys import Keyring
from .query import STAGE_LABELS, STAGE_OF
from .reporting import Report, instead
from .response_files import FIELD
from .said import Said, said
from .seal import unseal_response
from .story import Step, outcome
from .tables import moment, printable, span, timestamp, write_pairs, write_table
from .task import CHILD, MASTER, Response, Task, TaskState

MASKED: Final = frozenset({"cookie", "set-cookie", "authorization", "proxy-authorization", "x-task-receipt"})
SHOWN_BYTES: Final = 4096


@dataclass(slots=True)
class Known:
    """What was found of a task; ``request`` is a text if there is none to be had, and says why.

    ``said`` is what the task has said of itself.
    """

    task: TaskState
    log: Log
    life: Sequence[Step]
    request: Task | str | None = None
    response: Response | None = None
    said: Said = field(default_factory=Said)

    def unseal(self, keyring: Keyring) -> None:
        """Open what is kept in the log; what cannot be opened is left out."""
        task, kept = self.task, self.log.fields
        if "response" in kept:
            self.response = unseal_response(keyring, task.queue, task.id, kept["response"])
        self.said = said(keyring, task.queue, task.id, kept)
        if "report" not in kept:
            self.said = replace(self.said, report=instead(task.state, task.reason, task.status))

    def secret(self) -> dict[str, Any]:
        """Return what was sealed as JSON takes it, without what is not there."""
        shown: dict[str, Any] = {}
        if self.request is not None:
            shown["request"] = self.request if isinstance(self.request, str) else _request(self.request)
        if self.response is not None:
            shown["response"] = response_as_json(self.response)
        return shown | {name: value for name, value in self.said.as_json().items() if value}

    def write(self) -> None:
        """Write it all to standard output."""
        _write_known(self.task, self.log, sealed=self.request is None)
        print()
        write_life(self.life)
        if self.request is not None:
            _write_request(self.request)
        if self.response is not None:
            write_response(self.response, "last response")
        _write_said(self.said)


def _write_known(task: TaskState, log: Log, *, sealed: bool) -> None:
    def given(*names: str) -> list[tuple[str, str]]:
        return [(name, str(getattr(task, name) or "")) for name in names]

    sealed_fields = sorted(log.fields.keys() - {FIELD})
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
            ("sealed", ", ".join(sealed_fields) + " (--full)" if sealed and sealed_fields else ""),
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
    about |= {"size": response.size, "kept": response.kept}
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
    size = f"{response.size} bytes" if response.size else "none"
    cut = f", of which the first {response.kept} are kept" if response.kept < response.size else ""
    write_pairs([*pairs, ("content", size + cut)])
    _write_content(
        response.content, "--response FILE writes" if response.kept > len(response.content) else "--json shows"
    )


def _write_content(content: bytes, more: str = "--json shows") -> None:
    text = _content("text", content).get("text")
    for line in (text or "")[:SHOWN_BYTES].splitlines():
        print(f"  {printable(line)}")
    if len(content) > SHOWN_BYTES or (content and text is None):
        print(f"  ... {more} all of it")


def _write_said(said: Said) -> None:
    document = {name: value for name, value in said.as_json().items() if value and name != "report"}
    if document:
        print()
        write_pairs([(name, value if isinstance(value, str) else _compact(value)) for name, value in document.items()])
    if said.report is not None:
        print()
        for line in report_lines(said.report):
            print(line)


def report_lines(report: Report, depth: int = 0) -> Iterator[str]:
    """Yield a report as lines, what is below another one indented."""
    data = "" if report.data is None else f"  {_compact(report.data)}"
    yield printable(f"{'  ' * depth}{report.type}: {report.message}{data}")
    for child in report.children:
        yield from report_lines(child, depth + 1)


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
