"""What the relay says by itself while home is away: notices to senders, and alarms; to a real mail server and webhook.

The queue's own service, behind the relay's Postfix, finds them by the DNS.
"""

from __future__ import annotations

import email.message
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyrage
import pytest

from builder.build import SOURCE
from home.control_client import ControlClient, Home
from home.relay_queue import RemoteQueue
from model.control import QueueSettings, QueueStatus
from model.control_tls import Pins
from model.recipients import DomainRule, RecipientList
from relay.entry import Entry
from relay.queue import RECIPIENTS, SETTINGS
from tests.machine.machine import wait_for
from tests.machine.queue import HOME_ID, RELAY_ID, make_keys
from tests.network.conftest import DOMAINS, RELAY_NAME, Ends, scratch_folder
from tests.network.net import Namespace, join, namespace
from tests.network.outside import HOOK_NAME, RELAY_ADDRESS, SENDER, Outside, outside
from tests.network.postfix import running_postfix
from tests.network.smuggler import Smuggler
from tests.relay_files import RelaySetting, relay_files

_DAY = 24 * 3600.0
_CONTROL = ("127.0.0.1", 2600)
_KEY = str(pyrage.x25519.Identity.generate().to_public())
_SETTINGS = QueueSettings(1, RELAY_NAME, tuple(DOMAINS), "queue", (_KEY,), 10**9)
_ALARM = {"webhook": f"https://{HOOK_NAME}/relay", "mail": "me@owner.example"}


@dataclass
class Service:
    """The queue's service on the relay.

    Args:
        folder: with its settings, its keys and what waits.
        trusted: certificates that it trusts.
        outside_log: of the mail server outside, for who looks for a fault.
    """

    place: Namespace
    folder: Path
    trusted: Path
    outside_log: Path
    ahead: float = 0.0
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        (config := self.folder / "config").mkdir()
        (self.folder / "queue").mkdir(mode=0o700)
        make_keys(self.folder)
        (config / "fence.json").write_text(json.dumps({"home": HOME_ID, "home_epoch": 1}))
        (config / "relay.json").write_text(json.dumps({"relay": RELAY_ID}))
        people = RecipientList.make(
            1, {name: DomainRule() for name in DOMAINS}, ["alice@example.com", "carol@example.com"]
        )
        (config / RECIPIENTS).write_text(people.text(), encoding="utf-8")
        self.pass_time(0)

    def settle(self, **changes: Any) -> None:
        """Write settings that hold from the next start on."""
        settings = QueueSettings(**{**vars(_SETTINGS), **changes})
        (self.folder / "config" / SETTINGS).write_bytes(settings.to_json())

    def pass_time(self, seconds: float) -> None:
        """Let the relay's clock go on by so much."""
        self.ahead += seconds
        (new := self.folder / "new").write_text(str(self.ahead))
        new.rename(self.folder / "ahead")

    def start(self) -> None:
        options: list[str | Path] = ["--config", self.folder / "config", "--spool", self.folder / "queue"]
        options += ["--control", f"{_CONTROL[0]}:{_CONTROL[1]}"]
        options += ["--own", self.folder / "relay-own.pem", "--home", self.folder / "home.pem"]
        module = [sys.executable, "-m", "tests.network.clocked_service", str(self.folder / "ahead")]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                self.place.command(*module, *map(str, options)),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "SSL_CERT_FILE": str(self.trusted), "PYTHONPATH": str(SOURCE)},
            )
        assert self.process.stdout
        assert "listens" in self.process.stdout.readline(), (self.folder / "log").read_text()

    def stop(self) -> None:
        with self.process:
            self.process.terminate()

    def send(self, sender: str, *recipients: str, client: str = SENDER, message_id: str = "m@sender.example") -> None:
        """Send a message with a canary in it; it must be taken.

        Args:
            sender, recipients: what stands behind MAIL FROM: and RCPT TO:.
        """
        with Smuggler(self.place, client) as session:
            assert session.say("EHLO canary-helo.example").startswith("250")
            assert session.say(f"MAIL FROM:{sender}").startswith("250")
            for recipient in recipients:
                assert session.say(f"RCPT TO:{recipient}").startswith("250"), recipient
            assert session.say("DATA").startswith("354")
            session.put(f"Subject: canary-subject\r\nMessage-ID: <{message_id}>\r\n\r\ncanary-body\r\n.\r\n".encode())
            assert session.reply().startswith("250")

    def status(self) -> QueueStatus:
        """Ask as home does, by which home is there again."""

        def ask() -> QueueStatus:
            pins = Pins(self.folder / "control.pem", (self.folder / "relay.pem").read_text(), server=False)
            with ControlClient(_CONTROL, Home(HOME_ID, 1, RELAY_ID), pins) as client:
                return RemoteQueue(client).status()

        return self.place.call(ask)

    def waiting(self) -> int:
        """Count the items on the disk."""
        return len(self.items())

    def items(self) -> list[Path]:
        """Give the files that hold them."""
        return [path for path in (self.folder / "queue").iterdir() if Entry.parse(path.name)]


