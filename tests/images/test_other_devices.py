"""The same image on other devices: a larger disk, no network, a power cut, a disk that grows."""

from __future__ import annotations

import json
import os
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


def test_offline_device_on_a_larger_disk(image: Path, scratch: Path, device: Machine) -> None:
    """Without a network it comes up and delivers; its disk is filled; later it is cut off, gets a larger disk, and both
    the mail that it had accepted and the new space are there."""
    machine = Machine(image, scratch / "larger.img", size=24, offline=True)
    machine.up()
    try:
        machine.wait_for_mail_services()
        assert machine.lines("systemctl --failed --no-legend") == []
        assert _data_size(machine) > 24e9 - 8.01 * 2**30
        assert machine.lines("cat /etc/machine-id") != device.lines("cat /etc/machine-id")
        assert machine.lines("cat /data/tls/*.pem | sha256sum") != device.lines("cat /data/tls/*.pem | sha256sum")

        message = scratch / "message"
        message.write_text("From: carol@example.net\nSubject: acknowledged\n\nkept\n", encoding="utf-8")
        assert swaks(machine.smtp, "carol@example.net", "alice@example.com", message).returncode == 0
        machine.cut_power()

        os.truncate(machine.disk, 32 * 10**9)
        machine.up()
        machine.wait_for_mail_services()
        assert machine.lines("systemctl --failed --no-legend") == []
        assert _data_size(machine) > 32e9 - 8.01 * 2**30
        assert _file_system_size(machine) > 32e9 - 8.01 * 2**30
        assert b"kept" in fetch(mailbox(machine.imaps, "alice@example.com", PASSWORD), "acknowledged")
    finally:
        machine.off()
