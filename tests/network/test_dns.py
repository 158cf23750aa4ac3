"""The checks of published records with real name servers: what they have, and what keeps the world from seeing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dns.dnssec
import dns.dnssectypes
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from home.block_lists import BLOCK_LISTS, ask_lists
from home.dns_answer import Server, Status
from home.dns_checks import Check, check_records
from home.dns_judges import Outcome
from home.dns_lookup import RealDns
from home.dns_records import Place, Record
from tests.machine.machine import wait_for
from tests.network.names import DOMAIN, REVERSE, SERVERS, names, reload_zone, zone
from tests.network.net import Namespace, namespace
from tests.unit.dns_samples import RELAY, accounts, needed

RECORDS = needed(accounts(DOMAIN))
ANSWERS = [each for each in RECORDS.records if each.place is Place.ZONE]
_PTR = next(each for each in RECORDS.records if each.place is Place.PROVIDER)


@pytest.fixture(scope="module")
def place() -> Iterator[Namespace]:
    """A network with the addresses of the name servers, and without IPv6."""
    with namespace() as made:
        for address in ("203.0.113.53", *SERVERS.values()):
            made.add_address(address)
        yield made


class World:
    def __init__(self, place: Namespace, root: Path, scratch: Path) -> None:
        self.place, self._root, self._scratch = place, root, scratch

    @contextmanager
    def has(self, *zones: Mapping[str, str], more_root: str = "", more_unbound: str = "") -> Iterator[None]:
        served = [dict(each) for each in zones]
        more = {"more_root": more_root, "more_unbound": more_unbound}
        with names(self.place, self._root, self._scratch, *served, **more):
            yield

    def publish(self, zones: Mapping[str, str]) -> None:
        """Have the name servers read a domain's zone anew, which the resolver does not hear of."""
        for address in SERVERS.values():
            reload_zone(self._scratch, address, zones[DOMAIN])
        newer = Server("", (next(iter(SERVERS.values())),))
        wait_for(lambda: self.place.call(RealDns().ask, newer, DOMAIN, "MX").status is Status.FOUND, "the new zone")

    def check(self) -> Mapping[Record, Check]:
        return {check.record: check for check in self.place.call(check_records, RECORDS, RELAY, RealDns())}


@pytest.fixture
def world(place: Namespace, root: Path, tmp_path: Path) -> World:
    return World(place, root, tmp_path)


def _zones(*lines: str, serial: int = 1) -> Mapping[str, str]:
    """The zones of a home whose records are all there, or those that are given."""
    text = "\n".join(lines or [each.zone_line for each in ANSWERS]) + "\n"
    return {DOMAIN: zone(text, serial), REVERSE: zone(_PTR.zone_line + "\n")}


def _outcomes(checks: Mapping[Record, Check]) -> set[Outcome]:
    return {check.outcome for check in checks.values()}


def test_everything_as_it_should_be_is_good(world: World) -> None:
    with world.has(_zones(), _zones()):
        checks = world.check()
    assert _outcomes(checks) == {Outcome.GOOD}, [check.text for check in checks.values()]
    for check in checks.values():
        assert [seen.server for seen in check.servers] == list(SERVERS)
        assert all(check.record.value in seen.values for seen in check.servers), check


def test_a_mistake_in_each_record_is_found(world: World) -> None:
    """One zone with a mistake in every record; none of them hides behind another."""
    spoilt = [
        each.zone_line.replace("203.0.113.7", "203.0.113.8")
        .replace("2001:db8::7", "2001:db8::8")
        .replace(" MX 10 mx.example.com.", " MX 10 mx.example.net.")
        .replace(" MX 0 .", " MX 10 mx.example.com.")
        .replace("v=spf1 a:mx.example.com ~all", "v=spf1 -all")
        .replace("v=spf1 a -all", "v=spf1 ip4:203.0.113.9 -all")
        .replace('"v=spf1 -all"', '"v=spf1 a -all"' if each.name.startswith("mail") else '"v=spf1 -all"')
        .replace("; p=M", "; p=N")
        .replace("k=ed25519", "k=rsa")
        .replace("p=none", "p=later")
        .replace('issue ";"', 'issue "ca.example"')
        .replace(" mail.example.com.", " mail.example.net.")
        for each in ANSWERS
    ]
    assert all(line != each.zone_line for line, each in zip(spoilt, ANSWERS, strict=True))
    bad = {**_zones(*spoilt), REVERSE: zone(_PTR.zone_line.replace("mx.example.com", "static.example.net") + "\n")}
    with world.has(bad, bad):
        checks = world.check()
    assert Outcome.GOOD not in _outcomes(checks), [each for each in checks.values() if each.outcome is Outcome.GOOD]
    for record, check in checks.items():
        # An IPv6 address may be missing, but not be somebody else's.
        loses_mail = record.need == "required" or record.role == "address"
        assert check.outcome is (Outcome.WRONG if loses_mail else Outcome.WARNING), check
        assert check.found
        assert check.remedy


