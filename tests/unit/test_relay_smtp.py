"""A session of the queue's SMTP, without a socket: what a client hears, and what the queue learns."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.envelope import LARGEST, MOST_RECIPIENTS, Envelope
from relay.commands import FORWARDED
from relay.envelope import envelope_of
from relay.smtp import (
    LONGEST_LINE,
    MOST_FAULTS,
    Data,
    End,
    Event,
    Mail,
    Piece,
    Quit,
    Recipient,
    Reply,
    Reset,
    Session,
)

_YES = {
    Mail: Reply(250, "2.1.0 Ok"),
    Recipient: Reply(250, "2.1.5 Ok"),
    Data: Reply(354, "Go on"),
    End: Reply(250, "2.0.0 Ok"),
}
_LARGEST = 50_000_000


class _Client:
    """Talks to a session, whose owner says yes to everything that is not decided otherwise.

    Args:
        decide: gives another answer than yes, or None.
    """

    def __init__(self, decide: Callable[[Event], Reply | None] = lambda _: None) -> None:
        self.session = Session("mx.example.com", _LARGEST)
        self.events: list[Event] = []
        self._decide = decide
        self.greeting = self.session.take_output()

    def say(self, octets: bytes) -> bytes:
        """Send octets and give the answer."""
        self.session.feed(octets)
        while event := self.session.next_event():
            self.events.append(event)
            if type(event) in _YES:
                self.session.answer(self._decide(event) or _YES[type(event)])
        return self.session.take_output()

    def codes(self, octets: bytes) -> list[int]:
        """Send octets and give the codes of the answers."""
        return [int(code) for code in re.findall(rb"(?m)^(\d{3}) ", self.say(octets))]

    @property
    def content(self) -> bytes:
        return b"".join(event.octets for event in self.events if isinstance(event, Piece))


_MESSAGE = (
    b"EHLO sender.example.net\r\nXFORWARD ADDR=192.0.2.7 PORT=4711 HELO=sender.example.net\r\n"
    b"MAIL FROM:<a@example.net> SIZE=30 BODY=8BITMIME ENVID=x RET=HDRS\r\nRCPT TO:<alice@example.com> NOTIFY=NEVER\r\n"
    b"RCPT TO:<bob@example.com>\r\nDATA\r\nSubject: x\r\n\r\n..dot\r\n\xff\0\n.\n\r\n.\r\nQUIT\r\n"
)


def test_a_message_all_at_once() -> None:
    client = _Client()
    assert client.greeting.startswith(b"220 mx.example.com ESMTP")
    assert client.codes(_MESSAGE) == [250, 250, 250, 250, 250, 354, 250, 221]
    mail, alice, bob, data, *pieces, end, last = client.events
    client_of = {"ADDR": "192.0.2.7", "PORT": "4711", "HELO": "sender.example.net"}
    assert mail == Mail("a@example.net", 30, utf8=False, parameters={"ENVID": "x", "RET": "HDRS"}, client=client_of)
    assert alice == Recipient("alice@example.com", {"NOTIFY": "NEVER"})
    assert bob == Recipient("bob@example.com", {})
    assert (data, end, last) == (Data(), End(), Quit())
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert client.content == b"Subject: x\r\n\r\n.dot\r\n\xff\0\n.\n\r\n"
    assert client.session.over


@given(st.lists(st.integers(0, len(_MESSAGE)), max_size=30))
def test_it_does_not_matter_in_which_pieces_it_comes(places: list[int]) -> None:
    whole, pieces = _Client(), _Client()
    said = whole.say(_MESSAGE)
    ends = sorted(places)
    heard = b"".join(pieces.say(_MESSAGE[a:b]) for a, b in zip([0, *ends], [*ends, len(_MESSAGE)], strict=True))
    assert heard == said
    assert pieces.content == whole.content
    assert [event for event in pieces.events if not isinstance(event, Piece)] == [
        event for event in whole.events if not isinstance(event, Piece)
    ]


_WORDS = st.sampled_from(
    [b"EHLO x\r\n", b"HELO x\r\n", b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@d>\r\n", b"DATA\r\n", b".\r\n", b"RSET\r\n",
     b"x\r\n", b"QUIT\r\n", b"\r\n", b"\n", b"NOOP\r\n", b"MAIL FROM:<\xff>\r\n", b"y" * (LONGEST_LINE + 1)]
)  # fmt: skip


@given(st.lists(_WORDS | st.binary(max_size=10), max_size=40))
def test_whatever_a_client_says_each_event_comes_in_its_place(words: list[bytes]) -> None:
    client = _Client()
    for word in words:
        client.say(word)
    state = "ready"
    follows = {
        ("ready", Mail): "mail", ("mail", Recipient): "rcpt", ("rcpt", Recipient): "rcpt", ("rcpt", Data): "content",
        ("content", Piece): "content", ("content", End): "ready", ("mail", Reset): "ready", ("rcpt", Reset): "ready",
    }  # fmt: skip
    for event in client.events:
        state = "over" if isinstance(event, Quit) else follows[state, type(event)]


def test_refused_recipients_are_not_counted_and_another_message_may_follow() -> None:
    refused = Reply(550, "5.1.1 Unknown")
    client = _Client(lambda event: refused if event == Recipient("nobody@example.com", {}) else None)
    client.say(b"EHLO x\r\n")
    for _ in range(2):
        assert client.codes(b"MAIL FROM:<>\r\nRCPT TO:<nobody@example.com>\r\nDATA\r\n") == [250, 550, 503]
        assert client.codes(b"RCPT TO:<a@example.com>\r\nDATA\r\n") == [250, 354]
        assert client.codes(b".\r\n") == [250]


@pytest.mark.parametrize("asked", [Mail, Recipient, Data, End])
def test_later_is_said_where_it_is_decided(asked: type) -> None:
    client = _Client(lambda event: Reply(452, "4.3.1 Full") if isinstance(event, asked) else None)
    client.say(b"EHLO x\r\n")
    codes = client.codes(b"MAIL FROM:<a@b>\r\n") + client.codes(b"RCPT TO:<c@d>\r\n") + client.codes(b"DATA\r\n")
    if asked is End:
        codes += client.codes(b"x\r\n.\r\n")
    assert codes[[Mail, Recipient, Data, End].index(asked)] == 452


def test_no_event_is_given_before_the_last_one_is_answered() -> None:
    session = Session("mx.example.com", _LARGEST)
    session.feed(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\n")
    assert isinstance(session.next_event(), Mail)
    with pytest.raises(ValueError, match="Mail has no answer yet"):
        session.next_event()
    session.answer(Reply(250, "2.1.0 Ok"))
    assert session.next_event() == Recipient("a@b", {})
    session.answer(Reply(250, "2.1.5 Ok"))
    with pytest.raises(ValueError, match="nothing was asked"):
        session.answer(Reply(250, "2.1.5 Ok"))


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"RCPT TO:<a@b>", 503), (b"DATA", 503), (b"STARTTLS", 502), (b"BDAT 5", 502), (b"MAIL FROM:<a@b> X=1", 555),
        (b"MAIL FROM:<a@b> SIZE=x", 501), (b"MAIL FROM:<a@b> SIZE=50000001", 552),
        (b"MAIL FROM:<a@b> BODY=BINARYMIME", 501),
        ("MAIL FROM:<ü@b>".encode(), 501), (b"MAIL FROM:<a@b> SMTPUTF8=1", 501), (b"MAIL", 501), (b"EHLO", 501),
        (b"XFORWARD x", 501), (b"VRFY alice", 252), (b"NOOP x", 250), (b"RSET", 250), (b"RSET x", 501),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(line: bytes, code: int) -> None:
    client = _Client()
    client.say(b"EHLO x\r\n")
    assert client.codes(line + b"\r\n") == [code]
    assert client.events == []
    assert client.codes(b"MAIL FROM:<a@b>\r\n") == [250], "the session goes on"


def test_without_helo_there_is_no_mail() -> None:
    assert _Client().codes(b"MAIL FROM:<a@b>\r\n") == [503]


def test_only_crlf_ends_a_command() -> None:
    assert _Client().codes(b"EHLO x\nMAIL FROM:<a@b>\r\n") == [500, 503]


def test_a_line_without_end_is_not_kept() -> None:
    client = _Client()
    for _ in range(100):
        assert client.say(b"x" * LONGEST_LINE) == b""
        assert len(client.session._input) <= LONGEST_LINE
    assert client.codes(b"\r\nNOOP\r\n") == [500, 250]


def test_who_makes_nothing_but_faults_is_hung_up_on() -> None:
    client = _Client()
    assert client.codes(b"what\r\n" * (MOST_FAULTS + 5)) == [502] * MOST_FAULTS + [421]
    assert client.session.over
    assert client.say(b"NOOP\r\n") == b""


def test_recipients_have_a_limit_and_those_before_stay() -> None:
    client = _Client()
    client.say(b"EHLO x\r\nMAIL FROM:<a@b>\r\n")
    assert client.codes(b"RCPT TO:<c@d>\r\n" * (MOST_RECIPIENTS + 2)) == [250] * MOST_RECIPIENTS + [452] * 2
    assert client.codes(b"DATA\r\n.\r\n") == [354, 250]


def test_a_new_greeting_takes_back_what_was_announced() -> None:
    client = _Client()
    client.say(b"EHLO x\r\nMAIL FROM:<a@b>\r\nEHLO x\r\n")
    assert client.events[-1] == Reset()
    assert client.codes(b"RCPT TO:<c@d>\r\n") == [503]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"", {"HELO": "relay.example.com"}),
        (b"XFORWARD ADDR=192.0.2.7 HELO=sender.example.net\r\n", {"ADDR": "192.0.2.7", "HELO": "sender.example.net"}),
        (b"XFORWARD ADDR=192.0.2.7 HELO=[UNAVAILABLE]\r\n", {"ADDR": "192.0.2.7"}),
        (b"XFORWARD ADDR=192.0.2.7\r\nXFORWARD HELO=x\r\n", {"ADDR": "192.0.2.7", "HELO": "x"}),
    ],
)
def test_who_speaks_for_another_is_not_taken_for_that_one(said: bytes, expected: dict[str, str]) -> None:
    client = _Client()
    client.say(b"EHLO relay.example.com\r\n" + said + b"MAIL FROM:<>\r\n")
    assert [event.client for event in client.events if isinstance(event, Mail)] == [expected]


@pytest.mark.parametrize("name", [b"", b"a b", b"a\xff", b"a\x01"])
def test_who_greets_without_a_name_has_not_greeted(name: bytes) -> None:
    assert _Client().codes(b"EHLO " + name + b"\r\nHELO " + name + b"\r\nMAIL FROM:<>\r\n") == [501, 501, 503]


def test_the_largest_envelope_is_one_that_home_reads() -> None:
    """All lines as long as they may be, of characters that JSON writes as two."""

    def line(head: bytes, filler: bytes, tail: bytes = b"") -> bytes:
        room = LONGEST_LINE - len(head) - len(tail) - 2
        return head + filler * (room // len(filler)) + tail + b"\r\n"

    client = _Client()
    client.say(b"EHLO x\r\n")
    for name in FORWARDED:
        client.say(line(f"XFORWARD {name}=".encode(), b"\\"))
    client.say(line(b"MAIL FROM:<a@example.net> ENVID=", b"\\"))
    for _ in range(MOST_RECIPIENTS):
        client.say(line(b"RCPT TO:<a@example.com> ORCPT=", b"\\"))
    mail, *people = (event for event in client.events if isinstance(event, Mail | Recipient))
    assert isinstance(mail, Mail)
    envelope = envelope_of(mail, [one for one in people if isinstance(one, Recipient)], 0)
    assert len(envelope.recipients) == MOST_RECIPIENTS
    assert len(envelope.octets()) > 0.95 * LARGEST
    assert Envelope.read(BytesIO(envelope.octets())) == envelope
