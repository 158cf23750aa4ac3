"""`darkpipe status` on a device that works, and on one that is broken in a way that an open port would not show."""

from __future__ import annotations

import json
import os
import re
import smtplib
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from home.room import LEAST_FREE
from stack.component import Service
from stack.health import DEADLINE
from stack.stack import Stack
from tests import mail
from tests.machine.conftest import SEED
from tests.machine.machine import HOME_ADDRESS, Client, Machine, wait_for
from tests.unit.stack_samples import COMPONENTS

STACK = Stack.load(COMPONENTS)

_ASKED = [service for service in STACK.services if service.health]

_DATA = 900 * 2**20
"""Bytes of the device's data disk: little, so that it can be filled, and more than what is free on a healthy one."""

_PATIENCE = DEADLINE + 10
"""Seconds: what a status may take, and what Python needs to start on a busy computer."""

_POSTFIX_NEEDS = 75 * 2**20
"""Bytes: smtpd(8) answers 452 when less than 1.5 times the largest message is free (message_size_limit)."""


@pytest.fixture(scope="module")
def small(new_machine: Callable[[str], Machine]) -> Iterator[Machine]:
    """A device with a data disk of its own that is soon full."""
    machine = new_machine(SEED)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DATA},mode=0755", "tmpfs", str(machine.data)], check=True)
    try:
        yield machine.start()
    finally:
        machine.stop()
        subprocess.run(["umount", str(machine.data)], check=True)


def _status(machine: Machine, *inside: str) -> dict[str, Any]:
    """Give the status as data.

    Args:
        inside: the words of a shell's commands before it, which see and change mounts of their own.
    """
    command = " && ".join([*inside, "darkpipe status --json; echo exit status $?"])
    started = time.monotonic()
    output = machine.run("unshare", "--mount", "sh", "-c", command)
    took = time.monotonic() - started
    assert took < _PATIENCE, f"the status took {took:.0f} s"
    printed, _, code = output.rpartition("exit status ")
    found: dict[str, Any] = json.loads(printed)
    assert int(code) == (0 if found["ready"] else 1)
    return found


def _reasons(found: dict[str, Any]) -> list[str]:
    return [problem["found"] for problem in found["problems"] if problem["blocks_mail"]]


def _wait_until_ready(machine: Machine) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while not (found := _status(machine))["ready"]:
        assert time.monotonic() < deadline, found["problems"]
        time.sleep(0.5)
    return found


@contextmanager
def _damage(machine: Machine, damage: str, repair: str) -> Iterator[None]:
    """Damage a device that is ready for the block, and see that it is ready again after it."""
    _wait_until_ready(machine)
    machine.run("sh", "-c", damage)
    try:
        yield
    finally:
        machine.run("sh", "-c", repair)
    _wait_until_ready(machine)


def test_a_device_that_works_is_ready(small: Machine) -> None:
    found = _wait_until_ready(small)
    assert found["format"] == 1
    # A container has no time server to ask, and that is the only thing that this one lacks.
    assert [problem["found"] for problem in found["problems"] if "confirmed the clock" not in problem["found"]] == []
    services = {service["unit"]["name"]: service for service in found["services"]}
    assert set(services) == {service.name for service in STACK.services}
    for service in STACK.services:
        state = services[service.name]
        assert state["unit"]["state"] == "active"
        assert state["unit"]["since"]
        assert [probed["probe"] for probed in state["probes"]] == [str(health.probe) for health in service.health]
        assert all(probed["good"] for probed in state["probes"]), state
    assert found["configuration"]["generation"] == small.run("readlink", "/data/darkpipe/config/current").strip()
    assert not found["configuration"]["refused"]
    assert found["disk"]["size"] == _DATA
    assert LEAST_FREE < found["disk"]["free"] < _DATA
    (certificate,) = found["certificates"]
    assert certificate["names"] == ["mail.example.com", "mx.example.com"]
    assert certificate["self_signed"]
    assert found["image"] == json.loads(small.run("cat", "/usr/share/darkpipe/image.json"))


def test_what_waits_in_the_queue_is_counted(small: Machine) -> None:
    before = _status(small)["queue"]["messages"]
    small.run("sendmail", "-f", "", "friend@example.net", stdin=b"Subject: waits\n\nwaits\n")
    # There is no relay: the queue manager tries once and puts it aside.
    deadline = time.monotonic() + 30
    while (queue := _status(small)["queue"])["messages"]["deferred"] != before["deferred"] + 1:
        assert time.monotonic() < deadline, queue
        time.sleep(0.5)
    assert 0 <= queue["oldest_seconds"] < 300
    small.run("postsuper", "-d", "ALL")


