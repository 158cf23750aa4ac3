"""A relay and its home, both emulated: user-data and image find each other, and mail gets through whatever is cut."""

from __future__ import annotations

import imaplib
import smtplib
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.archive import Archive
from builder.build import open_workshop
from builder.cache import Cache
from builder.progress import Stages
from builder.sandbox import remove_tree
from builder.tools import host_architecture
from tests import mail
from tests.cloud.qemu import Cable, EmulatedVps, emulated_vps
from tests.cloud.root import RELAY_PACKAGES, CloudSystem, Suite, cloud_root
from tests.cloud.seed import Seed
from tests.images.conftest import PASSWORD, SITE
from tests.images.machine import REPOSITORY, Machine
from tests.machine.machine import wait_for
from tests.network.conftest import FAMILIAR_ADDRESS
from tests.network.internet import Internet, Site, make_internet

pytestmark = pytest.mark.skipif(host_architecture() != "amd64", reason="the emulated machines are of amd64")

_ALICE = "alice@example.com"
_RELAY = Site(1)
_PATIENCE = 600.0
"""Seconds; both machines share two slow processors."""


@dataclass(frozen=True)
class Pair:
    """Both machines, up."""

    internet: Internet
    vps: EmulatedVps
    home: Machine

    def verdict(self) -> int:
        """Give the answer to a letter for Alice; 0 when there is none."""
        try:
            with self._smtp() as session:
                session.ehlo()
                session.mail("a@example.net")
                return session.rcpt(_ALICE)[0]
        except OSError:
            return 0

    def send(self) -> str:
        """Send Alice a letter, which must be taken, and give its subject."""
        subject = f"test {uuid.uuid4()}"
        with self._smtp() as session:
            session.starttls(context=mail.any_certificate())
            session.sendmail("a@example.net", _ALICE, mail.letter(subject, "a@example.net", _ALICE))
        return subject

    def answers(self) -> bool:
        """Tell whether home shows Alice her mailbox, through the relay."""
        try:
            self.internet.router.call(mail.mailbox, 993, _ALICE, PASSWORD, host=_RELAY.address).logout()
        except (OSError, imaplib.IMAP4.error):
            return False
        return True

    def fetch(self, subject: str) -> bytes:
        """Wait for a letter in Alice's mailbox, read through the relay."""
        wait_for(self.answers, "home answers", _PATIENCE)
        box = self.internet.router.call(mail.mailbox, 993, _ALICE, PASSWORD, host=_RELAY.address)
        try:
            return self.internet.router.call(mail.fetch, box, subject)
        finally:
            box.logout()

    def _smtp(self) -> smtplib.SMTP:
        return self.internet.router.call(smtplib.SMTP, _RELAY.address, 25, "s.example", 60, (FAMILIAR_ADDRESS, 0))


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, scratch: Path, password_hash: str) -> Iterator[Pair]:
    if not request.config.getoption("--pair"):
        pytest.skip("half an hour; ./dev test pair, and the network tier without kernels")
    site = scratch / "pair.yaml"
    site.write_text(f"{SITE.format(hash=password_hash)}relays: [{{address: {_RELAY.address}, offline: queue}}]\n")
    user_data = _darkpipe("user-data", str(site))
    image = Path(_darkpipe("build", str(site), "--output", str(scratch / "pair")).splitlines()[-1])
    shop = open_workshop(Cache(Cache.default().root, remove_tree), Archive.from_environment(), Stages())
    suite = Suite(request.config.getoption("--relay-suite"))
    root = cloud_root(shop, CloudSystem(suite, bootable=True, installed=RELAY_PACKAGES))
    with make_internet() as internet, ExitStack() as stack:
        internet.router.add_address(FAMILIAR_ADDRESS)
        cable = Cable(internet.router, internet.cable(_RELAY))
        internet.offer_tap(_RELAY)
        seed = Seed(user_data, interfaces=[_RELAY.interface("eth0")])
        vps = stack.enter_context(emulated_vps(shop, root, seed, scratch / "relay.log", cable=cable))
        # It writes to the console until it is done.
        vps.console.run("cloud-init status --wait", _PATIENCE)
        home = Machine(image, scratch / "home.img", place=internet.router)
        home.up()
        stack.callback(home.off)
        yield Pair(internet, vps, home)


def _darkpipe(*arguments: str) -> str:
    command = [str(REPOSITORY / "darkpipe"), "--yes", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=True).stdout


def test_they_find_each_other_and_a_letter_arrives(pair: Pair) -> None:
    wait_for(pair.answers, "home answers", _PATIENCE)
    assert f"[{FAMILIAR_ADDRESS}]".encode() in pair.fetch(pair.send())
    assert pair.vps.lines("systemctl list-units --failed --plain --no-legend --full") == []
    assert pair.home.lines("systemctl list-units --failed --plain --no-legend --full") == []


def test_after_the_relays_power_was_cut_letters_arrive(pair: Pair) -> None:
    pair.vps.cut_power()
    wait_for(pair.answers, "home answers", _PATIENCE)
    pair.fetch(pair.send())
    pair.vps.console.log_in()


def test_what_comes_while_homes_power_is_cut_arrives(pair: Pair) -> None:
    pair.home.cut_power()
    wait_for(lambda: pair.verdict() == 250, "the relay takes mail for home", _PATIENCE)
    kept = pair.send()
    pair.home.up()
    pair.fetch(kept)
