"""SMTP as the queue speaks it to Postfix: octets in, events out, with no socket, clock or file (RFC 5321, RFC 2920)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from model.envelope import MOST_RECIPIENTS
from relay.commands import FORWARDED, Command, Path, SyntaxFault, parse_forward
from relay.content import Content

LONGEST_LINE = 4096
"""Octets of a command with its CRLF: more than RFC 5321 §4.5.3.1.4 asks for with all our extensions."""

MOST_FAULTS = 20
"""Commands that cannot be understood, in one session."""

_NAME = re.compile(r"[!-~]+")
_SIZE = re.compile(r"[0-9]{1,20}")
_MAIL_PARAMETERS = frozenset({"SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "AUTH"})
_RECIPIENT_PARAMETERS = frozenset({"NOTIFY", "ORCPT"})
_BODIES = frozenset({"7BIT", "8BITMIME"})


@dataclass(frozen=True)
class Reply:
    """An answer of one line: its code and its text, which begins with an enhanced status code (RFC 3463)."""

    code: int
    text: str

    def octets(self) -> bytes:
        """Write it as it goes to the client."""
        return f"{self.code} {self.text}\r\n".encode()


@dataclass(frozen=True)
class Mail:
    """A message is announced; wants an answer.

    Args:
        sender: of the envelope; empty for the null sender.
        size: that the client has declared, in octets.
        utf8: whether addresses and headers may be in UTF-8 (RFC 6531).
        parameters: of DSN (RFC 3461): RET and ENVID, as they came.
        client: what XFORWARD and HELO have said so far, names in capitals.
    """

    sender: str
    size: int | None
    utf8: bool
    parameters: Mapping[str, str | None]
    client: Mapping[str, str]


@dataclass(frozen=True)
class Recipient:
    """One more recipient; wants an answer. The parameters are those of DSN: NOTIFY and ORCPT."""

    address: str
    parameters: Mapping[str, str | None]


@dataclass(frozen=True)
class Data:
    """The client wants to send the content; wants an answer, 354 for yes."""


@dataclass(frozen=True)
class Piece:
    """Some octets of the content."""

    octets: bytes


@dataclass(frozen=True)
class End:
    """The content has come to its end; wants the answer by which the message is taken or not."""


@dataclass(frozen=True)
class Reset:
    """What was said of a message is void."""


@dataclass(frozen=True)
class Quit:
    """The session is over: send the output and hang up."""


Event = Mail | Recipient | Data | Piece | End | Reset | Quit


class _Refused(Exception):
    """A command is answered with a refusal.

    Args:
        fault: whether it is one that a client in good order does not make.
    """

    def __init__(self, code: int, text: str, *, fault: bool = True) -> None:
        self.reply, self.fault = Reply(code, text), fault


class _State(Enum):
    READY = auto()
    MAIL = auto()
    RECIPIENTS = auto()
    CONTENT = auto()
    OVER = auto()


class Session:
    """One session, from the server's end.

    Give it what comes in by `feed`, take events from `next_event` until there is none, and answer those that want it
    before the next one is taken; then send what `take_output` gives. A client may send many commands at once
    (PIPELINING): they wait until the ones before are answered. At most one `feed` and one line are kept.

    Args:
        name: of this server.
        largest: message that may be declared, in octets.
    """

    def __init__(self, name: str, largest: int) -> None:
        self._name, self._largest = name, largest
        self._state = _State.READY
        self._input = b""
        self._overlong = False
        self._output = [Reply(220, f"{name} ESMTP").octets()]
        self._asked: Mail | Recipient | Data | End | None = None
        self._greeting: str | None = None
        self._forwarded: dict[str, str | None] = {}
        self._recipients = 0
        self._faults = 0
        self._utf8 = False
        self._content = Content()
        self._ended = False

    @property
    def over(self) -> bool:
        """Whether nothing more is read."""
        return self._state is _State.OVER

    def feed(self, data: bytes) -> None:
        """Take octets from the client."""
        self._input += data

    def take_output(self) -> bytes:
        """Give what is to be sent to the client."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def next_event(self) -> Event | None:
        """Go on to the next event; None when more has to come in first.

        Raises:
            ValueError: the last event wants an answer.
        """
        if self._asked:
            raise ValueError(f"{type(self._asked).__name__} has no answer yet")
        while self._state is not _State.OVER:
            event = self._next_piece() if self._state is _State.CONTENT else self._next_command()
            if event is None and not self._can_go_on():
                return None
            if event:
                self._asked = event if isinstance(event, Mail | Recipient | Data | End) else None
                return event
        return None

    def answer(self, reply: Reply) -> None:
        """Answer the last event.

        Raises:
            ValueError: it wants none.
        """
        asked, self._asked = self._asked, None
        if asked is None:
            raise ValueError("nothing was asked")
        self._output.append(reply.octets())
        taken = reply.code < 400
        if isinstance(asked, Mail) and taken:
            self._state, self._recipients = _State.MAIL, 0
        elif isinstance(asked, Recipient) and taken:
            self._state, self._recipients = _State.RECIPIENTS, self._recipients + 1
        elif isinstance(asked, Data) and taken:
            self._state, self._content = _State.CONTENT, Content()
        elif isinstance(asked, End):
            self._state = _State.READY

    def close(self, reply: Reply) -> None:
        """End the session with a last word, such as 421: nothing that the client has said or will say is read."""
        self._output.append(reply.octets())
        self._state, self._asked, self._input = _State.OVER, None, b""

    # ---- Reading

    def _can_go_on(self) -> bool:
        """Tell whether the input may hold something that was not looked at."""
        if self._state is _State.CONTENT:
            return self._ended or bool(self._input)
        return b"\n" in self._input or len(self._input) > LONGEST_LINE

    def _next_piece(self) -> Event | None:
        if self._ended:
            self._ended = False
            return End()
        data, self._input = self._input, b""
        octets, rest = self._content.feed(data)
        if rest is not None:
            self._ended, self._input = True, rest
        return Piece(octets) if octets else None

    def _next_command(self) -> Event | None:
        line = self._next_line()
        if line is None:
            return None
        try:
            return self._do(Command.parse(line))
        except SyntaxFault as fault:
            self._refuse(Reply(501, f"5.5.4 Expected {fault}"))
        except _Refused as refused:
            if refused.fault:
                self._refuse(refused.reply)
            else:
                self._say(refused.reply)
        return None

    def _next_line(self) -> bytes | None:
        """Take a line without its CRLF; one that is too long is read over, and answered once it has ended."""
        end = self._input.find(b"\n")
        if end < 0:
            if len(self._input) > LONGEST_LINE:
                self._overlong, self._input = True, b""
            return None
        line, self._input = self._input[: end + 1], self._input[end + 1 :]
        if self._overlong or len(line) > LONGEST_LINE:
            self._overlong = False
            self._refuse(Reply(500, "5.5.2 The line is too long"))
            return None
        if not line.endswith(b"\r\n"):
            self._refuse(Reply(500, "5.5.2 A line ends with CRLF"))
            return None
        return line[:-2]

    def _refuse(self, reply: Reply) -> None:
        self._faults += 1
        if self._faults > MOST_FAULTS:
            self.close(Reply(421, "4.7.0 Too many faults"))
        else:
            self._output.append(reply.octets())

    # ---- Commands

    def _do(self, command: Command) -> Event | None:
        handlers: Mapping[str, Callable[[bytes], Event | None]] = {
            "EHLO": self._ehlo,
            "HELO": self._helo,
            "XFORWARD": self._xforward,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": self._noop,
            "VRFY": self._vrfy,
            "QUIT": self._quit,
        }
        handler = handlers.get(command.verb)
        if handler is None:
            raise _Refused(502, "5.5.1 No such command")
        return handler(command.argument)

    def _say(self, reply: Reply) -> None:
        self._output.append(reply.octets())

    def _greet(self, argument: bytes) -> None:
        name = argument.decode("ascii", "replace")
        if not _NAME.fullmatch(name):
            raise SyntaxFault("the client's name")
        self._greeting = name

    def _client(self) -> Mapping[str, str]:
        """Tell what is known of the client; whoever speaks for another says by XFORWARD how that one has greeted."""
        told = self._forwarded or {"HELO": self._greeting}
        return {name: value for name, value in told.items() if value is not None}

    def _ehlo(self, argument: bytes) -> Event | None:
        self._greet(argument)
        keywords = ("PIPELINING", f"SIZE {self._largest}", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")
        lines = [self._name, *keywords, f"XFORWARD {' '.join(FORWARDED)}"]
        self._output += [f"250-{line}\r\n".encode() for line in lines[:-1]]
        self._say(Reply(250, lines[-1]))
        return self._forget()

    def _helo(self, argument: bytes) -> Event | None:
        self._greet(argument)
        self._say(Reply(250, self._name))
        return self._forget()

    def _xforward(self, argument: bytes) -> Event | None:
        if self._state is not _State.READY:
            raise _Refused(503, "5.5.1 There is a message already")
        self._forwarded.update(parse_forward(argument))
        self._say(Reply(250, "2.0.0 Ok"))
        return None

    def _mail(self, argument: bytes) -> Event | None:
        if self._greeting is None or self._state is not _State.READY:
            raise _Refused(503, "5.5.1 There is a message already, or no HELO yet")
        path = Path.parse(argument, "FROM")
        found = dict(path.parameters)
        if unknown := found.keys() - _MAIL_PARAMETERS:
            raise _Refused(555, f"5.5.4 Unknown: {min(unknown)}")
        size, body = found.pop("SIZE", None), found.pop("BODY", "7BIT")
        utf8 = "SMTPUTF8" in found
        found.pop("AUTH", None)
        if (size is not None and not _SIZE.fullmatch(size)) or (body or "").upper() not in _BODIES:
            raise SyntaxFault("SIZE=octets and BODY=8BITMIME")
        if found.pop("SMTPUTF8", None) or not (utf8 or path.address.isascii()):
            raise SyntaxFault("SMTPUTF8 without a value, for addresses in UTF-8")
        if size is not None and int(size) > self._largest:
            raise _Refused(552, f"5.3.4 Larger than {self._largest} octets", fault=False)
        self._utf8 = utf8
        return Mail(path.address, int(size) if size else None, utf8, found, self._client())

    def _rcpt(self, argument: bytes) -> Event | None:
        if self._state not in {_State.MAIL, _State.RECIPIENTS}:
            raise _Refused(503, "5.5.1 First comes MAIL")
        path = Path.parse(argument, "TO")
        if unknown := path.parameters.keys() - _RECIPIENT_PARAMETERS:
            raise _Refused(555, f"5.5.4 Unknown: {min(unknown)}")
        if not path.address or not (self._utf8 or path.address.isascii()):
            raise SyntaxFault("an address, in ASCII unless MAIL said SMTPUTF8")
        if self._recipients >= MOST_RECIPIENTS:
            raise _Refused(452, "4.5.3 Too many recipients", fault=False)
        return Recipient(path.address, path.parameters)

    def _data(self, argument: bytes) -> Event | None:
        if argument:
            raise SyntaxFault("nothing behind DATA")
        if self._state is not _State.RECIPIENTS:
            raise _Refused(503, "5.5.1 No recipients")
        return Data()

    def _rset(self, argument: bytes) -> Event | None:
        if argument:
            raise SyntaxFault("nothing behind RSET")
        self._say(Reply(250, "2.0.0 Ok"))
        return self._forget()

    def _noop(self, argument: bytes) -> Event | None:
        del argument
        self._say(Reply(250, "2.0.0 Ok"))
        return None

    def _vrfy(self, argument: bytes) -> Event | None:
        del argument
        self._say(Reply(252, "2.5.0 Send it and see"))
        return None

    def _forget(self) -> Event | None:
        begun, self._state = self._state is not _State.READY, _State.READY
        return Reset() if begun else None

    def _quit(self, argument: bytes) -> Event | None:
        del argument
        self.close(Reply(221, "2.0.0 Bye"))
        return Quit()
