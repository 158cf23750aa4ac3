"""What cryptsetup is asked for; that it does it, the images tier shows (containers have no device mapper)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from firstboot.cipher import ADIANTUM, AES_XTS
from firstboot.luks import Costs, Header, Luks, LuksError, Slot, Use, choose_costs, cryptsetup, read_luks

_UUID = UUID(int=7)
_COSTS = Costs(65536, 4, 2)


class Header2:
    """A cryptsetup(8) with one container, which knows slots, tokens and keys."""

    def __init__(self) -> None:
        self.slots: dict[int, bytes] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.calls: list[Sequence[str]] = []

    def __call__(self, arguments: Sequence[str], secrets: Sequence[bytes]) -> subprocess.CompletedProcess[str]:
        self.calls.append(arguments)
        words, status, out = list(arguments), 0, ""
        match words[0]:
            case "luksFormat":
                self.slots = {0: secrets[0]}
            case "luksAddKey":
                known = secrets[0] in self.slots.values()
                status = 0 if known else 2
                if known:
                    self.slots[int(words[words.index("--new-key-slot") + 1])] = secrets[1]
            case "luksKillSlot":
                del self.slots[int(words[-1])]
                for token in self.tokens.values():
                    token["keyslots"] = [slot for slot in token["keyslots"] if slot != words[-1]]
            case "token" if words[1] == "import":
                place = words[words.index("--token-id") + 1] if "--token-replace" in words else str(len(self.calls))
                self.tokens[place] = json.loads(secrets[0])
            case "token":
                del self.tokens[words[words.index("--token-id") + 1]]
            case "luksDump":
                out = json.dumps({"keyslots": {str(slot): {} for slot in self.slots}, "tokens": self.tokens})
            case "open":
                status = 0 if self.slots[int(words[words.index("--key-slot") + 1])] == secrets[0] else 2
        return subprocess.CompletedProcess(words, status, out, "what went wrong")


@pytest.fixture
def header() -> Header2:
    """The container."""
    return Header2()


@pytest.fixture
def luks(header: Header2) -> Luks:
    """What asks for it."""
    made = Luks(Path("/dev/sda1"), header)
    made.format(_UUID, ADIANTUM, b"recovery", Use.RECOVERY)
    made.add(b"recovery", b"passphrase", Use.PASSPHRASE, _COSTS)
    return made


def test_the_container_is_made_as_it_is_told(header: Header2, luks: Luks) -> None:
    words = list(header.calls[0])
    for option, value in {
        "--type": "luks2",
        "--cipher": "xchacha12,aes-adiantum-plain64",
        "--key-size": "256",
        "--sector-size": "512",
        "--uuid": str(_UUID),
    }.items():
        assert words[words.index(option) + 1] == value
    assert "--label" not in words, "it comes last"
    argon2id = "--pbkdf argon2id --pbkdf-memory 65536 --pbkdf-force-iterations 4 --pbkdf-parallel 2"
    assert argon2id in " ".join(next(call for call in header.calls if call[0] == "luksAddKey"))
    luks.finish("darkpipe-data")
    assert list(header.calls[-1]) == ["config", "--label", "darkpipe-data", "/dev/sda1"]


def test_no_secret_is_an_argument(header: Header2, luks: Luks) -> None:
    luks.open(b"passphrase", Use.PASSPHRASE)
    assert not [word for call in header.calls for word in call if word in {"passphrase", "recovery"}]
    assert all("{0}" in call for call in header.calls if call[0] in {"luksFormat", "luksAddKey", "open"})


def test_each_key_opens_the_slots_for_its_use(header: Header2, luks: Luks) -> None:
    assert luks.slots() == (Slot(0, Use.RECOVERY), Slot(1, Use.PASSPHRASE))
    assert luks.open(b"passphrase", Use.PASSPHRASE)
    assert luks.open(b"recovery", Use.RECOVERY)
    assert not luks.open(b"recovery", Use.PASSPHRASE)
    assert not luks.fits(b"wrong", Use.PASSPHRASE)
    # A power cut came between a new slot and what says what it is for: it counts as a passphrase.
    header.slots[4] = b"by hand"
    assert luks.slots()[-1] == Slot(4, None)
    assert luks.fits(b"by hand", Use.PASSPHRASE)


def test_a_key_that_is_removed_opens_nothing(header: Header2, luks: Luks) -> None:
    assert luks.add(b"recovery", b"another", Use.PASSPHRASE, _COSTS) == Slot(2, Use.PASSPHRASE)
    luks.remove(1)
    assert luks.slots() == (Slot(0, Use.RECOVERY), Slot(2, Use.PASSPHRASE))
    assert not luks.fits(b"passphrase", Use.PASSPHRASE)
    assert luks.add(b"another", b"third", Use.PASSPHRASE, _COSTS).number == 1
    assert len(header.tokens) == 3


def test_what_fails_is_told(luks: Luks) -> None:
    with pytest.raises(LuksError, match="cryptsetup luksAddKey failed on /dev/sda1: what went wrong"):
        luks.add(b"wrong", b"new", Use.PASSPHRASE, _COSTS)


@pytest.mark.parametrize(
    ("memory", "processors", "expected"),
    [
        (0, 0, Costs(65536, 4, 1)),
        (1_000_000, 4, Costs(250_000, 4, 4)),
        (8_000_000, 16, Costs(524288, 4, 4)),
        (100_000, 2, Costs(65536, 4, 2)),
    ],
)
def test_the_costs_follow_the_memory_and_no_clock(memory: int, processors: int, expected: Costs) -> None:
    assert choose_costs(f"MemTotal:       {memory} kB\nMemFree: 1 kB\n", processors) == expected
    assert choose_costs("", 1) == Costs(65536, 4, 1)


def test_a_sector_that_is_torn_keeps_its_halves() -> None:
    """Adiantum's sectors are not larger than what a disk writes at once (`firstboot/superblock.py`)."""
    assert ADIANTUM.sector_bytes == 512
    assert "xts" in AES_XTS.specification


