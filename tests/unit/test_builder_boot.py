"""Options of `./darkpipe boot`, and waiting for a greeting."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.cli import darkpipe
from builder.emulator import Forward
from builder.errors import BuildError
from builder.greeting import free_port, greets, wait_for_greeting


@pytest.mark.parametrize("text", ["25", "25:", ":25", "0:25", "25:65536", "a:b", "2525:25:1", "-1:25", "²:25"])
def test_wrong_forwards_are_refused(text: str) -> None:
    with pytest.raises(BuildError, match="--forward"):
        Forward.parse(text)


def test_forward() -> None:
    assert Forward.parse("2525:25") == Forward(2525, 25)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_an_open_port_that_says_nothing_has_not_greeted(server: socket.socket) -> None:
    """QEMU accepts on a forwarded port before anything listens behind it, and then closes."""

    def accept() -> None:
        connection, _ = server.accept()
        connection.close()

    thread = threading.Thread(target=accept)
    thread.start()
    assert not greets(server.getsockname()[1], 25)
    thread.join()


def test_a_greeting_counts(server: socket.socket) -> None:
    def accept() -> None:
        connection, _ = server.accept()
        time.sleep(0.1)
        connection.sendall(b"220 ready\r\n")
        connection.close()

    thread = threading.Thread(target=accept)
    thread.start()
    wait_for_greeting(server.getsockname()[1], 25, lambda: True, 5)
    thread.join()


def test_plain_text_is_no_tls_greeting(server: socket.socket) -> None:
    def accept() -> None:
        connection, _ = server.accept()
        connection.sendall(b"* OK but this is no TLS\r\n")
        connection.close()

    thread = threading.Thread(target=accept)
    thread.start()
    assert not greets(server.getsockname()[1], 993)
    thread.join()


def test_a_machine_that_has_ended_is_told_at_once() -> None:
    with pytest.raises(BuildError, match="has ended"):
        wait_for_greeting(free_port(), 25, lambda: False, 60)


def test_time_runs_out() -> None:
    with pytest.raises(BuildError, match="did not greet within"):
        wait_for_greeting(free_port(), 25, lambda: True, 0.2)


@pytest.mark.parametrize("options", [[], ["--disk", "elsewhere/disk.img"]])
def test_a_usb_disk_lies_beside_the_disk(tmp_path: Path, options: list[str]) -> None:
    """The tools see no other folder of this computer."""
    usb = tmp_path / "usb.img"
    usb.touch()
    refused = CliRunner().invoke(darkpipe, ["boot", str(tmp_path), "--usb-disk", str(usb), *options])
    assert refused.exit_code == 2
    assert "in the same folder" in refused.output


@pytest.mark.parametrize("options", [[], ["--disk", "elsewhere/disk.img"]])
def test_a_tpm_keeps_its_state_beside_the_disk(tmp_path: Path, options: list[str]) -> None:
    state = tmp_path / "tpm"
    state.mkdir()
    refused = CliRunner().invoke(darkpipe, ["boot", str(tmp_path), "--tpm", str(state), *options])
    assert refused.exit_code == 2
    assert "a file beside it" in refused.output
