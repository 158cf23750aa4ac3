"""Changes of the accounts: each gives new accounts, or refuses and says what to do. Pure.

Addresses and domains come as people write them. Every function raises `Refusal`; what is said there first is what the
person has asked for, and then whatever of `model.account_rules` the result would break.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from model import names
from model.account_rules import base, broken_rules
from model.accounts import Account, Accounts, Alias, MailDomain
from model.problems import Kind, Refusal, quoted

_MOST_SHOWN = 5


def add_domain(accounts: Accounts, domain: str) -> Accounts:
    """Receive mail for another domain, too."""
    name = names.domain_name(domain)
    foreign = [
        alias.address for alias in accounts.aliases if any(target.endswith(f"@{name}") for target in alias.targets)
    ]
    if foreign and not accounts.domain(name):
        raise Refusal(
            Kind.IN_USE,
            f"aliases that lead to addresses at {quoted(name)} elsewhere: {_some(foreign)}",
            "a domain that no alias leads to yet",
            "remove these aliases first, and add them again once the users of the domain are there",
        )
    return _changed(accounts, domains=(*accounts.domains, MailDomain(name=name)))


def remove_domain(accounts: Accounts, domain: str) -> Accounts:
    """Receive no mail for a domain any more; nobody may have an address there."""
    found = _domain(accounts, domain)
    if found.name == accounts.primary_domain:
        raise Refusal(
            Kind.IN_USE,
            f"{quoted(found.name)}, the primary domain",
            "another domain than the first one",
            f"keep it: the machine is called {accounts.mx_host} and {accounts.mail_host}",
        )
    users = [user.address for user in accounts.users if user.address.endswith(f"@{found.name}")]
    aliases = [alias.address for alias in accounts.aliases if alias.address.endswith(f"@{found.name}")]
    if users or aliases:
        raise Refusal(
            Kind.IN_USE,
            f"addresses at {quoted(found.name)}: {_some([*users, *aliases])}",
            "a domain that nobody has an address at",
            "remove them first: `darkpipe user remove`, `darkpipe alias remove`",
        )
    return _changed(accounts, domains=tuple(other for other in accounts.domains if other != found))


def set_catch_all(accounts: Accounts, domain: str, mailbox: str | None) -> Accounts:
    """Have a mailbox take the mail to addresses of a domain that nobody has; None refuses such mail again."""
    found = _domain(accounts, domain)
    address = names.mail_address(mailbox) if mailbox is not None else None
    new = found.model_copy(update={"catch_all": address})
    return _changed(accounts, domains=tuple(new if other == found else other for other in accounts.domains))


def add_user(accounts: Accounts, address: str, password_hash: str | None, quota: int | None = None) -> Accounts:
    """Add a mailbox.

    Args:
        password_hash: None has a password made.
        quota: bytes; None for no limit.
    """
    user = Account(address=names.mail_address(address), password_hash=password_hash, quota=quota)
    return _changed(accounts, users=(*accounts.users, user))


def remove_user(accounts: Accounts, address: str, *, with_aliases: bool = False) -> Accounts:
    """Take a mailbox out of service; what becomes of its mail is not decided here.

    Args:
        with_aliases: also take it out of the aliases that lead to it, and those with no other target away.
    """
    found = find_user(accounts, address)
    if len(accounts.users) == 1:
        raise Refusal(
            Kind.LAST_ONE,
            f"{quoted(found.address)}, the only user",
            "one of several users",
            "add another user first: `darkpipe user add ADDRESS`",
        )
    if found.address == accounts.admin:
        raise Refusal(
            Kind.IN_USE,
            f"{quoted(found.address)}, the administrator",
            "a user who is not the administrator",
            "make another user the administrator first: `darkpipe user admin ADDRESS`",
        )
    caught = [domain.name for domain in accounts.domains if domain.catch_all == found.address]
    if caught:
        raise Refusal(
            Kind.IN_USE,
            f"{quoted(found.address)}, the catch-all of {_some(caught)}",
            "a user whose mailbox is no catch-all",
            f"name another one first: `darkpipe domain catch-all {caught[0]} ADDRESS`, or `none`",
        )
    leading = [alias.address for alias in accounts.aliases if found.address in map(base, alias.targets)]
    if leading and not with_aliases:
        raise Refusal(
            Kind.IN_USE,
            f"aliases that lead to {quoted(found.address)}: {_some(leading)}",
            "a user whom no alias leads to",
            "add `--with-aliases` to remove these as well, or let them lead to somebody else",
        )
    aliases = _without(accounts.aliases, found.address)
    users = tuple(user for user in accounts.users if user != found)
    return _changed(accounts, users=users, aliases=aliases)


def set_password(accounts: Accounts, address: str, password_hash: str | None) -> Accounts:
    """Give a user another password; None has one made."""
    return _with_user(accounts, address, password_hash=password_hash)


def set_quota(accounts: Accounts, address: str, quota: int | None) -> Accounts:
    """Limit a mailbox.

    Args:
        quota: bytes; None for no limit.
    """
    return _with_user(accounts, address, quota=quota)


def set_admin(accounts: Accounts, address: str) -> Accounts:
    """Make somebody the administrator, by the address of a user or of an alias that leads to one."""
    admin = names.mail_address(address)
    if not accounts.user(admin) and admin not in accounts.targets:
        raise _unknown(accounts, admin, "the address of a user or an alias")
    return _changed(accounts, admin=admin)


def add_alias(accounts: Accounts, address: str, targets: Sequence[str]) -> Accounts:
    """Have mail to an address go to others; targets that an alias has already stay."""
    name = names.mail_address(address)
    added = tuple(_target(accounts, target) for target in targets)
    before = accounts.targets.get(name, ())
    aliases = [alias for alias in accounts.aliases if alias.address != name]
    aliases.append(Alias(address=name, targets=(*before, *added)))
    return _changed(accounts, aliases=tuple(aliases))


def remove_alias(accounts: Accounts, address: str, targets: Sequence[str] = ()) -> Accounts:
    """Take an alias away.

    Args:
        targets: only these of its targets; none means all of it.
    """
    name = names.mail_address(address)
    if name not in accounts.targets:
        raise _no_alias(accounts, name)
    before = accounts.targets[name]
    removed = [_target(accounts, target) for target in targets]
    if missing := [target for target in removed if target not in before]:
        raise Refusal(
            Kind.UNKNOWN_ADDRESS,
            f"{quoted(missing[0])}, to which {quoted(name)} does not lead",
            " or ".join(quoted(target) for target in before[:_MOST_SHOWN]),
            f"`darkpipe alias list` shows where {quoted(name)} leads",
        )
    left = tuple(target for target in before if targets and target not in removed)
    if not left:
        _refuse_if_needed(accounts, name)
    remaining = (Alias(address=name, targets=left),) if left else ()
    others = tuple(alias for alias in accounts.aliases if alias.address != name)
    return _changed(accounts, aliases=(*others, *remaining))


def find_user(accounts: Accounts, address: str) -> Account:
    """Find a user by the address as a person writes it.

    Raises:
        Refusal: there is none.
    """
    name = names.mail_address(address)
    found = accounts.user(name)
    if found is None and name in accounts.targets:
        raise Refusal(
            Kind.UNKNOWN_ADDRESS,
            f"{quoted(name)}, which is an alias",
            "the address of a user",
            f"name the user, or use `darkpipe alias`; it leads to {_some(accounts.targets[name])}",
        )
    if found is None:
        raise _unknown(accounts, name, "the address of a user")
    return found


def _changed(accounts: Accounts, **changes: Any) -> Accounts:
    new = accounts.model_copy(update=changes)
    for refusal in broken_rules(new):
        raise refusal
    return new


def _with_user(accounts: Accounts, address: str, **changes: Any) -> Accounts:
    found = find_user(accounts, address)
    new = found.model_copy(update=changes)
    return _changed(accounts, users=tuple(new if user == found else user for user in accounts.users))


def _domain(accounts: Accounts, domain: str) -> MailDomain:
    name = names.domain_name(domain)
    found = accounts.domain(name)
    if found is None:
        known = [other.name for other in accounts.domains]
        raise Refusal(
            Kind.UNKNOWN_DOMAIN,
            f"{quoted(name)}, which is none of this home's domains",
            " or ".join(quoted(other) for other in known),
            _did_you_mean(name, known) or "`darkpipe domain list` shows all",
        )
    return found


def _target(accounts: Accounts, target: str) -> str:
    """Write a target in the form of this home if it is an address here."""
    address = names.target_address(target)
    if accounts.domain(address.rpartition("@")[2]):
        names.mail_address(base(address))
        return address.lower()
    return address


def _without(aliases: Iterable[Alias], address: str) -> tuple[Alias, ...]:
    """Take an address out of all targets, and with an alias that loses its last one the alias, and so on."""
    gone = {address}
    found = list(aliases)
    while gone:
        pruned = [
            alias.model_copy(update={"targets": tuple(target for target in alias.targets if base(target) not in gone)})
            for alias in found
        ]
        gone = {alias.address for alias in pruned if not alias.targets}
        found = [alias for alias in pruned if alias.targets]
    return tuple(found)


def _refuse_if_needed(accounts: Accounts, alias: str) -> None:
    if alias == accounts.admin:
        raise Refusal(
            Kind.IN_USE,
            f"{quoted(alias)}, the administrator's address",
            "an alias that is not the administrator's address",
            "name another address first: `darkpipe user admin ADDRESS`",
        )
    leading = [other.address for other in accounts.aliases if alias in map(base, other.targets)]
    if leading:
        raise Refusal(
            Kind.IN_USE,
            f"aliases that lead to {quoted(alias)}: {_some(leading)}",
            "an alias that no other one leads to",
            f"take it out of them first: `darkpipe alias remove {leading[0]} {alias}`",
        )


def _no_alias(accounts: Accounts, name: str) -> Refusal:
    if accounts.user(name):
        return Refusal(
            Kind.UNKNOWN_ADDRESS, f"{quoted(name)}, which is a user", "an alias", "use `darkpipe user remove` for users"
        )
    if name.partition("@")[0] in {"postmaster", "abuse"} and accounts.domain(name.partition("@")[2]):
        return Refusal(
            Kind.UNKNOWN_ADDRESS,
            f"{quoted(name)}, which every domain must have",
            "an alias that somebody has added",
            f"add it as an alias if its mail shall not go to the administrator: `darkpipe alias add {name} ADDRESS`",
        )
    return _unknown(accounts, name, "an alias", users=False)


def _unknown(accounts: Accounts, address: str, expected: str, *, users: bool = True) -> Refusal:
    known = [user.address for user in accounts.users if users] + [alias.address for alias in accounts.aliases]
    listing = "`darkpipe user list` and `darkpipe alias list` show all" if users else "`darkpipe alias list` shows all"
    found = f"{quoted(address)}, which does not exist here"
    return Refusal(Kind.UNKNOWN_ADDRESS, found, expected, _did_you_mean(address, known) or listing)


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    # Addresses of one domain are all alike: it is the name in front of it that has to be.
    fronts = {entry.partition("@")[0]: entry for entry in reversed(known)}
    close = difflib.get_close_matches(name.partition("@")[0], list(fronts), n=1, cutoff=0.7)
    return f"did you mean {quoted(fronts[close[0]])}?" if close else ""


def _some(names_: Sequence[str]) -> str:
    shown = ", ".join(names_[:_MOST_SHOWN])
    return shown if len(names_) <= _MOST_SHOWN else f"{shown} and {len(names_) - _MOST_SHOWN} more"
