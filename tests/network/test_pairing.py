"""Home and relay pair through a real tunnel, and change keys under traffic; cloud-init has made the relay."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from bootstrap.ends import Bootstrap, make_bootstrap
from builder.build import SOURCE
from builder.user_data import user_data
from home import pairing_file, unlock_keys
from home.boot_stage import BootStage
from home.control_client import ControlClient
from home.control_client import Home as Asker
from home.control_errors import ControlFailure, Fenced, NotAccepted
from home.pair_keeper import STATE_FILE, home_end
from home.pair_push import push_unlock
from home.pairing import Restored, Which
from model.control import AGENT_PORT, QUEUE_PORT
from model.control_tls import Pins
from model.document import parse_site
from model.mtls import MtlsHome
from model.pairing import AgentState
from model.tunnel import HOME_INTERFACE, HomeEnd, RelayEnd
from tests.cloud.site import SETTINGS, SITE_TEXT
from tests.machine.machine import wait_for
from tests.network.boot_stage import ASK, PYTHON
from tests.network.conftest import NewVps, scratch_folder
from tests.network.handshake import is_answered
from tests.network.internet import Internet, Site
from tests.network.paired import (
    PairingHome,
    check_change_under_pings,
    check_claim,
    check_first_pairing,
    check_power_cut,
    check_user_data_again,
)
from tests.network.software import both_ends

_SITE = Site(1)


@dataclass
class Home(PairingHome):
    """A home with WireGuard."""

    since: float = 0.0

    def follow(self, text: str) -> None:
        self.since = time.time()
        end, run, name = HomeEnd.model_validate_json(text), self.ends.home.run, HOME_INTERFACE
        run("wg", "set", name, "private-key", "/dev/stdin", stdin=end.private_key)
        for peer in run("wg", "show", name, "peers").split():
            run("wg", "set", name, "peer", peer, "remove")
        where = ("allowed-ips", "0.0.0.0/0,::/0", "endpoint", f"{_SITE.address}:51820", "persistent-keepalive", "25")
        run("wg", "set", name, "peer", end.relay_key, *where)
        run("ip", "address", "replace", f"{end.addresses.home4}/32", "dev", name)
        run("ip", "route", "replace", str(end.addresses.relay4), "dev", name, "src", str(end.addresses.home4))

    def is_up(self) -> bool:
        rows = self.ends.home.run("wg", "show", HOME_INTERFACE, "latest-handshakes").split()
        return bool(rows) and int(rows[1]) >= int(self.since)


@pytest.fixture(scope="module")
def bootstrap() -> Bootstrap:
    return make_bootstrap(parse_site(SITE_TEXT, "site.yaml").relays[0])


@pytest.fixture(scope="module")
def home(new_vps: NewVps, internet: Internet, bootstrap: Bootstrap) -> Iterator[Home]:
    vps = new_vps(user_data(parse_site(SITE_TEXT, "site.yaml"), bootstrap)).start()
    assert vps.cloud_init().status == "done", vps.log()
    with both_ends(vps, _SITE.address, bootstrap, internet, 2) as ends, scratch_folder() as folder:
        wait_for(ends.has_none, "the receiver")
        ends.bring_first(ends.bundle("real", agent=(SOURCE / "relay/agent.py").read_text()))
        made = Home(ends, bootstrap, folder)
        made.start()
        yield made
        print(vps.run("journalctl", "--no-pager", "--unit=darkpipe-*"))  # shown when a test has failed


def test_they_pair_and_the_bootstrap_is_dead(home: Home) -> None:
    check_first_pairing(home)
    vps = home.ends.vps
    assert home.keeper.end.relay_key in _public(vps.run("cat", "/etc/wireguard/home0.conf"), home)
    assert json.loads(vps.run("cat", "/var/lib/darkpipe/config/fence.json")) == {"home": "a" * 32, "home_epoch": 0}


def test_who_comes_later_with_the_same_bootstrap_gets_no_answer(
    home: Home, internet: Internet, bootstrap: Bootstrap
) -> None:
    """A second home, or a thief of the first one's seed, also while the first is away."""

    def is_heard(end: HomeEnd | MtlsHome) -> bool:
        assert isinstance(end, HomeEnd)
        # Later than home's own latest one: its time stamps are TAI, which is ten seconds ahead.
        return internet.router.call(is_answered, end, _SITE.address, int(time.time()) + 12)

    assert not is_heard(bootstrap.home)
    assert is_heard(home.keeper.end), "these are the keys that hold"
    wait_for(lambda: home.asked().paired, "home takes its place again")


