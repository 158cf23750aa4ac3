"""The conversation on a console, or over SSH, that leads from a locked disk, or none, to an open one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from firstboot import unlock_dialog
from firstboot.unlock_dialog import Dialog, GoneError, Tty
from firstboot.unlock_socket import UnlockClient, serve
from firstboot.unlocking import Refused
from tests.unit.locked_disk import GOOD, GROUPS, SECRET, Disk, Screen


@pytest.fixture
def disk() -> Disk:
    """A disk."""
    return Disk()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the socket lies."""
    return tmp_path / "run/control"


@pytest.fixture
def talk(path: Path) -> Callable[[Screen], bool]:
    """Leads a conversation."""

    def lead(screen: Screen) -> bool:
        client = UnlockClient(path)
        return Dialog(client, screen, "a login", lambda: ("192.168.1.20",), lambda _: None, lambda: "attic").run()

    return lead


def test_a_disk_is_made_on_the_console(disk: Disk, path: Path, talk: Callable[[Screen], bool]) -> None:
    session = disk.session(new=True)
    screen = Screen("short", "short", GOOD, "other", GOOD, GOOD, "x", "y", GROUPS[1], GROUPS[7])
    with serve(session, "AB:CD", path, group=None):
        if os.geteuid() != 0:
            pytest.skip("only root is no stranger")
        assert talk(screen)
    text = "\n".join(screen.shown)
    assert "https://192.168.1.20\n" in text
    assert "AB:CD" in text
    assert f"{session.code.shown[:4]} {session.code.shown[4:]}" in text
    assert " ".join(GROUPS[:4]) in text
    assert "5 characters" in text
    assert "two different passphrases" in text
    assert "Look again" in text
    assert screen.hidden == [True] * 6 + [False] * 4
    assert disk.made == [(GOOD.encode(), SECRET)]
    after = text.rpartition(unlock_dialog._FORGET_SCREEN)[2]
    assert "The disk is made and unlocked" in after
    assert GROUPS[0] not in after, "whoever comes by reads it"


def test_a_disk_is_unlocked_on_the_console(disk: Disk, path: Path, talk: Callable[[Screen], bool]) -> None:
    with serve(disk.session(new=False), "AB:CD", path, group=None):
        screen = Screen("wrong", "")
        assert not talk(screen), "an Enter leads to the login"
        assert "neither the passphrase" in "\n".join(screen.shown)
        assert GOOD not in "\n".join(screen.shown)
        assert talk(Screen(GOOD))
    assert disk.tried == ["wrong", GOOD]
    assert talk(Screen()), "with nothing locked there is nothing to talk about"


def test_a_disk_with_anothers_head_is_not_asked_for(disk: Disk, path: Path, talk: Callable[[Screen], bool]) -> None:
    session = disk.session(new=False, refused="its head says cipher_null")
    with serve(session, "AB:CD", path, group=None):
        screen = Screen()
        assert not talk(screen), "the console goes on to the login"
        assert screen.shown == ["DarkPipe: its head says cipher_null"]
        with pytest.raises(Refused, match="somebody else has written to its head"):
            UnlockClient(path).unlock(GOOD)
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
            session.unlock(GOOD, stranger=True)
            assert until()
            return None

    with serve(session, "", path, group=None):
        assert talk(Slow(None))


@pytest.mark.parametrize("answers", [(), (GOOD,), (GOOD, GOOD), (GOOD, GOOD, GROUPS[1])])
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
