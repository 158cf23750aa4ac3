"""QEMU's command line for one of our images."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from builder.errors import BuildError
from builder.sandbox import Sandbox

_FIRMWARE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
_VARIABLES = "/usr/share/OVMF/OVMF_VARS_4M.fd"
_PROBE_SECONDS = 5.0
_TRIAL_PORT = 0xE9
_TRIAL_ADDRESS = 0x100000


@dataclass(frozen=True)
class Forward:
    """A TCP port of the local host that leads to one of the machine."""

    host: int
    guest: int

    @classmethod
    def parse(cls, text: str) -> Forward:
        """Read `HOST:GUEST`.

        Raises:
            BuildError: it is not two port numbers.
        """
        host, _, guest = text.partition(":")
        if not (host.isdecimal() and guest.isdecimal() and 0 < int(host) < 65536 and 0 < int(guest) < 65536):
            raise BuildError(f"--forward {text}: expected two port numbers", "for instance --forward 2525:25")
        return cls(int(host), int(guest))


@dataclass(frozen=True)
class Machine:
    """What to start.

    Args:
        folder: a result of `./darkpipe build`.
        forwards: local ports that lead to the machine.
        disk: file that keeps the machine's disk; None throws all changes away.
        size: of a new disk, in bytes.
        memory: in MiB.
        offline: whether there is no network behind the machine.
        shell: whether the console logs in as root by itself, by systemd's credentials (systemd.system-credentials(7)).
        log_writes: whether all that is written to the disk is also logged, in `write_log_of(disk)`.
        usb_disks: files with disks that are plugged in by USB, in the folder of `disk`.
        clock: what its real-time clock shows when it is switched on; None for this computer's time.
        tpm: folder that keeps the state of a TPM 2.0, beside `disk`; None for a machine without one.
    """

    folder: Path
    forwards: tuple[Forward, ...] = ()
    disk: Path | None = None
    size: int = 16 * 10**9
    memory: int = 2048
    offline: bool = False
    shell: bool = False
    log_writes: bool = False
    usb_disks: tuple[Path, ...] = ()
    clock: datetime | None = None
    tpm: Path | None = None


@dataclass(frozen=True)
class DirectBoot:
    """What a machine without firmware is started with; the files lie below the cache."""

    kernel: Path
    initramfs: Path
    command_line: str


def write_log_of(disk: Path) -> Path:
    """Name the file beside a disk that takes the log of what is written to it.

    Its format is that of the kernel's Documentation/admin-guide/device-mapper/log-writes.rst.
    """
    return disk.with_name(f"{disk.name}.writes")


def raspberry_pi_command(machine: Machine, emulator: Sandbox, disk: Path, started: DirectBoot) -> list[str]:
    """Give the host's command line for an image of the Raspberry Pi; the caller adds where the console goes.

    QEMU has no Pi that Debian's kernel runs on: it is the machine `virt`, started as the Pi's firmware would do it.

    Args:
        emulator: the tools tree with QEMU for arm64.
        disk: the machine's raw disk.
        started: what the firmware would load.
    """
    seen, kept = _seen(machine, emulator, disk)
    # The kernel tries only the first console of a driver's: that of a Pi 5 would keep it from the machine's own.
    words = [word for word in started.command_line.split() if not word.startswith("console=")]
    words += ["console=tty0", "console=ttyAMA0,115200"]
    if machine.shell:
        words += [f"systemd.set_credential={name}:{value}" for name, value in _SHELL_CREDENTIALS.items()]
    argv = [
        "qemu-system-aarch64",
        *("-machine", "virt,gic-version=3"),
        *("-accel", "tcg,tb-size=512", "-cpu", "cortex-a72", "-smp", "1"),
        *("-m", str(machine.memory)),
        *("-display", "none", "-monitor", "none", "-no-user-config"),
        *("-kernel", emulator.inside(started.kernel), "-initrd", emulator.inside(started.initramfs)),
        *("-append", " ".join(words)),
        *_devices(machine, seen, kept),
    ]
    return _outside(emulator.command(argv), disk, kept)


def qemu_command(machine: Machine, emulator: Sandbox, disk: Path, work: Path) -> list[str]:
    """Give the host's command line; the caller adds where the console goes (`-serial`).

    Args:
        emulator: the tools tree with QEMU.
        disk: the machine's raw disk.
        work: an empty folder below the cache that lives as long as the machine.
    """
    variables = work / "efivars.fd"
    shutil.copyfile(emulator.tree / _VARIABLES.lstrip("/"), variables)
    seen, kept = _seen(machine, emulator, disk)
    argv = [
        "qemu-system-x86_64",
        *("-machine", "q35"),
        *accelerator(emulator, work),
        *("-m", str(machine.memory)),
        *("-display", "none", "-monitor", "none", "-no-user-config"),
        *("-drive", f"if=pflash,format=raw,readonly=on,file={_FIRMWARE}"),
        *("-drive", f"if=pflash,format=raw,file={emulator.inside(variables)}"),
        *_devices(machine, seen, kept),
        *(_shell_credentials() if machine.shell else ()),
    ]
    if machine.tpm:
        argv = _with_tpm(argv, f"/outside/{machine.tpm.name}", emulator.inside(work / "tpm.sock"))
    return _outside(emulator.command(argv), disk, kept)


def _with_tpm(argv: Sequence[str], state: str, control: str) -> list[str]:
    """Give a command line that starts swtpm(8) first; it ends with QEMU."""
    start = f"swtpm socket --tpm2 --tpmstate dir={state} --ctrl type=unixio,path={control} --terminate --daemon"
    chip = ("-chardev", f"socket,id=tpm,path={control}", "-tpmdev", "emulator,id=tpm,chardev=tpm")
    return ["sh", "-c", f'{start} && exec "$@"', "sh", *argv, *chip, "-device", "tpm-crb,tpmdev=tpm"]


def _seen(machine: Machine, emulator: Sandbox, disk: Path) -> tuple[str, bool]:
    """Tell where the tools see the disk, and whether it is kept."""
    kept = machine.disk is not None
    return (f"/outside/{disk.name}" if kept else emulator.inside(disk)), kept


def _outside(command: Sequence[str], disk: Path, kept: bool) -> list[str]:
    return ["env", f"DARKPIPE_OUTSIDE={disk.parent}", *command] if kept else list(command)


def _devices(machine: Machine, seen: str, kept: bool) -> tuple[str, ...]:
    network = ",".join(
        [
            "user,model=virtio-net-pci",
            *(f"hostfwd=tcp:127.0.0.1:{forward.host}-:{forward.guest}" for forward in machine.forwards),
            *(["restrict=on"] if machine.offline else []),
        ]
    )
    return (
        *(_logged_disk(seen) if machine.log_writes else _disk(seen, kept)),
        *("-device", "virtio-blk-pci,drive=disk,bootindex=0"),
        *_usb_disks([f"/outside/{path.name}" for path in machine.usb_disks]),
        *("-device", "virtio-rng-pci"),
        *("-nic", network),
        *(("-rtc", f"base={machine.clock:%Y-%m-%dT%H:%M:%S}") if machine.clock else ()),
    )


_SHELL_CREDENTIALS = {"agetty.autologin": "root", "login.noauth": "yes"}
"""They let the console log in as root (agetty(8), login(1))."""


def _shell_credentials() -> tuple[str, ...]:
    """Only who runs the machine can set its SMBIOS strings (systemd.system-credentials(7))."""
    pairs = (f"type=11,value=io.systemd.credential:{name}={value}" for name, value in _SHELL_CREDENTIALS.items())
    return tuple(word for pair in pairs for word in ("-smbios", pair))


def _disk(seen: str, kept: bool) -> tuple[str, ...]:
    # A disk that is thrown away need not be flushed; one that is kept must survive a power cut of this computer.
    drive = f"if=none,id=disk,format=raw,discard=unmap,cache={'writeback' if kept else 'unsafe'}"
    return ("-drive", f"{drive},file={_quoted(seen)}")


def _logged_disk(seen: str) -> tuple[str, ...]:
    # What is flushed stands in the log; this computer's own disk need not hear of it.
    common = "driver=file,discard=unmap,cache.no-flush=on"
    log_seen = _quoted(str(write_log_of(Path(seen))))
    return (
        *("-blockdev", f"{common},node-name=disk-file,filename={_quoted(seen)}"),
        *("-blockdev", f"{common},node-name=log-file,filename={log_seen}"),
        *("-blockdev", "driver=raw,node-name=plain,discard=unmap,file=disk-file"),
        *("-blockdev", "driver=blklogwrites,node-name=disk,discard=unmap,file=plain,log=log-file"),
    )


def _usb_disks(seen: Sequence[str]) -> tuple[str, ...]:
    if not seen:
        return ()
    drives = [
        word
        for number, path in enumerate(seen)
        for word in (
            *("-drive", f"if=none,id=usb{number},format=raw,discard=unmap,file={_quoted(path)}"),
            *("-device", f"usb-storage,drive=usb{number},serial=usb{number}"),
        )
    ]
    return ("-device", "qemu-xhci", *drives)


def _quoted(path: str) -> str:
    """Write a path for QEMU's options, which are separated by commas."""
    return path.replace(",", ",,")


