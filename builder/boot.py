"""Starting a built image in QEMU, for trying it out and for the tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click

from builder.archive import Archive
from builder.cache import Cache
from builder.emulator import DirectBoot, Forward, Machine, qemu_command, raspberry_pi_command, write_log_of
from builder.errors import BuildError
from builder.firmware import FirmwareError, Model, boot_partition, read_slot
from builder.greeting import free_port, wait_for_greeting
from builder.packing import find_image, unpack_image
from builder.profile import Content, Loader
from builder.progress import Stages
from builder.run import run
from builder.sandbox import Sandbox, check_namespaces, remove_tree
from builder.sums import read_manifest
from builder.tools import BUILD_TOOLS, EMULATOR, EMULATOR_ARM64, open_tools

_CONSOLE_LIFETIME = 7 * 24 * 3600
_EARLY_DEATH = 1.0
"""Seconds in which QEMU has refused its options if it is going to."""

_GREETING_TIMEOUT = 900
"""Seconds; a first start under emulation on a slow computer takes minutes."""


_STARTED = "started"
_SEPARATOR = "\0"


def boot_attached(machine: Machine) -> int:
    """Run a machine with its console on our terminal.

    Returns:
        QEMU's exit status.
    """
    with _prepared(machine) as command:
        return subprocess.call([*command, "-serial", "mon:stdio"])


def boot_detached(machine: Machine, wait: int | None) -> None:
    """Run a machine in the background and print `{"pid": …, "console": "FILE"}` as one line on standard output.

    Ending the process `pid` ends the machine and removes its temporary files.

    Args:
        wait: guest port whose service must have greeted before this returns.

    Raises:
        BuildError: the machine did not start, ended, or its service did not greet in time. It is then ended.
    """
    machine, port = _with_forward(machine, wait)
    consoles = Cache.default().root / "consoles"
    consoles.mkdir(parents=True, exist_ok=True)
    _remove_old_consoles(consoles)
    console = consoles / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    pid = _start_supervisor(machine, console)
    try:
        click.echo(json.dumps({"pid": pid, "console": str(console)}))
        sys.stdout.flush()
        if wait is not None and port is not None:
            wait_for_greeting(port, wait, lambda: _alive(pid), _GREETING_TIMEOUT)
    except BaseException as error:
        if _alive(pid):
            os.kill(pid, signal.SIGTERM)
        if isinstance(error, BuildError):
            raise BuildError(f"{error}\nThe console's last lines:\n\n{_tail(console)}", error.hint) from error
        raise


def _with_forward(machine: Machine, wait: int | None) -> tuple[Machine, int | None]:
    """Make sure that the port to wait for is forwarded; return the local port too."""
    if wait is None:
        return machine, None
    for forward in machine.forwards:
        if forward.guest == wait:
            return machine, forward.host
    forward = Forward(free_port(), wait)
    click.echo(f"Port {wait} of the machine is 127.0.0.1:{forward.host}.", err=True)
    return replace(machine, forwards=(*machine.forwards, forward)), forward.host


def _start_supervisor(machine: Machine, console: Path) -> int:
    """Fork a process that owns the machine's temporary files, and wait until QEMU runs in it.

    Returns:
        The supervisor's process id.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _supervise(machine, console, writing)
    os.close(writing)
    with os.fdopen(reading) as answers:
        answer = answers.read()
    if answer != _STARTED:
        os.waitpid(pid, 0)
        message, _, hint = answer.partition(_SEPARATOR)
        raise BuildError(message or "the machine could not be started", hint)
    return pid


def _supervise(machine: Machine, console: Path, writing: int) -> NoReturn:
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with _prepared(machine) as command, Path(os.devnull).open("r+b") as nothing:
            console.touch(mode=0o600)
            with console.open("ab") as log:
                process = subprocess.Popen([*command, "-serial", "stdio"], stdin=nothing, stdout=log, stderr=log)
            try:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_EARLY_DEATH)
                    raise BuildError(f"QEMU has ended at once:\n{_tail(console)}")
                os.write(writing, _STARTED.encode())
                os.close(writing)
                for stream in (0, 1, 2):
                    os.dup2(nothing.fileno(), stream)
                status = process.wait()
            finally:
                process.kill()
                process.wait()
    except (BuildError, OSError) as error:
        hint = error.hint if isinstance(error, BuildError) else "is the disk full, or a folder not yours?"
        os.write(writing, f"{error}{_SEPARATOR}{hint}".encode())
    except SystemExit:
        status = 0
    finally:
        os._exit(status)


