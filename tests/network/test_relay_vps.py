"""User-data on a cloud machine that has the packages already; tests/images shows that it gets them by itself."""

from __future__ import annotations

import contextlib
import re
import smtplib
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.ends import make_bootstrap
from builder.user_data import user_data
from model.document import parse_site
from relay import callers
from tests.cloud.judge import AWAY, OWN, RECIPIENTS, answers, check_answers
from tests.cloud.site import PORTS, RELAY_NAME, SETTINGS, SITE_TEXT
from tests.cloud.vps import Vps
from tests.machine.machine import wait_for
from tests.network.conftest import NewVps
from tests.network.internet import Internet, Site
from tests.network.software import make_relay

_SITE = Site(1)
_PRESEEDED = "The following packages were installed and preseeded, but cannot be unconfigured: ['postfix']"
"""cloud-init's complaint when Postfix is there before its answers for debconf(7), which then mean nothing."""

_FSTAB = "/dev/vda / ext4 defaults,noauto 0 1\n/dev/vdb\tnone swap sw 0 0\n"
"""Some providers give a machine a disk to swap to."""

_IPV4, _IPV6 = socket.AF_INET, socket.AF_INET6
_TRIED = {*PORTS, 22, 80, 2500, 2525, 5355, 10024}


@pytest.fixture(scope="module")
def vps(new_vps: NewVps, internet: Internet) -> Vps:
    """The machine after cloud-init and home have made a relay of it; home never calls again."""
    site = parse_site(SITE_TEXT, "site.yaml")
    bootstrap = make_bootstrap(site.relays[0])
    machine = new_vps(user_data(site, bootstrap))
    machine.write("etc/fstab", _FSTAB)
    machine.start()
    assert machine.cloud_init().status == "done", machine.log()
    make_relay(machine, _SITE.address, bootstrap, internet, SETTINGS)
    return machine


def _check(vps: Vps, internet: Internet) -> None:
    result = vps.cloud_init()
    assert replace(result, recoverable={}).clean, vps.log()
    assert set(result.recoverable.get("WARNING", ())) <= {_PRESEEDED}, vps.log()
    assert vps.failed_units() == []
    assert vps.run("cat", "/etc/fstab") == _FSTAB.replace("/dev/vdb", "#/dev/vdb")
    assert RELAY_NAME in vps.run("hostname", "--fqdn")
    assert "home0" in vps.run("wg", "show", "interfaces")
    wait_for(lambda: _tells_home_is_away(internet), "the relay has seen that home is away")
    for address in (_SITE.address, _SITE.address6):
        assert internet.router.reachable(_TRIED, address) == PORTS
        check_answers(internet.router.call(answers, address, 25, RECIPIENTS))


def _tells_home_is_away(internet: Internet) -> bool:
    with contextlib.suppress(OSError, smtplib.SMTPException):  # HAProxy or Postfix is being started
        return bool(internet.router.call(answers, _SITE.address, 25, [OWN])[OWN][0] in AWAY)
    return False


def test_user_data_makes_a_relay(vps: Vps, internet: Internet) -> None:
    assert "Valid schema" in vps.run("cloud-init", "schema", "--system")
    _check(vps, internet)


@pytest.mark.parametrize("program", ["haproxy", "master"])
def test_what_crashes_writes_no_core_file(vps: Vps, program: str) -> None:
    for pid in vps.run("pgrep", "--exact", program).split():
        limits = vps.run("cat", f"/proc/{pid}/limits")
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE), limits


@pytest.mark.parametrize("service", ["haproxy", "postfix"])
def test_whatever_dies_comes_back(vps: Vps, internet: Internet, service: str) -> None:
    def main_process() -> str:
        return vps.run("systemctl", "show", "--property=MainPID", "--value", service).strip()

    before = main_process()
    vps.run("systemctl", "kill", "--signal=KILL", service)
    wait_for(lambda: main_process() not in {"0", before}, f"{service} is back")
    wait_for(lambda: _tells_home_is_away(internet), "the relay has seen that home is away")


@pytest.mark.parametrize("program", ["haproxy", "master"])
def test_a_daemon_that_is_taken_over_finds_no_key(vps: Vps, program: str) -> None:
    """Not even its process that is root: neither the tunnel's settings nor the user-data that they were in."""
    inside = ("nsenter", f"--target={vps.run('pgrep', '--oldest', '--exact', program).strip()}", "--mount", "--")
    search = ("grep", "--recursive", "--files-with-matches", "--no-messages", "PrivateKey = .*=")
    places = ("/etc", "/run", "/var/lib/cloud/instances")
    assert "/etc/wireguard/home0.conf" in vps.run(*search, *places)
    drop = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
    assert vps.run(*inside, *drop, *search, *places, check=False) == ""


