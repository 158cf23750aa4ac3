"""Which addresses a home has, and whose mailbox each of them is."""

from __future__ import annotations

from collections.abc import Mapping

from model.site import Site

_ROLES = ("postmaster", "abuse")
"""Mailboxes that every domain must have (RFC 5321 §4.5.1, RFC 2142 §2 and §4)."""


def aliases(site: Site) -> Mapping[str, str]:
    """Map every address without a mailbox of its own to the address that takes its mail.

    What nobody has claimed of the addresses that each domain must have goes to the administrator, and so does
    `postmaster` at the host's own name, to which a bare `postmaster` is completed.
    """
    owners = {alias.lower(): user.address for user in site.users for alias in user.aliases}
    taken = {*owners, *(user.address.lower() for user in site.users)}
    required = [f"{role}@{domain}" for domain in site.domains for role in _ROLES]
    if site.mx_host not in site.domains:
        required.append(f"postmaster@{site.mx_host}")
    owners.update({address: site.admin for address in required if address not in taken})
    return dict(sorted(owners.items()))
