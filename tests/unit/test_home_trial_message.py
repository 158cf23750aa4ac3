"""The test message: what is handed over, what is kept, and what Postfix's log says became of it."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path

import pytest

from home.desk_facts import read_facts
from home.store import Store, write_accounts
from home.trial_message import SENT, Fate, Message, SendError, look, postfix_log, send, submit_here
from model.problems import Refusal
from stack.certificate import ensure_certificate
from tests.unit.page_samples import NOW
from tests.unit.stack_samples import accounts

_ALICE, _FRIEND = "alice@example.com", "friend@example.net"
_SECRET = "correct horse battery"
_TO = f"to=<{_FRIEND}>, relay=mx.example.net[203.0.113.9]:25, delay=3, delays=1/0/1/1, dsn=%s, status=%s"
_SENT = f"4abc: {_TO % ('2.0.0', 'sent')} (250 2.0.0 Ok: queued as 9)"
_DEFERRED = f"4abc: {_TO % ('4.7.1', 'deferred')} (host mx.example.net[203.0.113.9] said: 451 4.7.1 Greylisted)"
_BOUNCED = f"4abc: {_TO % ('5.1.1', 'bounced')} (host mx.example.net[203.0.113.9] said: 550 5.1.1 No such user)"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A device's, with Alice."""
    made = Store(tmp_path)
    for name in ("darkpipe", "setup"):
        (tmp_path / name).mkdir()
    write_accounts(made.accounts, accounts())
    return made


def _sent(store: Store, said: str = "2.0.0 Ok: queued as 4abc") -> list[tuple[str, str, EmailMessage]]:
    taken: list[tuple[str, str, EmailMessage]] = []

    def submit(user: str, password: str, message: EmailMessage) -> str:
        taken.append((user, password, message))
        return said

    send(store, _ALICE, _SECRET, _FRIEND, submit, NOW)
    return taken


def test_it_goes_from_the_user_with_the_users_password_which_is_not_kept(store: Store) -> None:
    ((user, password, message),) = _sent(store)
    assert (user, password, message["From"], message["To"]) == (_ALICE, _SECRET, _ALICE, _FRIEND)
    assert str(message["Message-ID"]).endswith("@example.com>")
    path = store.data / SENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert _SECRET not in path.read_text()


@pytest.mark.parametrize(
    ("lines", "fate", "reply"),
    [
        ([], Fate.QUEUED, ""),
        (["4abc: from=<alice@example.com>, size=9, nrcpt=1 (queue active)"], Fate.QUEUED, ""),
        ([f"4abd{_SENT[4:]}", "4abc: removed", "noise"], Fate.QUEUED, ""),
        ([_DEFERRED], Fate.DEFERRED, "host mx.example.net[203.0.113.9] said: 451 4.7.1 Greylisted"),
        ([_DEFERRED, _SENT], Fate.SENT, "250 2.0.0 Ok: queued as 9"),
        (
            [_DEFERRED, "4abc: from=<alice@example.com>, status=expired, returned to sender", "4abc: removed"],
            Fate.BOUNCED,
            "host mx.example.net[203.0.113.9] said: 451 4.7.1 Greylisted",
        ),
        ([_BOUNCED], Fate.BOUNCED, "host mx.example.net[203.0.113.9] said: 550 5.1.1 No such user"),
        (
            ["4abc: to=<friend@example.net>, relay=none, status=deferred (no relay is paired)"],
            Fate.DEFERRED,
            "no relay is paired",
        ),
    ],
)
def test_its_fate_is_read_from_the_log(store: Store, lines: list[str], fate: Fate, reply: str) -> None:
    _sent(store)
    told = look(store, lambda _: lines)
    assert told
    assert (told.fate, told.reply) == (fate, reply)
    assert bool(told.server) == bool(reply)


_JOURNALCTL = """\
#!{python}
import json, sys
rows = json.loads({rows!r})
given = set(argument.partition("=")[0] for argument in sys.argv)
# journalctl(1), of --grep= and of --lines=: used with each other, they imply --reverse.
if "--reverse" in given or {{"--grep", "--lines"}} <= given:
    rows.reverse()
for row in rows:
    print(json.dumps({{"MESSAGE": row}}))
"""


