"""Data on a USB disk; and, on another one, what a Raspberry Pi does with its card at the first start."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.archive import Archive
from builder.build import SOURCE
from builder.cache import Cache
from builder.disk import disk_size, place, table_script
from builder.greeting import greets
from builder.profile import load_profile
from builder.progress import Stages
from builder.root import Root
from builder.sandbox import remove_tree
from builder.tools import BUILD_TOOLS, open_tools
from tests.images.conftest import PASSWORD, SITE
from tests.images.machine import REPOSITORY, Machine
from tests.mail import fetch, mailbox, swaks

_CARD = "usb-card.img"
_PROFILE = load_profile(SOURCE / "profiles/raspberrypi")

_FIRST_START = f"""
import sys
sys.path.insert(0, "/usr/lib/darkpipe")
from pathlib import Path
from firstboot.disk import make_file_system, make_partitions
from firstboot.partitions import Disk
from model.layout import Layout
disk = Disk(Path(sys.argv[1]), Layout.model_validate_json('{_PROFILE.layout().model_dump_json()}'))
make_partitions(disk)
print(make_file_system(disk, "data"))
"""
"""What a Raspberry Pi does at its first start with the disk that it was started from, before it mounts anything."""


def _make_card(path: Path) -> None:
    """Write the partition table of a Raspberry Pi's image to a larger disk, whose partitions are empty."""
    cache = Cache(Cache.default().root, remove_tree)
    tools = open_tools(BUILD_TOOLS, cache, Archive.from_environment(), Stages())
    with cache.workspace() as folder:
        bare, script = folder / "bare.img", folder / "table"
        bare.touch()
        os.truncate(bare, disk_size(_PROFILE))
        script.write_text(table_script(_PROFILE, Root(Path("/nowhere"), "4f0c" * 16, 4096)))
        with script.open("rb") as stream:
            tools.run(["sfdisk", "--quiet", tools.inside(bare)], stdin=stream)
        subprocess.run(["cp", "--sparse=always", bare, path], check=True)
    os.truncate(path, 16 * 10**9)


@pytest.fixture(scope="module")
def machine(scratch: Path, password_hash: str) -> Iterator[Machine]:
    """A device that is to have its data on a USB disk; it is off. The second USB disk is not empty."""
    site = scratch / "usb.yaml"
    site.write_text(SITE.format(hash=password_hash).replace("none}", "none, data: usb}"), encoding="utf-8")
    command = [str(REPOSITORY / "darkpipe"), "--yes", "build", str(site), "--output", str(scratch / "usb")]
    built = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=True)
    empty, card = scratch / "usb-empty.img", scratch / _CARD
    empty.touch()
    os.truncate(empty, 10**10)
    _make_card(card)
    machine = Machine(Path(built.stdout.splitlines()[-1]), scratch / "usb-system.img", usb_disks=(empty, card))
    yield machine
    machine.cut_power()
    for path in (machine.disk, empty, card):
        path.unlink(missing_ok=True)


def _device(machine: Machine, disk: Path) -> str:
    """Find a USB disk in the machine: the kernel names them as they come."""
    serial = f"usb{machine.usb_disks.index(disk)}"
    rows = json.loads(machine.run("lsblk --json --nodeps --output PATH,SERIAL").output)["blockdevices"]
    return str(next(row["path"] for row in rows if row["serial"] == serial))


def test_data_on_a_usb_disk(machine: Machine, tmp_path: Path) -> None:
    """The empty disk is taken and the other left alone; a message on it is there again when the disk is, and without
    the disk the device waits and takes nothing."""
    empty, card = machine.usb_disks
    before = _table(card)
    machine.up()
    machine.wait_for_mail_services()
    assert machine.lines("systemctl --failed --no-legend") == []
    assert machine.lines("findmnt --noheadings --output SOURCE,FSTYPE /data") == [f"{_device(machine, empty)}1 btrfs"]
    assert greets(machine.smtp, 25)
    assert json.loads(machine.run("cat /state/data-disk.json").output)["place"] == "other"
    message = tmp_path / "message"
    message.write_text("From: carol@example.net\nSubject: to be kept\n\nkept\n", encoding="utf-8")
    assert swaks(machine.smtp, "carol@example.net", "alice@example.com", message).returncode == 0
    with mailbox(machine.imaps, "alice@example.com", PASSWORD) as box:
        fetch(box, "to be kept")
    machine.cut_power()
    assert _table(card) == before, "a foreign disk is not touched"

    machine.usb_disks = (card,)
    machine.boot()
    assert machine.expect(["DarkPipe waits: the disk with its data is missing", "login:"], timeout=300) == 0
    assert not greets(machine.smtp, 25)
    machine.cut_power()

    # As a power cut leaves btrfs's superblock between two of its sectors.
    with empty.open("r+b") as file:
        file.seek(2**20 + 65536 + 4096 - 512)
        file.write(b"before".ljust(512, b"\0"))
    machine.usb_disks = (card, empty)
    machine.up()
    machine.wait_for_mail_services()
    assert machine.lines("journalctl --boot --unit=darkpipe-disk | grep 'torn by a power cut, and is mended'")
    with mailbox(machine.imaps, "alice@example.com", PASSWORD) as box:
        assert b"kept" in fetch(box, "to be kept")