def test_a_member_of_the_tunnel_without_a_key_gets_nothing(home: Home) -> None:
    """From home's end of the tunnel, where the mail server is: neither plain, nor with a key that nobody has pinned."""

    def ask(port: int, pins: Pins | None) -> None:
        with ControlClient((home.ends.relay, port), Asker("a" * 32, 99), pins) as client:
            client.request("GET", "/state" if port == AGENT_PORT else "/items")

    keys = home.keeper.state.kept.base
    assert keys
    other = home.folder / "other.pem"
    other.write_text(home.own().pem)
    pins = Pins(other, keys.relay.certificate, server=False)
    home.push(SETTINGS)
    wait_for(lambda: home.ends.home.reachable([QUEUE_PORT], home.ends.relay) == {QUEUE_PORT}, "the queue")
    for port in (AGENT_PORT, QUEUE_PORT):
        with pytest.raises(NotAccepted):
            home.ends.home.call(ask, port, pins)
        with pytest.raises(ControlFailure):
            home.ends.home.call(ask, port, None)
    assert home.state().home_epoch == 0


def test_the_relays_keys_are_in_three_files_that_root_alone_reads(home: Home) -> None:
    vps, places = home.ends.vps, ("/etc", "/var", "/run", "/opt", "/root", "/tmp", "/usr/local")
    conf, pem = vps.run("cat", "/etc/wireguard/home0.conf"), vps.run("cat", "/var/lib/darkpipe/control/relay.pem")
    wireguard, control = _value(conf, "PrivateKey"), pem.splitlines()[1]

    def seen(key: str, *user: str) -> set[str]:
        found = vps.run(*user, "grep", "-rlsF", "--exclude-dir=seed", key, *places, check=False).split()
        return {Path(name).name for name in found}

    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    for key, files in ((wireguard, {"home0.conf", "pairing.json"}), (control, {"relay.pem", "pairing.json"})):
        assert seen(key) == files
        assert seen(key, *nobody) == set()
        assert key not in vps.run("journalctl", "--no-pager", "-o", "verbose")
        planted = vps.files / "opt/planted"
        planted.write_text(key)
        planted.chmod(0o644)
        assert seen(key, *nobody) == {"planted"}
        planted.unlink()


def test_the_relay_helps_to_unlock_until_home_takes_the_keys_away(home: Home) -> None:
    """With the relay's own units, as home has it install them; then nothing of it is left there."""
    vps, keys, end = home.ends.vps, unlock_keys.make(UUID(int=7)), home.keeper.end
    assert isinstance(end, HomeEnd)
    stage = keys.for_state(end, (end.relay_key,), (_SITE.address,))

    def push() -> None:
        with home.keeper.client(home.keeper.state.kept.base) as client:
            known = client.request("GET", "/state").message(AgentState).unlock
            push_unlock(client, home.folder, known, UUID(int=7))

    def ask(stage: BootStage, *words: str) -> str:
        return home.ends.home.run(*PYTHON, "-c", ASK, *words, stdin=stage.model_dump_json()).strip()

    unlock_keys.write(keys, home.folder)
    home.ends.home.call(push)
    assert home.state().unlock == keys.for_relay().digest
    sealed = ask(stage, "encrypt", "ab" * 32, keys.thumbprint)
    stage = stage.model_copy(update={"key": sealed})
    assert ask(stage, "decrypt") == "ab" * 32
    tang = str(keys.relay6)
    places = [f"{address} {port}" for address in (tang, home.ends.relay) for port in (22, 25, 443, 2600, 2601, 2602)]
    assert ask(stage, "reach", *places) == f"{tang} 2602"
    assert home.ends.home.reachable([2601, 2602], home.ends.relay) == {2601}
    assert vps.failed_units() == []
    # One asks on to this moment: the device of the line before has vanished without a word.
    assert "darkpipe-tang@" in vps.run("systemctl", "list-units", "--plain", "--no-legend")
    (home.folder / unlock_keys.FILE).unlink()
    home.ends.home.call(push)
    assert home.state().unlock == ""
    assert "refused" in ask(stage, "decrypt")
    assert vps.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "darkpipe-tang*").split() == []
    assert keys.sign["d"] not in vps.run("grep", "-rhsF", keys.sign["d"], "/var/lib/darkpipe", check=False)


