"""The Raspberry Pi image: what its firmware would read, and a device that runs its kernel, initramfs and root.

The card is written as the Raspberry Pi Imager writes it, with its user's settings. QEMU's machine `virt` stands for the
board: no emulator runs the Pi's own firmware, whose part is checked by the files that it reads (`builder/firmware.py`).
"""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from builder.archive import Archive
from builder.cache import Cache
from builder.firmware import FirmwareError, Model, boot_partition, check_slot, needed_files
from builder.packages import BUILD_EPOCH
from builder.packing import find_image, unpack_image
from builder.profile import Content
from builder.progress import Stages
from builder.sandbox import Sandbox, remove_tree
from builder.sums import read_manifest
from builder.tools import BUILD_TOOLS, open_tools
from tests.images.conftest import PASSWORD, SITE
from tests.images.locked import Page
from tests.images.machine import REPOSITORY, Machine
from tests.mail import fetch, mailbox, swaks
from tests.unit.imager_samples import HASH, KEY, Choices, psk, version_2

DISK = 16 * 10**9
CHOICES = Choices(
    hostname="post",
    timezone="Europe/Berlin",
    keyboard="de",
    user="carol",
    password_hash=HASH,
    keys=(KEY,),
    ssh=True,
    ssid="Küche 5".encode(),
    passphrase="made for this test",
    country="DE",
)
_CODE = "Seven wet geese 7"
_BARE_CODE = "sevenwetgeese7"
WIFI_KEY = psk(CHOICES.passphrase, CHOICES.ssid)


@pytest.fixture(scope="module")
def tools() -> Sandbox:
    return open_tools(BUILD_TOOLS, Cache(Cache.default().root, remove_tree), Archive.from_environment(), Stages())


