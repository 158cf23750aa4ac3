"""Sending a message of the relay's own straight to its recipient's mail servers: a notice, or an alarm."""

from __future__ import annotations

import ipaddress
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

import dns.exception
import dns.resolver

_SECONDS = 60.0
"""For each answer (RFC 5321 §4.5.3.2 asks for more, of a server that has a queue)."""

_WHOLE = 180.0
"""For one message, whatever its recipient's servers do: others wait behind it."""

_MOST_SERVERS = 5
_LOOKUP_SECONDS = 20.0


class LaterError(Exception):
    """It was not taken now; it may be later. The text names no address."""


class NeverError(Exception):
    """It will not be taken. The text names no address."""


@dataclass(frozen=True)
class Route:
    """How servers are found and reached; tests have others.

    Args:
        servers: gives the names of a domain's mail servers, the best first.
        addresses: gives the addresses of a server.
        port: of SMTP.
    """

    servers: Callable[[str], Sequence[str]]
    addresses: Callable[[str], Sequence[str]]
    port: int = 25


def send(message: bytes, sender: str, recipient: str, name: str, route: Route) -> None:
    """Send; on return it was taken.

    TLS is used where it is offered, and no certificate is checked, as between mail servers.

    Args:
        message: with CRLF.
        sender: empty for a notice.
        name: of this relay.

    Raises:
        LaterError, NeverError: it was not.
    """
    _, _, domain = recipient.rpartition("@")
    last = LaterError("no mail server has an address that can be used")
    deadline = time.monotonic() + _WHOLE
    for server in list(route.servers(domain))[:_MOST_SERVERS]:
        for address in route.addresses(server):
            left = deadline - time.monotonic()
            if left <= 0:
                raise last
            failure = _try((address, route.port), message, sender, recipient, name, left)
            if failure is None:
                return
            last = failure
    raise last


def _try(
    place: tuple[str, int], message: bytes, sender: str, recipient: str, name: str, seconds: float
) -> LaterError | None:
    """Send to one server; tells why it did not take the message.

    Raises:
        NeverError: nobody else needs to be asked.
    """
    try:
        _send_to(place, message, sender, recipient, name, seconds)
    except smtplib.SMTPNotSupportedError:
        raise NeverError("a server that takes no addresses in UTF-8") from None
    except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
        return _refused(error.smtp_code)
    except smtplib.SMTPRecipientsRefused as error:
        return _refused(*[code for code, _ in error.recipients.values()])
    except smtplib.SMTPResponseException as error:
        # In its greeting, to EHLO or to STARTTLS: of the message it has said nothing, and the next one may take it.
        return LaterError(f"no session: {error.smtp_code}")
    except (OSError, smtplib.SMTPException) as error:
        return LaterError(f"no connection: {type(error).__name__}")
    except ValueError as error:  # of a library; other messages must not wait for this one
        return LaterError(f"cannot be sent: {type(error).__name__}")
    return None


def _refused(code: int) -> LaterError:
    if code >= 500:
        raise NeverError(f"refused with {code}")
    return LaterError(f"not taken now: {code}")


class _Client(smtplib.SMTP):
    """A session that ends in time: a timeout of the socket begins anew with every octet."""

    def __init__(self, place: tuple[str, int], name: str, seconds: float) -> None:
        self._line: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        # It connects here, and not later: STARTTLS names the server that was given here.
        super().__init__(*place, local_hostname=name, timeout=min(_SECONDS, seconds))

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connection = socket.create_connection((host, port), timeout)
        # The same connection under another number, which no TLS handshake takes away.
        self._line = connection.dup()
        self._timer.start()
        return connection

    def _cut(self) -> None:
        if self._line:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._timer.cancel()
        super().close()
        if self._line:
            self._line.close()


def _send_to(place: tuple[str, int], message: bytes, sender: str, recipient: str, name: str, seconds: float) -> None:
    with closing(_Client(place, name, seconds)) as client:
        client.ehlo_or_helo_if_needed()
        if client.has_extn("starttls"):
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            client.starttls(context=context)
            client.ehlo_or_helo_if_needed()
        options = [] if recipient.isascii() and message.isascii() else ["SMTPUTF8", "BODY=8BITMIME"]
        if options and not client.has_extn("smtputf8"):
            raise smtplib.SMTPNotSupportedError
        client.sendmail(sender, [recipient], message, options)
        with suppress(OSError, smtplib.SMTPException):  # it has it
            client.quit()


def servers_by_dns(domain: str) -> Sequence[str]:
    """Ask for a domain's mail servers; without any, it is its own (RFC 5321 §5.1).

    Raises:
        LaterError: the DNS gives no answer.
        NeverError: the domain takes no mail (RFC 7505), or there is no such domain.
    """
    try:
        answer = dns.resolver.resolve(_ascii(domain), "MX", lifetime=_LOOKUP_SECONDS)
    except dns.resolver.NXDOMAIN:
        raise NeverError("there is no such domain") from None
    except dns.resolver.NoAnswer:
        return [_ascii(domain)]
    except dns.exception.DNSException as error:
        raise LaterError(f"no answer of the DNS: {type(error).__name__}") from None
    found = sorted((one.preference, one.exchange.to_text(omit_final_dot=True)) for one in answer)
    if [server for _, server in found] in ([""], ["."], ["@"]):
        raise NeverError("the domain takes no mail")
    return [server for _, server in found]


def addresses_by_dns(server: str) -> Sequence[str]:
    """Ask for a server's addresses; those of no server in the Internet are left out."""
    try:
        found = socket.getaddrinfo(server, 25, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    addresses = [str(address[0]) for *_, address in found]
    return [one for one in addresses if ipaddress.ip_address(one).is_global]


def _ascii(domain: str) -> str:
    try:
        return domain if domain.isascii() else domain.encode("idna").decode()
    except UnicodeError:
        raise NeverError("a domain that has no form in the DNS") from None


BY_DNS = Route(servers_by_dns, addresses_by_dns)
