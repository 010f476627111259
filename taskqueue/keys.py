"""The sub-keys of one secret, and the list of secrets a process accepts.

One secret per application; every purpose gets a key of its own by HKDF-SHA256 (RFC 5869), so that no signature can be
passed off as a seal. Rotation: append the new secret, deploy; put it first, deploy; drop the old one after the longest
record has expired.
"""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .errors import ConfigError

MINIMUM_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class SubKeys:
    """The keys derived from one secret: ``key_id`` (8 hex digits) is public, the rest (32 bytes each) is not."""

    key_id: str
    seal: bytes = field(repr=False)
    sign: bytes = field(repr=False)
    receipt: bytes = field(repr=False)
    index: bytes = field(repr=False)


def derive(secret: str) -> SubKeys:
    """Take one secret (32 bytes or more) and return its sub-keys; raise ConfigError if it is too short or too plain."""
    if not isinstance(secret, str):
        raise ConfigError(f"secret: str is needed, not {type(secret).__name__}; make one with: taskqueue secret")
    material = secret.encode("utf-8", "surrogateescape")  # a variable may hold any bytes
    if len(material) < MINIMUM_SECRET_BYTES or len(set(material)) < 8:
        raise ConfigError(
            f"secret: {MINIMUM_SECRET_BYTES} bytes or more of random text are needed, this one has {len(material)}"
            f" with {len(set(material))} different ones; make one with: taskqueue secret"
        )

    def sub_key(purpose: str) -> bytes:
        return HKDF(SHA256(), 32, salt=b"http-taskqueue-1", info=purpose.encode()).derive(material)

    key_id = hashlib.sha256(sub_key("id")).hexdigest()[:8]
    return SubKeys(key_id, sub_key("seal"), sub_key("sign"), sub_key("receipt"), sub_key("index"))


def owner_index(keys: SubKeys, user_id: str) -> str:
    """Return what a store knows a user by: 66 bits of an HMAC, which tell nobody without the secret who it is."""
    return b64encode(mac_sha256(keys.index, user_id.encode())[:9], altchars=b"-_").decode()[:11]


def mac_sha256(key: bytes, message: bytes) -> bytes:
    """Return the HMAC-SHA256 of a message (RFC 2104), 32 bytes."""
    mac = _begun(key).copy()
    mac.update(message)
    return mac.finalize()


# What hashes the key alone is done once a key: with it every code of ours would take twice as long.
@lru_cache(maxsize=64)
def _begun(key: bytes) -> HMAC:
    return HMAC(key, SHA256())


class Keyring:
    """The secrets a process accepts: the first seals and signs, all of them open and verify."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Take the secrets, the one to seal with first; raise ConfigError if there is none or one is too short."""
        if not secrets:
            raise ConfigError("secret: none is set; make one with: taskqueue secret, and set TASKQUEUE_SECRET")
        derived = [derive(secret) for secret in secrets]
        self.current = derived[0]
        self._keys = {keys.key_id: keys for keys in reversed(derived)}

    def find(self, key_id: str) -> SubKeys | None:
        """Return the sub-keys with this id, or None."""
        return self._keys.get(key_id)

    def all(self) -> Sequence[SubKeys]:
        """Return every accepted secret's sub-keys."""
        return tuple(self._keys.values())
