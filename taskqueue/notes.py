"""What a delivery says of itself while it runs: collected here, stored by the door before the answer leaves.

The last progress is stored now and then meanwhile, in the background, so that the view never waits for it.
"""

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Final, TypeAlias

from .errors import BrokerUnavailable, InvalidReport, NotKept
from .reporting import Report

log = logging.getLogger("taskqueue.door")

# Seconds between two notes of a task's progress.
INTERVAL: Final = 0.5

FIELDS: Final = ("report", "progress", "redirect", "output", "files")
"""What a task may say of itself. One that is empty was not said."""

_TOO_LATE: Final = "the answer of this task has begun, and with it went the type of its report: report before"

Keep: TypeAlias = Callable[[Mapping[str, bytes]], Awaitable[bool]]
"""Stores these fields with the delivery; False if that is not under way any more."""

Start: TypeAlias = Callable[[Callable[[], Awaitable[None]]], "Future[None]"]
"""Begins something in the background, without waiting."""


class Notes:
    """What one delivery says of itself."""

    def __init__(self, task_id: str, keep: Keep, start: Start, *, again: bool = False) -> None:
        """Take the task's id, and how to store what is said, now and in the background.

        ``again``: there were deliveries before. What they have said, and this one does not say, is taken back at the
        end.
        """
        self._task_id, self._keep, self._start = task_id, keep, start
        self._reports: Report | None = None  # around all that was reported
        self._closed = self._report_taken = False
        # What was said and is not kept yet.
        self._fields: dict[str, bytes] = dict.fromkeys(FIELDS, b"") if again else {}
        self._files: dict[str, object] = {}
        self._lock = threading.Lock()  # between the view's threads and the background
        self._sending: _Sending | None = None

    # What the view says.

    def report(self, report: Report) -> Report:
        """Add a report; raises InvalidReport once the answer has begun."""
        if self._closed:
            raise InvalidReport(f"report: {_TOO_LATE}")
        with self._lock:
            around = self._reports or Report.around("Running task {task}", task=self._task_id)
            around.attach(report)
            self._reports = around
        return report

    def progress(self, raw: bytes) -> None:
        """Replace the progress."""
        with self._lock:
            self._fields["progress"] = raw
            if self._sending is None:
                self._sending = _Sending()
                self._sending.ends = self._start(self._sending.run(self._send_progress))

    def say(self, field: str, raw: bytes) -> None:
        """Replace another field."""
        with self._lock:
            self._fields[field] = raw

    def add_file(self, name: str, file: Mapping[str, object], *, output: bool) -> None:
        """Add a file to the list of those the task has saved, or replace it there; ``output``: it is the result."""
        with self._lock:
            self._files[name] = {"name": name, **file}
            self._fields["files"] = json.dumps(list(self._files.values())).encode()
            if output:
                self._fields["output"] = name.encode()

    # What the door does.

    @property
    def pending(self) -> bool:
        """Whether something was said that is not stored yet."""
        reported = self._reports is not None and not self._report_taken
        return reported or bool(self._fields) or self._sending is not None

    def close(self) -> str:
        """Return the type that counts for the report, empty if there is none: it leaves with the answer.

        After that nothing can be reported.
        """
        self._closed = True
        if self._reports is None:
            return ""
        self._reports.close(_TOO_LATE)
        return self._reports.worst

    async def keep(self) -> None:
        """Store what was said and is not stored yet; raises NotKept."""
        self.close()
        sending = self._sending
        if sending is not None:
            await sending.stop()
        with self._lock:
            self._sending = None
            if self._reports is not None and not self._report_taken:
                tops = self._reports.children
                self._fields["report"] = (tops[0] if len(tops) == 1 else self._reports).encode()
                self._report_taken = True
            fields = dict(self._fields)
        if fields:
            await self._store(fields)

    async def _store(self, fields: Mapping[str, bytes]) -> None:
        try:
            kept = await self._keep(fields)
        except BrokerUnavailable as error:
            raise NotKept(f"what task {self._task_id} says of itself could not be stored: {error}") from error
        if not kept:
            log.warning("task %s: was taken back, and what it said of itself since is lost", self._task_id)
        with self._lock:
            for field, raw in fields.items():
                if self._fields.get(field) is raw:
                    del self._fields[field]

    async def _send_progress(self) -> bool:
        """Store the progress if there is one; return whether there may be more."""
        with self._lock:
            raw = self._fields.get("progress")
            if not raw:
                self._sending = None
                return False
        try:
            await self._store({"progress": raw})
        except NotKept as error:
            log.debug("%s", error)  # the end tells it again
        return True


class _Sending:
    """Something that is done each interval in the background, until there is nothing more to do or it is stopped."""

    def __init__(self) -> None:
        self.ends: Future[None] | None = None
        self._stopped = False
        self._wake: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def run(self, step: Callable[[], Awaitable[bool]]) -> Callable[[], Awaitable[None]]:
        """Return what is to be run: the first step is made after an interval, so that a short task has none."""

        async def run() -> None:
            self._wake = asyncio.get_running_loop(), asyncio.Event()
            more = True
            while more and not self._stopped:
                with suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL):
                        await self._wake[1].wait()
                more = not self._stopped and await step()

        return run

    async def stop(self) -> None:
        """Return when it has ended: what comes after it is then stored after it."""
        self._stopped = True
        if self._wake is not None:
            self._wake[0].call_soon_threadsafe(self._wake[1].set)
        if self.ends is not None:
            await asyncio.wrap_future(self.ends)
