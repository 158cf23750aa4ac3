"""What was looked at, and kept: for as long as it says something of the device that there is now."""

from __future__ import annotations

from pathlib import Path

import pytest

from home.desk_facts import Watched, read_facts
from home.seen import DNS, read_seen
from home.store import Store, write_accounts
from home.tunnel_state import Tunnel
from model.accounts import MailDomain
from tests.unit.page_samples import checked, tunnel
from tests.unit.stack_samples import accounts


@pytest.mark.parametrize(
    ("domains", "leads_to", "counts"),
    [
        (("example.com", "example.org"), tunnel(), True),
        (("example.com",), tunnel(), True),
        (("example.com", "example.org"), tunnel(endpoint="[2001:db8::7]:51820"), True),
        (("example.com", "example.org"), tunnel(up=False, endpoint="198.51.100.9:51820"), True),
        (("example.com", "example.org"), None, True),
        # Another relay, with another address: the records lead to one that is gone.
        (("example.com", "example.org"), tunnel(endpoint="198.51.100.9:51820"), False),
        # A domain that was added since: nobody has looked at its records.
        (("example.com", "example.org", "example.net"), tunnel(), False),
    ],
)
def test_records_that_were_good_for_another_relay_or_before_a_domain_came_are_not_shown_as_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, domains: tuple[str, ...], leads_to: Tunnel | None, counts: bool
) -> None:
    monkeypatch.setenv("DARKPIPE_BOOT", "b")
    for module in ("desk_facts", "seen"):
        monkeypatch.setattr(f"home.{module}.read_tunnel", lambda: leads_to)
    store = Store(tmp_path)
    for folder in ("darkpipe", "page"):
        (tmp_path / folder).mkdir()
    known = [
        *(checked("good", domain=domain) for domain in ("example.com", "example.org")),
        *(checked("good", type=kind, value=value) for kind, value in (("A", "203.0.113.7"), ("AAAA", "2001:db8::7"))),
    ]
    watched = Watched(lambda _: {"records": known, "unknown": [], "zone": ""}, store.data / DNS)
    watched(True)
    names = tuple(MailDomain(name=domain) for domain in domains)
    write_accounts(store.accounts, accounts().model_copy(update={"domains": names, "aliases": ()}))
    assert (read_facts(store, watched.seen, lambda _: {}).dns is not None) is counts
    assert (read_seen(store).dns is not None) is counts