@pytest.mark.parametrize("metadata", ["169.254.169.254", "fd00:a9fe:a9fe::1"])
def test_the_providers_metadata_are_for_root_only(vps: Vps, internet: Internet, metadata: str) -> None:
    """The user-data are among them, for whoever asks."""
    internet.router.add_address(metadata)
    listener = internet.router.call(
        socket.create_server, (metadata, 80), family=socket.AF_INET6 if ":" in metadata else socket.AF_INET
    )
    script = f"import socket; socket.create_connection(('{metadata}', 80), 5); print('reached')"
    with listener:
        assert "reached" in vps.run("python3", "-c", script)
        for user in ("haproxy", "postfix", "nobody"):
            asked = vps.run("setpriv", f"--reuid={user}", "--clear-groups", "python3", "-c", script, check=False)
            assert "reached" not in asked.splitlines()


def test_of_the_relays_own_users_only_root_reaches_its_agent(vps: Vps) -> None:
    """It is root's already; before pairing, the agent asks nobody in the tunnel for a certificate."""
    shown = vps.run("ip", "-6", "-oneline", "address", "show", "dev", "home0", "scope", "global")
    address = shown.split("inet6 ")[1].partition("/")[0]
    script = f"import socket; socket.create_connection(('{address}', 2601), 5); print('reached')"
    assert "reached" in vps.run("python3", "-c", script)
    for user in ("haproxy", "postfix", "darkpipe-queue", "nobody"):
        asked = vps.run("setpriv", f"--reuid={user}", "--clear-groups", "python3", "-c", script, check=False)
        assert "reached" not in asked.splitlines()


def test_calls_with_keys_that_the_relay_does_not_know_are_counted(vps: Vps, internet: Internet) -> None:
    before = callers.packets(vps.run(*callers.COMMAND))
    assert before is not None
    sockets = [internet.router.call(socket.socket, family, socket.SOCK_DGRAM) for family in (_IPV4, _IPV6)]
    initiation, other = b"\x01\0\0\0" + bytes(144), b"\x04\0\0\0" + bytes(144)
    for sender, address in zip(sockets, (_SITE.address, _SITE.address6), strict=True):
        with sender:
            for datagram in (initiation, other, initiation[:-1], initiation):
                sender.sendto(datagram, (address, 51820))
    wait_for(lambda: callers.packets(vps.run(*callers.COMMAND)) == before + 4, "the firewall has counted them")


def test_who_writes_to_whom_is_on_no_disk(vps: Vps, internet: Internet) -> None:
    """Nor does the journal know, which is in memory: there stands only what was done."""
    sender, recipient, stranger = "canary.sender@example.net", "canary.recipient@example.com", "203.0.113.77"
    internet.router.add_address(stranger)
    codes = internet.router.call(_ask, _SITE.address, stranger, sender, recipient)
    assert codes[0] in AWAY
    assert internet.router.call(_ask, _SITE.address, stranger, sender, "canary.recipient@example.net")[0] == 554
    told = "NOQUEUE: reject: RCPT from …: 554 5.7.1"
    wait_for(lambda: told in vps.run("journalctl", "--no-pager"), "Postfix has logged it")
    log = vps.run(
        "journalctl", "--no-pager", "--output=export", "--unit=darkpipe-log", "--unit=postfix", "--unit=postfix@-"
    )
    assert [word for word in ("canary", stranger) if word in log] == []
    canaries = [word.encode() for word in (sender, recipient, stranger)]
    vps.run("journalctl", "--sync")
    vps.run("sync")
    assert _holding(vps.written, canaries) == set()
    vps.run("sh", "-c", f"echo 'from <{sender}>' >/var/log/mail.log; echo {stranger} >/var/tmp/canary")
    assert {path.name for path in _holding(vps.written, canaries)} == {"mail.log", "canary"}


def _ask(relay: str, source: str, sender: str, recipient: str) -> tuple[int, int]:
    with smtplib.SMTP(relay, 25, "canary.example.net", 30, (source, 0)) as session:
        session.ehlo()
        session.mail(sender)
        return session.rcpt(recipient)[0], session.docmd("DATA")[0]


def _holding(folder: Path, words: Sequence[bytes]) -> set[Path]:
    """Find the files in which one of some words is."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path for path in files if any(word in path.read_bytes() for word in words)}


def test_a_second_run_is_harmless(vps: Vps, internet: Internet) -> None:
    """Providers do so with a machine that is made of another one's snapshot."""
    certificate = f"etc/postfix/{RELAY_NAME}.pem"
    before = (vps.files / certificate).read_bytes()
    vps.run("cloud-init", "clean", "--logs")
    vps.restart()
    _check(vps, internet)
    assert (vps.files / certificate).read_bytes() == before
