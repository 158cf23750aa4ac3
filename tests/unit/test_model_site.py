"""The model itself: defaults, names that follow, the JSON Schema, and what is built yet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from model.document import SiteError, parse_site, read_site
from model.problems import Kind
from model.site import (
    S3,
    Alarm,
    Disk,
    MailServer,
    OfflinePolicy,
    Relay,
    Site,
    Transport,
    UnlockPolicy,
    User,
    site_schema,
)
from model.supported import SUPPORTED, not_built

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
SMALLEST = """\
version: 1
domains: [example.com]
disk: {unlock: none}
users: [{address: alice@example.com}]
"""


def test_the_smallest_site_gets_its_defaults() -> None:
    site = parse_site(SMALLEST, "site.yaml")
    assert site.admin == "alice@example.com"
    assert site.mail_server is MailServer.POSTFIX_DOVECOT
    assert site.relays == ()
    assert site.users == (User(address="alice@example.com", aliases=(), password="generate"),)


def test_the_admin_may_be_an_alias() -> None:
    text = SMALLEST.replace("alice@example.com", "alice@example.com, aliases: [Root@example.com]")
    assert parse_site(text + "admin: root@example.com\n", "site.yaml").admin == "root@example.com"


def test_a_quota_has_one_form_and_must_be_a_size() -> None:
    text = SMALLEST.replace("alice@example.com", "alice@example.com, quota: %s")
    assert parse_site(text.replace("%s", "1024 MiB"), "site.yaml").users[0].quota == "1G"
    for nonsense in ("5", "'5'", "none", "5X", "1M"):
        with pytest.raises(SiteError) as refused:
            parse_site(text.replace("%s", nonsense), "site.yaml")
        (problem,) = refused.value.problems
        assert problem.path == ("users", 0, "quota")
        assert problem.line == 4
        assert problem.remedy


def test_a_catch_all_is_for_a_domain_of_the_site_and_for_one_user() -> None:
    text = SMALLEST.replace("}]", ", catch_all: [Example.COM]}, {address: bob@example.com, catch_all: [%s]}]")
    assert parse_site(text.replace("%s", ""), "site.yaml").users[0].catch_all == ("example.com",)
    for domain, kind in (("example.com", Kind.TWICE), ("example.net", Kind.FOREIGN_DOMAIN)):
        with pytest.raises(SiteError) as refused:
            parse_site(text.replace("%s", domain), "site.yaml")
        (problem,) = refused.value.problems
        assert (problem.kind, problem.path) == (kind, ("users", 1, "catch_all", 0))


def test_a_site_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        parse_site(SMALLEST, "site.yaml").admin = "bob@example.com"  # type: ignore[misc]


def test_a_site_made_in_code_is_checked_too() -> None:
    with pytest.raises(ValidationError, match="none of this site's"):
        Site(
            version=1,
            domains=("example.com",),
            users=(User(address="alice@example.net"),),
            disk=Disk(unlock=UnlockPolicy.NONE),
        )


def test_a_password_is_in_no_text_of_the_model() -> None:
    assert "generate" not in repr(parse_site(SMALLEST, "site.yaml"))
    with pytest.raises(ValidationError) as refused:
        User(address="alice@example.com", password="correct-horse")
    assert "correct-horse" not in str(refused.value)


def test_there_is_an_example() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_works(path: Path) -> None:
    assert read_site(path).version == 1


def test_the_example_for_home_names_every_key_that_works() -> None:
    text = next(path for path in EXAMPLES if path.name == "home.yaml").read_text(encoding="utf-8")
    for key in {
        *Site.model_fields,
        *User.model_fields,
        *Disk.model_fields,
        *Alarm.model_fields,
        *Relay.model_fields,
        *S3.model_fields,
    }:
        assert re.search(rf"^[ #-]*(?:alarm: {{.*|s3: {{.*)?{key}:", text, re.MULTILINE), key


@pytest.mark.parametrize(
    ("relays", "complaint"),
    [
        ("", "this site has none"),
        ("relays: []\n", "this site has none"),
        ("relays: [{address: mx.example.com, transport: mtls}]\n", "transport: mtls"),
    ],
)
def test_a_disk_is_unlocked_by_a_relay_that_is_there_and_can(relays: str, complaint: str) -> None:
    text = SMALLEST.replace("none", "relay")
    with pytest.raises(SiteError, match=complaint) as refused:
        parse_site(f"{text}{relays}", "site.yaml")
    assert [(found.kind, found.path) for found in refused.value.problems] == [(Kind.NO_RELAY, ("disk", "unlock"))]
    site = parse_site(f"{text}relays: [{{address: mx.example.com}}]\n", "site.yaml")
    assert site.disk.unlock is UnlockPolicy.RELAY


@pytest.mark.parametrize("transport", list(Transport))
def test_every_transport_works(transport: Transport) -> None:
    text = f"{SMALLEST}relays: [{{address: mx.example.com, transport: {transport}}}]\n"
    assert parse_site(text, "site.yaml").relays[0].transport is transport


@pytest.mark.parametrize("value", sorted(set(MailServer) - {MailServer.POSTFIX_DOVECOT}))
def test_a_mail_server_that_is_not_built_is_refused(value: str) -> None:
    _refused(f"{SMALLEST}mail_server: {value}\n", ("mail_server",), value, line=5)


@pytest.mark.parametrize("policy", list(OfflinePolicy))
def test_every_policy_of_a_relay_works(policy: OfflinePolicy) -> None:
    text = f"{SMALLEST}relays: [{{address: mx.example.com, offline: {policy}}}]\n"
    assert parse_site(text, "site.yaml").relays[0].offline is policy


def test_by_default_a_relay_queues() -> None:
    site = parse_site(f"{SMALLEST}relays: [{{address: mx.example.com}}]\n", "site.yaml")
    assert site.relays[0].offline is OfflinePolicy.QUEUE


def test_one_relay_works_and_a_second_one_does_not() -> None:
    relay = "{address: mx.example.com, offline: tempfail}"
    assert parse_site(f"{SMALLEST}relays: [{relay}]\n", "site.yaml").relays[0].address == "mx.example.com"
    other = relay.replace("mx.", "mx2.")
    _refused(f"{SMALLEST}relays: [{relay}, {other}]\n", ("relays",), "relays", line=5)


def test_no_relay_is_no_wish_for_one() -> None:
    assert parse_site(f"{SMALLEST}relays: []\n", "site.yaml").relays == ()


def test_what_is_not_built_can_still_be_described() -> None:
    site = parse_site(SMALLEST, "site.yaml")
    relays = (Relay(address="MX.example.com"), Relay(address="mx2.example.com"))
    future = Site(**{**dict(site), "mail_server": MailServer.MADDY, "relays": relays})
    assert future.relays[0].address == "mx.example.com"
    assert {finding.path for finding in not_built(future.model_dump())} == {("mail_server",), ("relays",)}


def test_every_row_of_the_table_is_a_setting_of_the_model() -> None:
    properties = _properties(site_schema())
    for support in SUPPORTED:
        assert ".".join(str(part) for part in support.path) in properties
        assert set(support.works) <= set(support.choices)


def test_the_schema_is_a_document() -> None:
    schema = site_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "DarkPipe site.yaml"
    assert set(schema["required"]) == {"version", "domains", "users", "disk"}
    assert schema["additionalProperties"] is False
    for name, described in _properties(schema).items():
        assert described.get("description"), name
        assert described.get("examples"), name


def test_the_schemas_pattern_for_passwords_knows_the_three_forms() -> None:
    pattern = _properties(site_schema())["users.password"]["pattern"]
    assert re.search(pattern, "prompt")
    assert re.search(pattern, "$argon2id$v=19$m=65536,t=3,p=4$" + "c2FsdHNhbHRzYWx0c2E$" + "dGFn" * 8)
    assert not re.search(pattern, "correct-horse")


def _properties(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Give every property of a schema by its dotted path, the ones of groups and of lists of groups included."""
    groups = {"": schema} | {
        f"{name}.": schema["$defs"][definition]
        for name, definition in {"users": "User", "relays": "Relay", "disk": "Disk"}.items()
    }
    return {
        prefix + name: described for prefix, group in groups.items() for name, described in group["properties"].items()
    }


def _refused(text: str, path: tuple[str | int, ...], named: str, line: int) -> None:
    with pytest.raises(SiteError) as refused:
        parse_site(text, "site.yaml")
    (problem,) = refused.value.problems
    assert problem.kind is Kind.NOT_BUILT
    assert problem.path == path
    assert problem.line == line
    assert f"`{named}`" in problem.found
    assert problem.remedy
