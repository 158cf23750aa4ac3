"""An emulated device as a test sees it: off, booting or up, with a root shell on its console."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from builder.archive import Archive
from builder.cache import Cache
from builder.greeting import free_port, wait_for_greeting
from builder.progress import Stages
from builder.sandbox import remove_tree
from builder.tools import EMULATOR, EMULATOR_ARM64, open_tools
from tests.console import COMMAND_SECONDS, Console, Outcome, plain
from tests.network.net import Namespace

REPOSITORY = Path(__file__).resolve().parents[2]
_BOOT_SECONDS = 1500


def darkpipe(*arguments: str) -> str:
    """Run `darkpipe` as on a terminal where all is agreed to, and give what it printed; it must succeed."""
    command = [str(REPOSITORY / "darkpipe"), "--yes", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=True).stdout


def install_emulator(profile: str) -> None:
    """Install what emulates a device of a profile: in a network of the tests' own there is no archive."""
    tools = EMULATOR_ARM64 if profile == "raspberrypi" else EMULATOR
    open_tools(tools, Cache(Cache.default().root, remove_tree), Archive.from_environment(), Stages())


class State(StrEnum):
    """What the device is doing."""

    OFF = "off"
    BOOTING = "booting"
    UP = "up"


@dataclass
class Machine:
    """A device that runs a built image; its disk lives in a file and survives `off()`.

    Args:
        folder: what `./darkpipe build` printed.
        disk: the file with its disk.
        size: of a new disk, in units of 10^9 bytes.
        offline: whether there is a network behind it.
        log_writes: whether all that is written to the disk is logged beside it.
        usb_disks: files with disks that are plugged in by USB; the folder is that of its own disk.
        clock: what its clock shows when it is switched on, in UTC; empty for this computer's time.
        tpm: folder of its TPM's state, beside its disk; None for none.
        place: the network that it is a part of, behind a router that translates addresses; None for this computer's.
    """

    folder: Path
    disk: Path
    size: int = 16
    offline: bool = False
    log_writes: bool = False
    usb_disks: tuple[Path, ...] = ()
    clock: str = ""
    tpm: Path | None = None
    place: Namespace | None = None
    state: State = State.OFF
    boot_seconds: float = 0.0
    smtp: int = field(default_factory=free_port)
    imaps: int = field(default_factory=free_port)
    closed: int = field(default_factory=free_port)
    page: int = field(default_factory=free_port)
    _console: Console | None = None
    _logged_in: bool = False

    CLOSED_PORT = 8080
    """A port of the device that no component names."""

    def boot(self) -> None:
        """Go from off to booting."""
        assert self.state is State.OFF
        arguments = [
            *("boot", str(self.folder), "--disk", str(self.disk), "--size", str(self.size), "--shell"),
            *("--forward", f"{self.smtp}:25", "--forward", f"{self.imaps}:993"),
            *("--forward", f"{self.closed}:{self.CLOSED_PORT}", "--forward", f"{self.page}:443"),
            *(["--offline"] if self.offline else []),
            *(["--log-writes"] if self.log_writes else []),
            *(word for path in self.usb_disks for word in ("--usb-disk", str(path))),
            *(["--clock", self.clock] if self.clock else []),
            *(["--tpm", str(self.tpm)] if self.tpm else []),
        ]
        command = [str(REPOSITORY / "darkpipe"), *arguments]
        self._console = Console(self.place.command(*command) if self.place else command, self.log, _BOOT_SECONDS)
        self.state = State.BOOTING
        self._started = time.monotonic()

    def up(self) -> None:
        """Go from wherever it is to up: all units have started and the console has a shell."""
        if self.state is State.OFF:
            self.boot()
        if self.state is State.BOOTING:
            self.shell()
            self.run("systemctl is-system-running --wait", timeout=_BOOT_SECONDS)
            self.boot_seconds = time.monotonic() - self._started
            self.state = State.UP

    def shell(self) -> None:
        """Wait until the console of a booting device has a shell; calling it again does nothing."""
        if not self._logged_in:
            self._shell().log_in()
            self._logged_in = True

    def off(self) -> None:
        """Shut down in order."""
        if self._console is not None:
            self._console.power_off()
        self._forget_console()

    def reboot(self) -> None:
        """Restart in order and wait until it is up again."""
        self._shell().reboot()
        self._started = time.monotonic()
        self.state = State.BOOTING
        self._logged_in = False
        self.up()

    def cut_power(self) -> None:
        """End it as a power cut would."""
        self._forget_console()

    def run(self, command: str, timeout: float = COMMAND_SECONDS) -> Outcome:
        """Run a command line in the root shell of the console; see `Console.run`."""
        return self._shell().run(command, timeout)

    def expect(self, patterns: Sequence[str], timeout: float) -> int:
        """Wait until the console shows one of some patterns and tell which."""
        return self._shell().expect(patterns, timeout)

    def type(self, line: str) -> None:
        """Type a line, whatever the console asks for."""
        self._shell().type(line)

    def lines(self, command: str) -> list[str]:
        """Run a command that must succeed and give its lines that are not empty."""
        outcome = self.run(command)
        assert outcome.status == 0, f"{command}: {outcome}"
        return [line for line in outcome.output.splitlines() if line.strip()]

    def wait_for_mail_services(self) -> None:
        """Wait until both services have greeted."""
        self.wait_for_smtp()
        wait_for_greeting(self.imaps, 993, self._alive, _BOOT_SECONDS)

    def wait_for_smtp(self) -> None:
        """Wait until Postfix has greeted."""
        wait_for_greeting(self.smtp, 25, self._alive, _BOOT_SECONDS)

    @property
    def has_shell(self) -> bool:
        """Whether the console has given a shell since it was switched on."""
        return self._logged_in

    @property
    def log(self) -> Path:
        """All that its console has shown."""
        return self.disk.with_suffix(".console.log")

    def console_text(self) -> str:
        """What the console has shown, without escape sequences."""
        return plain(self.log.read_text(encoding="utf-8"))

    def _shell(self) -> Console:
        assert self._console is not None, "the machine is off"
        return self._console

    def _forget_console(self) -> None:
        if self._console is not None:
            self._console.close()
        self._console = None
        self._logged_in = False
        self.state = State.OFF

    def _alive(self) -> bool:
        return self._shell().alive()


def words_in(disk: Path, words: list[str]) -> set[str]:
    """Search a sparse disk for words; gives those that are in it."""
    longest = max(map(len, words))
    found: set[str] = set()
    with disk.open("rb") as file:
        rest = b""
        while block := file.read(2**24):
            # Most of it is a hole.
            if block.count(0) != len(block):
                content = rest + block
                found |= {word for word in words if word.encode() in content}
            rest = block[-longest:]
    return found
