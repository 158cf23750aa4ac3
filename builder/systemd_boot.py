"""The boot partition of machines with UEFI: systemd-boot and one unified kernel image."""

from __future__ import annotations

import shutil
from pathlib import Path

from builder.packages import BUILD_EPOCH, PackageLayer
from builder.profile import Profile
from builder.sandbox import Sandbox
from builder.version import VERSION

_LOADER_CONF = """\
# One entry, no menu: somebody at the keyboard cannot change how the system starts.
timeout 0
editor no
auto-entries no
auto-firmware no
"""


def fill(tree: Path, tools: Sandbox, profile: Profile, packages: PackageLayer, command_line: str) -> None:
    """Fill an empty folder with the files of the EFI system partition (systemd-boot(7), ukify(1))."""
    del profile
    for folder in ("EFI/BOOT", "EFI/Linux", "loader"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(packages.boot_files / "systemd-bootx64.efi", tree / "EFI/BOOT/BOOTX64.EFI")
    (tree / "loader/loader.conf").write_text(_LOADER_CONF)
    os_release = tree.parent / "os-release"
    os_release.write_text(f'ID=darkpipe\nNAME=DarkPipe\nPRETTY_NAME="DarkPipe {VERSION}"\nVERSION_ID={VERSION}\n')
    tools.run(
        [
            "ukify",
            "build",
            f"--linux={tools.inside(packages.kernel)}",
            f"--initrd={tools.inside(packages.initrd)}",
            f"--cmdline={command_line}",
            f"--os-release=@{tools.inside(os_release)}",
            f"--uname={packages.kernel_version}",
            f"--stub={tools.inside(packages.boot_files / 'linuxx64.efi.stub')}",
            f"--output={tools.inside(tree / f'EFI/Linux/darkpipe-{VERSION}.efi')}",
        ],
        environment={"SOURCE_DATE_EPOCH": str(BUILD_EPOCH)},
    )
