"""Sealing: a task at rest can be neither read nor changed, swapped or renamed by whoever can only write to the store.

Layout of a record: version byte, key id (4 bytes), nonce (12 bytes), AES-256-GCM of the task's msgpack with queue and
id as associated data (NIST SP 800-38D). The key is derived per record, so that random nonces cannot collide however
many tasks one secret seals.
"""

from typing import Final

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .errors import RecordError
from .fast_init import by_place
from .keys import Keyring, SubKeys, mac_sha256, owner_index
from .task import CHILD, CHOSEN_SHIFT, MASTER, Response, SealedTask, Task

VERSION: Final = 1
NONCE_BYTES: Final = 12
_HEAD: Final = 1 + 4 + NONCE_BYTES
_VERSION: Final = bytes((VERSION,))
_sealed: Final = by_place(SealedTask)


def _cipher(keys: SubKeys, context: bytes) -> AESGCM:
    return AESGCM(mac_sha256(keys.seal, context))


def _context(queue: str, task_id: str) -> bytes:
    # Neither a queue's name nor an id may hold a NUL, so two pairs cannot give one context.
    return f"{queue}\0{task_id}".encode()


def seal(keyring: Keyring, task: Task, *, nonce: bytes) -> SealedTask:
    """Take a task and 12 random bytes; return it as a broker stores it, sealed with the first secret.

    Raises ValueError for a nonce of another size, which nothing could open again.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"nonce: {NONCE_BYTES} bytes are needed, not {len(nonce)}")
    keys = keyring.current
    context = _context(task.queue, task.id)
    sealed = _cipher(keys, context).encrypt(nonce, task.encode(), context)
    record = b"".join((_VERSION, bytes.fromhex(keys.key_id), nonce, sealed))
    owner = "" if task.user_id is None else owner_index(keys, task.user_id)
    flags = (CHILD if task.child else 0) + (MASTER if task.master_status else 0) + (task.chosen << CHOSEN_SHIFT)
    return _sealed(
        task.id, task.queue, record, task.due, task.method, task.path, task.label, task.priority, owner, task.route,
        task.parent, flags,
    )  # fmt: skip


def seal_note(keyring: Keyring, queue: str, task_id: str, field: str, raw: bytes, *, nonce: bytes) -> bytes:
    """Take what is to be kept in a task's log under this name, and 12 random bytes; return it sealed."""
    keys = keyring.current
    context = _context(queue, task_id) + b"\0" + field.encode()
    return b"".join((_VERSION, bytes.fromhex(keys.key_id), nonce, _cipher(keys, context).encrypt(nonce, raw, context)))


def unseal_note(keyring: Keyring, queue: str, task_id: str, field: str, sealed: bytes) -> bytes | None:
    """Return what was kept; None if none of this process's secrets opens it, or it was altered."""
    keys = keyring.find(sealed[1:5].hex())
    if len(sealed) < _HEAD or keys is None or sealed[0] != VERSION:
        return None
    context = _context(queue, task_id) + b"\0" + field.encode()
    try:
        return _cipher(keys, context).decrypt(sealed[5:_HEAD], sealed[_HEAD:], context)
    except InvalidTag:
        return None


def seal_response(keyring: Keyring, queue: str, task_id: str, response: Response, *, nonce: bytes) -> bytes:
    """Take the last response to a task and 12 random bytes; return it sealed, to be kept beside the task."""
    fields: tuple[object, ...] = (response.status, response.headers, response.content)
    if response.size > len(response.content):
        fields += (response.kept, response.size)
    raw = msgpack.packb(fields)
    return seal_note(keyring, queue, task_id, "response", raw, nonce=nonce)


def unseal_response(keyring: Keyring, queue: str, task_id: str, sealed: bytes) -> Response | None:
    """Return a kept response; None if none of this process's secrets opens it, or it was altered."""
    raw = unseal_note(keyring, queue, task_id, "response", sealed)
    if raw is None:
        return None
    return Response(*msgpack.unpackb(raw, use_list=False))


def unseal(keyring: Keyring, *, queue: str, task_id: str, record: bytes) -> Task:
    """Return the task in a record of this queue and id.

    Raises RecordError with reason ``version`` (made by a newer release), ``key`` (sealed with a secret this process has
    not), ``seal`` (changed, or not made with this secret) or ``format`` (too short, or not a task inside).
    """
    if len(record) < _HEAD:
        raise RecordError("format", f"task {task_id}: the record has {len(record)} bytes, too few for a seal")
    if record[0] != VERSION:
        raise RecordError("version", f"task {task_id}: record version {record[0]}; this release reads {VERSION}")
    keys = keyring.find(record[1:5].hex())
    if keys is None:
        raise RecordError(
            "key", f"task {task_id}: sealed with key {record[1:5].hex()}, which is none of this process's secrets"
        )
    context = _context(queue, task_id)
    try:
        raw = _cipher(keys, context).decrypt(record[5:_HEAD], record[_HEAD:], context)
    except InvalidTag:
        raise RecordError("seal", f"task {task_id}: the record was changed, or moved from another task") from None
    return Task.decode(task_id, queue, raw)
