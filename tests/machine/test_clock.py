"""A clock that stops without power: where it goes on, who waits for a time server, and how that one is found."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.machine import Machine

_FOLDER = "/run/test-clock"
_AUTHORITY = "127.0.0.2"
"""The name server of all the tests' zones, on the device's own loopback."""

_SIGNED = "signed.org"
_DAY = 86400
_YEAR = 365 * _DAY


def test_postfix_waits_for_the_time_and_reading_mail_does_not(device: Machine) -> None:
    assert "darkpipe-clock.service" in _all_before(device, "postfix")
    for service in ("dovecot", "unbound", "rspamd", "systemd-timesyncd", "darkpipe-apply"):
        assert "darkpipe-clock.service" not in _all_before(device, service)


def _all_before(device: Machine, service: str) -> set[str]:
    """Everything that is started before a service, and what is before that."""
    listed = device.run("systemctl", "list-dependencies", "--after", "--all", "--plain", f"{service}.service")
    return {row.strip() for row in listed.splitlines()}


def test_the_noted_time_follows_the_clock_in_both_directions(device: Machine) -> None:
    assert device.run("systemctl", "is-active", "darkpipe-clock-floor.timer").strip() == "active"
    for wrong in (time.time() - _YEAR, time.time() + _YEAR):
        device.run("touch", f"--date=@{wrong:.0f}", "/state/clock")
        device.run("systemctl", "start", "darkpipe-clock-floor.service")
        assert abs((device.state / "clock").stat().st_mtime - time.time()) < 60


@pytest.fixture(scope="module")
def time_servers(device: Machine) -> list[str]:
    """The names that Debian's systemd-timesyncd asks for when nobody has named a server."""
    rows = device.run("cat", "/etc/systemd/timesyncd.conf").splitlines()
    return next(row for row in rows if row.startswith("#FallbackNTP=")).partition("=")[2].split()


@pytest.fixture
def authority(device: Machine, time_servers: list[str], tmp_path: Path) -> Iterator[None]:
    """A name server on the device for a small tree of zones, signed as the real ones are.

    The time servers' zone itself is not signed, but that has to be proven, too; and the name of its name server lies in
    another zone that is.
    """
    net = _sign(tmp_path, "net.", ["ns.ntp A 127.0.0.2"])
    org = _sign(tmp_path, "org.", ["ntp NS ns.ntp.net.", "signed A 192.0.2.7"])
    delegations = [f"ns.test. A {_AUTHORITY}", "net NS ns.test.", "org NS ns.test.", net.read_text(), org.read_text()]
    root_key = _sign(tmp_path, ".", delegations).with_suffix(".key")
    hosts = [f"{name}. A 192.0.2.123" for name in time_servers]
    _zone(tmp_path, "ntp.org.", hosts).rename(tmp_path / "ntp.org.zone.signed")
    server = [
        "server:",
        f"interface: {_AUTHORITY}",
        'username: ""',
        'chroot: ""',
        'pidfile: ""',
        "module-config: iterator",
    ]
    for name in (".", "net.", "org.", "ntp.org."):
        server += ["auth-zone:", f'name: "{name}"', f'zonefile: "{_FOLDER}/{name}zone.signed"']
    (tmp_path / "authority.conf").write_text("\n".join([*server, ""]))
    device.run("mkdir", _FOLDER)
    for path in (*tmp_path.glob("*.signed"), tmp_path / "authority.conf"):
        device.run("tee", f"{_FOLDER}/{path.name}", stdin=path.read_bytes())
    device.run("tee", f"{_FOLDER}/root.key", stdin=root_key.read_bytes())
    device.run("tee", f"{_FOLDER}/root.hints", stdin=f". NS ns.test.\nns.test. A {_AUTHORITY}\n".encode())
    _start(device, "authority")
    yield
    device.run("systemctl", "stop", "test-authority.service")
    device.run("rm", "-r", _FOLDER)


