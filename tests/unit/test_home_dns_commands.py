"""`darkpipe dns`: what it prints, for people and for programs, and how it ends."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import home.dns_commands
import home.dns_lookup
from home.cli import main
from home.dns_answer import Answer, Status
from home.dns_judges import Outcome
from home.dns_records import dns_records
from home.relay_addresses import addresses, relay_name
from home.seen import DNS, read_dns
from home.store import Store, StoreError, write_accounts
from home.tunnel_state import Tunnel
from stack.dkim import ensure_keys, records
from tests.unit.dns_samples import RELAY, REVERSE, FakeDns, accounts, published
from tests.unit.stack_samples import OwnOwners

ADDRESS = ("--address", "203.0.113.7", "--address", "2001:db8::7")


class Device:
    def __init__(self, data: Path) -> None:
        self.store = Store(data)
        self.dns = FakeDns({})

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["dns", *arguments])

    def told(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device with two domains, one of them international, and a DNS that has nothing."""
    made = Device(tmp_path)
    for name in ("darkpipe", "dkim"):
        (tmp_path / name).mkdir()
    who = accounts("example.com", "bücher.example")
    write_accounts(made.store.accounts, who)
    ensure_keys(made.store.dkim_keys, [domain.name for domain in who.domains], OwnOwners())
    monkeypatch.setattr(Store, "__init__", functools.partialmethod(Store.__init__, data=tmp_path))
    monkeypatch.setattr(home.dns_lookup, "RealDns", lambda: made.dns)
    monkeypatch.setattr(home.dns_commands, "read_tunnel", lambda: None)
    return made


def test_records_are_shown_one_by_one_with_values_that_can_be_copied(device: Device) -> None:
    shown = device.run("records", *ADDRESS).stdout.splitlines()
    at = shown.index("example.com  MX  (required)")
    assert shown[at + 1] == "10 mx.example.com"
    assert "==== bücher.example, in DNS xn--bcher-kva.example ====" in shown
    assert f"{REVERSE}  PTR  (required; set it at the relay's provider)" in shown


def test_records_for_programs(device: Device) -> None:
    told = device.told("records", *ADDRESS)
    assert told["unknown"] == []
    key = next(each for each in told["records"] if each["role"] == "dkim")
    assert "".join(key["strings"]) == key["value"]
    assert {each["domain"] for each in told["records"]} == {"example.com", "xn--bcher-kva.example"}


def test_one_domain_may_be_asked_for_as_people_write_it(device: Device) -> None:
    told = device.told("records", "Bücher.example")
    assert {each["domain"] for each in told["records"]} == {"xn--bcher-kva.example"}
    zone = device.run("zone", "bücher.example").stdout
    assert "\nxn--bcher-kva.example. 3600 IN MX 10 mx.example.com.\n" in zone
    assert "\nmx.example.com." not in zone


def test_another_domain_is_refused(device: Device) -> None:
    done = device.run("check", "example.net")
    assert done.exit_code == 1
    assert "example.net" in done.stderr
    assert "example.com" in done.stderr


def test_what_is_no_address_is_refused(device: Device) -> None:
    done = device.run("records", "--address", "mx.example.com")
    assert done.exit_code == 2
    assert "203.0.113.7" in done.stderr


def test_a_device_without_a_relay_says_what_is_missing(device: Device) -> None:
    assert "IPv4 address is not known" in device.told("records")["unknown"][0]
    assert device.run("records").stdout.startswith("! The relay's IPv4 address")
    done = device.run("check")
    assert done.exit_code == 1
    assert "UNKNOWN  The relay's IPv4 address" in done.stdout


def _publish(device: Device) -> None:
    who = accounts("example.com", "bücher.example")
    names = [domain.name for domain in who.domains]
    device.dns.world = published(dns_records(who, records(device.store.dkim_keys, names), RELAY).records)


def test_a_check_of_what_is_good_ends_with_0(device: Device) -> None:
    _publish(device)
    done = device.run("check", *ADDRESS)
    assert done.exit_code == 0, done.stdout
    assert all(line.startswith("good ") for line in done.stdout.splitlines())
    assert "expected:" in device.run("check", *ADDRESS, "--all").stdout


def test_a_check_finds_what_is_wrong_and_says_what_to_do(device: Device) -> None:
    _publish(device)
    device.dns.world["example.com", "MX"] = ("10 old.example",)
    done = device.run("check", *ADDRESS)
    assert done.exit_code == 1
    told = done.stdout
    assert "WRONG    MX    example.com: mail goes elsewhere: 10 old.example" in told
    assert "expected: 10 mx.example.com" in told
    assert "do:       put this in their place in your DNS: example.com MX 10 mx.example.com" in told
    assert device.run("check", "bücher.example", *ADDRESS).exit_code == 0


