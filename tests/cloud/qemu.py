"""A cloud machine in QEMU, with a kernel, a disk and a way to Debian's archive of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.emulator import Forward, accelerator
from builder.sandbox import Sandbox
from builder.tools import EMULATOR, open_tools
from builder.workshop import Workshop
from tests.cloud.root import CloudRoot
from tests.cloud.seed import Seed
from tests.console import Console

_BOOT_SECONDS = 600
_SCRIPT = Path(__file__).with_name("disk.sh")
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_ROOT_SHELL = """\
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 %I linux
"""
_COMMAND_LINE = "root=LABEL=cloudimg-rootfs rw console=ttyS0,115200 quiet mitigations=off"


@dataclass(frozen=True)
class EmulatedVps:
    """A running machine, with a root shell on its console."""

    console: Console

    def lines(self, command: str) -> list[str]:
        """Run a command that must succeed and give its lines that are not empty."""
        outcome = self.console.run(command)
        assert outcome.status == 0, f"{command}: {outcome}"
        return [line for line in outcome.output.splitlines() if line.strip()]


@contextmanager
def emulated_vps(
    shop: Workshop, root: CloudRoot, seed: Seed, log: Path, forwards: Sequence[Forward] = ()
) -> Iterator[EmulatedVps]:
    """Start a machine for the first time and wait for its console, which comes before cloud-init has ended.

    Args:
        root: a bootable one.
        seed: the provider's data, on a disk of its own.
        log: takes all that the console shows.
        forwards: local ports that lead to the machine.

    Raises:
        BuildError: a tool is missing.
    """
    emulator = open_tools(EMULATOR, shop.cache, shop.archive, shop.stages)
    with shop.cache.workspace() as work:
        disk, seed_disk = _make_disks(shop, root, seed, work)
        argv = _command(emulator, root, (disk, seed_disk), accelerator(emulator, work), forwards)
        console = Console(emulator.command(argv), log, _BOOT_SECONDS)
        try:
            console.log_in()
            yield EmulatedVps(console)
            console.power_off()
        finally:
            console.close()


def _command(
    emulator: Sandbox, root: CloudRoot, disks: Sequence[Path], accelerated: Sequence[str], forwards: Sequence[Forward]
) -> list[str]:
    drives = [f"if=virtio,format=raw,cache=unsafe,file={emulator.inside(disk)}" for disk in disks]
    ports = [f"hostfwd=tcp:127.0.0.1:{forward.host}-:{forward.guest}" for forward in forwards]
    return [
        "qemu-system-x86_64",
        *("-machine", "q35", *accelerated, "-m", "1024"),
        *("-display", "none", "-monitor", "none", "-serial", "stdio", "-no-user-config"),
        *("-kernel", emulator.inside(root.kernel), "-initrd", emulator.inside(root.initrd), "-append", _COMMAND_LINE),
        *(word for drive in drives for word in ("-drive", drive)),
        # IPv6 would lead nowhere where this computer has none, and apt would try it first.
        *("-nic", ",".join(["user,model=virtio-net-pci,ipv6=off", *ports])),
        *("-device", "virtio-rng-pci"),
    ]


def _make_disks(shop: Workshop, root: CloudRoot, seed: Seed, work: Path) -> tuple[Path, Path]:
    layer, files, scratch = work / "layer", work / "seed", work / "scratch"
    for folder in (layer, files, scratch):
        folder.mkdir()
    _lay_over(layer)
    for name, text in seed.files().items():
        (files / name).write_text(text, encoding="utf-8")
    shutil.copy(_SCRIPT, work / _SCRIPT.name)
    disk, seed_disk = work / "disk.img", work / "seed.img"
    given = (work / _SCRIPT.name, root.tar, layer, files, disk, seed_disk)
    with shop.stages.stage("Disk of the cloud machine"):
        shop.tools.run(["sh", *map(shop.tools.inside, given)], scratch=scratch)
    return disk, seed_disk


def _lay_over(layer: Path) -> None:
    """Write what this computer's surroundings ask for, and a shell on the console, as a provider's rescue console."""
    files = {
        "etc/systemd/system/serial-getty@ttyS0.service.d/root-shell.conf": _ROOT_SHELL,
        "etc/apt/apt.conf.d/99test-network": _apt_settings(),
    }
    for name, text in files.items():
        (layer / name).parent.mkdir(parents=True, exist_ok=True)
        (layer / name).write_text(text, encoding="utf-8")
    certificates = Path(os.environ.get("SSL_CERT_FILE") or _CERTIFICATES)
    target = layer / _CERTIFICATES.lstrip("/")
    target.parent.mkdir(parents=True)
    shutil.copyfile(certificates, target)


def _apt_settings() -> str:
    """This computer's proxies, as apt.conf(5) has them."""
    shown = subprocess.run(["apt-config", "dump"], stdout=subprocess.PIPE, text=True, check=True).stdout
    lines = [line for line in shown.splitlines() if line.startswith(("Acquire::http", "Acquire::https"))]
    named = {scheme: os.environ.get(f"{scheme}_proxy") for scheme in ("http", "https")}
    lines += [f'Acquire::{scheme}::Proxy "{proxy}";' for scheme, proxy in named.items() if proxy]
    return "".join(f"{line}\n" for line in lines)
