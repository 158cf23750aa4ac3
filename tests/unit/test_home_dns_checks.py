"""Checks of published records: each planted mistake is found, and what others may know better is let pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from home.dns_checks import Check, check_record, check_records, worst
from home.dns_judges import Outcome
from home.dns_records import Record, Role
from tests.unit.dns_samples import RELAY, REVERSE, FakeDns, Zone, accounts, needed, published, record

RECORDS = needed(accounts("example.com"))
MX, MAIL = "mx.example.com", "mail.example.com"
RSA = "dp1-rsa._domainkey.example.com"
OTHER_KEY = record(needed(accounts("example.org")), Role.DKIM, "dp1-rsa._domainkey.example.org").value
KEY = record(RECORDS, Role.DKIM, RSA).value

Plant = Callable[[Zone], object]


def _world(plant: Plant = lambda zone: None) -> FakeDns:
    zone = published(RECORDS.records)
    plant(zone)
    return FakeDns(zone)


def _set(name: str, kind: str, *values: str) -> Plant:
    def plant(zone: Zone) -> None:
        zone[name, kind] = values
        if not values:
            del zone[name, kind]

    return plant


def _check(dns: FakeDns, role: Role, name: str) -> Check:
    return check_record(record(RECORDS, role, name), RECORDS, RELAY, dns)


def test_everything_as_it_should_be_is_good() -> None:
    checks = check_records(RECORDS, RELAY, _world())
    assert [check.record for check in checks] == list(RECORDS.records)
    assert {check.outcome for check in checks} == {Outcome.GOOD}
    assert worst(checks) is Outcome.GOOD
    assert not [check.remedy for check in checks if check.remedy]


def test_an_address_that_dns_alone_says_is_not_good_because_dns_says_it() -> None:
    """A registrar leads all names of a new domain to its own page: no relay is there."""
    found = {check.record: check.outcome for check in check_records(RECORDS, replace(RELAY, proven=False), _world())}
    assert {outcome for record, outcome in found.items() if record.role is Role.ADDRESS} == {Outcome.WAITING}
    assert {outcome for record, outcome in found.items() if record.role is not Role.ADDRESS} == {Outcome.GOOD}


@pytest.mark.parametrize("missing", RECORDS.records, ids=lambda each: f"{each.name} {each.type}")
def test_a_record_that_is_missing_is_found_and_no_other(missing: Record) -> None:
    zone = published([each for each in RECORDS.records if each is not missing])
    checks = check_records(RECORDS, RELAY, FakeDns(zone))
    found = {check.record: check for check in checks if check.outcome is not Outcome.GOOD}
    assert missing in found
    assert found[missing].outcome is (Outcome.WRONG if missing.need == "required" else Outcome.WARNING)
    assert missing.value in found[missing].remedy
    # An address is also what SPF and PTR stand on.
    hangs_on = {Role.SPF, Role.PTR} if missing.role is Role.ADDRESS else set()
    assert {each.role for each in found if each is not missing} <= hangs_on


_MISTAKES = [
    (Role.ADDRESS, MX, _set(MX, "A", "203.0.113.8"), "leads elsewhere: 203.0.113.8"),
    (Role.MX, "example.com", _set("example.com", "MX", "10 mx.elsewhere.example"), "mail goes elsewhere"),
    (Role.MX, "example.com", _set("example.com", "MX", "0 ."), "mail goes elsewhere"),
    (Role.MX, "example.com", _set("example.com", "MX", "10 mx.example.com", "5 a.example"), "gets mail before yours"),
    (Role.MX, "example.com", _set("example.com", "MX", "10 mx.example.com", "10 a.example"), "or as often"),
    (Role.SPF, "example.com", _set("example.com", "TXT", "v=spf1 -all"), "203.0.113.7: fail"),
    (Role.SPF, "example.com", _set("example.com", "TXT", '"v=spf1 a:mx.example.com ~all"'), "quotation marks"),
    (Role.DKIM, RSA, _set(RSA, "TXT", f'"{KEY[:255]}" "{KEY[255:]}"'), "quotation marks"),
    (Role.SPF, "example.com", _set("example.com", "TXT", "v=spf1 ip4:203.0.113.8 ~all"), "softfail"),
    (Role.SPF, "example.com", _set("example.com", "TXT", "v=spf1 mx -all", "v=spf1 ~all"), "2 SPF records"),
    (Role.SPF, "example.com", _set("example.com", "TXT", "v=spf1 a:mx.example.com/33 ~all"), "permerror"),
    (Role.SPF, "example.com", _set("example.com", "TXT", "v=spf1 ipv4:203.0.113.7 ~all"), "permerror"),
    (Role.SPF, MX, _set(MX, "TXT", "v=spf1 -all"), "fail"),
    (Role.DKIM, RSA, _set(RSA, "TXT", OTHER_KEY), "another key"),
    (Role.DKIM, RSA, _set(RSA, "TXT", KEY[:255]), "a part of it was lost"),
    (Role.DKIM, RSA, _set(RSA, "TXT", "v=DKIM1; k=rsa; p="), "revoked"),
    (Role.DMARC, "_dmarc.example.com", _set("_dmarc.example.com", "TXT", "v=DMARC1; rua=mailto:a@example.com"), "p="),
    (Role.DMARC, "_dmarc.example.com", _set("_dmarc.example.com", "TXT", "p=none; v=DMARC1"), "that is none"),
    (
        Role.DMARC, "_dmarc.example.com",
        _set("_dmarc.example.com", "TXT", "v=DMARC1; p=none", "v=DMARC1; p=reject"), "there are 2",
    ),
    (Role.PTR, REVERSE, _set(REVERSE, "PTR", "static.7.113.provider.example"), "it is called static"),
    (Role.PTR, REVERSE, _set(MX, "A", "203.0.113.8"), "does not lead back to 203.0.113.7"),
]  # fmt: skip


@pytest.mark.parametrize(("role", "name", "plant", "text"), _MISTAKES)
def test_a_mistake_is_wrong(role: Role, name: str, plant: Plant, text: str) -> None:
    check = _check(_world(plant), role, name)
    assert check.outcome is Outcome.WRONG
    assert text in check.text
    assert check.remedy


def test_a_name_by_which_another_server_gets_mail_is_not_changed_unawares() -> None:
    """At many providers the MX record names `mail.` of the domain."""
    dns = _world(_set(MAIL, "A", "198.51.100.9"))
    assert "If people have mail there" not in _check(dns, Role.ADDRESS, MAIL).remedy
    dns.world["example.com", "MX"] = ("10 mail.example.com",)
    assert "If people have mail there" in _check(dns, Role.ADDRESS, MAIL).remedy


@pytest.mark.parametrize("values", [("10 old.example",), ("5 old.example", "10 mx.example.com")])
def test_who_has_mail_at_another_server_hears_what_has_to_come_first(values: tuple[str, ...]) -> None:
    """Such a record cuts off whoever has an address there and none here."""
    check = _check(_world(_set("example.com", "MX", *values)), Role.MX, "example.com")
    assert "10 mx.example.com" in check.remedy
    assert "first let each of their addresses be a mailbox or an alias here" in check.remedy


@pytest.mark.parametrize(
    ("role", "name", "plant", "text"),
    [
        (Role.ADDRESS, MX, _set(MX, "A", "203.0.113.7", "203.0.113.8"), "also leads to 203.0.113.8"),
        (
            Role.MX,
            "example.com",
            _set("example.com", "MX", "10 mx.example.com", "20 a.example"),
            "when yours cannot be",
        ),
        (Role.SPF, "example.com", _set("example.com", "TXT", "v=spf1 a:mx.example.com +all"), "the whole world"),
        (Role.SPF, "example.com", _set("example.com", "TXT", "v=spf1 exists:%{i}.a.example -all"), "depends on"),
        (Role.DKIM, RSA, _set(RSA, "TXT", f"{KEY}; t=y"), "a test"),
        (Role.DKIM, RSA, _set(RSA, "TXT", KEY, OTHER_KEY), "2 records"),
        (Role.DMARC, "_dmarc.example.com", _set("_dmarc.example.com", "TXT", "v=DMARC1; p=reject"), "no rua="),
        (Role.PTR, REVERSE, _set(REVERSE, "PTR", MX, "a.example"), "several names"),
        (Role.CAA, MAIL, _set(MAIL, "CAA", '0 issue "ca.example; accounturi=https://a"'), "ca.example"),
        (Role.CAA, MAIL, _set(MAIL, "CAA", '0 issue ";"', '0 issuewild "ca.example"'), "ca.example"),
        (Role.CAA, MAIL, _set(MAIL, "CAA", '0 iodef "mailto:a@example.com"'), "none"),
        (Role.NO_SENDER, MAIL, _set(MAIL, "TXT", "v=spf1 a -all"), "lets somebody send"),
        (Role.NO_MX, MAIL, _set(MAIL, "MX", "10 mx.example.com"), "mail is taken"),
        (
            Role.SERVICE,
            "_imaps._tcp.example.com",
            _set("_imaps._tcp.example.com", "SRV", "0 1 993 a.example"),
            "elsewhere",
        ),
        (Role.SERVICE, "_imaps._tcp.example.com", _set("_imaps._tcp.example.com", "SRV", "0 0 0 ."), "elsewhere"),
    ],
)
def test_what_should_be_looked_at_is_a_warning(role: Role, name: str, plant: Plant, text: str) -> None:
    check = _check(_world(plant), role, name)
    assert check.outcome is Outcome.WARNING
    assert text in check.text
    assert check.remedy


@pytest.mark.parametrize(
    ("role", "name", "plant"),
    [
        (Role.SPF, "example.com", _set("example.com", "TXT", "google-site-verification=1", "v=spf1 mx -all")),
        (Role.SPF, "example.com", _set("example.com", "TXT", "v=spf1 ip4:203.0.113.0/24 -all")),
        (Role.SPF, "example.com", _set("example.com", "TXT", "V=SPF1 redirect=mx.example.com")),
        (Role.SPF, "example.com", _set("example.com", "TXT", "v=spf1 include:mx.example.com ?all")),
        (Role.DKIM, RSA, _set(RSA, "TXT", KEY.replace("; ", ";").replace("p=", "s=email;p=") + ";")),
        (Role.DMARC, "_dmarc.example.com", _set("_dmarc.example.com", "TXT", "v=DMARC1;p=reject;rua=mailto:x@y.z")),
        (Role.NO_SENDER, MAIL, _set(MAIL, "TXT", "v=spf1  -ALL")),
        (Role.CAA, MAIL, _set(MAIL, "CAA", '128 issue ";"', '0 iodef "mailto:a@example.com"')),
        (Role.MX, "example.com", _set("example.com", "MX", "50 mx.example.com")),
        (Role.MX, "example.com", _set("example.com", "MX", "10 mx.example.com", "10 mail.example.com")),
        (Role.SERVICE, "_imaps._tcp.example.com", _set("_imaps._tcp.example.com", "SRV", f"5 9 993 {MAIL}")),
    ],
)
def test_the_same_in_other_words_is_good(role: Role, name: str, plant: Plant) -> None:
    check = _check(_world(plant), role, name)
    assert (check.outcome, check.text) == (Outcome.GOOD, "as it should be")


def test_servers_that_do_not_agree_yet_are_waited_for() -> None:
    dns = _world()
    dns.others = {"ns2.test": {("example.com", "MX"): ("10 old.example",)}}
    check = _check(dns, Role.MX, "example.com")
    assert check.outcome is Outcome.WAITING
    assert check.text.startswith("ns1.test has it already, ns2.test not yet")
    assert check.found == ("10 mx.example.com", "10 old.example")
    assert [(each.server, each.values) for each in check.servers][1] == ("ns2.test", ("10 old.example",))


def test_an_old_answer_that_others_keep_is_waited_for() -> None:
    dns = _world()
    dns.cached = {("example.com", "MX"): ("10 old.example",)}
    check = _check(dns, Role.MX, "example.com")
    assert check.outcome is Outcome.WAITING
    assert "for 30 minutes at most" in check.text


def test_a_server_that_does_not_answer_is_a_warning_beside_one_that_does() -> None:
    dns = _world()
    dns.errors = {"ns2.test": "192.0.2.1: no answer within 3 s"}
    check = _check(dns, Role.MX, "example.com")
    assert check.outcome is Outcome.WARNING
    assert "ns2.test (192.0.2.1: no answer within 3 s)" in check.text
    assert check.servers[1].error


def test_when_no_server_answers_nothing_is_known() -> None:
    dns = _world()
    dns.errors = {"ns1.test": "REFUSED", "ns2.test": "SERVFAIL"}
    check = _check(dns, Role.MX, "example.com")
    assert check.outcome is Outcome.UNKNOWN
    assert "ns1.test (REFUSED), ns2.test (SERVFAIL)" in check.text


def test_servers_that_cannot_be_found_are_told() -> None:
    dns = _world()
    dns.fault = "this device's resolver: no answer within 8 s"
    check = _check(dns, Role.MX, "example.com")
    assert check.outcome is Outcome.UNKNOWN
    assert "is this device on the Internet?" in check.remedy


def test_a_domain_that_nobody_has_registered_is_told() -> None:
    dns = FakeDns({}, zone="com")
    check = _check(dns, Role.MX, "example.com")
    assert check.outcome is Outcome.WRONG
    assert "nobody has registered it" in check.text


def test_signatures_that_a_resolver_refuses_are_told() -> None:
    dns = _world()
    dns.errors = {"resolver": "this device's resolver: SERVFAIL"}
    check = _check(dns, Role.DKIM, RSA)
    assert check.outcome is Outcome.WRONG
    assert "DNSSEC" in check.text


@pytest.mark.parametrize(
    ("role", "name", "short"),
    [
        (Role.SPF, "example.com", "@"),
        (Role.MX, "example.com", "@"),
        (Role.ADDRESS, MX, "mx"),
        (Role.DKIM, RSA, "dp1-rsa._domainkey"),
        (Role.SERVICE, "_imaps._tcp.example.com", "_imaps._tcp"),
    ],
)
def test_a_form_that_puts_the_domain_behind_a_whole_name_is_found_out(role: Role, name: str, short: str) -> None:
    """Its owner sees the record, and is told that there is none."""
    wanted = record(RECORDS, role, name)
    zone = published(each for each in RECORDS.records if each is not wanted)
    zone[f"{name}.example.com", str(wanted.type)] = (wanted.value,)
    check = _check(FakeDns(zone), role, name)
    assert check.outcome is (Outcome.WRONG if wanted.need == "required" else Outcome.WARNING)
    assert f"it stands at {name}.example.com" in check.text
    assert f"give it the name {short} there" in check.remedy
    zone[f"{name}.example.com", str(wanted.type)] = (
        "0 1 993 another.example" if role is Role.SERVICE else "10 another.example",
    )
    assert "it stands at" not in _check(FakeDns(zone), role, name).text


@pytest.mark.parametrize(
    ("role", "name", "kind", "value"),
    [
        (Role.MX, "example.com", "MX", "10 mx.example.com.example.com"),
        (Role.SERVICE, "_imaps._tcp.example.com", "SRV", "0 1 993 mail.example.com.example.com"),
    ],
)
def test_a_form_that_puts_the_domain_behind_a_server_is_found_out(role: Role, name: str, kind: str, value: str) -> None:
    check = _check(_world(_set(name, kind, value)), role, name)
    assert check.outcome is (Outcome.WRONG if role is Role.MX else Outcome.WARNING)
    assert f"behind the name of the server: {value}" in check.text
    assert "with a dot at its end" in check.remedy


def test_an_alias_in_the_place_of_a_record_has_to_go_first() -> None:
    """Who rents a web site finds `mail.` taken like this."""
    dns = _world(_set("host.example", "A", "198.51.100.9"))
    dns.aliases = {MAIL: "host.example"}
    check = _check(dns, Role.ADDRESS, MAIL)
    assert check.outcome is Outcome.WRONG
    assert "leads elsewhere: 198.51.100.9; the name is an alias (CNAME) of host.example" in check.text
    assert check.remedy.startswith("delete the alias")
    assert "delete the alias" in _check(dns, Role.CAA, MAIL).remedy
    assert "delete the alias" not in _check(dns, Role.ADDRESS, MX).remedy


def test_an_mx_that_names_an_alias_is_a_warning() -> None:
    dns = _world()
    dns.aliases = {MX: MAIL}
    check = _check(dns, Role.MX, "example.com")
    assert check.outcome is Outcome.WARNING
    assert "alias (CNAME)" in check.text
    # The alias itself leads to the right address.
    assert _check(dns, Role.ADDRESS, MX).outcome is Outcome.GOOD
