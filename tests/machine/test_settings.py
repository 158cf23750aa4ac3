"""The settings of a device take effect: name, clock, network, and who logs in how. One device, started twice."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pytest

from model.settings import Keyboard, Login, Settings, WifiNetwork
from tests.machine import terminal
from tests.machine.conftest import SEED
from tests.machine.machine import CLIENT_ADDRESS, HOME_ADDRESS, STRANGER_ADDRESS, Machine

_PASSWORD = "nineteen geese, one gander"
_KEY_OF_THE_NETWORK = "3f" * 32


@dataclass(frozen=True)
class Keys:
    """Two SSH keys.

    Args:
        own: private half of the one that the device knows.
        other: private half of one that it does not.
    """

    own: Path
    other: Path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Keys as ssh-keygen(1) makes them."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("own", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    return Keys(folder / "own", folder / "other")


@pytest.fixture(scope="module")
def settings(keys: Keys) -> Settings:
    """All that can be set."""
    return Settings(
        hostname="post-haus",
        wifi=(
            WifiNetwork(ssid='Käsé "}\n'.encode().hex(), key=_KEY_OF_THE_NETWORK, hidden=True),
            WifiNetwork(ssid="00ff"),
        ),
        country="DE",
        time_zone="Asia/Kolkata",
        keyboard=Keyboard(layout="de", variant="nodeadkeys"),
        login=Login(name="gerda", keys=(keys.own.with_suffix(".pub").read_text().strip(),)),
        ssh=True,
    )


@pytest.fixture(scope="module")
def device(new_machine: Callable[[str], Machine], settings: Settings) -> Iterator[Machine]:
    """A device with these settings, started for the first time."""
    machine = new_machine(SEED)
    (machine.state / "settings.json").write_text(settings.model_dump_json())
    (machine.data / "darkpipe").mkdir(mode=0o755)
    _set_password(machine)
    yield machine.start()
    machine.stop()


def _set_password(machine: Machine) -> None:
    """Store a hash made by OpenSSL (crypt(5): SHA-256)."""
    made = subprocess.run(
        ["openssl", "passwd", "-5", "-stdin"], input=_PASSWORD, text=True, capture_output=True, check=True
    )
    (machine.data / "darkpipe/login-password").write_text(made.stdout)


def _change(machine: Machine, settings: Settings) -> None:
    """Give a running device other settings, as a start would."""
    (machine.state / "settings.json").write_text(settings.model_dump_json())
    machine.run("systemctl", "restart", "darkpipe-settings.service", "ssh.service")


def _ssh(
    machine: Machine,
    tmp_path: Path,
    command: str,
    *,
    key: Path | None = None,
    options: tuple[str, ...] = (),
    source: str = CLIENT_ADDRESS,
) -> subprocess.CompletedProcess[str]:
    """Run a command as the login; without a key the client offers the password."""
    ask = tmp_path / "ask"
    ask.write_text(f"#!/bin/sh\necho {shlex.quote(_PASSWORD)}\n")
    ask.chmod(0o700)
    way = ("-i", str(key), "-o", "PasswordAuthentication=no") if key else ("-o", "PubkeyAuthentication=no")
    hosts = tmp_path / "known_hosts"
    argv = [
        *("ssh", "-F", "none", "-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={hosts}"),
        *("-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=2", "-b", source, *way, *options),
        *(f"gerda@{HOME_ADDRESS}", command),
    ]
    environment = {**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force", "SSH_AUTH_SOCK": ""}
    with machine.lan() as client:
        return client.call(
            lambda: subprocess.run(
                argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30
            )
        )


def test_every_setting_is_in_force_and_nothing_failed(device: Machine) -> None:
    assert device.failed_units() == []
    assert device.run("hostname").strip() == "post-haus"
    assert device.run("date", "+%Z").strip() == "IST"
    assert json.loads(device.run("darkpipe", "status", "--json", check=False))["ready"] is True
    assert "This device's SSH key was made" in device.console.replace("this device's", "This device's")
    assert _KEY_OF_THE_NETWORK not in device.run("journalctl", "--no-pager", "--output=export")


def test_the_device_finds_itself_by_its_name(device: Machine) -> None:
    for name in ("post-haus", "darkpipe", "localhost"):
        assert re.match(r"127\.|::1|192\.168\.|fe80:", device.run("getent", "ahosts", name)), name


def test_the_network_hears_of_the_name_from_the_first_word_on(device: Machine) -> None:
    started = [
        int(device.run("systemctl", "show", f"--property={moment}", "--value", unit))
        for unit, moment in (
            ("darkpipe-settings.service", "ActiveEnterTimestampMonotonic"),
            ("systemd-networkd.service", "ExecMainStartTimestampMonotonic"),
        )
    ]
    assert started[0] < started[1]


def test_headers_of_mail_have_the_time_zone(device: Machine) -> None:
    pid = device.run("systemctl", "show", "--property=MainPID", "--value", "postfix").strip()
    assert device.run("nsenter", f"--target={pid}", "--mount", "--", "date", "+%z").strip() == "+0530"


def test_the_key_opens_a_shell_and_the_password_makes_root(device: Machine, keys: Keys, tmp_path: Path) -> None:
    opened = _ssh(device, tmp_path, "id -un; pwd; stat -c %a .; sudo -n true", key=keys.own)
    assert opened.stdout.split() == ["gerda", "/run/home/gerda", "700"], opened.stderr
    assert "a password is required" in opened.stderr
    wrong = _ssh(device, tmp_path, "echo wrong | sudo -S -p '' id -u", key=keys.own)
    assert wrong.stdout == ""
    became = _ssh(
        device, tmp_path, f"echo {shlex.quote(_PASSWORD)} | sudo -S -p '' darkpipe status --json", key=keys.own
    )
    assert json.loads(became.stdout)["ready"] is True


def test_nobody_else_gets_in(device: Machine, keys: Keys, tmp_path: Path) -> None:
    for options in ({"key": keys.other}, {}, {"key": keys.own, "options": ("-l", "root")}):
        refused = _ssh(device, tmp_path, "id", **options)
        assert refused.returncode == 255
        assert "Permission denied (publickey)" in refused.stderr


def test_ssh_is_for_neighbours(device: Machine, keys: Keys, tmp_path: Path) -> None:
    stranger = _ssh(device, tmp_path, "id", key=keys.own, source=STRANGER_ADDRESS)
    assert "Connection timed out" in stranger.stderr
    with device.tunnel() as relay:
        assert relay.reachable([22], "10.99.0.1") == set()


def test_a_session_is_no_way_into_the_network(device: Machine, keys: Keys, tmp_path: Path) -> None:
    forwarded = _ssh(device, tmp_path, "", key=keys.own, options=("-W", "127.0.0.1:25"))
    assert "open failed: administratively prohibited" in forwarded.stderr


def test_the_console_lets_the_login_in(device: Machine) -> None:
    console = _console(device)
    try:
        console.sendline("gerda")
        console.expect("Password: ")
        console.sendline(_PASSWORD)
        console.expect(r"gerda@post-haus:~\$ ")
    finally:
        console.close(force=True)


def _console(device: Machine) -> pexpect.spawn[str]:
    """Return a terminal on which login(1) has just asked for a name."""
    inside = ["python3", "-I", "-c", Path(terminal.__file__).read_text(encoding="utf-8"), "login"]
    console = pexpect.spawn(device.enter[0], [*device.enter[1:], *inside], timeout=60)
    console.expect("login: ")
    return console


def test_wpa_supplicant_understands_its_configuration(device: Machine) -> None:
    path = "/run/wpa_supplicant/wpa_supplicant.conf"
    assert device.run("stat", "--format=%a %U", path).split() == ["600", "root"]
    text = device.run("cat", path)
    assert _understood(device, text)
    assert not _understood(device, text.replace("proto=RSN", "proto=RSM"))
    assert not _understood(device, text.replace("\tkey_mgmt=NONE\n}", "\tkey_mgmt=NONE"))


def _understood(device: Machine, text: str) -> bool:
    """Let wpa_supplicant read a configuration; without a radio it then waits for one, until it is told to end."""
    path = "/run/understood.conf"
    device.run("tee", path, stdin=text.encode())
    judged = device.run("timeout", "1", "wpa_supplicant", "-Dnone", "-ilo", f"-c{path}", check=False)
    device.run("rm", path)
    assert ("Failed to read or parse" in judged) != ("CTRL-EVENT-SCAN-FAILED" in judged), judged
    return "Failed to read or parse" not in judged


def test_the_keymap_of_the_layout_is_one_that_the_kernel_takes(device: Machine) -> None:
    # Without a screen nothing was set; compiling does without.
    compile_ = "ckbcomp -layout {} -variant '' -model pc105 | loadkeys --quiet --unicode --bkeymap | sha256sum"
    sums = {layout: device.run("sh", "-c", compile_.format(layout)) for layout in ("us", "de", "fr", "us,gr")}
    assert len(set(sums.values())) == 4


def test_after_a_restart_it_is_the_same_device_and_a_password_will_do(
    device: Machine, settings: Settings, tmp_path: Path
) -> None:
    before = (device.state / "ssh/ssh_host_ed25519_key").read_bytes()
    assert settings.login
    by_password = settings.login.model_copy(update={"by_password": True, "keys": ()})
    changed = settings.model_copy(update={"login": by_password, "time_zone": None})
    (device.state / "settings.json").write_text(changed.model_dump_json())
    device.restart()
    assert device.failed_units() == []
    assert (device.state / "ssh/ssh_host_ed25519_key").read_bytes() == before
    assert "SSH key was made" not in device.console
    assert device.run("date", "+%Z").strip() == "UTC"
    assert _ssh(device, tmp_path, "id -un").stdout == "gerda\n"


def test_without_a_password_the_key_is_enough_for_root(
    device: Machine, settings: Settings, keys: Keys, tmp_path: Path
) -> None:
    (device.data / "darkpipe/login-password").unlink()
    _change(device, settings)
    assert _ssh(device, tmp_path, "sudo -n id -u", key=keys.own).stdout == "0\n"


def test_ssh_that_is_off_is_a_closed_port(device: Machine, settings: Settings) -> None:
    with device.lan() as client:
        assert client.can_connect(22)
        _change(device, settings.model_copy(update={"ssh": False}))
        assert not client.can_connect(22)
    assert device.failed_units() == []


def test_settings_that_cannot_be_used_are_explained_and_the_device_has_the_images_own(device: Machine) -> None:
    wrong = {"hostname": "under_score", "wifi": [{"ssid": "41", "key": "a secret"}], "ssh": True}
    (device.state / "settings.json").write_text(json.dumps(wrong))
    output = device.run("systemctl", "restart", "darkpipe-settings.service", check=False)
    assert "failed" in output
    assert "hostname: Value error, expected up to 63 lower-case letters, digits and inner hyphens" in device.console
    assert "a secret" not in device.console
    assert device.run("hostname").strip() == "darkpipe"
    assert device.run("getent", "passwd", "gerda", check=False) == ""
    problems = json.loads(device.run("darkpipe", "status", "--json", check=False))["problems"]
    assert [problem["blocks_mail"] for problem in problems if "darkpipe-settings" in problem["found"]] == [False]
