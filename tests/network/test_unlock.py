"""The relay helps to unlock home's disk: real Tang, clevis and LUKS2, in a tunnel in which nothing but Tang answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from bootstrap.ends import make_bootstrap
from bootstrap.server import BASE
from firstboot.cipher import AES_XTS
from firstboot.luks import Luks, Use
from home.boot_stage import BootStage
from home.unlock_keys import UnlockKeysFile, make
from model.control import QueueSettings
from model.site import Relay as SiteRelay
from model.tunnel import HomeEnd, RelayEnd
from model.unlock import TANG_PORT
from relay.install import context
from relay.render import render_files
from relay.tunnel_file import read_tunnel
from relay.unlock import FOLDER, UnlockFolder
from tests.machine.machine import wait_for
from tests.network.boot_stage import ASK, PYTHON
from tests.network.conftest import scratch_folder
from tests.network.net import Namespace, join, namespace, wireguard

_RELAY, _HOME = "203.0.113.2", "203.0.113.1"
_DISK = UUID(int=7)
_RECOVERY, _KEY = b"r" * 16, b"k" * 32
_ELSEWHERE = (22, 25, 53, 80, 443, 2500, 2600, 2601)

_USE = """
import json, sys
from pathlib import Path
from relay.link import Link
from relay.pairing import Keys
from relay.unlock import UnlockFolder
root = Path(sys.argv[1])
Link(root / "home0.conf", "home0", UnlockFolder(root)).use(Keys(*json.load(sys.stdin)))
"""


@dataclass
class World:
    """A relay and a device whose disk is locked."""

    relay: Namespace
    device: Namespace
    folder: Path
    keys: UnlockKeysFile
    home: HomeEnd
    end: RelayEnd
    relay_key: str

    def use(self, home_key: str = "") -> None:
        """Have the relay speak by its keys, as its agent does at each start and each change."""
        ends = self.end.addresses
        known = [self.end.private_key, self.home.relay_key, "", home_key or self.end.home_key, ""]
        given = json.dumps([*known, str(ends.home4), str(ends.relay4)])
        self.relay.run(*PYTHON, "-c", _USE, str(self.folder), stdin=given)

    def firewall(self) -> None:
        """Load the relay's own rules, as they are with what home has given."""
        tunnel = read_tunnel((self.folder / "home0.conf").read_text())
        settings = QueueSettings(1, "mx.example.com", ("example.com",), "queue", (), 1)
        shown = context(settings, tunnel, False, None, UnlockFolder(self.folder).read())
        rules = next(
            file for file in render_files([BASE], shown, ("/etc/wireguard/",)) if file.path.name == "nftables.conf"
        )
        self.relay.run("nft", "--file", "-", stdin=rules.text)

    def stage(self, key: str = "", private_key: str = "") -> BootStage:
        """What lies on the device's `state`."""
        made = self.keys.for_state(self.home, (self.home.relay_key,), (_RELAY,), key)
        return made.model_copy(update={"private_key": private_key}) if private_key else made

    def ask(self, stage: BootStage, *words: str) -> str:
        """Do something on the device through the boot stage's tunnel."""
        return self.device.run(*PYTHON, "-c", ASK, *words, stdin=stage.model_dump_json()).strip()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = make_bootstrap(SiteRelay(address=_RELAY))
    assert isinstance(made.home, HomeEnd)
    assert isinstance(made.relay, RelayEnd)
    ends = made.relay.addresses
    with namespace() as relay, namespace() as device, scratch_folder() as folder:
        join(device, relay, ("eth0", "eth0"), (f"{_HOME}/24", f"{_RELAY}/24"))
        (folder / "home0.conf").write_text(
            f"[Interface]\nPrivateKey = {made.relay.private_key}\nListenPort = {made.relay.port}\n"
            f"Address = {ends.relay4}/32, {ends.relay6}/128\n"
            f"[Peer]\nPublicKey = {made.relay.home_key}\nAllowedIPs = {ends.home4}/32, {ends.home6}/128\n"
        )
        keys = make(_DISK)
        UnlockFolder(folder).put(keys.for_relay())
        peer = (made.relay.home_key, "allowed-ips", f"{ends.home4}/32,{ends.home6}/128")
        own = (f"{ends.relay4}/32", f"{ends.relay6}/128")
        with wireguard(relay, "home0", own, made.relay.private_key, peer, made.relay.port):
            one = World(relay, device, folder, keys, made.home, made.relay, made.home.relay_key)
            one.use()
            one.firewall()
            listen = (f"--listen=[{keys.relay6}]:{TANG_PORT}", "--accept", "--inetd")
            with relay.running("systemd-socket-activate", *listen, "/usr/libexec/tangd", str(folder / FOLDER)):
                wait_for(lambda: str(TANG_PORT) in relay.run("ss", "-ltn"), "Tang")
                yield one


@pytest.fixture(scope="module")
def key(world: World) -> str:
    """The disk's key, encrypted on the device with the relay's Tang."""
    return world.ask(world.stage(), "encrypt", _KEY.hex(), world.keys.thumbprint)


