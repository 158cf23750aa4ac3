"""A device with an encrypted disk: made on the console, cut off, unlocked on the page, and read by a thief.

A quarter of an hour on an emulated processor, therefore only when asked for:

    ./dev test images -- -k encrypted_disk --encrypted-disk
    ./dev test images -- -k encrypted_disk --encrypted-disk --home-profile raspberrypi
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.greeting import greets
from builder.sums import read_manifest
from tests.images.conftest import PASSWORD, SITE
from tests.images.locked import PASSPHRASE, SECONDS, Page, choose, confirm, shown_fingerprint
from tests.images.machine import REPOSITORY, Machine, words_in
from tests.mail import fetch, mailbox, swaks

_CANARY = "ZQ7-canary-of-the-letter-ZQ7"
_NAMES = {"example.com": "zq7-house.example", "example.org": "zq7-club.example", "alice": "zq7anna", "bob": "zq7ben"}
"""Names that stand nowhere in the system itself, whose own examples name the others."""
_USER = "zq7anna@zq7-house.example"
_DATA_ON_X64 = 8 * 2**30 + 2**20
"""Where data begins: behind ESP, roots and state (docs/architecture.md), and the table's MiB."""
_DATA_ON_PI = 8
"""The number of data's partition, which the image has already."""
_TORN = 16 * 2**20 + 65536 + 4096 - 512
"""Where the last sector of btrfs's superblock lies in data: behind the 16 MiB that cryptsetup's header usually has."""


@pytest.fixture(scope="module")
def machine(request: pytest.FixtureRequest, scratch: Path, password_hash: str) -> Iterator[Machine]:
    """A device whose disk is to be encrypted; it is off."""
    if not request.config.getoption("--encrypted-disk"):
        pytest.skip("takes a quarter of an hour: --encrypted-disk")
    site = scratch / "encrypted.yaml"
    text = SITE.format(hash=password_hash).replace("unlock: none", "unlock: passphrase")
    for known, own in _NAMES.items():
        text = text.replace(known, own)
    site.write_text(text, encoding="utf-8")
    command = [str(REPOSITORY / "darkpipe"), "--yes", "build", str(site), "--output", str(scratch / "encrypted")]
    command += ["--profile", request.config.getoption("--home-profile")]
    built = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=True)
    machine = Machine(Path(built.stdout.splitlines()[-1]), scratch / "encrypted.img")
    yield machine
    machine.cut_power()
    machine.disk.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def recovery(machine: Machine) -> str:
    """The recovery secret of the device, which has made its disk and has got a letter."""
    machine.boot()
    confirm(machine, choose(machine))
    assert machine.expect(["unlocking it, as at every later start", "Not done", "cannot use"], SECONDS) == 0
    machine.cut_power()  # the container is there, and has no file system: the next start begins again
    machine.boot()
    secret = choose(machine)
    confirm(machine, secret)
    assert machine.expect(["The disk is made and unlocked", "Not done", "cannot use"], SECONDS) == 0
    machine.up()
    return secret


