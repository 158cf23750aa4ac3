"""What a published record is worth: what is found at its name, held against the record that this home needs.

Strict where mail gets lost, and tolerant where others may know better: an SPF policy in other words that lets the relay
send, a DMARC policy stricter than ours, more records beside ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from home.dns_answer import Status
from home.dns_records import Need, Place, Record, RelayAddresses, Role
from home.dns_slips import slip_in
from home.spf import VERSION, Look, Result, check_host, policies


class Outcome(StrEnum):
    """How something stands, from the best to the worst."""

    GOOD = "good"
    WARNING = "warning"
    """Mail works; something should be looked at."""
    WAITING = "waiting"
    """It is right in one place and not yet in all: nothing is to be done but to wait."""
    UNKNOWN = "unknown"
    """It could not be found out."""
    WRONG = "wrong"

    @property
    def rank(self) -> int:
        """0 for the best."""
        return list(Outcome).index(self)


@dataclass(frozen=True)
class Verdict:
    """What is to be said of something.

    Args:
        text: what was found, in words.
        remedy: what to do; empty when nothing is.
    """

    outcome: Outcome
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Context:
    """What a judge may want to know besides.

    Args:
        wanted: the values of all records that this home needs at the same name and of the same type.
        look: asks DNS for the records of a name and type.
    """

    wanted: frozenset[str]
    relay: RelayAddresses
    look: Look


def judge(record: Record, values: Sequence[str], context: Context) -> Verdict:
    """Judge what is published at the name of a record, of its type."""
    verdict = _judge(record, values, context)
    slip = None if verdict.outcome is Outcome.GOOD else slip_in(record, values)
    if slip and _judge(record, slip.meant, context).outcome is Outcome.GOOD:
        return Verdict(verdict.outcome, slip.text, how_to(record, slip.remedy))
    return verdict


def _judge(record: Record, values: Sequence[str], context: Context) -> Verdict:
    if judged_alone := _BY_ITSELF.get(record.role):
        return judged_alone(record, values)
    return _IN_CONTEXT[record.role](record, values, context)


def how_to(record: Record, verb: str) -> str:
    """Say how a record is entered."""
    where = "in your DNS" if record.place is Place.ZONE else "in the panel of the relay's provider (reverse DNS)"
    return f"{verb} {where}: {record.name} {record.type} {record.value}"


def _missing(record: Record, found: str = "there is none") -> Verdict:
    outcome = Outcome.WRONG if record.need is Need.REQUIRED else Outcome.WARNING
    return Verdict(outcome, found, how_to(record, "add it"))


def _address(record: Record, values: Sequence[str], context: Context) -> Verdict:
    if not values:
        return _missing(record)
    others = [value for value in values if value not in context.wanted]
    if record.value not in values:
        # At many providers the MX record of before names this very host.
        receives = {value.partition(" ")[2] for value in context.look(record.domain, "MX").values}
        remedy = how_to(record, "change it") + (_USED_ELSEWHERE if record.name in receives else "")
        return Verdict(Outcome.WRONG, f"it leads elsewhere: {', '.join(values)}", remedy)
    if others:
        return Verdict(
            Outcome.WARNING,
            f"it also leads to {', '.join(others)}: whoever tries that address first may not get through",
            "remove the other address, unless it is your relay's, too",
        )
    if not context.relay.proven:
        return Verdict(
            Outcome.WAITING,
            f"it leads to {record.value}; whether that is your relay is seen once the tunnel to it is up",
            "compare it with the address that the relay's provider shows",
        )
    return _good()


def _mx(record: Record, values: Sequence[str], context: Context) -> Verdict:
    if not values:
        return _missing(record)
    ours = record.value.partition(" ")[2]
    targets = {host: int(number) for number, host in (value.split(" ", 1) for value in values)}
    if ours not in targets:
        text = f"mail goes elsewhere: {', '.join(values)}"
        return Verdict(Outcome.WRONG, text, f"{how_to(record, 'put this in their place')}{_USED_ELSEWHERE}")
    others = {host: number for host, number in targets.items() if host != ours and not _leads_to_relay(host, context)}
    if before := {host: number for host, number in others.items() if number <= targets[ours]}:
        # The lower number is asked first, and of equal ones any (RFC 5321 §5.1): that server keeps what it takes.
        return Verdict(
            Outcome.WRONG,
            f"{', '.join(before)} is named as well, and gets mail before yours does, or as often",
            f"remove it, and leave {record.value}{_USED_ELSEWHERE}",
        )
    if context.look(ours, "A").alias:
        return Verdict(
            Outcome.WARNING,
            f"{ours} is an alias (CNAME), which an MX record may not name (RFC 2181 §10.3): some do not deliver",
            f"give {ours} A records of its own",
        )
    if others:
        return Verdict(
            Outcome.WARNING,
            f"{', '.join(others)} is named as well, and gets mail when yours cannot be reached",
            "remove it, unless that server passes mail on to this home",
        )
    return _good()


def _leads_to_relay(host: str, context: Context) -> bool:
    """Tell whether it is the relay by another name, such as the one for mail apps."""
    found = context.look(host, "A").values
    return bool(found) and set(found) <= {str(address) for address in context.relay.v4}


_USED_ELSEWHERE = (
    ". If people have mail there: first let each of their addresses be a mailbox or an alias here, and the "
    "pre-flight find nothing wrong, for from then on new mail comes here"
)


def _spf(record: Record, values: Sequence[str], context: Context) -> Verdict:
    found = policies(values)
    if not found:
        return _missing(record)
    if not context.relay.v4:
        if found == [record.value]:
            return _good()
        return Verdict(Outcome.UNKNOWN, f"whether it lets the relay send: {found[0]}", "wait for the relay's address")
    for address in context.relay.v4:
        judged = check_host(address, record.name, values, context.look)
        if judged.result is not Result.PASS:
            return _spf_fault(record, found, f"{address}: {judged.result} ({judged.why})", judged.result)
    if any(term.lower() in {"all", "+all"} for term in found[0].split()):
        return Verdict(Outcome.WARNING, "it lets the whole world send in your name: +all", how_to(record, "change it"))
    return _good()


def _spf_fault(record: Record, found: Sequence[str], text: str, result: Result) -> Verdict:
    if result is Result.TEMPERROR:
        return Verdict(Outcome.UNKNOWN, text, "check again in some minutes")
    if result is Result.UNSURE:
        return Verdict(Outcome.WARNING, text, how_to(record, "to be sure, put this in its place"))
    if len(found) > 1:
        return Verdict(Outcome.WRONG, text, "make one record of them, which has the terms of all")
    own = record.value.split()[1]
    remedy = f"put `{own}` into it, right behind `{VERSION}`" if result is not Result.PERMERROR else "mend that"
    return Verdict(Outcome.WRONG, f"it does not let the relay send: {text}", remedy)


def _dkim(record: Record, values: Sequence[str]) -> Verdict:
    if not values:
        return _missing(record)
    wanted = tags(record.value)
    same = [found for found in map(tags, values) if _same_key(found, wanted)]
    if not same:
        if any(found.get("p") == "" for found in map(tags, values)):
            return Verdict(Outcome.WRONG, "the key is revoked (p= is empty)", how_to(record, "put this in its place"))
        return Verdict(
            Outcome.WRONG,
            "it is another key, or a part of it was lost: signatures do not verify",
            how_to(record, "put this in its place"),
        )
    if len(values) > 1:
        return Verdict(
            Outcome.WARNING,
            f"there are {len(values)} records, and receivers take any of them (RFC 6376 §3.6.2.2)",
            "remove all but the one with this value",
        )
    if "y" in same[0].get("t", "").split(":"):
        return Verdict(Outcome.WARNING, "it says that signing is a test (t=y)", "take t=y out of it")
    return _good()


def _same_key(found: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return found.get("p") == wanted["p"] and found.get("k", "rsa") == wanted["k"]


_STRICTNESS = ("none", "quarantine", "reject")


def _dmarc(record: Record, values: Sequence[str]) -> Verdict:
    # RFC 7489 §6.6.3: what does not begin like a policy is none; several count as none at all.
    found = [text for text in values if text.replace(" ", "").lower().startswith("v=dmarc1;")]
    if not found:
        return _missing(record, f"that is none: {values[0]}" if values else "there is none")
    if len(found) > 1:
        return Verdict(Outcome.WRONG, f"there are {len(found)}, and receivers ignore them all", "remove all but one")
    policy = tags(found[0])
    if policy.get("p", "").lower() not in _STRICTNESS:
        text = f"its policy is p={policy.get('p', '')}, which is none of {', '.join(_STRICTNESS)}"
        return Verdict(Outcome.WRONG, text, how_to(record, "put this in its place"))
    if not policy.get("rua"):
        text = "nobody is told of those who forge your name: it has no rua="
        return Verdict(Outcome.WARNING, text, f"add rua={tags(record.value)['rua']} to it")
    return _good()


def _ptr(record: Record, values: Sequence[str], context: Context) -> Verdict:
    if not values:
        return _missing(record)
    if record.value not in values:
        return Verdict(Outcome.WRONG, f"it is called {', '.join(values)}", how_to(record, "change it"))
    if len(values) > 1:
        return Verdict(
            Outcome.WARNING, f"it has several names: {', '.join(values)}", f"leave it {record.value} as its only name"
        )
    forward = context.look(record.value, "A")
    address = ".".join(reversed(record.name.split(".")[:4]))  # RFC 1035 §3.5
    if forward.status is Status.FAILED:
        return Verdict(Outcome.UNKNOWN, f"{record.value} cannot be looked up: {forward.error}", "check again later")
    if address not in forward.values:
        led = ", ".join(forward.values) or "nowhere"
        return Verdict(
            Outcome.WRONG,
            f"the name does not lead back to {address}, but to {led}: it proves nothing",
            f"let the A record of {record.value} have the value {address}",
        )
    return _good()


def _caa(record: Record, values: Sequence[str]) -> Verdict:
    issuers = [value for value in values if value.split(" ")[1] in {"issue", "issuewild"}]
    if not issuers:
        return _missing(record)
    allowed = [value for value in issuers if _issuer(value)]
    if allowed:
        return Verdict(
            Outcome.WARNING,
            f"some authorities may issue a certificate for {record.name}: {', '.join(map(_issuer, allowed))}",
            "change it, unless you get certificates there yourself: " + how_to(record, "set"),
        )
    return _good()


def _issuer(value: str) -> str:
    """Whom an issue property allows, with its parameters; nobody's when there is no name before the first semicolon."""
    text = value.split(" ", 2)[2].strip('"').strip()
    return text if text.partition(";")[0].strip() else ""


