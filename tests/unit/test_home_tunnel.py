"""The tunnel at home: what is done when, in which words, and what is told of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from home.tunnel import QUIET, ROUND, STALE, TRY, Action, Make, Point, Resolve, Seen, State, decide, in_turn
from home.tunnel_link import Reading, address_commands, endpoint, parse_dump, wireguard_settings
from home.tunnel_service import FileError, Version, is_outdated, look_up, read_home_file
from home.tunnel_state import SILENT, Noted, note, read_tunnel, shown
from model.tunnel import HomeEnd

KEY, OTHER_KEY = "kJw0pJSwqEKRIoDoTgbxDKzjYtqnPWtqOSZ9kR0uRmQ=", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
FOUR, SIX, OTHER = "198.51.100.1", "2001:db8::1", "198.51.100.2"

HOME = HomeEnd.model_validate(
    {
        "private_key": KEY,
        "relay_key": OTHER_KEY,
        "relay": "mx.example.com",
        "addresses": {"home4": "10.99.0.1", "relay4": "10.99.0.2", "home6": "fd99::1", "relay6": "fd99::2"},
    }
)


class World:
    """A relay, the DNS and WireGuard as far as `decide` sees them; time goes on by itself."""

    def __init__(self, addresses: Sequence[str] = (FOUR,)) -> None:
        self.now = 1000.0
        self.state = State(since=self.now)
        self.link = False
        self.addresses: Sequence[str] = addresses
        self.listens: set[str] = set(addresses)
        self.done: list[tuple[float, Action]] = []
        self._stamp = 5_000_000
        self._handshake: tuple[float, int] | None = None
        self._pointed: str | None = None
        self.received = 0
        self._known = False
        self._found: Sequence[str] | None = None

    def pass_time(self, seconds: float) -> list[Action]:
        """Let time pass, in steps of a second; gives what was done."""
        before = len(self.done)
        for _ in range(int(seconds)):
            self._shake_hands()
            if self._known and self._pointed in self.listens:
                self.received += 100
            seen = Seen(
                self.now, self.link, self._handshake[1] if self._handshake else 0, self.received, found=self._found
            )
            self._found = None
            self.state, actions = decide(self.state, seen)
            for action in actions:
                self.done.append((self.now, action))
                self._act(action)
            self.now += 1
        return [action for _, action in self.done[before:]]

    def _shake_hands(self) -> None:
        last = self._handshake[0] if self._handshake else -math.inf
        if self.link and self._pointed in self.listens and self.now - last >= 120:
            self._known = True
            self._stamp += 120
            self._handshake = (self.now, self._stamp)

    def _act(self, action: Action) -> None:
        match action:
            case Make():
                self.link, self._handshake, self._pointed = True, None, None
            case Resolve():
                self._found = self.addresses
            case Point(address):
                self._pointed, self._handshake = address, None

    def restart_relay(self) -> None:
        """The relay forgets every session; home's goes on until it is to be renewed."""
        self._known = False

    def set_clock(self, seconds: int) -> None:
        """Set the clock on the wall, by which WireGuard stamps."""
        self._stamp += seconds


def test_a_tunnel_is_made_and_then_left_alone() -> None:
    world = World()
    assert world.pass_time(5) == [Make(), Resolve(), Point(FOUR)]
    assert world.state.up
    assert world.pass_time(86400) == []
    assert world.state.up
    assert world.state.since < 1010


def test_both_families_are_tried_in_turn() -> None:
    world = World([FOUR, OTHER, SIX])
    world.listens = {OTHER}
    done = world.pass_time(60)
    assert [action for action in done if isinstance(action, Point)] == [Point(FOUR), Point(SIX), Point(OTHER)]
    assert world.state.up
    pointed = [when for when, action in world.done if isinstance(action, Point)]
    assert [b - a for a, b in pairwise(pointed)] == [TRY, TRY]


def test_a_relay_that_has_moved_is_found() -> None:
    world = World()
    world.pass_time(1000)
    world.addresses = [OTHER]
    world.listens = {OTHER}
    done = world.pass_time(STALE + 2 * ROUND)
    assert Point(OTHER) in done
    assert world.state.up


@pytest.mark.parametrize("jump", [-86400, 86400])
def test_a_clock_that_jumps_changes_nothing(jump: int) -> None:
    world = World()
    world.pass_time(500)
    world.set_clock(jump)
    assert world.pass_time(1000) == []
    assert world.state.up


