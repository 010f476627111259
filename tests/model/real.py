"""The scripts in a real server, told the time by the test: all they do, step by step, as outcomes to compare.

The scripts run as they are, but for the one line that asks Redis for the time: it reads a clock that the test sets, so
that hours pass in no time and every millisecond is known. Steps travel in bulk; the server dumps all keys after each.
"""

import hashlib
import itertools
import math
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import hiredis
import msgpack

from taskqueue.brokers.scripts import SCRIPTS
from tests.house import tree
from tests.model.consuming import CONSUMERS, DEAF
from tests.model.model import EXPIRES, Model
from tests.model.values import Outcome, Step, task_of, unpacked
from tests.servers import RedisServer

BASE: Final = b"taskqueue:{default}"
MARK: Final = b"test:step"
# A step takes less than a millisecond; what takes so long has been caught in a loop.
PATIENCE: Final = 5.0

_ASKS_THE_TIME: Final = b"local clock = redis.call('TIME')\n"
_READS_THE_CLOCK: Final = b"local clock = redis.call('MGET', 'test:seconds', 'test:microseconds')\n"
_ALL_KEYS: Final = b"""
local found = {}
local read = {list = {'LRANGE', 0, -1}, zset = {'ZRANGE', 0, -1, 'WITHSCORES'}, hash = {'HGETALL'}, set = {'SMEMBERS'}}
for _, key in ipairs(redis.call('KEYS', '*')) do
  if string.sub(key, 1, 5) ~= 'test:' then
    local kind = redis.call('TYPE', key).ok
    local how = read[kind]
    table.insert(found, {key, kind, how and redis.call(how[1], key, unpack(how, 2)) or '',
      redis.call('PTTL', key)})
  end
end
return found
"""


def _late(name: bytes) -> bytes:
    """Return the channel on which a consumer hears of what comes while it waits."""
    return BASE + b":to:" + name


def timed(source: bytes, *, strict: bool = True) -> bytes:
    """Return a script that reads the test's clock instead of asking Redis for the time."""
    assert not strict or source.count(_ASKS_THE_TIME) == 1, "the line that asks for the time has changed"
    return source.replace(_ASKS_THE_TIME, _READS_THE_CLOCK)


def sources() -> dict[str, bytes]:
    """Return the scripts by name, under the test's clock."""
    return {name: timed(script.source) for name, script in SCRIPTS.items()}


_on_the_wire: Final[Any] = hiredis.pack_command  # its types know commands of one word only


