"""Pairing and changes of keys, with both real machines: any order of faults, as hypothesis thinks them up."""

from __future__ import annotations

import copy

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from home import pairing as home
from home import pairing_file as home_file
from model.pairing import turns
from relay import pairing as relay
from relay import pairing_file as relay_file
from tests.unit.pairing_world import HomeSide, RelaySide, World, are_paired, bootstrap_keys, calm, make_own


def _copy(world: World, *, stays: bool = False) -> World:
    """Take a copy of a world in which everything works from now on.

    Args:
        stays: but for the relay, which never comes to new keys.
    """
    copied = copy.deepcopy(world)
    copied.relay.stays = stays
    copied.lose_requests = copied.lose_answers = copied.clock_skew = 0
    copied.linked = True
    sides: list[HomeSide | RelaySide] = [copied.relay, *copied.homes]
    for side in sides:
        side.cut.after = -1
        if side.state is None:
            side.boot(copied.now)
    return copied


class Pairing(RuleBasedStateMachine):
    """Everything that may go wrong, in any order."""

    hasty = False
    """Whether the relay has the planted fault: it acts and answers before its disk knows."""

    mtls = False
    """Whether the tunnel is OpenVPN's, with longer turns."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World.make(hasty=self.hasty, mtls=self.mtls)
        self.claimed_by: str | None = None

    @initialize(started=st.booleans())
    def begin(self, started: bool) -> None:
        if started:
            self.world.wait(10)

    @rule(seconds=st.sampled_from([1, 3, 10, 35, 60]))
    def time_passes(self, seconds: int) -> None:
        self.world.wait(seconds)

    @rule(count=st.integers(1, 3))
    def requests_are_lost(self, count: int) -> None:
        self.world.lose_requests = count

    @rule(count=st.integers(1, 3))
    def answers_are_lost(self, count: int) -> None:
        self.world.lose_answers = count

    @rule(number=st.integers(0, 40))
    def an_old_request_comes_again(self, number: int) -> None:
        self.world.deliver_again(number)

    @rule(after=st.integers(0, 6))
    def the_relay_loses_its_power(self, after: int) -> None:
        self.world.relay.cut.after = after

    @rule(after=st.integers(0, 6))
    def home_loses_its_power(self, after: int) -> None:
        self.world.homes[0].cut.after = after

    @rule(relay_loses=st.booleans(), after=st.permutations(range(8)))
    def the_power_goes_between_all_steps_of_changes(self, relay_loses: bool, after: list[int]) -> None:
        """Cuts of the rules above mostly come while nothing happens; here is one change for each place of a cut."""
        world, one = self.world, self.world.homes[0]
        for steps in after:
            world.relay.cut.after = one.cut.after = -1
            self.whoever_is_off_starts()
            world.linked, world.lose_requests, world.lose_answers = True, 0, 0
            for _ in range(10):
                if not are_paired(world, one):
                    world.wait(10)
            if one.state:
                one.happen(home.Change(world.now, make_own(mtls=self.mtls)))
            side: HomeSide | RelaySide = world.relay if relay_loses else one
            side.cut.after = steps
            world.wait(10)
            self.who_is_settled_knows_the_keys_of_the_other()

    @rule()
    def whoever_is_off_starts(self) -> None:
        sides: list[HomeSide | RelaySide] = [self.world.relay, *self.world.homes]
        for side in sides:
            if side.state is None:
                side.boot(self.world.now)

    @rule()
    def the_line_is_cut_or_mended(self) -> None:
        self.world.linked = not self.world.linked

    @rule()
    def home_changes_its_keys(self) -> None:
        one = self.world.homes[0]
        if one.state:
            one.happen(home.Change(self.world.now, make_own(mtls=self.mtls)))

    @rule()
    def home_looks_for_a_relay_built_anew(self) -> None:
        one = self.world.homes[0]
        if one.state:
            one.happen(home.Look(self.world.now))

    @rule()
    def another_home_has_the_same_bootstrap(self) -> None:
        if len(self.world.homes) < 2:
            self.world.homes.append(HomeSide(mtls=self.mtls))
            self.world.homes[1].boot(self.world.now)
            self.world.wait(5)

    @rule()
    def the_other_home_goes(self) -> None:
        if len(self.world.homes) > 1 and self.world.homes[1].state and not self.world.homes[1].state.kept.base:
            self.world.homes[1].die()

    @invariant()
    def the_relay_is_true_to_the_first_that_confirmed(self) -> None:
        state = self.world.relay.state
        # The power may go right after the disk knows who has claimed it.
        kept = state.kept if state else relay_file.load(self.world.relay.disk)
        if kept.paired:
            self.claimed_by = self.claimed_by or kept.home
            assert kept.home == self.claimed_by

    @invariant()
    def who_is_settled_knows_the_keys_of_the_other(self) -> None:
        """Home never holds keys for good that the relay may have forgotten."""
        theirs = relay_file.load(self.world.relay.disk)
        for one in self.world.homes:
            ours = home_file.load(one.disk).kept
            if ours.base and not ours.own:
                assert theirs.paired
                assert (ours.base.own.public, ours.base.relay.key) == (theirs.base.home_key, theirs.base.own_public)

    def teardown(self) -> None:
        """Nobody is stuck: once the faults end, both meet."""
        world = _copy(self.world)
        # The second one has lost, or has switched itself off as the relay's words advise.
        winner = next((one for one in world.homes if one.state and one.state.kept.home == self.claimed_by), None)
        if winner is None:
            winner = world.homes[0]
            world.homes = [winner]
            world.wait(relay.LAPSE, step=5)
        world.wait(calm(bootstrap_keys(mtls=self.mtls)[1]), step=3 if self.mtls else 1)
        assert are_paired(world, winner, spotless=False), (winner.state, world.relay.state)


_OPTIONS = settings(
    max_examples=100, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


def test_a_home_that_confirms_right_before_the_relay_loses_its_power_has_claimed_it() -> None:
    # Found by the test below, which held the first home for the claimant.
    found = Pairing()
    found.begin(started=False)
    found.the_relay_loses_its_power(after=4)
    found.home_loses_its_power(after=0)
    found.another_home_has_the_same_bootstrap()
    found.the_relay_is_true_to_the_first_that_confirmed()
    assert found.world.relay.state is None
    claimant = found.world.homes[1].state
    assert claimant
    assert found.claimed_by == claimant.kept.home
    found.teardown()


def test_no_order_of_faults_leaves_them_stuck_or_trusting_a_wrong_key() -> None:
    run_state_machine_as_test(Pairing, settings=_OPTIONS)


class OverTcp(Pairing):
    """The same, over OpenVPN."""

    mtls = True


def test_nor_does_one_over_openvpn() -> None:
    run_state_machine_as_test(OverTcp, settings=settings(_OPTIONS, max_examples=40))


class Staying(Pairing):
    """The same, with a relay that now and then, and in the end for good, answers offers and never comes to the keys."""

    @rule()
    def the_relay_stays_with_its_keys_or_does_not(self) -> None:
        self.world.relay.stays = not self.world.relay.stays

    def teardown(self) -> None:
        """A paired home goes on with the keys that hold, and says so; and both meet once the relay works again."""
        world = _copy(self.world, stays=True)
        for one in world.homes:
            if one.state and one.state.kept.base:
                world.wait(home.SILENT + calm(bootstrap_keys(mtls=self.mtls)[1]), step=3)
                assert are_paired(world, one, spotless=False), (one.state, world.relay.state)
        super().teardown()


def test_a_relay_that_never_comes_to_new_keys_leaves_both_with_those_that_hold() -> None:
    run_state_machine_as_test(Staying, settings=settings(_OPTIONS, max_examples=15))


def _paired_with_one_that_stays(*, mtls: bool) -> tuple[World, HomeSide]:
    world = World.make(mtls=mtls)
    world.wait(30)
    (one,) = world.homes
    assert are_paired(world, one)
    world.relay.stays = True
    one.happen(home.Change(world.now, make_own(mtls=mtls)))
    return world, one


def _ended(one: HomeSide) -> bool:
    assert one.state
    assert (one.state.ended is None) is (one.state.trouble == "")
    return one.state.ended is not None


@pytest.mark.parametrize("mtls", [False, True], ids=["wireguard", "openvpn"])
def test_a_change_to_which_the_relay_never_comes_ends_in_time_and_can_be_tried_again(mtls: bool) -> None:
    world, one = _paired_with_one_that_stays(mtls=mtls)
    turn = turns(bootstrap_keys(mtls=mtls)[1]).home
    world.wait((home.TRIES - 1) * turn)
    assert not are_paired(world, one, spotless=False), "it is still tried"
    world.wait(2 * turn)
    assert are_paired(world, one, spotless=False)
    assert _ended(one)
    assert "were not changed" in one.told[-1]
    world.relay.stays = False
    world.wait(2 * turn)
    assert are_paired(world, one, spotless=False), "nothing goes on by itself"
    one.happen(home.Change(world.now, make_own(mtls=mtls)))
    world.wait(2 * turn)
    assert are_paired(world, one)
    assert not _ended(one)
    assert "have changed to new keys" in one.told[-1]


def test_without_an_end_it_would_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what the tests above look for is there when home never gives up."""
    monkeypatch.setattr(home, "TRIES", 10**9)
    world, one = _paired_with_one_that_stays(mtls=False)
    world.wait(3600, step=3)
    assert not are_paired(world, one, spotless=False)


