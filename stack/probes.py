"""Probes: asking a service for what it is there for. A port that is open, or a process that runs, proves nothing.

Each speaks its service's own protocol as far as that goes without leaving anything behind, and gives up in time.
"""

from __future__ import annotations

import imaplib
import smtplib
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from enum import StrEnum

PATIENCE = 10.0
"""Seconds until a probe gives up. A healthy service needs well under one, also on a Raspberry Pi under load."""

_NOBODY = "nobody-has-this-address@invalid"
"""No such mailbox, for certain (RFC 6761 §6.4)."""

_LONGEST_ANSWER = 4096
"""Octets of a line of tcp_table(5), with its end."""

_FULL_MAILBOX = (b"4.2.2", b"5.2.2")
"""Enhanced status codes (RFC 3463 §3.3): the mailbox is full, and all that had to answer has answered."""


class ProbeKind(StrEnum):
    """What a service is asked for."""

    SMTP = "smtp"
    LMTP = "lmtp"
    IMAPS = "imaps"
    DNS = "dns"
    MILTER = "milter"
    VALKEY = "valkey"
    SRS = "srs"


class ProbeError(Exception):
    """The service does not do what it is there for; the text says what was expected and what was found."""


def probe(kind: ProbeKind, target: str, patience: float = PATIENCE) -> str:
    """Ask a service once.

    Args:
        target: `host:port`, or the path of a Unix socket.
        patience: seconds for each answer.

    Returns:
        What it did, in a few words.

    Raises:
        ProbeError: it did not, or not in time.
    """
    try:
        return _PROBES[kind](target, patience)
    except TimeoutError:
        raise ProbeError(f"{target}: no answer within {patience:.0f} s") from None
    except (OSError, smtplib.SMTPException, imaplib.IMAP4.error, EOFError) as error:
        # smtplib tells of a server that stays silent as of one that has hung up.
        if isinstance(error.__context__, TimeoutError):
            raise ProbeError(f"{target}: no answer within {patience:.0f} s") from None
        raise ProbeError(f"{target}: {str(error) or type(error).__name__}") from error


def _smtp(target: str, patience: float) -> str:
    """Ask whether mail to postmaster would be taken.

    Postfix opens a file in its queue when it accepts the first recipient, and asks its milter before that; the file
    goes when the session ends without DATA.
    """
    host, port = _address(target)
    with smtplib.SMTP(host, port, local_hostname="localhost", timeout=patience) as client:
        client.ehlo()
        if not client.has_extn("starttls"):
            raise ProbeError(f"{target}: expected STARTTLS among {', '.join(client.esmtp_features) or 'no extensions'}")
        _expect(client.mail(""), 250, f"{target}: MAIL FROM:<>")
        answer = client.rcpt("postmaster")
        if not answer[1].startswith(_FULL_MAILBOX):
            _expect(answer, 250, f"{target}: RCPT TO:<postmaster>")
    return "takes mail for postmaster"


def _lmtp(target: str, patience: float) -> str:
    """Ask for a mailbox that does not exist: the answer "no" takes the list of users, "not now" does not."""
    with smtplib.LMTP(target, local_hostname="localhost", timeout=patience) as client:
        client.ehlo()
        _expect(client.mail(""), 250, f"{target}: MAIL FROM:<>")
        _expect(client.rcpt(_NOBODY), 550, f"{target}: RCPT TO:<{_NOBODY}>")
    return "knows its users"


def _imaps(target: str, patience: float) -> str:
    host, port = _address(target)
    # Whose certificate it is makes no difference here: the question is whether somebody answers.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with imaplib.IMAP4_SSL(host, port, ssl_context=context, timeout=patience) as client:
        if "IMAP4REV1" not in client.capabilities:
            raise ProbeError(f"{target}: expected IMAP4rev1 among {' '.join(client.capabilities)}")
    return "greets over TLS"


def _dns(target: str, patience: float) -> str:
    """Ask for `localhost`, which a resolver answers by itself (RFC 6761 §6.3)."""
    # Imported here: only this probe needs it.
    import dns.exception
    import dns.message
    import dns.query
    import dns.rcode

    host, port = _address(target)
    try:
        answer = dns.query.udp(dns.message.make_query("localhost.", "A"), host, timeout=patience, port=port)
    except dns.exception.Timeout:
        raise TimeoutError from None
    except dns.exception.DNSException as error:
        raise ProbeError(f"{target}: {error}") from error
    found = {record.to_text() for rows in answer.answer for record in rows}
    if found != {"127.0.0.1"}:
        code = dns.rcode.to_text(answer.rcode())
        raise ProbeError(f"{target}: expected localhost to be 127.0.0.1, found {code} {', '.join(sorted(found))}")
    return "resolves localhost"


def _milter(target: str, patience: float) -> str:
    """Negotiate options, with which every session of the milter protocol begins (version 6, libmilter's mfdef.h)."""
    with _connected(target, patience) as connection:
        connection.sendall(struct.pack("!IcIII", 13, b"O", 6, 0x1FF, 0x1FFFFF))
        (length,) = struct.unpack("!I", _read(connection, 4))
        command = _read(connection, 1)
        if command != b"O" or length < 13:
            raise ProbeError(f"{target}: expected an option negotiation (O), found {command!r} of {length} bytes")
    return "negotiates as a milter"


def _valkey(target: str, patience: float) -> str:
    with _connected(target, patience) as connection:
        connection.sendall(b"PING\r\n")
        answer = _read(connection, 7)
        if answer != b"+PONG\r\n":
            raise ProbeError(f"{target}: expected PONG, found {answer!r}")
    return "answers PING"


def _srs(target: str, patience: float) -> str:
    """Have an address looked up as Postfix does (tcp_table(5)); that there is no such address is an answer as well."""
    with socket.create_connection(_address(target), patience) as connection:
        connection.sendall(f"get {_NOBODY}\n".encode())
        with connection.makefile("rb") as reader:
            answer = reader.readline(_LONGEST_ANSWER)
        if answer[:4] not in {b"200 ", b"500 "} or not answer.endswith(b"\n"):
            raise ProbeError(
                f"{target}: expected 200 or 500, found {answer.decode(errors='replace').strip() or 'nothing'}"
            )
    return "answers for addresses"


_PROBES: Mapping[ProbeKind, Callable[[str, float], str]] = {
    ProbeKind.SMTP: _smtp,
    ProbeKind.LMTP: _lmtp,
    ProbeKind.IMAPS: _imaps,
    ProbeKind.DNS: _dns,
    ProbeKind.MILTER: _milter,
    ProbeKind.VALKEY: _valkey,
    ProbeKind.SRS: _srs,
}


def _address(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host, int(port)


def _expect(answer: tuple[int, bytes], code: int, asked: str) -> None:
    if answer[0] != code:
        text = answer[1].decode(errors="replace").replace("\n", " ")
        raise ProbeError(f"{asked}: expected {code}, found {answer[0]} {text}")


def _connected(target: str, patience: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(patience)
    try:
        connection.connect(target)
    except OSError:
        connection.close()
        raise
    return connection


def _read(connection: socket.socket, length: int) -> bytes:
    received = b""
    while len(received) < length:
        part = connection.recv(length - len(received))
        if not part:
            raise EOFError("the connection was closed before the answer was complete")
        received += part
    return received
