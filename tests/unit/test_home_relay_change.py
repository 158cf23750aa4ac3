"""Other settings for the relay that a device has."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bootstrap.ends import make_bootstrap
from home import relay_settings_command
from home.cli import main
from home.drain_state import Doing, Drained
from home.relay_change import change_relay
from home.relay_peer import PEER
from home.store import Store, StoreError, write_accounts
from model.control import BucketStatus, QueueStatus
from model.document import dump_site, parse_site, read_site
from model.problems import Refusal
from model.site import Relay
from tests.unit.stack_samples import accounts, site

_TEXT = """\
version: 1
domains: [example.com, elsewhere.example]
disk: {unlock: none}
users: [{address: zoe@example.com}]
relays: [{address: mx.example.com, %s}]
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A device that is paired with the relay of its site."""
    made = Store(tmp_path)
    made.site.parent.mkdir()
    write_accounts(made.accounts, accounts())
    made.site.write_text(dump_site(site().model_copy(update={"relays": (Relay(address="mx.example.com"),)})))
    (tmp_path / PEER).touch()
    for name, value in (("Store", lambda: made), ("FOLDER", tmp_path)):
        monkeypatch.setattr(relay_settings_command, name, value)
    return made


def test_the_relay_is_taken_and_nothing_else(store: Store) -> None:
    before = read_site(store.site)
    given = parse_site(_TEXT % "offline: reject, expiry: 3d, alarm: {mail: a@example.net}", "mine")
    assert change_relay(store, given) == ("offline", "expiry", "alarm")
    after = read_site(store.site)
    assert after.relays == parse_site(dump_site(given), "mine").relays
    assert after.model_copy(update={"relays": before.relays}) == before
    assert stat.S_IMODE(store.site.stat().st_mode) == 0o600
    assert change_relay(store, given) == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (_TEXT.replace("mx.example.com", "203.0.113.7") % "offline: reject", "address: 203.0.113.7"),
        (_TEXT % "transport: mtls", "transport: mtls"),
        (_TEXT[: _TEXT.index("relays")], "the site file without a relay"),
        # It is a domain of this device, though not of the file.
        (_TEXT % "alarm: {mail: a@example.org}", "a@example.org"),
    ],
)
def test_another_relay_is_refused_and_the_site_stays(store: Store, text: str, found: str) -> None:
    before = store.site.read_bytes()
    with pytest.raises(Refusal, match=found):
        change_relay(store, parse_site(text, "mine"))
    assert store.site.read_bytes() == before


_BUCKET = "s3: {endpoint: 'https://s3.example.net', bucket: my-mail, access_key: AKIAEXAMPLE%s}"


@pytest.mark.parametrize(
    ("after", "refused"),
    [("", True), (_BUCKET % ", prefix: other/", True), (_BUCKET % ", budget: 5G, mode: write-through", False)],
)
def test_mail_that_lies_in_a_bucket_alone_is_not_left_there(
    store: Store, monkeypatch: pytest.MonkeyPatch, after: str, refused: bool
) -> None:
    text = _TEXT.replace("address: mx.example.com, %s", "address: mx.example.com%s")
    change_relay(store, parse_site(text % f", {_BUCKET % ''}", "mine"))
    relay = QueueStatus(1, "", "e" * 32, 1, 0, 1, 1, None, 0, 0, bucket=BucketStatus("f" * 32, 1, 0, 3 * 10**6))
    drained = Drained(written=0.0, doing=Doing.EMPTY, since=0.0, relay=relay)
    monkeypatch.setattr(relay_settings_command, "read_drained", lambda: drained)
    before, given = store.site.read_bytes(), text % f", {after}" if after else text % ""
    done = CliRunner().invoke(main, ["relay", "settings", "-"], input=given)
    assert (done.exit_code == 1) is refused, done.output
    assert (store.site.read_bytes() == before) is refused
    assert ("3 MB of mail" in done.output) is refused


_EMPTY = QueueStatus(1, "", "e" * 32, 0, 0, None, 1, None, 0, 0, bucket=BucketStatus("f" * 32, 1, 0, 0))


@pytest.mark.parametrize(
    ("doing", "relay", "refused"),
    [
        (Doing.EMPTY, _EMPTY, False),
        # What it said before home's line was cut is old.
        (Doing.AWAY, _EMPTY, True),
        (Doing.AWAY, None, True),
        # A bucket that does not answer may be the wrong one.
        (Doing.EMPTY, replace(_EMPTY, count=2, bucket=None), False),
    ],
)
def test_a_bucket_of_which_nobody_knows_what_it_has_is_not_left(
    store: Store, monkeypatch: pytest.MonkeyPatch, doing: Doing, relay: QueueStatus | None, refused: bool
) -> None:
    text = _TEXT.replace("address: mx.example.com, %s", "address: mx.example.com%s")
    change_relay(store, parse_site(text % f", {_BUCKET % ''}", "mine"))
    drained = Drained(written=0.0, doing=doing, since=0.0, relay=relay)
    monkeypatch.setattr(relay_settings_command, "read_drained", lambda: drained)
    before = store.site.read_bytes()
    other = text % f", {_BUCKET % ', prefix: other/'}"
    done = CliRunner().invoke(main, ["relay", "settings", "-"], input=other)
    assert (done.exit_code == 1) is refused, done.output
    assert (store.site.read_bytes() == before) is refused
    assert ("when home hears it" in done.output) is refused
    (store.data / PEER).unlink()
    assert CliRunner().invoke(main, ["relay", "settings", "-"], input=other).exit_code == 0, "no relay has one"


def test_the_relay_that_replaced_the_first_one_counts(store: Store) -> None:
    other = Relay.model_validate({"address": "vps.example.net", "transport": "mtls"})
    store.tunnel.write_text(make_bootstrap(other).home.model_dump_json())
    given = parse_site(_TEXT.replace("mx.example.com", "vps.example.net") % "transport: mtls", "mine")
    assert "transport: mtls" in CliRunner().invoke(main, ["relay", "settings"]).output
    assert change_relay(store, given) == ("address",)
    assert read_site(store.site).relays[0].transport == "mtls"
    with pytest.raises(Refusal, match="transport: wireguard"):
        change_relay(store, parse_site(_TEXT.replace("mx.example.com", "vps.example.net") % "offline: queue", "mine"))
    store.tunnel.write_text("{}")
    with pytest.raises(StoreError, match="damaged"):
        change_relay(store, given)


def test_what_is_shown_can_be_changed_and_given_back(store: Store) -> None:
    run = CliRunner()
    shown = run.invoke(main, ["relay", "settings"]).output
    assert shown.startswith("relays:\n- address: mx.example.com\n  offline: queue\n")
    done = run.invoke(main, ["relay", "settings", "-"], input=shown.replace("queue", "tempfail"))
    assert (done.exit_code, done.output) == (0, "Changed: offline. The relay is told as soon as it answers.\n")
    assert read_site(store.site).relays[0].offline == "tempfail"
    head = "version: 1\ndomains: [example.com]\ndisk: {unlock: none}\nusers: [{address: a@example.com}]\n"
    for mark in ("", "\ufeff"):  # an editor on Windows puts one in front
        site_file = mark + head + shown.replace("queue", "tempfail")
        again = run.invoke(main, ["relay", "settings", "--json", "-"], input=site_file)
        assert json.loads(again.output) == {"changed": []}


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"users: []\n",
        b"relays: [{address: 'mx.example.com\n",
        b"relays: [{address: mx.example.com, offline: sometimes}]\n",
        b"",
    ],
)
def test_a_file_that_is_no_site_is_refused_in_words(store: Store, content: bytes) -> None:
    before = store.site.read_bytes()
    told = CliRunner().invoke(main, ["relay", "settings", "-"], input=content).output
    assert "$argon2id$" in store.site.read_text()
    assert "$argon2id$" not in told
    for options in ([], ["--json"]):
        refused = CliRunner().invoke(main, ["relay", "settings", *options, "-"], input=content)
        assert refused.exit_code == 1
        assert isinstance(refused.exception, SystemExit)
    assert store.site.read_bytes() == before
