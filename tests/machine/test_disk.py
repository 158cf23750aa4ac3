"""A disk's table and file systems, made by the device's own tools on files: a container has no disks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.build import SOURCE
from builder.disk import disk_size, place, table_script
from builder.profile import load_profile
from builder.root import Root
from tests.machine.machine import Machine

_PROFILE = load_profile(SOURCE / "profiles/raspberrypi")
_SEED = "1f2e3d4c-0000-4000-8000-000000000001"
_WORK = "/data/disk-test"
_EDGE = 2**20


@pytest.fixture
def work(device: Machine) -> Iterator[Path]:
    """A folder that is /data/disk-test on the device."""
    folder = device.data / "disk-test"
    folder.mkdir()
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _python(device: Machine, code: str) -> str:
    prelude = "import sys\nsys.path.insert(0, '/usr/lib/darkpipe')\nfrom pathlib import Path\nfrom uuid import UUID\n"
    done = subprocess.run(
        [*device.enter, "python3", "-I", "-"], input=f"{prelude}{code}", stdout=subprocess.PIPE, text=True, check=True
    )  # what the tools say on standard error is no part of it
    return done.stdout.strip()


def _empty(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_the_last_partition_of_the_raspberry_pis_table_grows(device: Machine, work: Path) -> None:
    """By sfdisk, one sector at a time: after each change the table is valid, and has the same partitions elsewhere."""
    card = _empty(work / "card", disk_size(_PROFILE))
    script = table_script(_PROFILE, Root(Path("/nowhere"), "4f0c" * 16, 4096))
    device.run("sfdisk", "--quiet", f"{_WORK}/card", stdin=script.encode())
    places = [0, *(row.start - _EDGE for row in place(_PROFILE) if row.number > 4)]
    layout = f"Layout.model_validate_json('{_PROFILE.layout().model_dump_json()}')"
    imports = "from firstboot import growing\nfrom model.layout import Layout\n"
    for size in (16 * 10**9, 32 * 10**9):
        with card.open("r+b") as file:
            file.truncate(size)
        before = _sectors(card, places)
        # Cut off after the first of the two changes.
        cut = "real = growing.changes\ngrowing.changes = lambda *given: real(*given)[:1]\n"
        grow = f"print(growing.grow_last(Path('{_WORK}/card'), {layout}))"
        assert "number=4" in _python(device, f"{imports}{cut}{grow}")
        assert "No errors detected" in device.run("sfdisk", "--verify", f"{_WORK}/card")
        between = _sectors(card, places)
        assert [old == new for old, new in zip(before, between, strict=True)] == [False, True, True, True, True]
        assert "number=8" in _python(device, f"{imports}{grow}")
        assert "No errors detected" in device.run("sfdisk", "--verify", f"{_WORK}/card")
        after = _sectors(card, places)
        assert [old == new for old, new in zip(between, after, strict=True)] == [True, True, True, True, False]
        assert _python(device, f"{imports}{grow}") == "None"
    end = 32 * 10**9 // _EDGE * _EDGE // 512
    rows = device.run("sfdisk", "--list", "--output", "End,Sectors", f"{_WORK}/card").splitlines()
    assert [row.split()[0] for row in rows[-5:]][-1] == str(end - 1)


def _sectors(path: Path, places: list[int]) -> list[bytes]:
    with path.open("rb") as file:
        content = []
        for start in places:
            file.seek(start)
            content.append(file.read(512))
    return content


@pytest.mark.parametrize(("kind", "check"), [("ext4", ("e2fsck", "-fn")), ("btrfs", ("btrfs", "check"))])
def test_a_file_system_is_made_over_an_unfinished_one(
    device: Machine, work: Path, kind: str, check: tuple[str, ...]
) -> None:
    """What is not marked goes, and what is marked stays; the mark harms nothing."""
    _empty(work / "partition", 256 * 2**20)
    path = f"{_WORK}/partition"
    device.run(f"mkfs.{kind}", "-q", "-L", "before", path)
    before = device.run("blkid", "--probe", "--output", "value", "--match-tag", "UUID", path)
    make = (
        "from firstboot.making import ensure_file_system\nfrom model.layout import FileSystem\n"
        f"print(ensure_file_system(Path('{path}'), FileSystem('{kind}'), 'darkpipe-{kind}'))"
    )
    assert _python(device, make) == "True"
    made = device.run("blkid", "--probe", "--output", "value", "--match-tag", "UUID", path)
    assert made != before
    assert _python(device, make) == "False"
    assert device.run("blkid", "--probe", "--output", "value", "--match-tag", "UUID", path) == made
    assert (
        device.run("blkid", "--probe", "--output", "value", "--match-tag", "LABEL", path).strip() == f"darkpipe-{kind}"
    )
    device.run(*check, path)


def test_a_usb_disk_that_was_cut_off_is_known_again(device: Machine, work: Path) -> None:
    """Any part of the table that systemd-repart writes with our seed is ours, and nothing else is."""
    disk = _empty(work / "disk", 8 * 10**9)
    path = f"{_WORK}/disk"
    options = ("--dry-run=no", "--empty=require", f"--seed={_SEED}")
    # Without the file system, for which a container has no loop devices; the table is the same.
    device.run("systemd-repart", *options, "--definitions=/usr/share/darkpipe/bare-data-disk.d", path)

    def judge(seed: str = _SEED, *, bare: bool = False) -> str:
        edges = f"usb_disk.read_edges(Path('{path}'))"
        call = f"usb_disk.is_unfinished(Path('{path}'), {edges}, 512, UUID('{seed}'), bare={bare})"
        return _python(device, f"from firstboot import usb_disk\nprint({call})")

    assert judge() == "False", "the table is whole"
    assert judge(bare=True) == "True", "and nothing is in its partition yet"
    with disk.open("r+b") as file:
        file.write(bytes(512))  # the protective MBR, which comes last
    assert judge() == "True"
    assert judge(_SEED.replace("1f2e", "ffff")) == "False", "another device's"
    with disk.open("r+b") as file:
        file.write(bytes(_EDGE))
    assert judge() == "True", "only the backup table"
    with disk.open("r+b") as file:
        file.seek(4096)
        file.write(b"a photo")
    assert judge() == "False"
