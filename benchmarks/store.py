"""The Redis of a benchmark, and what it tells: memory, CPU, and which commands were sent to it."""

import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.servers import RedisServer, find_binaries
from tests.waiting import wait_until

from . import processes

# Durable as most run it: what was acknowledged survives the process, and all but the last second a power cut.
DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "everysec")
# The file is rewritten when it has grown to twice its size: whose turn that falls into would be chance, and a third
# process would compress records on two cores meanwhile. So it is done between two measurements.
NOT_NOW: Final = ("--auto-aof-rewrite-percentage", "0")
# Memory is given back before the answer to FLUSHALL, so that none of one contender counts for the next.
AT_ONCE: Final = ("--lazyfree-lazy-user-flush", "no")
REWRITE_SECONDS: Final = 300.0
_COMMAND: Final = re.compile(rb"^\+[0-9.]+ \[[0-9]+ (lua|unix|)", re.MULTILINE)
_SOURCES: Final = {b"lua": "inside scripts", b"unix": "over the socket", b"": "over TCP"}


class Store:
    """One server; what takes part connects over TCP, the door of a target over the unix socket."""

    def __init__(self, server: RedisServer) -> None:
        self._server, self._client = server, server.client()
        self.url, self.socket_url = server.url, server.unix_url
        info = self._client.info()
        # Which allocator it was built with counts as much as its version: where much is held, for twice the CPU.
        version = info.get("valkey_version", info["redis_version"])
        self.version = f"{server.binary.name} {version} ({info['mem_allocator']})"

    def empty(self) -> None:
        """Forget all data, and give its memory back before this returns; the append-only file begins anew."""
        self._client.flushall()
        self.rewrite()
        self.await_rewritten()

    def memory(self) -> int:
        """Return the bytes that data take, without buffers of clients and of the append-only file."""
        info = self._client.info("memory")
        return int(info["used_memory"] - info["mem_clients_normal"] - info["mem_aof_buffer"])

    def cpu(self) -> float:
        """Return the CPU seconds it has had."""
        return processes.cpu(self._server.pid)

    def consumers(self) -> int:
        """Return how many consumers of ours have come to the queue."""
        return int(self._client.scard("taskqueue:{default}:consumers"))

    def watch_slow(self) -> None:
        """Note from now on what takes longer than a millisecond."""
        self._client.config_set("slowlog-log-slower-than", 1000)
        self._client.config_set("slowlog-max-len", 10_000)
        self._client.slowlog_reset()

    def slowest(self) -> float:
        """Return the milliseconds of the slowest script since then; 0 if none took longer than one."""
        found: list[dict[str, Any]] = self._client.slowlog_get(10_000)
        scripts = [each for each in found if each["command"].startswith((b"EVAL", b"FCALL"))]
        return max((each["duration"] for each in scripts), default=0) / 1000

    def rewrite(self) -> None:
        """Have it rewrite its append-only file: it forks, and what it writes to is copied first, page by page."""
        self._client.bgrewriteaof()

    def await_rewritten(self) -> None:
        """Wait until it is not rewriting its append-only file."""

        def over() -> bool:
            info = self._client.info("persistence")
            return not (info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])

        wait_until(over, "the append-only file has been rewritten", limit=REWRITE_SECONDS)

    def commands(self, seconds: float) -> dict[str, int]:
        """Watch for so long; return how many commands came by where from: a server's own counts mix scripts' with sent.

        What is watched is slower, so only ratios count.
        """
        end, seen = time.monotonic() + seconds, bytearray()
        with socket.create_connection(("127.0.0.1", self._server.port)) as line:
            line.sendall(b"MONITOR\r\n")
            while (left := end - time.monotonic()) > 0:
                line.settimeout(left)
                try:
                    seen += line.recv(1 << 20)
                except TimeoutError:
                    break
        found = Counter(_SOURCES[source] for source in _COMMAND.findall(seen))
        return {source: found[source] for source in _SOURCES.values()}


@contextmanager
def running_store(kind: str = "") -> Iterator[Store]:
    """Run a server meanwhile: of this kind (see find_binaries), or the first of Valkey, Redis, and the one on PATH."""
    found = find_binaries()
    with RedisServer(found[kind or next(iter(found))], *DURABLE, *NOT_NOW, *AT_ONCE, on_disk=True) as server:
        yield Store(server)
