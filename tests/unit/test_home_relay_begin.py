"""A relay for a device that was set up without one."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from home.relay_begin import begin
from home.services import ServiceError
from home.store import Store, write_accounts
from model.accounts import Accounts
from model.document import dump_site, read_site
from model.problems import Refusal
from model.site import OfflinePolicy, Transport
from stack.apply import CheckError
from tests.unit.stack_samples import accounts, site


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A device without a relay."""
    made = Store(tmp_path)
    made.site.parent.mkdir()
    write_accounts(made.accounts, accounts())
    made.site.write_text(dump_site(site()))
    return made


def test_the_site_names_a_relay_before_all_that_follows_is_brought_into_force(store: Store) -> None:
    seen = []

    def change(wish: Callable[[Accounts], Accounts]) -> None:
        with store.locked():  # as the commands do
            assert wish(accounts()) == accounts()
            seen.append(read_site(store.site))

    before = read_site(store.site)
    begin(store, OfflinePolicy.TEMPFAIL, Transport.MTLS, change)
    (relay,) = read_site(store.site).relays
    assert (relay.address, relay.offline, relay.transport) == (accounts().mx_host, "tempfail", "mtls")
    assert seen == [before.model_copy(update={"relays": (relay,)})]
    assert stat.S_IMODE(store.site.stat().st_mode) == 0o600
    with pytest.raises(Refusal, match="a relay in this device's site"):
        begin(store, OfflinePolicy.QUEUE, Transport.WIREGUARD, change)
    assert len(seen) == 1


def test_what_cannot_be_brought_into_force_leaves_the_site_as_it_was(store: Store) -> None:
    def change(_: Callable[[Accounts], Accounts]) -> None:
        raise CheckError(["postfix", "check"], 1, "")

    before = store.site.read_bytes()
    with pytest.raises(CheckError):
        begin(store, OfflinePolicy.QUEUE, Transport.WIREGUARD, change)
    assert store.site.read_bytes() == before


def test_what_is_in_force_stays_though_a_service_does_not_come_up_with_it(store: Store) -> None:
    """The site would otherwise name no relay while the services go by one, and the next start took it away again."""

    def change(_: Callable[[Accounts], Accounts]) -> None:
        raise ServiceError("the new configuration is in force, but not every service came up with it")

    with pytest.raises(ServiceError):
        begin(store, OfflinePolicy.QUEUE, Transport.WIREGUARD, change)
    assert [relay.address for relay in read_site(store.site).relays] == [accounts().mx_host]