def test_nothing_published_is_told_of_each_record(world: World) -> None:
    nothing = {DOMAIN: zone(""), REVERSE: zone("")}
    with world.has(nothing, nothing):
        checks = world.check()
    assert _outcomes(checks) == {Outcome.WRONG, Outcome.WARNING}
    assert {check.found for check in checks.values()} == {()}


def test_a_second_server_that_is_behind_is_waited_for(world: World) -> None:
    old = "example.com. 300 IN MX 10 old.example.net."
    with world.has(_zones(serial=2), _zones(*(each.zone_line for each in ANSWERS if each.type != "MX"), old)):
        checks = world.check()
    waiting = {record.value for record, check in checks.items() if check.outcome is Outcome.WAITING}
    assert waiting == {"10 mx.example.com", "0 ."}
    assert _outcomes(checks) == {Outcome.WAITING, Outcome.GOOD}


def test_a_server_that_knows_nothing_of_the_zone_is_named(world: World) -> None:
    with world.has(_zones(), {}):
        checks = world.check()
    assert _outcomes(checks) == {Outcome.WARNING}
    assert all("ns2.example.net (203.0.113.55: REFUSED)" in check.text for check in checks.values())


def test_a_server_that_is_away_is_named_and_costs_its_time_once(world: World) -> None:
    with world.has(_zones()):
        checks = world.check()
    assert _outcomes(checks) == {Outcome.WARNING}
    assert all("ns2.example.net (203.0.113.55: " in check.text for check in checks.values())


def test_a_domain_without_a_delegation_is_told(world: World) -> None:
    with world.has({}, {}):
        authority = world.place.call(RealDns().authority, "www.nobody-has-this.example")
    # All that knows it is the root itself.
    assert (authority.zone, authority.error) == ("", "")


def test_a_change_that_the_resolver_has_not_seen_is_waited_for(world: World) -> None:
    """The answer that there is no MX yet stays with the resolver for five minutes."""
    without = _zones(*(each.zone_line for each in ANSWERS if each.value != "10 mx.example.com"))
    keep = "    cache-min-ttl: 300"
    with world.has(without, without, more_unbound=keep):
        before = world.check()
        mx = next(each for each in ANSWERS if each.value == "10 mx.example.com")
        assert before[mx].outcome is Outcome.WRONG
        # A judge that has asked the resolver itself leaves an old answer there.
        assert world.place.call(RealDns().resolve, DOMAIN, "MX").status is Status.NO_DATA
        world.publish(_zones(serial=2))
        after = world.check()
    assert after[mx].outcome is Outcome.WAITING
    assert "others may still see what was there before" in after[mx].text


def test_signatures_that_do_not_verify_are_told(world: World) -> None:
    key = dns.dnssec.make_dnskey(
        ec.generate_private_key(ec.SECP256R1()).public_key(), dns.dnssectypes.Algorithm.ECDSAP256SHA256, flags=257
    )
    anchor = f'    trust-anchor: "{DOMAIN}. DNSKEY {key.to_text()}"'
    with world.has(_zones(), _zones(), more_unbound=anchor):
        checks = world.check()
    for record, check in checks.items():
        if record.place is Place.ZONE and record.role not in {"spf", "mx"}:
            assert check.outcome is Outcome.WRONG, check
            assert "DNSSEC" in check.text


def test_a_resolver_that_is_not_there_is_no_traceback(place: Namespace) -> None:
    checks = place.call(check_records, RECORDS, RELAY, RealDns(whole=3))
    assert {check.outcome for check in checks} == {Outcome.UNKNOWN}


def test_an_address_that_cannot_be_reached_is_passed_over(world: World) -> None:
    """As on a line without IPv6, or with nothing else."""
    server = Server("ns1.example.net", ("2001:db8::54", "203.0.113.54"))
    with world.has(_zones(), _zones()):
        answer = world.place.call(RealDns().ask, server, DOMAIN, "MX")
    assert answer.values == ("10 mx.example.com",)


def test_block_lists_are_asked_through_the_resolver(world: World) -> None:
    listed = BLOCK_LISTS[0].zone
    works = "".join(f"2.0.0.127.{each.zone}. IN A 127.0.0.2\n" for each in BLOCK_LISTS)
    entry = f'7.113.0.203.{listed}. IN A 127.0.0.4\n7.113.0.203.{listed}. IN TXT "why"\n'
    with world.has({}, {}, more_root=works + entry):
        found = world.place.call(ask_lists, RELAY.v4[0], RealDns().resolve)
    assert [verdict.outcome for _, verdict in found] == [Outcome.WRONG, Outcome.GOOD, Outcome.GOOD]
    assert "127.0.0.4): why" in found[0][1].text