@dataclass(frozen=True)
class World:
    """A relay's Postfix, without the queue, and all that is outside."""

    relay: Namespace
    outside: Outside


@pytest.fixture(scope="module")
def world(root: Path, ends: Ends) -> Iterator[World]:
    with namespace() as relay, namespace() as place, scratch_folder() as scratch:
        join(relay, place, ("eth0", "eth0"), (f"{RELAY_ADDRESS}/24", "11.0.0.25/24"))
        place.run("ip", "address", "add", "11.0.0.44/24", "dev", "eth0")
        (settings := scratch / "settings").mkdir()
        for file in relay_files(RelaySetting(RELAY_NAME, DOMAINS, ends.relay)):
            if file.path.parent.name == "postfix":
                (settings / file.path.name).write_text(file.text)
        (scratch / "outside").mkdir()
        with (
            outside(relay, place, root, scratch / "outside") as made,
            running_postfix(relay, settings, RELAY_NAME, root, scratch / "postfix", scratch / "log"),
        ):
            wait_for(lambda: relay.reachable([10024], "127.0.0.1") == {10024}, "the relay's Postfix")
            yield World(relay, made)


@pytest.fixture
def service(world: World) -> Iterator[Service]:
    with (
        scratch_folder() as folder,
        _begun(
            Service(world.relay, folder, world.outside.certificate, world.outside.mail.parents[3] / "../log")
        ) as made,
    ):
        yield made
    world.outside.forget()


@contextmanager
def _begun(service: Service) -> Iterator[Service]:
    service.settle(alarm=_ALARM, away=int(10 * _DAY))
    try:
        service.start()
        yield service
    finally:
        service.stop()


def _wait_for(service: Service, true: Callable[[], bool], what: str) -> None:
    try:
        wait_for(true, what, 20)
    except AssertionError as error:
        logs = [service.folder / "log", service.outside_log]
        said = "\n".join(path.read_text(errors="replace") for path in logs)
        raise AssertionError(f"{error}\n{service.status()}\n{said}") from None


def _wait_for_notices(service: Service, true: Callable[[], bool], what: str) -> None:
    """Wait while the relay's clock goes on fast: behind a leap of its clock, it gives home time to come first."""

    def step() -> bool:
        time.sleep(0.3)  # longer than from one look to the next
        service.pass_time(60)
        return true()

    _wait_for(service, step, what)


def _groups(report: email.message.Message) -> list[Mapping[str, str]]:
    """Read the parts of a delivery report (RFC 3464 §2.1)."""
    content = report.get_payload()
    assert isinstance(content, list)
    return [dict(group.items()) for group in content if isinstance(group, email.message.Message) and group.items()]


def test_a_sender_hears_of_what_was_not_delivered_and_nobody_else_does(world: World, service: Service) -> None:
    """No null sender, none whose domain does not say that it was he (SPF), and none that wants to hear nothing."""
    service.send(
        "<bob@sender.example> RET=HDRS ENVID=QQ+2B1",
        "<alice@example.com> NOTIFY=FAILURE ORCPT=rfc822;alice+2Bold@example.org",
        "<carol@example.com>",
        "<postmaster> NOTIFY=NEVER",
    )
    service.send("<>", "<alice@example.com>")
    service.send("<forged@sender.example>", "<alice@example.com>", client="203.0.113.78")
    service.send("<unknown@owner.example>", "<alice@example.com>")
    service.send("<deaf@sender.example>", "<alice@example.com> NOTIFY=NEVER")
    service.pass_time(7 * _DAY - 60)
    service.send("<late@sender.example>", "<alice@example.com>")
    service.pass_time(120)
    _wait_for_notices(service, lambda: bool(world.outside.letters()), "a notice")
    _wait_for(service, lambda: service.waiting() == 5, "its item to be gone")
    (letter,) = world.outside.letters()
    assert (letter["Return-Path"], letter["Delivered-To"]) == ("<>", "bob@sender.example")
    assert str(letter["To"]).strip("<>") == "bob@sender.example"
    assert "using TLSv1.3" in str(letter["Received"])
    assert f"from {RELAY_NAME} " in str(letter["Received"])
    assert (letter.get_content_type(), letter.get_param("report-type")) == ("multipart/report", "delivery-status")
    assert letter["Auto-Submitted"] == "auto-replied"
    assert letter["In-Reply-To"] == "<m@sender.example>"
    text, report, header = letter.iter_parts()
    assert "could not be handed over" in text.get_content()
    assert report.get_content_type() == "message/delivery-status"
    whole, *people = _groups(report)
    assert (whole["Original-Envelope-Id"], whole["Reporting-MTA"]) == ("QQ+1", f"dns; {RELAY_NAME}")
    assert [(one["Final-Recipient"], one["Action"], one["Status"]) for one in people] == [
        ("rfc822; alice@example.com", "failed", "5.4.7"),
        ("rfc822; carol@example.com", "failed", "5.4.7"),
    ]
    assert [one.get("Original-Recipient") for one in people] == ["rfc822; alice+old@example.org", None]
    assert header.get_content_type() == "text/rfc822-headers"
    told = service.status()
    assert (told.count, told.overdue) == (5, 4)


