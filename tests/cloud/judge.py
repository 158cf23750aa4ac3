"""What a relay whose home is away answers to the world, wherever it runs."""

from __future__ import annotations

import smtplib
from collections.abc import Iterable, Mapping

STRANGERS = ("a@example.net", "a%example.net@example.com", "a@sub.example.com", '"a@example.net"', "root@localhost")
"""Recipients that no relay of example.com takes mail for."""

OWN = "alice@example.com"

RECIPIENTS = (OWN, "postmaster", *STRANGERS)
"""A bare postmaster cannot be refused for good (RFC 5321 §4.5.1)."""


AWAY = frozenset({450, 451})
"""Codes while home is away: of the queue that knows no recipients yet, and of Postfix before there is a queue."""


def answers(host: str, port: int, recipients: Iterable[str], source: str = "") -> dict[str, tuple[int, int]]:
    """Try to send to each of some recipients, in a session each.

    Returns:
        The codes to RCPT and DATA.
    """
    found = {}
    for recipient in recipients:
        with smtplib.SMTP(host, port, "sender.example.org", 60, (source, 0) if source else None) as session:
            session.docmd("EHLO sender.example.org")
            session.docmd("MAIL FROM:<sender@example.org>")
            found[recipient] = (session.docmd(f"RCPT TO:<{recipient}>")[0], session.docmd("DATA")[0])
    return found


def check_answers(found: Mapping[str, tuple[int, int]]) -> None:
    """Judge the answers: mail for the site shall come again later, and all other mail never.

    Args:
        found: what `answers` gave for RECIPIENTS.

    Raises:
        AssertionError: a server that tells senders anything else.
    """
    codes = {recipient: code for recipient, (code, _) in found.items()}
    assert {codes.pop(recipient) for recipient in (OWN, "postmaster")} <= AWAY
    assert codes == dict.fromkeys(STRANGERS, 554)
    assert {code for _, code in found.values()} <= {503, 554}, found
