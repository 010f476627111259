"""The receipt on a response: the door's proof that a delivery came through it, and as whom."""

import hmac
from dataclasses import dataclass

from .keys import Keyring, SubKeys, mac_sha256


@dataclass(frozen=True, slots=True)
class Receipt:
    """The door's word that it handled a delivery; ``logged_in``: whether it logged a user in."""

    logged_in: bool


def receipt(keys: SubKeys, *, task_id: str, delivery: int, logged_in: bool) -> str:
    """Return the value of X-Task-Receipt."""
    who = "user" if logged_in else "anonymous"
    # None of the three can hold a NUL, so two receipts cannot share one message.
    mac = mac_sha256(keys.receipt, f"{task_id}\0{delivery}\0{who}".encode())
    return f"{keys.key_id}.{who}.{mac.hex()}"


def check_receipt(keyring: Keyring, value: str | None, *, task_id: str, delivery: int) -> Receipt | None:
    """Return the receipt for this delivery, or None if it is absent or was not made by a door that knows a secret."""
    keys = keyring.find(value[:8]) if value is not None else None
    if value is None or keys is None:
        return None
    logged_in = value.startswith("user.", len(keys.key_id) + 1)
    expected = receipt(keys, task_id=task_id, delivery=delivery, logged_in=logged_in)
    genuine = hmac.compare_digest(expected.encode(), value.encode("ascii", "backslashreplace"))
    return Receipt(logged_in) if genuine else None
