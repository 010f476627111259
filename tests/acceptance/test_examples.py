"""Each example runs as its first lines say: the application, a consumer, one request, one task."""

import http.client
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.house import tree
from tests.servers import free_port
from tests.waiting import wait_until

FOLDER: Final = tree.ROOT / "examples"
EXAMPLES: Final = sorted(FOLDER.glob("*_app.py"), key=lambda path: path.name)
RUNNABLE: Final = [path for path in EXAMPLES if path.name != "demo_app.py"]


def commands(example: Path) -> list[str]:
    """Return the command lines in an example's docstring."""
    return re.findall(r"^\$ (.+)$", example.read_text().split('"""')[1], re.MULTILINE)


@contextmanager
def started(line: str, folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command line as written, variables in front of it included, in that folder."""
    words = shlex.split(line)
    variables = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    program, *rest = [word for word in words if not re.match(r"[A-Z_]+=", word)]
    found = Path(sys.executable).with_name(program)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(found), *rest],
            cwd=folder,
            env={"PYTHONPATH": str(tree.ROOT), "PYTHONUNBUFFERED": "1", **variables},
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def answers(port: int, method: str, target: str) -> int:
    """Return the status that a request gets, 0 if nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, target)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@pytest.mark.parametrize("example", RUNNABLE, ids=lambda path: path.stem)
def test_it_runs_as_its_first_lines_say(example: Path) -> None:
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="tq-"))
    text = example.read_text().replace("8000", str(port))
    (folder / example.name).write_text(text)
    application, consumer = (line.replace("8000", str(port)) for line in commands(example))
    if application.split()[1] in ("flask", "uvicorn"):
        application += f" --port {port}"
    log = folder / "output"
    with ExitStack() as stack:
        stack.enter_context(started(application, folder, log))
        stack.enter_context(started(consumer, folder, log))
        wait_until(lambda: answers(port, "GET", "/") == 404, f"the application answers, it says {log.read_text()!r}")
        assert answers(port, "POST", "/reports/build?year=1") == 404, "a task-only view is hidden"
        assert answers(port, "POST", "/reports?year=2026") == 202
        wait_until(lambda: "building the report of 2026" in log.read_text(), "the task has run")
    shutil.rmtree(folder)


@pytest.mark.parametrize("example", RUNNABLE, ids=lambda path: path.stem)
def test_it_is_short(example: Path) -> None:
    assert len(example.read_text().splitlines()) < 40
