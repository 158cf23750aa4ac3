"""The notice that a message could not be handed over in time: a delivery status notification (RFC 3464, RFC 6533)."""

from __future__ import annotations

import email.utils
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime

from relay.commands import SyntaxFault, decode_xtext
from relay.facts import Facts

_STATUS = "5.4.7"
"""Delivery time expired (RFC 3463 §3.5)."""

_TEXT = """\
This is the mail system of {name}.

Your message of {received} could not be handed over to

{people}

in time, since the server behind this one has not been there. It was not delivered, and will not be tried again.
"""


def notice(facts: Facts, name: str, now: float) -> bytes:
    """Write the notice for a sender; it is addressed to him, and its own sender is nobody.

    Nothing of the message comes back (RFC 3461 §4.3 lets us): it is sealed, and only home can open it.

    Args:
        name: of this relay.
        now: seconds since 1970.
    """
    boundary = secrets.token_hex(16)
    utf8 = not _is_ascii(facts)
    people = "\n".join(f"    {address}" for address, _ in facts.recipients)
    text = _TEXT.format(name=name, received=_date(facts.received / 1000), people=people)
    status = "message/global-delivery-status" if utf8 else "message/delivery-status"
    head = [
        f"From: Mail Delivery System <MAILER-DAEMON@{name}>",
        f"To: <{facts.sender}>",
        "Subject: Undelivered Mail Returned to Sender",
        f"Date: {_date(now)}",
        f"Message-ID: <{secrets.token_hex(16)}@{name}>",
        "Auto-Submitted: auto-replied",
        *([f"In-Reply-To: {facts.message_id}", f"References: {facts.message_id}"] if facts.message_id else []),
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status; boundary="{boundary}"',
        f"Content-Transfer-Encoding: {_encoding(utf8)}",
        "",
    ]
    parts = [
        ["Content-Type: text/plain; charset=utf-8", "Content-Description: Notification", *_rest(utf8), text],
        [f"Content-Type: {status}", "Content-Description: Delivery report", *_rest(utf8), _report(facts, name)],
    ]
    if facts.message_id:
        header = ["Content-Type: text/rfc822-headers", "Content-Description: Undelivered message", *_rest(utf8)]
        parts.append([*header, f"Message-ID: {facts.message_id}"])
    body = "".join("\n".join((f"--{boundary}", *part)).rstrip("\n") + "\n\n" for part in parts)
    whole = "\n".join(head) + "\n" + body + f"--{boundary}--\n"
    return whole.replace("\n", "\r\n").encode()


def _rest(utf8: bool) -> tuple[str, str]:
    return (f"Content-Transfer-Encoding: {_encoding(utf8)}", "")


def _encoding(utf8: bool) -> str:
    return "8bit" if utf8 else "7bit"


def _is_ascii(facts: Facts) -> bool:
    return facts.sender.isascii() and all(address.isascii() for address, _ in facts.recipients)


def _date(seconds: float) -> str:
    return email.utils.format_datetime(datetime.fromtimestamp(seconds, UTC))


def _report(facts: Facts, name: str) -> str:
    """Write the fields of RFC 3464 §2.2 and §2.3."""
    whole = [f"Reporting-MTA: dns; {name}", f"Arrival-Date: {_date(facts.received / 1000)}"]
    if identifier := _decoded(facts.parameters.get("ENVID")):
        whole.insert(0, f"Original-Envelope-Id: {identifier}")
    groups = ["\n".join(whole), *(_recipient(address, parameters) for address, parameters in facts.recipients)]
    return "\n\n".join(groups)


def _recipient(address: str, parameters: Mapping[str, str | None]) -> str:
    kind, semicolon, original = (parameters.get("ORCPT") or "").partition(";")
    fields = [f"Original-Recipient: {kind}; {_decoded(original)}"] if semicolon and _decoded(original) else []
    kind = "rfc822" if address.isascii() else "utf-8"
    fields += [f"Final-Recipient: {kind}; {address}", "Action: failed", f"Status: {_STATUS}"]
    return "\n".join(fields)


def _decoded(text: str | None) -> str:
    """Decode xtext; what is none is left out, since it would stand in a header."""
    try:
        return decode_xtext(text or "")
    except SyntaxFault:
        return ""
