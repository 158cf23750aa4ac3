"""The status of a device: readings of real-shaped output, and which of them are problems."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from home import status as status_module
from home.dns_judges import Outcome
from home.readings import (
    FULL,
    Clock,
    Configuration,
    Disk,
    Image,
    Queue,
    Unit,
    parse_queue,
    read_configuration,
)
from home.restarts import forget, note
from home.room import LEAST_FREE
from home.seen import DNS, PREFLIGHT, Seen
from home.status import Status, read_status, readiness
from home.status_cli import lines
from home.store import Store
from home.tunnel_state import Tunnel
from stack.certificate import Certificate, CertificateError
from stack.component import Health, Service
from stack.health import Finding
from stack.probes import ProbeKind
from stack.stack import Stack
from tests.unit import page_samples as samples
from tests.unit.page_samples import SEEN, preflight
from tests.unit.stack_samples import REPOSITORY, sample_stack

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
BUILT = datetime(2026, 11, 1, tzinfo=UTC)
_LATER = datetime(2026, 12, 1, tzinfo=UTC)

_SERVICE = Service(name="one")
_LMTP = Health(probe=ProbeKind.LMTP, target="/run/one", to_receive=True)
_IMAPS = Health(probe=ProbeKind.IMAPS, target="127.0.0.1:993")


def _disk(**changes: object) -> Disk:
    good = {"size": 32 * 10**9, "free": 20 * 10**9, "write_error": None, "errors": {"write_errs": 0}}
    return Disk.model_validate(good | changes)


class World:
    """What the readings find; a test changes one of them."""

    def __init__(self) -> None:
        self.disk: Disk | None = _disk()
        self.queue: Queue | None = Queue(messages={"active": 0, "deferred": 2}, oldest_seconds=3600)
        self.units = [Unit(name="one", state="active", since=NOW), Unit(name="two", state="active", since=NOW)]
        self.findings = [Finding(_SERVICE, _LMTP, True, "fine"), Finding(_SERVICE, _IMAPS, True, "fine")]
        self.configuration = Configuration(generation="4f0c", refused=False)
        self.failed: tuple[str, ...] = ()
        self.tunnel: Tunnel | None = None
        self.clock = Clock(now=NOW, synchronized=True, kept=True, built=BUILT)
        self.certificate: Certificate | None = Certificate(("mail.example.com",), NOW + timedelta(days=300), True)

    def read_certificate(self, path: Path) -> Certificate:
        if self.certificate is None:
            raise CertificateError(f"{path} holds no certificate")
        return self.certificate


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A device on which all is well."""
    made = World()
    monkeypatch.setattr(status_module, "read_disk", lambda _: made.disk)
    monkeypatch.setattr(status_module, "read_queue", lambda: made.queue)
    monkeypatch.setattr(status_module, "read_units", lambda _: tuple(made.units))
    monkeypatch.setattr(status_module, "examine", lambda *_, **__: tuple(made.findings))
    monkeypatch.setattr(status_module, "read_configuration", lambda _: made.configuration)
    monkeypatch.setattr(status_module, "read_clock", lambda: made.clock)
    monkeypatch.setattr(status_module, "read_certificate", made.read_certificate)
    monkeypatch.setattr(status_module, "read_failed_units", lambda: made.failed)
    monkeypatch.setattr(status_module, "read_tunnel", lambda: made.tunnel)
    monkeypatch.setattr(status_module, "read_image", lambda: Image(version="0.1.0", profile="x64", project="c0ffee"))
    return made


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """A stack of two services."""
    return sample_stack(tmp_path)


def _status(stack: Stack) -> Status:
    return read_status(stack, Store())


