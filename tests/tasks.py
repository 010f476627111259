"""Tasks for tests: sealed with a secret that is no secret, or as a broker sees them, opaque."""

import itertools
import secrets
import time
from dataclasses import replace
from typing import Final

from taskqueue.keys import Keyring
from taskqueue.seal import NONCE_BYTES, seal
from taskqueue.task import SealedTask, Task

SECRET: Final = "tests-only-0123456789-abcdefghijklmnopqrstuvwxyz"
KEYRING: Final = Keyring([SECRET])
_numbers: Final = itertools.count(1)


def opaque(
    task_id: str = "", *, queue: str = "default", record: bytes = b"sealed", due: int = 0, **fields: object
) -> SealedTask:
    """Return a task as a broker sees it: bytes that it never looks into."""
    made = SealedTask(task_id or f"id-{next(_numbers)}", queue, record, due, "POST", "/path", "label")
    return replace(made, **fields)  # type: ignore[arg-type]


def opaque_tasks(count: int, *, queue: str = "default") -> list[SealedTask]:
    """Return that many tasks, in order."""
    return [opaque(queue=queue) for _ in range(count)]


def task(target: str = "/", method: str = "GET", **fields: object) -> Task:
    """Return a task that a consumer can run, of the queue ``default`` and without a user unless told."""
    now = time.time_ns() // 1_000_000
    made = Task(
        id=f"id-{next(_numbers)}", queue="default", method=method, target=target, created=now, expires=now + 3_600_000
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def sealed(made: Task) -> SealedTask:
    """Return the task as a broker stores it."""
    return seal(KEYRING, made, nonce=secrets.token_bytes(NONCE_BYTES))
