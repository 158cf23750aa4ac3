"""Asking DNS as it is: through this device's resolver, and each name server of a zone by itself.

Nothing here raises: whatever goes wrong on the way is an answer, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT

from home.dns_answer import Answer, Authority, Server, Status

PATIENCE = 3.0
"""Seconds for one server's answer; most come in a tenth of one."""

RESOLVER_PATIENCE = 8.0
"""Seconds for the resolver's, which may have to try several servers."""

WHOLE = 45.0
"""Seconds for everything that is asked in one go."""

_TRIES = 2
"""UDP loses packets."""

_MOST_SERVERS = 8
_MOST_ALIASES = 8
_DNS_PORT = 53
_IN = dns.rdataclass.IN

_PAYLOAD = 1232
"""Octets of UDP that pass every network unbroken (RFC 9715 §3.1 takes 1400 for the most)."""

_UNCHECKED = dns.flags.RD | dns.flags.CD
"""A zone whose DNSSEC is broken must be found as well: that is what is to be told."""

_ITSELF = dns.flags.Flag(0)


@dataclass(frozen=True)
class _Deadline:
    """When all must be over, in seconds of a clock that only runs forward."""

    end: float
    clock: Callable[[], float]

    def left(self, patience: float) -> float:
        return min(patience, self.end - self.clock())


