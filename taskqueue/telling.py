"""What a running task says of itself, said in its view: plain functions, in synchronous and asynchronous code alike.

Outside a delivery they check what they are given and keep nothing: a view may be called by anybody.
"""

import json
import math
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from .errors import InvalidReport
from .headers import check_host
from .notes import Notes
from .reporting import Report, Value
from .transaction import innermost

MAX_MESSAGE: Final = 500
MAX_URL: Final = 2048

# A browser reads a backslash as a slash, and leaves out line breaks and tabs.
_URL: Final = re.compile(r"[!-\[\]-~]+")


def report(
    kind: str,
    message: str,
    /,
    data: object = None,
    *,
    children: Iterable[Report] = (),
    **interpolation: Value,
) -> Report:
    """Report something of the running task, and return it, so that more can be added below it (``add``).

    ``kind`` is info, success, warning or error. An error, at any depth, makes the task fail with reason ``reported``,
    whatever its view answers. ``message``: a text, or with keywords a template for them, as in ``"{count} rows of
    {file}", count=3, file="a.csv"``: both are kept, for translation. ``data``: any JSON value. Several reports of one
    task stand side by side below one of the type info. All of a task: 20 levels, 1000 nodes, 64 KiB as JSON. Raises
    InvalidReport, also once the answer has begun.
    """
    made = Report(kind, message, data, children=children, **interpolation)
    notes = current_notes()
    return made if notes is None else notes.report(made)


def progress(done: float, total: float | None = None, message: str = "") -> None:
    """Tell how far the running task is: ``done`` of ``total`` (None: nobody knows), and what it does, in a few words.

    Never waits: the last value is stored every half second, and at the end. Raises InvalidReport for what is not a
    number of 0 or more, or a message over 500 characters.
    """
    for name, value in (("done", done), ("total", 0 if total is None else total)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise InvalidReport(f"{name}: {value!r:.40} must be a number, 0 or more")
    if not isinstance(message, str) or len(message) > MAX_MESSAGE:
        raise InvalidReport(f"message: a text of at most {MAX_MESSAGE} characters is needed")
    raw = json.dumps({"done": done, "total": total, "message": message}).encode()
    notes = current_notes()
    if notes is not None:
        notes.progress(raw)


def redirect_to(url: object) -> str:
    """Tell where the result of the running task is, and return that: people are sent there when it has completed.

    ``url``: a path of this application, as ``/reports/7?page=2#top`` or a framework's URL object, or an absolute http
    or https URL; percent-encoded, without user or password, at most 2048 characters. Raises InvalidReport.
    """
    text = str(url)
    if not _URL.fullmatch(text) or len(text) > MAX_URL or not (_is_path(text) or _is_absolute(text)):
        raise InvalidReport(
            f"url: {text[:80]!r} must be a path as /reports/7, or an absolute http or https URL, percent-encoded,"
            f" without user or password, of at most {MAX_URL} characters"
        )
    notes = current_notes()
    if notes is not None:
        notes.say("redirect", text.encode())
    return text


def _is_path(url: str) -> bool:
    return url.startswith("/") and not url.startswith("//")


def _is_absolute(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and "@" not in parts.netloc and bool(check_host(parts.netloc))
    except ValueError:  # of which InvalidTask is one
        return False


def current_notes() -> Notes | None:
    """Return what collects what the running task says of itself; None in any other request or outside one."""
    running = innermost()
    return running.request.notes if running is not None and running.request is not None else None
