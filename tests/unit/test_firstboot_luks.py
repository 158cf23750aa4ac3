"""What cryptsetup is asked for; that it does it, the images tier shows (containers have no device mapper)."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from firstboot.cipher import ADIANTUM, AES_XTS
from firstboot.costs import Costs, choose_costs
from firstboot.luks import Luks, LuksError, Slot, Use, cryptsetup

_UUID = UUID(int=7)
_COSTS = Costs(65536, 4, 2)


CONTAINER = UUID(int=7)
PASSPHRASE, RECOVERY = b"eleven quiet geese", b"recovery"
"""What opens `a_container`."""


VOLUME_KEY = "LUKS header information\nMK bits:       \t32\nMK dump:\t0a 0b \n\t\t0c 0d \n"


class Header2:
    """A cryptsetup(8) with one container, which knows slots, tokens and keys."""

    def __init__(self) -> None:
        self.slots: dict[int, bytes] = {}
        self.cheap: set[int] = set()
        self.full = False
        self.tokens: dict[str, dict[str, Any]] = {}
        self.calls: list[Sequence[str]] = []

    def __call__(self, arguments: Sequence[str], secrets: Sequence[bytes]) -> subprocess.CompletedProcess[str]:
        self.calls.append(arguments)
        words, status, out = list(arguments), 0, ""
        match words[0]:
            case "luksFormat":
                self.slots = {0: secrets[0]}
            case "luksAddKey":
                status = self._add(words, *secrets)
            case "luksKillSlot":
                del self.slots[int(words[-1])]
                for token in self.tokens.values():
                    token["keyslots"] = [slot for slot in token["keyslots"] if slot != words[-1]]
            case "token" if words[1] == "import":
                place = words[words.index("--token-id") + 1] if "--token-replace" in words else str(len(self.calls))
                self.tokens[place] = json.loads(secrets[0])
            case "token":
                del self.tokens[words[words.index("--token-id") + 1]]
            case "luksHeaderBackup":
                status = int(self.full)
                Path(words[words.index("--header-backup-file") + 1]).write_bytes(b"he" if self.full else b"head")
            case "luksDump":
                status = 2 if secrets and secrets[0] not in self.slots.values() else 0
                out = VOLUME_KEY if secrets else json.dumps({"keyslots": self._keyslots(), "tokens": self.tokens})
            case "open":
                status = 0 if self.slots[int(words[words.index("--key-slot") + 1])] == secrets[0] else 2
        return subprocess.CompletedProcess(words, status, out, "what went wrong")

    def _add(self, words: Sequence[str], known: bytes, new: bytes) -> int:
        if known not in self.slots.values():
            return 2
        number = int(words[words.index("--new-key-slot") + 1])
        self.slots[number] = new
        (self.cheap.add if "pbkdf2" in words else self.cheap.discard)(number)
        return 0

    def _keyslots(self) -> dict[str, Any]:
        cheap, dear = {"type": "pbkdf2", "iterations": 1000}, {"type": "argon2id", "time": 4}
        kinds = {slot: cheap if slot in self.cheap else dear for slot in self.slots}
        return {str(slot): {"kdf": {**kind, "salt": self._salt(slot)}} for slot, kind in kinds.items()}

    def _salt(self, slot: int) -> str:
        # Each key has another one, wherever it is.
        return hashlib.sha256(self.slots[slot]).hexdigest()


def a_container(header: Header2) -> Luks:
    """Give a container with a passphrase and a recovery secret, by its header."""
    made = Luks(Path("/dev/sda1"), header)
    made.format(CONTAINER, AES_XTS, RECOVERY, Use.RECOVERY)
    made.add(RECOVERY, PASSPHRASE, Use.PASSPHRASE, Costs(65536, 4, 1))
    return made


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


def test_a_cut_while_a_key_is_removed_leaves_none_without_a_name(header: Header2, luks: Luks) -> None:
    """It would open the disk, and nobody would be told any more whose it is."""
    luks.add(b"recovery", b"of the stick", Use.USB_KEY, None)
    calls = len(header.calls)
    luks.remove(2)
    changes = [call[0] for call in header.calls[calls:] if call[0] != "luksDump"]
    assert changes == ["luksKillSlot", "token"], "a cut between the two leaves a name of nothing"


def test_what_a_cut_has_left_is_told_from_a_passphrase(header: Header2, luks: Luks) -> None:
    assert luks.half_made() == ()
    stick = luks.add_unnamed(b"recovery", b"of the stick", None)
    typed = luks.add_unnamed(b"recovery", b"by hand", _COSTS)
    assert [slot.number for slot in luks.slots() if slot.use is None] == [stick, typed]
    assert luks.half_made() == (stick,)
    name = next(number for number, token in header.tokens.items() if token["type"] == Use.RECOVERY)
    taken = header.tokens.pop(name)
    assert luks.half_made() == (), "whoever takes its name away does not have the recovery secret destroyed"
    header.tokens[name] = taken
    assert luks.name_unnamed(b"of the stick", Use.USB_KEY) == Slot(stick, Use.USB_KEY)
    assert luks.half_made() == ()


def test_a_key_that_gets_no_name_does_not_stay(header: Header2, luks: Luks) -> None:
    """The head has no room for one: the slot would open the disk, and the command says that it has failed."""

    def narrow(words: Sequence[str], secrets: Sequence[bytes]) -> subprocess.CompletedProcess[str]:
        if words[:2] == ("token", "import"):
            return subprocess.CompletedProcess(words, 1, "", "Failed to import token from file.")
        return header(words, secrets)

    here = Luks(luks.partition, narrow)
    with pytest.raises(LuksError, match=r"token failed .* import token"):
        here.add(b"recovery", b"of a stick", Use.USB_KEY, None)
    assert luks.slots() == (Slot(0, Use.RECOVERY), Slot(1, Use.PASSPHRASE))


def test_a_full_head_is_told(header: Header2, luks: Luks) -> None:
    header.slots |= dict.fromkeys(range(32), b"another")
    with pytest.raises(LuksError, match=r"32 keys.*revoke"):
        luks.add(b"another", b"new", Use.PASSPHRASE, _COSTS)


def test_the_volume_key_is_had_by_who_can_open_it(luks: Luks, header: Header2) -> None:
    assert luks.volume_key(b"passphrase") == bytes.fromhex("0a0b0c0d")
    assert "passphrase" not in header.calls[-1]
    with pytest.raises(LuksError, match="luksDump failed"):
        luks.volume_key(b"wrong")
    with pytest.raises(LuksError, match="tells no key"):
        Luks(luks.partition, lambda words, _: subprocess.CompletedProcess(words, 0, "0a 0b", "")).volume_key(b"")


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


def test_secrets_reach_the_tool_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "cryptsetup"
    tool.write_text('#!/bin/sh\nprintf "%s " "$@"; cat "$2" "$3"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    done = cryptsetup(("{0}", "{1}"), (b"one", b"two"))
    assert done.stdout.startswith("--batch-mode /dev/fd/")
    assert done.stdout.endswith(" onetwo")
    assert "one" not in " ".join(done.args)
    tool.write_text('#!/bin/sh\nprintf "%s " "$@"\n')
    for name in ("/root/{0}.header", "/root/{.header", "/root/{own}"):
        assert cryptsetup(("luksHeaderBackup", name), (b"one",)).stdout == f"--batch-mode luksHeaderBackup {name} "


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


@pytest.mark.parametrize("order", ["0", "99"])
def test_a_token_that_somebody_planted_costs_nobody_a_slot(header: Header2, luks: Luks, order: str) -> None:
    """A token's slots go with it: one about the passphrase and the recovery secret would leave no key at all."""
    header.tokens |= {order: {"type": "darkpipe-tpm2", "keyslots": ["0", "1"]}}
    assert luks.slots() == (Slot(0, Use.RECOVERY), Slot(1, Use.PASSPHRASE)), "a second name takes no first one away"
    assert luks.open(b"passphrase", Use.PASSPHRASE)
    (planted,) = luks.tokens(Use.TPM2)
    luks.remove_token(planted)
    assert luks.tokens(Use.TPM2) == ()
    assert luks.slots() == (Slot(0, Use.RECOVERY), Slot(1, Use.PASSPHRASE))


def test_a_slot_that_takes_too_much_memory_keeps_no_other_from_being_tried(header: Header2, luks: Luks) -> None:
    """A disk was made on a larger device, and a passphrase added on this one."""
    luks.add(b"recovery", b"of this device", Use.PASSPHRASE, _COSTS)

    def small(words: Sequence[str], secrets: Sequence[bytes]) -> subprocess.CompletedProcess[str]:
        done = header(words, secrets)
        if words[0] == "open" and words[words.index("--key-slot") + 1] == "1":
            return subprocess.CompletedProcess(words, 3, "", "Not enough available memory to open a keyslot.")
        return done

    here = Luks(luks.partition, small)
    assert here.fits(b"of this device", Use.PASSPHRASE)
    assert here.open(b"of this device", Use.PASSPHRASE)
    for typed in (b"passphrase", b"wrong"):
        with pytest.raises(LuksError, match="not enough memory to unlock the disk; use the recovery secret"):
            here.open(typed, Use.PASSPHRASE)
