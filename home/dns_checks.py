"""Checks of the published DNS records, each with the servers that its zone names: what is found, and what to do.

The authoritative servers are asked, since whoever has just changed a record wants to know of it now. What the rest of
the world sees comes after: this device's resolver, which keeps old answers for their time and checks DNSSEC.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from home.dns_answer import Answer, Authority, Dns, Server, Status
from home.dns_judges import Context, Outcome, Verdict, judge
from home.dns_records import Need, Place, Record, Records, RelayAddresses
from home.dns_slips import longer_name, short_name

_AT_ONCE = 16


@dataclass(frozen=True)
class Seen:
    """What one name server says.

    Args:
        error: why it says nothing; empty when it does.
    """

    server: str
    values: tuple[str, ...]
    error: str = ""


@dataclass(frozen=True)
class Check:
    """A record, and how it stands.

    Args:
        found: the values that are published, of all servers.
        text: what is to be said of that, in words.
        remedy: what to do; empty when nothing is.
        zone: that the name lies in; empty when it could not be found.
    """

    record: Record
    outcome: Outcome
    found: tuple[str, ...]
    text: str
    remedy: str
    zone: str = ""
    servers: tuple[Seen, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Give it as a JSON object: the record's fields, and beside them what was found."""
        own = asdict(self)
        return {**own.pop("record"), "expected": self.record.value, **own}


