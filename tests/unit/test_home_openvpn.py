"""OpenVPN at home: what it is told, what its answers mean, and what people are told of its log."""

from __future__ import annotations

import base64
import io
import json
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError

from bootstrap.certificates import key_of, make_certificate
from bootstrap.ends import Bootstrap, make_bootstrap
from bootstrap.server import server_files
from builder.bootstrap import open_bootstrap
from builder.errors import BuildError
from builder.user_data import LIMIT, next_steps, providers, user_data
from home import openvpn_link
from home.openvpn_link import OPENVPN, Management, OpenvpnLink, openvpn_settings, parse_management
from home.openvpn_reasons import reason
from home.tunnel import Action, Make, Point, Resolve, Seen, State, decide
from model.mtls import MtlsHome, MtlsRelay, read_home_end
from model.site import Relay, Site, Transport
from relay.tunnel_file import find_tunnel, read_openvpn
from tests.relay_files import RelaySetting, relay_files

_RELAY = Relay(address="mx.example.com", transport=Transport.MTLS)
_STATE = ">INFO:OpenVPN Management Interface\r\n1795600360,CONNECTED,SUCCESS,,192.0.2.2,443,192.0.2.1,47116\r\nEND\r\n"
_STATUS = (
    "OpenVPN STATISTICS\r\nUpdated,2026-11-25 10:37:52\r\nTCP/UDP read bytes,126159\r\nAuth read bytes,1\r\nEND\r\n"
)
_LOG = "1795603072,N,TCP: connect to [AF_INET]192.0.2.2:1194 failed: Connection refused\r\nEND\r\n"


@pytest.fixture(scope="module")
def bootstrap() -> Bootstrap:
    return make_bootstrap(_RELAY)


@pytest.fixture(scope="module")
def home(bootstrap: Bootstrap) -> MtlsHome:
    assert isinstance(bootstrap.home, MtlsHome)
    return bootstrap.home