def test_what_strangers_publish_gives_the_terminal_no_orders(device: Device) -> None:
    _publish(device)
    device.dns.world["example.com", "TXT"] = ("v=spf1 \x1b]0;root\a -all",)
    told = device.run("check", *ADDRESS).stdout
    assert "found:    v=spf1 \N{REPLACEMENT CHARACTER}]0;root" in told
    assert not {"\x1b", "\a"} & set(told)


def test_what_a_check_of_all_has_found_is_kept_for_status_and_page(device: Device) -> None:
    _publish(device)
    kept = device.store.data / DNS
    assert device.run("check").exit_code == 1
    assert not kept.exists(), "a container has no page"
    kept.parent.mkdir()
    for other in (("bücher.example",), ADDRESS):
        device.run("check", *other)
        assert not kept.exists(), "a part, and what was only tried, say nothing of all"
    device.run("check")
    seen = read_dns(kept)
    assert seen
    assert seen.worst is Outcome.UNKNOWN, "nobody knows the relay's address"
    assert seen.outcomes[Outcome.GOOD] > 5


def test_a_check_for_programs(device: Device) -> None:
    _publish(device)
    del device.dns.world[REVERSE, "PTR"]
    told = device.told("check", *ADDRESS)
    assert told["outcome"] == "wrong"
    (wrong,) = [check for check in told["checks"] if check["outcome"] != "good"]
    assert (wrong["name"], wrong["type"], wrong["expected"]) == (REVERSE, "PTR", "mx.example.com")
    assert wrong["found"] == []
    assert wrong["remedy"]
    assert wrong["servers"][0] == {"server": "ns1.test", "values": [], "error": ""}


def test_warnings_alone_end_with_0(device: Device) -> None:
    _publish(device)
    del device.dns.world["mail.example.com", "CAA"]
    done = device.run("check", *ADDRESS)
    assert done.exit_code == 0
    assert "warning  CAA   mail.example.com: there is none" in done.stdout


def _look(found: Mapping[tuple[str, str], tuple[str, ...]]) -> Callable[[str, str], Answer]:
    return lambda name, kind: Answer(Status.FOUND, found.get((name, kind), ()))


def _tunnel(endpoint: str | None, *, up: bool = True) -> Tunnel:
    return Tunnel(
        relay="mx.example.com", up=up, handshake_seconds=1, endpoint=endpoint, since=datetime.now(UTC), error=None
    )


_BOTH = {("mx.example.com", "A"): ("203.0.113.9",), ("mx.example.com", "AAAA"): ("2001:db8::9",)}


@pytest.mark.parametrize(
    ("given", "relay", "tunnel", "expected"),
    [
        ((), None, None, ()),
        ((), "203.0.113.7", None, ("203.0.113.7",)),
        ((), "mx.example.com", None, ("203.0.113.9", "2001:db8::9")),
        # The tunnel knows better than DNS, which may have an old address.
        ((), "mx.example.com", "203.0.113.7:51820", ("203.0.113.7", "2001:db8::9")),
        ((), "mx.example.com", "[2001:db8::7]:51820", ("203.0.113.9", "2001:db8::7")),
        (("203.0.113.5",), "mx.example.com", "203.0.113.7:51820", ("203.0.113.5",)),
    ],
)
def test_the_relays_addresses_come_from_whoever_knows_best(
    given: tuple[str, ...], relay: str | None, tunnel: str | None, expected: tuple[str, ...]
) -> None:
    state = _tunnel(tunnel) if tunnel else None
    found = addresses(map(ip_address, given), relay, state, _look(_BOTH))
    assert tuple(map(str, (*found.v4, *found.v6))) == expected
    # DNS alone proves nothing of itself.
    assert found.proven is bool(given or tunnel or relay == "203.0.113.7")


def test_a_tunnel_that_is_down_says_nothing_of_where_the_relay_is() -> None:
    found = addresses((), "mx.example.com", _tunnel("203.0.113.7:51820", up=False), _look(_BOTH))
    assert str(found.v4[0]) == "203.0.113.9"


def test_a_damaged_file_of_the_tunnel_is_told_without_what_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "relay.json"
    assert relay_name(file) is None
    file.write_text('{"private_key": "secret"}')
    with pytest.raises(StoreError, match="damaged") as error:
        relay_name(file)
    assert "secret" not in str(error.value)