class RealDns:
    """DNS as it is, for one go of questions; several threads may ask at once.

    Args:
        resolver: address of the resolver that is asked.
        port: of all servers.
        whole: seconds for everything together; what is asked later fails at once.
        clock: seconds that only run forward.
    """

    def __init__(
        self,
        resolver: str = "127.0.0.1",
        port: int = _DNS_PORT,
        whole: float = WHOLE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resolver = resolver
        self._port = port
        self._deadline = _Deadline(clock() + whole, clock)
        self._lock = threading.Lock()
        self._authorities: dict[str, Authority] = {}
        # Each address of a dead server costs its time once, and not for every record.
        self._dead: dict[str, str] = {}

    def resolve(self, name: str, kind: str) -> Answer:
        """Ask the resolver; aliases are followed."""
        return self._resolved(name, kind, dns.flags.RD)

    def authority(self, name: str) -> Authority:
        """Find the zone of a name and its servers, through the resolver."""
        with self._lock:
            known = self._authorities.get(name)
        if known is None:
            known = self._find_authority(name)
            with self._lock:
                self._authorities[name] = known
        return known

    def ask(self, server: Server, name: str, kind: str) -> Answer:
        """Ask a name server what it has itself; aliases are named and not followed."""
        errors = []
        for address in server.addresses:
            with self._lock:
                dead = self._dead.get(address)
            if dead:
                errors.append(dead)
                continue
            reply = self._exchange(address, name, kind, PATIENCE, _ITSELF)
            if isinstance(reply, str):
                with self._lock:
                    self._dead[address] = f"{address}: {reply}"
                errors.append(f"{address}: {reply}")
                continue
            if not reply.flags & dns.flags.AA and reply.rcode() in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
                errors.append(f"{address}: knows nothing of this zone")
                continue
            answer = _answer(reply, name, kind, follow=False)
            if answer.status is not Status.FAILED:
                return answer
            errors.append(f"{address}: {answer.error}")
        return Answer(Status.FAILED, error="; ".join(errors) or "its address cannot be found")

    def _resolved(self, name: str, kind: str, flags: dns.flags.Flag) -> Answer:
        reply = self._exchange(self._resolver, name, kind, RESOLVER_PATIENCE, flags)
        if isinstance(reply, str):
            return Answer(Status.FAILED, error=f"this device's resolver: {reply}")
        answer = _answer(reply, name, kind, follow=True)
        return replace(answer, error=f"this device's resolver: {answer.error}") if answer.error else answer

    def _find_authority(self, name: str) -> Authority:
        labels = name.split(".") if name else []
        for start in range(len(labels) + 1):
            zone = ".".join(labels[start:])
            reply = self._exchange(self._resolver, zone, "SOA", RESOLVER_PATIENCE, _UNCHECKED)
            if isinstance(reply, str):
                return Authority(error=f"this device's resolver: {reply}")
            if reply.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
                return Authority(error=f"this device's resolver: {dns.rcode.to_text(reply.rcode())} for {zone or '.'}")
            if reply.get_rrset(reply.answer, _name(zone), _IN, dns.rdatatype.SOA):
                return self._with_servers(zone)
        return Authority(error="this device's resolver does not know the root of DNS")

    def _with_servers(self, zone: str) -> Authority:
        names = self._resolved(zone, "NS", _UNCHECKED)
        if names.status is not Status.FOUND:
            return Authority(zone, error=names.error or f"{zone} has no name servers")
        servers = []
        for name in names.values[:_MOST_SERVERS]:
            found = [self._resolved(name, kind, _UNCHECKED).values for kind in ("A", "AAAA")]
            servers.append(Server(name, tuple(address for values in found for address in values)))
        return Authority(zone, tuple(servers))

    def _exchange(
        self, address: str, name: str, kind: str, patience: float, flags: dns.flags.Flag
    ) -> dns.message.Message | str:
        """Ask one address; gives the reply, or why there is none."""
        try:
            query = dns.message.make_query(_name(name), kind, use_edns=0, payload=_PAYLOAD)
        except dns.exception.DNSException as error:
            return f"{name} cannot be asked for: {error}"
        query.flags = flags
        problem = "no time was left to ask it"
        for _ in range(_TRIES):
            left = self._deadline.left(patience)
            if left <= 0:
                return problem
            try:
                return dns.query.udp_with_fallback(query, address, timeout=left, port=self._port)[0]
            except dns.exception.Timeout:
                problem = f"no answer within {left:.0f} s"
            except (OSError, dns.exception.DNSException, EOFError, ValueError) as error:
                # A network that is not there (IPv6, often) is so at the second try as well.
                return str(error) or type(error).__name__
        return problem


def _name(text: str) -> dns.name.Name:
    return dns.name.from_text(text or ".")


def _answer(reply: dns.message.Message, name: str, kind: str, *, follow: bool) -> Answer:
    code = reply.rcode()
    if code not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        return Answer(Status.FAILED, error=dns.rcode.to_text(code))
    wanted = dns.rdatatype.from_text(kind)
    here, alias = _name(name), None
    for _ in range(_MOST_ALIASES):
        rows = reply.get_rrset(reply.answer, here, _IN, wanted)
        if rows is not None:
            values = tuple(sorted({_value(row) for row in rows}))
            return Answer(Status.FOUND, values, rows.ttl, alias)
        aliases = reply.get_rrset(reply.answer, here, _IN, dns.rdatatype.CNAME)
        if not aliases:
            break
        here = aliases[0].target
        alias = alias or _bare(here)
        if not follow:
            return Answer(Status.NO_DATA, (), aliases.ttl, alias)
    status = Status.NO_NAME if code == dns.rcode.NXDOMAIN else Status.NO_DATA
    return replace(Answer(status, (), _negative_ttl(reply)), alias=alias)


def _negative_ttl(reply: dns.message.Message) -> int:
    for rows in reply.authority:
        if rows.rdtype == dns.rdatatype.SOA:
            return min(int(rows.ttl), int(rows[0].minimum))
    return 0


def _value(row: dns.rdata.Rdata) -> str:
    """Write a record's data as `home.dns_records.Record.value` has it."""
    if isinstance(row, dns.rdtypes.ANY.TXT.TXT):
        return b"".join(row.strings).decode("utf-8", "replace")
    text = row.to_text()
    if row.rdtype in {dns.rdatatype.MX, dns.rdatatype.SRV, dns.rdatatype.PTR, dns.rdatatype.NS}:
        text = text.lower()
        return text if text.endswith(" .") else text.removesuffix(".")
    return text


def _bare(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()