def _zone(folder: Path, origin: str, rows: list[str]) -> Path:
    path = folder / f"{origin}zone"
    head = [f"$ORIGIN {origin}", "$TTL 300", "@ SOA ns.test. nobody.test. 1 3600 600 86400 60", "@ NS ns.test."]
    path.write_text("\n".join([*head, *rows, ""]))
    return path


def _sign(folder: Path, origin: str, rows: list[str]) -> Path:
    """Sign a zone for two weeks, as is usual for the real ones; give the file with what its parent says of its key."""
    path = _zone(folder, origin, rows)
    made = subprocess.run(
        ["ldns-keygen", "-a", "ED25519", "-k", origin], cwd=folder, stdout=subprocess.PIPE, text=True, check=True
    )
    key = made.stdout.strip()
    dates = ["-i", _stamp(time.time() - _DAY), "-e", _stamp(time.time() + 14 * _DAY)]
    subprocess.run(["ldns-signzone", *dates, "-o", origin, path.name, key], cwd=folder, check=True)
    return folder / f"{key}.ds"


def _stamp(seconds: float) -> str:
    return time.strftime("%Y%m%d%H%M%S", time.gmtime(seconds))


def _start(device: Machine, name: str) -> None:
    unit = ["systemd-run", "--quiet", f"--unit=test-{name}", "--service-type=notify"]
    device.run(*unit, "unbound", "-d", "-p", "-c", f"{_FOLDER}/{name}.conf")


@pytest.mark.usefixtures("authority")
def test_time_servers_are_found_while_the_clock_is_a_year_late(device: Machine, time_servers: list[str]) -> None:
    device_conf = device.run("cat", "/etc/unbound/unbound.conf")
    assert time_servers
    year_ago = f'    val-override-date: "{_stamp(time.time() - _YEAR)}"\n'
    _resolver(device, "right", device_conf, "127.0.0.3", "")
    _resolver(device, "late", device_conf, "127.0.0.4", year_ago)
    # The planted fault: without that line nothing is found, and the clock stays wrong for good.
    proven = re.sub(r"^ *domain-insecure:.*\n", "", device_conf, flags=re.MULTILINE)
    assert proven != device_conf
    _resolver(device, "proven", proven, "127.0.0.5", year_ago)
    try:
        assert _finds(device, "127.0.0.3", _SIGNED)
        assert not _finds(device, "127.0.0.4", _SIGNED)
        for name in time_servers:
            assert _finds(device, "127.0.0.3", name)
            assert _finds(device, "127.0.0.4", name)
        assert not _finds(device, "127.0.0.5", time_servers[0])
    finally:
        device.run("systemctl", "stop", "test-right.service", "test-late.service", "test-proven.service")


def _resolver(device: Machine, name: str, device_conf: str, address: str, date: str) -> None:
    """Start an unbound with the device's own configuration, but for its address, its root and what it takes for now."""
    own = f"    access-control: 127.0.0.0/8 allow\n    do-not-query-localhost: no\n{date}"
    for old, new in (
        ("server:\n", f"server:\n{own}"),
        ("interface: 127.0.0.1", f"interface: {address}"),
        ("    interface: ::1\n", ""),
        ("/usr/share/dns/root.key", f"{_FOLDER}/root.key"),
        ("/usr/share/dns/root.hints", f"{_FOLDER}/root.hints"),
    ):
        assert device_conf.count(old) == 1, old
        device_conf = device_conf.replace(old, new)
    device.run("tee", f"{_FOLDER}/{name}.conf", stdin=device_conf.encode())
    _start(device, name)


def _finds(device: Machine, resolver: str, name: str) -> bool:
    """Look a name up by the C library, as systemd-timesyncd does; this call of it does so without a network, too."""
    script = f"echo nameserver {resolver} >{_FOLDER}/resolv && mount --bind {_FOLDER}/resolv /etc/resolv.conf"
    inside = ["unshare", "--mount", "sh", "-euc", f'{script} && getent hosts "$0" || echo nothing', f"{name}."]
    output = device.run(*inside)
    assert "192.0.2." in output or output == "nothing\n", output
    return "192.0.2." in output
