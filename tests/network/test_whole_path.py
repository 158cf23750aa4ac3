"""From `./darkpipe user-data` to a message, with a relay that cloud-init has made and a home from its seed."""

from __future__ import annotations

import imaplib
import json
import smtplib
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from bootstrap.ends import make_bootstrap
from builder.user_data import user_data
from model.document import parse_site
from model.site import Relay
from model.tunnel import HOME_FILE, HomeEnd, RelayEnd
from tests import mail
from tests.cloud.vps import Vps
from tests.machine.conftest import PASSWORD, SEED
from tests.machine.machine import Machine, wait_for
from tests.network.conftest import FAMILIAR_ADDRESS, NewVps, know
from tests.network.internet import Internet, Site
from tests.network.net import Namespace, join

_ALICE = "alice@example.com"
_RELAY, _HOME = Site(1), Site(2)
_PATIENCE = 240.0
"""Seconds; the relay gets its software from home before they pair."""


@dataclass(frozen=True)
class Pair:
    """A relay and its home."""

    relay: Vps
    home: Machine
    bootstrap: frozenset[str]
    """Public keys that the two ends have before they are paired."""


@pytest.fixture(scope="module")
def pair(new_vps: NewVps, new_machine: Callable[[str], Machine], internet: Internet) -> Iterator[Pair]:
    internet.router.add_address(FAMILIAR_ADDRESS)
    site = parse_site(f"{SEED}relays: [{{address: {_RELAY.address}, offline: queue}}]\n", "site.yaml")
    bootstrap = make_bootstrap(Relay.model_validate({"address": _RELAY.address}))
    relay = new_vps(user_data(site, bootstrap)).start()
    result = relay.cloud_init()
    assert (result.status, result.errors) == ("done", []), relay.log()
    home = new_machine(f"{SEED}relays: [{{address: {_RELAY.address}, offline: queue}}]\n")
    (home.boot_partition / HOME_FILE).write_text(bootstrap.home.model_dump_json())
    home.start()
    plug_in(home, internet)
    assert isinstance(bootstrap.home, HomeEnd)
    assert isinstance(bootstrap.relay, RelayEnd)
    yield Pair(relay, home, frozenset({bootstrap.home.relay_key, bootstrap.relay.home_key}))
    home.stop()


def plug_in(home: Machine, internet: Internet) -> None:
    # Debian's udev lets everybody open it; a container has no udev. The kernel asks for CAP_NET_ADMIN all the same.
    home.run("chmod", "0666", "/dev/net/tun")
    place = Namespace(home.leader)
    # A kernel on a busy computer may not have taken away yet what a pulled plug leaves.
    internet.router.run("ip", "link", "delete", internet.cable(_HOME), check=False)
    try:
        # From the router's side: a process of the container has no number in there that it would know.
        join(internet.router, place, (internet.cable(_HOME), "wan0"), *((there, own) for own, there in _HOME.networks))
        place.run("ip", "route", "add", "default", "via", _HOME.gateways[0])
    finally:
        place.close()
    know(home, 'local-zone: "." static')


def _verdict(internet: Internet) -> int:
    """Give home's answer, or the relay's, to mail for Alice; 0 when there is nobody."""
    try:
        with internet.router.call(smtplib.SMTP, _RELAY.address, 25, "s.example", 20, (FAMILIAR_ADDRESS, 0)) as session:
            session.ehlo()
            session.mail("a@example.net")
            return session.rcpt(_ALICE)[0]
    except OSError:
        return 0


def _send(internet: Internet) -> str:
    """Send Alice a letter, which must be taken, and give its subject."""
    subject = f"test {uuid.uuid4()}"
    with internet.router.call(smtplib.SMTP, _RELAY.address, 25, "s.example", 60, (FAMILIAR_ADDRESS, 0)) as session:
        session.starttls(context=mail.any_certificate())
        session.sendmail("a@example.net", _ALICE, mail.letter(subject, "a@example.net", _ALICE))
    return subject


def _fetch(internet: Internet, subject: str) -> bytes:
    box = internet.router.call(mail.mailbox, 993, _ALICE, PASSWORD, host=_RELAY.address)
    try:
        return mail.fetch(box, subject)
    finally:
        box.logout()


def _count(internet: Internet, subject: str) -> int:
    """Count a letter in all of Alice's folders for new mail."""
    box = internet.router.call(mail.mailbox, 993, _ALICE, PASSWORD, host=_RELAY.address)
    try:
        found = 0
        for folder in mail.ARRIVED:
            box.select(folder, readonly=True)
            found += len(box.search(None, "HEADER", "Subject", f'"{subject}"')[1][0].split())
        return found
    finally:
        box.logout()