class _Program:
    """Stands for an OpenVPN that takes its settings and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        self.stdin = io.BytesIO()

    def poll(self) -> None:
        pass

    def terminate(self) -> None:
        pass

    def wait(self, _: float) -> int:
        return 0


def _site(*domains: str) -> Site:
    names = domains or ("example.com",)
    return Site.model_validate(
        {
            "version": 1,
            "domains": names,
            "users": [{"address": f"alice@{names[0]}"}],
            "disk": {"unlock": "none"},
            "relays": [{"address": "mx.example.com", "offline": "tempfail", "transport": "mtls"}],
        }
    )


# ---- What both ends know


def test_what_is_written_is_read_again(home: MtlsHome) -> None:
    assert read_home_end(home.model_dump_json().encode()) == home


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("private_key", "</key>\nup /bin/sh\n"),
        ("certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\nscript-security 2\n"),
        ("other", "AB:CD"),
        ("shield", "0" * 511 + "\n"),
        ("port", 0),
    ],
)
def test_nothing_else_gets_into_openvpns_settings(home: MtlsHome, field: str, wrong: object) -> None:
    with pytest.raises(ValidationError, match=field):
        MtlsHome.model_validate(home.model_dump() | {field: wrong})


def test_no_secret_is_shown(home: MtlsHome) -> None:
    assert "PRIVATE KEY" not in repr(home)
    assert home.shield not in repr(home)
    with pytest.raises(ValidationError) as error:
        MtlsHome.model_validate(home.model_dump() | {"shield": home.shield[:-1]})
    assert home.shield[:-1] not in str(error.value)


def test_the_two_ends_know_each_other_and_nobody_else(tmp_path: Path) -> None:
    site = tmp_path / "home.yaml"
    made = open_bootstrap(site, _RELAY)
    assert open_bootstrap(site, _RELAY) == made
    other = make_bootstrap(_RELAY).model_dump(mode="json")
    for part, field in (("home", "other"), ("relay", "other"), ("home", "private_key"), ("relay", "shield")):
        mixed = made.model_dump(mode="json")
        mixed[part][field] = other[part][field]
        (tmp_path / "home.keys/mx.example.com.json").write_text(json.dumps(mixed))
        with pytest.raises(BuildError, match="do not belong together"):
            open_bootstrap(site, _RELAY)


@pytest.mark.parametrize("first", Transport)
def test_keys_of_the_other_transport_are_refused(tmp_path: Path, first: Transport) -> None:
    second = next(transport for transport in Transport if transport is not first)
    open_bootstrap(tmp_path / "home.yaml", Relay(address="mx.example.com", transport=first))
    with pytest.raises(BuildError, match=f"found the keys of a relay with `transport: {first}`, expected") as error:
        open_bootstrap(tmp_path / "home.yaml", Relay(address="mx.example.com", transport=second))
    assert f"write `transport: {first}` again" in error.value.hint
    relay = Relay(address="mx.example.com", transport=second)
    assert open_bootstrap(tmp_path / "home.yaml", relay, renew=True).transport is second


def test_a_certificate_is_for_its_key() -> None:
    one, other = make_certificate("a", server=True), make_certificate("a", server=True)
    assert key_of(one.certificate, one.private_key)
    assert not key_of(one.certificate, other.private_key)
    assert "PRIVATE" not in repr(one)


# ---- The relay's files


def test_user_data_fit_and_hold_one_half_only(bootstrap: Bootstrap, home: MtlsHome) -> None:
    parts = (b"ssh-rsa", b"\1\0\1", b"\0" + b"\xff" * 512)  # RFC 4253 §6.6
    blob = b"".join(len(part).to_bytes(4) + part for part in parts)
    key = f"ssh-rsa {base64.b64encode(blob).decode()} alice@desk"
    many = [f"family-with-a-long-name-number-{number}.example" for number in range(12)]
    for text in (user_data(_site(), bootstrap), user_data(_site(*many), bootstrap, key)):
        assert len(text.encode()) <= LIMIT
        assert home.private_key.splitlines()[1] not in text
        assert text.count(bootstrap.relay.private_key.splitlines()[1]) == 1
        assert "openvpn" in text.partition("packages:")[2].partition("]")[0]
        assert "PrivateKey" not in text
        assert text.count("#!/") == 3
    said = next_steps(_site(), "", providers()["generic"])
    assert "TCP 1194" in said
    assert "51820" not in said


def test_only_root_reads_the_keys(bootstrap: Bootstrap) -> None:
    files = {str(file.path): file for file in server_files(bootstrap.relay)}
    assert [path for path, file in files.items() if "PRIVATE KEY" in file.text] == ["/etc/openvpn/server/home0.conf"]
    assert files["/etc/openvpn/server/home0.conf"].mode == 0o600
    assert not [path for path in files if "wireguard" in path or "peer" in path]


def test_the_relays_software_finds_its_end_in_those_files(bootstrap: Bootstrap, tmp_path: Path) -> None:
    assert isinstance(bootstrap.relay, MtlsRelay)
    for file in server_files(bootstrap.relay):
        path = tmp_path / file.path.relative_to("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)
    found = find_tunnel(tmp_path)
    assert (found.port, found.mtls) == (1194, True)
    assert vars(found.addresses) == bootstrap.relay.addresses.model_dump()
    with pytest.raises(ValueError, match="no port"):
        read_openvpn("", "")


def test_the_webs_port_leads_to_openvpn_before_haproxy_is_there_and_after(bootstrap: Bootstrap) -> None:
    bare = {str(file.path): file.text for file in server_files(bootstrap.relay)}
    setting = RelaySetting("mx.example.com", ("example.com",), bootstrap.relay)
    full = {str(file.path): file.text for file in relay_files(setting)}
    redirect = "tcp dport 443 redirect to :1194"
    assert redirect in bare["/etc/nftables.conf"]
    assert redirect not in full["/etc/nftables.conf"]
    assert (
        "use_backend tunnel if { dst_port 443 } { req.payload(0,3) -m bin 003638 }" in full["/etc/haproxy/haproxy.cfg"]
    )
    assert "\t\ttcp dport 1194 accept" in full["/etc/nftables.conf"]


# ---- What home does


def test_openvpn_is_told_where_to_go_and_believes_nothing_else(home: MtlsHome) -> None:
    lines = openvpn_settings(home, "2001:db8::1").splitlines()
    assert [line for line in lines if line.startswith("remote ")] == [
        "remote 2001:db8::1 1194",
        "remote 2001:db8::1 443",
    ]
    assert "proto tcp6-client" in lines
    assert "proto tcp4-client" in openvpn_settings(home, "192.0.2.1").splitlines()
    assert [line for line in lines if line.startswith("pull-filter")][-1] == 'pull-filter ignore ""'
    assert {"script-security 0", "tls-version-min 1.3", "remote-cert-tls server"} <= set(lines)


def test_nobody_else_on_the_device_may_speak_to_it(
    home: MtlsHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVPN makes the socket of its management interface writable for everybody."""
    place = tmp_path / "openvpn/socket"
    monkeypatch.setattr(openvpn_link, "_SOCKET", place)
    monkeypatch.setattr(subprocess, "Popen", _Program)
    link = OpenvpnLink(home)
    for _ in range(2):  # the folder may be there
        link.point("192.0.2.1")
        place.touch()
    assert place.parent.stat().st_mode & 0o777 == 0o700
    assert f"management {place} unix" in openvpn_settings(home, "192.0.2.1").splitlines()


