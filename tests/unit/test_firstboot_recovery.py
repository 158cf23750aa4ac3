"""The recovery secret: how it is written and read back, and what derives from it."""

from __future__ import annotations

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstboot.bech32 import encode
from firstboot.recovery import (
    GROUPS,
    Purpose,
    RecoveryError,
    RecoverySecret,
    ask_for,
    is_typed_back,
    make_secret,
    parse_secret,
)

_SECRET = RecoverySecret(bytes(range(16)))
_SECRETS = st.binary(min_size=16, max_size=16).map(RecoverySecret)


@given(_SECRETS)
def test_what_is_written_is_read(secret: RecoverySecret) -> None:
    assert len(secret.groups) == GROUPS
    assert parse_secret(str(secret)) == secret
    assert parse_secret(f" {' '.join(secret.groups).lower().replace('0', 'o').replace('1', 'l')}\n") == secret


@given(_SECRETS, st.integers(0, 31), st.sampled_from("0123456789ABCDEFGHJKMNPQRSTVWXYZ"))
def test_no_wrong_character_is_overlooked(secret: RecoverySecret, place: int, character: str) -> None:
    text = "".join(secret.groups)
    changed = text[:place] + character + text[place + 1 :]
    if changed != text:
        with pytest.raises(RecoveryError, match="checksum"):
            parse_secret(changed)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "0 characters"),
        (str(_SECRET)[:-1], "31 characters"),
        ("U" + str(_SECRET)[1:], "a character that no"),
        ("correct horse battery staple", "25 characters"),
    ],
)
def test_what_is_no_secret_is_refused_without_being_repeated(text: str, complaint: str) -> None:
    with pytest.raises(RecoveryError, match=complaint) as raised:
        parse_secret(text)
    assert not text or text not in str(raised.value)


def test_its_groups_do_not_change() -> None:
    """Secrets that people have written down must be read for ever."""
    assert str(_SECRET) == "000G-40R4-0M30-E209-185G-R38E-1WPM-QJB4"


def test_what_derives_from_it_does_not_change() -> None:
    """HKDF-SHA256 by another hand (openssl kdf -kdfopt digest:SHA256 -kdfopt hexkey:… -kdfopt info:… HKDF)."""
    assert {purpose: _SECRET.derive(purpose).hex()[:16] for purpose in Purpose} == {
        Purpose.DISK: "cc912fbb11fd0642",
        Purpose.QUEUE: "754dba98654b1e52",
        Purpose.BACKUP: "316df91d106d0a40",
    }


@given(_SECRETS)
def test_age_knows_the_identity(secret: RecoverySecret) -> None:
    identity = pyrage.x25519.Identity.from_str(secret.identity)
    assert str(identity.to_public()) == secret.recipient
    sealed = pyrage.encrypt(b"letter", [pyrage.x25519.Recipient.from_str(secret.recipient)])
    assert pyrage.decrypt(sealed, [identity]) == b"letter"


def test_bech32_of_its_specification() -> None:
    """BIP 173, "Test vectors": an empty data part, and that of 20 bytes in an address without its version."""
    assert encode("a", b"") == "a12uel5l"
    assert encode("abcdef", bytes.fromhex("00443214c74254b635cf84653a56d7c675be77df")).startswith(
        "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    )


def test_it_does_not_show_in_what_python_prints() -> None:
    assert _SECRET.groups[0] not in repr(_SECRET)
    assert make_secret() != make_secret()


def test_groups_are_typed_back() -> None:
    asked = ask_for()
    assert len(set(asked)) == 2
    assert set(asked) <= set(range(1, GROUPS + 1))
    assert is_typed_back(_SECRET, (2, 7), [" 4or4", "1wpm"])
    assert not is_typed_back(_SECRET, (2, 7), ["1WPM", "40R4"])
    assert not is_typed_back(_SECRET, (2, 7), ["40R4"])
