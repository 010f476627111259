"""A Redis that fails over: a primary, its replicas, and the sentinels that watch over them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers import RedisServer
from tests.waiting import wait_until

SERVICE: Final = "mymaster"


class Sentinel(RedisServer):
    """One sentinel, in a process and directory of its own."""

    def __init__(self, binary: Path, primary: RedisServer, *, quorum: int, password: str = "") -> None:
        super().__init__(binary)
        self._password = password
        self._lines = (
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.directory}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} 500",
            f"sentinel failover-timeout {SERVICE} 6000",
            *([f"requirepass {password}"] if password else []),
        )

    def _arguments(self) -> list[str]:
        file = self.directory / "sentinel.conf"
        if not file.exists():  # A sentinel writes what it learns into it.
            file.write_text("\n".join(self._lines) + "\n")
        return [str(file), "--sentinel"]

    def client(self, **options: Any) -> redis.Redis:
        """Return a new client over TCP: a sentinel has no unix socket."""
        client = redis.Redis(port=self.port, password=self._password or None, retry=Retry(NoBackoff(), 0), **options)
        self._clients.callback(client.close)
        return client

    def knows(self) -> tuple[int, int]:
        """Return how many other sentinels, and how many replicas of the service, it knows."""
        client: Any = self.client()
        about = client.sentinel_master(SERVICE)
        return about["num-other-sentinels"], about["num-slaves"]


@dataclass
class Watched:
    """The servers, the first of them the primary at the start, and their sentinels."""

    servers: list[RedisServer]
    sentinels: list[Sentinel]

    @property
    def url(self) -> str:
        """The URL of the service."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    def primary(self) -> RedisServer | None:
        """Return the server that runs, is a primary, and is not the first; None if there is none yet."""
        return next((server for server in self.servers[1:] if _role(server) == "master"), None)


def _role(server: RedisServer) -> str:
    client: Any = server.client(socket_timeout=1)
    try:
        role, *_ = client.execute_command("ROLE")
    except redis.ConnectionError:
        return ""
    return str(role.decode())


@contextmanager
def watched(binary: Path, *, sentinels: int = 3, replicas: int = 2) -> Iterator[Watched]:
    """Run them, and begin when each sentinel knows all the others and all replicas."""
    with ExitStack() as stack:
        options = ("--repl-diskless-sync-delay", "0")
        servers = [stack.enter_context(RedisServer(binary, *options)) for _ in range(1 + replicas)]
        for replica in servers[1:]:
            replica.client().replicaof("127.0.0.1", str(servers[0].port))
        for replica in servers[1:]:
            wait_until(lambda server=replica: _linked(server), "the replica is up to date")  # type: ignore[misc]
        watching = [
            stack.enter_context(Sentinel(binary, servers[0], quorum=sentinels // 2 + 1)) for _ in range(sentinels)
        ]
        for one in watching:
            wait_until(lambda one=one: one.knows() == (sentinels - 1, replicas), "it knows all")  # type: ignore[misc]
        yield Watched(servers, watching)


def _linked(server: RedisServer) -> bool:
    info: Any = server.client().info("replication")
    return bool(info.get("master_link_status") == "up")