def test_its_answers_are_read() -> None:
    found = parse_management(_STATE + _STATUS + _LOG)
    assert (found.connected, found.port, found.received) == (True, 443, 126159)
    assert found.log == ("TCP: connect to [AF_INET]192.0.2.2:1194 failed: Connection refused",)


@pytest.mark.parametrize(
    "state",
    ["", "1795600360,RECONNECTING,connection-reset,,,,,\r\nEND\r\n", "nonsense", "1,CONNECTED,ERROR,,a,b\r\nEND\r\n"],
)
def test_whatever_else_it_says_is_no_tunnel(state: str) -> None:
    found = parse_management(state)
    assert not found.connected
    assert found.received == 0


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (["TLS Error: --tls-verify/--peer-fingerprint certificate hash verification failed."], "another certificate"),
        (["VERIFY EKU ERROR", "Connection reset, restarting [0]"], "another certificate"),
        (["TCP: connect to [AF_INET]192.0.2.2:1194 failed: Connection refused"], "refuses connections"),
        (["TCP: connect … Connection refused", "Connection reset, restarting [0]"], "refuses connections"),
        (["WARNING: Bad encapsulated packet length from peer (18516)"], "no OpenVPN"),
        (["Connection reset, restarting [0]"], "other or older user-data"),
        (["Connection reset, restarting [0]"], "a network on the way blocks OpenVPN"),
        (["TCP: connect to [AF_INET]192.0.2.2:1194 failed: Connection refused"], "a firewall on the way forbids them"),
        (["VERIFY EKU ERROR"], "`darkpipe pair --again`"),
        (["TCP: connect … Connection refused", "Initialization Sequence Completed", "… timed out"], "does not answer"),
        (["TCP: connect to [AF_INET]192.0.2.2:443 failed: Connection timed out"], "does not answer"),
    ],
)
def test_people_are_told_why(log: list[str], said: str) -> None:
    found = reason(log, "mx.example.com")
    assert found is not None
    assert said in found
    assert "mx.example.com" in found


def test_what_goes_well_is_no_reason() -> None:
    assert reason(["TCP connection established", "Initialization Sequence Completed"], "mx.example.com") is None
    assert reason(["TCP: connect … Connection refused", "Initialization Sequence Completed"], "mx.example.com") is None


def test_a_reason_holds_while_the_next_call_has_said_nothing_yet(
    home: MtlsHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Management | None] = []
    monkeypatch.setattr(openvpn_link, "_SOCKET", tmp_path / "openvpn/socket")
    monkeypatch.setattr(subprocess, "Popen", _Program)
    monkeypatch.setattr(openvpn_link, "run_ip", lambda *_, **__: None)
    monkeypatch.setattr(openvpn_link, "_ask", lambda: said.pop(0))
    monkeypatch.setattr(openvpn_link, "HOME_INTERFACE", "lo")
    link = OpenvpnLink(home)
    link.make()
    found = []
    for log in (("Connection refused",), None, (), ("timed out",)):
        link.point("192.0.2.1")
        said.append(None if log is None else Management(connected=False, port=None, received=0, log=log))
        link.read()
        found.append(link.problem() or "")
    assert [words for text in found for words in ("refuses", "does not answer") if words in text] == [
        "refuses",
        "refuses",
        "does not answer",
    ]
    assert found[2] == ""


def test_a_connection_that_says_nothing_is_given_up() -> None:
    """Either end says something every ten seconds; a minute later home has dialled again."""
    state, received, found = State(since=0.0), 0, None
    done: list[tuple[int, Action]] = []
    for now in range(300):
        dialled = [when for when, action in done if isinstance(action, Point)]
        received += 40 if dialled and now % 10 == 0 and now < 100 else 0
        state, actions = decide(state, Seen(float(now), now > 0, received, received, found), OPENVPN)
        done += [(now, action) for action in actions]
        found = ["192.0.2.1"] if Resolve() in actions else None
        assert state.up is (10 <= now <= 90 + OPENVPN.stale)
    assert done[0] == (0, Make())
    assert dialled[0] <= 2
    assert dialled[1] == 90 + OPENVPN.quiet
    assert all(later - sooner <= OPENVPN.each + 2 for sooner, later in pairwise(dialled[1:]))