class Line:
    """A connection that writes commands in bulk and returns replies as they are, errors too."""

    def __init__(self, path: str, patience: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(patience)
        self._socket.connect(path)
        self._reader = hiredis.Reader()

    def send(self, commands: Iterable[tuple[bytes | str | int, ...]]) -> None:
        self._socket.sendall(b"".join(map(_on_the_wire, commands)))

    def read(self) -> Any:
        """Return the next reply; raise TimeoutError if none comes, ConnectionError if none can come any more."""
        while (reply := self._reader.gets()) is False:
            received = self._socket.recv(1 << 18)
            if not received:
                raise ConnectionError("the server has gone")
            self._reader.feed(received)
        return reply

    def ask(self, *command: bytes | str | int) -> Any:
        self.send([command])
        return self.read()

    def close(self) -> None:
        self._socket.close()


class Real:
    """One queue in a server, driven by steps; ``scripts`` are the sources by name."""

    model: ClassVar[type[Model]] = Model

    def __init__(self, server: RedisServer, scripts: Mapping[str, bytes], *, patience: float = PATIENCE) -> None:
        path = str(server.directory / "socket")
        self._scripts = {
            name: (source, hashlib.sha1(source, usedforsecurity=False).hexdigest()) for name, source in scripts.items()
        }
        self._loaded: set[str] = set()
        self._line, self._hints = Line(path, patience), Line(path, patience)
        channels = (BASE, MARK, *(_late(name) for name in CONSUMERS if name != DEAF))
        self._hints.send([("SUBSCRIBE", *channels)])
        for _ in channels:
            self._hints.read()

    def close(self) -> None:
        """Leave the server."""
        self._line.close()
        self._hints.close()

    def refused(self) -> dict[str, str]:
        """Return why the server cannot compile scripts, by their names."""
        replies = {name: self._line.ask("SCRIPT", "LOAD", source) for name, (source, _) in self._scripts.items()}
        return {name: str(reply) for name, reply in replies.items() if isinstance(reply, hiredis.ReplyError)}

    def clean(self) -> None:
        """Remove all data and scripts."""
        self._line.ask("FLUSHALL")
        self._line.ask("SCRIPT", "FLUSH")
        self._loaded.clear()

    def run(self, steps: Sequence[Step]) -> list[Outcome]:
        """Let steps happen, in one round trip."""
        commands = [list(self._commands(step)) for step in steps]
        self._line.send(command for some in commands for command in some)
        return [self._outcome(step, len(some)) for step, some in zip(steps, commands, strict=True)]

    def _commands(self, step: Step) -> Iterator[tuple[bytes | str | int, ...]]:
        seconds, microseconds = divmod(step.clock, 1_000_000)
        yield "MSET", "test:seconds", seconds, "test:microseconds", microseconds
        if step.name == "flush":
            self._loaded.clear()
            yield "SCRIPT", "FLUSH"
        elif step.name == "lost":
            yield ("FLUSHALL",)
        elif step.name == "forget":
            # The caller reads what there is; the sum of it is one script here.
            yield "EVAL", _FORGET, 1, BASE
        elif step.name == "write":
            command, key, *values = step.arguments
            yield command, BASE + bytes(key), *values
        else:
            source, sha = self._scripts[step.name]
            yield "EVALSHA", sha, 1, BASE, *step.arguments
            if step.name not in self._loaded:
                self._loaded.add(step.name)
                yield "EVAL", source, 1, BASE, *step.arguments
        yield "EVAL", _ALL_KEYS, 0
        yield "PUBLISH", MARK, ""

    def _outcome(self, step: Step, count: int) -> Outcome:
        *replies, dump, _ = [self._line.read() for _ in range(count)]
        hints: list[Any] = []
        while (message := self._hints.read())[1] != MARK:
            _, channel, said = message
            hints.append(said if channel == BASE else (channel.rpartition(b":")[2], msgpack.unpackb(said, raw=True)))
        if len(replies) == 3 and not str(replies[1]).startswith("NOSCRIPT"):
            return Outcome(("not forgotten", *replies[1:]), hints, {})
        reply = replies[-1]
        if step.name == "beat":
            reply = _in_order(reply)
        if step.name in ("write", "forget") and not isinstance(reply, hiredis.ReplyError):
            reply = None
        return Outcome(reply, hints, dict(_decoded(*entry) for entry in dump))


_FORGET: Final = (
    b"".join(timed((tree.PACKAGE / "lua" / f"{part}.lua").read_bytes(), strict=False) for part in ("_state", "_places"))
    + b"""
local emptied = redis.call('HGETALL', base .. ':emptied')
for i = 1, #emptied, 2 do
  local id, task = emptied[i], unpacked(emptied[i + 1])
  for _, by in ipairs(task and BY or {}) do redis.call('ZREM', base .. by[1] .. task[by[2]], id) end
  redis.call('DEL', base .. ':log:' .. id)
end
redis.call('DEL', base .. ':emptied')
"""
)


def _in_order(reply: Any) -> Any:
    """Return what a beat tells of, by name: Redis tells of the members of a set in any order."""
    if not isinstance(reply, list) or len(reply) < 2:
        return reply
    answer, marked, *others = reply
    in_threes = sorted(others[start : start + 3] for start in range(0, len(others), 3))
    return [answer, sorted(marked), *itertools.chain.from_iterable(in_threes)]


def _decoded(key: bytes, kind: bytes, value: Any, left: int) -> tuple[bytes, Any]:
    part = key[len(BASE) :] if key.startswith(BASE) else b"outside:" + key
    if kind == b"set":
        return part, set(value)
    if kind == b"list":
        return part, value
    pairs = dict(zip(value[::2], value[1::2], strict=True)) if kind in (b"hash", b"zset") else {b"other type": kind}
    if left >= 0:
        pairs[EXPIRES] = b"%d h" % math.ceil(left / 3_600_000)
    if kind == b"zset":
        return part, {task_id: float(score) for task_id, score in pairs.items()}
    if part in (b":state", b":emptied"):
        return part, {task_id: task_of(raw) for task_id, raw in pairs.items()}
    if part.startswith(b":log:"):
        return part, {
            name: unpacked(raw) if name.isdigit() or name == b"released" else raw for name, raw in pairs.items()
        }
    return part, pairs
