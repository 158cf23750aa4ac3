"""From a locked disk, or none, to an open one: the session, its socket, and the conversation on a console."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from firstboot import questions, unlock_dialog
from firstboot.console_code import ConsoleCode
from firstboot.luks import LuksError
from firstboot.recovery import RecoverySecret
from firstboot.unlock_dialog import Dialog, GoneError, Tty
from firstboot.unlock_socket import UnlockClient, serve
from firstboot.unlocking import Refused, Session, Stage
from firstboot.vault import relay_words

_GOOD = "correct horse battery"
_SECRET = RecoverySecret(bytes(16))
_GROUPS = _SECRET.groups


class Disk:
    """What a session does to the disk."""

    def __init__(self) -> None:
        self.made: list[tuple[bytes, RecoverySecret]] = []
        self.tried: list[str] = []
        self.broken = False
        self.now = 100.0

    def make(self, passphrase: bytes, secret: RecoverySecret, tell: Callable[[str], None]) -> None:
        tell("making")
        if self.broken:
            raise LuksError("no space")
        self.made.append((passphrase, secret))

    def unlock(self, typed: str) -> bool:
        self.tried.append(typed)
        if self.broken:
            raise LuksError("not enough memory")
        return typed in {_GOOD, str(_SECRET)}

    def session(self, *, new: bool, refused: str = "", code: ConsoleCode | None = None) -> Session:
        return Session(
            new=new,
            refused=refused,
            make=self.make,
            unlock=self.unlock,
            clock=lambda: self.now,
            secret=lambda: _SECRET,
            asked=lambda: (2, 8),
            code=code,
        )


@pytest.fixture
def disk() -> Disk:
    """A disk."""
    return Disk()


def test_a_new_disk_is_made_once_the_secret_was_typed_back(disk: Disk) -> None:
    session = disk.session(new=True)
    with pytest.raises(Refused, match="choose a passphrase first"):
        session.unlock(_GOOD, stranger=False)
    assert session.choose(_GOOD, "", stranger=False) == _SECRET
    assert session.view().asked == (2, 8)
    for typed in ([], ["", ""], [_GROUPS[7], _GROUPS[1]]) if _GROUPS[7] != _GROUPS[1] else ([],):
        with pytest.raises(Refused, match="groups 2 and 8"):
            session.confirm(typed)
    assert disk.made == []
    assert not session.finished.is_set()
    session.confirm([_GROUPS[1], _GROUPS[7].lower()])
    assert disk.made == [(_GOOD.encode(), _SECRET)]
    assert session.finished.is_set()
    assert session.view().stage is Stage.OPEN
    with pytest.raises(Refused, match="unlocked already"):
        session.choose(_GOOD, "", stranger=False)


@pytest.mark.parametrize(
    ("passphrase", "complaint"),
    [
        ("short", "5 characters"),
        (f" {_GOOD}", "space"),
        (f"{_GOOD}\0", "does not show"),
        (str(_SECRET), "of your own"),
        ("x" * 1025, "1025 characters; a passphrase has 1024 or fewer"),
        (b"f\xfcr elf stille G\xe4nse".decode(errors="replace"), "other than UTF-8"),
        (relay_words(bytes(32)), "begins with darkpipe-relay:"),
    ],
)
def test_a_passphrase_that_is_none_is_refused(disk: Disk, passphrase: str, complaint: str) -> None:
    session = disk.session(new=True)
    with pytest.raises(Refused, match=complaint):
        session.choose(passphrase, "", stranger=False)
    assert session.view().stage is Stage.NEW


def test_one_passphrase_on_every_keyboard(disk: Disk) -> None:
    """An ü may come as one character or as two (Unicode's NFC and NFD)."""
    session = disk.session(new=True)
    session.choose("u\u0308ber sieben Berge", "", stranger=False)
    session.confirm([_GROUPS[1], _GROUPS[7]])
    assert disk.made[0][0] == "\u00fcber sieben Berge".encode()


def test_a_stranger_needs_the_code_of_the_console(disk: Disk) -> None:
    session = disk.session(new=True)
    with pytest.raises(Refused, match="code"):
        session.choose(_GOOD, "", stranger=True)
    assert session.choose(_GOOD, f" {session.code.shown[:4]} {session.code.shown[4:]}", stranger=True) == _SECRET


def test_what_fails_while_it_is_made_ends_the_waiting(disk: Disk) -> None:
    session = disk.session(new=True)
    disk.broken = True
    session.choose(_GOOD, "", stranger=False)
    with pytest.raises(Refused, match="no space"):
        session.confirm([_GROUPS[1], _GROUPS[7]])
    assert session.finished.is_set()
    assert session.view().stage is Stage.FAILED


def test_both_keys_open_it_and_nothing_else(disk: Disk) -> None:
    for key in (_GOOD, str(_SECRET)):
        session = disk.session(new=False)
        with pytest.raises(Refused, match="neither"):
            session.unlock(f"{key}x", stranger=False)
        assert not session.finished.is_set()
        session.unlock(key, stranger=False)
        assert session.finished.is_set()


def test_a_stranger_who_guesses_waits_and_the_owner_does_not(disk: Disk) -> None:
    session = disk.session(new=False)
    for _ in range(3):
        with pytest.raises(Refused, match="neither"):
            session.unlock("guess", stranger=True)
    waits = []
    for _ in range(8):
        waits.append(session.view().wait)
        with pytest.raises(Refused, match="wait"):
            session.unlock("guess", stranger=True)
        disk.now += session.view().wait
        with pytest.raises(Refused, match="neither"):
            session.unlock("guess", stranger=True)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert len(disk.tried) == 11, "what was not heard was not tried"
    session.unlock(_GOOD, stranger=False)


def test_who_guesses_for_a_day_waits_as_long_as_ever(disk: Disk) -> None:
    session = disk.session(new=False)
    for _ in range(1100):
        disk.now += session.view().wait
        with pytest.raises(Refused, match="neither"):
            session.unlock("guess", stranger=True)
    assert session.view().wait == 60


def test_a_disk_that_cannot_be_opened_is_no_wrong_answer(disk: Disk) -> None:
    session = disk.session(new=False)
    disk.broken = True
    for _ in range(5):
        with pytest.raises(Refused, match="not enough memory"):
            session.unlock(_GOOD, stranger=True)
    disk.broken = False
    session.unlock(_GOOD, stranger=True)


def test_one_answer_is_tried_at_a_time(disk: Disk) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(_: str) -> bool:
        inside.set()
        return go_on.wait(10)

    session = Session(new=False, make=disk.make, unlock=slow, clock=lambda: disk.now)
    first = threading.Thread(target=lambda: session.unlock(_GOOD, stranger=False))
    first.start()
    assert inside.wait(10)
    session.patience = 0.01
    with pytest.raises(Refused, match="another answer"):
        session.unlock(_GOOD, stranger=True)
    # Somebody has pressed the button twice: the browser shows what became of the second.
    session.patience = 10.0
    go_on_soon = threading.Timer(0.05, go_on.set)
    go_on_soon.start()
    session.unlock(_GOOD, stranger=True)
    for each in (first, go_on_soon):
        each.join()
    assert session.finished.is_set()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the socket lies."""
    return tmp_path / "run/control"


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Decides who seems to be at the other end."""

    def decide(is_one: bool) -> None:
        monkeypatch.setattr(questions._Connection, "_uid", lambda _: 1234 if is_one else 0)

    return decide


def test_the_socket_asks_the_session(
    disk: Disk, path: Path, stranger: Callable[[bool], None], request: pytest.FixtureRequest
) -> None:
    client = UnlockClient(path)
    with pytest.raises(Refused, match="not waiting"):
        client.see()
    session = disk.session(new=True)
    before = os.umask(0o077)  # as in darkpipe-disk.service
    request.addfinalizer(lambda: os.umask(before))
    with serve(session, "AB:CD", path, group=None):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
        stranger(True)
        assert (client.see().code, client.see().fingerprint) == ("", "AB:CD"), "the code is for the console"
        with pytest.raises(Refused, match="code"):
            client.choose(_GOOD, "00000000" if session.code.shown != "00000000" else "1")
        stranger(False)
        assert client.see().code == session.code.shown
        assert client.choose(_GOOD) == str(_SECRET)
        assert client.see().view.asked == (2, 8)
        client.confirm((_GROUPS[1], _GROUPS[7]))
        assert client.see().view.stage is Stage.OPEN
    assert not path.exists()
    assert disk.made


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"[]\n", b"{}\n", b'{"do": "unlock"}\n', b'{"do": "unlock", "typed": 1}\n']
)
def test_what_is_no_question_is_refused(disk: Disk, path: Path, line: bytes) -> None:
    with serve(disk.session(new=False), "", path, group=None):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
            assert b"refused" in connection.makefile("rb").readline()
        assert UnlockClient(path).see().view.stage is Stage.LOCKED, "it goes on"


