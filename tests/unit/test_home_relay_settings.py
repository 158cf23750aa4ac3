"""What home tells its relay about the keeping of mail, and the keys of a Site that it comes from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from home.relay_settings import queue_settings
from model.accounts import Accounts, first_accounts
from model.control import QueueSettings
from model.document import SiteError, parse_site
from model.problems import Kind
from model.site import Relay

_SITE = """\
version: 1
domains: [example.com, bücher.example]
disk: {unlock: none}
users: [{address: alice@example.com}]
relays:
  - address: mx.example.com
    offline: tempfail
"""
_KEYS = ("age1first", "age1recovery")


def _site(more: str = "") -> tuple[Relay, Accounts]:
    site = parse_site(_SITE + more, "site.yaml")
    return site.relays[0], first_accounts(site)


def test_settings_follow_from_the_site_and_the_accounts() -> None:
    relay, accounts = _site("    budget: 512 MiB\n    expiry: 36h\n    alarm: {after: 2d, mail: alice@example.net}\n")
    assert queue_settings(relay, accounts, _KEYS) == QueueSettings(
        version=1,
        name="mx.example.com",
        domains=("example.com", "xn--bcher-kva.example", "mx.example.com", "bücher.example"),
        policy="tempfail",
        keys=_KEYS,
        budget=512 * 2**20,
        expiry=36 * 3600,
        alarm={"mail": "alice@example.net"},
        away=48 * 3600,
    )


def test_what_the_site_does_not_say_has_a_default() -> None:
    settings = queue_settings(*_site(), _KEYS)
    assert (settings.budget, settings.expiry, settings.alarm) == (4 * 2**30, 7 * 24 * 3600, {})


def test_only_a_change_makes_a_new_version() -> None:
    relay, accounts = _site()
    first = replace(queue_settings(relay, accounts, _KEYS), version=7)
    read_back = QueueSettings.read(first.to_json())
    assert queue_settings(relay, accounts, _KEYS, read_back) == first
    assert queue_settings(relay, accounts, ("age1new", *_KEYS), read_back).version == 8


@pytest.mark.parametrize(
    ("more", "key", "kind"),
    [
        ("budget: lots", "budget", Kind.BAD_QUOTA),
        ("expiry: 7 weeks", "expiry", Kind.BAD_DURATION),
        ("expiry: 61d", "expiry", Kind.BAD_DURATION),
        ("alarm: {after: 0h, mail: alice@example.net}", "after", Kind.BAD_DURATION),
        ("alarm: {after: 2d}", "alarm", Kind.MISSING_KEY),
        ("alarm: {mail: nobody}", "mail", Kind.BAD_ADDRESS),
        ("alarm: {mail: alice@xn--bcher-kva.example}", "mail", Kind.OWN_DOMAIN),
        ('alarm: {webhook: "http://hook.example/x"}', "webhook", Kind.BAD_WEBHOOK),
        ('alarm: {webhook: "https://me:word@hook.example/x"}', "webhook", Kind.BAD_WEBHOOK),
        ('alarm: {webhook: "https://hook.example:0/x"}', "webhook", Kind.BAD_WEBHOOK),
        ("alarm: {colour: red, mail: alice@example.net}", "colour", Kind.UNKNOWN_KEY),
        ("alarm: loud", "alarm", Kind.WRONG_TYPE),
    ],
)
def test_a_wrong_setting_is_refused_with_its_line(more: str, key: str, kind: Kind) -> None:
    with pytest.raises(SiteError) as refused:
        _site(f"    {more}\n")
    (problem,) = refused.value.problems
    assert (problem.path[-1], problem.kind, problem.line) == (key, kind, 8)
    assert problem.remedy


def test_the_address_of_a_web_service_is_in_no_text() -> None:
    relay, _ = _site('    alarm: {webhook: "https://hook.example/TOPIC"}\n')
    assert relay.alarm is not None
    assert relay.alarm.webhook == "https://hook.example/TOPIC"
    assert "TOPIC" not in repr(relay)
    with pytest.raises(SiteError) as refused:
        _site('    alarm: {webhook: "ftp://hook.example/TOPIC"}\n')
    assert "TOPIC" not in "".join(problem.found + problem.expected for problem in refused.value.problems)
