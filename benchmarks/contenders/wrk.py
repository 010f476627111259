"""No queue and no Python, the limit of the target: wrk, one thread, so many connections, sends the request for ever."""

import os
import tempfile
from pathlib import Path
from typing import Final

from benchmarks import work
from benchmarks.processes import WRK

FOR_EVER: Final = "1000h"


def _script() -> str:
    """Return what tells wrk what to send, in Lua."""
    headers = "".join(f"wrk.headers[{_text(name)}] = {_text(value)}\n" for name, value in work.HEADERS.items())
    return f'wrk.method = "POST"\n{headers}wrk.body = {_text(work.BODY.decode("ascii"))}\n'


def _text(text: str) -> str:
    return '"' + "".join(f"\\{ord(each):03}" for each in text) + '"'


def consume(limit: int, variant: str) -> None:
    """See Contender."""
    if variant != "http":
        raise ValueError(f"wrk: knows no {variant}")
    with tempfile.TemporaryFile("w", encoding="ascii") as script:
        script.write(_script())
        script.flush()
        os.set_inheritable(script.fileno(), True)
        options = ("-t1", f"-c{limit}", f"-d{FOR_EVER}", "-s", str(Path("/dev/fd", str(script.fileno()))))
        os.execv(str(WRK), ("wrk", *options, work.target() + work.PATH))  # noqa: S606  becomes it


def producer() -> None:
    """See Contender."""
    raise NotImplementedError("wrk queues nothing")
