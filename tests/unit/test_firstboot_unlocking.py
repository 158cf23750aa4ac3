"""From a locked disk, or none, to an open one: the session and its socket."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from firstboot import questions
from firstboot.unlock_socket import UnlockClient, serve
from firstboot.unlocking import Refused, Session, Stage
from firstboot.vault import relay_words
from tests.unit.locked_disk import GOOD, GROUPS, SECRET, Disk


@pytest.fixture
def disk() -> Disk:
    """A disk."""
    return Disk()


def test_a_new_disk_is_made_once_the_secret_was_typed_back(disk: Disk) -> None:
    session = disk.session(new=True)
    with pytest.raises(Refused, match="choose a passphrase first"):
        session.unlock(GOOD, stranger=False)
    assert session.choose(GOOD, "", stranger=False) == SECRET
    assert session.view().asked == (2, 8)
    for typed in ([], ["", ""], [GROUPS[7], GROUPS[1]]) if GROUPS[7] != GROUPS[1] else ([],):
        with pytest.raises(Refused, match="groups 2 and 8"):
            session.confirm(typed)
    assert disk.made == []
    assert not session.finished.is_set()
    session.confirm([GROUPS[1], GROUPS[7].lower()])
    assert disk.made == [(GOOD.encode(), SECRET)]
    assert session.finished.is_set()
    assert session.view().stage is Stage.OPEN
    with pytest.raises(Refused, match="unlocked already"):
        session.choose(GOOD, "", stranger=False)


@pytest.mark.parametrize(
    ("passphrase", "complaint"),
    [
        ("short", "5 characters"),
        (f" {GOOD}", "space"),
        (f"{GOOD}\0", "does not show"),
        (str(SECRET), "of your own"),
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
    session.confirm([GROUPS[1], GROUPS[7]])
    assert disk.made[0][0] == "\u00fcber sieben Berge".encode()


def test_a_stranger_needs_the_code_of_the_console(disk: Disk) -> None:
    session = disk.session(new=True)
    with pytest.raises(Refused, match="code"):
        session.choose(GOOD, "", stranger=True)
    assert session.choose(GOOD, f" {session.code.shown[:4]} {session.code.shown[4:]}", stranger=True) == SECRET


def test_what_fails_while_it_is_made_ends_the_waiting(disk: Disk) -> None:
    session = disk.session(new=True)
    disk.broken = True
    session.choose(GOOD, "", stranger=False)
    with pytest.raises(Refused, match="no space"):
        session.confirm([GROUPS[1], GROUPS[7]])
    assert session.finished.is_set()
    assert session.view().stage is Stage.FAILED


def test_both_keys_open_it_and_nothing_else(disk: Disk) -> None:
    for key in (GOOD, str(SECRET)):
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
    session.unlock(GOOD, stranger=False)


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
            session.unlock(GOOD, stranger=True)
    disk.broken = False
    session.unlock(GOOD, stranger=True)


def test_one_answer_is_tried_at_a_time(disk: Disk) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(_: str) -> bool:
        inside.set()
        return go_on.wait(10)

    session = Session(new=False, make=disk.make, unlock=slow, clock=lambda: disk.now)
    first = threading.Thread(target=lambda: session.unlock(GOOD, stranger=False))
    first.start()
    assert inside.wait(10)
    session.patience = 0.01
    with pytest.raises(Refused, match="another answer"):
        session.unlock(GOOD, stranger=True)
    # Somebody has pressed the button twice: the browser shows what became of the second.
    session.patience = 10.0
    go_on_soon = threading.Timer(0.05, go_on.set)
    go_on_soon.start()
    session.unlock(GOOD, stranger=True)
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
            client.choose(GOOD, "00000000" if session.code.shown != "00000000" else "1")
        stranger(False)
        assert client.see().code == session.code.shown
        assert client.choose(GOOD) == str(SECRET)
        assert client.see().view.asked == (2, 8)
        client.confirm((GROUPS[1], GROUPS[7]))
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
        raise ZeroDivisionError(GOOD)

    monkeypatch.setattr(disk, "unlock", fail)
    with serve(disk.session(new=False), "", path, group=None):
        with pytest.raises(Refused, match=r"DarkPipe itself has failed \(ZeroDivisionError\)"):
            UnlockClient(path).unlock(GOOD)
        assert UnlockClient(path).see().view.stage is Stage.LOCKED, "it goes on"
    told = capsys.readouterr().err
    assert "ZeroDivisionError in test_firstboot_unlocking.py" in told
    assert GOOD not in told, "what was typed is in no log"


def test_a_tool_that_fails_while_the_disk_is_made_is_told_in_its_own_words(disk: Disk) -> None:
    def fail(*_: object) -> None:
        raise subprocess.CalledProcessError(1, ("mkfs.btrfs", "--quiet"), "ERROR: not enough space\n")

    session = Session(new=True, make=fail, unlock=disk.unlock, clock=lambda: 0.0, asked=lambda: (1, 2))
    secret = session.choose(GOOD, "", stranger=False)
    with pytest.raises(Refused, match=r"^the disk cannot be made: mkfs.btrfs failed: ERROR: not enough space$"):
        session.confirm(secret.groups[:2])
    assert session.view().stage is Stage.FAILED
