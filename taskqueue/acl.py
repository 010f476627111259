"""The least rights of each role in Redis, as the lines that grant them: ``taskqueue acl``.

What a script does inside, Redis checks against the rights of its caller. So the commands of a role are read off its
scripts, and cannot be forgotten when a script changes; beside them stand the plain commands that the role's code sends.
Rights go by command and by key, not by script: who may push may also write into a task's log, because both write the
same keys with the same commands.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .brokers.scripts import source

_CALL: Final = re.compile(rb"(?:redis\.p?call\(|gather\(\w+, )'([A-Z]+)'")
USER: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Every connection: which database, whether it is alive, whether its server is the primary, and how late it is there.
CONNECTION: Final = ("select", "ping", "role", "time")
SCRIPTS: Final = ("evalsha", "eval")
# Beside a queue's own: see Link, and how a consumer that waits is answered.
CHANNELS: Final = ("", ":copied", ":to:*")


@dataclass(frozen=True, slots=True)
class Role:
    """What one kind of process does: its scripts, its plain commands, the keys of a queue (endings; None: all)."""

    help: str
    scripts: tuple[str, ...]
    commands: tuple[str, ...]
    keys: tuple[str, ...] | None = None
    channels: bool = True

    def rights(self) -> list[str]:
        """Return every command this role sends, itself or inside its scripts, in lower case and sorted."""
        inside = {name.decode().lower() for script in self.scripts for name in _CALL.findall(source(script))}
        return sorted({*inside, *self.commands, *CONNECTION, *(SCRIPTS if self.scripts else ())})


_DECIDING: Final = ("promote", "discard")
_STORING: Final = ("push", "prepare", *_DECIDING)
_CONSUMING: Final = ("claim", "reclaim", "exchange", "beat", "leave", "due", "trim", *_DECIDING)
_STORED: Final = (
    *("", ":p?", ":records", ":state", ":scheduled", ":prepared", ":failed", ":control", ":by:*", ":log:*"),
    *(":idle", ":handed"),
)
# Whoever discards a child may thereby end its parent; and what is marked does not begin.
_RUN: Final = (*_STORED, ":waiting", ":finished", ":marks")
_RUNNING: Final = ("info", "hmget", "subscribe", "zrevrange")
_COUNTING: Final = ("llen", "hgetall", "lindex", "smembers", "zcard")
_LOOKING: Final = (
    *("hget", "hgetall", "hmget", "info", "lindex", "llen", "lrange", "scan", "smembers"),
    *("zcard", "zrevrange", "zrevrangebyscore"),
)

ROLES: Final = {
    "producer": Role("whoever adds tasks outside the application", _STORING, ("llen", "wait", "hgetall"), _STORED),
    "door": Role(
        "the application, which adds tasks and lets deliveries in",
        (*_STORING, "begin", "note"),
        ("llen", "wait", "hgetall"),
        _RUN,
    ),
    # With what its metrics count.
    "consumer": Role("taskqueue-server --target", _CONSUMING, (*_RUNNING, *_COUNTING)),
    "app": Role(
        "taskqueue-server --app, which is the application too",
        (*_STORING, "begin", "note", *_CONSUMING),
        ("wait", *_RUNNING, *_COUNTING),
    ),
    "reader": Role("taskqueue list, show, log, times, stats and doctor", (), _LOOKING, channels=False),
    "operator": Role(
        "what operators do (taskqueue retry, cancel, queues, route ...), and TaskQueue.reset",
        ("retry", "withdraw", "hasten", "restart", "reset", "control", "purge"),
        (*_LOOKING, "hscan", "hset", "hdel"),
    ),
}


def default_user(namespace: str, role: str) -> str:
    """Return what a role's user is called unless somebody says otherwise."""
    return f"{namespace.replace(':', '-')}-{role}"


def set_user(role: Role, user: str, password: str, *, namespace: str, queues: Sequence[str] = ()) -> str:
    """Return the ACL SETUSER command that makes this user, whatever it could do before; no queues: all queues."""
    bases = [f"{namespace}:{{{queue}}}" for queue in queues or ["*"]]
    keys = [f"~{base}{ending}" for base in bases for ending in (role.keys or ("", ":*"))]
    keys.append(f"~{namespace}:routes")
    channels = [f"&{base}{ending}" for base in bases for ending in CHANNELS] if role.channels else []
    rights = [f"+{command}" for command in role.rights()]
    return " ".join(["ACL SETUSER", user, "reset", "on", f">{password}", *keys, *channels, *rights])