def test_asking_leaves_nothing_behind(small: Machine) -> None:
    _wait_until_ready(small)
    files = "find /data/mail /data/queue /data/darkpipe -type f ! -path '*/pid/*' | sort"
    before = small.run("sh", "-c", files)
    cursor = small.run("journalctl", "--lines=0", "--show-cursor", "--quiet").partition("-- cursor: ")[2].strip()
    for _ in range(3):
        _status(small)
    assert small.run("sh", "-c", files) == before
    assert "queue_id" not in small.run("postqueue", "-j")
    lines = small.run("journalctl", f"--after-cursor={cursor}", "--output=cat", "--no-pager").splitlines()
    assert [line for line in lines if re.search(r"warning|error|fatal|panic|reject", line, re.IGNORECASE)] == []


def test_people_read_the_answer_first(small: Machine) -> None:
    _wait_until_ready(small)
    assert small.run("darkpipe", "status").startswith("ready: mail is taken\n")
    with _damage(small, "systemctl stop dovecot", "systemctl start dovecot"):
        told = small.run("darkpipe", "status", check=False)
        assert told.startswith("NOT READY")
        assert "systemctl restart dovecot" in told


@pytest.mark.parametrize("service", _ASKED, ids=lambda service: service.name)
def test_a_stopped_service_is_named(small: Machine, service: Service) -> None:
    # All of them: whoever needs this one was stopped with it.
    repair = f"systemctl start {' '.join(asked.name for asked in _ASKED)}"
    with _damage(small, f"systemctl stop {service.name}", repair):
        found = _status(small)
        told = [problem["found"] for problem in found["problems"]]
        assert f"the service {service.name} is inactive" in told
        for health in service.health:
            text = f"{service.name} does not work ({health.probe})"
            assert [problem for problem in told if problem.startswith(text)]
            assert bool([reason for reason in _reasons(found) if reason.startswith(text)]) is health.to_receive


def test_hanging_services_with_open_ports_are_all_named_in_time(small: Machine) -> None:
    # Their processes live, systemd calls them active, and the kernel goes on accepting connections for them.
    signal = "systemctl kill --signal={} " + " ".join(service.name for service in _ASKED)
    with _damage(small, signal.format("SIGSTOP"), signal.format("SIGCONT")):
        for port in (25, 993):
            small.run("python3", "-c", f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)")
        found = _status(small)
        for service in found["services"]:
            assert service["unit"]["state"] == "active"
            for probed in service["probes"]:
                assert not probed["good"], probed
                assert re.search(r"no answer within|not done within", probed["text"]), probed
        named = {reason.split()[0] for reason in _reasons(found)}
        assert named == {service.name for service in _ASKED if any(health.to_receive for health in service.health)}


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ("mv {key} /data/kept", "dp1-rsa.example.com.key is missing"),
        ("cp {key} /data/kept; echo rubbish > {key}", "read"),
    ],
)
def test_a_key_that_cannot_sign_is_named(small: Machine, damage: str, text: str) -> None:
    key = "/data/dkim/dp1-rsa.example.com.key"
    with _damage(small, damage.format(key=key), f"cat /data/kept > {key}; chgrp _rspamd {key}; chmod 0640 {key}"):
        (problem,) = [entry for entry in _status(small)["problems"] if "not signed with every key" in entry["found"]]
    assert text in problem["found"]
    assert "darkpipe dkim" in problem["remedy"]
    assert not [entry for entry in _status(small)["problems"] if "signed" in entry["found"]]


def _fill(machine: Machine, free: int) -> None:
    """Leave so many bytes free on the data disk."""
    for _ in range(20):
        now = os.statvfs(machine.data)
        length = now.f_bavail * now.f_frsize - free
        if length <= 0:
            return
        refused = machine.run("fallocate", "--length", str(length), "/data/filler", check=False)
        if not refused:
            return
        # Somebody has written between the two calls.
        assert "No space left" in refused, refused
    raise AssertionError("the machine takes the room faster than it can be filled")


@pytest.mark.parametrize(
    ("free", "postfix_refuses"),
    [(LEAST_FREE - 2**24, False), (_POSTFIX_NEEDS - 2**24, True), (0, True)],
    ids=["little", "less-than-postfix-wants", "nothing"],
)
def test_a_full_disk_is_named(small: Machine, free: int, postfix_refuses: bool) -> None:
    with _damage(small, "true", "rm -f /data/filler"):
        _fill(small, free)
        found = _status(small)
        reasons = _reasons(found)
        assert [reason for reason in reasons if reason.startswith("the data disk is full")]
        # A full disk is not a broken one.
        assert not [problem for problem in found["problems"] if "replace" in problem["remedy"]]
        assert bool([reason for reason in reasons if "452" in reason]) is postfix_refuses


