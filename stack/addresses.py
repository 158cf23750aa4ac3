"""Which addresses a home has, who gets the mail of each of them, and who may send as it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from model.account_rules import base, owners
from model.accounts import Accounts

_ROLES = ("postmaster", "abuse")
"""Mailboxes that every domain must have (RFC 5321 §4.5.1, RFC 2142 §2 and §4)."""

NOBODY = "nobody"
"""Stands for the owner of an address whose mail no mailbox of this home gets; names for logging in have an `@`."""


def aliases(accounts: Accounts) -> Mapping[str, tuple[str, ...]]:
    """Map every address without a mailbox of its own to the addresses that get its mail (virtual(5)).

    What nobody has claimed of the addresses that each domain must have goes to the administrator, and so does
    `postmaster` at the host's own name, to which a bare `postmaster` is completed.

    `@domain` stands for all addresses that a domain has not. Since aliases come before mailboxes, the mailboxes of such
    a domain are in the map as well, each as an alias of itself.
    """
    required = [f"{role}@{domain.name}" for domain in accounts.domains for role in _ROLES]
    required += [f"postmaster@{domain}" for domain in _host_domains(accounts)]
    mailboxes = {user.address: (user.address,) for user in accounts.users}
    catch_alls = {f"@{domain.name}": (domain.catch_all,) for domain in accounts.domains if domain.catch_all}
    found = {**dict.fromkeys(required, (accounts.admin,)), **accounts.targets, **mailboxes, **catch_alls}
    found.update({_in_unicode(address): targets for address, targets in found.items()})
    implied = {address for address in mailboxes if f"@{address.partition('@')[2]}" not in catch_alls}
    return {address: found[address] for address in sorted(found.keys() - implied)}


def single_mailboxes(accounts: Accounts) -> Mapping[str, str]:
    """Map every address without a mailbox of its own whose mail goes to one mailbox, and nowhere else, to that mailbox.

    `@domain` stands for all addresses that a domain has not.
    """
    targets = aliases(accounts)
    mailboxes = {user.address for user in accounts.users}
    found = {address: _ends(address, targets, mailboxes) for address in targets.keys() - mailboxes}
    return {address: ends.pop() for address, ends in sorted(found.items()) if len(ends) == 1 and ends <= mailboxes}


def _ends(address: str, targets: Mapping[str, Sequence[str]], mailboxes: set[str]) -> set[str]:
    """Follow an alias to where it leads in the end."""
    ends, seen, new = set[str](), {address}, {address}
    while new:
        further = {base(target) for name in new for target in targets[name]}
        ends |= {name for name in further if name in mailboxes or name not in targets}
        new = further - ends - seen
        seen |= new
    return ends


def sender_logins(accounts: Accounts) -> Mapping[str, tuple[str, ...]]:
    """Map every address that somebody may send as, to the addresses by which these people log in.

    Whoever gets the mail of an address may send as it, and nobody else: everybody whom an alias leads to, and the owner
    of a catch-all as any address of the domain that is nobody's. Addresses whose mail only goes elsewhere are
    `NOBODY`'s, since they would otherwise be the catch-all's.
    """
    found = {address: _owners(targets, accounts) for address, targets in aliases(accounts).items()}
    found.update((user.address, (user.address,)) for user in accounts.users)
    return dict(sorted(found.items()))


def alias_domains(accounts: Accounts) -> Sequence[str]:
    """List the domains that have aliases only: the host's own name, and international domains as people write them."""
    written = [name for domain in accounts.domains if (name := unicode_domain(domain.name)) != domain.name]
    return [*_host_domains(accounts), *written]


def _owners(targets: Sequence[str], accounts: Accounts) -> tuple[str, ...]:
    return tuple(sorted({owner for target in targets for owner in owners(target, accounts)})) or (NOBODY,)


def _host_domains(accounts: Accounts) -> Sequence[str]:
    return [] if accounts.domain(accounts.mx_host) else [accounts.mx_host]


def _in_unicode(address: str) -> str:
    name, _, domain = address.partition("@")
    return f"{name}@{unicode_domain(domain)}"


def unicode_domain(domain: str) -> str:
    """Give a domain as people write it, which senders may use as well (RFC 6531 §3.2)."""
    try:
        return domain.encode("ascii").decode("idna")
    except UnicodeError:
        return domain  # a name of IDNA2008 that Python's IDNA2003 does not know: mail to its A-labels arrives