@pytest.fixture(scope="module")
def luks(world: World) -> Luks:
    """A disk with a recovery secret, and a slot for what the relay helps to have."""
    disk = world.folder / "disk"
    with disk.open("wb") as file:
        file.truncate(17 * 2**20)
    made = Luks(disk)
    made.format(_DISK, AES_XTS, _RECOVERY, Use.RECOVERY)
    made.add(_RECOVERY, _KEY, Use.RELAY, None)
    return made


def _opens(world: World, luks: Luks, stage: BootStage) -> bool:
    said = world.ask(stage, "decrypt")
    if said.startswith("refused:"):
        return False
    return luks.fits(bytes.fromhex(said), Use.RELAY)


def test_the_disk_opens_with_the_relays_help_and_not_by_what_lies_on_the_device(
    world: World, luks: Luks, key: str
) -> None:
    assert _KEY.hex() not in key
    assert _opens(world, luks, world.stage(key))
    assert luks.fits(_RECOVERY, Use.RECOVERY)
    assert "unlock0" not in world.device.run("ip", "link", "show"), "the tunnel is gone"


def test_another_tang_than_homes_is_refused(world: World) -> None:
    assert "refused" in world.ask(world.stage(), "encrypt", _KEY.hex(), make(_DISK).thumbprint)


def test_what_unlocks_reaches_tang_and_nothing_else(world: World) -> None:
    ends, tang = world.end.addresses, str(world.keys.relay6)
    reached = _everything(world, tang, str(ends.relay6), str(ends.relay4), str(ends.home6), _HOME)
    assert reached == {f"{tang} {TANG_PORT}"}


def test_without_the_firewall_it_would_reach_more(world: World) -> None:
    # So that the test before has seen the rules at work, and not closed ports.
    world.relay.run("nft", "flush", "ruleset")
    try:
        tang = str(world.keys.relay6)
        assert {f"{tang} 2601", f"{tang} 25"} < _everything(world, tang)
    finally:
        world.firewall()


def test_another_key_than_the_boot_stages_does_not_reach_tang(world: World, key: str) -> None:
    stranger = world.device.run("wg", "genkey").strip()
    assert "does not answer" in world.ask(world.stage(key, private_key=stranger), "decrypt")
    # The main tunnel's key may use the main tunnel's addresses only.
    assert "clevis" in world.ask(world.stage(key, private_key=world.home.private_key), "decrypt")


def test_a_change_of_the_relays_keys_keeps_it(world: World, luks: Luks, key: str) -> None:
    other = world.device.run("wg", "pubkey", stdin=world.device.run("wg", "genkey")).strip()
    world.use(home_key=other)
    try:
        assert _opens(world, luks, world.stage(key))
    finally:
        world.use()


def test_a_server_in_the_relays_place_opens_it_when_home_has_given_it_the_same_keys(
    world: World, luks: Luks, key: str
) -> None:
    UnlockFolder(world.folder).remove()
    world.use()
    UnlockFolder(world.folder).put(world.keys.for_relay())
    world.use()
    assert _opens(world, luks, world.stage(key))


def _without_the_peer(world: World) -> None:
    UnlockFolder(world.folder).remove()
    world.use()
    world.firewall()


def _with_other_tang_keys(world: World) -> None:
    other = make(_DISK)
    kept = world.keys.model_copy(update={"sign": other.sign, "exchange": other.exchange})
    UnlockFolder(world.folder).put(kept.for_relay())
    world.use()


def _switched_off(world: World) -> None:
    world.relay.run("ip", "link", "set", "home0", "down")
    world.relay.run("ip", "link", "set", "eth0", "down")


@pytest.mark.parametrize("cut_off", [_without_the_peer, _with_other_tang_keys, _switched_off])
def test_a_stolen_device_does_not_open_its_disk_once_the_owner_has_cut_it_off(
    world: World, luks: Luks, key: str, cut_off: Callable[[World], None]
) -> None:
    stolen = world.stage(key)
    assert _opens(world, luks, stolen), "before that it does"
    cut_off(world)
    try:
        assert not _opens(world, luks, stolen)
    finally:
        for link in ("eth0", "home0"):
            world.relay.run("ip", "link", "set", link, "up")
        UnlockFolder(world.folder).put(world.keys.for_relay())
        world.use()
        world.firewall()


def _everything(world: World, *addresses: str) -> set[str]:
    """Give the places that answer in the boot stage's tunnel, with a server on each port of the relay."""
    ports = ",".join(map(str, _ELSEWHERE))
    code = (
        "import socket,time\n"
        f"held=[socket.create_server(('::',p),family=socket.AF_INET6,dualstack_ipv6=True) for p in ({ports})]\n"
        "time.sleep(600)\n"
    )
    with world.relay.running(sys.executable, "-c", code):
        wait_for(lambda: ":2601" in world.relay.run("ss", "-ltn"), "the servers")
        places = [f"{address} {port}" for address in addresses for port in (*_ELSEWHERE, TANG_PORT)]
        return set(world.ask(world.stage(), "reach", *places).splitlines())
