"""Flashing to plain files, and the judgement of disks in a faked /sys; tests/machine uses real loop devices."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from builder.commands.flash import flash
from builder.errors import BuildError
from builder.flash import Image, open_image, state_after, write_disk
from builder.packing import Packing
from builder.progress import Advance, Stages
from builder.sandbox import Sandbox
from builder.target_disk import Disk, examine_disk, examine_number, refuse
from tests.flash_sample import SIZE, make_result

_UNPACK = {
    "zstd": """
import sys, zstandard
packed = sys.stdin.buffer.read()
while packed:
    frame = zstandard.ZstdDecompressor().decompressobj()
    sys.stdout.buffer.write(frame.decompress(packed))
    sys.stdout.flush()
    if not frame.eof:
        sys.exit("cut short")
    packed = frame.unused_data
""",
    "xz": "import sys, lzma, shutil; shutil.copyfileobj(lzma.open(sys.stdin.buffer), sys.stdout.buffer)",
}


class _Tools(Sandbox):
    """Stands in for the tools tree: unpacks with a library."""

    def command(self, argv: Sequence[str], memory: str = "1g") -> tuple[str, ...]:
        assert memory
        return (sys.executable, "-c", _UNPACK[argv[0]])


class _Meddler(Stages):
    """Does something when a stage has come to a point."""

    def __init__(self, stage: str, meddle: object) -> None:
        super().__init__()
        self._stage, self._meddle = stage, meddle

    @contextmanager
    def stage(self, name: str, reason: str = "") -> Iterator[Advance]:
        def advance(fraction: float, detail: str) -> None:
            assert 0 < fraction <= 1, detail
            if fraction > 0.4 and name == self._stage and self._meddle is KeyboardInterrupt:
                raise KeyboardInterrupt(reason)

        if name == self._stage and callable(self._meddle) and self._meddle is not KeyboardInterrupt:
            self._meddle()
        yield advance


@pytest.fixture(params=Packing)
def image(tmp_path: Path, request: pytest.FixtureRequest) -> Image:
    make_result(tmp_path / "result", request.param)
    return open_image(tmp_path / "result")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A disk that is larger than the image and was used before."""
    path = tmp_path / "disk"
    path.write_bytes(b"\xaa" * (SIZE + 4 * 2**20))
    return path


def _tools(tmp_path: Path) -> Sandbox:
    return _Tools(tmp_path, tmp_path)


def test_mapped_blocks_are_written_and_the_old_end_is_cleared(image: Image, target: Path, tmp_path: Path) -> None:
    write_disk(image, target, _tools(tmp_path), Stages())
    raw, written = (tmp_path / "raw").read_bytes(), target.read_bytes()
    for entry in image.block_map.ranges:
        assert written[entry.start : entry.start + entry.size] == raw[entry.start : entry.start + entry.size]
    assert written[2**20 : 3 * 2**20] == b"\xaa" * 2 * 2**20, "what is not mapped is not written"
    assert written[-(2**20) :] == bytes(2**20), "a former table's backup must not come back"
    assert len(written) == SIZE + 4 * 2**20


