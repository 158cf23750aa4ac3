"""Which addresses a home has, whose mailbox each of them is, and who may send as it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from model.site import Site

_ROLES = ("postmaster", "abuse")
"""Mailboxes that every domain must have (RFC 5321 §4.5.1, RFC 2142 §2 and §4)."""


def aliases(site: Site) -> Mapping[str, str]:
    """Map every address without a mailbox of its own to the address that takes its mail.

    What nobody has claimed of the addresses that each domain must have goes to the administrator, and so does
    `postmaster` at the host's own name, to which a bare `postmaster` is completed.
    """
    mailboxes = {user.address: user.address for user in site.users}
    required = [f"{role}@{domain}" for domain in site.domains for role in _ROLES]
    required += [f"postmaster@{domain}" for domain in _host_domains(site)]
    claimed = {alias: user.address for user in site.users for alias in user.aliases}
    found = {**dict.fromkeys(required, site.admin), **claimed, **mailboxes}
    found.update({_in_unicode(address): target for address, target in found.items()})
    return {address: found[address] for address in sorted(found.keys() - mailboxes.keys())}


def sender_logins(site: Site) -> Mapping[str, str]:
    """Map every address that somebody may send as, to the address by which this person logs in.

    Whoever receives the mail of an address may send as it, and nobody else.
    """
    targets = aliases(site)
    # An alias may lead to another one: the administrator's address need not be a mailbox.
    owners = {address: targets.get(target, target) for address, target in targets.items()}
    owners.update((user.address, user.address) for user in site.users)
    return dict(sorted(owners.items()))


def alias_domains(site: Site) -> Sequence[str]:
    """List the domains that have aliases only: the host's own name, and international domains as people write them."""
    return [*_host_domains(site), *(name for domain in site.domains if (name := _unicode(domain)) != domain)]


def _host_domains(site: Site) -> Sequence[str]:
    return [] if site.mx_host in site.domains else [site.mx_host]


def _in_unicode(address: str) -> str:
    name, _, domain = address.partition("@")
    return f"{name}@{_unicode(domain)}"


def _unicode(domain: str) -> str:
    """Give a domain as people write it, which senders may use as well (RFC 6531 §3.2)."""
    try:
        return domain.encode("ascii").decode("idna")
    except UnicodeError:
        return domain  # a name of IDNA2008 that Python's IDNA2003 does not know: mail to its A-labels arrives
