"""A bundle on the relay: taken as a whole, tried, kept or given back, whatever is cut off."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from model.bundle import BundleState, BundleStatus, Manifest
from relay.control import Request
from relay.health import wait_until_well
from relay.machine import RECORD, Failure, System
from relay.parcel import CURRENT, LARGEST, Refused, point, receive, unpack
from relay.services import Service
from relay.switch import PREVIOUS, TRIAL, announce, go_back, status, try_bundle
from relay.tunnel_file import read_tunnel
from relay.updates import Updates
from tests.unit.power_cut import PowerCut, power_cut

_OLD, _NEW = "0" * 64, "1" * 64


def _tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    octets = io.BytesIO()
    with tarfile.open(fileobj=octets, mode="w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return octets.getvalue()


def _special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def _bundle(version: str = "0.2.0", text: str = "") -> bytes:
    manifest = Manifest(version, 1).to_json()
    return _tar(("./bundle.json", manifest), ("./relay/a.py", text.encode()))


def _id(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


@pytest.mark.parametrize(
    "member",
    [
        ("../../etc/passwd", b"x"),
        ("/etc/passwd", b"x"),
        ("a/../../b", b"x"),
        ("a b", b"x"),
        _special("link", tarfile.SYMTYPE, "/etc"),
        _special("link", tarfile.LNKTYPE, "bundle.json"),
        _special("null", tarfile.CHRTYPE),
        _special("pipe", tarfile.FIFOTYPE),
    ],
)
def test_tricks_are_refused_and_leave_nothing(tmp_path: Path, member: tuple[str, bytes] | tarfile.TarInfo) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "tar").write_bytes(_tar(("bundle.json", b"{}"), member))
    with pytest.raises(Refused):
        unpack(tmp_path / "tar", tmp_path / "base", _NEW)
    assert list((tmp_path / "base").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tar"]


def test_a_tar_that_breaks_off_or_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    whole = _tar(("bundle.json", b"x" * 5000))
    for octets in (b"", b"no tar" * 1000, whole[:3000]):
        (tmp_path / "tar").write_bytes(octets)
        with pytest.raises(Refused):
            unpack(tmp_path / "tar", tmp_path / "base", _NEW)
        assert list((tmp_path / "base").iterdir()) == []


@pytest.mark.parametrize(
    ("octets", "length", "identifier", "reason"),
    [
        (b"abc", 3, _id(b"abd"), "SHA-256 is"),
        (b"abc", 5, _id(b"abc"), "broke off 2 octets"),
        (b"abc", LARGEST + 1, _id(b"abc"), "at most"),
        (b"", 0, _id(b""), "at most"),
        (b"abc", 3, "../../x", "as its id"),
    ],
)
def test_what_is_not_what_it_says_is_refused(
    tmp_path: Path, octets: bytes, length: int, identifier: str, reason: str
) -> None:
    with pytest.raises(Refused, match=reason):
        receive(io.BytesIO(octets), length, identifier, tmp_path / "incoming")


@dataclass(frozen=True)
class _Relay(System):
    """A relay whose programs do nothing, or fail.

    Args:
        broken: id of the bundle whose installer fails.
    """

    broken: str = ""
    ran: list[str] = field(default_factory=list)

    def run(self, *argv: str) -> str:
        self.ran.append(" ".join(argv))
        if self.broken and self.broken in argv[0]:
            raise Failure("it is broken")
        return ""

    def try_run(self, *argv: str) -> tuple[int, str]:
        self.ran.append(" ".join(argv))
        return 0, ""

    def in_force(self) -> str:
        return (self.base / CURRENT).readlink().name


def _relay(root: Path, broken: str = "") -> _Relay:
    relay = _Relay(root, broken)
    for identifier, version in ((_OLD, "0.1.0"), (_NEW, "0.2.0")):
        folder = relay.base / identifier
        folder.mkdir(parents=True)
        (folder / "bundle.json").write_bytes(Manifest(version, 1).to_json())
    (root / RECORD).parent.mkdir(parents=True)
    (root / RECORD).write_bytes(BundleStatus(_OLD, "0.1.0", BundleState.INSTALLED).to_json())
    point(relay.base, CURRENT, _OLD)
    return relay


def test_a_bundle_that_is_well_is_kept(tmp_path: Path) -> None:
    relay = _relay(tmp_path)
    announce(relay, _NEW)
    assert status(relay) == BundleStatus(_OLD, "0.1.0", BundleState.TRYING, _NEW)
    try_bundle(relay)
    assert status(relay) == BundleStatus(_NEW, "0.2.0", BundleState.INSTALLED)
    assert (relay.in_force(), (relay.base / PREVIOUS).readlink().name) == (_NEW, _OLD)
    assert [line.partition(" ")[2] for line in relay.ran] == ["relay.install apply", "relay.install health"]


def test_a_bundle_that_is_not_well_is_given_back(tmp_path: Path) -> None:
    relay = _relay(tmp_path, _NEW)
    announce(relay, _NEW)
    try_bundle(relay)
    assert status(relay) == BundleStatus(_OLD, "0.1.0", BundleState.REFUSED, _NEW, "it is broken")
    assert relay.in_force() == _OLD
    assert relay.ran[-1] == f"{relay.base / _OLD}/run relay.install apply"
    assert not (relay.base / _NEW).exists()


def _cuts(tmp_path: Path, broken: str, judge: Callable[[_Relay, int], None]) -> int:
    """Cut at each change of the disk of a trial, and once more in what follows at the next start."""
    number = 0
    while True:
        for again in (0, 2, 5):
            relay = _relay(tmp_path / f"{number}-{again}", broken)
            try:
                with power_cut(number):
                    announce(relay, _NEW)
                    try_bundle(relay)
            except PowerCut:
                pass
            else:
                return number
            try:
                with power_cut(again):
                    go_back(relay, "cut", starting=True)
            except PowerCut:
                go_back(relay, "cut", starting=True)
            judge(relay, number)
        number += 1


@pytest.mark.parametrize("broken", ["", _NEW], ids=["well", "broken"])
def test_a_power_cut_leaves_the_old_or_the_new_one_and_no_trial(tmp_path: Path, broken: str) -> None:
    def judge(relay: _Relay, number: int) -> None:
        known = status(relay)
        assert known.bundle == relay.in_force(), number
        assert known.state in {BundleState.INSTALLED, BundleState.REFUSED}, number
        assert not (relay.root / TRIAL).exists()
        assert (relay.base / relay.in_force() / "bundle.json").exists(), number
        if broken:
            assert relay.in_force() == _OLD

    assert _cuts(tmp_path, broken, judge) > 8


def test_after_a_cut_nothing_is_started_before_the_files_are_back(tmp_path: Path) -> None:
    relay = _relay(tmp_path)
    announce(relay, _NEW)
    point(relay.base, CURRENT, _NEW)
    go_back(relay, "cut", starting=True)
    assert relay.ran == [f"{relay.base / _OLD}/run relay.install files", "systemctl daemon-reload"]


class _Octets(io.BytesIO):
    def __init__(self, octets: bytes = b"") -> None:
        super().__init__(octets)
        self.length = len(octets)


def _put(relay: System, octets: bytes, identifier: str = "", **query: str) -> tuple[int, str]:
    asked = Request("PUT", "/bundle", _Octets(octets), {"id": identifier or _id(octets), **query})
    response = Updates(relay)(asked)
    assert isinstance(response.body, bytes)
    return response.status, response.body.decode()


def test_home_is_told_what_runs(tmp_path: Path) -> None:
    response = Updates(_relay(tmp_path))(Request("GET", "/bundle", _Octets()))
    assert isinstance(response.body, bytes)
    assert BundleStatus.read(response.body) == BundleStatus(_OLD, "0.1.0", BundleState.INSTALLED)


def test_other_software_is_unpacked_announced_and_tried_in_a_unit_of_its_own(tmp_path: Path) -> None:
    relay = _relay(tmp_path)
    octets = _bundle()
    assert _put(relay, octets)[0] == 202
    assert (relay.base / _id(octets) / "relay/a.py").exists()
    assert json.loads((tmp_path / TRIAL).read_text()) == {"bundle": _id(octets), "before": _OLD}
    assert relay.ran == ["systemctl start --no-block darkpipe-switch.service"]
    assert _put(relay, _bundle(text="other"))[0] == 503, "one at a time"


@pytest.mark.parametrize(
    ("unit", "starts"), [("inactive", 1), ("failed", 1), ("activating", 0), ("deactivating", 0), ("", 0)]
)
def test_a_trial_that_nobody_is_at_is_taken_up_again(tmp_path: Path, unit: str, starts: int) -> None:
    """The agent was killed between its announcement and its start, or going back has failed."""

    class _Systemd(_Relay):
        def try_run(self, *argv: str) -> tuple[int, str]:
            super().try_run(*argv)
            return 0, f"ActiveState={unit}\n" if "show" in argv else ""

    relay, now = _Systemd(**vars(_relay(tmp_path))), [1000.0]
    updates = Updates(relay, lambda: now[0])

    def ask() -> BundleState:
        response = updates(Request("GET", "/bundle", _Octets()))
        assert isinstance(response.body, bytes)
        return BundleStatus.read(response.body).state

    assert ask() is BundleState.INSTALLED
    assert relay.ran == []
    announce(relay, _NEW)
    for _ in range(3):
        assert ask() is BundleState.TRYING
    start = "systemctl start --no-block darkpipe-switch.service"
    assert relay.ran.count(start) == starts, "not again and again"
    now[0] += 600
    ask()
    assert relay.ran.count(start) == 2 * starts


def test_older_software_is_refused_unless_home_says_so(tmp_path: Path) -> None:
    relay = _relay(tmp_path)
    older = _bundle("0.0.9")
    code, text = _put(relay, older)
    assert (code, "brings version 0.0.9, and here is 0.1.0" in text) == (412, True)
    assert not (relay.base / _id(older)).exists()
    assert status(relay).state is BundleState.INSTALLED
    assert _put(relay, older, downgrade="yes")[0] == 202
    assert Manifest("0.9.0", 1).is_older_than(Manifest("0.10.0", 1))


def test_software_for_another_machine_is_refused_before_anything_is_switched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay, wheels = _relay(tmp_path), {"a.whl": "x86_64", "b.whl": "aarch64"}
    octets = _tar(("./bundle.json", Manifest("0.3.0", 1, wheels=wheels).to_json()))
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    code, text = _put(relay, octets)
    assert (code, "has no libraries for riscv64" in text) == (412, True)
    assert not (relay.base / _id(octets)).exists()
    assert status(relay) == BundleStatus(_OLD, "0.1.0", BundleState.INSTALLED)
    for machine in wheels.values():
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        relay = _relay(tmp_path / machine)
        assert _put(relay, octets)[0] == 202


@pytest.mark.parametrize("octets", [b"no tar", _tar(("./bundle.json", b'{"version": "new"}')), _tar(("./a", b""))])
def test_no_bundle_is_refused_and_leaves_nothing(tmp_path: Path, octets: bytes) -> None:
    relay = _relay(tmp_path)
    before = sorted(relay.base.iterdir())
    assert _put(relay, octets)[0] == 400
    assert sorted(relay.base.iterdir()) == before
    assert not (tmp_path / TRIAL).exists()


def test_a_unit_that_cannot_be_started_is_no_trial(tmp_path: Path) -> None:
    relay = _relay(tmp_path, "systemctl")
    assert _put(relay, _bundle())[0] == 500
    assert status(relay).state is BundleState.INSTALLED


@dataclass(frozen=True)
class _Units(System):
    """A relay whose units are in states that change from look to look."""

    looks: list[str] = field(default_factory=list)

    def try_run(self, *argv: str) -> tuple[int, str]:
        assert argv[:2] == ("systemctl", "show")
        state, process = (self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]).split()
        return 0, f"ActiveState={state}\nMainPID={process}\n"


@pytest.mark.parametrize(
    ("looks", "problem"),
    [
        (["active 7"], ""),
        (["activating 0", "activating 0", "active 9"], ""),
        (["failed 0"], "a.service is failed"),
        ([f"active {number}" for number in range(500)], "again and again"),
    ],
)
def test_a_relay_is_well_when_its_programs_stay(looks: list[str], problem: str) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    found = wait_until_well(_Units(looks=looks), [Service("a.service")], "::1", lambda: now, sleep)
    assert problem in found
    assert bool(problem) == bool(found)


def test_the_tunnels_file_tells_the_addresses() -> None:
    text = "[Interface]\nPrivateKey = s\nListenPort = 5\nAddress = 10.1.0.2/32, fd01::2/128\n"
    tunnel = read_tunnel(text + "[Peer]\nPublicKey = p\nAllowedIPs = 10.1.0.1/32, fd01::1/128\n")
    assert (str(tunnel.addresses.home6), str(tunnel.addresses.relay4), tunnel.port) == ("fd01::1", "10.1.0.2", 5)
    with pytest.raises(ValueError, match="no AllowedIPs"):
        read_tunnel(text)
