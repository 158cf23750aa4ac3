"""`./darkpipe boot` as a script uses it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from builder.archive import Archive
from builder.build import open_workshop
from builder.cache import Cache
from builder.emulator import passes_trial
from builder.greeting import free_port, greets
from builder.progress import Stages
from builder.sandbox import remove_tree
from builder.tools import EMULATOR, open_tools
from tests.images.bench import abandoned_workspaces
from tests.images.machine import REPOSITORY
from tests.mail import swaks

_DARKPIPE = str(REPOSITORY / "darkpipe")


def test_detached_machine_has_greeted_and_ends_without_a_trace(image: Path) -> None:
    smtp, imaps = free_port(), free_port()
    ports = ["--forward", f"{smtp}:25", "--forward", f"{imaps}:993"]
    started = subprocess.run(
        [_DARKPIPE, "boot", str(image), "--detach", *ports, "--wait", "25"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    answer = json.loads(started.stdout)
    assert started.stdout.count("\n") == 1
    try:
        assert greets(imaps, 993)
        assert swaks(smtp, "carol@example.net", "alice@example.com").returncode == 0
        assert "the disk for the mail is there" in Path(answer["console"]).read_text(errors="replace")
    finally:
        os.kill(answer["pid"], signal.SIGTERM)
    _wait_for_end(answer["pid"])
    assert not greets(smtp, 25)


def test_machine_ends_with_the_command_that_waits_for_it(image: Path) -> None:
    """Ended while it waits, the command leaves no machine behind whose number nobody knows."""
    smtp = free_port()
    command = [_DARKPIPE, "boot", str(image), "--forward", f"{smtp}:25", "--wait", "25"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        pid = json.loads(process.stdout.readline())["pid"]
        process.terminate()
    assert process.returncode == 130
    _wait_for_end(pid)


def _wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "the machine still runs"
        time.sleep(0.2)
    assert abandoned_workspaces() == []


def test_port_that_is_taken_is_told(image: Path) -> None:
    with subprocess.Popen(["python3", "-m", "http.server", "--bind", "127.0.0.1", str(port := free_port())]) as holder:
        try:
            time.sleep(1)
            command = [_DARKPIPE, "boot", str(image), "--forward", f"{port}:25", "--wait", "25"]
            refused = subprocess.run(command, capture_output=True, text=True, check=False)
        finally:
            holder.terminate()
    assert refused.returncode == 1
    assert f"port {port} of this computer cannot be used" in refused.stderr
    assert "Hint: " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_folder_without_an_image_is_told(tmp_path: Path) -> None:
    refused = subprocess.run([_DARKPIPE, "boot", str(tmp_path)], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "holds 0 images" in refused.stderr


def test_kept_disk_is_whole_private_and_where_it_was_asked_for(image: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a folder, with a comma"
    folder.mkdir()
    disk = folder / "home.img"
    command = [_DARKPIPE, "boot", str(image), "--detach", "--disk", str(disk), "--size", "20"]
    started = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=True)
    pid = json.loads(started.stdout)["pid"]
    os.kill(pid, signal.SIGTERM)
    _wait_for_end(pid)
    assert [path.name for path in folder.iterdir()] == ["home.img"]
    assert disk.stat().st_size == 20 * 10**9
    assert disk.stat().st_blocks * 512 < 2**30, "its holes are no zeros"
    assert disk.stat().st_mode & 0o077 == 0


def test_disks_that_cannot_be_are_told(image: Path, tmp_path: Path) -> None:
    for disk in (tmp_path, tmp_path / "nowhere/home.img"):
        command = [_DARKPIPE, "boot", str(image), "--disk", str(disk), "--detach"]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert "--disk" in refused.stderr
        assert "Hint: " in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("model", ["max", "qemu64"])
def test_a_processor_that_works_passes_kvms_trial(model: str) -> None:
    """With and without the instructions that some KVMs lack: a mistaken trial would have everybody emulate."""
    shop = open_workshop(Cache(Cache.default().root, remove_tree), Archive.from_environment(), Stages())
    emulator = open_tools(EMULATOR, shop.cache, shop.archive, shop.stages)
    with shop.cache.workspace() as work:
        assert passes_trial(emulator, work, ("-accel", "tcg", "-cpu", model))
