"""The DNS records that a home needs: pure, from its accounts, its keys and the addresses of its relay.

Everything that shows records (page, commands, zone file) or checks them (home/dns_checks.py) takes them from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from model.accounts import Accounts
from stack.dkim import Record as DkimRecord

TTL = 3600
"""Seconds. An hour: a mistake is soon mended, and a relay soon replaced."""

_LONGEST_STRING = 255
"""Octets of one character-string of a TXT record (RFC 1035 §3.3)."""

_SUBMISSIONS = 465
_IMAPS = 993

_NO_ADDRESS = (
    "The relay's IPv4 address is not known yet, so that its A and PTR records are missing here: type it on the "
    "device's page, under Relay, or give it with --address. Once the tunnel to the relay is up, it is known by itself."
)


_UNPROVEN = (
    "That the relay has the address {} is what DNS says of its name so far: compare it with the one that the relay's "
    "provider shows. If that is another one, nothing here with this address is right: type the provider's on the "
    "device's page, under Relay, or give it with --address."
)


class RecordType(StrEnum):
    """Types of records, as DNS writes them."""

    A = "A"
    AAAA = "AAAA"
    MX = "MX"
    TXT = "TXT"
    CAA = "CAA"
    SRV = "SRV"
    PTR = "PTR"


class Role(StrEnum):
    """What a record is there for; it decides how a published one is judged."""

    ADDRESS = "address"
    MX = "mx"
    SPF = "spf"
    DKIM = "dkim"
    DMARC = "dmarc"
    PTR = "ptr"
    CAA = "caa"
    NO_SENDER = "no-sender"
    NO_MX = "no-mx"
    SERVICE = "service"


class Need(StrEnum):
    """What happens without a record."""

    REQUIRED = "required"
    """Mail does not arrive, or is refused by others."""
    RECOMMENDED = "recommended"
    """Something is less safe or less comfortable."""


class Place(StrEnum):
    """Where a record is entered."""

    ZONE = "zone"
    """At whoever keeps the domain's DNS."""
    PROVIDER = "provider"
    """In the panel of the relay's provider: the zone of its addresses is theirs."""


@dataclass(frozen=True)
class Record:
    """One record.

    Args:
        name: in ASCII, without a dot at the end.
        value: as panels for DNS want it: names without a dot at the end, a text in one piece and without quotes.
        domain: the domain of this home that it belongs to.
        purpose: what it says to the world, in a sentence.
        why: what goes wrong without it, in a sentence.
    """

    name: str
    type: RecordType
    value: str
    domain: str
    role: Role
    need: Need
    purpose: str
    why: str
    place: Place = Place.ZONE
    ttl: int = TTL

    @property
    def data(self) -> str:
        """The value as a zone file has it (RFC 1035 §5.1): names end in a dot, a text is divided into strings."""
        if self.type is RecordType.TXT:
            return " ".join(f'"{_escaped(part)}"' for part in strings(self.value))
        if self.type in {RecordType.MX, RecordType.SRV, RecordType.PTR}:
            rest, _, name = self.value.rpartition(" ")
            return f"{rest} {name.removesuffix('.')}.".strip()
        return self.value

    @property
    def zone_line(self) -> str:
        """The record as a line of a zone file."""
        return f"{self.name}. {self.ttl} IN {self.type} {self.data}"


@dataclass(frozen=True)
class Records:
    """What is to be published.

    Args:
        records: in the order in which a person enters them best.
        unknown: what cannot be told yet, and therefore is missing, each in a sentence with what to do about it.
        doubts: what is told and may be wrong, likewise.
    """

    records: tuple[Record, ...]
    unknown: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class RelayAddresses:
    """The relay's addresses in the Internet, as far as they are known.

    Args:
        proven: whether one of them is known from elsewhere than DNS, where whoever sells domains has names without a
            record of their own lead to a page of advertisements.
    """

    v4: tuple[IPv4Address, ...] = ()
    v6: tuple[IPv6Address, ...] = ()
    proven: bool = True


