"""What sealing, signing and packing cost one by one, for the task of ``work``: microseconds, the best of some runs."""

import os
import time
import timeit
from collections.abc import Callable

from taskqueue.keys import Keyring
from taskqueue.replay import Delivery, request_headers
from taskqueue.seal import NONCE_BYTES, seal, unseal
from taskqueue.signature import check_body, sign, verify
from taskqueue.task import Task

from . import work

HOST = "127.0.0.1:8000"


def micro(calls: int) -> dict[str, float]:
    """Call each so often, five times; return microseconds a call."""
    keyring, now = Keyring([work.SECRET]), time.time()
    task = _task(round(now * 1000))
    sealed, raw = seal(keyring, task, nonce=bytes(NONCE_BYTES)), task.encode()
    delivery = Delivery(task=task, delivery=1, attempt=1, max_attempts=11, timeout=600.0)

    def signed() -> list[tuple[str, str]]:
        host, headers = request_headers(delivery, HOST, now=now)
        return headers + sign(
            keyring.current,
            method=task.method,
            authority=host,
            target=task.target,
            headers=headers,
            body=task.body,
            created=int(now),
            nonce="0123456789abcdef0123",
        )

    sent = signed()

    def verified() -> None:
        proof = verify(keyring, method="POST", authority=HOST, targets=[task.target], headers=sent, now=now)
        check_body(proof, task.body)

    figures = {
        "seal": _best(lambda: seal(keyring, task, nonce=os.urandom(NONCE_BYTES)), calls),
        "open": _best(lambda: unseal(keyring, queue="default", task_id=task.id, record=sealed.record), calls),
        "sign": _best(signed, calls),
        "verify": _best(verified, calls),
        "pack": _best(task.encode, calls),
        "unpack": _best(lambda: Task.decode(task.id, "default", raw), calls),
    }
    return figures | {"all": sum(figures[name] for name in ("seal", "open", "sign", "verify"))}


def _task(now: int) -> Task:
    return Task(
        id="0b5c1a52-6f0e-4d1a-9a53-0f4b1f4c7a11",
        queue="default",
        method="POST",
        target=work.PATH,
        headers=tuple((name.lower(), value) for name, value in work.HEADERS.items()),
        body=work.BODY,
        created=now,
        expires=now + 3_600_000,
    )


def _best(call: Callable[[], object], calls: int) -> float:
    return min(timeit.repeat(call, number=calls, repeat=5)) / calls * 1e6
