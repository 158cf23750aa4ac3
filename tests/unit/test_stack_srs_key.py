"""The key of postsrsd."""

from __future__ import annotations

import stat
from pathlib import Path

from stack.srs_key import ensure_srs_key


def test_a_key_is_made_once_and_for_root_only(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert ensure_srs_key(path)
    key = path.read_bytes()
    assert len(bytes.fromhex(key.decode().strip())) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not ensure_srs_key(path)
    assert path.read_bytes() == key


def test_every_device_has_its_own(tmp_path: Path) -> None:
    keys = set()
    for name in ("one", "two"):
        ensure_srs_key(tmp_path / name)
        keys.add((tmp_path / name).read_bytes())
    assert len(keys) == 2
