"""Where in the code something is, for a log that somebody reads while it hangs."""

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any


def of_job(job: "asyncio.Task[Any]") -> str:
    """Return where an asyncio task waits: from its outermost coroutine to the innermost, as a traceback shows it."""
    frames = []
    waits: Any = job.get_coro()
    while waits is not None:
        frame = getattr(waits, "cr_frame", None) or getattr(waits, "gi_frame", None)
        if frame is not None:
            frames.append((frame, frame.f_lineno))
        waits = getattr(waits, "cr_await", None) or getattr(waits, "gi_yieldfrom", None)
    return "".join(traceback.format_list(traceback.StackSummary.extract(frames)))


def of_thread(ident: int | None) -> str:
    """Return what a thread is doing; empty if it has ended."""
    frame = sys._current_frames().get(ident or 0)
    return "".join(traceback.format_stack(frame)) if frame else ""


def of_other_threads() -> Iterator[tuple[str, str]]:
    """Yield the name of each thread but this one, and what it is doing."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            yield thread.name, of_thread(thread.ident)
