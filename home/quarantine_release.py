"""Releasing what lies in quarantine: into a mailbox, by Dovecot's LMTP, past the mail server that had refused it.

What was released carries a mark, by which a repeat after a cut is recognised. It leaves quarantine when Dovecot has it.
"""

from __future__ import annotations

import smtplib
import subprocess
from collections.abc import Sequence

from home.drain_letter import LetterError, read_letter
from home.hand_over import FIELD, stuffed
from home.quarantine import Kept, Kind, Quarantine, QuarantineError

SOCKET = "/run/dovecot-postfix/lmtp"

_PIECE = 64 * 1024
_PATIENCE = 310.0
_GO_ON = 354
_GOOD = 250


class ReleaseError(Exception):
    """Something could not be released and lies in quarantine as before; the text says why and what to do."""


def release(quarantine: Quarantine, kept: Kept, numbers: Sequence[int], mailboxes: Sequence[str]) -> None:
    """Put a letter into mailboxes, and forget the recipients whom that was for.

    Args:
        numbers: the recipients' places in the envelope.

    Raises:
        ReleaseError: a mailbox did not take it; who has it by now does not get it again.
    """
    if kept.kind is not Kind.REFUSED:
        raise ReleaseError(
            f"item {kept.id} cannot be opened, so that there is nothing to release; "
            "`darkpipe quarantine show` says why, `darkpipe quarantine delete` removes it"
        )
    for mailbox in mailboxes:
        if not _is_there(kept, mailbox):
            deliver(quarantine, kept, mailbox)
    quarantine.forget(kept.id, numbers)


def _mark(kept: Kept) -> str:
    return f"{kept.id}.0"


def _is_there(kept: Kept, mailbox: str) -> bool:
    """Tell whether a mailbox has it, from a release that was cut off."""
    query = ("mailbox", "*", "header", FIELD, _mark(kept))
    done = subprocess.run(["doveadm", "search", "-u", mailbox, *query], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ReleaseError(
            f"Dovecot does not say whether {mailbox} has it: {done.stderr.strip()}; is there such a mailbox?"
        )
    return bool(done.stdout.strip())


def deliver(quarantine: Quarantine, kept: Kept, mailbox: str, socket: str = SOCKET) -> None:
    """Put a letter into a mailbox.

    Raises:
        ReleaseError: it was not taken.
    """
    try:
        letter = read_letter(quarantine.content(kept))
        with smtplib.LMTP(timeout=_PATIENCE) as client:
            client.command_encoding = "utf-8"
            client.connect(socket)
            _needs(client.docmd("LHLO", "localhost"), "LHLO")
            sender, _ = letter.sender
            _needs(client.docmd(f"MAIL FROM:<{sender}>"), "MAIL")
            _needs(client.docmd(f"RCPT TO:<{mailbox}>"), mailbox)
            _needs(client.docmd("DATA"), "DATA", _GO_ON)
            assert client.sock is not None
            client.sock.sendall(f"{FIELD}: {_mark(kept)}\r\n".encode("ascii"))
            with letter.open() as file:
                for piece in stuffed(iter(lambda: file.read(_PIECE), b"")):
                    client.sock.sendall(piece)
            client.sock.sendall(b".\r\n")
            _needs(client.getreply(), mailbox)
    except (LetterError, QuarantineError, smtplib.SMTPException, OSError) as error:
        raise ReleaseError(f"{mailbox} did not take it: {error}; it lies in quarantine as before") from None


def _needs(answer: tuple[int, bytes], what: str, code: int = _GOOD) -> None:
    if answer[0] != code:
        text = answer[1].decode("utf-8", "replace")
        raise ReleaseError(f"Dovecot answers {what} with {answer[0]} {text}; it lies in quarantine as before")
