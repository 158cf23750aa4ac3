"""Pairing and changes of keys, with both real machines: they meet whatever is lost, cut, repeated or too late."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from home import pairing as home
from home import pairing_file as home_file
from model.pairing import WIREGUARD_TURNS, Confirm
from relay import pairing as relay
from relay import pairing_file as relay_file
from tests.unit.pairing_world import HomeSide, World, are_paired, bootstrap_keys, calm, make_own


def test_home_and_relay_pair_within_seconds() -> None:
    world = World.make()
    world.wait(10)
    assert are_paired(world, world.homes[0])
    kept = world.relay.state
    assert kept
    assert world.relay.published == (kept.kept.home, 0)


def test_a_rotation_takes_seconds_and_ends_the_old_keys() -> None:
    world = World.make()
    world.wait(10)
    one = world.homes[0]
    before = one.keys
    one.happen(home.Change(world.now, make_own()))
    world.wait(10)
    assert are_paired(world, one)
    assert not set(before) & set(one.keys)
    assert before[0] not in world.relay.disk
    assert before[1] not in world.relay.disk
    assert world.relay.state
    # Home's programs may still show the former certificate, until home is heard with the new one.
    assert world.relay.state.kept.former
    world.relay.happen(relay.Heard(0))
    assert not world.relay.state.kept.former


@pytest.mark.parametrize("lost", ["lose_requests", "lose_answers"])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("paired", [False, True])
def test_whichever_message_is_lost_they_meet(lost: str, which: int, paired: bool) -> None:
    world = World.make()
    one = world.homes[0]
    if paired:
        world.wait(10)
        one.happen(home.Change(world.now, make_own()))
    while (len(world.sent) - 2 * paired) < which:
        world.wait(1)
    setattr(world, lost, 1)
    world.wait(120)
    assert getattr(world, lost) == 0
    assert are_paired(world, one)


@pytest.mark.parametrize("side", ["home", "relay"])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("after", range(14))
def test_wherever_the_power_goes_they_meet(side: str, paired: bool, after: int) -> None:
    world = World.make()
    one = world.homes[0]
    if paired:
        world.wait(10)
        one.happen(home.Change(world.now, make_own()))
    cut = one if side == "home" else world.relay
    cut.cut.after = after
    world.wait(30)
    if cut.state is None:
        cut.boot(world.now)
    cut.cut.after = -1
    world.wait(calm(bootstrap_keys(mtls=False)[1]))
    assert are_paired(world, one)


def test_a_second_claimant_is_refused_and_pairing_goes_on() -> None:
    world = World.make(homes=2)
    first, second = world.homes
    first.die()
    world.wait(6)
    first.boot(world.now)
    world.relay.cut.after = -1
    world.wait(calm(bootstrap_keys(mtls=False)[1]))
    # Which of two with the same bootstrap is first, nobody can say; that it is one and stays one, everybody.
    won, lost = (first, second) if are_paired(world, first) else (second, first)
    assert are_paired(world, won)
    assert lost.state
    assert lost.state.kept.base is None
    world.wait(2000)
    assert are_paired(world, won)


def test_a_claimant_that_comes_while_another_pairs_is_told_why_not() -> None:
    world = World.make()
    first = world.homes[0]
    world.lose_answers = 1
    world.wait(3)  # the relay has answered, and the first has not heard it
    second = HomeSide()
    second.boot(world.now)
    world.homes.append(second)
    first.die()
    world.wait(60)
    assert "another home has claimed this relay" in " ".join(second.told)
    # The first has gone for good: the relay is not lost to the second.
    world.wait(700)
    assert are_paired(world, second)


def test_keys_that_were_offered_and_given_up_open_nothing_and_go_with_the_next_change() -> None:
    """Such as those of an offer that comes late, of which home knows nothing any more."""
    world = World.make()
    world.wait(10)
    one, given_up = world.homes[0], make_own()
    assert one.state
    made = make_own()
    world.relay.happen(
        relay.Offered(
            world.now,
            int(world.now),
            home.offer_of(one.state.kept, given_up, int(world.now)),
            [],
            relay.Made(made.key, made.public, made.pem, made.certificate),
        )
    )
    world.wait(relay.DELAY + 2)
    assert not world.is_up(one)  # the relay tries them
    world.wait(WIREGUARD_TURNS.relay + 2)
    assert are_paired(world, one, spotless=False)
    assert given_up.public in world.relay.disk
    assert isinstance(world.relay.happen(relay.Confirmed(Confirm(given_up.public))), relay.Refuse)
    world.wait(600)
    assert are_paired(world, one, spotless=False)
    one.happen(home.Change(world.now, make_own()))
    world.wait(10)
    assert are_paired(world, one)
    assert not any(key in world.relay.disk for key in (given_up.public, made.key, made.public))


def test_clocks_that_are_apart_are_told_and_waited_for() -> None:
    world = World.make()
    world.clock_skew = 7 * 24 * 3600
    world.wait(200)
    one = world.homes[0]
    assert one.state
    assert "the clocks of home and relay are 604800 seconds apart" in one.state.trouble
    world.clock_skew = -3000
    world.wait(90)
    assert are_paired(world, one)


def test_addresses_that_the_relay_has_already_are_exchanged_for_others() -> None:
    world = World.make()
    one = world.homes[0]
    one.happen(home.Claim(world.now, make_own("192.0.2.1", "192.0.2.2")))
    world.wait(60)
    assert are_paired(world, one)
    assert one.state
    assert one.state.kept.base
    assert one.state.kept.base.own.home4 == "10.201.0.1"


def test_a_relay_that_refuses_every_address_has_home_make_new_keys_once_a_minute() -> None:
    """And not each second, with a write to the disk each time, for as long as it likes to say so."""
    state = home.State(home.Kept("a" * 32, own=make_own()))
    asked = []
    for now in range(300):
        state, actions = home.step(state, home.Tick(now, up=True))
        if any(isinstance(action, home.Ask) for action in actions):
            asked.append(now)
            state, _ = home.step(state, home.Failed(now, "the network has it", refused=True, other=make_own()))
    assert asked[1] - asked[0] == 1, "the first other ones are most likely good"
    assert len(asked) <= 7


def test_addresses_move_without_the_tunnel_being_lost() -> None:
    world = World.make()
    world.wait(10)
    one = world.homes[0]
    one.happen(home.Change(world.now, make_own("10.222.0.1", "10.222.0.0")))
    world.wait(10)
    assert are_paired(world, one)
    assert world.relay.in_use
    assert (world.relay.in_use.home4, world.relay.in_use.relay4) == ("10.222.0.1", "10.222.0.0")


def test_a_relay_that_was_built_anew_is_told_of_and_claimed_only_after_consent() -> None:
    world = World.make()
    one = world.homes[0]
    world.wait(10)
    old = world.relay.disk
    world.relay = type(world.relay)()
    world.relay.boot(world.now)
    world.wait(home.SILENT + 300)
    assert one.state
    assert one.state.kept.rebuilt
    assert "darkpipe pair --again" in " ".join(one.told)
    world.wait(3000)
    assert world.relay.state
    assert not world.relay.state.kept.home  # nothing without consent
    one.happen(home.Claim(world.now, make_own()))
    world.wait(60)
    assert are_paired(world, one)
    assert world.relay.disk != old


def test_machines_that_take_a_minute_to_change_meet_over_openvpn() -> None:
    """Seen in QEMU: with the turns of WireGuard, each came when the other had just gone."""
    assert not _meets_slowly(mtls=False), "the control"
    assert _meets_slowly(mtls=True)


def _meets_slowly(*, mtls: bool) -> bool:
    world = World.make(mtls=mtls)
    world.slow = 60
    world.wait(calm(bootstrap_keys(mtls=mtls)[1]))
    return are_paired(world, world.homes[0])


@pytest.mark.parametrize("mtls", [False, True])
def test_a_relay_that_was_built_anew_in_the_middle_of_a_change_is_told_of_as_well(mtls: bool) -> None:
    world = World.make(mtls=mtls)
    one = world.homes[0]
    world.wait(10)
    one.happen(home.Change(world.now, make_own(mtls=mtls)))
    while one.state and one.state.using is not home.Which.NEXT:
        world.wait(1)
    world.relay = type(world.relay)(mtls=mtls)
    world.relay.boot(world.now)
    world.wait(home.SILENT + 300)
    assert one.state
    assert one.state.kept.rebuilt
    one.happen(home.Claim(world.now, make_own(mtls=mtls)))
    world.wait(60)
    assert are_paired(world, one)


def test_home_looks_at_once_for_a_relay_that_was_built_anew_when_its_owner_says_so() -> None:
    world = World.make()
    one = world.homes[0]
    world.wait(10)
    one.happen(home.Look(world.now))
    world.wait(WIREGUARD_TURNS.look + 5)
    assert are_paired(world, one)  # it was not, and nothing has changed
    world.relay = type(world.relay)()
    world.relay.boot(world.now)
    world.wait(60)
    one.happen(home.Look(world.now))
    world.wait(5)
    assert one.state
    assert one.state.kept.rebuilt
    assert world.relay.state
    assert not world.relay.state.kept.home  # looking is no claim
    fresh = World.make().homes[0]
    before = fresh.state
    fresh.happen(home.Look(world.now))
    assert fresh.state == before


def test_a_relay_that_was_only_away_is_no_new_one() -> None:
    world = World.make()
    one = world.homes[0]
    world.wait(10)
    world.linked = False
    world.wait(5000)
    world.linked = True
    world.wait(100)
    assert are_paired(world, one)
    assert one.state
    assert not one.state.kept.rebuilt


def test_a_restored_home_fences_the_lost_one() -> None:
    world = World.make()
    lost = world.homes[0]
    world.wait(10)
    restored = HomeSide(disk=lost.disk)
    lost.die()
    restored.boot(world.now)
    world.homes.append(restored)
    restored.happen(home.Restored(world.now, make_own()))
    world.wait(30)
    assert are_paired(world, restored)
    assert world.relay.published[1] == 1
    lost.boot(world.now)
    world.wait(500)
    assert not world.is_up(lost)
    assert are_paired(world, restored)


def test_a_backup_from_before_a_change_of_keys_needs_the_relay_made_anew() -> None:
    """Its keys are dead, as a stolen one's must be; it still has the bootstrap that the same user-data make."""
    world = World.make()
    lost = world.homes[0]
    world.wait(10)
    old = lost.disk
    lost.happen(home.Change(world.now, make_own()))
    world.wait(10)
    restored = HomeSide(disk=old)
    restored.boot(world.now)
    restored.happen(home.Restored(world.now, make_own()))
    world.homes.append(restored)
    world.wait(100)
    assert not world.is_up(restored)
    assert are_paired(world, lost)
    world.relay = type(world.relay)()
    world.relay.boot(world.now)
    restored.happen(home.Look(world.now))
    world.wait(5)
    restored.happen(home.Claim(world.now, make_own()))
    world.wait(60)
    assert are_paired(world, restored)
    assert world.relay.published[1] == 1
    # The lost one does nothing without its owner.
    world.wait(3000, step=5)
    assert not world.is_up(lost)
    assert are_paired(world, restored)