def test_keys_change_while_something_flows_through_the_tunnel(home: Home) -> None:
    check_change_under_pings(home, 15.0)


@pytest.mark.parametrize("moment", [Which.BASE, Which.NEXT])
def test_a_relay_without_power_in_the_middle_of_a_change_is_carried_on_with(home: Home, moment: Which) -> None:
    check_power_cut(home, moment)


def test_user_data_that_a_provider_has_run_again_change_no_keys(home: Home) -> None:
    check_user_data_again(home)


def test_a_home_restored_from_a_backup_fences_the_one_that_was_lost(home: Home, internet: Internet) -> None:
    backup = (home.folder / STATE_FILE).read_bytes()
    lost = home.keeper.state.kept.base
    assert lost
    home.keeper.happen(Restored(time.monotonic(), home.own()))
    home.until("the restored home")
    assert home.state().home_epoch == 1
    vps = home.ends.vps
    assert json.loads(vps.run("cat", "/var/lib/darkpipe/config/fence.json")) == {"home": "a" * 32, "home_epoch": 1}
    with scratch_folder() as folder:
        (folder / STATE_FILE).write_bytes(backup)
        document = pairing_file.read(folder / STATE_FILE)
        assert document
        old = home_end(document.bootstrap, document.kept.base)
        assert isinstance(old, HomeEnd)
        assert not internet.router.call(is_answered, old, _SITE.address, int(time.time()) + 12)
        # Whoever gets into the tunnel all the same, by a way that nobody knows of:
        (folder / "lost.pem").write_text(lost.own.pem)
        keys = home.keeper.state.kept.base
        assert keys
        for pem, expected in ((folder / "lost.pem", NotAccepted), (_pem(folder, keys.own.pem), Fenced)):
            pins = Pins(pem, keys.relay.certificate, server=False)
            with pytest.raises(expected):
                home.ends.home.call(_ask, (home.ends.relay, AGENT_PORT), pins)
    wait_for(lambda: home.asked().home_epoch == 1, "the restored home goes on")


def _pem(folder: Path, text: str) -> Path:
    path = folder / "now.pem"
    path.write_text(text)
    return path


def _ask(place: tuple[str, int], pins: Pins) -> None:
    """Ask as a home that has not been restored."""
    with ControlClient(place, Asker("a" * 32, 0), pins) as client:
        client.request("GET", "/state")


def test_a_relay_that_was_built_anew_is_found_and_claimed_after_consent(home: Home) -> None:
    _make_anew(home, home.bootstrap)
    check_claim(home)


def test_a_relay_from_other_user_data_takes_the_place_of_the_one_before(home: Home) -> None:
    """Its firewall is that of the one before, and so are its addresses."""
    before, made = home.keeper.end, make_bootstrap(parse_site(SITE_TEXT, "site.yaml").relays[0])
    addresses = home.bootstrap.home.addresses
    other = Bootstrap(
        home=made.home.model_copy(update={"addresses": addresses}),
        relay=made.relay.model_copy(update={"addresses": addresses}),
    )
    _make_anew(home, other)
    end = other.home
    assert isinstance(end, HomeEnd)
    home.ends.home.call(lambda: home.keeper.replace(end))
    home.until("the other relay", 240)
    for file in ("state.json", "relay.json", "control.pem"):
        text = (home.folder / file).read_text()
        assert before.private_key not in text
        assert before.relay_key not in text


def _make_anew(home: Home, bootstrap: Bootstrap) -> None:
    """Put the relay's disk back to what it was before pairing, with the keys of a bootstrap."""
    vps, relay = home.ends.vps, bootstrap.relay
    vps.run("rm", "-r", "/var/lib/darkpipe/agent", "/var/lib/darkpipe/control")
    conf = vps.run("cat", "/etc/wireguard/home0.conf")
    assert isinstance(relay, RelayEnd)
    text = conf.replace(_value(conf, "PrivateKey"), relay.private_key).replace(
        _value(conf, "PublicKey"), relay.home_key
    )
    (vps.files / "etc/wireguard/home0.conf").write_text(text)
    vps.pull_plug()
    vps.start()


def _value(conf: str, name: str) -> str:
    return next(line.partition("=")[2].strip() for line in conf.splitlines() if line.startswith(name))


def _public(conf: str, home: Home) -> str:
    return home.ends.home.run("wg", "pubkey", stdin=_value(conf, "PrivateKey"))
