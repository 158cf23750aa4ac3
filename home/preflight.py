"""The pre-flight of the relay: whether mail can come in and go out, before anybody is told that it does.

Each step says what it proves. The world is not here to be asked: what is seen from home is told as that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address

from home.block_lists import BLOCK_LISTS, BlockList, ask_lists
from home.dns_answer import Dns, Status
from home.dns_checks import check_record
from home.dns_judges import Outcome, Verdict
from home.dns_records import Records, RelayAddresses, Role
from home.smtp_call import Call, CallError

TARGETS = ("gmail.com", "outlook.com", "gmx.net")
"""Domains whose mail servers are called, one of each, with a greeting and no mail: three that have nothing to do with
each other and that most owners write to. One that answers is enough."""

SMTP = 25
SUBMISSIONS = 465


class Step(StrEnum):
    """What is looked at."""

    PORT_25_OUT = "port-25-out"
    SENDER_ADDRESS = "sender-address"
    PORT_25_IN = "port-25-in"
    TLS = "tls"
    NAME = "name"
    ADDRESS = "address"
    PTR = "ptr"
    BLOCK_LIST = "block-list"


@dataclass(frozen=True)
class Looked:
    """One step, and how it stands.

    Args:
        what: the step in a few words.
        text: what was found.
        proves: what that shows, and what it does not.
        remedy: what to do; empty when nothing is.
    """

    step: Step
    what: str
    outcome: Outcome
    text: str
    proves: str
    remedy: str = ""


@dataclass(frozen=True)
class Visit:
    """A mail server of the world that came in through the relay's port 25."""

    at: datetime
    client: str


@dataclass(frozen=True)
class World:
    """What the pre-flight acts with.

    Args:
        call_out: calls a mail server (address, port) as Postfix does, through the tunnel.
        call_in: calls the relay (address, port) from home's own line, with TLS.
        visit: finds the latest visitor from the world.
        certificate: SHA-256 of this device's own, in hexadecimal digits; None without one.
    """

    dns: Dns
    call_out: Callable[[str, int], Call]
    call_in: Callable[[str, int], Call]
    visit: Callable[[], Visit | None]
    certificate: str | None
    targets: Sequence[str] = TARGETS
    block_lists: Sequence[BlockList] = BLOCK_LISTS


def preflight(records: Records, relay: RelayAddresses, mx_host: str, world: World) -> tuple[Looked, ...]:
    """Look at all of it at once; it takes as long as its slowest step.

    Args:
        records: what this home needs in DNS.
        mx_host: the name that this home's mail server goes by.
    """
    with ThreadPoolExecutor() as pool:
        out = pool.submit(_outgoing, relay, world)
        inward = [pool.submit(_incoming, address, mx_host, world) for address in relay.v4]
        named = pool.submit(_named, records, relay, mx_host, world)
        listed = [pool.submit(_listed, address, world) for address in relay.v4]
        steps = [*out.result(), *(step for each in inward for step in each.result())]
        return (*steps, *named.result(), *(step for each in listed for step in each.result()))


def _outgoing(relay: RelayAddresses, world: World) -> Sequence[Looked]:
    with ThreadPoolExecutor(max(1, len(world.targets))) as pool:
        results = list(pool.map(lambda domain: _called(domain, world), world.targets))
    reached = [result for result in results if isinstance(result[1], Call)]
    failures = "; ".join(f"{name}: {result}" for name, result in results if not isinstance(result, Call))
    what = "port 25 to the world, through the tunnel"
    proves = "It is the way that Postfix takes; a server that answers here may still refuse a message."
    if reached:
        text = f"{', '.join(name for name, _ in reached)} answers" + (f" ({failures})" if failures else "")
        steps = [Looked(Step.PORT_25_OUT, what, Outcome.GOOD, text, proves)]
    else:
        remedy = (
            "is the tunnel up (darkpipe status)? Then the relay's provider blocks port 25 towards the Internet: ask it "
            "to lift the block, in its panel or by a ticket"
        )
        steps = [Looked(Step.PORT_25_OUT, what, Outcome.WRONG, f"nobody answers: {failures}", proves, remedy)]
    seen = {result.seen_as for _, result in reached if isinstance(result, Call) and result.seen_as}
    return [*steps, _sender_address(seen, relay)]


def _called(domain: str, world: World) -> tuple[str, Call | str]:
    """Call the first mail server of a domain; gives its name, and what came of it."""
    found = world.dns.resolve(domain, "MX")
    if found.status is not Status.FOUND:
        return domain, found.error or "has no mail server"
    host = min(found.values, key=lambda value: int(value.split(" ")[0])).split(" ")[1]
    addresses = world.dns.resolve(host, "A")
    if not addresses.values:
        return host, addresses.error or "has no IPv4 address"
    try:
        return host, world.call_out(addresses.values[0], SMTP)
    except CallError as error:
        return host, str(error)


