"""The queue's bucket on a true S3 server, and on one that fails, stalls and lies."""

from __future__ import annotations

import os
import smtplib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from io import BytesIO
from pathlib import Path

import pyrage
import pytest

from home.bucket import Bucket
from model.bucket import HEAD
from model.control import QueuedItem, QueueSettings
from model.envelope import Envelope
from model.recipients import DomainRule, RecipientList
from model.s3 import Mode, S3Settings
from model.s3_objects import Objects, open_store
from relay.place import PlaceError
from relay.room import SpoolFullError
from relay.s3 import Rhythm, S3Place
from relay.spool import Spool
from tests.network.conftest import scratch_folder
from tests.s3.proxy import WHEN_READ, WHEN_WRITTEN, Call, Fault, FaultProxy
from tests.s3.server import ACCESS_KEY, BUCKET, SECRET_KEY, Server, running_server

_HOME = pyrage.x25519.Identity.generate()
_KEYS = [str(_HOME.to_public())]
_PATIENCE = 0.4
_QUICK = Rhythm(soon=0.01, pauses=(0.05,))
_SETTINGS = S3Settings(
    "", BUCKET, ACCESS_KEY, SECRET_KEY, str(pyrage.x25519.Identity.generate()), Mode.OVERFLOW, prefix="darkpipe/"
)
_ENVELOPE = Envelope("sender@example.net", (("alice@example.com", {}),), False, {}, {}, 1_795_478_400_000)
_MESSAGE = os.urandom(700_000)
"""More than two pieces."""


@pytest.fixture(scope="module")
def server_folder() -> Iterator[Path]:
    with scratch_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def server(server_folder: Path) -> Iterator[Server]:
    with running_server(server_folder) as running:
        yield running


@dataclass
class Relay:
    """A relay's store with a bucket behind a proxy; without room on its own disk."""

    folder: Path
    proxy: FaultProxy
    settings: S3Settings
    budget: int = 0
    spool: Spool = field(init=False)
    place: S3Place = field(init=False)

    def start(self) -> None:
        self.spool = Spool(self.folder, _KEYS, self.budget)
        objects = Objects(open_store(self.settings, _PATIENCE), self.settings.prefix)
        self.place = S3Place(self.settings, self.folder, self.spool.epoch, objects=objects, rhythm=_QUICK)
        self.spool.use(_KEYS, self.budget, self.place)
        self.place.start(self.spool.held_elsewhere(self.place))
        self.wait()

    def wait(self) -> None:
        _until(lambda: self.place.has_room(0))

    def store(self, message: bytes = _MESSAGE) -> QueuedItem:
        with self.spool.room(len(message)) as room:
            return self.spool.store(_ENVELOPE, BytesIO(message), room)

    def read(self, item: QueuedItem) -> bytes:
        content = self.spool.open(item.id)
        octets = content.file.read_bytes() if content.file else b"".join(content.pieces)
        opened = BytesIO(pyrage.decrypt(octets, [_HOME]))
        assert Envelope.read(opened).recipients == _ENVELOPE.recipients
        return opened.read()

    def objects(self) -> set[str]:
        """What is in the bucket of this relay, past the proxy."""
        status = self.place.status()
        assert status
        store = open_store(replace(self.settings, endpoint=f"http://127.0.0.1:{self.proxy.upstream}"))
        return set(Objects(store, self.settings.prefix).names(status.folder))


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    with scratch_folder() as folder, FaultProxy(server.port).running() as proxy:
        made = Relay(folder, proxy, replace(_SETTINGS, endpoint=proxy.endpoint))
        made.start()
        yield made
        made.place.stop()


def _until(true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.01)


def _at(number: int, method: str, fault: Fault) -> Callable[[Call], Fault | None]:
    """Plan a fault for one of the requests of a method, counted from now, and for its repeats."""
    seen: list[str] = []

    def plan(call: Call) -> Fault | None:
        if call.method != method:
            return None
        if call.path not in seen:
            seen.append(call.path)
        return fault if seen.index(call.path) == number else None

    return plan


def test_what_the_disk_has_no_room_for_lies_in_the_bucket_and_goes_when_home_has_it(relay: Relay) -> None:
    items = [relay.store(bytes([number]) * 1000) for number in range(3)]
    assert relay.spool.items() == items
    assert relay.spool.usage()[1] == 0
    relay.place.stop()
    relay.start()
    assert [relay.read(item) for item in items] == [bytes([number]) * 1000 for number in range(3)]
    for item in items:
        relay.spool.remove(item.id)
    _until(lambda: relay.objects() == {HEAD})
    assert relay.spool.items() == []


@pytest.mark.parametrize("fault", WHEN_WRITTEN)
@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_store_that_does_not_take_a_piece_or_a_record_is_a_452(relay: Relay, number: int, fault: Fault) -> None:
    """Three pieces are put, a page and the head; of the pieces, one stands for all."""
    kept = relay.store(b"kept")
    objects = relay.objects()
    relay.proxy.plan = _at(number, "PUT", fault)
    begun = time.monotonic()
    with pytest.raises(SpoolFullError):
        relay.store()
    assert time.monotonic() - begun < 6 * _PATIENCE
    assert relay.spool.items() == [kept]
    relay.proxy.plan = lambda call: None
    relay.wait()
    _until(lambda: len(relay.objects()) == len(objects))
    assert relay.read(kept) == b"kept"