def accelerator(emulator: Sandbox, work: Path) -> tuple[str, ...]:
    """Give QEMU's options for processors like this computer's: by KVM where it works, else emulated.

    Args:
        work: an empty folder below the cache, to try it in.
    """
    if kvm_works(emulator, work):
        return ("-accel", "kvm", "-cpu", "max", "-smp", "2")
    # One processor: on a busy host an emulated second one loses its timer now and then, and the kernel stalls for good.
    # A processor that has what Debian asks for and no more: with SSSE3 rspamd would take to Hyperscan, which compiles
    # patterns for minutes when it is emulated.
    return ("-accel", "tcg,tb-size=512", "-cpu", "qemu64", "-smp", "1")


def kvm_works(emulator: Sandbox, work: Path) -> bool:
    """Tell whether KVM runs a machine here: /dev/kvm may open and still not work, in a virtual machine for instance.

    A tiny machine must have run `kvm_trial` within a few seconds.

    Args:
        work: an empty folder below the cache.
    """
    return os.access("/dev/kvm", os.R_OK | os.W_OK) and passes_trial(emulator, work, ("-accel", "kvm", "-cpu", "max"))


def passes_trial(emulator: Sandbox, work: Path, processor: Sequence[str]) -> bool:
    """Tell whether a machine with a processor runs `kvm_trial`.

    Args:
        work: an empty folder below the cache.
        processor: QEMU's options for it.
    """
    kernel, log = work / "kvm-trial", work / "kvm-trial.log"
    kernel.write_bytes(kvm_trial())
    argv = [
        "qemu-system-x86_64",
        *("-machine", "q35", *processor, "-m", "64"),
        *("-display", "none", "-monitor", "none", "-nodefaults", "-no-user-config"),
        *("-kernel", emulator.inside(kernel)),
        *("-chardev", f"file,id=debug,path={emulator.inside(log)}"),
        *("-device", f"isa-debugcon,iobase={_TRIAL_PORT},chardev=debug"),
    ]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(emulator.command(argv), stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        deadline = time.monotonic() + _PROBE_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            if log.exists() and log.stat().st_size:
                return True
            time.sleep(0.05)
        return False
    finally:
        # unshare(1) is deaf to SIGTERM while it has a child, and a KVM that does not work may keep QEMU for ever.
        process.kill()
        process.wait()


def kvm_trial() -> bytes:
    """Make a kernel that says something if the processor can do what Linux asks of it.

    Debian's kernels unpack themselves with BMI2's instructions where CPUID has them, and some nested KVMs, which carry
    out every instruction by a program, know none of those.

    Returns:
        A 32-bit ELF file with a Multiboot header (Multiboot Specification 0.6.96, §3.1), which QEMU starts in protected
        mode.
    """
    header = struct.pack("<3I", 0x1BADB002, 0, -0x1BADB002 & 0xFFFFFFFF)
    say = bytes.fromhex("ba") + struct.pack("<I", _TRIAL_PORT) + bytes.fromhex("b04b ee f4 ebfd")
    shift = bytes.fromhex("ba01000000 c4e269f705") + struct.pack("<I", _TRIAL_ADDRESS)
    code = (
        bytes.fromhex("31c0 0fa2 83f807")  # xor eax, eax; cpuid; cmp eax, 7
        + bytes([0x72, 15 + 2 + len(shift)])  # jb say
        + bytes.fromhex("b807000000 31c9 0fa2 f7c300010000")  # mov eax, 7; xor ecx, ecx; cpuid; test ebx, BMI2
        + bytes([0x74, len(shift)])  # jz say
        + shift  # mov edx, 1; shlx eax, [header], edx
        + say  # mov edx, port; mov al, 'K'; out dx, al; hlt; jmp back to hlt
    )
    start = 52 + 32
    size = start + len(header) + len(code)
    entry = _TRIAL_ADDRESS + start + len(header)
    ident = b"\x7fELF" + bytes([1, 1, 1]) + bytes(9)
    elf = ident + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, entry, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<8I", 1, 0, _TRIAL_ADDRESS, _TRIAL_ADDRESS, size, size, 7, 4096)
    return elf + segment + header + code
