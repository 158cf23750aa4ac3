"""The relay's end of OpenVPN: the bootstrap's keys are read, others take their place, and a cut leaves none behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.ends import Bootstrap, make_bootstrap
from bootstrap.server import server_files
from model import openvpn
from model.mtls import MtlsHome, MtlsRelay
from model.site import Relay, Transport
from relay import files, openvpn_link
from relay.link import LinkError, run
from relay.openvpn_link import OpenvpnLink
from relay.pairing import Keys
from relay.tunnel_file import OPENVPN_FILE, OPENVPN_HOME, find_tunnel


class _Machine:
    """Stands for systemd and ip(8): the service goes by the files that were there at its latest start."""

    def __init__(self, root: Path) -> None:
        self._root, self.runs, self.goes_by, self.starting = root, 1, b"", 0
        self.refused = "nothing"
        self.start()

    def start(self) -> None:
        self.goes_by = (self._root / OPENVPN_FILE).read_bytes()

    def run(self, *argv: str, text: str = "") -> str:
        match argv[:2]:
            case ("systemctl", "show"):
                if self.refused.encode() in self.goes_by:
                    self.runs += 1
                    self.start()  # by what there is now
                    return f"ActiveState=activating\nInvocationID={self.runs}\n"
                self.starting -= 1
                return f"ActiveState={'activating' if self.starting >= 0 else 'active'}\nInvocationID={self.runs}\n"
            case ("systemctl", "kill"):
                self.runs += 1
                self.start()
                return ""
        assert argv[0] == "openssl"
        return run(*argv, text=text)


@pytest.fixture(scope="module")
def bootstrap() -> Bootstrap:
    return make_bootstrap(Relay(address="mx.example.com", transport=Transport.MTLS))


@pytest.fixture
def root(tmp_path: Path, bootstrap: Bootstrap) -> Path:
    for file in server_files(bootstrap.relay):
        path = tmp_path / file.path.relative_to("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)
    (tmp_path / "agent").mkdir()
    return tmp_path


@pytest.fixture
def machine(root: Path, monkeypatch: pytest.MonkeyPatch) -> _Machine:
    made = _Machine(root)
    monkeypatch.setattr(openvpn_link, "run", made.run)
    monkeypatch.setattr(openvpn_link, "move", lambda _, __: None)
    return made


def _link(root: Path) -> OpenvpnLink:
    return OpenvpnLink(root / "agent", root)


def _others(link: OpenvpnLink) -> Keys:
    key, public = link.new_key()
    theirs = ":".join(["AB"] * 32)
    return replace(
        link.initial_keys(), own_key=key, own_public=public, home_key=theirs, home4="10.9.0.1", relay4="10.9.0.0"
    )


def test_the_bootstraps_keys_are_read(root: Path, machine: _Machine, bootstrap: Bootstrap) -> None:
    found, ends = _link(root).initial_keys(), bootstrap.relay.addresses
    assert isinstance(bootstrap.relay, MtlsRelay)
    assert isinstance(bootstrap.home, MtlsHome)
    assert (found.home_key, found.own_public) == (bootstrap.relay.other, bootstrap.home.other)
    assert openvpn.parts(found.own_key) == (bootstrap.relay.private_key, bootstrap.relay.certificate)
    assert (found.home4, found.relay4) == (str(ends.home4), str(ends.relay4))
    _link(root).use(found)
    assert machine.runs == 1, "it goes by them already"


def test_other_keys_come_in_their_place(root: Path, machine: _Machine, bootstrap: Bootstrap) -> None:
    link = _link(root)
    wanted = _others(link)
    before = link.tunnel
    link.use(wanted)
    assert machine.runs == 2
    assert link.initial_keys() == wanted
    assert (str(link.tunnel.addresses.home4), str(link.tunnel.addresses.relay4)) == ("10.9.0.1", "10.9.0.0")
    assert link.tunnel.addresses.home6 == before.addresses.home6
    assert find_tunnel(root) == link.tunnel
    assert "iroute 10.9.0.1\n" in (root / OPENVPN_HOME).read_text()
    texts = "".join(path.read_text() for path in (root / "etc/openvpn/server").iterdir())
    for part in (bootstrap.relay.private_key, str(before.addresses.home4), str(before.addresses.relay4)):
        assert part.strip() not in texts
    assert (root / OPENVPN_FILE).stat().st_mode & 0o777 == 0o600
    link.settle(wanted)
    assert machine.runs == 2


def test_a_service_that_is_just_starting_does_not_stay_with_the_files_before(root: Path, machine: _Machine) -> None:
    link = _link(root)
    machine.starting = 2
    link.use(_others(link))
    assert machine.goes_by == (root / OPENVPN_FILE).read_bytes()


@pytest.mark.parametrize("cut", range(1, 8))
def test_cut_anywhere_the_next_start_has_the_service_go_by_the_keys_that_hold(
    root: Path, machine: _Machine, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    link = _link(root)
    first, wanted = link.initial_keys(), _others(link)
    left = cut

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def act(*arguments: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                raise InterruptedError
            return real(*arguments, **named)

        return act

    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", counted(files.replace))
        patch.setattr(openvpn_link, "run", counted(machine.run))
        patch.setattr(files, "sync_folder", counted(files.sync_folder))
        try:
            link.use(wanted)
        except InterruptedError:
            pass
        else:
            assert cut > 6, "there are so many steps"
    # After a start the agent goes back to what it has had (relay/pairing.py).
    for keys in (first, wanted):
        _link(root).use(keys)
        assert _link(root).initial_keys() == keys
        assert machine.goes_by == (root / OPENVPN_FILE).read_bytes()


def test_an_openvpn_that_does_not_start_by_other_keys_goes_back_to_those_of_before(
    root: Path, machine: _Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvpn_link, "_STARTS_WITHIN", 0.3)
    link = _link(root)
    first, wanted = link.initial_keys(), _others(link)
    machine.refused = wanted.home_key
    with pytest.raises(LinkError, match="does not start"):
        link.use(wanted)
    # The agent ends, and begins with the keys that hold.
    _link(root).use(first)
    assert first.home_key.encode() in machine.goes_by
    runs = machine.runs
    _link(root).settle(first)
    assert machine.runs == runs, "and then it stays"


def test_files_that_are_none_are_refused(root: Path, machine: _Machine) -> None:
    assert machine.runs == 1
    conf = root / OPENVPN_FILE
    conf.write_text(conf.read_text().replace("<cert>", "<certs>"))
    with pytest.raises(LinkError, match="has no <cert>"):
        _link(root).initial_keys()


@pytest.mark.parametrize("text", ["", "AB", ":".join(["ab"] * 32), ":".join(["AB"] * 31), "x" * 44])
def test_what_is_neither_key_nor_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a WireGuard key"):
        openvpn.check_public(text)