def _sender_address(seen: set[str], relay: RelayAddresses) -> Looked:
    what = "the address that others see"
    proves = "Mail servers say in their greeting where they are called from."
    wanted = {str(address) for address in relay.v4}
    if not seen or not wanted:
        text = f"others see {', '.join(sorted(seen))}" if seen else "no server that was called says it"
        return Looked(Step.SENDER_ADDRESS, what, Outcome.UNKNOWN, text, proves, "check again when mail goes out")
    if seen <= wanted:
        return Looked(Step.SENDER_ADDRESS, what, Outcome.GOOD, f"it is the relay's: {', '.join(sorted(seen))}", proves)
    text = f"it is {', '.join(sorted(seen))}, and the relay's is {', '.join(sorted(wanted))}"
    remedy = "the relay has a second address that it sends from: have SPF, A and PTR records for that one (--address)"
    return Looked(Step.SENDER_ADDRESS, what, Outcome.WRONG, text, proves, remedy)


def _incoming(address: IPv4Address, mx_host: str, world: World) -> Sequence[Looked]:
    """Call the relay's port 25 from home's own line, and 465 to know whose fault a failure is."""
    what, visit = f"port 25 of the relay, {address}", world.visit()
    steps: list[Looked] = []
    answered: Call | None = None
    try:
        answered = world.call_in(str(address), SMTP)
        text, proves = "it answers a call from your home's line", "At least from there the way in is free."
        steps.append(Looked(Step.PORT_25_IN, what, Outcome.GOOD, text, proves))
        steps.append(_name(answered, mx_host))
    except CallError as error:
        answered, told = _without_25(address, str(error), world)
        steps.append(Looked(Step.PORT_25_IN, what, told.outcome, told.text, _PROVES_NOTHING, told.remedy))
    if visit and steps[0].outcome is not Outcome.WRONG:
        text = f"{visit.client} came in through it on {visit.at:%Y-%m-%d at %H:%M} UTC"
        proves = "Somebody outside reached it, which is all that is to be proven."
        steps[0] = Looked(Step.PORT_25_IN, what, Outcome.GOOD, text, proves)
    return [*steps, _tls(answered, world.certificate)]


_PROVES_NOTHING = "Many lines of homes may not call port 25 of anybody, so that a failure alone proves nothing."


def _without_25(address: IPv4Address, why: str, world: World) -> tuple[Call | None, Verdict]:
    try:
        other = world.call_in(str(address), SUBMISSIONS)
    except CallError as error:
        text = f"neither port 25 ({why}) nor port {SUBMISSIONS} ({error}) answers a call from your home's line"
        remedy = (
            "is the relay running, and the tunnel up (darkpipe status)? Let TCP 25, 465, 587, 993 and 443 in at its "
            "provider's firewall"
        )
        return None, Verdict(Outcome.WRONG, text, remedy)
    text = f"port {SUBMISSIONS} answers a call from your home's line, and port 25 does not: {why}"
    remedy = (
        "either your line may not call port 25, or the relay's provider does not let it in: send yourself a message "
        f"from an address elsewhere, or try `nc -v {address} 25` from another network"
    )
    return other, Verdict(Outcome.UNKNOWN, text, remedy)


def _name(answered: Call, mx_host: str) -> Looked:
    what, proves = "the name that your server goes by", "Others compare it with the PTR record."
    named = answered.banner.split(" ")[0]
    if named.lower() == mx_host:
        return Looked(Step.NAME, what, Outcome.GOOD, f"it is {mx_host}", proves)
    text = f"who answers on port 25 calls itself {named}, expected {mx_host}"
    return Looked(Step.NAME, what, Outcome.WRONG, text, proves, "does this address belong to your relay?")


def _tls(answered: Call | None, own: str | None) -> Looked:
    what = "whose TLS it is that the relay passes on"
    proves = "Where this device's own certificate comes back, nobody on the way has read along."
    if answered is None or answered.certificate is None or own is None:
        text = "no answer over TLS came back" if own else "this device has no certificate yet"
        return Looked(Step.TLS, what, Outcome.UNKNOWN, text, proves, "see to the port first, then look again")
    if answered.certificate == own:
        return Looked(Step.TLS, what, Outcome.GOOD, "it ends on this device", proves)
    text = "another certificate came back than this device has"
    remedy = "is the tunnel up? While home is away the relay answers by itself; otherwise somebody stands in between"
    return Looked(Step.TLS, what, Outcome.WRONG, text, proves, remedy)


def _named(records: Records, relay: RelayAddresses, mx_host: str, world: World) -> Sequence[Looked]:
    steps = []
    for record in records.records:
        if record.role is Role.PTR or (record.role is Role.ADDRESS and record.name == mx_host):
            check = check_record(record, records, relay, world.dns)
            step = Step.PTR if record.role is Role.PTR else Step.ADDRESS
            what = f"{record.type} record of {record.name}"
            steps.append(Looked(step, what, check.outcome, check.text, record.why, check.remedy))
    return steps


def _listed(address: IPv4Address, world: World) -> Sequence[Looked]:
    proves = "Servers that ask this list refuse what comes from an address on it; there are lists that nobody can ask."
    return [
        Looked(Step.BLOCK_LIST, f"block list {each.name}", found.outcome, found.text, proves, found.remedy)
        for each, found in ask_lists(address, world.dns.resolve, world.block_lists)
    ]
