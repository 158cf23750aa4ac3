"""The same image on other devices: a larger disk, no network, a power cut, a disk that grows."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.images.conftest import PASSWORD
from tests.images.machine import Machine
from tests.mail import fetch, mailbox, swaks


def _data_size(machine: Machine) -> float:
    rows = json.loads(machine.run("lsblk --json --list --bytes --output PARTLABEL,SIZE /dev/vda").output)
    sizes = {row["partlabel"]: row["size"] for row in rows["blockdevices"]}
    return float(sizes["darkpipe-data"])


def _file_system_size(machine: Machine) -> float:
    return float(machine.lines("df --block-size=1 --output=size /data")[-1])


def _identity(machine: Machine) -> list[str]:
    return machine.lines("cat /etc/machine-id && sha256sum < /data/tls/mail.pem && blkid -o value -s UUID /dev/vda5")


def _tear_superblock(disk: Path, partition: int) -> None:
    """Leave btrfs's superblock as a cut leaves it that comes before its last sector: with what was there before."""
    last_sector = partition + 65536 + 4096 - 512
    with disk.open("r+b") as file:
        file.seek(last_sector)
        file.write(b"before".ljust(512, b"\0"))


def test_offline_device_on_a_larger_disk(image: Path, scratch: Path, device: Machine) -> None:
    """Without a network it comes up and delivers; its disk is filled; later it is cut off while it writes btrfs's
    superblock, gets a larger disk, and both the mail that it had accepted and the new space are there. Meanwhile its
    clock has stopped: it goes on where it was, and no time server that is silent holds the mail up for good.
    """
    identity = [_identity(device)]
    device.off()
    machine = Machine(image, scratch / "larger.img", size=24, offline=True)
    machine.up()
    try:
        machine.wait_for_mail_services()
        assert machine.lines("systemctl --failed --no-legend") == []
        assert _data_size(machine) > 24e9 - 8.01 * 2**30
        identity.append(_identity(machine))
        for first, second in zip(*identity, strict=True):
            assert first != second, "each device makes its own identities"

        machine.lines("systemctl start darkpipe-clock-floor && sync --file-system /state/clock")
        noted = int(machine.lines("stat --format %Y /state/clock")[0])
        message = scratch / "message"
        message.write_text("From: carol@example.net\nSubject: acknowledged\n\nkept\n", encoding="utf-8")
        assert swaks(machine.smtp, "carol@example.net", "alice@example.com", message).returncode == 0
        data = int(machine.lines("lsblk --noheadings --output START /dev/vda5")[0]) * 512
        machine.cut_power()

        os.truncate(machine.disk, 32 * 10**9)
        _tear_superblock(machine.disk, data)
        machine.clock = "2020-01-01T00:00:00"
        machine.up()
        assert int(machine.lines("date +%s")[0]) >= noted
        assert "asking a time server" in machine.console_text()
        assert machine.lines("journalctl --boot --unit=darkpipe-clock | grep 'no time server has answered'")
        assert machine.lines("journalctl --boot --unit=darkpipe-disk | grep 'torn by a power cut, and is mended'")
        machine.wait_for_mail_services()
        assert machine.lines("systemctl --failed --no-legend") == []
        assert _data_size(machine) > 32e9 - 8.01 * 2**30
        assert _file_system_size(machine) > 32e9 - 8.01 * 2**30
        with mailbox(machine.imaps, "alice@example.com", PASSWORD) as box:
            assert b"kept" in fetch(box, "acknowledged")
    finally:
        machine.off()


def test_tampered_system_does_not_start(image: Path, scratch: Path, device: Machine) -> None:
    """One flipped bit in the system partition, where the file system itself does not look, and the device stops."""
    device.off()
    machine = Machine(image, scratch / "tampered.img")
    subprocess.run(["cp", "--sparse=always", str(device.disk), str(machine.disk)], check=True)
    root = next(
        row
        for row in json.loads((image / "manifest.json").read_text())["partitions"]
        if row["label"] == "darkpipe-root-a"
    )
    with machine.disk.open("r+b") as disk:
        # The first block, which the kernel must read, begins with 1024 bytes that erofs leaves unused.
        disk.seek(root["start"] + 100)
        byte = disk.read(1)[0]
        disk.seek(root["start"] + 100)
        disk.write(bytes([byte ^ 1]))
    machine.boot()
    try:
        assert machine.expect(["corrupted", "login:"], timeout=300) == 0
    finally:
        machine.cut_power()
