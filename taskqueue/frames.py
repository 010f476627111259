"""Sealing what is too large to be held in memory: a stream in frames, each opened before anything of it is given away.

Layout: version byte, key id (4 bytes), salt (16 bytes), then frames of AES-256-GCM (NIST SP 800-38D), each over 64 KiB
but the last. The nonce of a frame is its number and whether it is the last, so none can be changed, left out, repeated
or moved, and nothing cut off or appended (Hoang, Reyhanitabar, Rogaway, Vizar: STREAM, 2015). The key is derived from
what the stream belongs to and the salt, so that no two streams share one.
"""

import hmac
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .errors import StorageError
from .keys import Keyring, SubKeys

VERSION: Final = 1
SALT_BYTES: Final = 16
FRAME_BYTES: Final = 64 * 1024
_TAG: Final = 16
_HEAD: Final = 1 + 4 + SALT_BYTES


def sealed(keyring: Keyring, context: bytes, pieces: Iterable[bytes], *, salt: bytes) -> Iterator[bytes]:
    """Take a stream, what it belongs to, and 16 random bytes; yield it sealed with the first secret.

    Raises ValueError for a salt of another size, OverflowError above 256 TiB.
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"salt: {SALT_BYTES} bytes are needed, not {len(salt)}")
    keys = keyring.current
    head = b"".join((bytes((VERSION,)), bytes.fromhex(keys.key_id), salt))
    cipher = _cipher(keys, context, salt)
    yield head
    number, waiting = 0, bytearray()
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), FRAME_BYTES):
            waiting += view[start : start + FRAME_BYTES]
            if len(waiting) > FRAME_BYTES:  # not the last one then
                yield cipher.encrypt(_nonce(number, last=False), bytes(waiting[:FRAME_BYTES]), head)
                number += 1
                del waiting[:FRAME_BYTES]
    yield cipher.encrypt(_nonce(number, last=True), bytes(waiting), head)


def opened(keyring: Keyring, context: bytes, read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Take what gives the next bytes of a sealed stream, fewer only at its end; yield what was sealed.

    Raises StorageError for one that was changed, cut short, belongs to something else, or whose secret is not known.
    """
    head = read(_HEAD)
    keys = keyring.find(head[1:5].hex())
    if len(head) < _HEAD or head[0] != VERSION:
        raise StorageError("it is no sealed file of this release")
    if keys is None:
        raise StorageError(f"it was sealed with key {head[1:5].hex()}, which is none of this process's secrets")
    cipher = _cipher(keys, context, head[5:])
    number, frame = 0, read(FRAME_BYTES + _TAG)
    while True:
        following = read(FRAME_BYTES + _TAG)
        try:
            piece = cipher.decrypt(_nonce(number, last=not following), frame, head)
        except (InvalidTag, ValueError):
            raise StorageError("it was changed or cut short, or belongs to another task or name") from None
        yield piece
        if not following:
            return
        number, frame = number + 1, following


def _cipher(keys: SubKeys, context: bytes, salt: bytes) -> AESGCM:
    return AESGCM(hmac.digest(keys.seal, b"taskqueue file\0%s\0%s" % (context, salt), "sha256"))


def _nonce(number: int, *, last: bool) -> bytes:
    return bytes(7) + number.to_bytes(4) + bytes((last,))
