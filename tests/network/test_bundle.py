"""User-data make a receiver; home brings the software through the tunnel, and the server becomes a relay.

Other software is tried, and when it is not well the one before comes back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress

import pytest

from bootstrap.ends import make_bootstrap
from builder.build import SOURCE
from builder.user_data import user_data
from home.bundle import Carried, NotInstalled, Older
from home.control_errors import Refused
from model.bundle import BundleState
from model.document import parse_site
from tests.bundles import AGENT
from tests.cloud.judge import AWAY, OWN, answers
from tests.cloud.site import PORTS, SETTINGS, SITE_TEXT
from tests.machine.machine import wait_for
from tests.network.conftest import NewVps
from tests.network.internet import Internet, Site
from tests.network.software import AGENT_FILE, Ends, both_ends

_SITE = Site(1)
_UNIT = "relay/system/etc/systemd/system/darkpipe-agent.service.j2"


@pytest.fixture(scope="module")
def ends(new_vps: NewVps, internet: Internet) -> Iterator[Ends]:
    site = parse_site(SITE_TEXT, "site.yaml")
    bootstrap = make_bootstrap(site.relays[0])
    vps = new_vps(user_data(site, bootstrap)).start()
    assert vps.cloud_init().status == "done", vps.log()
    with both_ends(vps, _SITE.address, bootstrap, internet, 2) as made:
        yield made
        print(vps.run("journalctl", "--no-pager", "--unit=darkpipe-*"))  # shown when a test has failed


@pytest.fixture(scope="module")
def first(ends: Ends) -> Carried:
    return ends.bundle("first")


def test_a_server_without_software_takes_nothing_from_the_world(ends: Ends, internet: Internet) -> None:
    wait_for(ends.has_none, "the receiver")
    assert internet.router.reachable({*PORTS, 2600, 2601}, _SITE.address) == set()
    assert ends.vps.failed_units() == []


def test_the_receiver_is_tight(ends: Ends) -> None:
    _check_cage(ends, "darkpipe-receiver")


def test_a_bundle_that_is_not_what_it_says_is_refused(ends: Ends, first: Carried) -> None:
    with pytest.raises(Refused, match="expected 0000"):
        ends.bring_first(Carried(first.path, "0" * 64, "1"))
    wait_for(ends.has_none, "the receiver is back")


def test_a_first_bundle_that_does_not_run_leaves_a_receiver(ends: Ends) -> None:
    broken = ends.bundle("broken-first", agent="raise SystemExit(1)\n")
    with pytest.raises(Refused, match="darkpipe-agent"):
        ends.bring_first(broken)
    wait_for(ends.has_none, "the receiver is back")


def test_the_first_bundle_makes_a_relay(ends: Ends, first: Carried, internet: Internet) -> None:
    ends.bring_first(first)
    assert ends.current() == first.id
    assert not ends.has_none()
    ends.push(SETTINGS)
    wait_for(lambda: internet.router.reachable(PORTS, _SITE.address) == PORTS, "the relay")

    def tells_home_is_away() -> bool:
        with suppress(OSError):
            return bool(internet.router.call(answers, _SITE.address, 25, [OWN])[OWN][0] in AWAY)
        return False

    wait_for(tells_home_is_away, "the relay has seen that home is away")
    assert ends.vps.failed_units() == []
    wait_for(lambda: ends.home.reachable([2600, 2601, 25, 22], ends.relay) == {2600, 2601}, "agent and queue")


@pytest.mark.parametrize("unit", ["darkpipe-agent", "darkpipe-queue", "darkpipe-peer", "haproxy", "postfix"])
def test_a_unit_is_tight(ends: Ends, unit: str) -> None:
    _check_cage(ends, unit)


def _check_cage(ends: Ends, unit: str) -> None:
    report = ends.vps.run("systemd-analyze", "security", "--no-pager", unit)
    found = re.search(r"Overall exposure level for [^:]*: ([0-9.]+) ", report)
    assert found, report
    assert float(found[1]) <= 2.5, report


def test_the_same_bundle_is_not_brought_again(ends: Ends, first: Carried) -> None:
    before = ends.vps.run("systemctl", "show", "--property=MainPID", "darkpipe-agent")
    assert ends.bring(first) is BundleState.INSTALLED
    assert ends.vps.run("systemctl", "show", "--property=MainPID", "darkpipe-agent") == before


def test_another_bundle_takes_the_place_of_the_first(ends: Ends) -> None:
    haproxy = ends.vps.run("systemctl", "show", "--property=MainPID", "haproxy")
    second = ends.bundle("second", agent=AGENT + "# other\n", version="0.2.0")
    assert ends.bring(second) is BundleState.INSTALLED
    assert ends.current() == second.id
    assert ends.vps.run("systemctl", "show", "--property=MainPID", "haproxy") == haproxy, "it has no new files"


def test_a_bundle_that_is_not_well_goes_and_the_one_before_is_back(ends: Ends) -> None:
    before = ends.current()
    broken = ends.bundle("broken", agent="import time; time.sleep(10**6)\n", version="0.3.0")
    with pytest.raises(NotInstalled, match="darkpipe-agent"):
        ends.bring(broken)
    assert ends.current() == before
    assert ends.vps.failed_units() == []
    with pytest.raises(NotInstalled, match="before"):
        ends.bring(broken)


def test_an_older_bundle_is_refused_unless_home_says_so(ends: Ends, first: Carried) -> None:
    with pytest.raises(Older, match=r"version 0\.1\.0, and the relay has version 0\.2\.0"):
        ends.bring(first)
    assert ends.bring(first, downgrade=True) is BundleState.INSTALLED
    assert ends.current() == first.id


def test_a_power_cut_in_a_trial_brings_the_one_before_back(ends: Ends, internet: Internet) -> None:
    before = ends.current()
    text = (SOURCE / _UNIT).read_text().replace("Description=DarkPipe:", "Description=DarkPipe, other:")
    slow = ends.bundle("slow", agent="import time; time.sleep(10**6)\n", **{_UNIT: text})
    ends.send(slow)
    wait_for(lambda: ends.current() == slow.id, "the trial")
    wait_for(lambda: "other" in ends.vps.run("systemctl", "cat", "darkpipe-agent"), "its files")
    ends.vps.pull_plug()
    ends.vps.start()
    assert ends.current() == before
    assert "other" not in ends.vps.run("systemctl", "cat", "darkpipe-agent")
    wait_for(lambda: internet.router.reachable(PORTS, _SITE.address) == PORTS, "the relay")
    status = json.loads(ends.vps.run("cat", "/var/lib/darkpipe/bundle.json"))
    assert (status["state"], status["other"]) == ("refused", slow.id)
    assert not (ends.vps.files / "var/lib/darkpipe/trial.json").exists()


def test_this_versions_own_agent_is_well_in_its_cage(ends: Ends) -> None:
    """The last one: it listens to nobody who has not paired."""
    # Home's WireGuard takes some seconds to see that the relay knows no session any more.
    wait_for(lambda: ends.home.reachable([2601], ends.relay) == {2601}, "the tunnel is up again", 120)
    agent = (SOURCE / AGENT_FILE).read_text()
    ours = ends.bundle("ours", agent=agent, version="0.4.0")
    ends.send(ours)
    wait_for(lambda: ours.id in ends.vps.run("cat", "/var/lib/darkpipe/bundle.json"), "the trial is over")
    assert json.loads(ends.vps.run("cat", "/var/lib/darkpipe/bundle.json"))["state"] == "installed"
    assert ends.vps.failed_units() == []
