"""A consumer's heartbeat on a connection of its own, from a thread: a busy event loop must not look like a death."""

from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError, RedisError

from ..broker import Beat, Lease, Seen
from ..errors import BrokerUnavailable
from .reasons import fenced, forgotten
from .scripts import SCRIPTS


class RedisPulse:
    """The Pulse of a RedisBroker. Synchronous; used by one thread."""

    def __init__(self, connect: Callable[[], Redis], key: Callable[[str], str]) -> None:
        """Take how to make a client, and how a queue's list is called."""
        self._connect, self._key = connect, key
        self._client: Redis | None = None

    def beat(self, lease: Lease) -> Beat:
        """See Pulse."""
        script = SCRIPTS["beat"]
        arguments = (1, self._key(lease.queue), lease.consumer, lease.epoch)
        try:
            if self._client is None:
                self._client = self._connect()
            execute: Callable[..., Any] = self._client.execute_command
            try:
                reply = execute("EVALSHA", script.sha, *arguments)
            except NoScriptError:
                reply = execute("EVAL", script.source, *arguments)
        except (RedisError, OSError, EOFError, TypeError, AttributeError) as error:
            # redis-py raises TypeError and AttributeError too when an idle connection was reset under it; and what
            # answers with an error may not be the server to speak to any more.
            self.close()
            raise BrokerUnavailable(f"redis: {type(error).__name__}: {error}") from error
        require_lease(reply[0], lease)
        words = [word.decode(errors="replace") for word in reply[2:]]
        others = tuple(Seen(*three) for three in zip(words[::3], words[1::3], words[2::3], strict=True))
        return Beat(others, tuple(task_id.decode(errors="replace") for task_id in reply[1]))

    def close(self) -> None:
        """See Pulse."""
        if self._client is not None:
            self._client.close()
            self._client = None


def require_lease(answer: bytes, lease: Lease) -> None:
    """Raise Fenced unless a script that checks the lease said OK."""
    if answer == b"GONE":
        raise forgotten(lease)
    if answer == b"FENCED":
        raise fenced(lease)
