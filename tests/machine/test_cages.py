"""Every service in a cage of its own: how tight, and what a shell inside one can read of the others' secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import mail
from tests.machine.conftest import SEED
from tests.machine.machine import HOME_ADDRESS, Machine

_COMPONENTS = Path(__file__).resolve().parents[2] / "components"
_UNITS = sorted(path.name for path in _COMPONENTS.glob("*/units/*.service"))

_MOST = 2.5
"""The highest exposure that systemd-analyze(1) may find in a unit that gives no reason for more."""

_REASON = re.compile(r"^# Exposure: \S.{40,}$", re.MULTILINE)

_PLANTED = "/var/lib/darkpipe-planted"
"""Open to everybody: who does not find this one has not searched."""

_NEIGHBOUR = "/data/neighbour/planted"
"""Open to everybody as well, in a volume of the future: only a cage that hides it keeps it from others."""

_RELAY = "/data/darkpipe/relay.json"

_PLACES = (
    "/state/settings.json",
    "/run/wpa_supplicant/wpa_supplicant.conf",
    "/run/userdb/1000.user-privileged",
    _RELAY,
    "/state/unlock/relay.json",
    "/data/unlock/waiting.json",
    "/state/data-disk.json",
)
"""What darkpipe-settings.service reads and makes on a device that has settings, the key to the tunnel on one that has a
relay, and what the relay helps to decrypt; planted here, for root's eyes only."""

_SECRETS = {
    "key": "/data/tls/mail.pem",
    "srs": "/data/srs/key",
    "site": "/data/darkpipe/site.yaml",
    "accounts": "/data/darkpipe/accounts.json",
    "users": "/data/darkpipe/config/*/dovecot/users",
    "mail": "/data/mail/*/*/Maildir/new/*",
    "queue": "/data/queue/deferred/*/*",
    "journal": "/data/journal/*/system.journal",
    "socket": "/run/dovecot/doveadm-server",
    "dkim": "/data/dkim/*-rsa.example.com.key",
    "srs-copy": "/run/credentials/postsrsd.service/key",
    "bayes": "/data/valkey/appendonlydir/*.incr.aof",
    "neighbour": _NEIGHBOUR,
    "settings": _PLACES[0],
    "wifi": _PLACES[1],
    "login": _PLACES[2],
    "relay": _PLACES[3],
    "unlock": _PLACES[4],
    "waiting": _PLACES[5],
    "disk": _PLACES[6],
    "planted": _PLANTED,
}
"""What is to be kept apart; of several files, the first is looked for."""

_PROBE = "/var/lib/darkpipe-probe"

# Other processes see other files: the ways that lead through them are tried as well (proc_pid_root(5)).
_SCRIPT = """\
exec 2>/dev/null
for path in {paths}; do
    for root in '' /proc/[0-9]*/root; do
        if test -S $root$path; then test -w $root$path; else head -c 1 $root$path; fi && echo =$path
    done
done
exit 0
"""