@pytest.mark.parametrize("fault", WHEN_READ)
@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_store_that_does_not_give_back_what_it_took_is_a_452(relay: Relay, number: int, fault: Fault) -> None:
    kept = relay.store(b"kept")
    relay.proxy.plan = _at(number, "GET", fault)
    begun = time.monotonic()
    with pytest.raises(SpoolFullError):
        relay.store()
    assert time.monotonic() - begun < 6 * _PATIENCE
    assert relay.spool.items() == [kept]
    relay.proxy.plan = lambda call: None
    relay.wait()
    assert relay.read(relay.store()) == _MESSAGE


@pytest.mark.parametrize("fault", [*WHEN_READ, Fault.OLDER])
def test_home_never_gets_other_octets(relay: Relay, fault: Fault) -> None:
    item = relay.store()
    relay.proxy.plan = lambda call: fault if call.method == "GET" else None
    if fault is Fault.OLDER:  # the positive control: the first answer is the right one
        assert relay.read(item) == _MESSAGE
        return
    with pytest.raises(PlaceError):
        relay.read(item)
    relay.proxy.plan = lambda call: None
    assert relay.read(item) == _MESSAGE


def test_a_store_without_answer_costs_each_sender_but_the_first_nothing(relay: Relay) -> None:
    relay.proxy.plan = lambda call: Fault.STALL
    with pytest.raises(SpoolFullError):
        relay.store()
    begun = time.monotonic()
    with pytest.raises(SpoolFullError):
        relay.store()
    assert time.monotonic() - begun < _PATIENCE / 2
    assert "S3 store has failed" in relay.place.faults()[0].found


def test_wrong_keys_are_told_without_them(server: Server) -> None:
    with scratch_folder() as folder:
        settings = replace(_SETTINGS, endpoint=server.endpoint, secret_key="wrong-secret")
        place = S3Place(settings, folder, "e" * 32, rhythm=_QUICK)
        place.start(())
        _until(lambda: bool(place.faults()))
        place.stop()
    told = place.faults()[0].found
    assert "wrong-secret" not in told
    assert "AGE-SECRET" not in told
    assert "403" in told


# ---- The service as a whole

_LARGE = 25 * 2**20
_SENDERS_PATIENCE = 60.0
"""Seconds for which a sender that was told to come again does so."""
_MOST_MEMORY = 48 * 1024
"""KiB that the queue may take (design §5)."""