def test_a_relay_that_is_away_for_days_is_looked_for_until_it_is_back() -> None:
    world = World()
    world.pass_time(500)
    world.listens = set()
    done = world.pass_time(3 * 86400)
    assert not world.state.up
    # Not seldom, and no flood.
    assert 86400 * 3 / 30 < len([action for action in done if isinstance(action, Resolve)]) <= 86400 * 3 / ROUND
    world.listens = {FOUR}
    world.pass_time(ROUND + TRY)
    assert world.state.up


def test_a_relay_that_has_started_anew_is_called_at_once() -> None:
    world = World()
    world.pass_time(500)
    world.restart_relay()
    assert world.pass_time(QUIET + 2) == [Point(FOUR)]
    assert world.state.up
    assert world.pass_time(1000) == []


def test_a_relay_that_says_nothing_is_called_now_and_then() -> None:
    world = World()
    world.pass_time(10)
    world.listens = set()
    assert world.pass_time(5 * QUIET) == [Point(FOUR)] * 5
    assert world.state.up


def test_without_dns_the_relay_is_looked_for_where_it_was() -> None:
    world = World()
    world.pass_time(500)
    world.addresses, world.listens = [], set()
    assert {type(action) for action in world.pass_time(1000)[-4:]} == {Resolve, Point}
    assert not world.state.up
    world.listens = {FOUR}
    world.pass_time(ROUND)
    assert world.state.up


def test_a_start_without_network_goes_on_asking() -> None:
    world = World([])
    assert set(map(type, world.pass_time(300))) == {Make, Resolve}
    world.addresses, world.listens = [SIX], {SIX}
    world.pass_time(ROUND + 5)
    assert world.state.up


def test_one_question_at_a_time() -> None:
    state = State(since=0.0)
    asked = 0
    for second in range(1, 300):
        state, actions = decide(state, Seen(float(second), True))
        asked += len([action for action in actions if isinstance(action, Resolve)])
    assert asked == 1


def test_a_lost_interface_is_made_anew_and_pointed_where_the_relay_was() -> None:
    world = World()
    world.pass_time(500)
    world.link = False
    assert world.pass_time(5) == [Make(), Point(FOUR)]
    assert world.state.up


def test_a_handshake_is_too_old_when_three_attempts_at_the_next_one_have_failed() -> None:
    state, _ = decide(State(since=0.0, addresses=(FOUR,), tried=1, endpoint=FOUR), Seen(10.0, True, 77))
    assert state.up
    state, _ = decide(state, Seen(10.0 + STALE, True, 77))
    assert state.up
    state, _ = decide(state, Seen(10.5 + STALE, True, 77))
    assert (state.up, state.since) == (False, 10.5 + STALE)


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ([], ()),
        ([SIX, FOUR], (SIX, FOUR)),
        ([FOUR, OTHER, FOUR, SIX], (FOUR, SIX, OTHER)),
        ([SIX, "2001:db8::2", "2001:db8::3", FOUR], (SIX, FOUR, "2001:db8::2", "2001:db8::3")),
    ],
)
def test_families_alternate(addresses: list[str], expected: tuple[str, ...]) -> None:
    assert in_turn(addresses) == expected


@pytest.mark.parametrize(("name", "expected"), [(FOUR, (FOUR,)), (SIX, (SIX,)), ("x.invalid", ())])
def test_an_address_needs_no_dns_and_a_failure_is_no_address(name: str, expected: tuple[str, ...]) -> None:
    assert look_up(name, 51820) == expected


def test_endpoints_are_written_as_wg_wants_them() -> None:
    assert (endpoint(FOUR, 51820), endpoint(SIX, 1)) == (f"{FOUR}:51820", f"[{SIX}]:1")


_INTERFACE = f"{KEY}\t{OTHER_KEY}\t40000\toff\n"


def _peer(key: str, handshake: str, received: str = "7") -> str:
    return f"{key}\t(none)\t{FOUR}:51820\t0.0.0.0/0,::/0\t{handshake}\t{received}\t1180\t25\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (_INTERFACE + _peer(KEY, "1700000000"), Reading(1700000000, 7)),
        (_INTERFACE + _peer(OTHER_KEY, "5") + _peer(KEY, "0"), Reading(0, 7)),
        (_INTERFACE + _peer(OTHER_KEY, "5"), Reading()),
        (_INTERFACE + f"{KEY}\tnonsense\n", Reading()),
        (_INTERFACE, Reading()),
        ("", Reading()),
    ],
)
def test_what_wireguard_says_of_the_relay_is_read(text: str, expected: Reading) -> None:
    assert parse_dump(text, KEY) == expected