def dns_records(accounts: Accounts, dkim: Iterable[DkimRecord], relay: RelayAddresses) -> Records:
    """List the records of a home.

    There is no MTA-STS policy (RFC 8461) and no TLSA record (RFC 7672) among them: the first needs a certificate that
    others trust, and the second a key that stays when the device renews its certificate; the device has neither.

    Args:
        dkim: what `stack.dkim.records` gives.
    """
    keys = list(dkim)
    found = list(_addresses(accounts, relay))
    for domain in accounts.domains:
        found += _domain_records(accounts, domain.name, [key for key in keys if key.domain == domain.name])
        if domain.name == accounts.primary_domain:
            found += _host_records(accounts)
    doubts = () if relay.proven or not relay.v4 else (_UNPROVEN.format(", ".join(map(str, relay.v4))),)
    return Records(tuple(found), () if relay.v4 else (_NO_ADDRESS,), doubts)


def strings(text: str) -> Sequence[str]:
    """Divide the text of a TXT record into its character-strings."""
    return [text[at : at + _LONGEST_STRING] for at in range(0, len(text), _LONGEST_STRING)] or [""]


def zone_of(name: str, domains: Iterable[str]) -> str:
    """Give the widest of a home's domains that a name lies in: of its zone, no more can be told without asking."""
    around = [domain for domain in domains if name == domain or name.endswith(f".{domain}")]
    return min(around, key=len, default=name)


def zone_text(found: Records, domains: Sequence[str]) -> str:
    """Write the records as a file in master format (RFC 1035 §5), to be taken into zones that exist.

    All names are absolute, so that the lines mean the same wherever they are put. PTR records belong to others and
    stand in comments.

    Args:
        domains: whose zones are wanted; records of other domains are left out.
    """
    lines = ["; DarkPipe's records, for import into zones that exist: there is no SOA and no NS record among them."]
    lines += [f"; {text}" for text in (*found.unknown, *found.doubts)]
    for domain in domains:
        own = [record for record in found.records if zone_of(record.domain, domains) == domain]
        if not own:
            continue
        lines += ["", f"; ---- {domain} ----"]
        for record in own:
            comment = f"; {record.purpose}"
            if record.place is Place.PROVIDER:
                lines += [f"{comment} Set it at the relay's provider:", f"; {record.zone_line}"]
            else:
                lines += [comment, record.zone_line]
    return "\n".join(lines) + "\n"


def _addresses(accounts: Accounts, relay: RelayAddresses) -> Iterator[Record]:
    primary = accounts.primary_domain
    hosts = (
        (
            accounts.mx_host,
            "Says where the server is that other mail servers know this home by.",
            "Without it no other server finds yours, and the name that yours introduces itself by does not exist.",
        ),
        (
            accounts.mail_host,
            "Says where mail apps find your mailboxes.",
            "Without it the apps reach your mail at home at best, and not from elsewhere.",
        ),
    )
    for host, purpose, why in hosts:
        for address in relay.v4:
            yield Record(
                host, RecordType.A, str(address), primary, Role.ADDRESS, Need.REQUIRED, f"{purpose} (IPv4)", why
            )
        for address6 in relay.v6:
            yield Record(
                host, RecordType.AAAA, str(address6), primary, Role.ADDRESS, Need.RECOMMENDED,
                f"{purpose} (IPv6)", "Without it those who have IPv6 only do not reach you.",
            )  # fmt: skip
    for address in relay.v4:
        # Mail leaves over IPv4 only: of an IPv6 address nobody asks the name.
        yield Record(
            address.reverse_pointer,
            RecordType.PTR,
            accounts.mx_host,
            primary,
            Role.PTR,
            Need.REQUIRED,
            f"Says that the address {address} is called {accounts.mx_host}.",
            "Without it most servers refuse what you send: an address without a proper name is held for a hijacked PC.",
            Place.PROVIDER,
        )