def test_a_home_that_gives_up_without_having_heard_the_relay_is_found() -> None:
    """The planted fault: the relay has taken the confirmation, and is at the new keys for good."""
    world = World.make()
    world.wait(30)
    (one,) = world.homes
    one.happen(home.Change(world.now, make_own()))
    world.wait(1)
    world.lose_answers = 10**9
    for _ in range(200):
        world.wait(1)
        if one.state and one.state.using is home.Which.NEXT and world.relay.state and not world.relay.state.kept.next:
            break
    assert one.state
    found = Pairing()
    found.world = world
    found.who_is_settled_knows_the_keys_of_the_other()
    calmed = _copy(world)
    calmed.wait(calm(bootstrap_keys(mtls=False)[1]))
    assert are_paired(calmed, calmed.homes[0]), "a home that keeps to the rule finds the relay"
    one.state, _ = home._end(one.state, world.now)
    one.happen(home.Tick(world.now, up=False))
    with pytest.raises(AssertionError):
        found.who_is_settled_knows_the_keys_of_the_other()


class Hasty(Pairing):
    """The same, with the planted fault."""

    hasty = True


def test_these_orders_of_faults_find_a_relay_that_answers_before_its_disk_knows() -> None:
    # Of 60 seeds, each found it; the latest in the 19th example.
    options = settings(_OPTIONS, max_examples=200, phases=[Phase.generate], database=None, print_blob=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Hasty, settings=options)


def test_a_relay_that_confirms_before_its_disk_knows_is_found() -> None:
    """The planted fault: home holds keys for good that a relay without power has never written down."""
    stuck = [after for after in range(14) if not _meets_after_a_cut(after, hasty=True)]
    assert stuck
    assert all(_meets_after_a_cut(after, hasty=False) for after in range(14))


def _meets_after_a_cut(after: int, *, hasty: bool) -> bool:
    world = World.make(hasty=hasty)
    world.relay.cut.after = after
    world.wait(30)
    if world.relay.state is None:
        world.relay.boot(world.now)
    world.relay.cut.after = -1
    world.wait(calm(bootstrap_keys(mtls=False)[1]))
    return are_paired(world, world.homes[0])
