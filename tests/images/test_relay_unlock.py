"""A disk that the relay helps to unlock: a real device starts alone, and does not once its owner has cut it off.

The device is emulated; its relay is a cloud machine of the network tier, made by cloud-init and by the device itself.
Half an hour on an emulated processor, therefore only when asked for:

    ./dev test images -- -k relay_unlock --encrypted-disk
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.archive import Archive
from builder.build import open_workshop
from builder.cache import Cache
from builder.progress import Stages
from builder.sandbox import remove_tree
from tests.cloud.root import RELAY_PACKAGES, CloudSystem, Suite, cloud_root
from tests.cloud.seed import Seed
from tests.cloud.vps import Vps
from tests.images.conftest import SITE
from tests.images.locked import SECONDS, Page, choose, confirm, shown_fingerprint
from tests.images.machine import Machine, darkpipe, install_emulator
from tests.machine.machine import unpack, wait_for, why_not
from tests.network.conftest import scratch_folder
from tests.network.internet import Site, make_internet
from tests.network.net import namespace

_RELAY = Site(1)
_THERE = "the disk for the mail is there"
_LOCKED = "the disk for the mail is locked"
_HELPED = "was unlocked with the relay's help"
_PATIENCE = 1200.0
"""Seconds for what the device does beside all that it starts."""

_CANNOT = "was not unlocked with the relay's help"


@dataclass
class Pair:
    """The device, which is off, and its relay."""

    device: Machine
    relay: Vps


@pytest.fixture
def pair(request: pytest.FixtureRequest, scratch: Path, password_hash: str) -> Iterator[Pair]:
    if not request.config.getoption("--encrypted-disk"):
        pytest.skip("takes half an hour: --encrypted-disk")
    if reason := why_not():
        pytest.skip(reason)
    site = scratch / "relay-unlock.yaml"
    text = SITE.format(hash=password_hash).replace("unlock: none", "unlock: relay")
    site.write_text(f"{text}relays: [{{address: {_RELAY.address}, offline: queue}}]\n", encoding="utf-8")
    user_data = darkpipe("user-data", str(site))
    profile = request.config.getoption("--home-profile")
    build = ("build", str(site), "--profile", profile, "--output", str(scratch / "relay-unlock"))
    image = Path(darkpipe(*build).splitlines()[-1])
    shop = open_workshop(Cache(Cache.default().root, remove_tree), Archive.from_environment(), Stages())
    install_emulator(profile)
    root = cloud_root(shop, CloudSystem(Suite.TRIXIE, installed=RELAY_PACKAGES))
    tree = unpack(root.tar, shop.cache.root / f"machine-{Suite.TRIXIE}")
    with make_internet() as internet, ExitStack() as stack:
        network = stack.enter_context(namespace())
        internet.plug(network, _RELAY.number)
        seed = Seed(user_data, interfaces=[_RELAY.interface("eth0")])
        vps = Vps(tree, stack.enter_context(scratch_folder()), network, seed)
        stack.callback(vps.stop)
        vps.start()
        assert vps.cloud_init().status == "done", vps.log()
        device = Machine(image, scratch / "relay-unlock.img", place=internet.router)
        stack.callback(device.disk.unlink, missing_ok=True)
        stack.callback(device.cut_power)
        try:
            yield Pair(device, vps)
        finally:
            if device.has_shell:
                units = "--unit=darkpipe-boot-stage --unit=darkpipe-pair"
                print(device.run(f"journalctl --boot --no-pager --lines=80 {units}").output)
            print(vps.run("journalctl", "--no-pager", "--lines=200", check=False))  # shown when the test has failed


def test_it_starts_alone_until_its_owner_cuts_it_off(pair: Pair) -> None:
    device, relay = pair.device, pair.relay
    device.boot()
    confirm(device, choose(device))
    assert device.expect(["The disk is made and unlocked", "Not done", "cannot use"], SECONDS) == 0
    device.shell()
    wait_for(lambda: _stage(device) == "paired", "home and relay are paired", _PATIENCE)
    wait_for(lambda: device.run("test -e /state/unlock/relay.json").status == 0, "the relay helps", _PATIENCE)
    wait_for(lambda: device.run("test -e /data/unlock/waiting.json").status == 1, "it is known to", SECONDS)
    assert "policy relay" in device.run("darkpipe disk status", SECONDS).output
    assert device.lines("systemctl show --property=Result darkpipe-boot-stage.service") == ["Result=success"]
    tang = _tang(device)
    device.lines("sync && echo done")
    device.cut_power()

    # Nobody types anything.
    device.boot()
    assert device.expect([_THERE, "cannot use"], SECONDS) == 0
    device.shell()
    assert _says(device, _HELPED)
    assert device.lines("findmnt --noheadings --output SOURCE /data") == ["/dev/mapper/darkpipe-data"]
    assert device.lines("systemctl --failed --no-legend") == []
    assert device.run("ip link show unlock0").status != 0, "the boot stage's tunnel is gone"
    assert tang not in device.run("cat /state/unlock/relay.json").output, "Tang's keys lie on the encrypted disk only"
    wait_for(lambda: _stage(device) == "paired", "the tunnel for mail is up as well", _PATIENCE)
    device.cut_power()

    # The device is stolen, and the owner has the provider switch the relay off.
    relay.pull_plug()
    device.boot()
    assert device.expect([_LOCKED, _THERE], SECONDS) == 0
    shown = shown_fingerprint(device)
    assert device.place
    page = device.place.call(Page, device.page)
    assert page.fingerprint == shown
    assert "The disk is locked" in device.place.call(page.get)
    device.type("")  # a login, which is a shell here
    device.shell()
    wait_for(lambda: _says(device, _CANNOT), "the relay was asked", SECONDS)
    assert device.run("findmnt /data").status == 1
    assert device.run("test -e /dev/mapper/darkpipe-data").status == 1
    assert device.lines("systemctl --failed --no-legend") == []

    # The control: it was the relay that was missing, and nothing else.
    relay.start()
    until = "until findmnt /data; do sleep 1; done"
    assert device.run(f"timeout {SECONDS} sh -c '{until}'", SECONDS + 60).status == 0
    assert _says(device, _HELPED)


def _stage(device: Machine) -> str:
    # An emulated device that is asked all the time comes too late for its turn with the keys.
    told = device.run("sleep 20; darkpipe pair --json")
    # It may be starting, and the console shows other things in between.
    found = re.search(r'^  "stage": "(\w+)"', told.output, re.MULTILINE)
    return found[1] if found else ""


def _says(device: Machine, text: str) -> bool:
    unit = "journalctl --boot --no-pager --unit=darkpipe-relay-unlock"
    return device.run(f'{unit} | grep --fixed-strings --quiet -- "{text}"').status == 0


def _tang(device: Machine) -> str:
    """Give the secret part of one of Tang's keys."""
    found = re.search(r'"d": ?"([\w-]{40,})"', device.run("cat /data/pairing/unlock.json").output)
    assert found
    return found[1]