def test_after_a_restart_nobody_is_told_of_what_was_there_before(world: World, service: Service) -> None:
    """What comes behind it shows that the service looks and tells."""
    service.send("<bob@sender.example>", "<alice@example.com>", message_id="before@sender.example")
    service.stop()
    service.start()
    service.send("<bob@sender.example>", "<alice@example.com>", message_id="behind@sender.example")
    service.pass_time(8 * _DAY)
    _wait_for_notices(service, lambda: service.waiting() == 1, "the second one to be gone")
    assert [letter["In-Reply-To"] for letter in world.outside.letters()] == ["<behind@sender.example>"]
    told = service.status()
    assert (told.count, told.overdue) == (1, 1)


def test_that_home_is_away_and_back_again_is_told_by_webhook_and_mail(world: World, service: Service) -> None:
    service.send("<bob@sender.example>", "<alice@example.com>")
    service.stop()
    service.settle(alarm=_ALARM, away=int(_DAY))
    service.start()
    service.pass_time(_DAY + 3600)
    found = _told(world, service)
    assert (found["relay"], found["alarm"], found["over"]) == (RELAY_NAME, "away", False)
    assert found["text"] == "home has been away for 25 hours, and 1 messages wait"
    world.outside.forget()
    service.status()
    found = _told(world, service)
    assert (found["alarm"], found["over"], found["text"]) == ("away", True, "home is back")


def test_that_the_budget_shrinks_is_told_by_webhook_and_mail(world: World, service: Service) -> None:
    service.send("<bob@sender.example>", "<alice@example.com>")
    service.stop()
    octets = sum(path.stat().st_size for path in service.items())
    service.settle(alarm=_ALARM, budget=octets * 10 // 9)
    service.start()
    found = _told(world, service)
    assert (found["alarm"], found["over"]) == ("budget", False)
    assert found["text"].startswith("what waits takes ")


def _told(world: World, service: Service) -> Any:
    """Wait for an alarm by both ways; what it says leads to no mail. Gives what the webhook has got."""
    _wait_for(service, lambda: bool(world.outside.posted and world.outside.letters()), "an alarm by both ways")
    ((posted,), (letter,)) = world.outside.posted, world.outside.letters()
    found = json.loads(posted)
    assert (str(letter["To"]).strip("<>"), letter["Auto-Submitted"]) == ("me@owner.example", "auto-generated")
    assert f"The relay {RELAY_NAME} says: {found['text']}." in letter.get_content()
    assert "using TLSv1.3" in str(letter["Received"])
    (octets,) = world.outside.octets()
    for canary in ("alice", "example.org", "bob", "sender.example>", SENDER, "canary"):
        assert canary.encode() not in posted + octets, canary
    return found


def test_a_webhook_that_is_not_who_it_should_be_gets_nothing(world: World, service: Service) -> None:
    service.stop()
    service.trusted = service.folder / "home.pem"
    service.settle(alarm=_ALARM, away=int(_DAY))
    service.start()
    service.pass_time(2 * _DAY)
    _wait_for(service, lambda: bool(world.outside.letters()), "an alarm by mail")
    log = service.folder / "log"
    _wait_for(service, lambda: "did not reach anybody by the webhook: URLError" in log.read_text(), "a line about it")
    assert world.outside.posted == []
    assert HOOK_NAME not in log.read_text()