_CAGES = [
    # service, user inside ("" is the one that the unit starts with), what that user is there to read
    ("postfix", "", {"key"}),
    ("postfix", "postfix", {"queue"}),
    ("postfix", "dovecot", set()),  # root inside may become anybody (CAP_SETUID)
    ("postfix", "vmail", set()),
    ("postfix", "_rspamd", set()),
    ("postfix", "valkey", set()),
    ("postfix", "postsrsd", set()),
    ("dovecot", "", {"key", "users", "socket"}),
    ("dovecot", "dovecot", {"users"}),
    ("dovecot", "dovenull", set()),
    ("dovecot", "vmail", {"mail"}),
    ("dovecot", "postfix", set()),
    ("dovecot", "_rspamd", set()),
    ("dovecot", "valkey", set()),
    ("dovecot", "postsrsd", set()),
    ("postsrsd", "", set()),  # systemd hands it a copy of the key
    ("rspamd", "", {"dkim"}),
    ("valkey", "", {"bayes"}),
    ("unbound", "", set()),
    ("darkpipe-tunnel", "", set()),  # systemd hands it a copy of the key
    ("darkpipe-verdict", "", set()),
    ("darkpipe-ready", "", set()),
    ("darkpipe-drain", "", set()),  # systemd hands it copies of its keys
    ("darkpipe-pair", "", {"site", "accounts", "users", "relay", "disk"}),  # what the relay is told follows from them
    (
        "darkpipe-desk",
        "",
        {"key", "site", "accounts", "users", "queue", "dkim", "relay", "socket"},
    ),  # a status is made of them
    ("darkpipe-home-page", "", set()),
    ("darkpipe-preflight", "", {"key", "accounts", "users", "journal", "dkim", "relay"}),  # records are made of them
    # As darkpipe-apply, whose work it does after a change.
    ("darkpipe-hand@", "", set(_SECRETS) - {"planted", "srs-copy", "settings", "wifi", "login", "unlock", "disk"}),
    ("darkpipe-firewall", "", set()),
    ("darkpipe-journal", "", set()),
    # It makes them all, before the others start, but that copy; here it shows that each of them can be found.
    ("darkpipe-apply", "", set(_SECRETS) - {"planted", "srs-copy", "settings", "wifi", "login", "unlock", "disk"}),
    # Before them all as well. It has no right to read what users keep for themselves.
    ("darkpipe-settings", "", set(_SECRETS) - {"planted", "srs-copy", "mail", "queue", "bayes"}),
    ("darkpipe-relay-unlock", "", {"unlock"}),  # it has the network, and sees no disk
    ("darkpipe-boot-stage", "", {"unlock", "waiting"}),
    ("darkpipe-wifi@", "", set()),  # systemd hands it a copy of the configuration
]
_DAEMONS = [cage for cage in _CAGES if cage[0] in {"postfix", "dovecot", "rspamd", "valkey", "unbound"}]


@pytest.mark.parametrize("unit", _UNITS)
def test_a_unit_is_tight_or_says_why_not(device: Machine, unit: str) -> None:
    report = device.run("systemd-analyze", "security", "--no-pager", unit)
    # Of a template, systemd judges an instance that it makes up.
    name = re.escape(unit).replace("@", "@[a-z_]*")
    found = re.search(rf"Overall exposure level for {name}: ([0-9.]+) ", report)
    assert found, report
    reason = _REASON.search(device.run("cat", f"/etc/systemd/system/{unit}"))
    if reason is None:
        assert float(found[1]) <= _MOST, report
    else:
        assert float(found[1]) > _MOST, f"there is no need any more for {reason[0]!r}"


@pytest.fixture(scope="module")
def secrets(device: Machine) -> Iterator[dict[str, str]]:
    """Where each secret lies, each with something in it; the probe that looks for them is in place."""
    device.run("install", "-D", "--mode=0644", "/etc/hostname", _NEIGHBOUR)
    device.run("install", "--mode=0644", "/etc/hostname", _PLANTED)
    for place in _PLACES:
        device.run("install", "-D", "--mode=0600", "/etc/hostname", place)
    # With a LAN: Postfix's processes learn the device's addresses when they start, and stay for the tests after these.
    with device.lan():
        for recipient, folder in (("alice@example.com", "mail"), ("friend@example.net", "queue")):
            device.run("sendmail", "-f", "", recipient, stdin=b"Subject: secret\n\nsecret\n")
            device.run("timeout", "30", "sh", "-c", f"until ls {_SECRETS[folder]}; do sleep 0.2; done")
    paths = {name: device.run("sh", "-c", f"ls -1 {pattern}").split()[0] for name, pattern in _SECRETS.items()}
    device.run("tee", _PROBE, stdin=_SCRIPT.format(paths=" ".join(paths.values())).encode())
    yield paths
    device.run("rm", "-r", _PROBE, _PLANTED, str(Path(_NEIGHBOUR).parent), *_PLACES)


def _read(output: str, secrets: dict[str, str]) -> set[str]:
    return {name for name, path in secrets.items() if re.search(rf"={re.escape(path)}$", output, re.MULTILINE)}