def _home_answers(pair: Pair, internet: Internet) -> None:
    """Wait until a session ends at home: only there is Alice's mailbox."""

    def at_home() -> bool:
        try:
            internet.router.call(mail.mailbox, 993, _ALICE, PASSWORD, host=_RELAY.address).logout()
        except (OSError, imaplib.IMAP4.error):
            return False
        return _verdict(internet) == 250

    try:
        wait_for(at_home, "home answers", _PATIENCE)
    except AssertionError as error:
        said = pair.home.run(
            "journalctl", "--boot", "-u", "darkpipe-pair", "-u", "darkpipe-tunnel", "-u", "darkpipe-ready"
        )
        heard = pair.relay.run("journalctl", "--boot", "--lines=200")
        raise AssertionError(f"{error}\n{said}\n{heard}") from None


def _canaries(pair: Pair, text: str) -> int:
    """Count the places of the relay that hold a text: files that it has written, on disk and in memory, and its log."""
    on_disk = subprocess.run(
        ["grep", "-rlaF", "-e", text, str(pair.relay.written)], stdout=subprocess.PIPE, text=True, check=False
    ).stdout.splitlines()
    memory = 'grep -rlaF -e "$1" /run /tmp /dev/shm; journalctl --all -o json | grep -aF -e "$1"'
    return len(on_disk) + len(pair.relay.run("sh", "-c", memory, "sh", text, check=False).splitlines())


def test_home_and_relay_find_each_other_and_mail_arrives(pair: Pair, internet: Internet) -> None:
    _home_answers(pair, internet)
    assert f"[{FAMILIAR_ADDRESS}]".encode() in _fetch(internet, _send(internet))
    assert list(pair.home.boot_partition.iterdir()) == []
    assert pair.home.failed_units() == pair.relay.failed_units() == []


def _keys(pair: Pair) -> frozenset[str]:
    """Give the public keys of the tunnel, as the relay knows them."""
    return frozenset(
        pair.relay.run("wg", "show", "home0", what, check=False).strip() for what in ("public-key", "peers")
    )


def test_the_bootstraps_keys_are_dead(pair: Pair) -> None:
    told = json.loads(pair.home.run("darkpipe", "relay", "status", "--json"))
    assert told["pairing"]["stage"] == "paired", told
    assert not _keys(pair) & pair.bootstrap


def test_keys_are_changed_and_mail_goes_on(pair: Pair, internet: Internet) -> None:
    """What comes behind it shows that home still drains."""
    before = _keys(pair)
    pair.home.run("darkpipe", "relay", "rotate-keys")
    wait_for(lambda: not _keys(pair) & before, "both ends have new keys", _PATIENCE)
    _home_answers(pair, internet)
    _fetch(internet, _send(internet))
    assert pair.home.failed_units() == pair.relay.failed_units() == []


def test_after_the_relays_plug_was_pulled_all_comes_back(pair: Pair, internet: Internet) -> None:
    pair.relay.pull_plug()
    assert _verdict(internet) == 0
    pair.relay.start()
    _home_answers(pair, internet)
    _fetch(internet, _send(internet))


def test_what_comes_while_home_is_away_is_kept_and_drained_once(pair: Pair, internet: Internet) -> None:
    """Through a power cut of the relay, and readable by nobody on it."""
    pair.home.pull_plug()
    wait_for(lambda: _verdict(internet) == 250, "the relay takes mail for home", _PATIENCE)
    subject = _send(internet)
    wait_for(lambda: _canaries(pair, "postscreen") > 0, "a positive control: the relay's log has Postfix's lines")
    assert _canaries(pair, subject) == _canaries(pair, _ALICE) == 0
    pair.relay.pull_plug()
    pair.relay.start()
    wait_for(lambda: _verdict(internet) == 250, "the relay takes mail for home", _PATIENCE)
    second = _send(internet)
    pair.home.start()
    plug_in(pair.home, internet)
    _home_answers(pair, internet)
    received = [_fetch(internet, one) for one in (subject, second)]
    assert all(FAMILIAR_ADDRESS.encode() in one for one in received)
    assert [_count(internet, one) for one in (subject, second)] == [1, 1]
    wait_for(lambda: _waiting(pair) == 0, "nothing to wait on the relay")
    assert pair.home.failed_units() == pair.relay.failed_units() == []


def _waiting(pair: Pair) -> int | None:
    """Give how many messages wait on the relay; None as long as home has not asked since it started."""
    queue = json.loads(pair.home.run("darkpipe", "relay", "status", "--json"))["queue"]
    return queue and int(queue["count"])