def test_who_asks_hears_that_darkpipe_has_failed(
    disk: Disk, path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer at all is what a disk gives that is not locked any more."""

    def fail(_: str) -> bool:
        raise ZeroDivisionError(_GOOD)

    monkeypatch.setattr(disk, "unlock", fail)
    with serve(disk.session(new=False), "", path, group=None):
        with pytest.raises(Refused, match=r"DarkPipe itself has failed \(ZeroDivisionError\)"):
            UnlockClient(path).unlock(_GOOD)
        assert UnlockClient(path).see().view.stage is Stage.LOCKED, "it goes on"
    told = capsys.readouterr().err
    assert "ZeroDivisionError in test_firstboot_unlocking.py" in told
    assert _GOOD not in told, "what was typed is in no log"


def test_a_tool_that_fails_while_the_disk_is_made_is_told_in_its_own_words(disk: Disk) -> None:
    def fail(*_: object) -> None:
        raise subprocess.CalledProcessError(1, ("mkfs.btrfs", "--quiet"), "ERROR: not enough space\n")

    session = Session(new=True, make=fail, unlock=disk.unlock, clock=lambda: 0.0, asked=lambda: (1, 2))
    secret = session.choose(_GOOD, "", stranger=False)
    with pytest.raises(Refused, match=r"^the disk cannot be made: mkfs.btrfs failed: ERROR: not enough space$"):
        session.confirm(secret.groups[:2])
    assert session.view().stage is Stage.FAILED


class Screen:
    """A person with a list of answers; None goes away until it is over."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.shown: list[str] = []
        self.hidden: list[bool] = []

    def show(self, text: str) -> None:
        self.shown.append(text)

    def ask(self, question: str, *, hidden: bool, until: Callable[[], bool]) -> str | None:
        self.shown.append(question)
        self.hidden.append(hidden)
        assert until is not None
        return self.answers.pop(0)


@pytest.fixture
def talk(path: Path) -> Callable[[Screen], bool]:
    """Leads a conversation."""

    def lead(screen: Screen) -> bool:
        client = UnlockClient(path)
        return Dialog(client, screen, "a login", lambda: ("192.168.1.20",), lambda _: None, lambda: "attic").run()

    return lead


def test_a_disk_is_made_on_the_console(disk: Disk, path: Path, talk: Callable[[Screen], bool]) -> None:
    session = disk.session(new=True)
    screen = Screen("short", "short", _GOOD, "other", _GOOD, _GOOD, "x", "y", _GROUPS[1], _GROUPS[7])
    with serve(session, "AB:CD", path, group=None):
        if os.geteuid() != 0:
            pytest.skip("only root is no stranger")
        assert talk(screen)
    text = "\n".join(screen.shown)
    assert "https://192.168.1.20\n" in text
    assert "AB:CD" in text
    assert f"{session.code.shown[:4]} {session.code.shown[4:]}" in text
    assert " ".join(_GROUPS[:4]) in text
    assert "5 characters" in text
    assert "two different passphrases" in text
    assert "Look again" in text
    assert screen.hidden == [True] * 6 + [False] * 4
    assert disk.made == [(_GOOD.encode(), _SECRET)]


def test_a_disk_is_unlocked_on_the_console(disk: Disk, path: Path, talk: Callable[[Screen], bool]) -> None:
    with serve(disk.session(new=False), "AB:CD", path, group=None):
        screen = Screen("wrong", "")
        assert not talk(screen), "an Enter leads to the login"
        assert "neither the passphrase" in "\n".join(screen.shown)
        assert _GOOD not in "\n".join(screen.shown)
        assert talk(Screen(_GOOD))
    assert disk.tried == ["wrong", _GOOD]
    assert talk(Screen()), "with nothing locked there is nothing to talk about"


def test_a_disk_with_anothers_head_is_not_asked_for(disk: Disk, path: Path, talk: Callable[[Screen], bool]) -> None:
    session = disk.session(new=False, refused="its head says cipher_null")
    with serve(session, "AB:CD", path, group=None):
        screen = Screen()
        assert not talk(screen), "the console goes on to the login"
        assert screen.shown == ["DarkPipe: its head says cipher_null"]
        with pytest.raises(Refused, match="somebody else has written to its head"):
            UnlockClient(path).unlock(_GOOD)
        assert not session.offer(lambda: disk.unlock("a stick's key"))
    assert disk.tried == []


def test_the_console_notices_that_somebody_else_was_faster(
    disk: Disk, path: Path, talk: Callable[[Screen], bool]
) -> None:
    session = disk.session(new=False)

    class Slow(Screen):
        def ask(self, question: str, *, hidden: bool, until: Callable[[], bool]) -> str | None:
            super().ask(question, hidden=hidden, until=until)
            assert not until()
            session.unlock(_GOOD, stranger=True)
            assert until()
            return None

    with serve(session, "", path, group=None):
        assert talk(Slow(None))


@pytest.mark.parametrize("answers", [(), (_GOOD,), (_GOOD, _GOOD), (_GOOD, _GOOD, _GROUPS[1])])
def test_a_conversation_ends_when_nobody_types_any_more(
    disk: Disk, path: Path, talk: Callable[[Screen], bool], answers: tuple[str, ...]
) -> None:
    """SSH without a terminal has an end of its input; asking on and on would fill whatever takes the questions."""

    class Ended(Screen):
        def ask(self, question: str, *, hidden: bool, until: Callable[[], bool]) -> str | None:
            if not self.answers:
                raise GoneError
            return super().ask(question, hidden=hidden, until=until)

    with serve(disk.session(new=True), "", path, group=None):
        assert not talk(Ended(*answers))
    assert disk.made == []
    with serve(disk.session(new=False), "", path, group=None):
        assert not talk(Ended())


def test_the_end_of_the_input_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    receiving, sending = os.pipe()
    with os.fdopen(receiving) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(unlock_dialog, "_LOOK_AGAIN", 0.01)
        os.write(sending, b"quiet geese\n")
        assert Tty().ask("Passphrase:", hidden=True, until=lambda: False) == "quiet geese"
        assert Tty().ask("Passphrase:", hidden=True, until=lambda: True) is None
        os.close(sending)
        with pytest.raises(GoneError):
            Tty().ask("Passphrase:", hidden=True, until=lambda: False)
