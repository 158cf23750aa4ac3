"""The seed: taken over once, wiped, and safe at every step."""

from __future__ import annotations

import itertools
import stat
from pathlib import Path

import pytest

from firstboot.seed import Taken, _is_mounted, find_boot_partition, take_seed
from model.document import SEED_NAME, SiteError, dump_site, read_site
from tests.unit.power_cut import at_every_step
from tests.unit.stack_samples import HASH, site

SEED = dump_site(site())


class Device:
    """Boot partition and store of one device."""

    def __init__(self, folder: Path, seed: str = SEED) -> None:
        self.boot = folder / "boot"
        self.boot.mkdir(parents=True)
        self.site = folder / "site.yaml"
        self.seed = self.boot / SEED_NAME
        self.seed.write_text(seed)

    def take(self) -> Taken:
        return take_seed(self.boot, self.site)


def test_a_seed_becomes_the_site_and_is_gone(tmp_path: Path) -> None:
    device = Device(tmp_path)
    assert device.take() is Taken.TAKEN
    assert read_site(device.site) == site()
    assert stat.S_IMODE(device.site.stat().st_mode) == 0o600
    assert list(device.boot.iterdir()) == []
    assert device.take() is Taken.NONE


def test_its_bytes_are_overwritten_before_it_is_deleted(tmp_path: Path) -> None:
    device = Device(tmp_path)
    kept = tmp_path / "kept"
    kept.hardlink_to(device.seed)
    device.take()
    assert kept.read_bytes() == bytes(len(SEED.encode()))


def test_a_wrong_seed_is_left_to_be_mended(tmp_path: Path) -> None:
    device = Device(tmp_path, SEED.replace("domains:", "domain:"))
    with pytest.raises(SiteError):
        device.take()
    assert HASH in device.seed.read_text()
    assert not device.site.exists()


def test_a_device_that_is_set_up_takes_no_other_seed_but_wipes_it(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.take()
    device.seed.write_text(SEED.replace("alice", "mallory"))
    assert device.take() is Taken.LEFTOVER
    assert read_site(device.site) == site()
    assert not device.seed.exists()


def test_a_power_cut_at_any_step_loses_nothing(tmp_path: Path) -> None:
    devices: dict[int, Device] = {}
    numbers = itertools.count()

    def start() -> Taken:
        number = next(numbers)
        devices[number] = Device(tmp_path / f"{number}")
        return devices[number].take()

    # Making the folders is part of the attempt; cuts before there is a seed are none of the seed's.
    for number in at_every_step(start):
        device = devices.get(number)
        if device is None:
            continue
        assert device.take() in (Taken.TAKEN, Taken.LEFTOVER, Taken.NONE)
        assert read_site(device.site) == site()
        assert not device.seed.exists()
    assert len(devices) > 4


def test_a_container_has_no_boot_partition() -> None:
    assert find_boot_partition("console=ttyS0 quiet") is None


@pytest.mark.parametrize(
    ("boot", "expected"),
    [
        ("", False),
        ("30 20 254:0 /image/boot /boot rw - erofs /dev/dm-0 rw\n", False),  # on itself, by systemd's ReadWritePaths=
        ("30 20 253:1 / /boot rw - vfat /dev/vda1 rw\n", True),
        ("30 20 254:0 /elsewhere /boot rw - erofs /dev/dm-0 rw\n", True),  # a container's
    ],
)
def test_a_folder_mounted_on_itself_is_no_boot_partition(boot: str, expected: bool) -> None:
    root = "20 1 254:0 /image / ro - erofs /dev/dm-0 ro\n"
    assert _is_mounted(Path("/boot"), root + boot) is expected
