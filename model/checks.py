"""What must hold between the values of a site.

The checks read plain data as it stands in the file, not a `Site`, and pass over what is malformed: so they report all
they can even when single values are wrong as well (a pydantic model would keep silent about them).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from model.names import domain_name, host, mail_address, target_address
from model.problems import Finding, Kind, Path, Refusal, quoted

_MOST_SHOWN = 5

_Named = tuple[Path, str]
"""A name in its canonical form, and where it stands."""


def cross_checks(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare the values of a site with each other.

    Args:
        data: the keys of a `site.yaml`; anything in it may be missing or of a wrong type.
    """
    domains, domains_complete = _read(_listed(data, ("domains",)), domain_name)
    addresses, addresses_complete = _read(_address_values(data), mail_address)
    relays, _ = _read(_relay_values(data), host)
    catch_alls, _ = _read(_catch_all_values(data), domain_name)
    yield from _doubles(domains, "each domain once")
    yield from _doubles(relays, "each relay once")
    yield from _doubles(addresses, "each address once, as the address or an alias of one user")
    yield from _doubles(catch_alls, "each domain once in all users' `catch_all`")
    yield from _relay_that_unlocks(data)
    if domains:
        names = list(dict.fromkeys(name for _, name in domains))
        yield from _foreign(addresses, names, complete=domains_complete)
        yield from _foreign_catch_alls(catch_alls, names, complete=domains_complete)
        yield from _alarms_at_home(data, names)
    if addresses and addresses_complete:
        yield from _unknown_admin(data, [name for _, name in addresses])


def _doubles(names: Iterable[_Named], expected: str) -> Iterator[Finding]:
    seen: dict[str, Path] = {}
    for path, name in names:
        first = seen.setdefault(name, path)
        if first != path:
            found = f"{quoted(name)} a second time"
            yield Finding(path, Kind.TWICE, found, expected, "remove one of the two", first)


def _foreign(addresses: Iterable[_Named], domains: list[str], *, complete: bool) -> Iterator[Finding]:
    for path, address in addresses:
        name, _, domain = address.partition("@")
        close = difflib.get_close_matches(domain, domains, n=1)
        # A domain that nothing resembles may be the one that is malformed in `domains`, which is reported already.
        if domain in domains or not (complete or close):
            continue
        remedy = f"did you mean {quoted(f'{name}@{close[0]}')}?" if close else f"add {quoted(domain)} to `domains`"
        found = f"{quoted(address)}, whose domain is none of this site's"
        yield Finding(path, Kind.FOREIGN_DOMAIN, found, f"an address in {_choice(domains)}", remedy)


def _foreign_catch_alls(catch_alls: Iterable[_Named], domains: list[str], *, complete: bool) -> Iterator[Finding]:
    for path, domain in catch_alls:
        close = difflib.get_close_matches(domain, domains, n=1)
        if domain in domains or not (complete or close):
            continue
        remedy = f"did you mean {quoted(close[0])}?" if close else f"add {quoted(domain)} to `domains`"
        found = f"{quoted(domain)}, which is none of this site's domains"
        yield Finding(path, Kind.FOREIGN_DOMAIN, found, _choice(domains), remedy)


def _alarms_at_home(data: Mapping[str, Any], domains: list[str]) -> Iterator[Finding]:
    for path, relay in _listed(data, ("relays",)):
        alarm = relay.get("alarm") if isinstance(relay, Mapping) else None
        if not isinstance(alarm, Mapping):
            continue
        place = (*path, "alarm", "mail")
        for _, address in _read([(place, alarm.get("mail"))], target_address)[0]:
            if address.rpartition("@")[2] in domains:
                found = f"{quoted(address)}, whose mail waits on the relay itself while your device is away"
                yield Finding(place, Kind.OWN_DOMAIN, found, "an address at another provider", "name such an address")
        if alarm.get("mail") is None and alarm.get("webhook") is None:
            found = "an alarm that reaches nobody"
            expected = "`mail`, `webhook` or both"
            yield Finding(
                (*path, "alarm"), Kind.MISSING_KEY, found, expected, "add `mail: you@another-provider.example`"
            )


def _relay_that_unlocks(data: Mapping[str, Any]) -> Iterator[Finding]:
    disk = data.get("disk")
    if not isinstance(disk, Mapping) or disk.get("unlock") != "relay":
        return
    relays = [relay for _, relay in _listed(data, ("relays",)) if isinstance(relay, Mapping)]
    if not relays:
        found, remedy = "`relay`, and this site has none", "name one in `relays`, or write `unlock: passphrase`"
    elif all(relay.get("transport") == "mtls" for relay in relays):
        found = "`relay`, and `transport: mtls`, by which the relay cannot unlock a disk"
        remedy = "write `transport: wireguard`, or `unlock: passphrase`"
    else:
        return
    yield Finding(("disk", "unlock"), Kind.NO_RELAY, found, "a relay that is reached by WireGuard", remedy)


def _unknown_admin(data: Mapping[str, Any], addresses: list[str]) -> Iterator[Finding]:
    (given, _) = _read([(("admin",), data.get("admin"))], mail_address)
    for path, admin in given:
        if admin not in addresses:
            close = difflib.get_close_matches(admin, addresses, n=1)
            remedy = f"did you mean {quoted(close[0])}?" if close else "name one of them, or add it to a user's aliases"
            found = f"{quoted(admin)}, which nobody reads"
            yield Finding(path, Kind.UNKNOWN_ADMIN, found, "the address or an alias of one of the users", remedy)


def _read(values: Iterable[tuple[Path, Any]], canonical: Callable[[str], str]) -> tuple[list[_Named], bool]:
    """Give what is well-formed, and whether that was everything."""
    names = []
    complete = True
    for path, value in values:
        try:
            if isinstance(value, str):
                names.append((path, canonical(value)))
                continue
        except Refusal:
            pass
        complete = False
    return names, complete


def _address_values(data: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    for path, user in _listed(data, ("users",)):
        if isinstance(user, Mapping):
            yield (*path, "address"), user.get("address")
            yield from _listed(user, (*path, "aliases"))
        else:
            yield path, None


def _catch_all_values(data: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    for path, user in _listed(data, ("users",)):
        if isinstance(user, Mapping):
            yield from _listed(user, (*path, "catch_all"))


def _relay_values(data: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    for path, relay in _listed(data, ("relays",)):
        if isinstance(relay, Mapping):
            yield (*path, "address"), relay.get("address")


def _listed(data: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, Any]]:
    """Give the items of the list under a path's last key; something else than a list counts as one wrong item."""
    value = data.get(str(path[-1]), ())
    if not isinstance(value, list | tuple):
        yield path, None
        return
    for index, item in enumerate(value):
        yield (*path, index), item


def _choice(names: list[str]) -> str:
    shown = [quoted(name) for name in names[:_MOST_SHOWN]]
    return " or ".join(shown if len(names) <= _MOST_SHOWN else [*shown, "another of your domains"])
