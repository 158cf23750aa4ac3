"""A disk that the TPM unlocks: sealed when somebody types, open at the next start, and shut for a foreign system.

Twenty minutes on an emulated processor, therefore only when asked for:

    ./dev test images -- -k tpm --encrypted-disk
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.site import UnlockPolicy
from tests.images.locked import PASSPHRASE, SECONDS, choose, confirm, encrypted_image
from tests.images.machine import Machine

_THERE = "the disk for the mail is there"
_SHUT = "the TPM does not unlock"
_UNLOCKED = "was unlocked by the TPM"
_STATE = 7 * 2**30 + 2**20
"""Where `state` begins: behind ESP, roots and the table's MiB (docs/architecture.md)."""

_UNSEAL = """
import sys
sys.path.insert(0, '/usr/lib/darkpipe')
from firstboot.luks import Luks, Use, mapped_partition
from firstboot.tpm import Sealer, TpmError
for token in Luks(mapped_partition()).tokens(Use.TPM2):
    try:
        print('given', len(Sealer().unseal(token.fields['sealed'])))
    except TpmError as error:
        print('refused', error)
"""


@pytest.fixture
def machine(request: pytest.FixtureRequest, scratch: Path, password_hash: str) -> Iterator[Machine]:
    """A device with a TPM that is to unlock its disk; it is off."""
    image = encrypted_image(request, scratch, password_hash, UnlockPolicy.TPM2)
    chip = scratch / "tpm-state"
    chip.mkdir()
    machine = Machine(image, scratch / "tpm.img", tpm=chip)
    yield machine
    machine.cut_power()
    machine.disk.unlink(missing_ok=True)


def test_the_tpm_unlocks_it_for_this_system_and_for_no_other(machine: Machine) -> None:
    """Nobody types at the second start; a changed kernel image and changed settings find it shut; once typed, open."""
    machine.boot()
    confirm(machine, choose(machine))
    told = ["The disk is made and unlocked", "Not done", "cannot use", "no key was given"]
    assert machine.expect(told, SECONDS) == 0
    machine.shell()
    assert "policy tpm2" in machine.run("darkpipe disk status", SECONDS).output
    assert _measured(machine) == ["firmware", "settings", "disk", "closed"]
    assert _asked_for_the_key(machine) == ["refused"], "the disk is mounted: too late for everybody"
    # Until the seed is taken over it lies on the boot partition, and is measured at the next start.
    machine.up()
    machine.lines("sync && echo done")
    machine.cut_power()

    _opens_by_itself(machine)
    assert _asked_for_the_key(machine) == ["refused"]
    machine.off()

    genuine = machine.disk
    machine.disk = genuine.with_name("foreign.img")
    _copy(genuine, machine.disk)
    _change_kernel_image(machine.disk)
    assert "the boot loader or the kernel image" in _stays_shut(machine)
    machine.disk.unlink()

    machine.disk = genuine.with_name("stranger.img")
    _copy(genuine, machine.disk)
    _change_settings(machine.disk)
    assert "the device's settings" in _stays_shut(machine)
    machine.disk.unlink()

    machine.disk = genuine
    _opens_by_itself(machine)
    settings = "/state/settings.json"
    machine.lines(f'sed -i \'s/"hostname":null/"hostname":"attic"/\' {settings} && grep attic {settings}')
    machine.off()
    machine.boot()
    assert machine.expect([_SHUT, _THERE], SECONDS) == 0
    machine.expect(["Passphrase or recovery secret"], SECONDS)
    machine.type(PASSPHRASE)
    assert machine.expect([_THERE, "cannot use", "no key was given"], SECONDS) == 0
    machine.cut_power()
    _opens_by_itself(machine)


def _opens_by_itself(machine: Machine) -> None:
    machine.boot()
    found = machine.expect([_THERE, _SHUT, "Passphrase or recovery secret", "cannot use"], SECONDS)
    assert found == 0, machine.console_text()[-2000:]
    machine.shell()
    assert machine.lines(f"journalctl --boot --unit=darkpipe-disk | grep --fixed-strings '{_UNLOCKED}'")
    assert machine.lines("findmnt --noheadings --output SOURCE /data") == ["/dev/mapper/darkpipe-data"]


def _stays_shut(machine: Machine) -> str:
    """Boot it, see that it asks for a passphrase, and give what it says why."""
    machine.boot()
    assert machine.expect([_SHUT, _THERE], SECONDS) == 0
    machine.expect(["Passphrase or recovery secret"], SECONDS)
    text = machine.console_text().rpartition(_SHUT)[2]
    machine.cut_power()
    return " ".join(text.split())


def _measured(machine: Machine) -> list[str]:
    return [line.split()[0] for line in machine.lines("cat /run/darkpipe/measured")]


def _asked_for_the_key(machine: Machine) -> list[str]:
    """Ask the TPM as root would; what it says to each sealed key."""
    machine.lines(f"cat >/run/unseal.py <<'END'\n{_UNSEAL}END\necho written")
    return [line.split()[0] for line in machine.lines("python3 -I /run/unseal.py")]


def _copy(disk: Path, copy: Path) -> None:
    subprocess.run(["cp", "--sparse=always", str(disk), str(copy)], check=True)


def _change_kernel_image(disk: Path) -> None:
    """Make it another kernel image: one word of the command line in it has another value."""
    with disk.open("r+b") as file:
        head = file.read(2**30)
        place = head.index(b"loglevel=4", head.index(b"darkpipe.hash="))
        file.seek(place)
        file.write(b"loglevel=5")


def _change_settings(disk: Path) -> None:
    """Give it a login that it had not, as a thief would: `state` is a plain ext4."""
    partition = f"{disk}?offset={_STATE}"
    shown = _debugfs(partition, "cat settings.json")
    octets = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))
    key = f"ssh-ed25519 {base64.b64encode(octets).decode()} thief"
    settings = {**json.loads(shown), "ssh": True, "login": {"name": "thief", "keys": [key], "by_password": False}}
    changed = disk.with_name("settings.json")
    changed.write_text(json.dumps(settings))
    _debugfs(partition, "rm settings.json", writable=True)
    _debugfs(partition, f"write {changed} settings.json", writable=True)
    assert "thief" in _debugfs(partition, "cat settings.json")


def _debugfs(partition: str, request: str, *, writable: bool = False) -> str:
    command = ["/sbin/debugfs", *(["-w"] if writable else []), "-R", request, partition]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
