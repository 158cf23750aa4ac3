"""A device is started for the first time, receives mail, and is started again."""

from __future__ import annotations

import imaplib
import json
import re
import socket
from pathlib import Path

import pytest

from builder.archive import Archive
from builder.cache import Cache
from builder.progress import Stages
from builder.tools import BUILD_TOOLS, open_tools
from stack.stack import Stack
from tests.images.conftest import PASSWORD
from tests.images.machine import REPOSITORY, Machine, State
from tests.mail import fetch, mailbox, swaks


def test_boots(device: Machine) -> None:
    """All units have started."""
    assert device.state is State.UP
    assert device.run("systemctl is-system-running").output == "running"


def test_no_failed_unit(device: Machine) -> None:
    """systemd counts no failure."""
    assert device.lines("systemctl --failed --no-legend") == []


def test_no_ordering_cycle(device: Machine) -> None:
    """systemd had to break no cycle among the units' order."""
    assert device.run("journalctl --boot --no-pager --grep 'ordering cycle'").status == 1
    assert device.lines("journalctl --boot --no-pager --grep 'Started|Mounted' | head -n 3"), "the journal is readable"


def test_kernel_is_untainted(device: Machine) -> None:
    """No proprietary module, no oops, no forced action (kernel's Documentation/admin-guide/tainted-kernels)."""
    assert device.lines("cat /proc/sys/kernel/tainted") == ["0"]


def test_the_name_is_answered_on_the_network_port(device: Machine) -> None:
    """Multicast DNS is on where the image's own .network file holds, and its responder knows the device's name."""
    (link,) = device.lines("resolvectl mdns | grep -v '(lo)' | grep '^Link'")
    assert link.endswith(": yes"), link
    assert device.lines("resolvectl query --protocol=mdns --interface=$(ls /sys/class/net | grep -v lo) darkpipe.local")


def test_root_is_verified_and_read_only(device: Machine) -> None:
    """The root is the erofs behind dm-verity."""
    assert device.lines("findmnt --noheadings --output SOURCE,FSTYPE /") == ["/dev/mapper/root erofs"]
    assert "status:      verified" in device.run("veritysetup status root").output
    assert device.run("touch /usr/x").status != 0


def test_disk_table(device: Machine) -> None:
    """The table of the design; the data partition has the rest."""
    rows = json.loads(device.run("lsblk --json --list --bytes --output PARTLABEL,SIZE,FSTYPE /dev/vda").output)
    table = {row["partlabel"]: (row["size"] / 2**30, row["fstype"]) for row in rows["blockdevices"] if row["partlabel"]}
    assert table["darkpipe-esp"] == (1, "vfat")
    assert table["darkpipe-root-a"] == (3, "erofs")
    assert table["darkpipe-root-b"] == (3, None)
    assert table["darkpipe-state"] == (1, "ext4")
    assert table["darkpipe-data"][0] == pytest.approx(16e9 / 2**30 - 8, abs=0.02)
    assert table["darkpipe-data"][1] == "btrfs"


def test_volumes_are_subvolumes(device: Machine) -> None:
    """Each volume of the Stack can have snapshots of its own."""
    listed = {line.split()[-1] for line in device.lines("btrfs subvolume list /data")}
    assert listed == {volume.name for volume in Stack.load(REPOSITORY / "components").volumes}
    assert {"darkpipe", "mail", "queue"} <= listed


def test_what_btrfs_has_counted_is_read_also_behind_the_page(device: Machine) -> None:
    """From the kernel's own files, which the page's service sees in its cage as well."""
    disk = json.loads(device.run("darkpipe status --json").output)["disk"]
    assert set(disk["errors"].values()) == {0}
    assert {"write_errs", "read_errs", "corruption_errs"} <= set(disk["errors"])
    assert disk["encrypted"] is False
    inside = "nsenter --mount --target $(systemctl show --property=MainPID --value darkpipe-desk)"
    counted = "cat /sys/fs/btrfs/*/devinfo/*/error_stats"
    assert device.lines(f"{inside} sh -c '{counted}'") == device.lines(counted)


def test_message_comes_back_byte_for_byte(device: Machine, tmp_path: Path) -> None:
    """What swaks has sent is what IMAP shows, below the trace headers."""
    body = "From: carol@example.net\nTo: alice@example.com\nSubject: first\nMessage-ID: <1@example.net>\n\n"
    body += (
        "Grüße.\n.leading dot\n  trailing space \n\tTab\n" + "long " * 150 + "\n\nend"
    )  # swaks ends the last line itself
    message = tmp_path / "message"
    message.write_text(body, encoding="utf-8")
    sent = swaks(device.smtp, "carol@example.net", "alice@example.com", message)
    assert sent.returncode == 0, sent.stdout
    with mailbox(device.imaps, "alice@example.com", PASSWORD) as box:
        received = fetch(box, "first")
    assert received.endswith(f"\n{body}\n".replace("\n", "\r\n").encode())
    assert received.startswith(b"Return-Path: <carol@example.net>")


