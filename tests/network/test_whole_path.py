"""From `darkpipe user-data` to a message, with a relay that cloud-init has made and a home from its seed."""

from __future__ import annotations

import smtplib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from builder.bootstrap import make_bootstrap
from builder.user_data import user_data
from model.document import parse_site
from model.site import Relay
from model.tunnel import HOME_FILE
from tests import mail
from tests.cloud.judge import AWAY
from tests.cloud.vps import Vps
from tests.machine.conftest import PASSWORD, SEED
from tests.machine.machine import Machine, wait_for
from tests.network.conftest import FAMILIAR_ADDRESS, NewVps, know
from tests.network.internet import Internet, Site
from tests.network.net import Namespace, join

_ALICE = "alice@example.com"
_RELAY, _HOME = Site(1), Site(2)


@dataclass(frozen=True)
class Pair:
    """A relay and its home."""

    relay: Vps
    home: Machine


@pytest.fixture(scope="module")
def pair(new_vps: NewVps, new_machine: Callable[[str], Machine], internet: Internet) -> Iterator[Pair]:
    internet.router.add_address(FAMILIAR_ADDRESS)
    site = parse_site(f"{SEED}relays: [{{address: {_RELAY.address}, offline: tempfail}}]\n", "site.yaml")
    bootstrap = make_bootstrap(Relay.model_validate({"address": _RELAY.address}))
    relay = new_vps(user_data(site, bootstrap)).start()
    result = relay.cloud_init()
    assert (result.status, result.errors) == ("done", []), relay.log()
    home = new_machine(f"{SEED}relays: [{{address: {_RELAY.address}, offline: tempfail}}]\n")
    (home.boot_partition / HOME_FILE).write_text(bootstrap.home.model_dump_json())
    home.start()
    plug_in(home, internet)
    yield Pair(relay, home)
    home.stop()


def plug_in(home: Machine, internet: Internet) -> None:
    # Debian's udev lets everybody open it; a container has no udev. The kernel asks for CAP_NET_ADMIN all the same.
    home.run("chmod", "0666", "/dev/net/tun")
    place = Namespace(home.leader)
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


def _deliver(internet: Internet) -> None:
    subject = f"test {uuid.uuid4()}"
    with internet.router.call(smtplib.SMTP, _RELAY.address, 25, "s.example", 60, (FAMILIAR_ADDRESS, 0)) as session:
        session.starttls(context=mail.any_certificate())
        session.sendmail("a@example.net", _ALICE, mail.letter(subject, "a@example.net", _ALICE))
    box = internet.router.call(mail.mailbox, 993, _ALICE, PASSWORD, host=_RELAY.address)
    received = mail.fetch(box, subject)
    box.logout()
    assert f"[{FAMILIAR_ADDRESS}]".encode() in received


def test_home_and_relay_find_each_other_and_mail_arrives(pair: Pair, internet: Internet) -> None:
    wait_for(lambda: _verdict(internet) == 250, "home answers")
    _deliver(internet)
    assert list(pair.home.boot_partition.iterdir()) == []
    assert pair.home.failed_units() == pair.relay.failed_units() == []


def test_after_the_relays_plug_was_pulled_all_comes_back(pair: Pair, internet: Internet) -> None:
    pair.relay.pull_plug()
    assert _verdict(internet) == 0
    pair.relay.start()
    wait_for(lambda: _verdict(internet) == 250, "home answers")
    _deliver(internet)


def test_after_homes_plug_was_pulled_all_comes_back(pair: Pair, internet: Internet) -> None:
    pair.home.pull_plug()
    wait_for(lambda: _verdict(internet) in AWAY, "the relay answers")
    pair.home.start()
    plug_in(pair.home, internet)
    wait_for(lambda: _verdict(internet) == 250, "home answers")
    _deliver(internet)