@contextmanager
def _prepared(machine: Machine) -> Iterator[list[str]]:
    """Unpack the image into a workspace that lives as long as the block, and give QEMU's command line."""
    _check_ports(machine.forwards)
    disk = _check_disk(machine.disk) if machine.disk else None
    check_namespaces()
    cache = Cache(Cache.default().root, remove_tree)
    stages = Stages()
    archive = Archive.from_environment()
    image = find_image(machine.folder)
    manifest = read_manifest(machine.folder)
    on_pi = manifest.get("loader") == Loader.RASPBERRY_PI
    if on_pi and machine.tpm:
        raise BuildError("a Raspberry Pi has no TPM", "leave --tpm out")
    emulator = open_tools(EMULATOR_ARM64 if on_pi else EMULATOR, cache, archive, stages)
    tools = open_tools(BUILD_TOOLS, cache, archive, stages)
    with cache.workspace() as work:
        kept = disk is not None
        disk = disk or work / "disk.img"
        if kept and disk.exists():
            stages.say(f"{disk} is there already and is used as it is.")
        else:
            with stages.stage("Unpack the image"):
                _unpack(image, disk, machine.size, work, tools)
        if machine.log_writes:
            log = write_log_of(disk)
            log.unlink(missing_ok=True)
            log.touch(mode=0o600)
        if on_pi:
            yield raspberry_pi_command(machine, emulator, disk, _firmware(manifest, disk, work, tools))
        else:
            yield qemu_command(machine, emulator, disk, work)


def _firmware(manifest: Mapping[str, Any], disk: Path, work: Path, tools: Sandbox) -> DirectBoot:
    """Read from a disk what the Raspberry Pi's firmware would load.

    Raises:
        BuildError: it would load nothing.
    """
    starts = {row["number"]: row["start"] for row in manifest["partitions"]}
    first = starts[next(row["number"] for row in manifest["partitions"] if row["content"] == Content.SEED)]

    def fetch(start: int, name: str) -> Path:
        target = work / name
        # The disk may lie anywhere; the tools see it as a folder of its own.
        copy = ["mcopy", "-n", "-o", "-i", f"/outside/{disk.name}@@{start}", f"::/{name}", tools.inside(target)]
        run(["env", f"DARKPIPE_OUTSIDE={disk.parent}", *tools.command(copy)])
        return target

    try:
        slot = starts[boot_partition(fetch(first, "autoboot.txt").read_text())]
        files = read_slot(fetch(slot, "config.txt").read_text(), Model.PI4)
        command_line = fetch(slot, files.command_line).read_text().strip()
        return DirectBoot(fetch(slot, files.kernel), fetch(slot, files.initramfs), command_line)
    except (FirmwareError, KeyError) as error:
        raise BuildError(f"{disk}: {error}", "build the image again") from error


def _unpack(image: Path, disk: Path, size: int, work: Path, tools: Sandbox) -> None:
    raw = work / "unpacked.img"
    unpack_image(image, raw, tools)
    if raw.stat().st_size > size:
        raise BuildError(f"a disk of {size:,} bytes is too small for the image", "choose a larger --size")
    os.truncate(raw, size)
    partial = disk.with_name(f".{disk.name}.partial")
    try:
        # The disk holds keys and mail; and the name appears only when the whole image is there.
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        run(["cp", "--sparse=always", str(raw), str(partial)])
        partial.replace(disk)
    finally:
        partial.unlink(missing_ok=True)


def _check_disk(disk: Path) -> Path:
    """Follow links to the file that keeps a disk, and refuse what can be no such file."""
    target = disk.resolve()
    if not target.parent.is_dir():
        raise BuildError(f"--disk {disk}: there is no folder {target.parent}", "make it first")
    if target.exists() and not target.is_file():
        raise BuildError(f"--disk {disk} is no regular file", "name a file; it is made when it is missing")
    return target


def _check_ports(forwards: Sequence[Forward]) -> None:
    for forward in forwards:
        with socket.socket() as probe:
            # As QEMU does: a port whose last connection is just being closed can be used.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", forward.host))
            except OSError as error:
                text = f"--forward {forward.host}:{forward.guest}: port {forward.host} of this computer cannot be used"
                raise BuildError(f"{text} ({error.strerror})", "choose another number above 1023") from error


def _remove_old_consoles(folder: Path) -> None:
    for path in folder.glob("*.log"):
        if path.stat().st_mtime < time.time() - _CONSOLE_LIFETIME:
            path.unlink(missing_ok=True)


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-15:]) if path.exists() else "(there is no console)"


def _alive(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False