@pytest.fixture(scope="module")
def result(scratch: Path, password_hash: str) -> Path:
    """The Raspberry Pi image for the tests' site, and for somebody without a screen."""
    site, code = scratch / "pi.yaml", scratch / "pi-code.txt"
    site.write_text(SITE.format(hash=password_hash), encoding="utf-8")
    code.write_text(_CODE, encoding="utf-8")
    code.chmod(0o600)
    command = [str(REPOSITORY / "darkpipe"), "build", str(site), "--profile", "raspberrypi", "--code", str(code)]
    command += ["--output", str(scratch / "out")]
    built = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=True)
    return Path(built.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def card(result: Path, tools: Sandbox) -> Iterator[Path]:
    """The unpacked image, below the cache."""
    with Cache(Cache.default().root, remove_tree).workspace() as work:
        unpack_image(find_image(result), work / "card.img", tools)
        yield work / "card.img"


def _start(result: Path, content: Content) -> int:
    rows = read_manifest(result)["partitions"]
    return int(next(row["start"] for row in rows if row["content"] == content))


def _files(card: Path, start: int, tools: Sandbox) -> dict[str, bytes]:
    """Read all files of a FAT partition."""
    target = card.parent / f"files-{start}"
    target.mkdir()
    partition = f"{tools.inside(card)}@@{start}"
    script = 'mdir -b -i "$1" ::/ | while read -r name; do mcopy -n -i "$1" "$name" "$2"; done'
    tools.run(["sh", "-euc", script, "files", partition, tools.inside(target)])
    return {path.name: path.read_bytes() for path in target.iterdir()}


def test_firmware_finds_every_file_for_both_models(result: Path, card: Path, tools: Sandbox) -> None:
    """autoboot.txt leads to the filled slot, which has all that both models read; a missing file is found."""
    rows = {row["number"]: row for row in read_manifest(result)["partitions"]}
    first = _files(card, _start(result, Content.SEED), tools)
    autoboot = first["autoboot.txt"].decode()
    assert rows[boot_partition(autoboot)]["content"] == Content.BOOT
    assert rows[boot_partition(autoboot, tryboot=True)]["content"] == Content.SPARE
    assert set(first) == {"autoboot.txt", "darkpipe.yaml", "darkpipe-code.txt"}
    assert first["darkpipe-code.txt"].decode().strip() == _BARE_CODE
    slot = _files(card, _start(result, Content.BOOT), tools)
    for model in Model:
        check_slot(slot, model)
        for name in slot:
            lacking = {key: value for key, value in slot.items() if key != name}
            if name in needed_files(slot["config.txt"].decode(), model):
                with pytest.raises(FirmwareError):
                    check_slot(lacking, model)
            else:
                check_slot(lacking, model)
    for name in ("bcm2711-rpi-4-b.dtb", "bcm2712-rpi-5-b.dtb", "bcm2712d0-rpi-5-b.dtb"):
        assert slot[name][:4] == b"\xd0\r\xfe\xed", f"{name} is a flattened device tree"


def test_the_other_slot_is_an_empty_file_system_for_an_update(result: Path, card: Path, tools: Sandbox) -> None:
    """What an update puts there is what it would put into the first: the same code fills a slot."""
    start = _start(result, Content.SPARE)
    assert _files(card, start, tools) == {}
    with card.open("rb") as file:
        file.seek(start + 71)
        assert file.read(11) == b"DP-BOOT-B  "


@pytest.fixture(scope="module")
def device(result: Path, card: Path, tools: Sandbox, scratch: Path) -> Iterator[Machine]:
    """A device that starts for the first time, from a card that the Imager has written."""
    os.truncate(card, DISK)
    partition = f"{tools.inside(card)}@@{_start(result, Content.SEED)}"
    for name, content in version_2(CHOICES).items():
        (card.parent / name).write_bytes(content)
        tools.run(["mcopy", "-o", "-i", partition, tools.inside(card.parent / name), f"::/{name}"])
    assert all(secret in _first_partition(card) for secret in (HASH.encode(), WIFI_KEY.encode()))
    disk = scratch / "pi.img"
    disk.touch(mode=0o600)
    subprocess.run(["cp", "--sparse=always", card, disk], check=True)
    machine = Machine(result, disk)
    machine.up()
    machine.wait_for_mail_services()
    yield machine
    machine.off()


def _first_partition(disk: Path) -> bytes:
    with disk.open("rb") as file:
        return file.read(2**20 + 4 * 2**20)


def test_it_boots(device: Machine) -> None:
    """All units have started, without a failure and with an untainted kernel."""
    assert device.run("systemctl is-system-running").output == "running"
    assert device.lines("systemctl --failed --no-legend") == []
    assert device.lines("cat /proc/sys/kernel/tainted") == ["0"]
    assert device.lines("uname -m") == ["aarch64"]


def test_root_is_verified_and_read_only(device: Machine) -> None:
    """The root is the erofs behind dm-verity."""
    assert device.lines("findmnt --noheadings --output SOURCE,FSTYPE /") == ["/dev/mapper/root erofs"]
    assert "status:      verified" in device.run("veritysetup status root").output


def test_the_last_partition_has_grown(device: Machine) -> None:
    """The table is sound, and data has the rest of the card."""
    assert device.lines("lsblk --noheadings --nodeps --output PTTYPE /dev/vda") == ["dos"]
    end = int(device.lines("lsblk --noheadings --bytes --output SIZE /dev/vda8")[0])
    assert DISK - end < 8.4 * 2**30
    assert device.lines("findmnt --noheadings --output SOURCE,FSTYPE /data") == ["/dev/vda8 btrfs"]
    assert device.lines("findmnt --noheadings --output SOURCE,FSTYPE /state") == ["/dev/vda7 ext4"]
    size = int(device.lines("df --block-size=1 --output=size /data")[-1])
    assert size == pytest.approx(end, rel=0.01)


def test_mail_arrives(device: Machine, scratch: Path) -> None:
    """A message that was sent to it is in the mailbox."""
    message = scratch / "pi-message"
    message.write_text("From: dave@example.net\nSubject: to the Pi\n\nhello\n", encoding="utf-8")
    assert swaks(device.smtp, "dave@example.net", "alice@example.com", message).returncode == 0
    with mailbox(device.imaps, "alice@example.com", PASSWORD) as imap:
        assert b"Subject: to the Pi" in fetch(imap, "to the Pi")


def test_settings_of_the_imager_have_taken_effect(device: Machine) -> None:
    """Host name, time zone, login with its key and password, SSH."""
    assert device.lines("hostname") == ["post"]
    assert device.lines("date +%Z")[0] in {"CET", "CEST"}
    assert "carol" in device.run("id carol").output
    assert device.lines("getent shadow carol | cut -d: -f2") == [HASH]
    assert device.lines("cat /run/darkpipe/authorized_keys/carol")[-1] == KEY.rpartition(" ")[0], "without its comment"
    assert device.lines("systemctl is-active ssh") == ["active"]


def test_secrets_of_the_imager_are_wiped(device: Machine) -> None:
    """Neither files nor blocks of the first partition hold them any more; the fixture has seen them there before."""
    assert device.lines("mount -o ro /dev/vda1 /boot && ls /boot && umount /boot") == ["autoboot.txt"]
    for secret in (HASH, WIFI_KEY, "ds=nocloud", _BARE_CODE):
        found = device.run(f"grep --text --count --fixed-strings '{secret}' /dev/vda1")
        assert (found.status, found.output) == (1, "0")


def test_the_page_is_claimed_by_the_code_that_the_image_has_brought(device: Machine) -> None:
    """Once; the console has shown none."""
    page = Page(device.page)
    answers = {"password": "nine slow trains by night", "again": "nine slow trains by night"}
    assert "Nobody looks after this device yet" in page.get()
    assert "code is not the one" in page.post("/claim", code="12345678", **answers)
    page.post("/claim", code=_CODE, **answers)
    assert "Sign out" in page.get()
    assert device.run("test -e /data/page/first-code").status == 1


def test_it_joins_the_wifi(device: Machine) -> None:
    """The radio is one that the kernel makes up, the access point the second such; the unit that joins is ours."""
    text = base64.b64encode((REPOSITORY / "tests/images/wifi.sh").read_bytes()).decode()
    for start in range(0, len(text), 1000):  # a terminal takes 4096 octets a line
        device.lines(f"printf %s '{text[start : start + 1000]}' >>/run/wifi.b64")
    joined = device.run(f"base64 -d /run/wifi.b64 >/run/wifi.sh; sh /run/wifi.sh {CHOICES.ssid.hex()} {WIFI_KEY}", 300)
    assert joined.output.endswith("joined"), joined.output


def test_the_kernel_knows_both_ciphers(device: Machine) -> None:
    """cryptsetup takes what `firstboot.cipher` chooses from, and refuses what is none.

    Here, since cryptsetup asks the kernel, and that of whoever tests need not have Adiantum.
    """
    script = (
        "from firstboot.cipher import AES_XTS, ADIANTUM; "
        "print(*[f'{c.specification} {c.key_bits} {c.sector_bytes}' for c in (AES_XTS, ADIANTUM)], sep=chr(10))"
    )
    judge = (
        "from pathlib import Path; from firstboot.luks import Luks; print(Luks(Path('/run/luks.img')).why_not_ours())"
    )
    device.lines("truncate -s 32M /run/luks.img")
    options = "--batch-mode --type luks2 --key-file /etc/machine-id"
    options += " --pbkdf pbkdf2 --pbkdf-force-iterations 1000"
    for line in device.lines(f'PYTHONPATH=/usr/lib/darkpipe python3 -c "{script}"'):
        cipher, bits, sector = line.split()
        words = f"--cipher {cipher} --key-size {bits} --sector-size {sector}"
        device.lines(f"cryptsetup luksFormat {options} {words} /run/luks.img")
        assert device.lines(f'PYTHONPATH=/usr/lib/darkpipe python3 -c "{judge}"') == ["None"], "its head is ours"
        # The same with one thing wrong, so that it is that which is refused.
        for wrong in (words.replace(f" {bits} ", f" {int(bits) + 8} "), words.replace("-plain64", "-plain65")):
            refused = device.run(f"cryptsetup luksFormat {options} {wrong} /run/luks.img")
            assert refused.status != 0, f"{wrong}: {refused}"


def test_after_a_power_cut_it_goes_on_where_it_was(device: Machine) -> None:
    """Mail and settings are there, and the clock is not before the last moment that the device knew."""
    assert device.lines("stat --format %Y /usr/lib/clock-epoch") == [str(BUILD_EPOCH)]
    identity = device.lines("cat /etc/machine-id; sha256sum /state/ssh/*; blkid -o value -s UUID /dev/vda8")
    later = int((datetime.now(UTC) + timedelta(days=400)).timestamp())
    device.lines(f"touch --date=@{later} /state/clock && sync")
    device.cut_power()
    device.up()
    device.wait_for_mail_services()
    assert int(device.lines("date +%s")[0]) >= later
    assert device.lines("cat /etc/machine-id; sha256sum /state/ssh/*; blkid -o value -s UUID /dev/vda8") == identity
    assert device.lines("hostname") == ["post"]
    with mailbox(device.imaps, "alice@example.com", PASSWORD) as imap:
        assert b"Subject: to the Pi" in fetch(imap, "to the Pi")
