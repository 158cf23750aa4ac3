"""The queue as a process: what it has taken is there after it was killed, and signals do what they should."""

from __future__ import annotations

import signal
import smtplib
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyrage
import pytest

from builder.build import SOURCE
from builder.greeting import free_port
from relay.recipients import DomainRule, RecipientList
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
        """Put a list of recipients there, as home will do."""
        text = RecipientList.make(version, {"example.com": DomainRule()}, addresses).text()
        (self.folder / "recipients").write_text(text)

    def start(self, *more: str) -> None:
        options = ["--name", "mx.example.com", "--spool", str(self.folder / "spool"), "--budget", "1000000000"]
        options += [
            "--recipients",
            str(self.folder / "recipients"),
            "--key",
            _KEY,
            "--listen",
            f"127.0.0.1:{self.port}",
        ]
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
        (service.folder / "recipients").write_text("garbage")
        service.process.send_signal(signal.SIGHUP)
        assert client.rcpt("bob@example.com")[0] == 550
        assert client.rcpt("alice@example.com")[0] == 250
    assert service.end(signal.SIGTERM) == 0
    assert "the recipients stay as they were" in service.said()


def test_with_another_policy_nothing_is_kept(service: Service, tmp_path: Path) -> None:
    service.push(1, "alice@example.com")
    service.start("--policy", "tempfail")
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
        "import sys; from relay.server import Server; Server.serve = lambda self: 1 / 0;"
        " from relay.service import main; sys.exit(main())"
    )
    options = ["--name", "mx.example.com", "--spool", str(service.folder / "spool"), "--budget", "1000", "--key", _KEY]
    options += ["--recipients", str(service.folder / "recipients"), "--listen", f"127.0.0.1:{service.port}"]
    command = [sys.executable, "-c", script, *options]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("wrong", [("--key", "age1nothing"), ("--listen", "nowhere"), ("--spool", "/nonexistent")])
def test_what_is_wrong_is_told_in_a_line(service: Service, wrong: tuple[str, str]) -> None:
    with pytest.raises(AssertionError, match="darkpipe-queue: ") as told:
        service.start(*wrong)
    text = str(told.value)
    assert wrong[1] in text.partition("assert ")[0]
    assert "Traceback" not in text
