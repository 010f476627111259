"""The task that follows from the end of another: ``on_success=`` and ``on_failure=`` of ``add``.

It is an ordinary task of the same user, queue and priority, queued by the very move that ends the first one. Its id is
made of that task's id and delivery, so that a repeat of the move makes no second one.
"""

import json
import os
import uuid
from dataclasses import replace
from typing import Final, Literal

from .keys import Keyring
from .seal import NONCE_BYTES, seal
from .task import SealedTask, Task, Verdict

# What a request says of its own body does not fit another one.
_OF_CONTENT: Final = "content-"
_NAMES: Final = uuid.UUID("8b2f3c1e-0c55-5d0e-9f43-6a1f0d6f2f57")
_STATES: Final = {"on_success": "completed", "on_failure": "failed"}


def following(
    keyring: Keyring, task: Task, delivery: int, verdict: Verdict, end: Literal["on_success", "on_failure"], *, now: int
) -> SealedTask | None:
    """Return the task that follows if this delivery ends the task so, sealed; None if none was asked for.

    It is a POST with a JSON body: ``task`` (the id), ``queue``, ``method``, ``path``, ``label``, ``state``, ``status``
    and ``reason``. ``now`` is in ms since 1970. For a task that completed and whose children are still to end,
    ``on_failure`` too is asked for: then the reason is that of the children.
    """
    target = task.on_success if end == "on_success" else task.on_failure
    if not target:
        return None
    waited = end == "on_failure" and verdict.kind == "complete"
    told = {
        "task": task.id,
        "queue": task.queue,
        "method": task.method,
        "path": task.path,
        "label": task.label,
        "state": _STATES[end],
        "status": verdict.status,
        "reason": "children" if waited else verdict.reason,
    }
    headers = [pair for pair in task.headers if not pair[0].startswith(_OF_CONTENT)]
    follower = replace(
        task,
        id=str(uuid.uuid5(_NAMES, f"{task.id} {delivery} {end}")),
        method="POST",
        target=target,
        headers=(*headers, ("content-type", "application/json")),
        body=json.dumps(told).encode(),
        created=now,
        expires=now + task.expires - task.created,
        due=0,
        timeout=None,
        retry_max_count=None,
        parent=task.id,
        route="",
        child=False,
        master_status=False,
        on_success="",
        on_failure="",
    )
    return seal(keyring, follower, nonce=os.urandom(NONCE_BYTES))
