"""`darkpipe apply --dry-run` on a device: what it shows, and that it changes nothing."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.machine.conftest import SEED
from tests.machine.machine import Machine


def _change(accounts: Path) -> None:
    """Change the account store behind the device's back: what an apply would then do is not done yet."""
    store = json.loads(accounts.read_text())
    store["aliases"][0]["address"] = "shop@example.org"
    store["users"].append({**store["users"][0], "address": "erin@example.com"})
    store["users"].append({"address": "frank@example.com"})
    accounts.write_text(json.dumps(store))


@pytest.fixture(scope="module")
def machine(new_machine: Callable[[str], Machine]) -> Machine:
    """A device of its own: the accounts change here."""
    return new_machine(SEED).start()


def _kept(machine: Machine) -> dict[str, tuple[int, int, bytes]]:
    """All that lies in the device's own volumes, with inode and time of change."""
    return {
        str(path): (path.lstat().st_ino, path.lstat().st_ctime_ns, path.read_bytes() if path.is_file() else b"")
        for volume in ("darkpipe", "tls")
        for path in (machine.data / volume, *(machine.data / volume).rglob("*"))
    }


def _running(machine: Machine) -> str:
    return machine.run("systemctl", "show", "--property=Id,ActiveEnterTimestampMonotonic", "postfix", "dovecot")


@contextmanager
def _lock_held(machine: Machine) -> Iterator[None]:
    with (machine.data / "darkpipe/.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _scratch_is_gone(machine: Machine) -> bool:
    return "darkpipe-dry-run\n" not in machine.run("ls", "-1", "/run")


def test_nothing_to_change(machine: Machine) -> None:
    shown = machine.run("darkpipe", "apply", "--dry-run")
    assert shown == "This configuration is in force already: nothing would change.\n"


def test_dry_run_tells_what_apply_then_does(machine: Machine) -> None:
    running = _running(machine)
    _change(machine.data / "darkpipe/accounts.json")
    with _lock_held(machine):  # as an apply has it that takes long
        before = _kept(machine)
        shown = machine.run("timeout", "60", "darkpipe", "apply", "--dry-run")
    assert "--- in force/postfix/virtual_aliases\n+++ new/postfix/virtual_aliases\n" in shown
    assert "\n-sales@example.org" in shown
    assert "\n+shop@example.org" in shown
    assert "dovecot/users: changes (a secret: its content is not shown)" in shown
    assert "$argon2id$" not in shown
    assert "restart, if they run: postfix, rspamd." in shown
    assert _kept(machine) == before
    assert _running(machine) == running
    assert _scratch_is_gone(machine)
    applied = machine.run("darkpipe", "apply")
    assert "changed: postfix, rspamd." in applied
    assert _running(machine) != running
    assert "nothing would change" in machine.run("darkpipe", "apply", "--dry-run")


def test_wrong_site_is_told_without_a_traceback(machine: Machine) -> None:
    site = machine.data / "darkpipe/site.yaml"
    good = site.read_text()
    site.write_text(good.replace("admin:", "administrator:"))
    shown = machine.run("darkpipe", "apply", "--dry-run", check=False)
    site.write_text(good)
    assert "darkpipe/site.yaml cannot be used" in shown
    assert "Traceback" not in shown
    assert "$argon2id$" not in shown


def test_daemons_judge_the_tried_configuration(machine: Machine) -> None:
    """With a checker that refuses laid over the real one, a dry run fails, says why, and leaves nothing."""
    refusing = machine.data / "refuses"
    refusing.write_text("#!/bin/sh\necho 'line 1: no such thing'\nexit 3\n")
    refusing.chmod(0o755)
    machine.run("mount", "--bind", "/data/refuses", "/usr/sbin/unbound-checkconf")
    try:
        shown = machine.run("darkpipe", "apply", "--dry-run", check=False)
    finally:
        machine.run("umount", "/usr/sbin/unbound-checkconf")
        refusing.unlink()
    assert "line 1: no such thing" in shown
    assert "Traceback" not in shown
    assert _scratch_is_gone(machine)
