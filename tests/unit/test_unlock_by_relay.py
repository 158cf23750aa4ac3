"""Unlocking by the relay, part by part: Tang's keys on the relay, clevis at home, and the vault on the disk."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from firstboot.cipher import AES_XTS
from firstboot.costs import Costs
from firstboot.luks import Use
from firstboot.vault import Machine, Vault, relay_words
from home import boot_stage
from home.boot_stage import BootStageError
from model.control import ControlError
from model.unlock import UnlockKeys
from relay.unlock import UnlockFolder
from tests.unit.test_firstboot_luks import RECOVERY, Header2, a_container
from tests.unit.unlock_samples import JWK, some_unlock_keys


def test_the_key_unlocks_as_if_it_was_typed_and_no_other_does() -> None:
    luks = a_container(Header2())
    luks.add(RECOVERY, b"k" * 32, Use.RELAY, None)
    vault = Vault(Path("/dev/sda1"), Machine(AES_XTS, Costs(65536, 4, 1)), luks)
    assert vault.unlock(relay_words(b"k" * 32))
    assert not vault.unlock(relay_words(b"l" * 32))
    assert not vault.unlock("darkpipe-relay:zz")


def test_a_key_of_the_relay_whose_slot_is_gone_costs_no_guess_of_a_passphrase() -> None:
    """It comes every few seconds; each guess takes a slow device as long, and nobody else's is heard meanwhile."""
    header = Header2()
    vault = Vault(Path("/dev/sda1"), Machine(AES_XTS, Costs(65536, 4, 1)), a_container(header))
    calls = len(header.calls)
    assert not vault.unlock(relay_words(b"k" * 32))
    assert not [call for call in header.calls[calls:] if call[0] == "open"]
    assert not vault.unlock("wrong")
    assert [call for call in header.calls[calls:] if call[0] == "open"], "what a person types is tried"


def test_the_relay_keeps_tangs_keys_for_their_uses_and_forgets_them(tmp_path: Path) -> None:
    folder, keys = UnlockFolder(tmp_path), some_unlock_keys().for_relay()
    folder.put(keys)
    assert folder.read() == keys
    uses = [json.loads((folder.path / name).read_text())["key_ops"] for name in ("sign.jwk", "exchange.jwk")]
    assert uses == [["sign", "verify"], ["deriveKey"]]
    (folder.path / "unlock.json").write_text("torn")
    assert folder.read() is None, "home brings it again"
    folder.put(keys)
    folder.remove()
    folder.remove()
    assert not folder.path.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("peer", "short"),
        ("home6", "2001:db8::1"),
        ("relay6", "fd00::2"),
        ("home6", 'fd00::2 accept"'),
        ("sign", {**JWK, "alg": "ECMR"}),
        ("exchange", {"alg": "ECMR", "kty": "EC"}),
        ("sign", {**JWK, "alg": "ES512", "x": 7}),
        ("sign", "text"),
    ],
)
def test_keys_that_are_none_are_refused(name: str, value: object) -> None:
    plain = json.loads(some_unlock_keys().for_relay().to_json())
    assert UnlockKeys.of(plain).digest == some_unlock_keys().for_relay().digest
    with pytest.raises(ControlError):
        UnlockKeys.of({**plain, name: value})


def test_a_tang_that_never_answers_leaves_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again and again, and what waits for an answer would count against the service's tasks for ever."""
    (tool := tmp_path / "clevis").write_text(f"#!/bin/sh\n(sleep 60 & echo $! >{tmp_path}/pid; wait) | cat\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(boot_stage, "_TOOL_SECONDS", 0.3)
    with pytest.raises(BootStageError, match="clevis decrypt: no answer in 0 seconds"):
        boot_stage.decrypt("what was encrypted")
    waiting = Path("/proc") / (tmp_path / "pid").read_text().strip()
    end = time.monotonic() + 5
    while _runs(waiting) and time.monotonic() < end:
        time.sleep(0.02)
    assert not _runs(waiting)


def _runs(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_clevis_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tool := tmp_path / "clevis").write_text("#!/bin/sh\ncat\necho other keys >&2\nexit $#\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(BootStageError, match="clevis decrypt: other keys"):
        boot_stage.decrypt("what was encrypted")
    tool.write_text("#!/bin/sh\ncat\n")
    assert boot_stage.decrypt("what was encrypted") == b"what was encrypted"
    tool.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BootStageError, match="clevis decrypt: FileNotFoundError"):
        boot_stage.decrypt("what was encrypted")
