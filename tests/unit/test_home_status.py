"""The status of a device: readings of real-shaped output, and which of them are problems."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from home import status as status_module
from home.readings import (
    Clock,
    Configuration,
    Disk,
    Queue,
    Unit,
    parse_device_stats,
    parse_queue,
    read_configuration,
    read_disk,
)
from home.status import LEAST_FREE, Status, read_status, readiness
from home.status_cli import lines
from home.store import Store
from stack.certificate import Certificate, CertificateError
from stack.component import Health, Service
from stack.health import Finding
from stack.probes import ProbeKind
from stack.stack import Stack
from tests.unit.stack_samples import sample_stack

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)

_SERVICE = Service(name="one")
_LMTP = Health(probe=ProbeKind.LMTP, target="/run/one", to_receive=True)
_IMAPS = Health(probe=ProbeKind.IMAPS, target="127.0.0.1:993")


def _disk(**changes: object) -> Disk:
    good = {"size": 32 * 10**9, "free": 20 * 10**9, "writable": True, "errors": {"write_io_errs": 0}}
    return Disk.model_validate(good | changes)


class World:
    """What the readings find; a test changes one of them."""

    def __init__(self) -> None:
        self.disk: Disk | None = _disk()
        self.queue: Queue | None = Queue(messages={"active": 0, "deferred": 2}, oldest_seconds=3600)
        self.units = [Unit(name="one", state="active", since=NOW), Unit(name="two", state="active", since=NOW)]
        self.findings = [Finding(_SERVICE, _LMTP, True, "fine"), Finding(_SERVICE, _IMAPS, True, "fine")]
        self.configuration = Configuration(generation="4f0c", refused=False)
        self.clock = Clock(now=NOW, synchronized=True)
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
    monkeypatch.setattr(status_module, "examine", lambda _: tuple(made.findings))
    monkeypatch.setattr(status_module, "read_configuration", lambda _: made.configuration)
    monkeypatch.setattr(status_module, "read_clock", lambda: made.clock)
    monkeypatch.setattr(status_module, "read_certificate", made.read_certificate)
    return made


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """A stack of two services."""
    return sample_stack(tmp_path)


def _status(stack: Stack) -> Status:
    return read_status(stack, Store())


@pytest.mark.usefixtures("world")
def test_a_good_device_is_ready_and_has_no_problems(stack: Stack) -> None:
    found = _status(stack)
    assert found.ready
    assert not found.problems
    assert next(iter(lines(found))) == "ready: mail is taken"
    assert Status.model_validate_json(found.model_dump_json()) == found


def _break_probe(world: World) -> None:
    world.findings[0] = Finding(_SERVICE, _LMTP, False, "no answer within 10 s")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda world: setattr(world, "disk", None), "the data disk is not mounted"),
        (lambda world: setattr(world, "disk", _disk(writable=False)), "cannot be written"),
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
    verdict = readiness(stack, Store())
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
        (lambda world: setattr(world, "disk", _disk(errors={"read_io_errs": 3})), "3 read_io_errs"),
        (lambda world: setattr(world, "queue", None), "cannot list its queue"),
        (lambda world: setattr(world, "queue", Queue(messages={}, oldest_seconds=200_000)), "for 2 days"),
        (lambda world: setattr(world, "configuration", Configuration(generation="a", refused=True)), "was refused"),
        (lambda world: setattr(world, "clock", Clock(now=NOW, synchronized=False)), "no time server"),
        (lambda world: setattr(world, "certificate", None), "no certificate"),
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


def test_a_clock_that_nobody_knows_of_is_no_problem(world: World, stack: Stack) -> None:
    world.clock = Clock(now=NOW, synchronized=None)
    assert not _status(stack).problems


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


def test_errors_of_all_devices_are_added_up() -> None:
    text = "[/dev/vda5].write_io_errs    1\n[/dev/vda5].read_io_errs     0\n[/dev/vdb].write_io_errs   2\n"
    assert parse_device_stats(text) == {"write_io_errs": 3, "read_io_errs": 0}
    assert parse_device_stats("ERROR: not a btrfs filesystem: /data\n") == {}


def test_disk_is_read_and_tried(tmp_path: Path) -> None:
    assert read_disk(tmp_path) is None
    (tmp_path / "darkpipe").mkdir()
    found = read_disk(tmp_path)
    assert found is not None
    assert found.writable
    assert 0 < found.free <= found.size
    assert not list((tmp_path / "darkpipe").iterdir())


def test_refused_configuration_is_seen(tmp_path: Path) -> None:
    (tmp_path / "4f0c").mkdir()
    (tmp_path / "current").symlink_to("4f0c")
    assert read_configuration(tmp_path) == Configuration(generation="4f0c", refused=False)
    (tmp_path / ".new-77aa/postfix").mkdir(parents=True)
    assert read_configuration(tmp_path) == Configuration(generation="4f0c", refused=True)
