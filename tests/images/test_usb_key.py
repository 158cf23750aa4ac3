"""A disk that a key on a USB stick unlocks: made at the first start, used at the next, missed at the third.

Ten minutes on an emulated processor, therefore only when asked for:

    ./dev test images -- -k usb_key --encrypted-disk
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.conftest import SITE
from tests.images.locked import PASSPHRASE, SECONDS, Page, choose, confirm, make_stick, shown_fingerprint
from tests.images.machine import REPOSITORY, Machine

_UNLOCKED = "was unlocked by the key on a USB stick"


@pytest.fixture
def machine(request: pytest.FixtureRequest, scratch: Path, password_hash: str) -> Iterator[Machine]:
    """A device whose disk a stick is to unlock, and the stick; it is off."""
    if not request.config.getoption("--encrypted-disk"):
        pytest.skip("takes ten minutes: --encrypted-disk")
    site = scratch / "usb-key.yaml"
    site.write_text(SITE.format(hash=password_hash).replace("unlock: none", "unlock: usb-key"), encoding="utf-8")
    command = [str(REPOSITORY / "darkpipe"), "--yes", "build", str(site), "--output", str(scratch / "usb-key")]
    built = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=True)
    stick = scratch / "stick.img"
    make_stick(stick)
    machine = Machine(Path(built.stdout.splitlines()[-1]), scratch / "usb-key.img", usb_disks=(stick,))
    yield machine
    machine.cut_power()
    machine.disk.unlink(missing_ok=True)


def test_a_stick_unlocks_it_and_without_the_stick_the_page_does(machine: Machine) -> None:
    """The key comes to the stick, and nobody types; a key that was revoked and a stick that is away open nothing."""
    machine.boot()
    confirm(machine, choose(machine))
    told = ["The disk is made and unlocked", "Not done", "cannot use", "no key was put"]
    assert machine.expect(told, SECONDS) == 0
    machine.up()
    assert "policy usb-key" in machine.run("darkpipe disk status").output
    machine.off()
    _comes_up_alone(machine)
    # Another key takes the place of the first, which the test keeps.
    machine.lines("mkdir /run/s && mount -o ro /dev/sda /run/s && cp /run/s/darkpipe-*.key /run/old && umount /run/s")
    typed = f"echo '{PASSPHRASE}' | darkpipe disk change-policy"
    assert "no stick does" in machine.run(f"{typed} passphrase", SECONDS).output
    assert "The stick unlocks the disk" in machine.run(f"{typed} usb-key", SECONDS).output
    machine.lines("mount -o ro /dev/sda /run/s && ! cmp /run/s/darkpipe-*.key /run/old && umount /run/s && echo new")
    machine.off()
    stick, machine.usb_disks = machine.usb_disks, ()
    machine.boot()
    assert machine.expect(["the disk for the mail is locked", "login:"], SECONDS) == 0
    assert shown_fingerprint(machine)
    page = Page(machine.page)
    assert "The disk is locked" in page.get()
    page.post("/unlock", passphrase=PASSPHRASE)
    machine.up()
    assert _unlocked_by_stick(machine) == "0"
    machine.off()
    machine.usb_disks = stick
    _comes_up_alone(machine)


def _comes_up_alone(machine: Machine) -> None:
    machine.up()
    assert machine.run("systemctl is-system-running").output == "running"
    assert machine.lines("findmnt --noheadings --output SOURCE /data") == ["/dev/mapper/darkpipe-data"]
    assert _unlocked_by_stick(machine) == "1"


def _unlocked_by_stick(machine: Machine) -> str:
    return machine.run(f"journalctl --boot --unit=darkpipe-disk | grep --count --fixed-strings '{_UNLOCKED}'").output