def test_the_interface_is_set_up_before_it_is_up_and_leads_to_the_relay_only() -> None:
    four, six = address_commands(HOME)
    up = four.index("link set dev relay0 up")
    assert "link set dev relay0 mtu 1280 addrgenmode none" in four[:up]
    assert "address replace 10.99.0.1/32 dev relay0" in four[:up]
    routes = [line for line in (*four, *six) if line.startswith("route")]
    assert routes == [
        "route replace 10.99.0.2/32 dev relay0 src 10.99.0.1",
        "route replace default dev relay0 src 10.99.0.1 table 51820 metric 1",
        "route replace fd99::2/128 dev relay0 src fd99::1",
    ]


def test_wireguard_is_told_the_keys() -> None:
    rows = dict(re.findall(r"^(\w+) = (.*)$", wireguard_settings(HOME), re.MULTILINE))
    assert rows == {"PrivateKey": KEY, "PublicKey": OTHER_KEY, "AllowedIPs": "0.0.0.0/0,::/0"}


def test_homes_half_is_read(tmp_path: Path) -> None:
    path = tmp_path / "relay.json"
    path.write_text("\n")
    assert read_home_file(path) is None
    path.write_text(HOME.model_dump_json())
    assert read_home_file(path) == HOME


def test_a_damaged_file_is_told_of_and_no_key_with_it(tmp_path: Path) -> None:
    path = tmp_path / "relay.json"
    path.write_text(json.dumps({**HOME.model_dump(mode="json"), "port": 70000, "relay_key": KEY[:20]}))
    with pytest.raises(FileError, match=r"damaged: relay_key: .*port: ") as caught:
        read_home_file(path)
    assert KEY[:20] not in str(caught.value)
    path.write_text(HOME.model_dump_json()[:60])
    with pytest.raises(FileError) as caught:
        read_home_file(path)
    assert KEY[:20] not in str(caught.value)


_V1, _V2 = Version(1, 100), Version(2, 200)


@pytest.mark.parametrize(
    ("first", "now", "taken", "clock", "expected"),
    [
        (None, None, 50, 300, False),
        (None, _V1, 50, 300, True),
        (_V1, None, 150, 300, True),
        (_V1, _V1, 150, 300, False),
        (_V1, _V2, 150, 300, True),
        (_V2, _V2, 150, 300, True),  # it came between systemd's look and ours
        (_V2, _V2, 150, 160, False),  # the clock was set back after the file was written
    ],
)
def test_another_file_is_noticed(
    first: Version | None, now: Version | None, taken: int, clock: int, expected: bool
) -> None:
    assert is_outdated(first, now, taken, clock) is expected


def test_a_version_is_that_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "relay.json"
    assert Version.of(path) is None
    path.write_text("1")
    first = Version.of(path)
    other = tmp_path / "new"
    other.write_text("1")
    other.replace(path)
    assert Version.of(path) != first is not None


CLOCK = datetime(2026, 11, 23, 12, tzinfo=UTC)
_NOTED = Noted(written=995.0, relay="mx.example.com", up=True, since=400.0, heard=940.0, endpoint=f"{FOUR}:51820")


def test_moments_are_shown_by_the_clock() -> None:
    found = shown(_NOTED, 1000.0, CLOCK)
    assert found is not None
    assert (found.up, found.handshake_seconds, found.since) == (True, 60, CLOCK - timedelta(seconds=600))


def test_a_service_that_has_fallen_silent_keeps_nothing_up() -> None:
    found = shown(_NOTED, 996.0 + SILENT, CLOCK)
    assert found is not None
    assert not found.up
    assert found.error == "darkpipe-tunnel was last heard of 61 s ago"


def test_without_a_relay_there_is_nothing_to_tell(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert read_tunnel(path) is None
    note(Noted(written=1.0, relay=None, up=False, since=0.0), path)
    assert read_tunnel(path) is None
    note(Noted(written=1.0, relay=None, up=False, since=0.0, error="damaged"), path)
    assert read_tunnel(path) is not None
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]