def test_settings_that_have_not_taken_effect_are_told_in_full_and_once(
    world: World, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a login, which is among them, nobody reads the journal."""
    world.failed = ("darkpipe-settings.service", "darkpipe-login.service")
    assert len(_status(stack).problems) == 2
    monkeypatch.setattr(status_module, "read_left_out", lambda: "user-data, line 3: found a user named `mail`")
    (problem,) = _status(stack).problems
    assert "user-data, line 3: found a user named `mail`" in problem.found
    world.failed = ()
    assert _status(stack).problems == (), "they have by now"


@pytest.mark.usefixtures("world")
def test_a_good_device_is_ready_and_has_no_problems(stack: Stack) -> None:
    found = _status(stack)
    assert found.ready
    assert not found.problems
    assert next(iter(lines(found))) == "ready: mail is taken"
    assert Status.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("seen", "answer"),
    [
        (Seen(), "ready: mail is taken"),
        (SEEN, "ready: mail is taken"),
        (SEEN.model_copy(update={"preflight": None}), "ready: mail would be taken; whether it comes and goes"),
        (
            SEEN.model_copy(update={"preflight": preflight(Outcome.WRONG)}),
            "ready: mail would be taken; whether it comes and goes",
        ),
    ],
)
def test_nobody_is_told_that_mail_is_taken_before_a_preflight_has_passed(seen: Seen, answer: str) -> None:
    assert next(iter(lines(samples.status(seen=seen)))).startswith(answer)


def test_what_was_looked_at_last_is_part_of_the_status(world: World, stack: Stack, tmp_path: Path) -> None:
    assert world.tunnel is None
    store = Store(tmp_path / "data")
    assert read_status(stack, store).seen == Seen()
    for path, seen in ((DNS, SEEN.dns), (PREFLIGHT, preflight(relay="r"))):
        (store.data / path).parent.mkdir(parents=True)
        (store.data / path).write_text(seen.model_dump_json() if seen else "")
    found = read_status(stack, store).seen
    assert found
    assert (found.dns, found.preflight and found.preflight.outcome) == (SEEN.dns, Outcome.GOOD)
    (store.data / PREFLIGHT).write_text("{")
    (store.data / DNS).write_text("")
    assert read_status(stack, store).seen == Seen()


def _break_probe(world: World) -> None:
    world.findings[0] = Finding(_SERVICE, _LMTP, False, "no answer within 10 s")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda world: setattr(world, "disk", None), "the data disk is not mounted"),
        (lambda world: setattr(world, "disk", _disk(write_error="Input/output error")), "cannot be written: Input"),
        (lambda world: setattr(world, "disk", _disk(write_error=FULL)), "the data disk is full"),
        (lambda world: setattr(world, "disk", _disk(free=LEAST_FREE - 1)), "the data disk is full"),
        (_break_probe, "no answer within 10 s"),
    ],
)
def test_what_keeps_mail_away_makes_it_not_ready(world: World, stack: Stack, damage: object, reason: str) -> None:
    assert callable(damage)
    damage(world)
    found = _status(stack)
    assert not found.ready
    assert [problem.blocks_mail for problem in found.problems] == [True]
    assert reason in found.problems[0].found
    assert found.problems[0].remedy
    verdict = readiness(stack, Path("/data/ready"))
    assert not verdict.ready
    assert reason in verdict.reasons[0]
    assert next(iter(lines(found))).startswith("NOT READY")


def _end_soon(world: World) -> None:
    world.certificate = Certificate(("mail.example.com",), NOW + timedelta(days=13), False)


def _has_ended(world: World) -> None:
    world.certificate = Certificate(("mail.example.com",), NOW - timedelta(days=3), False)


def _stop_a_unit(world: World) -> None:
    world.units[1] = Unit(name="two", state="failed", since=NOW)


def _break_imap(world: World) -> None:
    world.findings[1] = Finding(_SERVICE, _IMAPS, False, "connection refused")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda world: setattr(world, "disk", _disk(free=2 * 10**9)), "nearly full"),
        (lambda world: setattr(world, "disk", _disk(errors={"read_errs": 3})), "3 read_errs"),
        (lambda world: setattr(world, "queue", None), "cannot list its queue"),
        (lambda world: setattr(world, "queue", Queue(messages={}, oldest_seconds=200_000)), "for 2 days"),
        (lambda world: setattr(world, "configuration", Configuration(generation="a", refused=True)), "was refused"),
        (
            lambda world: setattr(
                world, "configuration", Configuration(generation="a", refused=False, waiting=("two",))
            ),
            "two was not restarted",
        ),
        (
            lambda world: setattr(world, "clock", Clock(now=NOW, synchronized=False, kept=True, built=BUILT)),
            "no time server",
        ),
        (lambda world: setattr(world, "certificate", None), "no certificate"),
        (
            lambda world: setattr(world, "clock", Clock(now=NOW, synchronized=True, kept=True, built=_LATER)),
            "was built on 2026-12",
        ),
        (lambda world: setattr(world, "failed", ("two.service", "other.mount")), "the unit other.mount has failed"),
        (_end_soon, "ends in 13 days"),
        (_has_ended, "has ended 3 days ago"),
        (_stop_a_unit, "the service two is failed"),
        (_break_imap, "connection refused"),
    ],
)
def test_other_problems_are_told_and_mail_is_taken(world: World, stack: Stack, damage: object, text: str) -> None:
    assert callable(damage)
    damage(world)
    found = _status(stack)
    assert found.ready
    assert [problem.found for problem in found.problems if text in problem.found]
    assert all(problem.remedy for problem in found.problems)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("synchronized", [True, False])
def test_a_clock_that_stops_without_power_may_be_late_until_a_time_server_has_answered(
    world: World, stack: Stack, synchronized: bool, kept: bool
) -> None:
    world.clock = Clock(now=NOW, synchronized=synchronized, kept=kept, built=BUILT)
    found = _status(stack)
    told = [*(problem.found for problem in found.problems), list(lines(found))[-1]]
    assert all("may be late" in text for text in told) == (not synchronized and not kept)
    assert any("may be late" in text for text in told) == (not synchronized and not kept)
    assert len(told) == (1 if synchronized else 2)


def test_a_clock_that_nobody_knows_of_is_no_problem(world: World, stack: Stack) -> None:
    world.clock = Clock(now=NOW, synchronized=None, kept=False, built=BUILT)
    assert not _status(stack).problems


def _hang(*_: object) -> None:
    threading.Event().wait()


def _break(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize(("read", "why"), [(_hang, "does not answer"), (_break, "Input/output error")])
def test_a_disk_that_hangs_or_fails_holds_nobody_up(
    world: World, stack: Stack, monkeypatch: pytest.MonkeyPatch, read: object, why: str
) -> None:
    monkeypatch.setattr(status_module, "_PATIENCE", 0.5)
    for name in ("read_disk", "read_configuration", "read_certificate"):
        monkeypatch.setattr(status_module, name, read)
    # A busy computer may be as slow with the others.
    monkeypatch.setattr(status_module, "unconfirmed_clock", lambda: world.clock)
    _break_probe(world)
    found = _status(stack)
    blocking = [problem.found for problem in found.problems if problem.blocks_mail]
    assert [text for text in blocking if text.startswith("the data disk cannot be read") and why in text]
    assert [text for text in blocking if "no answer within 10 s" in text]
    assert list(lines(found))
    assert any(why in reason for reason in readiness(stack, Path("/data/ready")).reasons)


def _tunnel(**changes: object) -> Tunnel:
    good = {"relay": "mx.example.com", "up": True, "handshake_seconds": 40, "endpoint": "[2001:db8::1]:51820"}
    return Tunnel.model_validate({**good, "since": NOW - timedelta(hours=3), "error": None, **changes})


def test_a_tunnel_that_is_up_is_shown_and_no_problem(world: World, stack: Stack) -> None:
    world.tunnel = _tunnel()
    found = _status(stack)
    assert not found.problems
    shown = "tunnel         up for 3:00:00, to mx.example.com at [2001:db8::1]:51820, last handshake 40 s ago"
    assert shown in list(lines(found))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"up": False}, "the tunnel to mx.example.com is down since 2026-11-23 09:00 UTC"),
        ({"up": False, "endpoint": None, "error": "no address of it is known"}, "UTC: no address of it is known"),
        ({"error": "Operation not permitted"}, "is troubled: Operation not permitted"),
        ({"up": False, "relay": None, "error": "relay.json is damaged"}, "no tunnel to the relay: relay.json is dam"),
    ],
)
def test_a_tunnel_with_a_fault_is_a_problem_that_keeps_no_mail_away(
    world: World, stack: Stack, changes: dict[str, object], told: str
) -> None:
    world.tunnel = _tunnel(**changes)
    found = _status(stack)
    assert found.ready
    (problem,) = found.problems
    assert told in problem.found
    assert "journalctl -b -u darkpipe-tunnel" in problem.remedy
    assert list(lines(found))


@pytest.mark.usefixtures("world")
def test_what_is_late_is_unknown(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "_PATIENCE", 0.2)
    for name in ("read_queue", "read_clock", "read_units", "read_failed_units"):
        monkeypatch.setattr(status_module, name, _hang)
    monkeypatch.setattr(
        status_module, "unconfirmed_clock", lambda: Clock(now=NOW, synchronized=None, kept=False, built=BUILT)
    )
    found = _status(stack)
    assert found.queue is None
    assert {service.unit.state for service in found.services} == {"unknown"}
    assert list(lines(found))


def test_queue_is_summed_up() -> None:
    listing = (
        '{"queue_name": "deferred", "queue_id": "4Z", "arrival_time": 1000, "message_size": 5, "recipients": []}\n'
        '{"queue_name": "active", "queue_id": "4Y", "arrival_time": 1500, "message_size": 5, "recipients": []}\n'
    )
    found = parse_queue(listing, 1600.0)
    assert found.messages["deferred"] == found.messages["active"] == 1
    assert found.messages["hold"] == 0
    assert found.oldest_seconds == 600
    assert parse_queue("", 1600.0).oldest_seconds is None


def test_refused_configuration_is_seen(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.configurations / "4f0c").mkdir(parents=True)
    (store.configurations / "current").symlink_to("4f0c")
    assert read_configuration(store) == Configuration(generation="4f0c", refused=False)
    (store.configurations / ".new-77aa/postfix").mkdir(parents=True)
    assert read_configuration(store) == Configuration(generation="4f0c", refused=True)
    # An apply that is still at work has refused nothing yet.
    with (store.configurations.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_configuration(store) == Configuration(generation="4f0c", refused=False)
    assert read_configuration(store).refused


def test_services_that_were_not_restarted_are_seen(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.configurations.mkdir(parents=True)
    note(store.restarts, ["postfix", "dovecot"])
    assert read_configuration(store).waiting == (), "they are being restarted"
    earlier = time.time() - 1200
    os.utime(store.restarts, (earlier, earlier))
    assert read_configuration(store).waiting == ("dovecot", "postfix")
    forget(store.restarts)
    assert read_configuration(store).waiting == ()


def test_every_field_of_the_json_is_in_the_documentation() -> None:
    text = (REPOSITORY / "docs/architecture.md").read_text()
    table = text.partition("With `--json`:")[2].partition("\n## ")[0]
    described = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    schema = Status.model_json_schema()
    assert set(described) == set(schema["properties"])
    for name, row in described.items():
        for model in re.findall(r"#/\$defs/(\w+)", json.dumps(schema["properties"][name])):
            assert {field for field in schema["$defs"][model]["properties"] if f"`{field}`" not in row} == set()
