"""A relay and its home, both emulated: user-data and image find each other, and mail gets through whatever is cut."""

from __future__ import annotations

import base64
import imaplib
import json
import re
import smtplib
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.bootstrap import keys_folder
from builder.tools import host_architecture
from tests import mail
from tests.cloud.qemu import EmulatedVps
from tests.images.conftest import PASSWORD, SITE
from tests.images.machine import Machine, darkpipe, install_emulator
from tests.images.provider import Provider, open_provider
from tests.machine.machine import wait_for
from tests.machine.relay import Sink
from tests.network.conftest import FAMILIAR_ADDRESS
from tests.network.internet import Internet, Site, make_internet

pytestmark = pytest.mark.skipif(host_architecture() != "amd64", reason="the emulator runs on amd64")

_ALICE = "alice@example.com"
_RELAY = Site(1)
_WORLD = "198.51.100.25"
"""Of somebody else's mail server."""

_PATIENCE = 1200.0
"""Seconds; both machines share two slow processors."""


@dataclass
class Pair:
    """Both machines, up.

    Args:
        site: file of the site.
        user_data: that the relay is made from.
    """

    internet: Internet
    site: Path
    user_data: str
    provider: Provider
    home: Machine

    @property
    def vps(self) -> EmulatedVps:
        """The relay."""
        return self.provider.vps

    def stage(self) -> str:
        """Give the stage that `darkpipe pair` tells."""
        return str(self._told()["stage"])

    def relay_id(self) -> str:
        """Give the id of the relay that home is paired with."""
        return str(self._told()["relay_id"])

    def _told(self) -> dict[str, object]:
        # The console may say something of its own in between. An emulated home that is asked all the time comes too
        # late for its turn with the keys.
        output = self.home.run("sleep 10; darkpipe pair --json").output
        told: dict[str, object] = json.loads(output[output.index("\n{") + 1 if "\n{" in output else 0 :])
        return told

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
    transport = request.config.getoption("--transport")
    relay = f"{{address: {_RELAY.address}, offline: queue, transport: {transport}}}"
    site.write_text(f"{SITE.format(hash=password_hash)}relays: [{relay}]\n")
    user_data = darkpipe("user-data", str(site))
    profile = request.config.getoption("--home-profile")
    built = darkpipe("build", str(site), "--profile", profile, "--output", str(scratch / "pair"))
    image = Path(built.splitlines()[-1])
    install_emulator(profile)
    with make_internet() as internet, ExitStack() as stack:
        internet.router.add_address(FAMILIAR_ADDRESS)
        provider = stack.enter_context(open_provider(request, internet, _RELAY, scratch / "relay.log"))
        provider.rent(user_data)
        home = Machine(image, scratch / "home.img", place=internet.router)
        home.up()
        stack.callback(home.off)
        yield Pair(internet, site, user_data, provider, home)


def test_they_find_each_other_and_a_letter_arrives(pair: Pair) -> None:
    wait_for(pair.answers, "home answers", _PATIENCE)
    assert f"[{FAMILIAR_ADDRESS}]".encode() in pair.fetch(pair.send())
    assert pair.vps.lines("systemctl list-units --failed --plain --no-legend --full") == []
    assert pair.home.lines("systemctl list-units --failed --plain --no-legend --full") == []


def test_a_letter_from_home_leaves_by_the_relay(pair: Pair) -> None:
    """To an address without a name: there is no DNS here."""
    pair.internet.router.add_address(_WORLD)
    with pair.internet.router.call(socket.create_server, (_WORLD, 25)) as listener:
        world = Sink(listener)
        world.start()
        letter = "printf 'Subject: out\\n\\nhello\\n'"
        pair.home.lines(f"{letter} | sendmail -f {_ALICE} 'friend@[{_WORLD}]'")
        wait_for(lambda: bool(world.letters), "the letter", _PATIENCE)
    assert (world.letters[0].client, world.letters[0].sender) == (_RELAY.address, _ALICE)
    assert "Subject: out" in world.letters[0].text


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


def test_a_relay_that_was_destroyed_and_made_anew_is_claimed_after_consent(pair: Pair) -> None:
    wait_for(lambda: pair.stage() == "paired", "home and relay are paired", _PATIENCE)
    before = pair.relay_id()
    pair.provider.destroy()
    pair.provider.rent(pair.user_data)
    wait_for(lambda: pair.stage() == "silent", "home misses its relay", _PATIENCE)
    # It looks only, and the relay belongs to nobody until the owner has agreed.
    pair.home.lines("darkpipe pair --again")
    wait_for(lambda: pair.stage() == "rebuilt", "home finds the one that was made anew", _PATIENCE)
    assert "not on it" in pair.home.run("darkpipe pair").output
    assert pair.vps.lines("ls -A /opt") == []  # not even the software
    pair.home.lines("darkpipe pair --again")
    wait_for(lambda: pair.stage() == "paired", "home and relay pair again", 2 * _PATIENCE)
    assert pair.relay_id() not in {"", before}
    wait_for(lambda: pair.verdict() == 250, "the new relay takes mail", _PATIENCE)
    pair.fetch(pair.send())


def test_another_relay_takes_the_place_of_one_with_other_keys(pair: Pair) -> None:
    before, old_keys = pair.relay_id(), pair.home.lines("cat /data/darkpipe/relay.json")
    old = pair.user_data
    pair.user_data = darkpipe("user-data", str(pair.site), "--renew")
    assert pair.user_data != old
    pair.provider.destroy()
    pair.provider.rent(pair.user_data)
    keys = next(keys_folder(pair.site).glob("*.json")).read_bytes()
    command = f"echo {base64.b64encode(keys).decode()} | base64 -d | darkpipe relay replace --yes"
    said = pair.home.run(command)
    assert said.status == 0, said
    assert "nothing waited on it" in said.output  # all that it had taken is at home
    wait_for(lambda: pair.stage() == "paired", "home and the other relay pair", 2 * _PATIENCE)
    assert pair.relay_id() not in {"", before}
    secret = re.findall("[A-Za-z0-9+/]{40,}", next(line for line in old_keys if "private_key" in line))[0]
    assert pair.home.run(f"grep -rF {secret} /data/darkpipe /data/pairing").status == 1
    wait_for(lambda: pair.verdict() == 250, "the other relay takes mail", _PATIENCE)
    pair.fetch(pair.send())