def test_a_message_that_was_taken_at_the_second_try_has_arrived(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greylisting, RFC 6647: many servers refuse a stranger's first try for the time being."""
    _sent(store)
    programs = tmp_path / "bin"
    programs.mkdir()
    fake = programs / "journalctl"
    fake.write_text(_JOURNALCTL.format(python=sys.executable, rows=json.dumps([_DEFERRED, _SENT, "4abc: removed"])))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    told = look(store, postfix_log)
    assert told
    assert (told.fate, told.reply) == (Fate.SENT, "250 2.0.0 Ok: queued as 9")


def test_what_is_settled_is_kept_and_not_asked_for_again(store: Store) -> None:
    _sent(store)
    asked: list[Message] = []

    def log(message: Message) -> list[str]:
        asked.append(message)
        return [_SENT]

    assert look(store, log) == look(store, log)
    assert len(asked) == 1


@pytest.mark.parametrize("recipient", ["Alice.O'Brien+tag@example.net", "x=y@example.net"])
def test_an_address_elsewhere_is_taken_as_its_owner_writes_it(store: Store, recipient: str) -> None:
    """Addresses of this home are plainer than those of others (`model.names`)."""
    taken: list[str] = []

    def submit(_user: str, _password: str, message: EmailMessage) -> str:
        taken.append(str(message["To"]))
        return "2.0.0 Ok: queued as 4abc"

    send(store, _ALICE, _SECRET, recipient, submit, NOW)
    assert taken == [recipient]


def test_a_message_to_this_device_is_known_for_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKPIPE_BOOT", "b")
    for recipient, stays in ((_ALICE, True), ("Nobody@example.com", True), (_FRIEND, False)):
        send(store, _ALICE, _SECRET, recipient, lambda *_: "2.0.0 Ok: queued as 4abc", NOW)
        assert read_facts(store, None, lambda _: {}).message_stays is stays


@pytest.mark.parametrize(("sender", "recipient"), [("nobody@example.com", _FRIEND), (_ALICE, "friend"), (_ALICE, "")])
def test_what_cannot_be_sent_is_refused_before_anything(store: Store, sender: str, recipient: str) -> None:
    with pytest.raises(Refusal):
        send(store, sender, _SECRET, recipient, lambda *_: pytest.fail("it was handed over"))
    assert look(store) is None


def test_an_answer_without_a_queue_id_is_told(store: Store) -> None:
    with pytest.raises(SendError, match="it has queued the message"):
        _sent(store, "2.0.0 Thanks")
    assert look(store) is None


@contextmanager
def _port_for_apps(folder: Path, password: str) -> Iterator[int]:
    """What takes a message from Alice, who has this password."""
    ensure_certificate(folder / "mail.pem", ["mail.example.com"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "mail.pem")
    proof = base64.b64encode(f"\0{_ALICE}\0{password}".encode())
    answers = {
        b"EHLO": b"250-mail\r\n250 AUTH PLAIN",
        b"AUTH": b"235 2.7.0 Ok",
        b"DATA": b"354 go on",
        b".": b"250 2.0.0 Ok: queued as 4abc",
        b"QUIT": b"221 Bye",
    }

    def serve() -> None:
        with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
            connection.sendall(b"220 mail ESMTP\r\n")
            for line in connection.makefile("rb"):
                word, _, rest = line.strip().partition(b" ")
                word = word.upper()
                good = word != b"AUTH" or rest == b"PLAIN " + proof
                if word in {b"EHLO", b"AUTH", b"MAIL", b"RCPT", b"DATA", b".", b"QUIT"}:
                    connection.sendall((answers.get(word, b"250 Ok") if good else b"535 5.7.8 no") + b"\r\n")
                if word == b"QUIT":
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


@pytest.mark.parametrize("password", [_SECRET, "grüne Gänse im Nebel", "пароль для почты"])
def test_a_password_in_any_language_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    message = EmailMessage()
    message["To"] = _FRIEND
    with _port_for_apps(tmp_path, password) as port:
        monkeypatch.setattr("home.trial_message._PORT", port)
        assert submit_here(_ALICE, password, message) == "2.0.0 Ok: queued as 4abc"
    with _port_for_apps(tmp_path, password) as port:
        monkeypatch.setattr("home.trial_message._PORT", port)
        with pytest.raises(SendError, match="not the password of alice"):
            submit_here(_ALICE, f"{password}x", message)


def test_no_server_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("home.trial_message._PORT", 1)
    with pytest.raises(SendError, match="does not answer"):
        submit_here(_ALICE, _SECRET, EmailMessage())
