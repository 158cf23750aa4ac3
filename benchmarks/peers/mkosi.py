"""mkosi: a disk image of the same packages, initramfs, formats and compression (mkosi(1), repart.d(5))."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.peers.bare import x64_packages
from builder.archive import SUITE
from builder.sandbox import Sandbox
from builder.tools import ToolsTree

MKOSI_TOOLS = ToolsTree(
    "mkosi",
    (
        "cpio",
        "cryptsetup-bin",
        "debian-archive-keyring",
        "dosfstools",
        "erofs-utils",
        "kmod",
        "mkosi",
        "mtools",
        "python3-pefile",
        "systemd-boot-efi",
        "systemd-repart",
        "systemd-ukify",
        "uidmap",
        "zstd",
    ),
)

CONFIGURATION = """\
[Distribution]
Distribution=debian
Release={suite}
Architecture=x86-64

[Output]
Format=disk
ImageId=peer
OutputDirectory={work}/result
CompressOutput=zstd
CompressLevel=3

[Content]
Packages={packages}
WithDocs=no
Bootable=yes
Bootloader=systemd-boot
UnifiedKernelImages=yes
Initrds={work}/initrd
KernelModulesInitrd=no
KernelCommandLine=console=ttyS0 quiet

[Build]
WorkspaceDirectory={work}/workspace
PackageCacheDirectory={work}/downloads
"""
"""mkosi.conf; what it does not say is mkosi's default."""

PARTITIONS = {
    "00-esp.conf": """\
[Partition]
Type=esp
Format=vfat
CopyFiles=/efi:/
CopyFiles=/boot:/
SizeMinBytes=1G
SizeMaxBytes=1G
""",
    "10-root.conf": """\
[Partition]
Type=root
Format=erofs
Compression=lz4
CopyFiles=/
Verity=data
VerityMatchKey=root
Minimize=best
""",
    "20-verity.conf": """\
[Partition]
Type=root-verity
Verity=hash
VerityMatchKey=root
Minimize=best
""",
}
"""mkosi.repart/."""

_SOURCE = """\
Types: deb
URIs: {uri}
Suites: {suite}
Components: {components}
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

"""


def run_mkosi(tools: Sandbox, initrd: Path, folder: Path) -> Path:
    """Build mkosi's image, from nothing but its tools and an initramfs.

    Args:
        initrd: our own; mkosi is spared to make one.
        folder: an empty one below the tools' cache.

    Returns:
        The compressed image.

    Raises:
        ToolError: mkosi has failed.
    """
    config = folder / "config"
    sources = config / "mkosi.sandbox/etc/apt/sources.list.d"
    for path in (sources, config / "mkosi.repart", *(folder / name for name in ("result", "workspace", "downloads"))):
        path.mkdir(parents=True)
    shutil.copy(initrd, folder / "initrd")
    text = CONFIGURATION.format(suite=SUITE, work=tools.inside(folder), packages=",".join(x64_packages()))
    (config / "mkosi.conf").write_text(text)
    for name, partition in PARTITIONS.items():
        (config / "mkosi.repart" / name).write_text(partition)
    # mkosi's default names an archive of debugging symbols besides, which no mirror of Debian has.
    (sources / "mkosi.sources").write_text(_sources(tools))
    scratch = folder / "scratch"
    scratch.mkdir()
    tools.run(["mkosi", f"--directory={tools.inside(config)}", "build"], scratch=scratch)
    return folder / "result/peer.raw.zst"


def _sources(tools: Sandbox) -> str:
    """Write the archive that the tools came from in the form of apt's .sources files (sources.list(5))."""
    lines = (tools.tree / "etc/apt/sources.list").read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if line.startswith("deb ")]
    return "".join(_SOURCE.format(uri=row[1], suite=row[2], components=" ".join(row[3:])) for row in rows)
