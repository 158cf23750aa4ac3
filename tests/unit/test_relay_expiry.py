"""Mail that home has not taken in time: who is told, what the notice says, and what stays."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.message import EmailMessage
from io import BytesIO
from pathlib import Path

import pyrage
import pytest

from model.control import QueuedItem
from model.envelope import Envelope
from relay.delivery import LaterError, NeverError
from relay.expiry import AT_ONCE, FIRST_PAUSE, PATIENCE, Expiry
from relay.facts import Facts, FactsFolder
from relay.notice import notice
from relay.spool import Spool, SpoolError

_KEY = str(pyrage.x25519.Identity.generate().to_public())
_RECEIVED = 1_795_478_400_000
_DAY = 24 * 3600.0
_ENVELOPE = Envelope(
    "sender@example.net",
    (("alice@example.com", {"ORCPT": "rfc822;al+2Bice@example.com"}), ("bob@example.com", {"NOTIFY": "SUCCESS"})),
    False,
    {"ENVID": "QQ314159", "RET": "FULL"},
    {"ADDR": "192.0.2.7"},
    _RECEIVED,
    {"result": "pass", "identity": "mailfrom", "domain": "example.net"},
)


@dataclass
class _Queue:
    folder: Path
    now: float = _RECEIVED / 1000
    failure: Exception | None = None
    sent: list[tuple[bytes, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.spool, self.facts = Spool(self.folder, [_KEY], 10**9), FactsFolder(self.folder)
        self.expiry = Expiry(self.spool, self.facts, self.send, lambda: self.now)

    def send(self, message: bytes, sender: str, recipient: str, _name: str) -> None:
        if self.failure:
            raise self.failure
        self.sent.append((message, sender, recipient))

    def keep(self, envelope: Envelope = _ENVELOPE) -> QueuedItem:
        item = self.spool.store(envelope, BytesIO(b"Subject: canary\r\n\r\n"))
        self.facts.keep(item, envelope, "<id@example.net>")
        return item

    def look(self, days: float = 0, *, away: bool = True) -> int:
        """Look after so many days; gives the number of items that are overdue."""
        self.now += days * _DAY
        self.expiry.look(7 * _DAY, "mx.example.com", away=lambda: away)
        return self.expiry.overdue

    def notices(self) -> list[Path]:
        return list(self.folder.glob("*.notice"))


@pytest.fixture
def queue(tmp_path: Path) -> _Queue:
    return _Queue(tmp_path)


def test_a_sender_is_told_when_the_time_is_over_and_then_the_message_goes(queue: _Queue) -> None:
    queue.keep()
    assert queue.look(6.9) == 0
    assert queue.sent == []
    assert queue.look(0.2) == 0
    ((message, sender, recipient),) = queue.sent
    assert (sender, recipient) == ("", "sender@example.net")
    assert b"canary" not in message
    assert (queue.spool.items(), queue.notices()) == ([], [])


def test_what_home_may_take_itself_is_left_to_it(queue: _Queue) -> None:
    queue.keep()
    queue.look(8, away=False)
    assert queue.sent == []
    assert len(queue.spool.items()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"sender": ""},
        {"spf": {}},
        {"spf": {"result": "softfail", "identity": "mailfrom", "domain": "example.net"}},
        {"spf": {"result": "pass", "identity": "helo", "domain": "example.net"}},
        {"recipients": (("alice@example.com", {"NOTIFY": "NEVER"}),)},
    ],
)
def test_who_must_hear_nothing_hears_nothing_and_the_message_stays(queue: _Queue, change: Mapping[str, object]) -> None:
    item = queue.keep(replace(_ENVELOPE, **change))  # type: ignore[arg-type]
    assert queue.notices() == []
    assert queue.look(30) == 1
    assert (queue.sent, queue.spool.items()) == ([], [item])


def test_after_a_restart_nobody_knows_whom_to_tell(queue: _Queue) -> None:
    item = queue.keep()
    (path,) = queue.notices()
    assert b"sender@" not in path.read_bytes()
    queue.start()
    assert queue.notices() == []
    assert queue.look(30) == 1
    assert (queue.sent, queue.spool.items()) == ([], [item])


def test_a_notice_that_is_not_taken_now_is_sent_again_and_given_up_at_last(queue: _Queue) -> None:
    item = queue.keep()
    queue.failure = LaterError("busy")
    assert queue.look(7.1) == 0
    queue.failure = None
    queue.now += FIRST_PAUSE / 2
    queue.look()
    assert queue.sent == []
    queue.failure = LaterError("busy")
    rounds = 0
    while queue.look(0.2) == 0:
        rounds += 1
    assert rounds > 0.8 * PATIENCE / _DAY / 0.2
    queue.failure = None
    assert queue.look(30) == 1
    assert (queue.sent, queue.spool.items()) == ([], [item])


def test_many_that_no_server_takes_keep_nobody_else_from_hearing(
    queue: _Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(message: bytes, sender: str, recipient: str, name: str) -> None:
        if recipient == "slow@example.net":
            queue.now += 180
            raise LaterError("no connection: TimeoutError")
        _Queue.send(queue, message, sender, recipient, name)

    monkeypatch.setattr(queue, "send", send)
    queue.start()
    for _ in range(6 * AT_ONCE):
        queue.keep(replace(_ENVELOPE, sender="slow@example.net"))
    queue.keep()
    queue.look(7.1)
    for _ in range(7):
        queue.look(60 / _DAY)
    assert [recipient for _, _, recipient in queue.sent] == ["sender@example.net"]


def test_a_notice_that_comes_through_later_removes_the_message(queue: _Queue) -> None:
    queue.keep()
    queue.failure = LaterError("busy")
    queue.look(7.1)
    queue.failure = None
    queue.look(0.1)
    assert len(queue.sent) == 1
    assert queue.spool.items() == []


def test_a_notice_that_is_refused_leaves_the_message(queue: _Queue) -> None:
    item = queue.keep()
    queue.failure = NeverError("refused with 550")
    assert queue.look(8) == 1
    queue.failure = None
    assert queue.look(8) == 1
    assert (queue.sent, queue.spool.items()) == ([], [item])


def test_nobody_is_told_twice_when_the_disk_fails_in_between(queue: _Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    item = queue.keep()

    def fail(*_: object) -> None:
        raise SpoolError("broken")

    monkeypatch.setattr(Spool, "remove", fail)
    for _ in range(3):
        queue.look(8)
    assert len(queue.sent) == 1
    assert queue.spool.items() == [item]


def test_the_facts_of_what_home_has_taken_go(queue: _Queue) -> None:
    item = queue.keep()
    queue.keep()
    queue.spool.remove(item.id)
    queue.look()
    assert len(queue.notices()) == 1


def test_the_facts_of_what_comes_in_between_stay(queue: _Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    items, late = queue.spool.items, list[QueuedItem]()

    def and_one_more() -> list[QueuedItem]:
        found = items()
        late.append(queue.keep())
        return found

    monkeypatch.setattr(queue.spool, "items", and_one_more)
    queue.look()
    assert queue.notices() == [queue.folder / f"{late[0].id}.notice"]


def test_home_that_comes_back_in_between_gets_the_rest(queue: _Queue) -> None:
    for _ in range(3):
        queue.keep()
    queue.now += 8 * _DAY
    queue.expiry.look(7 * _DAY, "mx.example.com", away=lambda: not queue.sent)
    assert len(queue.sent) == 1
    assert len(queue.spool.items()) == 2


# ---- What it says


def _facts(envelope: Envelope = _ENVELOPE) -> Facts:
    found = Facts.of(envelope, "<id@example.net>")
    assert found
    return found


def _read(facts: Facts) -> EmailMessage:
    octets = notice(facts, "mx.example.com", _RECEIVED / 1000 + 7 * _DAY)
    assert octets.count(b"\n") == octets.count(b"\r\n")
    found = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    assert [part.defects for part in found.walk()] == [[]] * len(list(found.walk()))
    return found


def test_the_notice_is_a_report_that_programs_understand() -> None:
    """RFC 3464 §2 and its field names; RFC 3461 §6.2 asks for the ENVID, and §6.3 for ORCPT."""
    message = _read(_facts())
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert message["To"] == "sender@example.net"
    assert message["Auto-Submitted"] == "auto-replied"
    text, status, original = message.iter_parts()
    assert "alice@example.com" in text.get_content()
    assert "bob@example.com" not in text.get_content()
    groups = status.get_payload()
    assert isinstance(groups, list)
    whole, person = groups
    assert isinstance(whole, EmailMessage)
    assert (whole["Original-Envelope-Id"], whole["Reporting-MTA"]) == ("QQ314159", "dns; mx.example.com")
    assert isinstance(person, EmailMessage)
    assert person["Original-Recipient"] == "rfc822; al+ice@example.com"
    assert person["Final-Recipient"] == "rfc822; alice@example.com"
    assert (person["Action"], person["Status"]) == ("failed", "5.4.7")
    assert original.get_content_type() == "text/rfc822-headers"
    assert "<id@example.net>" in original.get_content()


def test_addresses_in_utf8_are_told_in_utf8() -> None:
    """RFC 6533 §3."""
    people: tuple[tuple[str, Mapping[str, str | None]], ...] = (("älice@bücher.example", {}),)
    octets = notice(_facts(replace(_ENVELOPE, sender="jürgen@example.net", utf8=True, recipients=people)), "mx", 0)
    assert "Final-Recipient: utf-8; älice@bücher.example\r\n".encode() in octets
    assert b"Content-Type: message/global-delivery-status\r\n" in octets


@pytest.mark.parametrize("wrong", ["+0D+0AEvil: x", "+0", "ä"])
def test_what_a_sender_says_makes_no_header(wrong: str) -> None:
    people = (("alice@example.com", {"ORCPT": f"rfc822;{wrong}"}),)
    octets = notice(_facts(replace(_ENVELOPE, parameters={"ENVID": wrong}, recipients=people)), "mx", 0)
    assert b"Evil" not in octets
    assert b"Original-" not in octets
