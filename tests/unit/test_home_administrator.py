"""Who may use the page: claim, password, sessions; and those who try without."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from home.administrator import IDLE, LONGEST, Denied, Gate, SignedOut
from home.desk import KeptError, read_kept, write_kept
from stack.passwords import fits, hash_password

_GOOD = "correct horse battery"


class World:
    """A gate with a clock that stands, and a hash that costs nothing."""

    def __init__(self, kept: str | None = None, own: str = "") -> None:
        self.now = 1000.0
        self.kept = kept
        self.tried: list[str] = []
        self.broken = False
        self.gate = Gate(
            kept,
            keep=self.keep,
            hash_password=lambda it: f"#{it}",
            fits=self.fits,
            clock=lambda: self.now,
            own_code=own,
        )

    def keep(self, kept: str | None) -> None:
        if self.broken:
            raise OSError(28, "No space left on device")
        self.kept = kept

    def fits(self, kept: str, password: str) -> bool:
        self.tried.append(password)
        return kept == f"#{password}"


def test_the_code_makes_an_administrator_once() -> None:
    world = World()
    code = world.gate.code
    assert len(code) == 8
    session = world.gate.claim(f" {code[:4]} {code[4:]}", _GOOD)
    world.gate.check(session)
    assert (world.gate.claimed, world.gate.code, world.kept) == (True, "", f"#{_GOOD}")
    with pytest.raises(Denied, match="has an administrator already"):
        world.gate.claim(code, "another password")
    assert world.kept == f"#{_GOOD}"


def test_a_button_that_is_pressed_twice_claims_once() -> None:
    """The browser shows what became of the second; "there is an administrator already" would be bad news."""
    world = World()
    code = world.gate.code
    world.gate.claim(code, _GOOD)
    world.gate.check(world.gate.claim(code, _GOOD))
    heard = 0
    for number in range(100):
        with pytest.raises(Denied) as refusal:
            world.gate.claim(code, f"guess {number}")
        heard += "administrator already" in str(refusal.value)
    assert heard == 3, "no way round the pace of guesses"
    with pytest.raises(Denied, match="administrator already"):
        world.gate.claim("0" * 8 if code != "0" * 8 else "1" * 8, _GOOD)


def test_who_signs_in_twice_at_once_waits_for_the_first() -> None:
    inside, go_on = threading.Event(), threading.Event()
    world = World(f"#{_GOOD}")

    def slow(kept: str, password: str) -> bool:
        inside.set()
        return go_on.wait(10) and world.fits(kept, password)

    gate = Gate(world.kept, keep=world.keep, hash_password=str, fits=slow, clock=lambda: world.now)
    first = threading.Thread(target=lambda: gate.sign_in(_GOOD))
    first.start()
    assert inside.wait(10)
    gate.patience = 0.01
    with pytest.raises(Denied, match="another answer is being tried"):
        gate.sign_in(_GOOD)
    gate.patience = 10.0
    go_on_soon = threading.Timer(0.05, go_on.set)
    go_on_soon.start()
    gate.check(gate.sign_in(_GOOD))
    for each in (first, go_on_soon):
        each.join()


def test_a_session_that_is_looked_at_while_all_end_ends_with_them() -> None:
    world = World(f"#{_GOOD}")
    session = world.gate.sign_in(_GOOD)
    ending = threading.Thread(target=world.gate.forget)

    class Slow(dict[str, Any]):
        def get(self, *found: Any) -> Any:
            value = super().get(*found)
            ending.start()
            ending.join(0.1)
            return value

    world.gate._sessions = Slow(world.gate._sessions)
    world.gate.check(session)
    ending.join()
    world.gate._sessions = dict(world.gate._sessions)
    with pytest.raises(SignedOut):
        world.gate.check(session)


def test_an_own_code_makes_an_administrator_once_and_is_not_shown() -> None:
    world = World(own="bluegeesefly7")
    assert (world.gate.code, world.gate.own_code) == ("", True)
    for wrong in ("", "blue geese", "7"):
        with pytest.raises(Denied, match=r"darkpipe-code\.txt"):
            world.gate.claim(wrong, _GOOD)
    world.now += 10
    world.gate.claim("Blue-geese fly 7", _GOOD)
    assert (world.gate.claimed, world.gate.own_code) == (True, False)
    world.gate.forget()
    assert (len(world.gate.code), world.gate.own_code) == (8, False), "it counts once"
    with pytest.raises(Denied, match="the device shows"):
        world.gate.claim("bluegeesefly7", _GOOD)
    assert not World("#hash", own="bluegeesefly7").gate.own_code


def test_a_password_that_is_too_short_claims_nothing() -> None:
    world = World()
    with pytest.raises(Denied, match="a password of 5 characters") as refusal:
        world.gate.claim(world.gate.code, "short")
    assert "short" not in str(refusal.value).split()
    assert world.gate.code


def test_a_full_disk_leaves_the_device_unclaimed() -> None:
    world = World()
    world.broken = True
    with pytest.raises(OSError, match="No space"):
        world.gate.claim(world.gate.code, _GOOD)
    assert not world.gate.claimed
    world.broken = False
    world.gate.claim(world.gate.code, _GOOD)


@pytest.mark.parametrize("typed", ["", "1", "00000000", "x" * 5000, "١٢٣٤٥٦٧٨"])
def test_a_wrong_code_claims_nothing(typed: str) -> None:
    world = World()
    if typed == world.gate.code:
        typed = "11111111"
    with pytest.raises(Denied, match="not the one"):
        world.gate.claim(typed, _GOOD)
    assert not world.gate.claimed


def test_codes_are_guessed_at_the_pace_of_one_a_minute() -> None:
    world = World()
    heard = 0
    start = world.now
    wrong = "0" * 8 if world.gate.code != "0" * 8 else "1" * 8
    while world.now < start + 86400:
        with pytest.raises(Denied) as refusal:
            world.gate.claim(wrong, _GOOD)
        heard += "not the one" in str(refusal.value)
        world.now += 0.5 if world.now < start + 200 else 5.0
    assert 1000 < heard < 1500, "a few at first, then at most one a minute"


def test_the_right_code_is_not_heard_during_the_wait() -> None:
    world = World()
    wrong = "0" * 8 if world.gate.code != "0" * 8 else "1" * 8
    for _ in range(3):
        with pytest.raises(Denied, match="not the one"):
            world.gate.claim(wrong, _GOOD)
    for wait in (0.0, 0.7):
        world.now += wait
        with pytest.raises(Denied, match=r"wait 1 second$"):
            world.gate.claim(world.gate.code, _GOOD)
    world.now += 0.4
    world.gate.claim(world.gate.code, _GOOD)


def test_passwords_are_guessed_as_slowly() -> None:
    world = World(f"#{_GOOD}")
    for number in range(10_000):
        with pytest.raises(Denied):
            world.gate.sign_in(f"guess {number}")
    assert len(world.tried) == 3
    world.now += 1.1
    world.gate.check(world.gate.sign_in(_GOOD))
    # The next ones who mistype have their free guesses again.
    for _ in range(3):
        with pytest.raises(Denied, match="not the password"):
            world.gate.sign_in("wrong")


def test_sessions_end() -> None:
    world = World(f"#{_GOOD}")
    idle, ended, used = (world.gate.sign_in(_GOOD) for _ in range(3))
    world.gate.sign_out(ended)
    with pytest.raises(SignedOut):
        world.gate.check(ended)
    start = world.now
    while world.now - start < LONGEST - IDLE:
        world.now += IDLE - 1
        world.gate.check(used)
    with pytest.raises(SignedOut):
        world.gate.check(idle)
    world.now = start + LONGEST + 1
    with pytest.raises(SignedOut):
        world.gate.check(used)
    for name in ("", "x", "\ud800"):
        with pytest.raises(SignedOut):
            world.gate.check(name)


def test_a_forgotten_password_ends_everything() -> None:
    world = World()
    old = world.gate.code
    session = world.gate.claim(old, _GOOD)
    world.gate.forget()
    assert (world.kept, world.gate.claimed) == (None, False)
    assert world.gate.code
    assert world.gate.code != old
    with pytest.raises(SignedOut):
        world.gate.check(session)
    with pytest.raises(Denied, match="no administrator yet"):
        world.gate.sign_in(_GOOD)


def test_what_is_kept_is_a_hash_for_root_alone(tmp_path: Path) -> None:
    path = tmp_path / "administrator.json"
    assert read_kept(path) is None
    write_kept(path, hash_password(_GOOD))
    kept = read_kept(path)
    assert kept is not None
    assert fits(kept, _GOOD)
    assert not fits(kept, f"{_GOOD} ")
    assert not fits(kept, "\ud800")
    assert path.stat().st_mode & 0o777 == 0o600
    assert _GOOD not in path.read_text()
    write_kept(path, None)
    assert read_kept(path) is None


@pytest.mark.parametrize("content", ["", "{}", '{"password": null}', '{"password": ""}', "[]", "\x00"])
def test_a_damaged_file_is_no_unclaimed_device(tmp_path: Path, content: str) -> None:
    path = tmp_path / "administrator.json"
    path.write_text(content)
    with pytest.raises(KeptError, match="is damaged"):
        read_kept(path)
