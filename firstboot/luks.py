"""LUKS2 on the data disk, by cryptsetup(8). Secrets reach it through files in memory, never on its command line.

Every slot has a token that says what it is for, so that a disk tells by itself how it is unlocked, whatever device it
is plugged into. The label is written last: a container that has it is finished.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

from firstboot.cipher import Cipher
from firstboot.costs import Costs, argon2id
from firstboot.luks_head import why_not_ours

MAPPED = Path("/dev/mapper/darkpipe-data")
"""The unlocked data disk."""

_WRONG_KEY, _NO_MEMORY = 2, 3
"""Exit statuses of cryptsetup(8)."""

_CHEAP_PASSES = 1000
_CHEAP = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", str(_CHEAP_PASSES))
"""For keys of 128 bits and more: trying them all is hopeless, however fast it goes."""
_MOST_SLOTS = 32
"""Of one container (LUKS2 On-Disk Format 1.1.1, §3.2)."""


class LuksError(Exception):
    """cryptsetup failed; the text says how."""


class _TooLittleMemoryError(LuksError):
    """Whether the key is right, nobody can tell on this device."""


class Use(StrEnum):
    """What a slot is for: the type of its token."""

    PASSPHRASE = "darkpipe-passphrase"
    RECOVERY = "darkpipe-recovery"
    USB_KEY = "darkpipe-usb-key"
    RELAY = "darkpipe-relay"
    TPM2 = "darkpipe-tpm2"


_TYPED = (Use.PASSPHRASE, Use.RECOVERY)


@dataclass(frozen=True)
class Token:
    """What a header keeps beside its slots: about which of them it is, and what else is in it."""

    number: int
    slots: tuple[int, ...]
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Slot:
    """A key that opens the disk; `use` is None when it was not made by DarkPipe."""

    number: int
    use: Use | None


Tool = Callable[[Sequence[str], Sequence[bytes]], "subprocess.CompletedProcess[str]"]
"""Runs cryptsetup: arguments, in which `{0}`, `{1}` … stand for files with the secrets that follow."""


def cryptsetup(arguments: Sequence[str], secrets: Sequence[bytes] = ()) -> subprocess.CompletedProcess[str]:
    """Run the tool; each secret is a file in memory that only it can open."""
    with ExitStack() as stack:
        descriptors = [stack.enter_context(_in_memory(secret)) for secret in secrets]
        paths = {f"{{{place}}}": f"/dev/fd/{descriptor}" for place, descriptor in enumerate(descriptors)}
        command = ["cryptsetup", "--batch-mode", *(paths.get(argument, argument) for argument in arguments)]
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            pass_fds=descriptors,
        )


@contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield descriptor
    finally:
        os.close(descriptor)


class Luks:
    """The container on one partition."""

    def __init__(self, partition: Path, tool: Tool = cryptsetup) -> None:
        self.partition = partition
        self._tool = tool

    def format(self, uuid: UUID, cipher: Cipher, key: bytes, use: Use) -> None:
        """Make the container anew, opened by a key that nobody can guess; all that the partition holds is lost.

        Raises:
            LuksError: it cannot be made.
        """
        kind = ("--type", "luks2", "--cipher", cipher.specification, "--key-size", str(cipher.key_bits))
        rest = ("--sector-size", str(cipher.sector_bytes), "--uuid", str(uuid), "--key-slot", "0")
        device = ("--key-file", "{0}", str(self.partition))
        self._run(("luksFormat", *kind, *rest, *_CHEAP, *device), (key,))
        self._name(0, use)

    def add(self, known: bytes, new: bytes, use: Use, costs: Costs | None) -> Slot:
        """Add a key, and say what it is for.

        Args:
            known: a key that opens the container.
            new: another one.
            costs: None for a key that nobody can guess.

        Raises:
            LuksError: it cannot be added, for instance because `known` is wrong; nothing was changed.
        """
        number = self.add_unnamed(known, new, costs)
        try:
            self._name(number, use)
        except LuksError:
            with suppress(LuksError):
                self._run(("luksKillSlot", str(self.partition), str(number)))
            raise
        return Slot(number, use)

    def add_unnamed(self, known: bytes, new: bytes, costs: Costs | None) -> int:
        """Add a key, and leave it to the caller to say what its slot is for, by a token; gives the slot's number.

        Raises:
            LuksError: it cannot be added, for instance because `known` is wrong.
        """
        free = set(range(_MOST_SLOTS)) - {slot.number for slot in self.slots()}
        if not free:
            raise LuksError(f"the disk has {_MOST_SLOTS} keys, and room for no more: revoke one (darkpipe disk revoke)")
        number = min(free)
        stretch = argon2id(costs) if costs else _CHEAP
        options = ("--new-key-slot", str(number), *stretch, "--key-file", "{0}")
        self._run(("luksAddKey", *options, str(self.partition), "{1}"), (known, new))
        return number

    def remove(self, number: int) -> None:
        """Destroy a slot, and then what says what it was for.

        The other way round a cut would leave a key that opens the disk and that nothing names any more.

        Raises:
            LuksError: it cannot be destroyed.
        """
        names = {token: named["keyslots"] for token, named in self._metadata()["tokens"].items()}
        self._run(("luksKillSlot", str(self.partition), str(number)))
        for token, slots in names.items():
            if slots == [str(number)]:
                self._run(("token", "remove", "--token-id", token, str(self.partition)))

    def half_made(self) -> tuple[int, ...]:
        """List the slots that a power cut has left without a name, of keys that a device has made and nobody types.

        They are told by what a guess costs: cryptsetup(8) makes no slot by itself that is so cheap.

        Raises:
            LuksError: the header cannot be read.
        """
        slots, stretched = self.slots(), self._metadata()["keyslots"]
        if all(slot.use is not Use.RECOVERY for slot in slots):
            return ()  # one of them may be the recovery secret's
        nameless = [slot.number for slot in slots if slot.use is None]
        return tuple(one for one in nameless if stretched[str(one)]["kdf"].get("iterations") == _CHEAP_PASSES)

    def tokens(self, use: Use) -> tuple[Token, ...]:
        """List the tokens of a use.

        Raises:
            LuksError: the header cannot be read.
        """
        found = sorted((int(number), token) for number, token in self._metadata()["tokens"].items())
        return tuple(_token(number, token) for number, token in found if token["type"] == use)

    def keep_token(self, use: Use, slots: Sequence[int], fields: Mapping[str, Any], replaced: Token | None) -> None:
        """Write a token, in place of another one; after a power cut there is either of the two.

        Raises:
            LuksError: it cannot be written.
        """
        token = json.dumps({"type": use, "keyslots": [str(slot) for slot in slots], **fields}).encode()
        place = ("--token-id", str(replaced.number), "--token-replace") if replaced else ()
        self._run(("token", "import", *place, "--json-file", "{0}", str(self.partition)), (token,))

    def remove_token(self, token: Token) -> None:
        """Destroy the slots that a token is about, and then the token; what a person has written down or knows stays.

        Raises:
            LuksError: they cannot be destroyed.
        """
        for slot in self.slots():
            if slot.number in token.slots and slot.use not in _TYPED:
                self._run(("luksKillSlot", str(self.partition), str(slot.number)))
        self._run(("token", "remove", "--token-id", str(token.number), str(self.partition)))

    def why_not_ours(self) -> str | None:
        """Say what in the head no DarkPipe makes (`firstboot/luks_head.py`); None when there is nothing.

        Raises:
            LuksError: the header cannot be read.
        """
        return why_not_ours(self._metadata())

    def describe(self) -> dict[str, Any]:
        """Tell what no other container has in common with this one: how it is encrypted, and the key's digest.

        Adding and removing keys does not change it.

        Raises:
            LuksError: the header cannot be read.
        """
        metadata = self._metadata()
        digests = {
            number: {name: value for name, value in digest.items() if name != "keyslots"}
            for number, digest in metadata["digests"].items()
        }
        return {"segments": metadata["segments"], "digests": digests}

    def volume_key(self, known: bytes) -> bytes:
        """Give the key of the data, which whoever cannot open the container has not.

        Raises:
            LuksError: `known` opens nothing, or it cannot be read.
        """
        found = self._run(("luksDump", "--dump-volume-key", "--key-file", "{0}", str(self.partition)), (known,))
        if not (digits := re.search(r"^MK dump:((?:\s+[0-9a-f]{2})+)\s*\Z", found, re.MULTILINE)):
            raise LuksError("cryptsetup luksDump tells no key")
        return bytes.fromhex(digits[1])

    def name_unnamed(self, key: bytes, use: Use) -> Slot | None:
        """Say what a key's slot is for, if a power cut came before that; None when the key opens no such slot.

        Raises:
            LuksError: nobody can tell.
        """
        for slot in self.slots():
            if slot.use is None and self.fits_slot(key, slot.number):
                self._name(slot.number, use)
                return Slot(slot.number, use)
        return None

    def slots(self) -> tuple[Slot, ...]:
        """List the keys that open the container.

        Of a slot with several names, which DarkPipe does not make, that of what people type counts: else whoever adds
        one to the passphrase's slot would have it destroyed with what it names, or nobody's passphrase tried.

        Raises:
            LuksError: the header cannot be read.
        """
        metadata = self._metadata()
        known = {str(use): use for use in Use}
        found = [token for token in metadata["tokens"].values() if token["type"] in known]
        tokens = sorted(found, key=lambda token: token["type"] in _TYPED)
        uses = {slot: known[token["type"]] for token in tokens for slot in token["keyslots"]}
        return tuple(Slot(int(number), uses.get(number)) for number in sorted(metadata["keyslots"], key=int))

    def salts(self) -> dict[int, str]:
        """Give each slot's salt, which is random and goes with its key.

        Raises:
            LuksError: the header cannot be read.
        """
        return {int(number): str(slot["kdf"]["salt"]) for number, slot in self._metadata()["keyslots"].items()}

    def fits(self, key: bytes, use: Use) -> bool:
        """Tell whether a key opens one of the slots for a use; nothing is opened.

        Raises:
            LuksError: nobody can tell.
        """
        return self._one_of(use, lambda slot: self.fits_slot(key, slot))

    def fits_slot(self, key: bytes, slot: int) -> bool:
        """Tell whether a key opens this very slot; nothing is opened.

        Raises:
            LuksError: nobody can tell.
        """
        return self._try(("--test-passphrase",), key, slot)

    def open(self, key: bytes, use: Use, name: str = MAPPED.name) -> bool:
        """Unlock the container as `/dev/mapper/<name>`; False when the key is wrong.

        Raises:
            LuksError: the key is right or unknown to be wrong, and something else failed.
        """
        return self._one_of(use, lambda slot: self._try((), key, slot, name))

    def _one_of(self, use: Use, attempt: Callable[[int], bool]) -> bool:
        # A slot that somebody has made by hand is taken for a passphrase.
        uses = {use, None} if use is Use.PASSPHRASE else {use}
        short: LuksError | None = None
        for slot in self.slots():
            try:
                if slot.use in uses and attempt(slot.number):
                    return True
            except _TooLittleMemoryError as error:  # another one may take less
                short = error
        if short:
            raise short
        return False

    def _try(self, options: Sequence[str], key: bytes, slot: int, *name: str) -> bool:
        # The kernel's keyring would keep the key where other processes of root find it.
        options = ("--type", "luks2", "--disable-keyring", "--key-slot", str(slot), "--key-file", "{0}", *options)
        done = self._tool(("open", *options, str(self.partition), *name), (key,))
        if done.returncode == _WRONG_KEY:
            return False
        if done.returncode == _NO_MEMORY:
            raise _TooLittleMemoryError("this device has not enough memory to unlock the disk; use the recovery secret")
        if done.returncode != 0:
            raise LuksError(f"the disk cannot be unlocked: {done.stderr.strip()}")
        return True

    def finish(self, label: str) -> None:
        """Give it the label by which it is found, as the last step of making it.

        Raises:
            LuksError: it cannot be written.
        """
        self._run(("config", "--label", label, str(self.partition)))

    def backup(self, file: Path) -> None:
        """Copy the header to a new file.

        Raises:
            LuksError: it cannot be copied.
        """
        self._run(("luksHeaderBackup", "--header-backup-file", str(file), str(self.partition)))

    def _name(self, slot: int, use: Use) -> None:
        token = json.dumps({"type": use, "keyslots": [str(slot)]}).encode()
        self._run(("token", "import", "--json-file", "{0}", str(self.partition)), (token,))

    def _metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._run(("luksDump", "--dump-json-metadata", str(self.partition))))
        return found

    def _run(self, arguments: Sequence[str], secrets: Sequence[bytes] = ()) -> str:
        done = self._tool(arguments, secrets)
        if done.returncode != 0:
            # Its arguments hold no secret: these are in files.
            raise LuksError(f"cryptsetup {arguments[0]} failed on {self.partition}: {done.stderr.strip()}")
        return done.stdout


def mapped_partition(mapped: Path = MAPPED, block_devices: Path = Path("/sys/class/block")) -> Path:
    """Find the partition that the unlocked disk lies on.

    Raises:
        LuksError: it is locked.
    """
    partitions = sorted((block_devices / mapped.resolve().name / "slaves").glob("*"))
    if len(partitions) != 1:
        raise LuksError("the disk for the mail is locked: unlock it first (darkpipe disk unlock)")
    return Path("/dev") / partitions[0].name


def close(name: str = MAPPED.name, tool: Tool = cryptsetup) -> None:
    """Lock it again; doing so twice does nothing.

    Raises:
        LuksError: it is in use.
    """
    if (MAPPED.parent / name).exists():
        done = tool(("close", name), ())
        if done.returncode != 0:
            raise LuksError(f"{name} cannot be locked: {done.stderr.strip()}")


def _token(number: int, token: dict[str, Any]) -> Token:
    fields = {name: value for name, value in token.items() if name not in {"type", "keyslots"}}
    return Token(number, tuple(map(int, token["keyslots"])), fields)
