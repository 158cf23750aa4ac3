"""`./darkpipe flash` on real block devices: loop devices of the kernel that the tests run on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.flash_sample import SIZE, make_result

REPOSITORY = Path(__file__).resolve().parents[2]
_MIB = 2**20


class Loop:
    """A loop device and the file behind it."""

    def __init__(self, file: Path, size: int) -> None:
        self.file = file
        file.write_bytes(b"\xaa" * size)
        self.device = _output("losetup", "--find", "--show", str(file))

    def content(self) -> bytes:
        """What the disk holds."""
        return self.file.read_bytes()

    def detach(self) -> None:
        """Give the device back."""
        subprocess.run(["losetup", "--detach", self.device], check=True)


@pytest.fixture
def result(tmp_path: Path) -> Path:
    make_result(tmp_path / "result")
    return tmp_path / "result"


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    made = Loop(tmp_path / "disk", SIZE + 8 * _MIB)
    yield made
    made.detach()


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _flash(result: Path, device: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "builder", "flash", str(result), device, *options]
    return subprocess.run(
        command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _is_flashed(loop: Loop, result: Path) -> bool:
    raw = (result.parent / "raw").read_bytes()
    content = loop.content()
    return content[:_MIB] == raw[:_MIB] and content[3 * _MIB : 9 * _MIB] == raw[3 * _MIB : 9 * _MIB]


def test_somebody_types_the_disk_s_name(result: Path, loop: Loop) -> None:
    name = Path(loop.device).name
    arguments = ["-m", "builder", "flash", str(result), loop.device]
    console = pexpect.spawn(sys.executable, arguments, cwd=str(REPOSITORY), encoding="utf-8", timeout=120)
    console.expect(rf"{loop.device}: .*0\.0 GB")
    console.expect(f"Type {name} to go on: ")
    console.sendline(name)
    console.expect("as reading it back has shown")
    console.expect(pexpect.EOF)
    console.close()
    assert console.exitstatus == 0
    assert _is_flashed(loop, result)


@pytest.mark.parametrize(
    ("options", "words"), [((), "nobody can be asked"), (("--confirm", "sda9"), "nothing was written")]
)
def test_without_the_right_name_nothing_is_written(
    result: Path, loop: Loop, options: tuple[str, ...], words: str
) -> None:
    refused = _flash(result, loop.device, *options)
    assert refused.returncode == 1
    assert words in refused.stderr
    assert set(loop.content()) == {0xAA}


def test_a_mounted_disk_is_refused_even_with_force(result: Path, loop: Loop, tmp_path: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", loop.device], check=True)
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", loop.device, str(place)], check=True)
    try:
        refused = _flash(result, loop.device, "--confirm", Path(loop.device).name, "--force")
        assert refused.returncode == 1
        assert f"is mounted on {place}" in refused.stderr
        (place / "still-there").write_text("good")
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert not _is_flashed(loop, result)


def test_the_kernel_s_own_word_counts_as_well(result: Path, loop: Loop) -> None:
    """A disk that somebody holds in a way that /proc and /sys do not show."""
    holder = [
        sys.executable,
        "-c",
        "import os, sys; os.open(sys.argv[1], os.O_RDWR | os.O_EXCL); print(flush=True); input()",
    ]
    with subprocess.Popen([*holder, loop.device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        refused = _flash(result, loop.device, "--confirm", Path(loop.device).name)
        process.communicate("\n")
    assert refused.returncode == 1
    assert "cannot be opened: Device or resource busy" in refused.stderr
    assert set(loop.content()) == {0xAA}


def test_a_disk_that_is_too_small(result: Path, tmp_path: Path) -> None:
    small = Loop(tmp_path / "small", 4 * _MIB)
    try:
        refused = _flash(result, small.device, "--confirm", Path(small.device).name, "--force")
        assert refused.returncode == 1
        assert "use a larger disk" in refused.stderr
        assert set(small.content()) == {0xAA}
    finally:
        small.detach()


def test_a_file_is_flashed_only_on_demand(result: Path, tmp_path: Path) -> None:
    target = tmp_path / "card.img"
    target.touch()
    assert "--plain-file" in _flash(result, str(target)).stderr
    target.unlink()
    assert _flash(result, str(target), "--plain-file").returncode == 0
    assert target.read_bytes() == (tmp_path / "raw").read_bytes()
    assert target.stat().st_mode & 0o077 == 0
