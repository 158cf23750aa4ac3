"""What is read of the disk with the mail: errors, room, and whether it is encrypted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from home.readings import Disk, btrfs_errors, device_of, is_encrypted, read_disk
from home.status_cli import lines
from tests.unit.page_samples import status


def test_disk_is_read_and_tried(tmp_path: Path) -> None:
    assert read_disk(tmp_path / "darkpipe") is None
    (tmp_path / "darkpipe").mkdir()
    found = read_disk(tmp_path / "darkpipe")
    assert found is not None
    assert found.write_error is None
    assert 0 < found.free <= found.size
    assert not list((tmp_path / "darkpipe").iterdir())


def test_what_a_power_cut_has_left_of_a_trial_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    """Processes have the same numbers after each start: the disk "could not be written: File exists"."""
    (tmp_path / f".writable-{os.getpid()}").write_bytes(b"x")
    found = read_disk(tmp_path)
    assert found is not None
    assert found.write_error is None
    assert not list(tmp_path.iterdir())


def _block(blocks: Path, name: str, uuid: str = "", called: str = "", below: tuple[str, ...] = ()) -> None:
    """Write what the kernel tells of a block device."""
    (blocks / name / "slaves").mkdir(parents=True)
    for one in below:
        (blocks / name / "slaves" / one).symlink_to(blocks / one)
    if uuid:
        (blocks / name / "dm").mkdir()
        (blocks / name / "dm/name").write_text(f"{called}\n")
        (blocks / name / "dm/uuid").write_text(f"{uuid}\n")


@pytest.fixture
def blocks(tmp_path: Path) -> Path:
    for name in ("vda5", "sdb1", "sdc1"):
        _block(tmp_path, name)
    _block(tmp_path, "dm-0", "CRYPT-LUKS2-7b1e-darkpipe-data", "darkpipe-data", ("vda5",))
    _block(tmp_path, "dm-1", "LVM-x", "nas-volume", ("dm-0",))
    _block(tmp_path, "dm-2", "LVM-y", "nas-open", ("sdb1",))
    _block(tmp_path, "md0", below=("dm-0", "sdc1"))
    return tmp_path


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("darkpipe-data", True),
        ("dm-0", True),
        ("vda5", False),
        ("nas-volume", True),
        ("nas-open", False),
        ("md0", False),
        ("gone", None),
        ("", None),
    ],
)
def test_encryption_is_seen_wherever_it_lies(device: str, expected: bool | None, blocks: Path) -> None:
    """On one half of a mirror it is worth nothing."""
    assert is_encrypted(device, blocks) is expected


def test_errors_of_all_devices_are_added_up(tmp_path: Path) -> None:
    """As the kernel writes it, for a service without rights too; those of another file system are not ours."""
    blocks = tmp_path / "class/block"
    _block(blocks, "vda5")
    _block(blocks, "dm-0", "CRYPT-LUKS2-7b1e-darkpipe-data", "darkpipe-data", ("vda5",))
    _block(blocks, "sdb1")
    for fsid, devices in (("ours", ("dm-0", "sdb1")), ("other", ("vda7",))):
        for number, device in enumerate(devices, 1):
            (tmp_path / "fs/btrfs" / fsid / "devices" / device).mkdir(parents=True)
            info = tmp_path / "fs/btrfs" / fsid / "devinfo" / str(number)
            info.mkdir(parents=True)
            (info / "error_stats").write_text(f"write_errs {number}\nread_errs 0\n")
    assert btrfs_errors("darkpipe-data", tmp_path) == {"write_errs": 3, "read_errs": 0}
    (tmp_path / "fs/btrfs/ours/devinfo/2/error_stats").write_text("invalid\n")
    assert btrfs_errors("sdb1", tmp_path) == {"write_errs": 1, "read_errs": 0}
    assert btrfs_errors("vda5", tmp_path) == btrfs_errors("gone", tmp_path) == btrfs_errors("", tmp_path) == {}


def test_a_folder_lies_on_a_device_or_on_none() -> None:
    """Held against the kernel's own table (proc_pid_mountinfo(5)); the last line for a place is the one on top."""
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    source = [row[row.index("-") + 2] for row in rows if row[4] == "/"][-1]
    assert device_of(Path("/")) == (Path(source).name if source.startswith("/dev/") else "")
    assert device_of(Path("/proc")) == ""


@pytest.mark.parametrize(
    ("encrypted", "told"),
    [(True, "of 2.0 GB free, encrypted"), (False, "of 2.0 GB free, not encrypted"), (None, "of 2.0 GB free")],
)
def test_status_says_whether_it_is_encrypted(encrypted: bool | None, told: str) -> None:
    found = Disk(size=2 * 10**9, free=10**9, write_error=None, errors={}, encrypted=encrypted)
    (line,) = [one for one in lines(status(disk=found)) if one.startswith("disk ")]
    assert line.endswith(told)