@dataclass
class Service:
    """The queue's service, with settings that name the bucket."""

    folder: Path
    settings: S3Settings
    budget: int
    process: subprocess.Popen[str] = field(init=False)
    port: int = 0

    def __post_init__(self) -> None:
        (self.folder / "config").mkdir(exist_ok=True)
        (self.folder / "queue").mkdir(exist_ok=True)
        told = QueueSettings(
            1, "mx.example.com", ("example.com",), "queue", tuple(_KEYS), self.budget, s3=asdict(self.settings)
        )
        (self.folder / "config/settings.json").write_bytes(told.to_json())
        people = RecipientList.make(1, {"example.com": DomainRule()}, ["alice@example.com"])
        (self.folder / "config/recipients.json").write_text(people.text(), encoding="utf-8")

    def start(self) -> None:
        command: list[str | Path] = [sys.executable, "-m", "relay.service", "--config", self.folder / "config"]
        command += ["--spool", self.folder / "queue", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.port = int(self.process.stdout.readline().split("port ")[1].split(",")[0])

    def kill(self) -> None:
        with self.process:
            self.process.kill()

    def send(self, message: bytes) -> None:
        with smtplib.SMTP("127.0.0.1", self.port, timeout=60) as client:
            client.sendmail("sender@example.net", ["alice@example.com"], message)

    def memory(self) -> int:
        """Give the most that it has taken, in KiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(text.partition("VmHWM:")[2].split()[0])


@pytest.fixture
def service(server: Server) -> Iterator[Service]:
    with scratch_folder() as folder, ExitStack() as stack:
        made = Service(folder, replace(_SETTINGS, endpoint=server.endpoint, prefix="service/"), budget=100_000)
        made.start()
        stack.callback(made.kill)
        yield made


def test_four_large_messages_at_once_leave_the_service_small(service: Service) -> None:
    message = b"Subject: large\r\n\r\n" + (b"x" * 76 + b"\r\n") * (_LARGE // 78)
    threads = [threading.Thread(target=service.send, args=(message,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list((service.folder / "queue").glob("*.away"))) == 4
    assert service.memory() < _MOST_MEMORY


def test_what_was_answered_with_250_is_whole_after_a_kill_at_any_time(service: Service, server: Server) -> None:
    """Some messages lie on the disk, and most in the bucket; the bucket has nothing else after the next start."""
    taken: list[int] = []

    def send(number: int) -> None:
        message = f"Subject: {number}\r\n\r\n".encode() + bytes([65 + number % 26]) * 40_000
        end = time.monotonic() + _SENDERS_PATIENCE
        while time.monotonic() < end:
            try:
                service.send(message)
            except (smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused):
                time.sleep(0.05)  # there is no room, or nothing is known of the bucket yet
            except OSError:
                return  # it was killed
            else:
                taken.append(number)
                return

    def some_are_taken(goal: int, sent: list[threading.Thread]) -> bool:
        return len(taken) > goal or not any(thread.is_alive() for thread in sent)

    for kill in range(4):
        threads = [threading.Thread(target=send, args=(10 * kill + one,)) for one in range(10)]
        goal = len(taken) + kill
        for thread in threads:
            thread.start()
        _until(partial(some_are_taken, goal, threads))
        service.kill()
        for thread in threads:
            thread.join()
        service.start()
    service.kill()
    with FaultProxy(server.port).running() as proxy:
        relay = Relay(service.folder / "queue", proxy, service.settings, service.budget)
        relay.start()
        kept = [int(relay.read(item).split()[1]) for item in relay.spool.items()]
        _until(lambda: relay.objects() == set(relay.place._records.names()))
        relay.place.stop()
    assert taken
    assert set(taken) <= set(kept)


def _holding(folder: Path, texts: Sequence[bytes]) -> set[bytes]:
    """Say which texts stand in any file, in its name, or in its attributes."""
    found = [
        str(path).encode() + (path.read_bytes() if path.is_file() else b"") + _attributes(path)
        for path in folder.rglob("*")
    ]
    return {text for text in texts if any(text in content for content in found)}


def _attributes(path: Path) -> bytes:
    return b"".join(name.encode() + os.getxattr(path, name) for name in os.listxattr(path))


@pytest.mark.parametrize("mode", Mode)
def test_nothing_in_the_bucket_leads_to_a_person(server: Server, server_folder: Path, mode: Mode) -> None:
    """Neither content nor names nor what the store keeps besides, its log included; with a positive control."""
    canaries = (b"canary-subject", b"canary-body", b"sender@example.net", b"alice@example.com", b"127.0.0.1")
    prefix = f"canary-{mode}/"
    settings = replace(_SETTINGS, endpoint=server.endpoint, prefix=prefix, mode=mode)
    letter = b"Subject: canary-subject\r\n\r\n" + b"canary-body\r\n" * 50_000
    with scratch_folder() as folder, ExitStack() as stack:
        service = Service(folder, settings, budget=10**9 if mode is Mode.WRITE_THROUGH else 1000)
        service.start()
        stack.callback(service.kill)
        _until(partial(_sent, service, letter))
        bucket = server_folder / "buckets" / BUCKET / prefix
        stored = [path for path in bucket.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in stored) > len(letter)
        assert _holding(bucket, canaries) == _holding(server_folder, canaries[:-1]) == set()
        objects = Objects(open_store(settings), settings.prefix)
        planted = {**{f"planted-{number}": canary for number, canary in enumerate(canaries)}, "planted-name": b"x"}
        for name, content in planted.items():
            objects.put(name, content)
        assert _holding(bucket, (*canaries, b"planted-name")) == {*canaries, b"planted-name"}
        objects.delete(list(planted))


def test_mail_outlives_the_relay_when_everything_goes_into_the_bucket(server: Server) -> None:
    """The relay and its disk are gone; home has nothing but the bucket."""
    settings = replace(_SETTINGS, endpoint=server.endpoint, prefix="through/", mode=Mode.WRITE_THROUGH)
    messages = [f"Subject: {number}\r\n\r\n".encode() + os.urandom(300_000).hex().encode() for number in range(5)]
    with scratch_folder() as folder:
        service = Service(folder, settings, budget=10**9)
        service.start()
        for message in messages:
            _until(partial(_sent, service, message))
        service.kill()
    bucket = Bucket(Objects(open_store(settings), settings.prefix), settings.seal, {})
    ((leftover,), problems) = bucket.leftovers()
    assert (problems, leftover.problems) == ([], ())
    found = []
    for item in leftover.items:
        into = BytesIO()
        bucket.download(leftover.folder, item, into)
        opened = BytesIO(pyrage.decrypt(into.getvalue(), [_HOME]))
        Envelope.read(opened)
        found.append(opened.read())
    assert found == [message + b"\r\n" for message in messages]
    bucket.remove(leftover.folder, leftover.items)
    bucket.close(leftover)
    assert bucket.leftovers() == ([], [])


def _sent(service: Service, message: bytes) -> bool:
    """Send a message as a sender does who comes again: at first the relay has not looked at its bucket."""
    try:
        service.send(message)
    except smtplib.SMTPResponseException as error:
        if error.smtp_code == 452:
            return False
        raise
    return True
