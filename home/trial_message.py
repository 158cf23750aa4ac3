"""The test message: sent as a mail app sends, and followed in Postfix's log."""

from __future__ import annotations

import base64
import json
import re
import smtplib
import ssl
import subprocess
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from home.configure import known_accounts
from home.store import Store
from model.account_changes import find_user
from model.names import target_address
from stack.durable import write_atomically

SENT = Path("setup/message.json")
"""Below `data`."""

_PORT = 465
_PATIENCE = 60.0
"""Seconds for each answer: rspamd looks at the message before it is taken."""

_WRONG_PASSWORD = 535
"""RFC 4954 §6."""

_ROUTE = re.compile(r"to=<([^>]*)>.*?\brelay=(\S+),.*?\bstatus=(\w+) \((.*)\)\s*$")
_GIVEN_UP = re.compile(r"from=<[^>]*>, status=(?:force-)?expired, returned to sender")
"""What Postfix says when it has tried for long enough (qmgr_active.c); the last server's words stand."""


class SendError(Exception):
    """The device has not taken the message; the text says what it said."""


class Fate(StrEnum):
    """What became of it."""

    QUEUED = "queued"
    """Nobody has been asked to take it yet."""

    SENT = "sent"
    DEFERRED = "deferred"
    """It was not taken, and will be tried again."""

    BOUNCED = "bounced"
    """It was refused for good."""


class Message(BaseModel):
    """One of them.

    Args:
        queue_id: Postfix's.
        sent_at: when this device took it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue_id: str
    sender: str
    recipient: str
    sent_at: datetime


class Told(BaseModel):
    """What became of it, and the file.

    Args:
        server: which server was asked last, as Postfix writes it; empty before.
        reply: what it said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    message: Message
    fate: Fate
    server: str = ""
    reply: str = ""

    @property
    def is_settled(self) -> bool:
        """Whether nothing more will become of it."""
        return self.fate in {Fate.SENT, Fate.BOUNCED}


def send(
    store: Store,
    sender: str,
    password: str,
    recipient: str,
    submit: Callable[[str, str, EmailMessage], str] | None = None,
    now: datetime | None = None,
) -> Message:
    """Send it the way of a mail app: TLS and login, so that what is seen holds for those.

    Args:
        sender: a user.
        submit: hands it over for a user with a password, and gives what the device said.

    Raises:
        Refusal: there is no such user, or the recipient is no address.
        SendError: the device has not taken it.
        OSError, StoreError: a file cannot be used.
    """
    found, to = find_user(known_accounts(store), sender).address, target_address(recipient)
    at = now or datetime.now(UTC)
    said = (submit or submit_here)(found, password, text(found, to, at))
    queue_id = re.search(r"queued as (\w+)", said)
    if queue_id is None:
        raise SendError(f"the device says something else than that it has queued the message: {said}")
    message = Message(queue_id=queue_id[1], sender=found, recipient=to, sent_at=at)
    _write(store, Told(message=message, fate=Fate.QUEUED))
    return message


def look(store: Store, log: Callable[[Message], Iterable[str]] | None = None) -> Told | None:
    """Tell what became of the latest one, and keep it; None when there has been none.

    Args:
        log: gives the lines of Postfix about it, the oldest first.

    Raises:
        OSError: the disk has failed.
    """
    before = read_told(store)
    if before is None or before.is_settled:
        return before
    told = judge(before.message, (log or postfix_log)(before.message))
    if told.is_settled:
        _write(store, told)
    return told


def read_told(store: Store) -> Told | None:
    """Read what was kept last of the latest one; None when there is nothing that this version understands."""
    try:
        return Told.model_validate_json((store.data / SENT).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def judge(message: Message, lines: Iterable[str]) -> Told:
    """Read what became of a message from Postfix's lines about it (postfix-logwatch knows the same form)."""
    told = Told(message=message, fate=Fate.QUEUED)
    for line in lines:
        queue_id, _, rest = line.partition(": ")
        found = _ROUTE.search(rest)
        if queue_id == message.queue_id and _GIVEN_UP.match(rest):
            told = told.model_copy(update={"fate": Fate.BOUNCED})
        elif queue_id == message.queue_id and found and found[3] in set(Fate):
            told = Told(message=message, fate=Fate(found[3]), server=found[2], reply=found[4])
    return told


def text(sender: str, recipient: str, at: datetime) -> EmailMessage:
    """Write it."""
    message = EmailMessage()
    message["From"], message["To"] = sender, recipient
    message["Subject"] = "A test from your DarkPipe"
    message["Date"] = format_datetime(at)
    message["Message-ID"] = make_msgid(domain=sender.partition("@")[2])
    message.set_content(
        f"{sender} has sent this from the page of the device at home, to see that mail goes out.\n\n"
        "Answer it, and you see that mail comes in.\n"
    )
    return message


def submit_here(user: str, password: str, message: EmailMessage) -> str:
    """Hand a message to this device's own port for apps.

    Raises:
        SendError: it is not taken.
    """
    # It is this very machine, by its loopback: nobody else could answer.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with smtplib.SMTP_SSL("127.0.0.1", _PORT, timeout=_PATIENCE, context=context) as client:
            client.ehlo()
            # RFC 4616 §2: UTF-8, of which smtplib's own login knows ASCII only.
            proof = base64.b64encode(f"\0{user}\0{password}".encode(errors="replace")).decode()
            code, said = client.docmd("AUTH", f"PLAIN {proof}")
            if code == _WRONG_PASSWORD:
                raise SendError(f"this is not the password of {user}")
            _good((code, said))
            _good(client.mail(user))
            _good(client.rcpt(str(message["To"])))
            return _good(client.data(message.as_bytes()))
    except smtplib.SMTPResponseException as error:
        answer = error.smtp_error if isinstance(error.smtp_error, str) else error.smtp_error.decode(errors="replace")
        raise SendError(f"the device says {error.smtp_code} {answer}") from None
    except (OSError, smtplib.SMTPException) as error:
        raise SendError(f"the device's own port for apps does not answer: {error}") from None


def _write(store: Store, told: Told) -> None:
    write_atomically(store.data / SENT, told.model_dump_json().encode() + b"\n", 0o600)


def _good(answer: tuple[int, bytes]) -> str:
    said = answer[1].decode(errors="replace")
    if answer[0] >= 300:
        raise SendError(f"the device says {answer[0]} {said}")
    return said


def postfix_log(message: Message) -> Iterable[str]:
    """Give what Postfix has written about a message since it was taken, the oldest lines first."""
    since = message.sent_at - timedelta(minutes=5)  # a clock may be set meanwhile
    command = ["journalctl", "--output=json", "--unit=postfix.service", f"--since=@{since.timestamp():.0f}"]
    done = subprocess.run(
        [*command, f"--grep=^{message.queue_id}: ", "--lines=200", "--reverse"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # journalctl(1): "When used with --grep=, --reverse is implied" by --lines=.
    for line in reversed(done.stdout.splitlines()):
        try:
            yield str(json.loads(line)["MESSAGE"])
        except (ValueError, KeyError):
            continue
