"""The queue as a process: what it has taken is there after it was killed, and signals do what they should."""

from __future__ import annotations

import hashlib
import json
import signal
import smtplib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pyrage
import pytest

from builder.build import SOURCE
from builder.greeting import free_port
from home.control_client import ControlClient, Home
from home.control_errors import Refused
from model.control import Page, QueueSettings, QueueStatus
from model.control_tls import Pins, certificate_command, certificate_of
from model.recipients import DomainRule, RecipientList
from relay.queue import RECIPIENTS, SETTINGS
from relay.spool import Spool
from tests.machine.machine import wait_for
from tests.sealed import sealed

_HOME = pyrage.x25519.Identity.generate()
_KEY = str(_HOME.to_public())


@dataclass
class Service:
    """The service, off at first."""

    folder: Path
    port: int
    process: subprocess.Popen[str] | None = None

    def push(self, version: int, *addresses: str) -> None:
        """Put a list of recipients there, as the agent does."""
        text = RecipientList.make(version, {"example.com": DomainRule()}, addresses).text()
        (self.folder / RECIPIENTS).write_text(text)

    def configure(self, version: int = 1, policy: str = "queue", key: str = _KEY) -> None:
        """Put settings there."""
        settings = QueueSettings(version, "mx.example.com", ("example.com",), policy, (key,), 10**9)
        (self.folder / SETTINGS).write_bytes(settings.to_json())

    def start(self, *more: str) -> None:
        options = ["--config", str(self.folder), "--spool", str(self.folder / "spool")]
        options += ["--listen", f"127.0.0.1:{self.port}"]
        self.close()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "relay.service", *options, *more],
            cwd=SOURCE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_for(self._answers, "the service")

    def _answers(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.said()
        try:
            self.client().close()
        except OSError:
            return False
        return True

    def client(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.port, "sender.example.net", 30)

    def end(self, number: signal.Signals) -> int:
        """Send a signal and give the exit status."""
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(30)

    def close(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout
            self.process.stdout.close()

    def said(self) -> str:
        assert self.process
        assert self.process.stdout
        return self.process.stdout.read()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "spool").mkdir(mode=0o700)
    made = Service(tmp_path, free_port())
    made.configure()
    yield made
    made.close()


def _subjects(folder: Path) -> dict[str, str]:
    """Give names by subjects."""
    spool, found = Spool(folder, [_KEY], 10**9), {}
    for item in spool.items():
        text = pyrage.decrypt(sealed(spool, item.id), [_HOME])
        subject = text.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode()
        assert subject not in found, "a message that was sent once is there twice"
        found[subject] = item.id
    return found


def test_what_was_acknowledged_is_there_after_a_kill(service: Service, tmp_path: Path) -> None:
    service.push(1, "alice@example.com")
    acknowledged: list[str] = []
    begun = threading.Barrier(5)

    def send(name: int) -> None:
        with service.client() as client:
            begun.wait(30)
            for number in range(10_000):
                subject = f"{name}-{number}"
                text = f"Subject: {subject}\r\n\r\n{'x' * 20_000}\r\n"
                try:
                    client.sendmail("a@example.net", ["alice@example.com"], text)
                except (smtplib.SMTPException, OSError):
                    return
                acknowledged.append(subject)

    for _ in range(3):
        service.start()
        before = len(acknowledged)
        threads = [threading.Thread(target=send, args=(name + 10 * before,)) for name in range(4)]
        for thread in threads:
            thread.start()
        begun.wait(30)
        wait_for(lambda: len(acknowledged) > before + 20, "messages")  # noqa: B023 (called in this round)
        assert service.end(signal.SIGKILL) == -signal.SIGKILL
        for thread in threads:
            thread.join()
    stored = _subjects(tmp_path / "spool")
    assert set(acknowledged) <= set(stored)
    Spool(tmp_path / "spool", [_KEY], 10**9).remove(stored[acknowledged[0]])
    assert set(acknowledged) - set(_subjects(tmp_path / "spool")) == {acknowledged[0]}, "the control: one goes unseen"


def test_a_list_may_come_later(service: Service) -> None:
    service.start()
    with service.client() as client:
        client.ehlo()
        client.mail("a@example.net")
        assert client.rcpt("alice@example.com")[0] == 450
        service.push(1, "alice@example.com")
        assert service.process
        service.process.send_signal(signal.SIGHUP)
        wait_for(lambda: client.rcpt("alice@example.com")[0] == 250, "the list")
        (service.folder / RECIPIENTS).write_text("garbage")
        service.process.send_signal(signal.SIGHUP)
        assert client.rcpt("bob@example.com")[0] == 550
        assert client.rcpt("alice@example.com")[0] == 250
    assert service.end(signal.SIGTERM) == 0
    assert "what was in force stays so" in service.said()


def test_with_another_policy_nothing_is_kept(service: Service, tmp_path: Path) -> None:
    service.push(1, "alice@example.com")
    service.configure(policy="tempfail")
    service.start()
    with service.client() as client:
        client.ehlo()
        client.mail("a@example.net")
        assert (client.rcpt("alice@example.com")[0], client.rcpt("bob@example.com")[0]) == (451, 550)
    assert Spool(tmp_path / "spool", [_KEY], 10**9).items() == []


def test_sigterm_ends_it_with_a_client_there(service: Service) -> None:
    service.start()
    client = service.client()
    assert service.end(signal.SIGTERM) == 0
    with pytest.raises(smtplib.SMTPServerDisconnected):
        client.ehlo()


def test_a_service_that_serves_nobody_any_more_ends(service: Service) -> None:
    script = (
        "import sys; from relay.front import Front; Front.serve = lambda self: int('canary@example.net');"
        " from relay.service import main; sys.exit(main())"
    )
    options = ["--config", str(service.folder), "--spool", str(service.folder / "spool")]
    options += ["--listen", f"127.0.0.1:{service.port}"]
    command = [sys.executable, "-c", script, *options]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "ValueError" in done.stderr
    assert "relay/service.py" in done.stderr
    assert "canary" not in done.stderr


@pytest.mark.parametrize("wrong", [("--listen", "nowhere"), ("--spool", "/nonexistent"), ("--control", "127.0.0.1:x")])
def test_what_is_wrong_is_told_in_a_line(service: Service, wrong: tuple[str, str]) -> None:
    with pytest.raises(AssertionError, match="darkpipe-queue: ") as told:
        service.start(*wrong)
    text = str(told.value)
    assert wrong[1] in text.partition("assert ")[0]
    assert "Traceback" not in text


def test_settings_may_come_later_and_wrong_ones_change_nothing(service: Service) -> None:
    (service.folder / SETTINGS).unlink()
    service.push(1, "alice@example.com")
    service.start()
    assert service.process

    def answer() -> int:
        with service.client() as client:
            client.ehlo()
            client.mail("a@example.net")
            return client.rcpt("alice@example.com")[0]

    assert answer() == 451
    service.configure(1)
    service.process.send_signal(signal.SIGHUP)
    wait_for(lambda: answer() == 250, "the settings")
    for wrong in ({"policy": "drop"}, {"key": "age1nothing"}):
        service.configure(2, **wrong)
        service.process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert answer() == 250
    service.configure(3, policy="reject")
    service.process.send_signal(signal.SIGHUP)
    wait_for(lambda: answer() == 550, "the settings")


def test_home_takes_what_waits(service: Service, tmp_path: Path) -> None:
    """Through TLS, as the drain does, and in the order of arrival."""
    home, relay = (_keys_of(tmp_path, name) for name in ("home", "relay"))
    (tmp_path / "home.crt").write_text(home[1])
    (tmp_path / "relay.json").write_text(json.dumps({"relay": "2" * 32}))
    (tmp_path / "fence.json").write_text(json.dumps({"home": "1" * 32, "home_epoch": 3}))
    port = free_port()
    service.push(1, "alice@example.com")
    service.start("--control", f"127.0.0.1:{port}", "--own", str(relay[0]), "--home", str(tmp_path / "home.crt"))
    with service.client() as sender:
        for number in range(3):
            sender.sendmail("a@example.net", ["alice@example.com"], f"Subject: {number}\r\n\r\n{'x' * 100_000}\r\n")
    pins = Pins(home[0], relay[1], server=False)
    with ControlClient(("127.0.0.1", port), Home("1" * 32, 3, "2" * 32), pins) as client:
        page = client.request("GET", "/items").message(Page)
        assert [item.sequence for item in page.items] == sorted(item.sequence for item in page.items)
        for number, item in enumerate(page.items):
            client.download(f"/items/{item.id}", into := BytesIO(), item.size)
            octets = into.getvalue()
            assert hashlib.sha256(octets).hexdigest() == item.sha256
            assert b"Subject: %d\r\n" % number in pyrage.decrypt(octets, [_HOME])
            assert client.request("DELETE", f"/items/{item.id}").status == 204
            with pytest.raises(Refused, match="no such item"):
                client.request("DELETE", f"/items/{item.id}")
        status = client.request("GET", "/status").message(QueueStatus)
        assert (status.count, status.octets, status.epoch) == (0, 0, page.epoch)
        assert status.drained is not None
    assert service.end(signal.SIGTERM) == 0
    assert Spool(tmp_path / "spool", [_KEY], 10**9).items() == []


def _keys_of(folder: Path, name: str) -> tuple[Path, str]:
    done = subprocess.run(certificate_command(name), capture_output=True, text=True, check=True)
    (path := folder / f"{name}.pem").write_text(done.stdout)
    return path, certificate_of(done.stdout)
