"""The drain: what it decides, and what it does with a relay's real queue and a small mail server."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pyrage
import pytest

import home.drain
from home.drain_letter import read_letter
from home.drain_run import Drain
from home.hand_over import LostError, NobodyTakesError, hand_over
from home.quarantine import Kind, Quarantine
from relay.commands import Path as Argument
from tests.drain import HOME, LocalRelay, envelope
from tests.mail_sink import Sink

_NASTY = (
    b"Subject: =?utf-8?q?x?=\r\nDKIM-Signature: v=1\r\n\r\n.\r\n..two\r\n. dot\r\nnul \0 lone\xff octet\r\n"
    + b"l" * 100_000
    + b"\r\n.\r\n"
)


def _quarantine(folder: Path) -> Quarantine:
    return Quarantine(folder / "home/quarantine")


def test_what_waits_comes_in_order_as_its_sender_sent_it(
    relay: LocalRelay, sink: Sink, start: Callable[[], Drain]
) -> None:
    sizes = [1, 5_000, 70_000, 1_000_000]
    messages = [b"No: %d\r\n\r\n" % size + b"." * size + b"\r\n" for size in sizes] + [_NASTY]
    for message in messages:
        relay.keep(message)
    assert start().round().items == len(messages)
    assert [taken.message for taken in sink.taken] == messages
    assert relay.waits == []
    first = sink.taken[0]
    assert (first.client, first.port, first.helo) == ("192.0.2.25", 4242, "mail.example.net")
    assert (first.sender, first.recipients) == ("bob@example.net", ("alice@example.com",))


def test_nobody_waits_for_an_acknowledgement_that_the_kernel_delays(tmp_path: Path, sink: Sink) -> None:
    (tmp_path / "letter").write_bytes(envelope().octets() + b"\r\nhi\r\n" * 700)
    letter = read_letter(tmp_path / "letter")
    spent = []
    for number in range(20):
        began = time.monotonic()
        hand_over(letter, [0], f"{number:032x}.1", lambda _numbers, _port: None, sink.place)
        spent.append(time.monotonic() - began)
    assert statistics.median(spent) < 0.035, "Linux delays it by 40 ms"


def test_the_session_is_the_one_that_the_sender_had(relay: LocalRelay, sink: Sink, start: Callable[[], Drain]) -> None:
    people: Sequence[tuple[str, Mapping[str, str]]] = (
        ("alice@bücher.example", {"NOTIFY": "SUCCESS,FAILURE", "ORCPT": "rfc822;alice@example.com"}),
        ("bob@example.com", {}),
    )
    client = {"ADDR": "IPv6:2001:db8::25", "HELO": "two words"}
    letter = envelope(
        sender="",
        recipients=people,
        utf8=True,
        parameters={"RET": "HDRS", "ENVID": "QQ314159", "AUTH": "<>"},
        client=client,
    )
    relay.keep(b"\r\n\xc3\xbc\r\n", letter)
    start().round()
    assert sink.taken[0].client == "2001:db8::25"
    assert sink.lines[:4] == [
        "EHLO [IPv6:2001:db8::25]",
        "MAIL FROM:<> SIZE=6 ENVID=QQ314159 RET=HDRS BODY=8BITMIME SMTPUTF8",
        "RCPT TO:<alice@bücher.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;alice@example.com",
        "RCPT TO:<bob@example.com>",
    ]


def test_what_the_relay_takes_as_a_parameter_home_says(
    tmp_path: Path, relay: LocalRelay, sink: Sink, start: Callable[[], Drain]
) -> None:
    mail = Argument.parse(b"FROM:<bob@example.net> ENVID=aGk==", "FROM")
    person = Argument.parse("TO:<jürgen@example.com> ORCPT=utf-8;jürgen@example.com".encode(), "TO")
    people = ((person.address, dict(person.parameters)),)
    relay.keep(found=envelope(recipients=people, utf8=True, parameters=dict(mail.parameters)))
    start().round()
    assert sink.lines[1:3] == [
        "MAIL FROM:<bob@example.net> SIZE=22 ENVID=aGk== SMTPUTF8",
        "RCPT TO:<jürgen@example.com> ORCPT=utf-8;jürgen@example.com",
    ]
    assert _quarantine(tmp_path).all() == ([], [])


def test_each_recipient_has_a_fate_of_its_own(
    tmp_path: Path, relay: LocalRelay, sink: Sink, start: Callable[[], Drain], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home.drain, "_SOON", 0.0)
    answers = {"RCPT TO:<no@example.com>": "550 5.1.1 nobody", "RCPT TO:<later@example.com>": "450 4.2.0 later"}
    sink.judge = answers.get
    (item,) = (relay.keep(_NASTY, envelope("yes@example.com", "no@example.com", "later@example.com")),)
    drain = start()
    assert drain.round().items == 0
    assert [taken.recipients for taken in sink.taken] == [("yes@example.com",)]
    assert relay.waits == [item.id]
    (kept,), _ = _quarantine(tmp_path).all()
    assert [(one.address, one.reply) for one in kept.recipients] == [("no@example.com", "550 5.1.1 nobody")]
    assert _quarantine(tmp_path).content(kept).read_bytes().endswith(_NASTY)
    del answers["RCPT TO:<later@example.com>"]
    assert start().round().items == 1
    assert [taken.recipients for taken in sink.taken] == [("yes@example.com",), ("later@example.com",)]
    assert [taken.trace for taken in sink.taken] == [f"{item.id}.1", f"{item.id}.2"]
    assert relay.waits == []
    assert _quarantine(tmp_path).find(item.id) == kept


@pytest.mark.parametrize("line", ["MAIL FROM:<bob@example.net> SIZE=22", "DATA", "."])
def test_a_letter_that_is_refused_as_a_whole_lies_in_quarantine(
    tmp_path: Path, relay: LocalRelay, sink: Sink, start: Callable[[], Drain], line: str
) -> None:
    relay.keep()
    sink.judge = {line: "554 5.7.1 spam"}.get
    assert start().round().items == 1
    assert relay.waits == []
    assert not sink.taken
    (kept,), _ = _quarantine(tmp_path).all()
    assert (kept.kind, kept.recipients[0].reply) == (Kind.REFUSED, "554 5.7.1 spam")


@pytest.mark.parametrize(
    ("line", "answer"),
    [("connect", "421"), ("connect", "554"), ("EHLO mail.example.net", "421"), ("DATA", ""), ("connect", "")],
)
def test_a_server_that_takes_nothing_is_not_about_the_letter(
    relay: LocalRelay, sink: Sink, start: Callable[[], Drain], line: str, answer: str
) -> None:
    item = relay.keep()
    sink.judge = {line: answer}.get
    drain = start()
    for _ in range(3):
        with pytest.raises(NobodyTakesError):
            drain.round()
    assert [drain.pause() for _ in range(8)] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert relay.waits == [item.id]
    sink.judge = lambda _line: None
    assert drain.round().items == 1
    assert drain.pause() == 5


def test_what_is_put_off_lets_others_pass_and_comes_again_later(
    relay: LocalRelay, sink: Sink, start: Callable[[], Drain]
) -> None:
    relay.keep(found=envelope("later@example.com"))
    relay.keep()
    sink.judge = {"RCPT TO:<later@example.com>": "450 4.2.0 later"}.get
    drain = start()
    assert drain.round().items == 1
    assert len(relay.waits) == 1
    before = len(sink.lines)
    assert drain.round().put_off == 1
    assert len(sink.lines) == before


def test_many_that_are_put_off_make_the_drain_pause(relay: LocalRelay, sink: Sink, start: Callable[[], Drain]) -> None:
    for _ in range(home.drain.MOST_REFUSED + 3):
        relay.keep()
    sink.judge = {".": "451 4.7.1 later"}.get
    with pytest.raises(NobodyTakesError):
        start().round()
    assert sum(line == "DATA" for line in sink.lines) == home.drain.MOST_REFUSED


def test_many_that_are_put_off_again_and_again_keep_nobody_waiting(
    relay: LocalRelay, sink: Sink, start: Callable[[], Drain], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As all that waits for one full mailbox: some of it is always ripe for another try."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    sink.judge = {"RCPT TO:<full@example.com>": "452 4.2.2 mailbox is full"}.get
    many = 12 * home.drain.MOST_REFUSED
    for _ in range(many):
        relay.keep(found=envelope("full@example.com"))
    relay.keep()
    drain, came = start(), [0.0]
    while clock[0] < 2 * 3600:
        if len(sink.taken) == len(came):
            came.append(clock[0])
            relay.keep()
        try:
            drain.round()
            clock[0] += 60
        except NobodyTakesError:
            clock[0] += drain.pause()
    assert came[1] < 3600, "it lay behind all of them, none of which had been tried"
    assert max(after - before for before, after in pairwise(came[1:])) < 600
    sink.judge = lambda _line: None
    for _ in range(31):
        drain.round()
        clock[0] += 60
    assert relay.waits == []
    assert len(sink.taken) == len(came) + many


@pytest.mark.parametrize("refusal", ["550 5.1.1 nobody", "452 4.2.2 mailbox is full"])
def test_many_refusals_keep_nobody_else_from_a_letter(
    tmp_path: Path,
    relay: LocalRelay,
    sink: Sink,
    start: Callable[[], Drain],
    monkeypatch: pytest.MonkeyPatch,
    refusal: str,
) -> None:
    """Postfix hangs up after twenty in one session."""
    monkeypatch.setattr(home.drain, "_SOON", 0.0)
    refused = [0]

    def judge(line: str) -> str | None:
        if line == "connect":
            refused[0] = 0
        elif refused[0] >= 20:
            return ""
        elif line.startswith("RCPT TO:<no"):
            refused[0] += 1
            return refusal
        return None

    sink.judge = judge
    people = [f"no{number}@example.com" for number in range(35)]
    relay.keep(found=envelope(*people, "yes@example.com"))
    drain = start()
    for _ in range(4):
        drain.round()
        # Whoever lies in quarantine is done with; the next ones need not wait longer for that.
        assert refusal.startswith("4") or set(drain.patience.tries.values()) <= {1}
    assert [taken.recipients for taken in sink.taken] == [("yes@example.com",)]
    kept = [one.address for item in _quarantine(tmp_path).all()[0] for one in item.recipients]
    assert sorted(kept) == (sorted(people) if refusal.startswith("5") else [])
    assert len(relay.waits) == (0 if kept else 1)


def test_what_the_relay_has_lost_makes_nobody_pause(relay: LocalRelay, start: Callable[[], Drain]) -> None:
    for _ in range(2 * home.drain.MOST_REFUSED):
        relay.lost.add(relay.keep().id)
    relay.keep()
    assert start().round().items == 1
    assert set(relay.waits) == relay.lost


def test_what_is_tried_for_months_is_tried_every_half_an_hour() -> None:
    patience = home.drain.Patience()
    for _ in range(2000):
        patience.put_off("item", 1000.0)
    assert patience.retry("item") == 1000.0 + 1800.0


@pytest.mark.parametrize("taken", [True, False])
def test_a_lost_answer_is_looked_for(relay: LocalRelay, sink: Sink, start: Callable[[], Drain], *, taken: bool) -> None:
    item = relay.keep()
    other = relay.keep()
    # The server hangs up after the last octet; it has the letter, or an eight-bit fault has eaten it.
    sink.judge = {".": ""}.get
    with pytest.raises(LostError):
        start().round()
    if not taken:
        sink.taken.clear()
    sink.judge = lambda _line: None
    drain = start()
    drain.round()
    assert relay.waits == [item.id], "nothing is done before somebody has looked, and nothing waits for that"
    drain.settle({f"{item.id}.1": f"{item.id}.1" in sink.traces()})
    drain.round()
    assert relay.waits == []
    assert sorted(sink.traces()) == sorted([f"{item.id}.{1 if taken else 2}", f"{other.id}.1"])


def test_what_cannot_be_opened_is_kept_aside_and_stops_nobody(
    tmp_path: Path, relay: LocalRelay, sink: Sink, start: Callable[[], Drain], told: list[str]
) -> None:
    stranger = pyrage.x25519.Identity.generate().to_public()
    relay.keep()
    whole = pyrage.encrypt(envelope().octets() + b"x\r\n", [HOME.to_public()])
    bad = [
        b"no ciphertext",
        b"",
        whole[:-1],
        whole[:-20] + bytes(20),
        pyrage.encrypt(b"DPQ1\0\0\0\2{}", [HOME.to_public()]),
        pyrage.encrypt(b"for somebody else", [stranger]),
        pyrage.encrypt(envelope(client={"ADDR": "here"}).octets(), [HOME.to_public()]),
        pyrage.encrypt(envelope(parameters={"RET": "FULL NOTIFY=NEVER"}).octets(), [HOME.to_public()]),
        pyrage.encrypt(envelope("ä@example.com").octets(), [HOME.to_public()]),
        pyrage.encrypt(envelope().octets() + b"no end of line", [HOME.to_public()]),
    ]
    for content in bad:
        relay.keep()
        relay.forge(content)
    relay.keep()
    start().round()
    assert len(sink.taken) == 2
    assert relay.waits == []
    kept, broken = _quarantine(tmp_path).all()
    assert not broken
    assert sorted(_quarantine(tmp_path).content(one).read_bytes() for one in kept) == sorted(bad)
    assert {one.kind for one in kept} == {Kind.SEALED}
    assert len([text for text in told if "quarantine" in text]) == len(bad)
