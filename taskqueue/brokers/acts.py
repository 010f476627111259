"""What an operator does to a queue in Redis, and to the tasks in it, from whatever machine."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..broker import Withdrawal
from ..inspector import Control
from .calls import Arguments
from .inspection import found_by


class Acts:
    """These moves of a RedisBroker."""

    @abstractmethod
    def key(self, queue: str) -> str:
        """Return the key of the queue's list."""

    @abstractmethod
    async def script(self, name: str, queue: str, arguments: Callable[[], Arguments], *, deadline: float) -> Any:
        """Carry out one script on a queue."""

    @abstractmethod
    async def command(self, name: str, *arguments: str | bytes | int, deadline: float) -> Any:
        """Carry out one plain command."""

    async def control(self, queue: str, changes: Mapping[Control, int | None], *, deadline: float) -> None:
        """See Broker."""
        flat = [value for name, number in changes.items() for value in (name, "" if number is None else number)]
        await self.script("control", queue, lambda: flat, deadline=deadline)

    async def withdraw(
        self, queue: str, ids: Sequence[str], word: Withdrawal, *, actor: str, force: bool, deadline: float
    ) -> list[str]:
        """See Broker."""
        arguments = (word, int(force), actor, *ids)
        return [
            answer.decode() for answer in await self.script("withdraw", queue, lambda: arguments, deadline=deadline)
        ]

    async def hasten(self, queue: str, ids: Sequence[str], *, actor: str, deadline: float) -> int:
        """See Broker."""
        return int(await self.script("hasten", queue, lambda: (actor, *ids), deadline=deadline))

    async def restart(self, queue: str, ids: Sequence[str], *, actor: str, deadline: float) -> int:
        """See Broker."""
        return int(await self.script("restart", queue, lambda: (actor, *ids), deadline=deadline))

    async def purge(self, queue: str, *, most: int, deadline: float) -> int:
        """See Broker."""
        return int(await self.script("purge", queue, lambda: (most,), deadline=deadline))

    async def reset(self, queue: str, *, deadline: float) -> None:
        """See Broker."""
        emptied = False
        while not emptied:
            emptied = await self.script("reset", queue, lambda: (), deadline=deadline) == b"OK"
            await self._remove_rest(queue, deadline=deadline)

    async def _remove_rest(self, queue: str, *, deadline: float) -> None:
        """Remove what a reset leaves: the logs of its tasks, and their places among those of owner, label and route."""
        key, cursor = self.key(queue), b""
        while cursor != b"0":
            cursor, fields = await self.command(
                "HSCAN", f"{key}:emptied", cursor or 0, "COUNT", 1000, deadline=deadline
            )
            logs = [b"%s:log:%s" % (key.encode(), task_id) for task_id in fields[::2]]
            if logs:
                await self.command("UNLINK", *logs, deadline=deadline)
            for index, ids in found_by(key, zip(fields[::2], fields[1::2], strict=True)).items():
                await self.command("ZREM", index, *ids, deadline=deadline)
        await self.command("UNLINK", f"{key}:emptied", deadline=deadline)