def test_an_offer_of_a_fenced_home_is_refused() -> None:
    world = World.make()
    one = world.homes[0]
    world.wait(10)
    world.relay.happen(relay.Heard(5))
    one.happen(home.Change(world.now, make_own()))
    world.wait(30)
    assert one.state
    assert "restored from this one's backup" in one.state.trouble
    assert world.is_up(one)


@pytest.mark.parametrize("of_openvpn", ["home", "relay"])
def test_an_offer_over_another_transport_is_refused(of_openvpn: str) -> None:
    world, fingerprint = World.make(), ":".join(["AB"] * 32)
    state, one = world.relay.state, world.homes[0].state
    assert state
    assert one
    offer = home.offer_of(one.kept, make_own(), int(world.now))
    if of_openvpn == "home":
        offer = replace(offer, key=fingerprint)
    else:
        state = replace(state, kept=replace(state.kept, base=replace(state.kept.base, home_key=fingerprint)))
    made = make_own()
    halves = relay.Made(made.key, made.public, made.pem, made.certificate)
    after, (refused,) = relay.step(state, relay.Offered(world.now, int(world.now), offer, [], halves))
    assert isinstance(refused, relay.Refuse)
    assert "different transports" in refused.problem
    assert after == state


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"kept": {}, "bootstrap": {}}', '{"relay": "x"}'])
def test_damaged_files_are_told_without_their_secrets(text: str) -> None:
    with pytest.raises(home_file.PairingError, match="damaged"):
        home_file.load(text)
    with pytest.raises(relay_file.DamagedError, match="damaged"):
        relay_file.load(text)


@pytest.mark.parametrize("octets", [b"\xff\x00", b"{}", b""])
def test_a_file_of_other_octets_is_damaged(tmp_path: Path, octets: bytes) -> None:
    (path := tmp_path / "state.json").write_bytes(octets)
    with pytest.raises(home_file.PairingError, match=rf"^{path} is damaged.* remove it.*relay replace"):
        home_file.read(path)
    with pytest.raises(relay_file.DamagedError, match="damaged"):
        relay_file.read(path)


def test_no_key_is_in_the_text_of_a_state() -> None:
    world = World.make()
    world.wait(10)
    for state in (world.homes[0].state, world.relay.state):
        assert state
        assert "PRIVATE KEY" not in repr(state)
    base = world.relay.state and world.relay.state.kept.base
    assert base
    assert base.own_key not in repr(world.relay.state)