def _header(magic: bytes) -> bytes:
    block = bytearray(512)
    block[:8] = magic + b"\x00\x02"
    block[24:37] = b"darkpipe-data"
    block[168:204] = str(_UUID).encode()
    return bytes(block)


def test_a_container_is_known_by_either_header(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    whole = _header(b"LUKS\xba\xbe").ljust(16384, b"\0") + _header(b"SKUL\xba\xbe")
    expected = Header(_UUID, "darkpipe-data")
    for content in (whole, bytes(16384) + whole[16384:], whole[:16384]):
        disk.write_bytes(content)
        assert read_luks(disk) == expected
    for content in (b"", bytes(32768), whole[:6] + b"\x00\x01" + whole[8:16384], whole[:168] + bytes(344)):
        disk.write_bytes(content)
        assert read_luks(disk) is None
    assert read_luks(tmp_path / "missing") is None


def test_secrets_reach_the_tool_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "cryptsetup"
    tool.write_text('#!/bin/sh\nprintf "%s " "$@"; cat "$2" "$3"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    done = cryptsetup(("{0}", "{1}"), (b"one", b"two"))
    assert done.stdout.startswith("--batch-mode /dev/fd/")
    assert done.stdout.endswith(" onetwo")
    assert "one" not in " ".join(done.args)


def test_a_token_may_come_before_its_slot_and_goes_with_it(header: Header2, luks: Luks) -> None:
    luks.keep_token(Use.TPM2, (), {"sealed": "abc"}, None)
    (wish,) = luks.tokens(Use.TPM2)
    assert (wish.slots, wish.fields) == ((), {"sealed": "abc"})
    number = luks.add_unnamed(b"recovery", b"of the TPM", None)
    assert luks.slots()[-1] == Slot(number, None)
    luks.keep_token(Use.TPM2, (number,), wish.fields, wish)
    (token,) = luks.tokens(Use.TPM2)
    assert (token.number, token.slots) == (wish.number, (number,))
    assert luks.open(b"of the TPM", Use.TPM2)
    assert not luks.fits(b"of the TPM", Use.PASSPHRASE)
    luks.remove_token(token)
    assert luks.tokens(Use.TPM2) == ()
    assert luks.slots() == (Slot(0, Use.RECOVERY), Slot(1, Use.PASSPHRASE))
    kill, remove = [call for call in header.calls if call[0] != "luksDump"][-2:]
    assert (kill[0], remove[:2]) == ("luksKillSlot", ("token", "remove")), "a slot without its token would stay"