def _to_file(image: Image, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Result:
    monkeypatch.setenv("DARKPIPE_CONTAINER", "never")
    monkeypatch.setattr("builder.sandbox.check_namespaces", lambda: None)
    monkeypatch.setattr("builder.tools.open_tools", lambda *_: _tools(tmp_path))
    arguments = [str(image.packed.parent), str(target), "--plain-file", *options]
    return CliRunner().invoke(flash, arguments)


def test_a_file_with_something_in_it_is_not_overwritten_unasked(
    image: Image, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the disk of a virtual machine, with all mail that was ever sent to it."""
    before = target.read_bytes()
    for options in ((), ("--confirm", "another")):
        refused = _to_file(image, target, tmp_path, monkeypatch, *options)
        assert isinstance(refused.exception, BuildError)
        assert target.name in f"{refused.exception} {refused.exception.hint}"
    assert target.read_bytes() == before
    assert _to_file(image, target, tmp_path, monkeypatch, "--confirm", target.name).exit_code == 0
    assert target.read_bytes()[: 2**20] == (tmp_path / "raw").read_bytes()[: 2**20]


def test_a_file_that_is_missing_or_empty_is_made(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, empty = tmp_path / "new.img", tmp_path / "empty.img"
    empty.touch()
    for path in (new, empty):
        assert _to_file(image, path, tmp_path, monkeypatch).exit_code == 0
        assert path.read_bytes() == (tmp_path / "raw").read_bytes()
    assert new.stat().st_mode & 0o077 == 0


def test_an_interrupted_flash_leaves_no_partition_table_and_says_so(image: Image, target: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_disk(image, target, _tools(tmp_path), _Meddler("Write", KeyboardInterrupt))
    assert target.read_bytes()[: 2**20] == bytes(2**20)
    assert "no partition table now" in state_after(target)


def test_an_interrupted_reading_back_is_told_apart(image: Image, target: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_disk(image, target, _tools(tmp_path), _Meddler("Read back", KeyboardInterrupt))
    assert "not verified to its end" in state_after(target)


def test_a_disk_that_does_not_keep_what_was_written_is_found(image: Image, target: Path, tmp_path: Path) -> None:
    position = image.block_map.ranges[1].start + 12345

    def lose() -> None:
        with target.open("r+b") as file:
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 1]))

    with pytest.raises(BuildError, match=r"does not hold what was written.*blocks 768-"):
        write_disk(image, target, _tools(tmp_path), _Meddler("Read back", lose))


def test_a_damaged_image_is_refused_before_anything_is_written(image: Image) -> None:
    content = bytearray(image.packed.read_bytes())
    content[1000] ^= 1
    image.packed.write_bytes(content)
    with pytest.raises(BuildError, match="is damaged"):
        open_image(image.packed.parent)


def test_an_image_that_changes_while_it_is_written_is_found(image: Image, target: Path, tmp_path: Path) -> None:
    """Whatever unpacks to something else than the map says: another image is in its place."""
    (tmp_path / "other").mkdir()
    make_result(tmp_path / "other/result")
    shorter = image.packed.read_bytes()[:1000]
    image.packed.write_bytes(shorter)
    with pytest.raises(BuildError, match=r"ends too early|is damaged"):
        write_disk(image, target, _tools(tmp_path), Stages())
    assert "no partition table now" in state_after(target)


def test_an_image_that_is_cut_short_behind_its_last_mapped_block_is_found(
    image: Image, target: Path, tmp_path: Path
) -> None:
    """All of it may have been read by then, but the checksum at its end is not there; the disk is not to blame."""
    image.packed.write_bytes(image.packed.read_bytes()[:-4])
    with pytest.raises(BuildError, match=r"ends too early|is damaged") as caught:
        write_disk(image, target, _tools(tmp_path), Stages())
    assert caught.value.hint == "copy or build it again"
    assert "no partition table now" in state_after(target)


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="holds 0 images"):
        open_image(tmp_path)


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A faked /sys and /proc of a computer with a stick, sdx, that has one partition."""
    root = tmp_path / "fake"
    disk = root / "sys/devices/usb/block/sdx"
    files = {
        disk / "dev": "8:368",
        disk / "size": str(32 * 10**9 // 512),
        disk / "ro": "0",
        disk / "device/vendor": "Acme    ",
        disk / "device/model": "Stick 3000 ",
        disk / "device/serial": "S123",
        disk / "sdx1/dev": "8:369",
        disk / "sdx1/partition": "1",
        root / "proc/self/mountinfo": "22 1 253:1 / / rw - ext4 /dev/vda1 rw\n",
        root / "proc/swaps": "Filename Type Size Used Priority\n",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (disk / "holders").mkdir()
    (disk / "sdx1/holders").mkdir()
    numbers = root / "sys/dev/block"
    numbers.mkdir(parents=True)
    (numbers / "8:368").symlink_to(disk)
    (numbers / "8:369").symlink_to(disk / "sdx1")
    return root


def _disk(system: Path) -> Disk:
    return examine_number(Path("/dev/sdx"), 8, 368, system)


def test_a_free_disk_is_described_and_allowed(system: Path) -> None:
    disk = _disk(system)
    assert disk.describe() == "/dev/sdx: Acme Stick 3000, 32.0 GB, serial number S123"
    refuse(disk, 16 * 10**9, force=False)


def test_mounts_swap_and_holders_of_disk_and_partitions(system: Path) -> None:
    disk = system / "sys/devices/usb/block/sdx"
    with (system / "proc/self/mountinfo").open("a") as file:
        file.write("23 1 8:369 / /mnt/my\\040stick rw shared:1 - vfat /dev/sdx1 rw\n")
    (disk / "sdx1/holders/dm-3").mkdir()
    name = system / "sys/class/block/dm-3/dm/name"
    name.parent.mkdir(parents=True)
    name.write_text("vault-home\n")
    (disk / "holders/md0").mkdir()
    assert _disk(system).uses == (
        "sdx1 is mounted on /mnt/my stick",
        "sdx is held by md0 (LVM, encryption or RAID)",
        "sdx1 is held by vault-home (LVM, encryption or RAID)",
    )
    with pytest.raises(BuildError, match="in use"):
        refuse(_disk(system), 0, force=True)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("size", str(8 * 10**9 // 512), r"has 8\.0 GB, the image needs 16 GB"),
        ("size", str(4 * 10**12 // 512), r"4\.0 TB: a disk above 2 TB"),
        ("ro", "1", "cannot be written"),
    ],
)
def test_unfit_disks(system: Path, name: str, text: str, words: str) -> None:
    (system / "sys/devices/usb/block/sdx" / name).write_text(text)
    with pytest.raises(BuildError, match=words):
        refuse(_disk(system), 16 * 10**9, force=False)


def test_force_is_for_large_disks_only(system: Path) -> None:
    (system / "sys/devices/usb/block/sdx/size").write_text(str(4 * 10**12 // 512))
    refuse(_disk(system), 16 * 10**9, force=True)
    (system / "sys/devices/usb/block/sdx/size").write_text("1000")
    with pytest.raises(BuildError, match="needs 16 GB"):
        refuse(_disk(system), 16 * 10**9, force=True)


def test_a_partition_and_what_is_no_disk(system: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="is a partition of /dev/sdx"):
        examine_number(Path("/dev/sdx1"), 8, 369, system)
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="is no disk"):
        examine_disk(tmp_path / "file")
    with pytest.raises(BuildError, match="cannot be used"):
        examine_disk(tmp_path / "absent")
