"""What must hold between the accounts of a home, whoever has changed them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from model.problems import Kind, Refusal, quoted

if TYPE_CHECKING:
    from model.accounts import Accounts, Alias


def broken_rules(accounts: Accounts) -> Iterator[Refusal]:
    """Find what contradicts itself; each finding says what to do."""
    if missing := list(_enough(accounts)):
        yield from missing
        return  # all else asks about them
    yield from _doubles(accounts)
    yield from _foreign_domains(accounts)
    yield from _catch_alls(accounts)
    for alias in accounts.aliases:
        yield from _targets(alias, accounts)
    yield from _loops(accounts.targets)
    if not owners(accounts.admin, accounts):
        yield Refusal(
            Kind.UNKNOWN_ADMIN,
            f"the administrator {quoted(accounts.admin)}, whose mail no mailbox of this home gets",
            "the address of a user, or an alias that leads to one",
            "make another user the administrator first: `darkpipe user admin ADDRESS`",
        )


def base(address: str) -> str:
    """Give an address without its `+extension` (RFC 5233 §1), which is for its owner to choose."""
    name, _, domain = address.rpartition("@")
    return f"{name.partition('+')[0]}@{domain}"


def owners(address: str, accounts: Accounts) -> frozenset[str]:
    """Find the mailboxes of this home that get the mail of an address, through aliases if need be."""
    mailboxes, targets = {user.address for user in accounts.users}, accounts.targets
    found = {base(address)}
    new = found
    while new:
        new = {base(target) for name in new for target in targets.get(name, ())} - found
        found = found | new
    return frozenset(found & mailboxes)


def _enough(accounts: Accounts) -> Iterator[Refusal]:
    if not accounts.domains:
        yield Refusal(Kind.LAST_ONE, "no domain", "at least one domain", "add another domain first")
    if not accounts.users:
        yield Refusal(Kind.LAST_ONE, "no user", "at least one user", "add another user first: `darkpipe user add`")


def _doubles(accounts: Accounts) -> Iterator[Refusal]:
    for name in _repeated(domain.name for domain in accounts.domains):
        found = f"the domain {quoted(name)} a second time"
        yield Refusal(Kind.TWICE, found, "each domain once", "leave it as it is: its mail is taken already")
    addresses = [*(user.address for user in accounts.users), *(alias.address for alias in accounts.aliases)]
    for address in _repeated(addresses):
        taken = "a user" if accounts.user(address) else "an alias"
        yield Refusal(
            Kind.TWICE,
            f"{quoted(address)}, which is {taken} already",
            "each address once, of a user or an alias",
            "choose another address, or remove that one first",
        )


def _foreign_domains(accounts: Accounts) -> Iterator[Refusal]:
    known = [domain.name for domain in accounts.domains]
    for address in (*(user.address for user in accounts.users), *(alias.address for alias in accounts.aliases)):
        yield from _foreign_domain(address, known)


def _foreign_domain(address: str, known: Collection[str]) -> Iterator[Refusal]:
    domain = address.rpartition("@")[2]
    if domain not in known:
        yield Refusal(
            Kind.FOREIGN_DOMAIN,
            f"{quoted(address)}, whose domain is none of this home's",
            f"an address in {' or '.join(quoted(name) for name in known)}",
            f"correct the address, or add the domain first: `darkpipe domain add {domain}`",
        )


def _catch_alls(accounts: Accounts) -> Iterator[Refusal]:
    for domain in accounts.domains:
        if domain.catch_all and not accounts.user(domain.catch_all):
            # Only a mailbox: whoever forwards all that is sent to invented addresses forwards mostly spam, and is
            # taken for its sender.
            yield Refusal(
                Kind.UNKNOWN_ADDRESS,
                f"{quoted(domain.catch_all)} as the catch-all of {quoted(domain.name)}, which is no mailbox",
                "the address of a user",
                "name another one: `darkpipe user list` shows all; "
                f"`darkpipe domain catch-all {domain.name} none` takes the catch-all away",
            )


def _targets(alias: Alias, accounts: Accounts) -> Iterator[Refusal]:
    for target in _repeated(alias.targets):
        yield Refusal(
            Kind.TWICE, f"the target {quoted(target)} a second time", "each target of an alias once", "name it once"
        )
    for target in alias.targets:
        domain = target.rpartition("@")[2]
        if domain in {accounts.mx_host, accounts.mail_host} and not accounts.domain(domain):
            yield Refusal(
                Kind.UNKNOWN_ADDRESS,
                f"the target {quoted(target)}, a name of this machine",
                "the address of a user or an alias, or one elsewhere",
                "name the mailbox that shall get the mail",
            )
        elif accounts.domain(domain) and not accounts.user(base(target)) and base(target) not in accounts.targets:
            yield Refusal(
                Kind.UNKNOWN_ADDRESS,
                f"the target {quoted(target)} of the alias {quoted(alias.address)}, which does not exist",
                "the address of a user or an alias, or one elsewhere",
                "correct it, or add the user first; `darkpipe user list` and `darkpipe alias list` show all",
            )


def _loops(targets: Mapping[str, tuple[str, ...]]) -> Iterator[Refusal]:
    for address in targets:
        if loop := _loop(address, targets):
            way = " → ".join(loop)
            yield Refusal(
                Kind.LOOP,
                f"aliases that lead back to themselves: {way}",
                "aliases that end at a mailbox or elsewhere",
                "let one of them lead to a mailbox",
            )
            return  # the others are the same loop, or come to light once this one is mended


def _loop(start: str, targets: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Find a way from an alias back to itself; empty when there is none."""
    ways = [[start]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for target in map(base, targets.get(way[-1], ())):
            if target == start:
                return [*way, start]
            if target not in seen:
                seen.add(target)
                ways.append([*way, target])
    return []


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    repeated = []
    for name in names:
        if name in seen:
            repeated.append(name)
        seen.add(name)
    return repeated
