"""One task as a person sees it: what is known of it, its life in order, and, unsealed, its request and last response.

What proves who somebody is stands in neither: the values of such headers are masked.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from .admin import Step, outcome
from .tables import moment, printable, span, timestamp, write_pairs, write_table
from .task import Response, Task, TaskState

MASKED: Final = frozenset({"cookie", "set-cookie", "authorization", "proxy-authorization", "x-task-receipt"})
SHOWN_BYTES: Final = 4096


@dataclass(slots=True)
class Known:
    """What was found of a task; ``request`` is a text if there is none to be had, and says why."""

    task: TaskState
    life: Sequence[Step]
    request: Task | str | None = None
    response: Response | None = None

    def secret(self) -> dict[str, Any]:
        """Return what was sealed as JSON takes it, without what is not there."""
        shown: dict[str, Any] = {}
        if self.request is not None:
            shown["request"] = self.request if isinstance(self.request, str) else _request(self.request)
        if self.response is not None:
            shown["response"] = response_as_json(self.response)
        return shown

    def write(self) -> None:
        """Write it all to standard output."""
        _write_life(self.task, self.life)
        if self.request is not None:
            _write_request(self.request)
        if self.response is not None:
            write_response(self.response, "last response")


def _write_life(task: TaskState, life: Sequence[Step]) -> None:
    names = ("id", "queue", "state", "method", "path", "label", "attempt", "delivery", "crashes")
    pairs = [(name, str(getattr(task, name) or "")) for name in names]
    pairs += [("route", task.route), ("queue chosen by", str(task.chosen))]
    write_pairs([*pairs, ("outcome", outcome(task.status, task.reason)), ("consumer", task.holder)])
    print()
    rows = [
        (
            moment(step.at) or "?",
            "" if step.seconds is None else f"+{span(step.seconds)}",
            step.what,
            str(step.delivery or ""),
            step.detail,
        )
        for step in life
    ]
    write_table(("time", "after", "what", "delivery", "detail"), rows)


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