def test_a_disk_is_made_on_the_console(machine: Machine, recovery: str, tmp_path: Path) -> None:
    """LUKS2 with btrfs in it; the services come up as on any device; the secret is known to be the right one."""
    assert machine.run("systemctl is-system-running").output == "running"
    assert machine.lines("findmnt --noheadings --output SOURCE,FSTYPE /data") == ["/dev/mapper/darkpipe-data btrfs"]
    (partition,) = machine.lines("cryptsetup status darkpipe-data | sed --quiet 's/^ *device: *//p'")
    dump = machine.run(f"cryptsetup luksDump {partition}").output
    assert "xchacha12,aes-adiantum-plain64" in dump or "aes-xts-plain64" in dump
    assert re.search(r"Label:\s+darkpipe-data", dump)
    assert "argon2id" in dump
    assert machine.lines("cat /data/queue-keys/recovery.pub")[0].startswith("age1")
    assert machine.run(f"journalctl --no-pager | grep --count --fixed-strings -- '{recovery}'").output == "0"
    checked = machine.run(f"echo {recovery.lower()} | darkpipe recovery check", SECONDS)
    assert "This is the recovery secret of this disk" in checked.output
    wrong = "0000-" * 7 + "0000"
    assert "checksum" in machine.run(f"echo {wrong} | darkpipe recovery check").output
    machine.wait_for_mail_services()
    message = tmp_path / "message"
    message.write_text(f"From: carol@example.net\nSubject: sealed\n\n{_CANARY}\n", encoding="utf-8")
    assert swaks(machine.smtp, "carol@example.net", _USER, message).returncode == 0
    with mailbox(machine.imaps, _USER, PASSWORD) as box:
        assert _CANARY.encode() in fetch(box, "sealed")
    assert machine.run(f"journalctl --no-pager | grep --count --fixed-strings -- '{PASSPHRASE}'").output == "0"


def test_a_thief_reads_nothing(machine: Machine, recovery: str, password_hash: str) -> None:
    """The whole disk, switched off: no mail, no address, no key, no password; what is planted outside is found."""
    backup_key = machine.lines("cat /data/recovery/backup.key")[0]
    tls_key = machine.lines("sed -n 2p /data/tls/mail.pem")[0]
    secrets = [_CANARY, *_NAMES.values(), PASSPHRASE, recovery, PASSWORD, password_hash, backup_key, tls_key]
    assert all(len(secret) > 5 for secret in secrets)
    machine.lines("echo planted-for-the-thief > /state/planted && sync && echo done")
    machine.off()
    assert words_in(machine.disk, [*secrets, "planted-for-the-thief"]) == {"planted-for-the-thief"}


def test_it_is_unlocked_on_the_page(machine: Machine, recovery: str) -> None:
    """Locked: the page, and nothing else. Then everything comes up without another start; also after a torn write, and
    on a larger disk."""
    assert recovery
    _tear(machine)
    os.truncate(machine.disk, 18 * 10**9)
    machine.boot()
    assert machine.expect(["the disk for the mail is locked", "login:"], SECONDS) == 0
    shown = shown_fingerprint(machine)
    page = Page(machine.page)
    assert page.fingerprint == shown
    assert "The disk is locked" in page.get()
    assert not greets(machine.smtp, 25)
    assert not greets(machine.imaps, 993)
    machine.type("")  # a login, which is a shell here
    machine.shell()
    assert machine.lines("systemctl --failed --no-legend") == []
    assert machine.run("findmnt /data").status == 1
    assert "neither the passphrase" in page.post("/unlock", passphrase="a wrong passphrase")
    page.post("/unlock", passphrase=PASSPHRASE)
    machine.up()
    assert machine.run("systemctl is-system-running").output == "running"
    assert machine.lines("systemctl --failed --no-legend") == []
    machine.wait_for_mail_services()
    with mailbox(machine.imaps, _USER, PASSWORD) as box:
        assert _CANARY.encode() in fetch(box, "sealed")
    assert machine.lines("journalctl --boot --unit=darkpipe-disk | grep 'torn by a power cut, and is mended'")
    assert int(machine.lines("findmnt --bytes --noheadings --output SIZE /data")[0]) > 9 * 10**9
    ended = "for i in $(seq 60); do systemctl is-active -q darkpipe-page || break; sleep 1; done"
    assert machine.run(f"{ended}; systemctl is-active darkpipe-page.service").output.strip() == "inactive"


def _tear(machine: Machine) -> None:
    """Change one sector of btrfs's superblock, as a power cut between two of them leaves it."""
    rows = read_manifest(machine.folder)["partitions"]
    data = next((row["start"] for row in rows if row["number"] == _DATA_ON_PI), _DATA_ON_X64)
    with machine.disk.open("r+b") as file:
        file.seek(data + _TORN)
        file.write(b"before".ljust(512, b"\0"))