def check_records(records: Records, relay: RelayAddresses, dns: Dns) -> tuple[Check, ...]:
    """Check all records at once.

    Args:
        dns: is asked by several threads.

    Returns:
        A check for each record, in their order.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return tuple(pool.map(lambda record: check_record(record, records, relay, dns), records.records))


def check_record(record: Record, records: Records, relay: RelayAddresses, dns: Dns) -> Check:
    """Check one record.

    Args:
        records: all that this home needs: what stands beside it at the same name is no fault.
    """
    authority = dns.authority(record.name)
    if fault := _authority_fault(record, authority):
        return Check(record, fault.outcome, (), fault.text, fault.remedy, authority.zone)
    wanted = {one.value for one in records.records if (one.name, one.type) == (record.name, record.type)}
    context = Context(frozenset(wanted), relay, dns.resolve)
    answers = [
        (server, _followed(dns, dns.ask(server, record.name, record.type), record)) for server in authority.servers
    ]
    verdict = _of_all(record, answers, context)
    if verdict.outcome is Outcome.GOOD:
        verdict = _as_others_see(record, dns.resolve(record.name, record.type), context) or verdict
    elif verdict.outcome in {Outcome.WARNING, Outcome.WRONG} and record.place is Place.ZONE:
        verdict = (
            _led_astray(record, answers, verdict) or _misplaced(record, answers, authority, context, dns) or verdict
        )
    found = {value for _, answer in answers for value in answer.values}
    seen = tuple(Seen(server.name, answer.values, answer.error) for server, answer in answers)
    return Check(record, verdict.outcome, tuple(sorted(found)), verdict.text, verdict.remedy, authority.zone, seen)


def worst(checks: Sequence[Check]) -> Outcome:
    """Give the worst outcome of some checks."""
    return max((check.outcome for check in checks), key=lambda outcome: outcome.rank, default=Outcome.GOOD)


def _authority_fault(record: Record, authority: Authority) -> Verdict | None:
    if authority.error:
        return Verdict(
            Outcome.UNKNOWN,
            f"the name servers for {record.name} cannot be found: {authority.error}",
            "is this device on the Internet? If other names can be looked up: ask whoever keeps the domain's DNS",
        )
    if record.place is Place.ZONE and "." not in authority.zone:
        return Verdict(
            Outcome.WRONG,
            f"{record.domain} has no name servers: nobody has registered it, or its registrar knows no servers for it",
            f"register {record.domain}, or enter its name servers at the registrar",
        )
    return None


def _followed(dns: Dns, answer: Answer, record: Record) -> Answer:
    """Follow an alias, as everybody does who asks for the record."""
    if answer.alias is None:
        return answer
    target = dns.resolve(answer.alias, record.type)
    return Answer(target.status, target.values, answer.ttl, answer.alias, target.error)


def _of_all(record: Record, answers: Sequence[tuple[Server, Answer]], context: Context) -> Verdict:
    silent = [(server, answer) for server, answer in answers if answer.status is Status.FAILED]
    verdicts = [
        (server, judge(record, answer.values, context))
        for server, answer in answers
        if answer.status is not Status.FAILED
    ]
    faults = ", ".join(f"{server.name} ({answer.error})" for server, answer in silent)
    if not verdicts:
        return Verdict(Outcome.UNKNOWN, f"no name server answers: {faults or 'there is none'}", "check again later")
    verdict = max((verdict for _, verdict in verdicts), key=lambda verdict: verdict.outcome.rank)
    good = [server.name for server, each in verdicts if each.outcome is Outcome.GOOD]
    if good and len(good) < len(verdicts):
        bad = [server.name for server, each in verdicts if each.outcome is not Outcome.GOOD]
        return Verdict(
            Outcome.WAITING,
            f"{', '.join(good)} {_has(good)} it already, {', '.join(bad)} not yet: {verdict.text}",
            "wait until your name servers agree, some minutes as a rule; after a day ask whoever keeps your DNS",
        )
    if silent and verdict.outcome is Outcome.GOOD:
        return Verdict(
            Outcome.WARNING,
            f"it is as it should be, but not all of the zone's name servers answer: {faults}",
            "have whoever keeps your DNS look at these servers, or take them out of the zone's NS records",
        )
    return verdict


def _led_astray(record: Record, answers: Sequence[tuple[Server, Answer]], verdict: Verdict) -> Verdict | None:
    """Say that an alias stands in the way of a record; None for nothing."""
    aliases = [answer.alias for _, answer in answers if answer.alias]
    if not aliases or (verdict.outcome is not Outcome.WRONG and any(answer.values for _, answer in answers)):
        return None
    # RFC 1034 §3.6.2
    text = f"{verdict.text}; the name is an alias (CNAME) of {aliases[0]}"
    return Verdict(
        verdict.outcome, text, f"delete the alias, beside which {record.name} can have nothing; then {verdict.remedy}"
    )


def _misplaced(
    record: Record, answers: Sequence[tuple[Server, Answer]], authority: Authority, context: Context, dns: Dns
) -> Verdict | None:
    """Say that a record stands at a name to which a form has added the zone's; None when it does not."""
    asked = [server for server, answer in answers if answer.status is not Status.FAILED]
    if not asked or any(answer.values for _, answer in answers):
        return None
    name = longer_name(record, authority.zone)
    if judge(record, dns.ask(asked[0], name, record.type).values, context).outcome is not Outcome.GOOD:
        return None
    return Verdict(
        Outcome.WRONG if record.need is Need.REQUIRED else Outcome.WARNING,
        f"it stands at {name}: the form there puts {authority.zone} behind each name by itself",
        f"give it the name {short_name(record, authority.zone)} there, and this value: {record.value}",
    )


def _has(servers: Sequence[str]) -> str:
    return "has" if len(servers) == 1 else "have"


def _as_others_see(record: Record, answer: Answer, context: Context) -> Verdict | None:
    """Say what is in the way between the name servers, which are right, and the world; None for nothing."""
    if answer.status is Status.FAILED:
        if "SERVFAIL" not in answer.error:
            return None
        return Verdict(
            Outcome.WRONG,
            "it is published, but a resolver that checks DNSSEC refuses it, as others do: the zone's signatures are "
            "broken or too old, or its registrar has a DS record of another key",
            "mend DNSSEC where your DNS is kept, or switch it off there and remove the DS record at the registrar",
        )
    verdict = judge(record, answer.values, context)
    if verdict.outcome is not Outcome.GOOD:
        return Verdict(
            Outcome.WAITING,
            f"it is published, but others may still see what was there before, for {_duration(answer.ttl)} at most",
            "wait; nothing else is to be done",
        )
    return None


def _duration(seconds: int) -> str:
    for length, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{-(-seconds // length)} {unit}"
    return f"{seconds} seconds"