def _become(user: str) -> list[str]:
    # valkey's process has the group of those who may connect.
    group = "_rspamd" if user == "valkey" else user
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"] if user else []


@pytest.mark.parametrize(("service", "user", "expected"), _CAGES)
def test_a_shell_in_a_cage_reads_no_secret_of_others(
    device: Machine, secrets: dict[str, str], service: str, user: str, expected: set[str]
) -> None:
    # A unit with the same cage, filters of system calls included, and a shell in the place of the daemon.
    unit = device.run("cat", f"/etc/systemd/system/{service}.service")
    own = unit.partition("[Service]\n")[2].partition("[Install]")[0]
    cage = re.sub(r"^(Exec|Type|PIDFile|RemainAfter|Restart|RuntimeDir|Standard).*\n", "", own, flags=re.MULTILINE)
    output = "/run/darkpipe-probe.out"
    start = f"ExecStart={' '.join([*_become(user), '/bin/sh', _PROBE])}\nStandardOutput=truncate:{output}\n"
    device.run("tee", "/run/systemd/system/test-cage.service", stdin=f"[Service]\nType=oneshot\n{start}{cage}".encode())
    device.run("systemctl", "daemon-reload")
    try:
        device.run("systemctl", "start", "test-cage.service")
        assert _read(device.run("cat", output), secrets) == expected | {"planted"}
    finally:
        device.run("rm", "-f", "/run/systemd/system/test-cage.service", output)
        device.run("systemctl", "daemon-reload")


@pytest.mark.parametrize(("service", "user", "expected"), _DAEMONS)
def test_a_shell_among_the_processes_of_a_daemon_reads_no_secret_of_others(
    device: Machine, secrets: dict[str, str], service: str, user: str, expected: set[str]
) -> None:
    pid = device.run("systemctl", "show", "--property=MainPID", "--value", service).strip()
    status = dict(row.split(":", 1) for row in device.run("cat", f"/proc/{pid}/status").splitlines())
    uid, gid = status["Uid"].split()[0], status["Gid"].split()[0]
    rights = [f"+cap_{bit}" for bit in range(64) if int(status["CapBnd"], 16) >> bit & 1]
    identity = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]
    inside = ["nsenter", f"--target={pid}", "--mount", "--pid", "--"]
    identity = ["setpriv", f"--bounding-set={','.join(['-all', *rights])}", *identity]
    output = device.run(*inside, *identity, *_become(user), "sh", _PROBE)
    assert _read(output, secrets) == expected | {"planted"}


def test_postfix_keeps_its_configuration_and_sees_none_of_its_neighbours(
    new_machine: Callable[[str], Machine],
) -> None:
    machine = new_machine(SEED).start()
    pid = machine.run("systemctl", "show", "--property=MainPID", "--value", "postfix").strip()
    generation = machine.run("readlink", "/data/darkpipe/config/current").strip()
    # Each changes Alice's password and nothing of Postfix's; the second clears away what Postfix was started with.
    for salt in ("$LD3R", "$LD3S"):
        accounts = machine.data / "darkpipe/accounts.json"
        accounts.write_text(re.sub(r"\$LD3.", salt, accounts.read_text()))
        assert "is in force; no service has to be restarted" in machine.run("darkpipe", "apply")
    assert not (machine.data / "darkpipe/config" / generation).exists()
    assert machine.run("systemctl", "show", "--property=MainPID", "--value", "postfix").strip() == pid
    inside = ["nsenter", f"--target={pid}", "--mount", "--"]
    script = "cd /data/darkpipe && find . -type f | sort | xargs sha256sum"
    seen = machine.run(*inside, "sh", "-c", script)
    assert seen == machine.run(
        "sh", "-c", script.replace("find .", "find ./config/current/postfix/").replace("//", "/")
    )
    assert "main.cf" in seen
    with machine.lan() as client:
        assert client.call(mail.swaks, 25, "a@example.net", "alice@example.com", host=HOME_ADDRESS).returncode == 0
    machine.run("timeout", "30", "sh", "-c", f"until ls {_SECRETS['mail']}; do sleep 0.2; done")
    machine.stop()
