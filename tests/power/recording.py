"""A life of a device, every write of which is logged: first start, letters, a change of the configuration, letters."""

from __future__ import annotations

import random
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from builder.archive import Archive
from builder.cache import Cache
from builder.emulator import write_log_of
from builder.progress import Stages
from builder.sandbox import remove_tree
from builder.tools import BUILD_TOOLS, open_tools
from tests.images.machine import Machine
from tests.mail import fetch, mailbox, swaks
from tests.power.write_log import WriteLog

_DISK_SIZE = 16 * 10**9
_SENDER = "carol@example.net"
_RECIPIENT = "alice@example.com"
_LARGEST = 200_000

ADDED_ALIAS = "shop@example.org"
"""What tells the second configuration from the first."""

# Answers 0 to fsync(2) and fdatasync(2) and does nothing; the first line takes the cage's own list off.
_NO_FSYNC = "[Service]\nSystemCallFilter=\nSystemCallFilter=~fsync:0 fdatasync:0\n"


class Phase(StrEnum):
    """What the device is doing when the power goes."""

    FIRST_START = "first start"
    APPLY = "apply"
    DELIVERY = "delivery"


@dataclass(frozen=True)
class Letter:
    """A message that the device has answered with 250.

    Args:
        subject: which no other has.
        body: all of it, with line ends as on Unix.
        acknowledged: size of the log when the answer was there.
    """

    subject: str
    body: str
    acknowledged: int


@dataclass(frozen=True)
class Recording:
    """What was done and when; all moments are sizes of the log.

    Args:
        before: the disk as it was at the first start.
        log: of all that was written to it.
        phases: begin and end of each.
        letters: in the order in which they were taken.
        without_fsync: those that a Postfix has taken whose fsync(2) does nothing: the planted bug.
        password: Bob's, made by the device.
    """

    image: Path
    before: Path
    log: WriteLog
    phases: dict[Phase, tuple[int, int]]
    letters: tuple[Letter, ...]
    without_fsync: tuple[Letter, ...]
    password: str

    def positions(self, phase: Phase) -> range:
        """The positions in the log that belong to a phase."""
        start, end = (self.log.position_of_size(size) for size in self.phases[phase])
        return range(start, end + 1)

    def acknowledged(self, letters: Sequence[Letter], position: int) -> list[Letter]:
        """The letters that had been taken before a cut."""
        return [letter for letter in letters if self.log.position_of_size(letter.acknowledged) <= position]


@dataclass
class _Recorder:
    device: Machine
    scratch: Path
    rng: random.Random
    count: int = 0

    def moment(self) -> int:
        return write_log_of(self.device.disk).stat().st_size

    def send(self) -> Letter:
        """Send a letter with content of its own and note when it was taken."""
        self.count += 1
        subject = f"letter {self.count} {self.rng.getrandbits(32):08x}"
        lines = [self.rng.randbytes(30).hex() for _ in range(self.rng.randrange(1, _LARGEST // 61))]
        body = "\n".join([f"From: {_SENDER}", f"To: {_RECIPIENT}", f"Subject: {subject}", "", *lines])
        message = self.scratch / "letter"
        message.write_text(body)
        sent = swaks(self.device.smtp, _SENDER, _RECIPIENT, message)
        assert sent.returncode == 0, sent.stdout
        return Letter(subject, body, self.moment())

    def wait_for(self, letters: list[Letter], password: str) -> None:
        """Wait until they have been delivered."""
        with mailbox(self.device.imaps, _RECIPIENT, password) as box:
            for letter in letters:
                fetch(box, letter.subject)


def record(image: Path, scratch: Path, password: str, rng: random.Random, say: Callable[[str], None]) -> Recording:
    """Start a device for the first time and let it live, logged.

    Args:
        image: a result of `./darkpipe build`, whose seed has Alice with a known password and Bob with one to be made.
        scratch: a folder for disks; it stays needed for trials.
        password: Alice's.
        rng: makes the letters.
        say: told what is going on.
    """
    before = scratch / "before.img"
    _unpack(image, before)
    disk = scratch / "recorded.img"
    copy_sparse(before, disk)
    device = Machine(image, disk, log_writes=True)
    recorder = _Recorder(device, scratch, rng)
    phases: dict[Phase, tuple[int, int]] = {}
    started = time.monotonic()
    device.up()
    device.wait_for_mail_services()
    phases[Phase.FIRST_START] = (0, recorder.moment())
    say(f"the first start took {time.monotonic() - started:.0f} s")
    made = shown_password(device)
    assert made, "the device has made no password"

    begun = recorder.moment()
    letters = [recorder.send() for _ in range(3)]
    recorder.wait_for(letters, password)
    begun_apply = recorder.moment()
    device.lines(f"darkpipe alias add {ADDED_ALIAS} {_RECIPIENT}")
    phases[Phase.APPLY] = (begun_apply, recorder.moment())
    assert is_second(device)
    device.wait_for_mail_services()
    letters += [recorder.send() for _ in range(3)]
    # What waits is in Postfix's hands alone.
    device.lines("systemctl stop dovecot.service")
    waiting = [recorder.send() for _ in range(3)]
    device.lines("systemctl start dovecot.service && postqueue -f")
    letters += waiting
    device.wait_for_mail_services()
    recorder.wait_for(letters[3:], password)
    phases[Phase.DELIVERY] = (begun, recorder.moment())
    say(f"{len(letters)} letters were taken and delivered")

    folder = "/run/systemd/system/postfix.service.d"
    device.lines(f"mkdir -p {folder} && printf %s {shlex.quote(_NO_FSYNC)} > {folder}/no-fsync.conf")
    device.lines("sync; systemctl daemon-reload && systemctl restart postfix.service && systemctl stop dovecot.service")
    device.wait_for_smtp()
    lost = [recorder.send() for _ in range(3)]
    device.off()
    # systemd-repart writes gigabytes of zeros, for which blocks are reserved; the copy has holes there.
    copy_sparse(write_log_of(disk), scratch / "writes")
    write_log_of(disk).unlink()
    disk.unlink()
    log = WriteLog.read(scratch / "writes")
    flushes = sum(1 for number in range(1, len(log.requests)) if log.last_flush(number) == number)
    size = log.path.stat().st_blocks * 512
    say(f"the log has {len(log.requests):,} requests, {flushes:,} of them flushes, {size / 1e6:,.0f} MB")
    return Recording(image, before, log, phases, tuple(letters), tuple(lost), made)


def is_second(device: Machine) -> bool:
    """Whether the second configuration is in force."""
    return device.run(f"grep --quiet '^{ADDED_ALIAS}' /etc/postfix/virtual_aliases").status == 0


def shown_password(device: Machine) -> str:
    """The last password of Bob's that the console has shown; empty if it has shown none."""
    found = re.findall(r"bob@example\.org\s+(\S+)", device.console_text())
    return str(found[-1]) if found else ""


def _unpack(image: Path, disk: Path) -> None:
    cache = Cache(Cache.default().root, remove_tree)
    tools = open_tools(BUILD_TOOLS, cache, Archive.from_environment(), Stages())
    with cache.workspace() as work, next(image.glob("*.img.zst")).open("rb") as packed:
        raw = work / "disk.img"
        tools.run(["zstd", "-q", "-d", "--sparse", "-o", tools.inside(raw)], stdin=packed)
        with raw.open("r+b") as file:
            file.truncate(_DISK_SIZE)
        copy_sparse(raw, disk)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a disk with its holes."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(source), str(target)], check=True)
