"""The records that a home needs, one by one and as a zone file that a name server reads."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import dns.zone
import pytest

from home.dns_records import Need, Place, RecordType, RelayAddresses, Role, zone_of, zone_text
from tests.unit.dns_samples import RELAY, REVERSE, accounts, needed, record

_HEAD = "@ 3600 IN SOA ns.example.net. hostmaster.example.net. 1 7200 3600 86400 300\n@ 3600 IN NS ns.example.net.\n"


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith(";")]


def test_a_home_needs_these_records() -> None:
    found = {(each.name, str(each.type), each.value) for each in needed().records if each.role is not Role.DKIM}
    assert found == {
        ("mx.example.com", "A", "203.0.113.7"),
        ("mx.example.com", "AAAA", "2001:db8::7"),
        ("mx.example.com", "TXT", "v=spf1 a -all"),
        ("mx.example.com", "CAA", '0 issue ";"'),
        ("mail.example.com", "A", "203.0.113.7"),
        ("mail.example.com", "AAAA", "2001:db8::7"),
        ("mail.example.com", "TXT", "v=spf1 -all"),
        ("mail.example.com", "MX", "0 ."),
        ("mail.example.com", "CAA", '0 issue ";"'),
        (REVERSE, "PTR", "mx.example.com"),
        *(
            row
            for domain in ("example.com", "example.org")
            for row in (
                (domain, "MX", "10 mx.example.com"),
                (domain, "TXT", "v=spf1 a:mx.example.com ~all"),
                (f"_dmarc.{domain}", "TXT", f"v=DMARC1; p=none; rua=mailto:postmaster@{domain}"),
                (f"_submissions._tcp.{domain}", "SRV", "0 1 465 mail.example.com"),
                (f"_imaps._tcp.{domain}", "SRV", "0 1 993 mail.example.com"),
            )
        ),
    }


def test_each_domain_has_its_two_keys() -> None:
    keys = [each for each in needed().records if each.role is Role.DKIM]
    assert [each.name for each in keys] == [
        f"dp1-{kind}._domainkey.{domain}" for domain in ("example.com", "example.org") for kind in ("rsa", "ed25519")
    ]
    assert len({each.value for each in keys}) == 4
    assert all(each.value.startswith("v=DKIM1; k=") for each in keys)


def test_a_long_text_is_divided_into_strings_of_at_most_255_octets() -> None:
    key = record(needed(), Role.DKIM, "dp1-rsa._domainkey.example.com")
    parts = re.findall(r'"([^"]*)"', key.data)
    assert len(key.value) > 255
    assert [len(part) for part in parts] == [255, len(key.value) - 255]
    assert "".join(parts) == key.value


def test_everything_says_what_it_is_for() -> None:
    for each in needed().records:
        assert each.purpose
        assert each.why.endswith(".")
        assert (each.place is Place.PROVIDER) == (each.type is RecordType.PTR)


def test_without_the_relays_address_its_absence_is_told() -> None:
    found = needed(relay=RelayAddresses())
    assert not [each for each in found.records if each.role in {Role.ADDRESS, Role.PTR}]
    assert "IPv4 address is not known" in found.unknown[0]
    # The page of the relay leads whoever has no A record to these records.
    assert "type it on the device's page, under Relay" in found.unknown[0]
    assert needed().unknown == ()


def test_an_address_that_dns_alone_says_is_told_as_doubtful_where_it_would_be_copied() -> None:
    """A registrar leads the names of a new domain to a page of its own; nobody should enter that address."""
    found = needed(relay=replace(RELAY, proven=False))
    assert found.records == needed().records
    assert "compare it with the one that the relay's provider shows" in found.doubts[0]
    assert "203.0.113.7" in found.doubts[0]
    assert f"; {found.doubts[0]}\n" in zone_text(found, ["example.com"])
    assert needed().doubts == needed(relay=RelayAddresses(proven=False)).doubts == ()


def test_mail_leaves_over_ipv4_so_that_only_its_address_needs_a_name() -> None:
    assert [each.name for each in needed().records if each.type is RecordType.PTR] == [REVERSE]


def test_a_name_that_is_a_domain_for_mail_takes_and_sends_it() -> None:
    found = needed(accounts("example.com", "mail.example.com", "mx.example.com"))
    assert not [each for each in found.records if each.role in {Role.NO_MX, Role.NO_SENDER}]
    for name in ("mail.example.com", "mx.example.com"):
        assert record(found, Role.MX, name).value == "10 mx.example.com"
        # One policy only: receivers ignore several.
        policies = [each.value for each in found.records if each.name == name and each.role is Role.SPF]
        assert policies == ["v=spf1 a:mx.example.com ~all"]


@pytest.mark.parametrize(
    "domains",
    [
        ("example.com",),
        ("example.com", "example.org"),
        ("example.com", "sub.example.com"),
        ("bücher.example", "example.com"),
    ],
)
def test_a_name_server_reads_the_zone_file(domains: tuple[str, ...], tmp_path: Path) -> None:
    who = accounts(*domains)
    found = needed(who)
    names = [domain.name for domain in who.domains]
    text = zone_text(found, names)
    count = 0
    strict = [word for option in ("-k", "-m", "-n", "-M", "-S", "-r") for word in (option, "fail")]
    for name in {zone_of(each, names) for each in names}:
        own = [line for line in _lines(text) if line.split()[0].endswith(f"{name}.")]
        file = tmp_path / name
        file.write_text(_HEAD + "\n".join(own) + "\n")
        # Every warning is a fault of ours: -i local looks at names inside of the zone, which all must be there.
        judged = subprocess.run(
            ["named-checkzone", "-i", "local", *strict, "-D", "-o", str(tmp_path / "out"), name, str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert judged.returncode == 0, judged.stdout + judged.stderr
        assert "ignoring" not in judged.stderr, judged.stderr
        read = dns.zone.from_file(str(tmp_path / "out"), origin=name, relativize=False)
        count += sum(len(rows) for _, rows in read.iterate_rdatasets()) - 2
    assert count == len([each for each in found.records if each.place is Place.ZONE])


def test_the_judge_of_zone_files_finds_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "zone"
    file.write_text(_HEAD + 'example.com. 3600 IN TXT "' + "x" * 256 + '"\n')
    assert subprocess.run(["named-checkzone", "example.com", file], capture_output=True, check=False).returncode != 0


def test_the_zone_file_of_one_domain_has_nothing_of_others_and_the_ptr_in_a_comment() -> None:
    text = zone_text(needed(), ["example.org"])
    assert all(line.split()[0].endswith("example.org.") for line in _lines(text))
    assert f"; {REVERSE}. 3600 IN PTR mx.example.com." in zone_text(needed(), ["example.com"]).splitlines()


def test_international_domains_are_in_ascii() -> None:
    found = needed(accounts("bücher.example", "example.com"))
    assert record(found, Role.MX, "xn--bcher-kva.example").value == "10 mx.xn--bcher-kva.example"
    assert all(each.name.isascii() and each.value.isascii() for each in found.records)


def test_what_keeps_mail_away_is_required() -> None:
    required = {each.role for each in needed().records if each.need is Need.REQUIRED}
    assert required == {Role.ADDRESS, Role.MX, Role.SPF, Role.DKIM, Role.DMARC, Role.PTR}
    assert RELAY.v4 == (IPv4Address("203.0.113.7"),)