def test_alias_of_the_second_domain(device: Machine) -> None:
    """An alias leads to its user."""
    assert swaks(device.smtp, "carol@example.net", "sales@example.org").returncode == 0


def test_unknown_user_is_refused(device: Machine) -> None:
    """550 in the session, so that the sender's server tells the sender."""
    refused = swaks(device.smtp, "carol@example.net", "nobody@example.com")
    assert "<** 550 5.1.1" in refused.stdout


def test_foreign_domain_is_refused(device: Machine) -> None:
    """No open relay."""
    refused = swaks(device.smtp, "carol@example.net", "dave@example.net")
    assert "<** 554 5.7.1" in refused.stdout


def test_other_ports_are_closed(device: Machine) -> None:
    """A service that nobody named is not reached from outside, though it listens."""
    device.run("systemd-run --unit probe python3 -m http.server 8080 --bind 0.0.0.0 --directory /usr/share/zoneinfo")
    listening = "until ss --listening --tcp --numeric | grep --quiet :8080; do sleep 0.2; done"
    assert device.run(listening).status == 0
    assert not _answers(device.closed)
    # The same request succeeds when the firewall lets it through: the check above can fail.
    device.lines("nft insert rule inet darkpipe input tcp dport 8080 accept")
    assert _answers(device.closed)
    device.lines("systemctl reload-or-restart darkpipe-firewall.service")
    assert not _answers(device.closed)
    device.lines("systemctl stop probe.service")


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.settimeout(5)
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return bool(connection.recv(1))
    except OSError:
        return False


def test_generated_password_is_shown_once_and_works(device: Machine) -> None:
    """Bob's password stands on the console, opens his mailbox, and is nowhere in the journal."""
    password = _bobs_password(device.console_text())
    with mailbox(device.imaps, "bob@example.org", password) as box:
        assert box.state == "AUTH"
    with pytest.raises(imaplib.IMAP4.error):
        mailbox(device.imaps, "bob@example.org", password[:-1])
    assert device.run(f"journalctl --no-pager | grep --count --fixed-strings -- '{password}'").output == "0"


def _bobs_password(console: str) -> str:
    found = re.findall(r"bob@example\.org\s+(\S+)", console)
    assert len(found) == 1, f"expected Bob's password once on the console, found {len(found)}"
    return str(found[0])


def test_seed_is_wiped_from_the_boot_partition(device: Machine, image: Path, password_hash: str) -> None:
    """The seed's hash is in the image as built, and nowhere on the device's boot partition."""
    secret = password_hash.rsplit("$", 1)[1]
    tools = open_tools(BUILD_TOOLS, Cache.default(), Archive.from_environment(), Stages())
    with next(image.glob("*.img.zst")).open("rb") as packed:
        count = tools.run(["sh", "-c", f"zstd -dc | grep --text --count --fixed-strings '{secret}'"], stdin=packed)
    assert count.strip() == "1", "the image holds the seed"
    assert device.run(f"grep --text --count --fixed-strings -- '{secret}' /dev/vda1").output == "0"
    assert device.run(f"grep --recursive --count --fixed-strings -- '{secret}' /data/darkpipe/site.yaml").output == "1"


def test_mail_to_the_world_waits(device: Machine) -> None:
    """There is no relay: the queue keeps what is meant for others, and nothing leaves from the home address."""
    device.lines("printf 'Subject: out\\n\\nx\\n' | sendmail -f alice@example.com dave@example.net")
    waiting = "until postqueue -j | grep --quiet dave@example.net; do sleep 0.5; done; postqueue -j"
    assert "dave@example.net" in device.run(waiting).output


def test_restart_keeps_mail_and_identity(device: Machine, tmp_path: Path) -> None:
    """After a restart the message, the machine id and the waiting queue are there; the password is not shown again."""
    machine_id = device.lines("cat /etc/machine-id")
    certificate = device.lines("cat /data/tls/*.pem | sha256sum")
    message = tmp_path / "message"
    message.write_text("From: carol@example.net\nSubject: before the restart\n\nkept\n", encoding="utf-8")
    assert swaks(device.smtp, "carol@example.net", "alice@example.com", message).returncode == 0
    device.reboot()
    device.wait_for_mail_services()
    assert device.lines("systemctl --failed --no-legend") == []
    assert device.lines("cat /etc/machine-id") == machine_id
    assert device.lines("cat /data/tls/*.pem | sha256sum") == certificate
    with mailbox(device.imaps, "alice@example.com", PASSWORD) as box:
        assert b"kept" in fetch(box, "before the restart")
    assert "dave@example.net" in device.run("postqueue -j").output
    assert device.lines("journalctl --list-boots --quiet --no-pager | wc -l") == ["2"]
    _bobs_password(device.console_text())
