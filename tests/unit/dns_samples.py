"""A DNS of dictionaries, and a home's records, for the tests of what shows and checks them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from tempfile import TemporaryDirectory

from home.dns_answer import Answer, Authority, Server, Status
from home.dns_records import Record, Records, RelayAddresses, Role, dns_records
from model.accounts import Account, Accounts, MailDomain
from model.names import domain_name
from stack.dkim import Record as DkimRecord
from stack.dkim import ensure_keys
from stack.dkim import records as dkim_records
from tests.unit.stack_samples import OwnOwners

RELAY = RelayAddresses((IPv4Address("203.0.113.7"),), (IPv6Address("2001:db8::7"),))
REVERSE = "7.113.0.203.in-addr.arpa"

Zone = dict[tuple[str, str], tuple[str, ...]]


def accounts(*domains: str) -> Accounts:
    """Alice's home; the first domain is the primary."""
    names = [domain_name(domain) for domain in domains or ("example.com", "example.org")]
    alice = f"alice@{names[0]}"
    return Accounts(
        domains=tuple(MailDomain(name=name) for name in names), users=(Account(address=alice),), admin=alice
    )


@functools.cache
def _keys(domains: tuple[str, ...]) -> Sequence[DkimRecord]:
    with TemporaryDirectory() as folder:
        ensure_keys(Path(folder), domains, OwnOwners())
        return dkim_records(Path(folder), domains)


def needed(who: Accounts | None = None, relay: RelayAddresses = RELAY) -> Records:
    """The records of a home, with real keys."""
    who = who or accounts()
    return dns_records(who, _keys(tuple(domain.name for domain in who.domains)), relay)


def record(records: Records, role: Role, name: str) -> Record:
    return next(each for each in records.records if (each.role, each.name) == (role, name))


def published(records: Iterable[Record]) -> Zone:
    """The world's DNS with some records in it."""
    zone: Zone = {}
    for each in records:
        key = (each.name, str(each.type))
        zone[key] = (*zone.get(key, ()), each.value)
    return zone


@dataclass
class FakeDns:
    """DNS with two servers for everything.

    Args:
        world: what the servers have, by name and type.
        others: what a server has instead, by its name.
        cached: what the resolver answers instead.
        aliases: names that lead to others.
        errors: why a server, or `resolver`, does not answer.
    """

    world: Zone
    zone: str = "example.com"
    others: Mapping[str, Zone] = field(default_factory=dict)
    cached: Zone = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""
    ttl: int = 1800

    def resolve(self, name: str, kind: str) -> Answer:
        if "resolver" in self.errors:
            return Answer(Status.FAILED, error=self.errors["resolver"])
        alias = self.aliases.get(name)
        answer = self._answer({**self.world, **self.cached}, alias or name, kind)
        return Answer(answer.status, answer.values, answer.ttl, alias)

    def authority(self, name: str) -> Authority:  # noqa: ARG002
        servers = tuple(Server(each, (f"192.0.2.{number}",)) for number, each in enumerate(("ns1.test", "ns2.test")))
        return Authority(error=self.fault) if self.fault else Authority(self.zone, servers)

    def ask(self, server: Server, name: str, kind: str) -> Answer:
        if server.name in self.errors:
            return Answer(Status.FAILED, error=self.errors[server.name])
        if alias := self.aliases.get(name):
            return Answer(Status.NO_DATA, (), self.ttl, alias)
        return self._answer({**self.world, **self.others.get(server.name, {})}, name, kind)

    def _answer(self, zone: Zone, name: str, kind: str) -> Answer:
        values = zone.get((name, kind), ())
        return Answer(Status.FOUND if values else Status.NO_DATA, values, self.ttl)
