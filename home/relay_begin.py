"""A relay for a device whose site names none: from now on it does, and all follows as if it always had."""

from __future__ import annotations

from collections.abc import Callable

from home.command import ConsoleError
from home.configure import known_accounts
from home.services import ServiceError
from home.store import Store
from model.accounts import Accounts
from model.document import check_values, dump_site, read_site
from model.first_site import relays
from model.problems import Kind, Refusal
from model.site import OfflinePolicy, Site, Transport
from stack.durable import write_atomically


def begin(
    store: Store,
    offline: OfflinePolicy,
    transport: Transport,
    change: Callable[[Callable[[Accounts], Accounts]], object],
) -> None:
    """Let the device's site name a relay, by the name of its mail server, and bring into force what follows.

    A power cut leaves a site that names none, or one that does, which the next start brings into force. The same once
    more, as of a button pressed twice, changes nothing.

    Args:
        offline: what the relay does while the device is away.
        transport: how the device reaches it.
        change: changes the accounts, as the commands do.

    Raises:
        Refusal: there is another relay already, or the device was not set up.
        SiteError, StoreError, OSError, and what `change` raises: the site is as it was.
        home.command.ConsoleError, home.services.ServiceError: it was done, and something has to be seen to besides.
    """
    with store.locked():
        name, before = known_accounts(store).mx_host, read_site(store.site)
        wanted = relays(name, offline, transport)
        if [each.model_dump(mode="json", include=set(wanted[0])) for each in before.relays] == wanted:
            return
        if before.relays:
            raise Refusal(Kind.IN_USE, "a relay in this device's site", "a site without one", "go on with that relay")
        data = before.model_dump(mode="json") | {"relays": wanted}
        for finding in check_values(data):
            raise Refusal(finding.kind, finding.found, finding.expected, finding.remedy)
        content = store.site.read_bytes()
        write_atomically(store.site, dump_site(Site.model_validate(data)).encode(), 0o600)
    try:
        change(lambda accounts: accounts)
    except (ConsoleError, ServiceError):
        raise  # all is in force; of a password that was made, or a service that stays away, somebody has to hear
    except BaseException:
        write_atomically(store.site, content, 0o600)
        raise
