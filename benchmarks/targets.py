"""Where the work arrives: nginx where installed, else a target of ours; one with our door; an application called."""

import http.client
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from tests.nginx import NGINX
from tests.servers import free_port
from tests.waiting import wait_until

from . import processes, work
from .counter import NUMBERS, Counter

_NGINX: Final = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 2048; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1d; client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{ return 204; }}
    location = /-/seen {{ stub_status; }}
  }}
}}
"""


class Target(Protocol):
    """Where requests arrive."""

    @property
    def url(self) -> str:
        """The address; empty for one that is called in the consumer's process."""
        ...

    @property
    def count_file(self) -> str:
        """Where an application in the consumer's process counts; empty for one over HTTP."""
        ...

    def count(self) -> int:
        """Return how many requests have come."""
        ...

    def wrong(self) -> int:
        """Return how many of them were not the work, as far as it looks."""
        ...

    def cpu(self) -> float:
        """Return the CPU seconds it has had; 0 for one that has none of its own."""
        ...


class Served:
    """A target that is a process of its own."""

    count_file = ""

    def __init__(self, port: int, pid: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._pid, self._line = pid, http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def _ask(self, path: str = "/-/seen") -> bytes:
        self._line.request("GET", path)
        return self._line.getresponse().read()

    def close(self) -> None:
        """Close the line to it."""
        self._line.close()

    def seen(self) -> dict[str, Any]:
        """Return all that it has seen."""
        told: dict[str, Any] = json.loads(self._ask())
        return told

    def arrivals(self) -> list[float]:
        """Return when requests came since it was last asked; only the plain target knows."""
        told: list[float] = json.loads(self._ask("/-/arrivals"))
        return told

    def count(self) -> int:
        """See Target."""
        return int(self.seen()["count"])

    def wrong(self) -> int:
        """See Target."""
        return int(self.seen()["wrong"])

    def cpu(self) -> float:
        """See Target."""
        return processes.cpu(self._pid)


class Nginx(Served):
    """Counts, and looks at nothing."""

    def __init__(self, port: int, pid: int) -> None:
        super().__init__(port, pid)
        self._asked = 0

    def count(self) -> int:
        """See Target."""
        self._asked += 1
        _, _, requests = re.findall(rb"[0-9]+", self._ask().splitlines()[2])
        return int(requests) - self._asked

    def wrong(self) -> int:
        """See Target."""
        return 0


class InProcess:
    """An application in the consumer's process."""

    url = ""

    def __init__(self, count_file: str) -> None:
        Path(count_file).write_bytes(bytes(NUMBERS.size))
        self.count_file, self._counter = count_file, Counter(count_file)

    def close(self) -> None:
        """Close the file."""
        self._counter.close()

    def count(self) -> int:
        """See Target."""
        return self._counter.read()[0]

    def wrong(self) -> int:
        """See Target."""
        return self._counter.read()[1]

    def cpu(self) -> float:
        """See Target."""
        return 0.0


@contextmanager
def running_nginx() -> Iterator[Nginx]:
    """Run nginx meanwhile, one process; only where it is installed."""
    assert NGINX is not None, "nginx: not installed"
    port = free_port()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        conf = Path(folder, "nginx.conf")
        conf.write_text(_NGINX.format(folder=folder, port=port))
        command = [NGINX, "-p", folder, "-e", f"{folder}/error.log", "-c", str(conf)]
        process = stack.enter_context(processes.running(command, {}))
        wait_until(Path(folder, "pid").exists, "nginx runs")
        with closing(Nginx(port, process.pid)) as target:
            yield target


@contextmanager
def running_plain(kib: int = 1) -> Iterator[Served]:
    """Run the target of the standard library meanwhile, for bodies of so many KiB."""
    with _running("plain_target", redis="", kib=kib) as target:
        yield target


@contextmanager
def running_door(redis: str) -> Iterator[Served]:
    """Run the target with our door meanwhile."""
    with _running("door_target", redis=redis) as target:
        yield target


@contextmanager
def running_in_process() -> Iterator[InProcess]:
    """Give an application in process something to count in."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        closing(InProcess(str(Path(folder, "count")))) as target,
    ):
        yield target


@contextmanager
def _running(module: str, *, redis: str, kib: int = 1) -> Iterator[Served]:
    port = free_port()
    environment = work.environment(redis=redis, kib=kib, root=str(processes.ROOT))
    command = [str(processes.python_of("ours")), "-m", f"benchmarks.{module}", str(port)]
    with processes.running(command, environment) as process, closing(Served(port, process.pid)) as target:
        wait_until(lambda: _answers(target), f"{module} answers")
        yield target


def _answers(target: Served) -> bool:
    try:
        target.seen()
    except (OSError, http.client.HTTPException):
        target.close()
        return False
    return True
