"""From the settings of a device to files in /run: every field, hostile values, and what is left out."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath

import pytest

from firstboot import login as account
from firstboot import settings
from firstboot.imager import ImagerError
from firstboot.login import LoginError, check_name, read_password_hash, taken_names
from firstboot.settings import (
    LOCAL_TIME,
    SUPPLICANT,
    Complaints,
    Effect,
    SettingsError,
    ensure_host_key,
    make_home,
    put,
    read_settings,
    render,
    set_keyboard,
    without_unusable,
)
from firstboot.wifi import supplicant_configuration
from home.readings import read_left_out
from model.settings import Keyboard, Login, Settings, WifiNetwork

_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPLg7MsMZ4hQxY7NMJX0lQ9mZkZz3VbG5cE1c2l5kQXk gerda@laptop"
_HASH = "$y$j9T$w9iNCkbWQnbwYYZYyZ2iz.$FjDFZ5TfSF7vM7Lzh0TQ0OnqB1SvyHtdvYVxEi2l1c5"
_LOGIN = Login(name="gerda", keys=(_KEY,))


def _effect(settings: Settings, password_hash: str | None = None) -> Effect:
    return render(settings, password_hash=password_hash, sudo_asks=password_hash is not None)


def _text(effect: Effect, path: PurePosixPath) -> str:
    return effect.files[path].content.decode()


def test_no_settings_are_no_files() -> None:
    assert _effect(Settings()) == Effect()


def test_a_country_or_ssh_alone_are_no_files() -> None:
    assert _effect(Settings(country="DE", ssh=True, keyboard=Keyboard(layout="de"))) == Effect()


def test_the_time_zone_is_a_link_into_the_database() -> None:
    effect = _effect(Settings(time_zone="America/Argentina/Ushuaia"))
    assert effect.links == {LOCAL_TIME: PurePosixPath("/usr/share/zoneinfo/America/Argentina/Ushuaia")}


def test_a_network_with_a_key() -> None:
    text = supplicant_configuration([WifiNetwork(ssid="6b", key="0f" * 32)], "DE")
    assert "\ncountry=DE\n" in text
    assert text.endswith(
        "\nnetwork={\n\tssid=6b\n\tkey_mgmt=WPA-PSK WPA-PSK-SHA256\n\tproto=RSN\n\tpairwise=CCMP\n\tieee80211w=1\n"
        f"\tpsk={'0f' * 32}\n}}\n"
    )


def test_an_open_hidden_network_without_a_country() -> None:
    text = supplicant_configuration([WifiNetwork(ssid="6b", hidden=True)], None)
    assert "country" not in text
    assert text.endswith("\nnetwork={\n\tssid=6b\n\tscan_ssid=1\n\tkey_mgmt=NONE\n}\n")


@pytest.mark.parametrize("name", ['"\n}\nnetwork={', "\\x00#", "}", "Käsé", "\0" * 32])
def test_the_name_of_a_network_says_nothing_but_the_name(name: str) -> None:
    text = supplicant_configuration([WifiNetwork(ssid=name.encode().hex())], None)
    assert text.count("network={") == 1
    assert text.count("}") == 1
    row = next(row for row in text.splitlines() if "ssid=" in row)
    assert bytes.fromhex(row.removeprefix("\tssid=")).decode() == name


def test_the_keys_of_networks_are_roots_alone() -> None:
    effect = _effect(Settings(wifi=(WifiNetwork(ssid="6b", key="0f" * 32),)))
    assert effect.files[SUPPLICANT].mode == 0o600
    assert "0f" * 32 not in repr(Settings(wifi=(WifiNetwork(ssid="6b", key="0f" * 32),)))


def test_the_account_is_known_by_name_and_number_and_its_hash_is_apart() -> None:
    effect = _effect(Settings(login=_LOGIN), _HASH)
    for stem in ("gerda", "1000"):
        user = json.loads(_text(effect, account.USER_RECORDS / f"{stem}.user"))
        assert (user["userName"], user["uid"], user["gid"]) == ("gerda", 1000, 1000)
        assert user["homeDirectory"] == "/run/home/gerda"
        group = json.loads(_text(effect, account.USER_RECORDS / f"{stem}.group"))
        assert (group["groupName"], group["gid"]) == ("gerda", 1000)
        secret = account.USER_RECORDS / f"{stem}.user-privileged"
        assert json.loads(_text(effect, secret)) == {"privileged": {"hashedPassword": [_HASH]}}
        assert effect.files[secret].mode == 0o600
    readable = [file for file in effect.files.values() if file.mode & 0o077]
    assert not [file for file in readable if _HASH.encode() in file.content]


_UNLOCKS = "gerda ALL=(root) NOPASSWD: /usr/bin/darkpipe disk unlock\n"


def test_without_a_password_none_fits_and_sudo_asks_for_none() -> None:
    effect = _effect(Settings(login=_LOGIN))
    assert not [path for path in effect.files if path.suffix == ".user-privileged"]
    assert _text(effect, account.SUDOERS / "login") == f"gerda ALL=(ALL:ALL) NOPASSWD: ALL\n{_UNLOCKS}"


def test_with_a_password_sudo_asks_for_it() -> None:
    effect = _effect(Settings(login=_LOGIN), _HASH)
    assert _text(effect, account.SUDOERS / "login") == f"gerda ALL=(ALL:ALL) ALL\n{_UNLOCKS}"
    assert effect.files[account.SUDOERS / "login"].mode == 0o440


def test_a_password_that_cannot_be_read_is_not_no_password() -> None:
    effect = render(Settings(login=_LOGIN), password_hash=None, sudo_asks=True)
    assert _text(effect, account.SUDOERS / "login").count("NOPASSWD") == 1, "for the disk's passphrase alone"


@pytest.mark.parametrize(
    ("by_password", "password_hash", "expected"),
    [(False, None, "no"), (False, _HASH, "no"), (True, None, "no"), (True, _HASH, "yes")],
)
def test_ssh_takes_a_password_if_it_may_and_there_is_one(
    by_password: bool, password_hash: str | None, expected: str
) -> None:
    login = _LOGIN.model_copy(update={"by_password": by_password})
    effect = _effect(Settings(login=login, ssh=True), password_hash)
    assert _text(effect, account.SSHD) == f"AllowUsers gerda\nPasswordAuthentication {expected}\n"
    # Its comment stays on the owner's computer: it names people, and the settings lie open on the disk.
    assert _text(effect, account.AUTHORIZED_KEYS / "gerda") == f"{_KEY.removesuffix(' gerda@laptop')}\n"
    assert "laptop" not in Settings(login=login, ssh=True).model_dump_json()


def test_ssh_that_is_off_leaves_no_way_in() -> None:
    effect = _effect(Settings(login=_LOGIN), _HASH)
    assert not {account.SSHD, account.AUTHORIZED_KEYS / "gerda"} & effect.files.keys()


def test_what_is_written_has_its_mode_and_what_was_there_goes(tmp_path: Path) -> None:
    first = Settings(login=_LOGIN, ssh=True, time_zone="Asia/Tokyo", wifi=(WifiNetwork(ssid="6b"),))
    effect = _effect(first, _HASH)
    put(effect, tmp_path)
    for path, file in effect.files.items():
        written = tmp_path / path.relative_to("/")
        assert written.read_bytes() == file.content
        assert written.stat().st_mode & 0o777 == file.mode
    assert (tmp_path / LOCAL_TIME.relative_to("/")).readlink() == Path("/usr/share/zoneinfo/Asia/Tokyo")
    hidden = [(tmp_path / path).stat().st_ino for path in ("run/userdb", "run/wpa_supplicant")]
    put(effect, tmp_path)
    put(Effect(), tmp_path)
    # The same folders as before: cages of running services hide these, and no others in their place.
    assert [(tmp_path / path).stat().st_ino for path in ("run/userdb", "run/wpa_supplicant")] == hidden
    assert not [path for path in tmp_path.rglob("*") if not path.is_dir()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What without_unusable() looks at of a system."""
    for path, content in {
        "etc/passwd": "root:x:0:0::/root:/bin/bash\nvmail:x:204:204::/data/mail:/usr/sbin/nologin\n",
        "etc/group": "root:x:0:\nsudo:x:27:\n",
        "usr/share/zoneinfo/Europe/Berlin": "TZif2",
        "usr/share/zoneinfo/leapseconds": "# text",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    return tmp_path


def _kept(settings: Settings, root: Path) -> tuple[Settings, list[str]]:
    complaints: list[str] = []
    return without_unusable(settings, complaints.append, root), complaints


def test_what_can_be_used_is_kept(root: Path) -> None:
    settings = Settings(time_zone="Europe/Berlin", login=_LOGIN, ssh=True, hostname="a")
    assert _kept(settings, root) == (settings, [])


@pytest.mark.parametrize("name", ["Europe/Atlantis", "Europe", "leapseconds"])
def test_a_time_zone_that_is_none_is_told(root: Path, name: str) -> None:
    settings, complaints = _kept(Settings(time_zone=name, hostname="kept"), root)
    assert settings == Settings(hostname="kept")
    assert len(complaints) == 1
    assert f"there is no time zone `{name}`" in complaints[0]


@pytest.mark.parametrize("name", ["root", "vmail", "sudo", "darkpipe-wifi", "systemd-coredump"])
def test_a_login_that_is_somebody_else_is_refused_and_ssh_with_it(root: Path, name: str) -> None:
    settings, complaints = _kept(Settings(login=Login(name=name, keys=(_KEY,)), ssh=True), root)
    assert settings == Settings()
    assert f"`{name}` belongs to the system" in complaints[0]
    assert "SSH is switched on, but there is no login" in complaints[1]


def test_names_of_the_image_are_read_from_its_files(root: Path) -> None:
    assert taken_names(root / "etc/passwd", root / "etc/group") == {"root", "vmail", "sudo"}
    check_name("darkpipe", {"root"})


def test_a_device_without_settings_has_the_images_own(tmp_path: Path) -> None:
    assert read_settings(tmp_path / "none.json") == Settings()


def test_settings_are_read_as_they_are_stored(tmp_path: Path) -> None:
    settings = Settings(
        hostname="home",
        wifi=(WifiNetwork(ssid="6b", key="0f" * 32),),
        country="DE",
        time_zone="Europe/Berlin",
        keyboard=Keyboard(layout="de"),
        login=_LOGIN,
        ssh=True,
    )
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    assert read_settings(tmp_path / "settings.json") == settings


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "the file: Invalid JSON"),
        ('{"hostname": "a"', "the file: Invalid JSON"),
        ("[]", "the file: "),
        ('{"wifi": [{"ssid": "6b", "key": "our secret"}]}', "wifi.0.key: Value error, expected 64 hexadecimal digits"),
        ('{"login": {"name": "our secret", "keys": []}}', "login.name: Value error, expected 1 to 31"),
        ('{"our secret": 1}', "Extra inputs are not permitted"),
    ],
)
def test_a_broken_file_is_explained_without_its_content(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(SettingsError) as refused:
        read_settings(tmp_path / "settings.json")
    assert found in str(refused.value)
    assert "the device starts without its settings" in str(refused.value)
    if not text.startswith('{"our'):
        assert "our secret" not in str(refused.value)


def test_a_complaint_does_not_end_what_follows() -> None:
    told: list[str] = []
    complaints = Complaints(told.append)
    for fault in (SettingsError("it cannot be"), PermissionError(13, "Permission denied", "/run/x")):
        with complaints.caught():
            raise fault
    assert told == ["DarkPipe: it cannot be", "DarkPipe: [Errno 13] Permission denied: '/run/x'"]
    assert len(complaints.texts) == 2


def test_a_password_hash_is_read(tmp_path: Path) -> None:
    (tmp_path / "login-password").write_text(f"{_HASH}\n")
    assert read_password_hash(tmp_path / "login-password") == _HASH
    assert read_password_hash(tmp_path / "none") is None


@pytest.mark.parametrize("text", ["", "hunter2", f"{_HASH}\n{_HASH}", "$y$", "!", f"{_HASH}:"])
def test_what_is_no_hash_fits_no_password_and_is_not_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "login-password").write_text(text)
    with pytest.raises(LoginError, match="holds no password hash") as refused:
        read_password_hash(tmp_path / "login-password")
    assert "hunter2" not in str(refused.value)


