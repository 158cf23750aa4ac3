"""The seed: taken over once, wiped, and safe at every step."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from firstboot.seed import SeedError, Taken, find_boot_partition, is_mounted, misnamed_seeds, take_seed, take_tunnel
from model.document import SEED_NAME, SiteError, dump_site, read_site
from model.tunnel import HOME_FILE, HomeEnd
from tests.unit.power_cut import at_every_step
from tests.unit.stack_samples import HASH, REPOSITORY, site

SEED = dump_site(site())


class Device:
    """Boot partition and store of one device."""

    def __init__(self, folder: Path, seed: str = SEED) -> None:
        self.boot = folder / "boot"
        self.boot.mkdir(parents=True)
        self.kept = folder / "site.yaml"
        self.seed = self.boot / SEED_NAME
        self.seed.write_text(seed)

    def take(self) -> Taken:
        return take_seed(self.boot, self.kept)


def test_a_seed_becomes_the_site_and_is_gone(tmp_path: Path) -> None:
    device = Device(tmp_path)
    assert device.take() is Taken.TAKEN
    assert read_site(device.kept) == site()
    assert stat.S_IMODE(device.kept.stat().st_mode) == 0o600
    assert list(device.boot.iterdir()) == []
    assert device.take() is Taken.NONE


def test_its_bytes_are_overwritten_before_it_is_deleted(tmp_path: Path) -> None:
    device = Device(tmp_path)
    kept = tmp_path / "kept"
    kept.hardlink_to(device.seed)
    device.take()
    assert kept.read_bytes() == bytes(len(SEED.encode()))


_WITHOUT_RIGHTS = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")


def test_a_file_that_is_marked_read_only_is_overwritten_and_deleted(tmp_path: Path) -> None:
    """By a root that is held to permissions, as in darkpipe-settings.service and darkpipe-disk.service."""
    marked, kept = tmp_path / "user-data", tmp_path / "kept"
    marked.write_bytes(b"x" * 3_000_000)
    kept.hardlink_to(marked)
    marked.chmod(0o400)
    command = [sys.executable, "-c", f"import pathlib, firstboot.wipe as w; w.wipe(pathlib.Path({str(marked)!r}))"]
    subprocess.run([*_WITHOUT_RIGHTS, *command] if os.geteuid() == 0 else command, check=True, cwd=REPOSITORY)
    assert not marked.exists()
    assert kept.read_bytes() == bytes(3_000_000)


def test_a_wrong_seed_is_left_to_be_mended(tmp_path: Path) -> None:
    device = Device(tmp_path, SEED.replace("domains:", "domain:"))
    with pytest.raises(SiteError):
        device.take()
    assert HASH in device.seed.read_text()
    assert not device.kept.exists()


def test_a_device_that_is_set_up_takes_no_other_seed_but_wipes_it(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.take()
    device.seed.write_text(SEED.replace("alice", "mallory"))
    assert device.take() is Taken.LEFTOVER
    assert read_site(device.kept) == site()
    assert not device.seed.exists()


def test_a_seed_by_another_name_is_noticed(tmp_path: Path) -> None:
    assert misnamed_seeds(tmp_path) == ()
    for name in ("darkpipe.yaml.txt", "Site.YML", "cmdline.txt", "relay.json", SEED_NAME):
        (tmp_path / name).touch()
    (tmp_path / "site.yaml").mkdir()
    assert misnamed_seeds(tmp_path) == ("Site.YML", "darkpipe.yaml.txt")


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
    assert is_mounted(Path("/boot"), root + boot) is expected


_KEY = "A" * 43 + "="
_TUNNEL = HomeEnd.model_validate(
    {
        "private_key": _KEY,
        "relay_key": _KEY,
        "relay": "mx.example.com",
        "addresses": {"home4": "10.200.0.1", "relay4": "10.200.0.0", "home6": "fd99::2", "relay6": "fd99::1"},
    }
).model_dump_json()


class Tunnel:
    """Boot partition and store of one device, as far as the tunnel is concerned."""

    def __init__(self, folder: Path, seed: str = _TUNNEL) -> None:
        self.boot = folder / "boot"
        self.boot.mkdir(parents=True)
        self.kept = folder / HOME_FILE
        self.seed = self.boot / HOME_FILE
        self.seed.write_text(seed)

    def take(self) -> Taken:
        return take_tunnel(self.boot, self.kept)


def test_the_tunnel_is_taken_over_and_its_seed_is_gone(tmp_path: Path) -> None:
    device = Tunnel(tmp_path)
    assert device.take() is Taken.TAKEN
    assert device.kept.read_text() == _TUNNEL
    assert stat.S_IMODE(device.kept.stat().st_mode) == 0o600
    assert list(device.boot.iterdir()) == []
    assert device.take() is Taken.NONE


def test_a_device_keeps_the_tunnel_that_it_has(tmp_path: Path) -> None:
    device = Tunnel(tmp_path, "hello")
    device.kept.write_text("its own")
    assert device.take() is Taken.LEFTOVER
    assert device.kept.read_text() == "its own"
    assert list(device.boot.iterdir()) == []


@pytest.mark.parametrize("seed", ["", "hello", "{}", _TUNNEL.replace(_KEY, "c2VjcmV0", 1)])
def test_a_damaged_tunnel_stays_and_is_not_shown(tmp_path: Path, seed: str) -> None:
    device = Tunnel(tmp_path, seed)
    with pytest.raises(SeedError, match=r"relay\.json on the boot partition is damaged") as error:
        device.take()
    assert "c2VjcmV0" not in str(error.value)
    assert device.seed.read_text() == seed
    assert not device.kept.exists()


@pytest.mark.parametrize(("make", "content"), [(Device, SEED), (Tunnel, _TUNNEL)])
def test_a_power_cut_at_any_step_loses_nothing(
    tmp_path: Path, make: Callable[[Path], Device | Tunnel], content: str
) -> None:
    devices: dict[int, Device | Tunnel] = {}
    numbers = itertools.count()

    def start() -> Taken:
        number = next(numbers)
        devices[number] = make(tmp_path / f"{number}")
        return devices[number].take()

    # Making the folders is part of the attempt; cuts before there is a seed are none of the seed's.
    for number in at_every_step(start):
        device = devices.get(number)
        if device is None:
            continue
        assert device.take() in (Taken.TAKEN, Taken.LEFTOVER, Taken.NONE)
        assert device.kept.read_text() == content
        assert not device.seed.exists()
    assert len(devices) > 4
