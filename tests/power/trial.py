"""A power cut at one point of a recording, and what the device makes of the disk that it leaves."""

from __future__ import annotations

import imaplib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.images.machine import Machine
from tests.mail import fetch, mailbox
from tests.power.recording import Letter, Phase, Recording, copy_sparse, is_second, shown_password
from tests.power.write_log import write_pieces

_ALICE = "alice@example.com"
_BOB = "bob@example.org"


@dataclass(frozen=True)
class Cut:
    """A point at which the power goes.

    Args:
        position: in the log.
        seed: of the choice among the writes that no flush vouches for; None when none of them is there.
    """

    position: int
    seed: int | None

    def __str__(self) -> str:
        return f"{self.position}:{'-' if self.seed is None else self.seed}"


def choose_cuts(recording: Recording, phase: Phase, count: int, rng: random.Random) -> list[Cut]:
    """Choose points of a phase between flushes: at each some writes are in the air."""
    log = recording.log
    between = [position for position in recording.positions(phase) if log.last_flush(position) < position]
    return [Cut(position, rng.getrandbits(32)) for position in sorted(rng.sample(between, count))]


def make_disk(recording: Recording, cut: Cut, disk: Path) -> None:
    """Make the disk as the cut leaves it."""
    log = recording.log
    copy_sparse(recording.before, disk)
    write_pieces(log.durable(0, log.last_flush(cut.position)), log.path, disk)
    rng = None if cut.seed is None else random.Random(cut.seed)
    write_pieces(log.in_the_air(cut.position, rng), log.path, disk)


def planted_cut(recording: Recording) -> Cut:
    """The point at which the last letter was taken by a Postfix that does not fsync."""
    return Cut(recording.log.position_of_size(recording.without_fsync[-1].acknowledged), None)


def judge(device: Machine, recording: Recording, cut: Cut, letters: Sequence[Letter], password: str) -> list[str]:
    """Say what is wrong with a device that has come up from a cut; nothing is the hope.

    Args:
        letters: those that must be there.
        password: Alice's.
    """
    wrong = [f"a unit has failed: {row}" for row in device.lines("systemctl --failed --no-legend --plain")]
    wrong += _configuration(device, recording, cut)
    # The password counts that was shown last: by the first start, or by the one after the cut.
    if not _opens(device, _BOB, shown_password(device) or recording.password):
        wrong.append("the password that was shown opens nothing")
    with mailbox(device.imaps, _ALICE, password) as box:
        for letter in letters:
            try:
                received = fetch(box, letter.subject)
            except AssertionError:
                wrong.append(f"{letter.subject} was acknowledged and is lost")
                break  # waiting for each of the others would take minutes
            if not received.endswith(f"\n{letter.body}\n".replace("\n", "\r\n").encode()):
                wrong.append(f"{letter.subject} was acknowledged and is damaged")
    return wrong


def run_trial(
    recording: Recording, cut: Cut, letters: Sequence[Letter], disk: Path, password: str
) -> tuple[list[str], float]:
    """Make the disk of a cut, start it, and judge.

    Args:
        disk: a file that is made; it is removed if all is well.

    Returns:
        What is wrong, and the seconds that the start took.
    """
    make_disk(recording, cut, disk)
    device = Machine(recording.image, disk)
    # What another trial's console has shown is no password of this one.
    device.log.unlink(missing_ok=True)
    try:
        device.up()
        device.wait_for_mail_services()
        wrong = judge(device, recording, cut, recording.acknowledged(letters, cut.position), password)
    finally:
        device.cut_power()
    if not wrong:
        disk.unlink()
    return wrong, device.boot_seconds


def _configuration(device: Machine, recording: Recording, cut: Cut) -> list[str]:
    begun, done = (recording.log.position_of_size(size) for size in recording.phases[Phase.APPLY])
    wrong = []
    if is_second(device) and cut.position < begun:
        wrong.append("the second configuration is in force before its time")
    if not is_second(device) and cut.position >= done:
        wrong.append("the second configuration was in force, and is not any more")
    tried = device.run("darkpipe apply --dry-run")
    if tried.status != 0 or "nothing would change" not in tried.output:
        wrong.append(f"the configuration in force is not that of the site:\n{tried.output}")
    left = device.run("ls -A /data/darkpipe /data/tls /data/darkpipe/config | grep '[.]new'").output
    if left:
        wrong.append(f"left over: {left}")
    return wrong


def _opens(device: Machine, user: str, password: str) -> bool:
    try:
        mailbox(device.imaps, user, password).logout()
    except imaplib.IMAP4.error:
        return False
    return True
