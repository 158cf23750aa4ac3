"""Home's keys for what waits on the relay."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import pyrage
import pytest
from pyrage import x25519

from home.queue_keys import (
    IDENTITIES,
    RECOVERY,
    QueueKeyError,
    ensure_identity,
    read_identities,
    recipients,
)

_NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def _seal(text: bytes, keys: tuple[str, ...]) -> bytes:
    return pyrage.encrypt(text, [x25519.Recipient.from_str(key) for key in keys])


def test_a_key_is_made_once_and_for_nobody_else(tmp_path: Path) -> None:
    assert ensure_identity(tmp_path, _NOW)
    before = (tmp_path / IDENTITIES).read_text()
    assert stat.S_IMODE((tmp_path / IDENTITIES).stat().st_mode) == 0o600
    assert not ensure_identity(tmp_path)
    assert (tmp_path / IDENTITIES).read_text() == before
    assert before.startswith("# created: 2026-11-25T12:00:00+00:00\n# public key: age1")
    (key,) = recipients(tmp_path)
    assert pyrage.decrypt(_seal(b"letter", (key,)), list(read_identities(tmp_path / IDENTITIES))) == b"letter"


def test_the_relay_seals_to_the_key_on_top_and_all_of_them_open(tmp_path: Path) -> None:
    ensure_identity(tmp_path)
    old = recipients(tmp_path)
    path, other = tmp_path / IDENTITIES, x25519.Identity.generate()
    path.write_text(f"{other}\n{path.read_text()}")
    assert recipients(tmp_path) == (str(other.to_public()),)
    assert pyrage.decrypt(_seal(b"letter", old), list(read_identities(path))) == b"letter"


def test_the_recovery_key_opens_too(tmp_path: Path) -> None:
    ensure_identity(tmp_path)
    recovery = x25519.Identity.generate()
    (tmp_path / RECOVERY).write_text(f"{recovery.to_public()}\n")
    keys = recipients(tmp_path)
    assert keys[1:] == (str(recovery.to_public()),)
    assert pyrage.decrypt(_seal(b"letter", keys), [recovery]) == b"letter"


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"AGE-SECRET-KEY-1NONE\n", b"\xff\xfe", b"age1abc\n"])
def test_a_damaged_file_is_named_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / IDENTITIES
    path.write_bytes(content)
    for use in (ensure_identity, recipients):
        with pytest.raises(QueueKeyError, match=IDENTITIES):
            use(tmp_path)
    assert path.read_bytes() == content


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(QueueKeyError, match="missing"):
        recipients(tmp_path)


def test_a_damaged_recovery_key_is_named_and_a_secret_one_not_quoted(tmp_path: Path) -> None:
    ensure_identity(tmp_path)
    secret = str(x25519.Identity.generate())
    public = str(x25519.Identity.generate().to_public())
    for content in ("", secret, f"{public}\n{public}", public[:-1] + ("q" if public[-1] != "q" else "p")):
        (tmp_path / RECOVERY).write_text(content)
        with pytest.raises(QueueKeyError, match=RECOVERY) as refused:
            recipients(tmp_path)
        assert secret not in str(refused.value)
