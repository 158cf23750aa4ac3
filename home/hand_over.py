"""Handing a letter over to home's mail server, as its sender's server would have done: one session for one letter.

The listener takes a PROXY header (version 2, HAProxy's proxy-protocol.txt §2.2) that names the true client, so that the
server judges that one. On top of the message stands what a repeat is recognised by.
"""

from __future__ import annotations

import contextlib
import smtplib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import BinaryIO

from home.drain import Reply
from home.drain_letter import Letter

PLACE = ("127.0.0.1", 2526)
"""Address and port of the listener (components/postfix-dovecot)."""

FIELD = "DarkPipe-Item"
"""Header field that names one handing over; from everybody else the server takes it away."""

_CONNECT = 10.0
_ANSWER = 310.0
"""Seconds for an answer: more than the server gives its filters, less than the ten minutes of RFC 5321 §4.5.3.2.6."""

_PIECE = 64 * 1024
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_PROXY = 0x21
_OF_VERSION = {4: (0x11, 4), 6: (0x21, 16)}
_TO = {4: IPv4Address("127.0.0.1").packed, 6: IPv6Address("::1").packed}
_SMTP = 25

_GO_ON = 354

_MOST_REFUSED = 10
"""Recipients in one session: from then on Postfix lets its client wait, and after 20 it hangs up (postconf(5),
smtpd_soft_error_limit and smtpd_hard_error_limit)."""


class NobodyTakesError(Exception):
    """The server takes no letter at all now; nothing was handed over. The text says what it said."""


class BrokenOffError(NobodyTakesError):
    """All ended in the middle of a letter; it may be about that one, if it happens again and again."""


class LostError(Exception):
    """The connection ended after the last octet had gone out, and before the answer: somebody has to look."""


def proxy_header(client: IPv4Address | IPv6Address, port: int) -> bytes:
    """Give the header that names a client."""
    family, length = _OF_VERSION[client.version]
    body = client.packed + _TO[client.version] + port.to_bytes(2) + _SMTP.to_bytes(2)
    assert len(body) == 2 * length + 4
    return _SIGNATURE + bytes([_PROXY, family]) + len(body).to_bytes(2) + body


def stuffed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Double each dot at a line's start (RFC 5321 §4.5.2); nothing but CRLF ends a line."""
    tail = b"\r\n"
    for piece in pieces:
        text = tail + piece
        yield text.replace(b"\r\n.", b"\r\n..")[len(tail) :]
        tail = text[-2:]


def hand_over(
    letter: Letter,
    numbers: Sequence[int],
    trace: str,
    about_to_end: Callable[[Sequence[int], int], None],
    place: tuple[str, int] = PLACE,
) -> Mapping[int, Reply]:
    """Hand a letter over for some of its recipients.

    Args:
        numbers: the recipients, by their place in the envelope.
        trace: names this handing over.
        about_to_end: called before the last octet goes out, with those for whom it does and this end's port.

    Returns:
        The server's answer for each recipient who was named to it: after some refusals, nobody else is.

    Raises:
        NobodyTakesError: it is not about this letter; nothing was handed over.
        BrokenOffError: the same, and it may be.
        LostError: it may have been.
    """
    with contextlib.closing(_Session(place)) as session:
        try:
            session.introduce(letter)
        except (smtplib.SMTPException, OSError) as error:
            raise NobodyTakesError(_in_words(error)) from None
        try:
            answer = session.ask("MAIL FROM", *letter.sender)
            if answer.final:
                return dict.fromkeys(numbers, answer)
            if not answer.good:
                # No room for as many octets as are announced is no answer to a smaller letter.
                raise BrokenOffError(f"the mail server answers MAIL with {answer.code} {answer.text}")
            replies = session.name(letter, numbers)
            taken = [number for number, reply in replies.items() if reply.good]
            if not taken:
                return replies
            answer = session.content(letter, trace, lambda port: about_to_end(taken, port))
        except (smtplib.SMTPException, OSError) as error:
            raise BrokenOffError(_in_words(error)) from None
        return {**replies, **dict.fromkeys(taken, answer)}


class _Session:
    def __init__(self, place: tuple[str, int]) -> None:
        self._place = place
        self._client = smtplib.SMTP(timeout=_ANSWER)
        self._client.command_encoding = "utf-8"

    def close(self) -> None:
        """Hang up, in good manners if that is possible."""
        with contextlib.suppress(smtplib.SMTPException, OSError):
            if self._client.sock is not None:
                self._client.putcmd("quit")
        self._client.close()

    def introduce(self, letter: Letter) -> None:
        """Say who the client is."""
        connection = socket.create_connection(self._place, _CONNECT)
        connection.settimeout(_ANSWER)
        # Without it the last line waits for an ACK of what is before it, which Linux delays by 40 ms (tcp(7)).
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(proxy_header(letter.client, letter.port))
        self._client.sock = connection
        self._needs(self._answer(), "greets")
        self._needs(self._say(f"EHLO {letter.helo}"), "answers EHLO")

    def ask(self, command: str, address: str, words: Sequence[str]) -> Reply:
        """Say who sends, or who gets it."""
        return self._say(" ".join([f"{command}:<{address}>", *words]))

    def name(self, letter: Letter, numbers: Sequence[int]) -> dict[int, Reply]:
        """Say who gets it, until too many of them were refused."""
        replies: dict[int, Reply] = {}
        for number in numbers:
            replies[number] = self.ask("RCPT TO", *letter.recipient(number))
            if sum(not reply.good for reply in replies.values()) >= _MOST_REFUSED:
                break
        return replies

    def content(self, letter: Letter, trace: str, about_to_end: Callable[[int], None]) -> Reply:
        """Send the message and give the answer to it.

        Args:
            trace: goes on top, in the field `FIELD`.
            about_to_end: hears our port before the last octet goes out.

        Raises:
            LostError: the answer has not come; the server may have taken the message.
            smtplib.SMTPException, OSError: it was cut off before its end.
        """
        answer = self._say("DATA")
        if answer.code != _GO_ON:
            return answer
        connection = self._client.sock
        assert connection is not None
        connection.sendall(f"{FIELD}: {trace}\r\n".encode("ascii"))
        with letter.open() as file:
            for piece in stuffed(_pieces(file)):
                connection.sendall(piece)
        about_to_end(connection.getsockname()[1])
        try:
            connection.sendall(b".\r\n")
            return self._answer()
        except (smtplib.SMTPException, OSError) as error:
            raise LostError(_in_words(error)) from None

    def _say(self, line: str) -> Reply:
        self._client.putcmd(line)
        return self._answer()

    def _answer(self) -> Reply:
        code, text = self._client.getreply()
        return Reply(code, " ".join(text.decode("utf-8", "replace").split()))

    @staticmethod
    def _needs(answer: Reply, what: str) -> None:
        if not answer.good:
            raise NobodyTakesError(f"the mail server {what} with {answer.code} {answer.text}")


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(_PIECE), b"")


def _in_words(error: Exception) -> str:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return f"the connection to the mail server has failed: {why}"