def _no_sender(record: Record, values: Sequence[str]) -> Verdict:
    found = policies(values)
    if not found:
        return _missing(record)
    if [" ".join(text.lower().split()) for text in found] != [record.value]:
        return Verdict(Outcome.WARNING, f"it lets somebody send: {', '.join(found)}", how_to(record, "change it"))
    return _good()


def _no_mx(record: Record, values: Sequence[str]) -> Verdict:
    if not values:
        return _missing(record)
    if list(values) != [record.value]:
        return Verdict(Outcome.WARNING, f"it says that mail is taken: {', '.join(values)}", how_to(record, "change it"))
    return _good()


def _service(record: Record, values: Sequence[str]) -> Verdict:
    if not values:
        return _missing(record)
    places = [tuple(value.split(" ")[2:]) for value in values]
    ours = tuple(record.value.split(" ")[2:])
    if ours not in places:
        return Verdict(Outcome.WARNING, f"it sends apps elsewhere: {', '.join(values)}", how_to(record, "change it"))
    if len(set(places)) > 1:
        return Verdict(Outcome.WARNING, f"it also sends apps elsewhere: {', '.join(values)}", "remove the others")
    return _good()


def tags(text: str) -> Mapping[str, str]:
    """Read a tag list (RFC 6376 §3.2); white space in values means nothing in the records that are judged here."""
    pairs: Iterable[tuple[str, str, str]] = (part.partition("=") for part in text.split(";") if "=" in part)
    return {name.strip().lower(): "".join(value.split()) for name, _, value in pairs}


def _good() -> Verdict:
    return Verdict(Outcome.GOOD, "as it should be")


_BY_ITSELF: Mapping[Role, Callable[[Record, Sequence[str]], Verdict]] = {
    Role.DKIM: _dkim,
    Role.DMARC: _dmarc,
    Role.CAA: _caa,
    Role.NO_SENDER: _no_sender,
    Role.NO_MX: _no_mx,
    Role.SERVICE: _service,
}

_IN_CONTEXT: Mapping[Role, Callable[[Record, Sequence[str], Context], Verdict]] = {
    Role.ADDRESS: _address,
    Role.MX: _mx,
    Role.SPF: _spf,
    Role.PTR: _ptr,
}
