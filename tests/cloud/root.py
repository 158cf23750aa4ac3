"""The root file system of a cloud machine: what decides how cloud-init and the network behave in Debian's cloud images.

It is made by the builder's tools and kept in the builder's cache. Nothing of ours is in it.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bootstrap.user_data import PACKAGES
from builder import foreign
from builder.archive import SUITE
from builder.digests import content_id, file_digest
from builder.tools import open_tools
from builder.workshop import Workshop

_KIND = "cloud"
"""The cache's folder."""

_SCRIPT = Path(__file__).with_name("root.sh")

_PACKAGES = (
    "apt-utils",
    "bind9-host",
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "curl",
    "dbus",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "libpam-systemd",
    "locales",
    "logrotate",
    "lsb-release",
    "netbase",
    "netcat-openbsd",
    "netplan.io",
    "openssh-server",
    "procps",
    "python3",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-timesyncd",
    "udev",
    "unattended-upgrades",
)
"""Of Debian's images `genericcloud` what a program could meet; these have neither ifupdown nor NetworkManager."""

_BOOTABLE = ("cloud-initramfs-growroot", "initramfs-tools")

RELAY_PACKAGES = (*PACKAGES, "openvpn", "tang", "tcpdump", "wireguard-go")
"""What a relay installs, and what its tests look with."""


class Suite(StrEnum):
    """The Debian versions that a provider may give."""

    BOOKWORM = "bookworm"
    TRIXIE = "trixie"


class Architecture(StrEnum):
    """The processors that a provider may give, by Debian's names."""

    AMD64 = "amd64"
    ARM64 = "arm64"


@dataclass(frozen=True)
class CloudSystem:
    """What is wanted.

    Args:
        bootable: with kernel and initramfs; a container needs none.
        installed: further packages, which the provider's image would not have.
    """

    suite: Suite = Suite.TRIXIE
    bootable: bool = False
    installed: tuple[str, ...] = ()
    architecture: Architecture = Architecture.AMD64

    @property
    def packages(self) -> list[str]:
        """What is installed beside Debian's essential packages and apt."""
        bootable = (*_BOOTABLE, f"linux-image-cloud-{self.architecture}") if self.bootable else ()
        return sorted({*_PACKAGES, *bootable, *self.installed})


@dataclass(frozen=True)
class CloudRoot:
    """A finished root file system.

    Args:
        folder: holds `root.tar` without device nodes; of a bootable system also `vmlinuz` and `initrd`.
    """

    folder: Path
    architecture: Architecture = Architecture.AMD64

    @property
    def tar(self) -> Path:
        """The root file system."""
        return self.folder / "root.tar"

    @property
    def kernel(self) -> Path:
        """The kernel of a bootable system."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initramfs that fits the kernel."""
        return self.folder / "initrd"


def cloud_root(shop: Workshop, system: CloudSystem) -> CloudRoot:
    """Give a cloud machine's root file system, made from Debian's archive when the cache lacks this month's.

    Raises:
        BuildError: the archive cannot be reached, or a package does not install.
    """
    mirrors = [mirror.replace(SUITE, system.suite) for mirror in shop.archive.mirrors]
    inputs = {
        "suite": system.suite,
        "architecture": system.architecture,
        "packages": system.packages,
        "bootable": system.bootable,
        "mirrors": mirrors,
        # Security updates come within days, and a cloud machine fetches them by itself.
        "month": time.strftime("%Y-%m", time.gmtime()),
        "code": [file_digest(path) for path in (Path(__file__), _SCRIPT)],
    }
    if entry := shop.cache.find(_KIND, content_id(inputs)):
        return CloudRoot(entry, system.architecture)
    is_foreign = foreign.is_foreign(system.architecture)
    tools = open_tools(foreign.FOREIGN_TOOLS, shop.cache, shop.archive, shop.stages) if is_foreign else shop.tools
    title = f"Cloud machine, {system.suite}, {system.architecture}{', with kernel' if system.bootable else ''}"
    with shop.stages.stage(title, "Debian packages; some minutes") as advance:

        def make(made: Path) -> None:
            scratch, script = made.parent / "scratch", made.parent / _SCRIPT.name
            scratch.mkdir()
            across = foreign.Foreign()
            if is_foreign:
                (made.parent / "foreign").mkdir()
                across = foreign.prepare(tools, made.parent / "foreign")
                # Scripts of packages look for perl's modules where this computer's perl has others.
                shutil.rmtree(made.parent / "foreign/native/perl-base", ignore_errors=True)
            script.write_text(_SCRIPT.read_text(encoding="utf-8"), encoding="utf-8")
            seen, result = tools.inside(script), tools.inside(made)
            tools.run(
                [
                    *across.prefix,
                    "mmdebstrap",
                    *across.options,
                    *("--variant=minbase", "--mode=root", "--format=tar", "--verbose"),
                    f"--arch={system.architecture}",
                    f"--include={','.join(system.packages)}",
                    # locale-gen(8) needs /usr/share/locale, and cloud-init needs locale-gen.
                    *(option for option in shop.archive.path_exclusions if "/locale/" not in option),
                    *across.after_packages,
                    f'--customize-hook=sh {seen} "$1" {result}',
                    *across.last_hook,
                    *(system.suite, f"{result}/root.tar", *mirrors),
                ],
                # The initramfs is made when all is there.
                environment={"DEBIAN_FRONTEND": "noninteractive", "INITRD": "No"},
                on_line=shop.archive.counter(advance),
                scratch=scratch,
            )

        return CloudRoot(shop.cache.produce(_KIND, title, inputs, make), system.architecture)
