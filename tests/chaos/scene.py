"""The processes of a chaos run: one Redis, one application, one producer, consumers; all as in production.

What the nemesis has to know of a consumer (which tasks it holds) is asked of Redis; the verdict is not.
"""

import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import msgpack

from tests.chaos.ledger import Ledger, size
from tests.house import tree
from tests.invariants import assert_invariants, read_queues
from tests.servers import RedisServer, find_binaries, free_port
from tests.tasks import SECRET
from tests.waiting import wait_until

LEASE: Final = 2.0
# Of a paused machine too, everything must have come to an end after so many seconds.
PATIENCE: Final = 60.0
CONCURRENT: Final = 8

# Whoever holds the other end of its standard input is gone: kill the group it leads.
_UNDERTAKER: Final = "read _; kill -9 0"
_HOLDS: Final = """
local reply = {redis.call('HGET', KEYS[1] .. ':consumer:' .. ARGV[1], 'epoch') or ''}
for _, id in ipairs(redis.call('LRANGE', KEYS[1] .. ':reserved:' .. ARGV[1], 0, -1)) do
  table.insert(reply, redis.call('HGET', KEYS[1] .. ':state', id))
end
return reply
"""


class Holding(NamedTuple):
    """What a consumer holds: its lease's epoch, and ``key:delivery`` of each task it has reserved."""

    epoch: str
    deliveries: tuple[str, ...]


@dataclass
class Consumer:
    """A ``taskqueue-server`` under a name."""

    name: str
    inside: bool
    process: "subprocess.Popen[bytes]"


class Scene:
    """Everything that runs; what is left of it goes with the run, even when that is killed."""

    def __init__(self, folder: Path, *, seed: str, build: str = "sound") -> None:
        """Take a folder for the ledger and the logs, and the build that every process is."""
        self.folder, self.events = folder, folder / "ledger"
        self._seed, self._build = seed, build
        self.redis = RedisServer(find_binaries()["valkey9"])
        self.consumers: dict[str, Consumer] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._port = free_port()
        self._names = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.redis)
            self._watch = self.redis.client()
            self.ledger = stack.enter_context(Ledger(self.events, "nemesis"))
            self._undertaker = subprocess.Popen(["/bin/sh", "-c", _UNDERTAKER], stdin=subprocess.PIPE, process_group=0)
            stack.callback(self._bury)
            self.start_target()
            self._producer = self._module("producer", self._url, self._build, self._seed, stdin=subprocess.PIPE)
            self._exits = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _bury(self) -> None:
        self._undertaker.communicate()
        for process in self._processes:
            process.wait(PATIENCE)
            if process.stdin:
                process.stdin.close()

    def _spawn(self, role: str, *command: str, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
        variables = {"PYTHONPATH": str(tree.ROOT), "TASKQUEUE_URL": self.redis.url, "TASKQUEUE_SECRET": SECRET}
        with (self.folder / f"{role}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.folder,
                env=variables,
                stdin=stdin,
                stdout=log,
                stderr=log,
                process_group=self._undertaker.pid,
            )
        self._processes.append(process)
        return process

    def _module(self, name: str, *arguments: str, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
        return self._spawn(name, "-m", f"tests.chaos.{name}", *arguments, stdin=stdin)

    # The producer.

    def order(self, count: int) -> None:
        """Let the producer add so many tasks more."""
        assert self._producer.stdin is not None
        self._producer.stdin.write(b"%d\n" % count)
        self._producer.stdin.flush()

    def end_orders(self) -> None:
        """Wait until the producer has added all it was asked for."""
        assert self._producer.stdin is not None
        self._producer.stdin.close()
        assert self._producer.wait(600) == 0, (self.folder / "producer.log").read_text()

    # The application.

    def start_target(self) -> None:
        """Start the application, on the same port as before, and wait until it listens."""
        self._target = self._module("application", str(self._port), self._build)
        wait_until(self._listens, "the application listens")
        self.ledger.note("target-back")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def end_target(self, *, kill: bool) -> None:
        """End the application, as a crash does or in good order."""
        self.ledger.note("target-killed" if kill else "target-stopped")
        if kill:
            self._target.kill()
        else:
            self._target.terminate()
        self._target.wait(PATIENCE)

    # The consumers.

    def new_name(self) -> str:
        """Return a name that no consumer has had."""
        self._names += 1
        return f"c{self._names}"

    def start_consumer(self, name: str, *, inside: bool) -> Consumer:
        """Start a consumer, over HTTP or with the application inside."""
        where = ("--app", "tests.chaos.application:make_app") if inside else ("--target", self._url)
        code = f"from tests.chaos.builds import apply; apply({self._build!r})\n" if self._build != "sound" else ""
        process = self._spawn(
            name,
            *("-c", f"{code}from taskqueue.cli import server_main; server_main()", "--name", name, *where),
            *("--lease", f"{LEASE:g}", "--concurrent-limit", str(CONCURRENT), "--stop-grace", "10"),
        )
        self.consumers[name] = Consumer(name, inside, process)
        return self.consumers[name]

    def holding(self, name: str) -> Holding:
        """Return what a consumer holds, as Redis says."""
        epoch, *states = self._watch.eval(_HOLDS, 1, "taskqueue:{default}", name)
        found = (msgpack.unpackb(state) for state in states if state)
        return Holding(epoch.decode(), tuple(f"{state[14].rpartition('/')[2]}:{state[1]}" for state in found))

    def wait_for_claim(self, consumer: Consumer) -> None:
        """Wait until this very process has the name."""
        wait_until(
            lambda: self._owner(consumer.name) == consumer.process.pid,
            f"{consumer.name} consumes",
            limit=PATIENCE,
            every=0.03,
        )

    def _owner(self, name: str) -> int:
        return int(self._watch.hget(f"taskqueue:{{default}}:consumer:{name}", "pid") or 0)

    # The end.

    def settle(self) -> None:
        """Wait until nothing is left to do; return too when nothing has happened for long."""
        moved, written = time.monotonic(), 0

        def done() -> bool:
            nonlocal moved, written
            if size(self.events) > written:
                moved, written = time.monotonic(), size(self.events)
            queue = read_queues(self._watch, "taskqueue").get("default")
            scheduled = queue is not None and queue.indexes.get("scheduled")
            left = queue is not None and (queue.waiting or queue.reserved or queue.indexes.get("prepared"))
            return not scheduled and (not left or time.monotonic() - moved > 2 * LEASE + 1)

        wait_until(done, "the queue is empty, or stands still", limit=600, every=0.3)

    def close_books(self) -> None:
        """Write down what is left in Redis, let the consumers end in good order, look at every key."""
        for name, ids in read_queues(self._watch, "taskqueue")["default"].reserved.items():
            self.ledger.note("stranded", *(f"{name}:{task_id.decode()}" for task_id in ids))
        for consumer in self.consumers.values():
            consumer.process.terminate()
        for consumer in self.consumers.values():
            self.ledger.note("stopped", consumer.name, consumer.process.wait(PATIENCE))
        queue = read_queues(self._watch, "taskqueue")["default"]
        for task_id in queue.indexes.get("failed", ()):
            state = queue.states[task_id]
            self.ledger.note("failed", state[14].rpartition("/")[2], state[10])
        try:
            assert_invariants(self._watch)
        except AssertionError as error:
            self.ledger.note("broken", *str(error).split())
