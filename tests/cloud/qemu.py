"""A cloud machine in QEMU, with a kernel, a disk and a way to Debian's archive of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.emulator import Forward, accelerator
from builder.sandbox import Sandbox
from builder.tools import EMULATOR, EMULATOR_ARM64, ToolsTree, open_tools
from builder.workshop import Workshop
from tests.cloud.root import Architecture, CloudRoot
from tests.cloud.seed import Seed
from tests.console import Console
from tests.network.net import Namespace

_BOOT_SECONDS = 1200
_SCRIPT = Path(__file__).with_name("disk.sh")
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_ROOT_SHELL = """\
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 %I linux
"""
_COMMAND_LINE = "root=LABEL=cloudimg-rootfs rw console={},115200 quiet mitigations=off net.ifnames=0"


@dataclass(frozen=True)
class _Board:
    """What an emulated machine is.

    Args:
        console: name of its serial console.
        processor: options for an emulated one; None to have this computer's, where that works.
    """

    tools: ToolsTree
    program: str
    machine: str
    console: str
    processor: tuple[str, ...] | None = None


_BOARDS = {
    Architecture.AMD64: _Board(EMULATOR, "qemu-system-x86_64", "q35", "ttyS0"),
    Architecture.ARM64: _Board(
        EMULATOR_ARM64,
        "qemu-system-aarch64",
        "virt,gic-version=3",
        "ttyAMA0",
        ("-accel", "tcg,tb-size=512", "-cpu", "cortex-a72", "-smp", "1"),
    ),
}


@dataclass(frozen=True)
class Cable:
    """A cable of a machine's that ends in a network which a test has made.

    Args:
        place: the network.
        tap: name of the cable's end there, a tap(4) interface, which is there already.
    """

    place: Namespace
    tap: str


class EmulatedVps:
    """A machine that runs, with a root shell on its console.

    Args:
        start: switches it on, with the disk that it has, and gives its console.
        disk: the file with that disk.
    """

    def __init__(self, start: Callable[[], Console], disk: Path) -> None:
        self._start, self.disk = start, disk
        self.console = start()

    def cut_power(self) -> None:
        """End it as a power cut would, and switch it on again; its console has no shell yet."""
        self.console.close()
        self.console = self._start()

    def lines(self, command: str) -> list[str]:
        """Run a command that must succeed and give its lines that are not empty."""
        outcome = self.console.run(command)
        assert outcome.status == 0, f"{command}: {outcome}"
        return [line for line in outcome.output.splitlines() if line.strip()]


@contextmanager
def emulated_vps(
    shop: Workshop, root: CloudRoot, seed: Seed, log: Path, forwards: Sequence[Forward] = (), cable: Cable | None = None
) -> Iterator[EmulatedVps]:
    """Start a machine for the first time and wait for its console, which comes before cloud-init has ended.

    Args:
        root: a bootable one.
        seed: the provider's data, on a disk of its own.
        log: takes all that the console shows.
        forwards: local ports that lead to the machine.
        cable: its way to a network of the test's, and none to Debian's archive; it has its packages already.

    Raises:
        BuildError: a tool is missing.
    """
    board = _BOARDS[root.architecture]
    emulator = open_tools(board.tools, shop.cache, shop.archive, shop.stages)
    with shop.cache.workspace() as work:
        disks = _make_disks(shop, root, seed, work, online=cable is None)
        processor = board.processor or accelerator(emulator, work)
        network = _tap(cable) if cable else _slirp(forwards)
        argv = emulator.command(
            _command(emulator, root, disks, [board.program, "-machine", board.machine, *processor], network)
        )
        command = cable.place.command(*argv) if cable else argv
        vps = EmulatedVps(lambda: Console(command, log, _BOOT_SECONDS), disks[0])
        try:
            vps.console.log_in()
            yield vps
            vps.console.power_off()
        finally:
            vps.console.close()


def _slirp(forwards: Sequence[Forward]) -> str:
    ports = [f"hostfwd=tcp:127.0.0.1:{forward.host}-:{forward.guest}" for forward in forwards]
    # IPv6 would lead nowhere where this computer has none, and apt would try it first.
    return ",".join(["user,model=virtio-net-pci,ipv6=off", *ports])


def _tap(cable: Cable) -> str:
    return f"tap,model=virtio-net-pci,ifname={cable.tap},script=no,downscript=no"


def _command(
    emulator: Sandbox, root: CloudRoot, disks: Sequence[Path], machine: Sequence[str], network: str
) -> list[str]:
    # What was flushed survives the machine's power cut, since this computer has none.
    drives = [f"if=virtio,format=raw,cache=unsafe,file={emulator.inside(disk)}" for disk in disks]
    command_line = _COMMAND_LINE.format(_BOARDS[root.architecture].console)
    return [
        *(*machine, "-m", "1024"),
        *("-display", "none", "-monitor", "none", "-serial", "stdio", "-no-user-config"),
        *("-kernel", emulator.inside(root.kernel), "-initrd", emulator.inside(root.initrd), "-append", command_line),
        *(word for drive in drives for word in ("-drive", drive)),
        *("-nic", network),
        *("-device", "virtio-rng-pci"),
    ]


def _make_disks(shop: Workshop, root: CloudRoot, seed: Seed, work: Path, *, online: bool) -> tuple[Path, Path]:
    layer, files, scratch = work / "layer", work / "seed", work / "scratch"
    for folder in (layer, files, scratch):
        folder.mkdir()
    _lay_over(layer, _BOARDS[root.architecture].console)
    if not online:  # what would be installed is there already
        (layer / "etc/apt/sources.list").touch()
        (layer / "etc/apt/sources.list.d").mkdir()
    for name, text in seed.files().items():
        (files / name).write_text(text, encoding="utf-8")
    shutil.copy(_SCRIPT, work / _SCRIPT.name)
    disk, seed_disk = work / "disk.img", work / "seed.img"
    given = (work / _SCRIPT.name, root.tar, layer, files, disk, seed_disk)
    with shop.stages.stage("Disk of the cloud machine"):
        shop.tools.run(["sh", *map(shop.tools.inside, given)], scratch=scratch)
    return disk, seed_disk


def _lay_over(layer: Path, console: str) -> None:
    """Write what this computer's surroundings ask for, and a shell on the console, as a provider's rescue console."""
    files = {
        f"etc/systemd/system/serial-getty@{console}.service.d/root-shell.conf": _ROOT_SHELL,
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
