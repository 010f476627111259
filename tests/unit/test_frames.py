"""Sealed streams: any size comes back as it was, and nothing that was changed comes back at all."""

import io
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskqueue.errors import StorageError
from taskqueue.frames import FRAME_BYTES, SALT_BYTES, opened, sealed
from taskqueue.keys import Keyring
from tests.tasks import KEYRING, SECRET

SALT = bytes(range(SALT_BYTES))
CONTEXT = b"default\0id-1\0a.csv"
HEAD = 5 + SALT_BYTES
FRAME = FRAME_BYTES + 16


def seal(data: bytes, *, keyring: Keyring = KEYRING) -> bytes:
    return b"".join(sealed(keyring, CONTEXT, [data], salt=SALT))


def unseal(raw: bytes, *, keyring: Keyring = KEYRING, context: bytes = CONTEXT) -> bytes:
    return b"".join(opened(keyring, context, io.BytesIO(raw).read))


@pytest.mark.parametrize("size", [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES, 200_000])
def test_any_size_comes_back(size: int) -> None:
    data = bytes(number % 251 for number in range(size))
    raw = seal(data)
    assert unseal(raw) == data
    assert len(raw) == HEAD + size + 16 * max(1, -(-size // FRAME_BYTES))


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2 * FRAME_BYTES), max_size=6))
def test_the_pieces_do_not_matter(sizes: list[int]) -> None:
    pieces = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    assert b"".join(sealed(KEYRING, CONTEXT, pieces, salt=SALT)) == seal(b"".join(pieces))


def test_what_is_given_away_was_proved_and_little_is_held() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(FRAME_BYTES)

    made = sealed(KEYRING, CONTEXT, endless(), salt=SALT)
    for number in range(100):
        next(made)
        assert taken <= number + 2


def test_every_changed_bit_is_noticed() -> None:
    raw = seal(b"a few bytes")
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1
        with pytest.raises(StorageError):
            unseal(bytes(changed))


def test_what_is_cut_short_or_made_longer_is_noticed() -> None:
    raw = seal(bytes(2 * FRAME_BYTES + 10))
    cuts = [*range(HEAD + 20), HEAD + FRAME - 1, HEAD + FRAME, HEAD + FRAME + 1, HEAD + 2 * FRAME, len(raw) - 1]
    for size in cuts:
        with pytest.raises(StorageError):
            unseal(raw[:size])
    for longer in (raw + b"x", raw + bytes(FRAME), raw + raw[HEAD:]):
        with pytest.raises(StorageError, match="changed or cut short"):
            unseal(longer)


def test_frames_cannot_be_moved_left_out_or_repeated() -> None:
    raw = seal(bytes(3 * FRAME_BYTES))
    head, one, two, three = raw[:HEAD], raw[HEAD : HEAD + FRAME], raw[HEAD + FRAME : HEAD + 2 * FRAME], raw[-FRAME:]
    assert unseal(head + one + two + three) == bytes(3 * FRAME_BYTES)
    for frames in ([two, one, three], [one, three], [one, two], [one, one, two, three], [three], []):
        with pytest.raises(StorageError, match="changed or cut short"):
            unseal(head + b"".join(frames))


def test_it_belongs_to_one_name_of_one_task() -> None:
    raw = seal(b"x")
    for context in (b"mail\0id-1\0a.csv", b"default\0id-2\0a.csv", b"default\0id-1\0b.csv"):
        with pytest.raises(StorageError, match="another task or name"):
            unseal(raw, context=context)


def test_all_secrets_open_and_an_unknown_one_is_named() -> None:
    newer = Keyring(["a newer secret, 0123456789-0123456789-abc", SECRET])
    assert unseal(seal(b"x"), keyring=newer) == b"x"
    with pytest.raises(StorageError, match=f"with key {newer.current.key_id}, which is none of"):
        unseal(seal(b"x", keyring=newer))


def test_two_streams_share_no_key() -> None:
    other = b"".join(sealed(KEYRING, CONTEXT, [b"x"], salt=bytes(SALT_BYTES)))
    assert seal(b"x")[HEAD:] != other[HEAD:]
    with pytest.raises(ValueError, match="salt: 16 bytes are needed, not 3"):
        next(sealed(KEYRING, CONTEXT, [], salt=b"abc"))
