"""The commands for accounts: what they print, what they refuse, and what they have the services do."""

from __future__ import annotations

import errno
import functools
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import argon2
import click
import pytest
from click.testing import CliRunner, Result

import home.cli
import home.command
import home.configure
import home.quarantine_commands
import stack.dkim
from home.cli import main
from home.quarantine import Quarantine
from home.services import ServiceError
from home.store import Store, read_accounts, write_accounts
from model.accounts import Accounts
from model.document import dump_site
from stack.apply import current
from tests.unit.stack_samples import HASH, OwnOwners, accounts, sample_stack, site

ALICE = "alice@example.com"
BOB = "bob@example.org"
SECRET = "correct horse"


class Device:
    """A device's store, and what was done to its services."""

    def __init__(self, data: Path) -> None:
        self.store = Store(data)
        self.ended: list[str] = []
        self.restarted: list[tuple[str, ...]] = []

    def run(self, *arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(main, arguments, input=stdin)

    def told(self, *arguments: str, stdin: str = "") -> Any:
        done = self.run(*arguments, "--json", stdin=stdin)
        return json.loads(done.stdout)

    @property
    def accounts(self) -> Accounts:
        found = read_accounts(self.store.accounts)
        assert found
        return found


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device that was set up for Alice and Bob."""
    device = Device(tmp_path / "data")
    for name in ("darkpipe", "dkim", "tls", "srs", "mail"):
        (device.store.data / name).mkdir(parents=True)
    sample_stack(tmp_path / "components")
    monkeypatch.setattr(Store, "__init__", functools.partialmethod(Store.__init__, data=device.store.data))
    for module in (home.cli, home.command):
        monkeypatch.setattr(module, "COMPONENTS", tmp_path / "components")
        monkeypatch.setattr(module, "restart", device.restarted.append)
    monkeypatch.setattr(home.configure, "boot_partition", lambda: nullcontext(None))
    monkeypatch.setattr(home.cli, "forget_reason", lambda: None)
    monkeypatch.setattr(home.command, "_user", lambda: 0)
    monkeypatch.setattr(home.command, "end_sessions", lambda _, address: device.ended.append(address))
    monkeypatch.setattr(home.configure, "SystemOwners", OwnOwners)
    monkeypatch.setattr(stack.dkim, "_make", lambda algorithm: b"a costly key\n")
    monkeypatch.setattr(
        argon2.PasswordHasher, "hash", lambda _, password: HASH if password == SECRET else HASH[:-1] + "A"
    )
    device.store.site.write_text(dump_site(site()))
    write_accounts(device.store.accounts, accounts(f"  - {{address: {BOB}}}\n"))
    return device


def _commands(group: click.Group, names: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, (*names, name))
        elif names:
            yield (*names, name)


@pytest.mark.parametrize("names", list(_commands(main)), ids=" ".join)
def test_every_command_explains_itself(names: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(main, [*names, "--help"]).stdout
    assert f"darkpipe {' '.join(names)}" in shown.partition("Example")[2]
    # What asks for secrets talks with a person.
    assert "--json" in shown or names[0] in {"disk", "recovery"} or names == ("relay", "replace")


@pytest.mark.parametrize(
    "words",
    [
        ("user", "list"),
        ("alias", "add", "a@example.com", ALICE),
        ("dkim",),
        ("quarantine", "list"),
        ("apply",),
        ("status",),
    ],
)
def test_who_is_not_root_is_told_so(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Else `status` would show a disk that fails, and `quarantine list` an empty one."""

    def shut(path: Path, *_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "quarantine").mkdir()
    monkeypatch.setattr(home.quarantine_commands, "Quarantine", lambda: Quarantine(tmp_path / "quarantine"))
    monkeypatch.setattr(home.command, "_user", lambda: 1000)
    for name in ("read_bytes", "open", "iterdir"):
        monkeypatch.setattr(Path, name, shut)
    monkeypatch.setattr(os, "scandir", shut)
    refused = device.run(*words)
    command = " ".join(word for word in words if "@" not in word)
    assert refused.output == f"this is for root: sudo darkpipe {command}\n"
    assert refused.exit_code == (2 if words == ("status",) else 1)


def test_a_site_with_a_relay_has_keys_for_what_waits_there_and_keeps_them(device: Device) -> None:
    keys = device.store.queue_keys
    keys.mkdir()
    device.told("user", "add", "carol@example.com", "--password-stdin", stdin=f"{SECRET}\n")
    assert not list(keys.iterdir())
    text = device.store.site.read_text()
    assert "relays: []\n" in text
    device.store.site.write_text(
        text.replace("relays: []\n", "relays: [{address: mx.example.com, offline: tempfail}]\n")
    )
    assert "error" not in device.told("user", "remove", "carol@example.com")
    made = (keys / "identities").read_text()
    device.told("user", "add", "dora@example.com", "--password-stdin", stdin=f"{SECRET}\n")
    assert (keys / "identities").read_text() == made


def test_a_user_comes_changes_and_goes(device: Device) -> None:
    added = device.told("user", "add", "carol@example.com", "--quota", "5G", "--password-stdin", stdin=f"{SECRET}\n")
    expected = {
        "address": "carol@example.com",
        "admin": False,
        "aliases": [],
        "catch_all": [],
        "quota": 5 * 1024**3,
        "password_set": True,
    }
    assert added == {"user": expected}
    assert device.told("user", "show", "carol@example.com") == added
    assert device.told("user", "list")["users"][2] == expected
    assert "carol@example.com  5G" in device.run("user", "list").stdout
    assert device.told("user", "quota", "carol@example.com", "none")["user"]["quota"] is None
    assert device.ended == []
    device.told("user", "password", "carol@example.com", "--password-stdin", stdin="quite another one")
    changed = device.accounts.user("carol@example.com")
    assert changed
    assert changed.password_hash != HASH
    assert device.ended == ["carol@example.com"]
    removed = device.told("user", "remove", "carol@example.com")
    assert removed == {"removed": "carol@example.com", "aliases": [], "mail": None}
    assert device.ended == ["carol@example.com"] * 2
    assert device.accounts.user("carol@example.com") is None
    assert stat.S_IMODE(device.store.accounts.stat().st_mode) == 0o600


def test_domains_and_aliases(device: Device) -> None:
    assert device.told("domain", "add", "Example.net")["domain"] == {
        "name": "example.net",
        "primary": False,
        "catch_all": None,
    }
    assert device.told("domain", "catch-all", "example.net", BOB)["domain"]["catch_all"] == BOB
    assert device.told("alias", "add", "all@example.net", ALICE, BOB)["alias"]["targets"] == [ALICE, BOB]
    listed = device.told("alias", "list")["aliases"]
    assert {"address": "all@example.net", "targets": [ALICE, BOB], "required": False} in listed
    assert {"address": "abuse@example.net", "targets": [ALICE], "required": True} in listed
    assert device.told("alias", "remove", "all@example.net", BOB)["alias"]["targets"] == [ALICE]
    assert "goes to bob@example.org now" in device.run("alias", "remove", "all@example.net").stdout  # the catch-all
    assert "is refused now" in device.run("domain", "catch-all", "example.net", "none").stdout
    assert device.told("domain", "remove", "example.net") == {"removed": "example.net"}
    assert "example.com  -          primary" in device.run("domain", "list").stdout


def test_a_refusal_is_told_and_changes_nothing(device: Device) -> None:
    before = device.store.accounts.read_bytes()
    done = device.run("domain", "remove", "example.org", "--json")
    assert done.exit_code == 1
    assert set(json.loads(done.stdout)["refused"]) == {"kind", "found", "expected", "do"}
    assert "do:       remove them first" in done.stderr
    assert device.run("user", "remove", ALICE).exit_code == 1
    assert device.store.accounts.read_bytes() == before
    assert device.restarted == []


def test_a_password_needs_a_way_in(device: Device) -> None:
    before = device.store.accounts.read_bytes()
    add = ("user", "add", "carol@example.com")
    for options, stdin, told in (
        ((), "", "use --password-stdin"),
        (("--generate",), "", "needs a terminal"),
        (("--generate", "--password-stdin"), "", "cannot be used together"),
        (("--password-stdin",), "short\n", "at least 10 characters"),
        (("--password-stdin",), "", "at least 10 characters"),
        (("--password", SECRET), "", "No such option"),
    ):
        done = device.run(*add, *options, stdin=stdin)
        assert done.exit_code != 0
        assert told in done.stderr
        assert "short" not in done.output
    assert device.store.accounts.read_bytes() == before


def test_mail_of_an_earlier_user_is_not_given_away(device: Device) -> None:
    (device.store.data / "mail/example.com/carol").mkdir(parents=True)
    add = ("user", "add", "carol@example.com", "--password-stdin")
    assert "--with-old-mail" in device.run(*add, stdin=SECRET).stderr
    assert [row["address"] for row in device.told("user", "list", "--removed")["removed"]] == ["carol@example.com"]
    assert device.run(*add, "--with-old-mail", stdin=SECRET).exit_code == 0
    assert device.told("user", "list", "--removed") == {"removed": []}
    assert "The mail is kept in" in device.run("user", "remove", "carol@example.com").stdout


def test_a_device_that_was_not_set_up_says_so(device: Device) -> None:
    device.store.accounts.unlink()
    assert device.told("user", "list")["refused"]["kind"] == "not-set-up"


def test_a_damaged_store_is_told_without_its_secrets(device: Device) -> None:
    device.store.accounts.write_text(device.store.accounts.read_text().replace('"version": 1', '"version": 7'))
    done = device.run("user", "list")
    assert done.exit_code == 1
    assert "accounts.json is damaged" in done.stderr
    assert HASH not in done.output


def test_what_fails_behind_the_switch_leaves_no_service_with_the_old_configuration(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postfix would refuse mail for an address that everybody else knows, until the next start of the device."""
    device.told("user", "add", "carol@example.com", "--password-stdin", stdin=f"{SECRET}\n")
    assert device.restarted.pop() == ("one", "two")
    before = current(device.store.configurations)
    with monkeypatch.context() as patch:
        # What comes right behind the switch in `stack.apply.apply`.
        patch.setattr("stack.apply.sync_folder", _no_room_for_the_switch(device.store))
        done = device.run("user", "add", "dora@example.com", "--password-stdin", stdin=f"{SECRET}\n")
    assert (done.exit_code, device.restarted) == (1, [])
    assert current(device.store.configurations) != before
    assert "would restart, if they run: two" in device.run("apply", "--dry-run").stdout
    assert "not yet known to: two." in device.run("apply").stdout
    assert device.restarted == [("two",)]
    assert "was in force already.\n" in device.run("apply").stdout
    assert device.restarted[1:] == [()]


def test_a_service_that_did_not_come_up_is_restarted_by_the_next_change(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(home.command, "restart", _does_not_come_up)
        done = device.run("user", "add", "carol@example.com", "--password-stdin", stdin=f"{SECRET}\n")
        assert (done.exit_code, done.stderr) == (1, "one.service failed\n")
    for name, restarted in (("dora", ("one", "two")), ("erin", ("two",))):
        device.told("user", "add", f"{name}@example.com", "--password-stdin", stdin=f"{SECRET}\n")
        assert device.restarted.pop() == restarted


def test_a_removed_user_is_thrown_out_whatever_does_not_come_up(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.told("user", "add", "carol@example.com", "--password-stdin", stdin=f"{SECRET}\n")
    monkeypatch.setattr(home.command, "restart", _does_not_come_up)
    assert device.run("user", "remove", "carol@example.com").exit_code == 1
    assert device.accounts.user("carol@example.com") is None
    assert device.ended == ["carol@example.com"]


def test_services_that_start_with_the_configuration_need_no_restart(device: Device) -> None:
    """As at each start of the device, where apply comes before all of them."""
    assert device.run("apply", "--no-restart").exit_code == 0
    assert device.run("apply").exit_code == 0
    assert device.restarted == [()]


def _no_room_for_the_switch(store: Store) -> Callable[[Path], None]:
    """Give a sync that finds no room once `current` leads elsewhere."""
    before = current(store.configurations)

    def sync(_: Path) -> None:
        if current(store.configurations) != before:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return sync


def _does_not_come_up(_: Sequence[str]) -> None:
    raise ServiceError("one.service failed")