def _domain_records(accounts: Accounts, domain: str, keys: Sequence[DkimRecord]) -> Iterator[Record]:
    mx = accounts.mx_host
    yield Record(
        domain,
        RecordType.MX,
        f"10 {mx}",
        domain,
        Role.MX,
        Need.REQUIRED,
        f"Says which server takes mail for {domain}.",
        "Without it other servers do not know where your mail goes.",
    )
    yield Record(
        domain,
        RecordType.TXT,
        # Not -all: it has some refuse what a forwarder passed on before they look at its signature (RFC 7489 §10.1).
        f"v=spf1 a:{mx} ~all",
        domain,
        Role.SPF,
        Need.REQUIRED,
        f"Says that mail from {domain} comes from your relay's addresses (SPF).",
        "Without it large providers put what you send into the spam folder or refuse it.",
    )
    for key in keys:
        yield Record(
            key.name,
            RecordType.TXT,
            key.value,
            domain,
            Role.DKIM,
            Need.REQUIRED,
            f"Holds the public half of the key {key.selector} that signs mail from {domain} (DKIM).",
            "Without it nobody can check that what you send is yours and unchanged, and forwarded mail gets lost.",
        )
    yield Record(
        f"_dmarc.{domain}",
        RecordType.TXT,
        # A report to an address of the same domain needs nobody's consent (RFC 7489 §7.1).
        f"v=DMARC1; p=none; rua=mailto:postmaster@{domain}",
        domain,
        Role.DMARC,
        Need.REQUIRED,
        f"Says what to do with mail that claims to be from {domain} and is not, and where to report it (DMARC); "
        "p=none is for the beginning, p=quarantine for when the reports show nothing but your own mail to be good.",
        "Without it large providers refuse senders, and you do not hear of those who forge your name.",
    )
    for service, port, what in (("_submissions", _SUBMISSIONS, "send"), ("_imaps", _IMAPS, "fetch")):
        yield Record(
            f"{service}._tcp.{domain}",
            RecordType.SRV,
            f"0 1 {port} {accounts.mail_host}",
            domain,
            Role.SERVICE,
            Need.RECOMMENDED,
            f"Tells mail apps where to {what} mail for addresses of {domain} (RFC 6186).",
            "Without it most apps have to be told the server's name and port by hand.",
        )


def _host_records(accounts: Accounts) -> Iterator[Record]:
    primary, mx, mail = accounts.primary_domain, accounts.mx_host, accounts.mail_host
    if accounts.domain(mx) is None:
        yield Record(
            mx,
            RecordType.TXT,
            "v=spf1 a -all",
            primary,
            Role.SPF,
            Need.REQUIRED,
            "Says that the name your server introduces itself by may be used by your relay's addresses only (SPF).",
            "Without it reports that mail could not be delivered, which have no other sender, count as unproven "
            "(RFC 7208 §2.4).",
        )
    if accounts.domain(mail) is None:
        yield Record(
            mail,
            RecordType.TXT,
            "v=spf1 -all",
            primary,
            Role.NO_SENDER,
            Need.RECOMMENDED,
            f"Says that no mail comes from addresses at {mail}.",
            "Without it a forger can use that name, for which nobody vouches.",
        )
        yield Record(
            mail,
            RecordType.MX,
            "0 .",
            primary,
            Role.NO_MX,
            Need.RECOMMENDED,
            f"Says that addresses at {mail} take no mail (null MX, RFC 7505).",
            "Without it others try to deliver to mistyped addresses for days before their senders hear of it.",
        )
    for host in (mx, mail):
        yield Record(
            host,
            RecordType.CAA,
            '0 issue ";"',
            primary,
            Role.CAA,
            Need.RECOMMENDED,
            f"Forbids all authorities to issue a certificate for {host}; the device makes its own (RFC 8659).",
            "Without it whoever controls the relay can have one issued, and pose as your server.",
        )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
