"""A TPM 2.0 that is a program, swtpm(8): it keeps what a TPM keeps, and its registers while it is on."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import time
from pathlib import Path

from firstboot.tpm import Tpm, expect_power_cut, extend

_SECONDS = 20.0


def why_no_tpm() -> str | None:
    """Say what this computer lacks; None when nothing."""
    return None if shutil.which("swtpm") else "missing Debian packages: swtpm"


class Swtpm:
    """One TPM, off at first.

    Args:
        folder: where it keeps its state.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def device(self) -> str:
        """Its name for programs of TPM2-TSS."""
        return f"swtpm:host=127.0.0.1,port={self._port}"

    def on(self) -> None:
        """Switch it on, as a computer does when it starts."""
        self._folder.mkdir(exist_ok=True)
        self._port = _two_free_ports()
        address = "bindaddr=127.0.0.1"
        self._process = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._folder}"),
                *("--server", f"type=tcp,port={self._port},{address}"),
                *("--ctrl", f"type=tcp,port={self._port + 1},{address}"),
                *("--flags", "not-need-init,startup-clear"),
            ]
        )
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "swtpm does not come up"
                time.sleep(0.02)

    def off(self, *, orderly: bool = True) -> None:
        """Take its power away.

        Args:
            orderly: whether it is told before, as a computer does that is switched off.
        """
        if self._process:
            if orderly:
                expect_power_cut(self.ask)
            self._process.kill()
            self._process.wait()
            self._process = None

    def started(self, **measured: str) -> Tpm:
        """Switch it off and on, and have the firmware measure what it starts.

        Args:
            measured: by register (`r4`), what is measured into it besides the firmware's own.
        """
        self.off()
        self.on()
        for register in (0, 2, 4, 7, 11):
            extend(self.ask, hashlib.sha256(f"register {register}".encode()).digest(), register)
        for name, text in measured.items():
            extend(self.ask, hashlib.sha256(text.encode()).digest(), int(name.removeprefix("r")))
        return self.ask

    def ask(self, command: bytes) -> bytes:
        """Send a command and give the answer (`firstboot.tpm.Tpm`)."""
        with socket.create_connection(("127.0.0.1", self._port), _SECONDS) as connection:
            connection.sendall(command)
            answer = b""
            while len(answer) < 6 or len(answer) < int.from_bytes(answer[2:6]):
                part = connection.recv(4096)
                assert part, "swtpm ends in the middle of an answer"
                answer += part
            return answer


def _two_free_ports() -> int:
    """Find a port that is free, and the next one, too: there a TPM's control channel is expected."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