def test_a_full_disk_loses_no_letter(small: Machine) -> None:
    """What was taken before waits in the queue, what comes is refused for now, and all arrives when there is room."""
    with small.lan() as client, _damage(small, "true", "rm -f /data/filler; systemctl start dovecot"):
        small.run("systemctl", "stop", "dovecot")
        taken = [_letter(client, f"before-{number}", 500_000) for number in range(3)]
        _fill(small, 0)
        small.run("systemctl", "start", "dovecot", check=False)
        small.run("postqueue", "-f")
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            _letter(client, "while", 0)
        assert refused.value.smtp_code == 452
        wait_for(lambda: _count(small, "status=deferred") >= len(taken), "each was tried", 60)
        small.run("rm", "-f", "/data/filler")
        small.run("postqueue", "-f")
        taken.append(_letter(client, "after", 0))
        wait_for(lambda: set(taken) <= _subjects(small), "all have arrived", 120)
        assert _count(small, "status=bounced") == 0


def _letter(client: Client, subject: str, size: int) -> str:
    sender, recipient = "a@example.net", "alice@example.com"
    body = ("x" * 98 + "\r\n") * (size // 100 + 1)
    with client.call(smtplib.SMTP, HOME_ADDRESS, 25, "client.example.net", 30) as session:
        session.sendmail(sender, recipient, mail.letter(subject, sender, recipient, body))
    return subject


def _count(machine: Machine, text: str) -> int:
    return machine.run("journalctl", "--no-pager", "--unit=postfix*").count(text)


def _subjects(machine: Machine) -> set[str]:
    found = machine.run(
        "doveadm", "fetch", "-u", "alice@example.com", "hdr.subject", "mailbox", "*", "all", check=False
    )
    return {line.removeprefix("hdr.subject: ").strip() for line in found.splitlines() if line.startswith("hdr.subject")}


def test_a_queue_that_cannot_be_written_is_named(small: Machine) -> None:
    folder = "/data/queue/incoming"
    with _damage(small, f"chmod 0500 {folder}", f"chmod 0700 {folder} && systemctl restart postfix"):
        (reason,) = _reasons(_status(small))
        assert reason.startswith("postfix does not work (smtp)")


def test_a_disk_that_cannot_be_written_is_named(small: Machine) -> None:
    reasons = _reasons(_status(small, "mount -o remount,bind,ro /data"))
    assert [reason for reason in reasons if "cannot be written" in reason and "Read-only file system" in reason]


def test_a_disk_that_is_not_there_is_named(small: Machine) -> None:
    script = ("mount -t tmpfs tmpfs /data", "trap 'ls -A /data >/run/left-on-data' EXIT")
    reasons = _reasons(_status(small, *script))
    assert "the data disk is not mounted" in reasons
    assert "no configuration is in force yet" in reasons
    assert small.run("cat", "/run/left-on-data").strip() == ""


def test_without_systemd_the_status_still_answers(small: Machine) -> None:
    found = _status(small, "mount -t tmpfs tmpfs /run")
    assert {service["unit"]["state"] for service in found["services"]} == {"unknown"}
    assert [reason for reason in _reasons(found) if "(lmtp)" in reason]


def test_a_failed_unit_that_is_no_service_of_the_stack_is_named(small: Machine) -> None:
    small.run("systemd-run", "--quiet", "--unit=test-fails", "false")
    small.run("timeout", "20", "sh", "-c", "until systemctl is-failed --quiet test-fails; do sleep 0.1; done")
    try:
        found = _status(small)
        assert "the unit test-fails.service has failed" in [problem["found"] for problem in found["problems"]]
        assert found["ready"]
    finally:
        small.run("systemctl", "reset-failed", "test-fails")


def test_a_refused_configuration_is_named_until_the_next_good_one(small: Machine) -> None:
    refuse = "mount --bind /bin/false /usr/bin/doveconf && darkpipe alias add late@example.com alice@example.com"
    small.run("unshare", "--mount", "sh", "-c", refuse, check=False)
    found = _status(small)
    assert found["configuration"]["refused"]
    assert found["ready"]
    assert [problem for problem in found["problems"] if "was refused" in problem["found"]]
    small.run("darkpipe", "apply")
    assert not _status(small)["configuration"]["refused"]
    # An apply that is still at work has refused nothing.
    small.run("mkdir", "-p", "/data/darkpipe/config/.new-test/postfix")
    held = "flock --exclusive /data/darkpipe/.lock sh -c 'darkpipe status --json || true'"
    assert not json.loads(small.run("sh", "-c", held))["configuration"]["refused"]
    small.run("darkpipe", "apply")


def test_one_probe_can_be_asked_alone(small: Machine) -> None:
    _wait_until_ready(small)
    for service in STACK.services:
        for health in service.health:
            assert health.target in small.run("darkpipe", "probe", str(health.probe), health.target)
    refused = small.run("sh", "-c", "darkpipe probe lmtp /run/nobody; echo exit status $?")
    assert "exit status 1" in refused
    assert "Traceback" not in refused