def test_without_the_data_disk_nobody_knows_whether_there_is_a_password(tmp_path: Path) -> None:
    with pytest.raises(LoginError, match="the data disk is not there"):
        read_password_hash(tmp_path / "absent/login-password")


def test_the_host_key_is_made_once(tmp_path: Path) -> None:
    key = tmp_path / "ssh/key"
    fingerprint = ensure_host_key(key, tmp_path / "scratch")
    assert fingerprint is not None
    assert fingerprint.startswith("SHA256:")
    made = key.read_bytes()
    assert made.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700
    assert ensure_host_key(key, tmp_path / "scratch") is None
    assert key.read_bytes() == made
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_host_key_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="the device's SSH key cannot be kept"):
        ensure_host_key(tmp_path / "file/ssh/key", tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_home_is_the_logins_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners: list[tuple[Path, int, int]] = []
    monkeypatch.setattr(os, "chown", lambda *given: owners.append(given))
    make_home("gerda", tmp_path / "home")
    make_home("gerda", tmp_path / "home")
    assert (tmp_path / "home/gerda").stat().st_mode & 0o777 == 0o700
    assert owners == [(tmp_path / "home/gerda", 1000, 1000)] * 2


def test_a_device_without_a_screen_needs_no_keyboard(tmp_path: Path) -> None:
    set_keyboard(Keyboard(layout="de"), tmp_path / "tty1")


def test_what_is_left_out_is_kept_for_the_status_until_it_takes_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "left-out"

    def refuse() -> None:
        raise ImagerError("the settings cannot be used:\n  user-data, line 3: found another value")

    for name, value in {
        "LEFT_OUT": path,
        "Complaints": lambda: Complaints(lambda _: True),
        "take_over": refuse,
        "read_settings": lambda _: Settings(),
        "take_effect": lambda *_, **__: None,
    }.items():
        monkeypatch.setattr(settings, name, value)
    assert settings.main([]) == 1
    assert read_left_out(path) == "the settings cannot be used: user-data, line 3: found another value"
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(settings, "take_over", lambda: None)
    assert settings.main([]) == 0
    assert read_left_out(path) == ""