def test_the_same_system_on_two_disks(machine: Machine) -> None:
    """Which of them would be used was chance; now none is, and the console says what to do."""
    machine.cut_power()
    copy, before = machine.disk.with_suffix(".copy"), machine.usb_disks
    subprocess.run(["cp", "--sparse=always", machine.disk, copy], check=True)
    machine.usb_disks = (copy,)
    try:
        machine.boot()
        told = ["waiting for one disk only: this system is on more than one", "this very system is on /dev/", "login:"]
        assert machine.expect(told, timeout=300) < told.index("login:")
        assert not greets(machine.smtp, 25)
    finally:
        machine.cut_power()
        machine.usb_disks = before
        copy.unlink()


def test_a_raspberry_pis_card_is_filled(machine: Machine) -> None:
    """While another of its partitions is in use, the last one gets the rest of the disk; state and data are whole, and
    nothing is found of what an older image has left."""
    machine.up()
    card = _device(machine, next(path for path in machine.usb_disks if path.name == _CARD))
    start = next(row.start for row in place(_PROFILE) if row.partition.name == "data")
    machine.lines(f"mkfs.ext4 -q {card}5 && mount {card}5 /mnt && echo mounted")
    # btrfs has a copy of its superblock at 64 MiB, which is where the partition ends before it has grown.
    copy = f"bs=4k count=1 conv=notrunc skip=16384 seek={start // 4096 + 16384}"
    machine.lines(f"mkfs.btrfs --force --quiet {card}6 && dd if={card}6 of={card} {copy} && sync && echo copied")
    script = base64.b64encode(_FIRST_START.encode()).decode()
    machine.run(f"echo {script} | base64 --decode > /run/first-start.py")
    uuids = []
    for _ in range(2):  # the second time changes nothing
        assert machine.lines(f"python3 -I /run/first-start.py {card}")[-1] == f"{card}8"
        uuids.append(machine.lines(f"blkid --match-tag UUID --output value {card}7 {card}8"))
    assert uuids[0] == uuids[1]
    assert "No errors detected" in machine.run(f"sfdisk --verify {card}").output
    rows = json.loads(machine.run(f"lsblk --json --bytes --output PATH,SIZE,FSTYPE,LABEL {card}").output)
    found = {row["path"]: row for row in rows["blockdevices"]}
    assert start + found[f"{card}8"]["size"] == 16 * 10**9 // 2**20 * 2**20
    assert (found[f"{card}7"]["fstype"], found[f"{card}7"]["label"]) == ("ext4", "darkpipe-state")
    assert (found[f"{card}8"]["fstype"], found[f"{card}8"]["label"]) == ("btrfs", "darkpipe-data")
    assert machine.run(f"e2fsck -fn {card}7").status == 0
    assert machine.run(f"btrfs check {card}8").status == 0
    supers = machine.lines(f"btrfs inspect-internal dump-super --all --force {card}8 | grep ^fsid | sort -u")
    assert supers == [f"fsid\t\t\t{uuids[0][1]}"]


def _table(disk: Path) -> list[bytes]:
    """Read the partition table of a card, and the beginning of each partition."""
    starts = [
        0,
        *(row.start - 2**20 * (row.number > 4) for row in place(_PROFILE)),
        *(r.start for r in place(_PROFILE)),
    ]
    with disk.open("rb") as file:
        return [os.pread(file.fileno(), 2**20, start) for start in starts]
