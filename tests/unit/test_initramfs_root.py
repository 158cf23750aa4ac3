"""The initramfs: which partition it takes for the root. Its script runs with stand-ins for udevadm(8) and sleep(1)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from builder.build import SOURCE

_SCRIPT = SOURCE / "profiles/common/initramfs/scripts/local-top/darkpipe"
_UUID = "4f0c4f0c-4f0c-4f0c-4f0c-4f0c4f0c4f0c"

_UDEVADM = """\
#!/bin/sh
[ "$*" = "info --export-db" ] || exit 2
cat "$FOLDER/vda"
# The owner takes the other disk out when the console has said so.
[ -s "$FOLDER/console" ] || cat "$FOLDER/sda" 2>/dev/null
exit 0
"""


def _record(name: str, uuid: str) -> str:
    """Give a record as `udevadm info --export-db` has it."""
    disk = f"P: /devices/pci0/{name}\nM: {name}\nN: {name}\nE: DEVNAME=/dev/{name}\nE: DEVTYPE=disk\n"
    part = f"P: /devices/pci0/{name}/{name}2\nM: {name}2\nN: {name}2\nS: disk/by-partuuid/{uuid}\n"
    return f"{disk}\n{part}E: DEVNAME=/dev/{name}2\nE: ID_PART_ENTRY_UUID={uuid}\nE: ID_PART_ENTRY_NUMBER=2\n\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A machine with one disk."""
    (tmp_path / "by-partuuid").mkdir()
    (tmp_path / "by-partuuid" / _UUID).touch()
    (tmp_path / "cmdline").write_text(f"quiet darkpipe.root={_UUID} darkpipe.hash=ab darkpipe.tree=4096\n")
    (tmp_path / "vda").write_text(_record("vda", _UUID))
    (tmp_path / "console").touch()
    for name, text in (("udevadm", _UDEVADM), ("sleep", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def _find_root(folder: Path) -> str:
    text = _SCRIPT.read_text().partition("# A block that does not fit")[0]
    places = {
        ". /scripts/functions\n": "",
        "/proc/cmdline": f"{folder}/cmdline",
        "/dev/disk/by-partuuid": f"{folder}/by-partuuid",
        ">/dev/console": f">>{folder}/console",
    }
    for old, new in places.items():
        assert old in text
        text = text.replace(old, new)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "FOLDER": str(folder)}
    script = f'{text}\nprintf "%s" "$partition"'
    done = subprocess.run(
        ["sh", "-c", script], env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    return done.stdout


def test_the_root_is_the_partition_with_the_identifier(folder: Path) -> None:
    (folder / "sda").write_text(_record("sda", _UUID.replace("4", "5")))
    assert _find_root(folder) == "/dev/vda2"
    assert (folder / "console").read_text() == ""


def test_with_the_same_on_two_disks_it_waits_and_says_why(folder: Path) -> None:
    (folder / "sda").write_text(_record("sda", _UUID))
    assert _find_root(folder) == "/dev/vda2"
    told = "waiting for one disk only: this system is on more than one (/dev/vda2 /dev/sda2). Take the others out"
    assert told in (folder / "console").read_text()
