"""All that a round needs: the store, the targets, and processes of contenders that find them."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from tests.nginx import NGINX

from . import processes, work
from .store import Store, running_store
from .targets import Served, Target, running_door, running_in_process, running_nginx, running_plain

IN_PROCESS: Final = ("bare", "with_door", "starlette", "fastapi")
PRODUCE_LIMIT: Final = 600.0


@dataclass(frozen=True, slots=True)
class Scene:
    """The servers of one run. ``http`` is nginx where installed, ``plain`` looks at what arrives and when."""

    store: Store
    http: Served
    plain: Served
    door: Served

    @contextmanager
    def target(self, variant: str) -> Iterator[Target]:
        """Return where the work of this variant arrives."""
        if variant in IN_PROCESS:
            with running_in_process() as target:
                yield target
        else:
            yield self.door if variant == "door" else self.http

    def produce(
        self, contender: str, how: str, *amounts: float, kib: int = 1, redis: str | None = None
    ) -> dict[str, Any]:
        """Let a contender queue tasks with bodies of so many KiB; return what it tells (see ``produce``).

        ``redis``: another way to the store.
        """
        command = [str(processes.python_of(contender)), "-m", "benchmarks.produce", contender, how]
        done = subprocess.run(
            [*command, *map(str, amounts)],
            cwd=processes.ROOT,
            env=self._environment(kib=kib, redis=redis),
            stdout=subprocess.PIPE,
            check=True,
            timeout=PRODUCE_LIMIT,
        )
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    @contextmanager
    def consumer(self, contender: str, limit: int, variant: str, target: Target) -> Iterator[subprocess.Popen[bytes]]:
        """Let a contender consume meanwhile; yield its process."""
        command = [str(processes.python_of(contender)), "-m", "benchmarks.consume", contender, str(limit), variant]
        with processes.running(command, self._environment(target)) as process:
            yield process

    def _environment(self, target: Target | None = None, *, kib: int = 1, redis: str | None = None) -> dict[str, str]:
        url, count = (target.url, target.count_file) if target else ("", "")
        store = redis or self.store.url
        return work.environment(redis=store, target=url, count=count, kib=kib, root=str(processes.ROOT))


@contextmanager
def running_scene(*, nginx: bool = True, store: str = "") -> Iterator[Scene]:
    """Start all servers; without ``nginx``, or where there is none, the plain target takes its place.

    ``store``: its kind (see running_store).
    """
    with ExitStack() as stack:
        server = stack.enter_context(running_store(store))
        plain = stack.enter_context(running_plain())
        door = stack.enter_context(running_door(server.socket_url))
        http = stack.enter_context(running_nginx()) if nginx and NGINX else plain
        yield Scene(server, http, plain, door)
