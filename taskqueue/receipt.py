"""The receipt on a response: the door's proof that a delivery came through it, as whom, and what it has reported.

Of a report the type stands in a header of its own, which the receipt covers: nobody between can add it, change it or
take it off.
"""

import hmac
from dataclasses import dataclass

from .fast_init import fast_init
from .keys import Keyring, SubKeys, mac_sha256
from .reporting import TYPES


@fast_init
@dataclass(frozen=True, slots=True)
class Receipt:
    """The door's word that it handled a delivery.

    ``logged_in``: whether it logged a user in; ``reported``: the type that counts for the task's report, if it made
    one.
    """

    logged_in: bool
    reported: str = ""


def receipt(keys: SubKeys, *, task_id: str, delivery: int, logged_in: bool, reported: str = "") -> str:
    """Return the value of X-Task-Receipt; ``reported`` is that of X-Task-Report, empty if there is none."""
    who = "user" if logged_in else "anonymous"
    # None of them can hold a NUL, so two receipts cannot share one message.
    told = f"{task_id}\0{delivery}\0{who}\0{reported}" if reported else f"{task_id}\0{delivery}\0{who}"
    mac = mac_sha256(keys.receipt, told.encode())
    return f"{keys.key_id}.{who}.{mac.hex()}"


def check_receipt(
    keyring: Keyring, value: str | None, *, task_id: str, delivery: int, reported: str | None = None
) -> Receipt | None:
    """Return the receipt for this delivery, or None if it is absent or was not made by a door that knows a secret.

    ``reported`` is X-Task-Report as it came, None if it did not.
    """
    keys = keyring.find(value[:8]) if value is not None else None
    if value is None or keys is None or reported not in (None, *TYPES):
        return None
    logged_in = value.startswith("user.", len(keys.key_id) + 1)
    expected = receipt(keys, task_id=task_id, delivery=delivery, logged_in=logged_in, reported=reported or "")
    genuine = hmac.compare_digest(expected.encode(), value.encode("ascii", "backslashreplace"))
    return Receipt(logged_in, reported or "") if genuine else None
