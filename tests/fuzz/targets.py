"""What is fuzzed: each target takes octets, and fails by an exception that its code does not promise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import h11
import pyrage

from home.drain_letter import LetterError, read_letter
from model.bucket import BucketError, Seal
from model.control import ControlError, Page, QueueSettings, QueueStatus
from model.envelope import Envelope, EnvelopeError
from relay.control import Request
from relay.control_request import Unfit, parse
from relay.entry import Entry
from relay.presence import Presence
from relay.queue_api import QueueApi
from relay.smtp import LONGEST_LINE, Data, End, Mail, Piece, Recipient, Reply, Session
from relay.spool import Spool

_SEAL = Seal(str(pyrage.x25519.Identity.generate()), "0" * 32)
_FOLDER = tempfile.TemporaryDirectory(prefix="darkpipe-fuzz-")


def smtp(octets: bytes) -> None:
    """The SMTP core: however the octets are cut, the events and replies are the same, and little is held."""
    whole = _session(octets, [octets])
    cut = len(octets) // 3
    assert whole == _session(octets, [octets[:cut], octets[cut : cut + 1], octets[cut + 1 :]])


def _session(octets: bytes, pieces: list[bytes]) -> tuple[list[str], bytes, bytes]:
    session, events, content, output = Session("mx.example.com", 10_000), [], b"", b""
    for piece in pieces:
        session.feed(piece)
        while event := session.next_event():
            if isinstance(event, Piece):
                content += event.octets
                continue
            events.append(repr(event))
            if isinstance(event, Mail | Recipient | End):
                session.answer(Reply(250, "2.0.0 Ok"))
            elif isinstance(event, Data):
                session.answer(Reply(354, "go on"))
        output += session.take_output()
        assert len(session._input) <= LONGEST_LINE + len(octets)
    assert len(content) <= len(octets)
    return events, content, output


class _Body:
    def __init__(self, octets: bytes) -> None:
        self.length, self._rest = len(octets), BytesIO(octets)

    def read(self, size: int, /) -> bytes:
        return self._rest.read(size)


def api(octets: bytes) -> None:
    """The control plane: any octets for a request are answered or refused, and never with a fault of ours."""
    spool = Spool(Path(_FOLDER.name), [], 0)
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(octets)
        head = connection.next_event()
    except h11.RemoteProtocolError:
        return
    for kind in (Page, QueueStatus, QueueSettings):
        try:
            kind.read(octets.rpartition(b"\r\n\r\n")[2])
        except ControlError:
            continue
    if not isinstance(head, h11.Request):
        return
    try:
        request = parse(head, _Body(b""), 1000)
    except Unfit:
        return
    answer = QueueApi(spool, Presence(Path(_FOLDER.name), lambda: 1.0), _status)(Request(**vars(request)))
    assert 200 <= answer.status < 500


def _status() -> QueueStatus:
    return QueueStatus(1, "", "0" * 32, 0, 0, None, 0, None, 0, 0)


def item(octets: bytes) -> None:
    """The formats of items: envelope, letter at home, name in the index, records in the bucket."""
    try:
        envelope = Envelope.read(BytesIO(octets))
    except EnvelopeError:
        pass
    else:
        assert Envelope.read(BytesIO(envelope.octets())) == envelope
    path = Path(_FOLDER.name) / "letter"
    path.write_bytes(octets)
    with suppress(LetterError):
        read_letter(path)
    name = octets.decode("latin-1")
    entry = Entry.parse(name)
    assert entry is None or Entry.parse(entry.name) == entry
    for read in (_SEAL.read_head, lambda one: _SEAL.read_page(one, "0" * 64)):
        try:
            read(octets)
        except BucketError:
            continue
        raise AssertionError("something was taken that nobody has sealed")


TARGETS: Mapping[str, Callable[[bytes], None]] = {"smtp": smtp, "api": api, "item": item}

_LETTER = Envelope("bob@example.net", (("alice@example.com", {"NOTIFY": None}),), True, {}, {"ADDR": "192.0.2.1"}, 7)
_SESSION = b"""\
EHLO mail.example.net
XFORWARD ADDR=192.0.2.1 HELO=[UNAVAILABLE]
MAIL FROM:<bob@example.net> SIZE=10 BODY=8BITMIME SMTPUTF8 RET=HDRS
RCPT TO:<alice@example.com> NOTIFY=NEVER ORCPT=rfc822;a+2B@b
DATA
Subject: x

..
.
QUIT
"""
_SETTINGS = QueueSettings(1, "mx.example.com", ("example.com",), "queue", ("age1",), 10)

SEEDS: Mapping[str, tuple[bytes, ...]] = {
    "smtp": (_SESSION.replace(b"\n", b"\r\n"), b'HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<"a b\\""@c>\r\nRSET\r\nNOOP\r\n'),
    "api": (
        b"GET /items?after=7 HTTP/1.1\r\nHost: relay\r\nDarkPipe-Home-Epoch: 3\r\n\r\n",
        b"DELETE /items/0123456789abcdef0123456789abcdef HTTP/1.1\r\nHost: relay\r\nContent-Length: 0\r\n\r\n{}",
        b"PUT /settings HTTP/1.1\r\nHost: relay\r\n\r\n" + _SETTINGS.to_json(),
    ),
    "item": (
        _LETTER.octets() + b"Subject: x\r\n\r\n",
        f"{7:012d}-1795478400000-300-{'0' * 32}-{'a' * 64}.away".encode(),
    ),
}
"""Octets to begin with."""
