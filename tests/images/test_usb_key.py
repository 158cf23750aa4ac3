"""A disk that a key on a USB stick unlocks: made at the first start, used at the next, missed at the third.

Ten minutes on an emulated processor, therefore only when asked for:

    ./dev test images -- -k usb_key --encrypted-disk
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.site import UnlockPolicy
from tests.images.locked import (
    PASSPHRASE,
    SECONDS,
    Page,
    choose,
    confirm,
    encrypted_image,
    make_stick,
    shown_fingerprint,
)
from tests.images.machine import Machine

_THERE = "the disk for the mail is there"
_UNLOCKED = "was unlocked by the key on a USB stick"


@pytest.fixture
def machine(request: pytest.FixtureRequest, scratch: Path, password_hash: str) -> Iterator[Machine]:
    """A device whose disk a stick is to unlock, and the stick; it is off."""
    image = encrypted_image(request, scratch, password_hash, UnlockPolicy.USB_KEY)
    stick = scratch / "stick.img"
    make_stick(stick)
    machine = Machine(image, scratch / "usb-key.img", usb_disks=(stick,))
    yield machine
    machine.cut_power()
    machine.disk.unlink(missing_ok=True)


def test_a_stick_unlocks_it_and_without_the_stick_the_page_does(machine: Machine) -> None:
    """The key comes to the stick, and another in its place; without it the page unlocks, with it nobody types."""
    (stick,) = machine.usb_disks
    machine.boot()
    confirm(machine, choose(machine))
    told = ["The disk is made and unlocked", "Not done", "cannot use", "no key was put"]
    assert machine.expect(told, SECONDS) == 0
    first = _keys(stick)
    assert len(first) == 1
    machine.shell()
    status = machine.run("darkpipe disk status", SECONDS).output
    assert "policy usb-key" in status
    assert "plugged in now" in status
    typed = f"echo '{PASSPHRASE}' | darkpipe disk change-policy"
    assert "nothing else does" in machine.run(f"{typed} passphrase", SECONDS).output
    assert "The stick unlocks the disk" in machine.run(f"{typed} usb-key", SECONDS).output
    machine.lines("sync && echo done")
    machine.cut_power()
    second = _keys(stick)
    assert second - first, "a new key, not the one that was revoked"
    machine.usb_disks = ()
    machine.boot()
    assert machine.expect(["the disk for the mail is locked", "login:", _THERE], SECONDS) == 0
    shown = shown_fingerprint(machine)
    page = Page(machine.page)
    assert page.fingerprint == shown
    assert "The disk is locked" in page.get()
    page.post("/unlock", passphrase=PASSPHRASE)
    assert machine.expect([_THERE, "cannot use"], SECONDS) == 0
    machine.cut_power()
    machine.usb_disks = (stick,)
    machine.boot()
    assert machine.expect([_THERE, "cannot use"], SECONDS) == 0
    machine.shell()
    assert machine.lines(f"journalctl --boot --unit=darkpipe-disk | grep --fixed-strings '{_UNLOCKED}'")
    assert machine.lines("findmnt --noheadings --output SOURCE /data") == ["/dev/mapper/darkpipe-data"]
    key = (second - first).pop()
    assert machine.run(f"journalctl --no-pager | grep --count --fixed-strings -- '{key}'").output == "0"


def _keys(stick: Path) -> set[str]:
    """All that looks like a key on a stick, whether a file still has it or not."""
    return {found.decode() for found in re.findall(rb"[0-9a-f]{64}(?=\n)", stick.read_bytes())}
