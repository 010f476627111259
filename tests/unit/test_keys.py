"""One secret gives a key for each purpose, and shows none of them."""

import pytest

from taskqueue.errors import ConfigError
from taskqueue.keys import Keyring, derive

SECRET = "canary-0123456789-abcdefghijklmnopqrstuvwxyz"
OTHER = "another-0123456789-abcdefghijklmnopqrstuvwxyz"


def test_every_purpose_has_a_key_of_its_own() -> None:
    keys = derive(SECRET)
    made = {keys.seal, keys.sign, keys.receipt, keys.index}
    assert len(made) == 4
    assert {len(key) for key in made} == {32}


def test_the_keys_of_a_secret_are_always_the_same() -> None:
    assert derive(SECRET) == derive(SECRET)
    # What is stored was sealed with these: they may not change between releases.
    assert derive(SECRET).key_id == "24683559"
    assert derive(SECRET).seal.hex()[:16] == "d11116e9cb3017bf"


def test_two_secrets_share_nothing() -> None:
    one, other = derive(SECRET), derive(OTHER)
    assert one.key_id != other.key_id
    assert not {one.seal, one.sign, one.receipt, one.index} & {other.seal, other.sign, other.receipt, other.index}


def test_the_key_id_is_no_part_of_a_key() -> None:
    keys = derive(SECRET)
    assert len(keys.key_id) == 8
    assert not any(keys.key_id in key.hex() for key in (keys.seal, keys.sign, keys.receipt, keys.index))


@pytest.mark.parametrize("secret", ["", "short-0123456789-abcdefghijklmn", "x" * 64, "abcdefg" * 10])
def test_a_short_or_plain_secret_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Keyring([secret])
    message = str(caught.value)
    assert "32 bytes or more of random text" in message
    assert f"this one has {len(secret)} with {len(set(secret))} different ones" in message
    assert "taskqueue secret" in message
    assert not secret or secret not in message


def test_the_shortest_secret_has_32_bytes() -> None:
    assert derive(SECRET[:32]) != derive(SECRET)
    assert derive("ä" + SECRET[:30]) != derive(SECRET)  # bytes count, not characters
    with pytest.raises(ConfigError, match="has 31"):
        derive(SECRET[:31])


def test_a_secret_may_be_any_bytes_a_variable_can_hold() -> None:
    secret = (bytes(range(128, 160)) + b"01234567").decode("utf-8", "surrogateescape")
    assert derive(secret) != derive(SECRET)


@pytest.mark.parametrize("secret", [b"0123456789-abcdefghijklmnopqrstuvwxyz", None, 7])
def test_a_secret_that_is_no_text_is_refused(secret: object) -> None:
    with pytest.raises(ConfigError, match=f"secret: str is needed, not {type(secret).__name__}"):
        Keyring([secret])  # type: ignore[list-item]


def test_no_secret_at_all_is_told_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="none is set; make one with: taskqueue secret"):
        Keyring([])


def test_the_first_secret_is_the_current_one_and_all_are_found() -> None:
    keyring = Keyring([SECRET, OTHER, SECRET])
    assert keyring.current == derive(SECRET)
    assert keyring.find(derive(OTHER).key_id) == derive(OTHER)
    assert keyring.find("00000000") is None
    assert set(keyring.all()) == {derive(SECRET), derive(OTHER)}


def test_no_representation_shows_a_key() -> None:
    keyring = Keyring([SECRET])
    keys = keyring.current
    shown = f"{keyring!r} {keyring} {keys!r} {keys} {keyring.all()!r}"
    assert keys.key_id in shown
    assert "canary" not in shown
    for key in (keys.seal, keys.sign, keys.receipt, keys.index):
        assert repr(key)[2:-1] not in shown
        assert key.hex() not in shown
