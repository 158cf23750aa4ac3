"""The Raspberry Pi Imager's settings: read as it writes them, kept, and wiped."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstboot.imager import FILES, ImagerError, Imported, Taken, read_imager, take_imager
from model.settings import Keyboard, Login, Settings, WifiNetwork
from tests.unit.imager_samples import (
    HASH,
    KEY,
    Choices,
    psk,
    version_1,
    version_1_8,
    version_2,
    version_2_0_0,
    version_2_0_4,
)
from tests.unit.power_cut import at_every_step

EVERYTHING = Choices(
    hostname="Post",
    timezone="Europe/Berlin",
    keyboard="de",
    user="alice",
    password_hash=HASH,
    keys=(KEY,),
    ssh=True,
    ssid='Küche "5"'.encode(),
    passphrase="kein Geheimnis mehr",
    hidden=True,
    country="DE",
)
Write = Callable[[Choices], dict[str, bytes]]
VERSIONS = (version_2, version_2_0_4, version_2_0_0, version_1, version_1_8)
every_version = pytest.mark.parametrize("write", VERSIONS)


@every_version
def test_everything_that_the_imager_writes(write: Write) -> None:
    # Versions 1 do not escape what stands in the name of a network.
    choices = EVERYTHING if write not in (version_1, version_1_8) else replace(EVERYTHING, ssid="Küche 5".encode())
    found = read_imager(write(choices))
    assert found.settings == Settings(
        hostname="post",
        time_zone="Europe/Berlin",
        keyboard=Keyboard(layout="de"),
        login=Login(name="alice", keys=(KEY,)),
        ssh=True,
        country="DE",
        wifi=(WifiNetwork(ssid=choices.ssid.hex(), key=psk(choices.passphrase, choices.ssid), hidden=True),),
    )
    assert found.password_hash == HASH


@every_version
def test_nothing_but_a_host_name(write: Write) -> None:
    found = read_imager(write(Choices(hostname="mail")))
    assert found.settings == Settings(hostname="mail")
    assert found.password_hash is None


@every_version
def test_nothing_but_a_network(write: Write) -> None:
    found = read_imager(write(Choices(ssid="café".encode(), passphrase="12345678")))
    assert found.settings == Settings(
        wifi=(WifiNetwork(ssid="café".encode().hex(), key=psk("12345678", "café".encode())),)
    )


@every_version
def test_an_open_network(write: Write) -> None:
    (network,) = read_imager(write(Choices(ssid=b"guests"))).settings.wifi
    assert network == WifiNetwork(ssid=b"guests".hex())


@every_version
def test_no_choice_at_all(write: Write) -> None:
    assert read_imager(write(Choices())).settings == Settings()


def test_no_file_says_nothing() -> None:
    assert read_imager({}) == Imported(Settings())


@every_version
@pytest.mark.parametrize("by_password", [True, False])
def test_ssh_by_one_way_only(write: Write, by_password: bool) -> None:
    choices = Choices(user="bob", ssh=True, ssh_password=by_password)
    choices = replace(choices, password_hash=HASH) if by_password else replace(choices, keys=(KEY,))
    found = read_imager(write(choices))
    keys = () if by_password else (KEY,)
    assert found.settings == Settings(login=Login(name="bob", keys=keys, by_password=by_password), ssh=True)
    assert found.password_hash == choices.password_hash or not by_password


@pytest.mark.parametrize("write", [version_2, version_2_0_4, version_1, version_1_8])
def test_a_login_without_ssh(write: Write) -> None:
    found = read_imager(write(Choices(user="bob", password_hash=HASH, keys=(KEY,))))
    assert found == Imported(Settings(login=Login(name="bob")), HASH)


@pytest.mark.parametrize("write", [version_2, version_2_0_4, version_2_0_0])
def test_a_country_without_a_network(write: Write) -> None:
    assert read_imager(write(Choices(country="FR"))).settings == Settings(country="FR")


def test_what_the_appliance_has_none_of_is_no_fault() -> None:
    choices = replace(EVERYTHING, passwordless_sudo=True, connect_token="token")
    assert read_imager(version_2(choices)) == read_imager(version_2(EVERYTHING))


@given(ssid=st.binary(min_size=1, max_size=32))
def test_any_octets_may_be_a_network(ssid: bytes) -> None:
    (network,) = read_imager(version_2(Choices(ssid=ssid, passphrase="12345678"))).settings.wifi
    assert bytes.fromhex(network.ssid) == ssid
    assert network.key == psk("12345678", ssid)


@given(ssid=st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"]), min_size=1, max_size=8))
def test_any_text_may_be_a_network(ssid: str) -> None:
    """Of versions that do not write octets."""
    (network,) = read_imager(version_2_0_4(Choices(ssid=ssid.encode()))).settings.wifi
    assert bytes.fromhex(network.ssid) == ssid.encode()


@given(hostname=st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?", fullmatch=True))
def test_any_label_may_be_the_host_name(hostname: str) -> None:
    assert read_imager(version_2(Choices(hostname=hostname))).settings.hostname == hostname.lower()


def test_a_passphrase_becomes_a_key() -> None:
    """Test vector of IEEE 802.11-2020 annex J.4.2."""
    text = b'wifis:\n  wlan0:\n    access-points:\n      "IEEE":\n        password: "password"\n'
    (network,) = read_imager({"network-config": text}).settings.wifi
    assert network.key == "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"


_POINT = "wifis:\n  w:\n    access-points:\n      x:\n        "


@pytest.mark.parametrize(
    ("name", "text", "line", "word"),
    [
        ("user-data", "hostname: ok\nhostnam: x\n", 2, "`hostnam`"),
        ("user-data", "#cloud-config\nhostname: -x\n", 2, "`hostname`: found `-x`"),
        ("user-data", "hostname: a.b\n", 1, "found `a.b`"),
        ("user-data", "hostname: [a]\n", 1, "found a list"),
        ("user-data", 'hostname: "a\\e[2Jb"\n', 1, "found `a\N{REPLACEMENT CHARACTER}[2jb`"),
        ("user-data", "timezone: ../../etc/shadow\n", 1, "timezone"),
        ("user-data", "user:\n  name: root;id\n", 2, "`user.name`: found `root;id`"),
        ("user-data", "user:\n  shell: /bin/sh\n", 1, "user"),
        ("user-data", "user: bob\n", 1, "expected keys and values"),
        ("user-data", "user:\n  name: mail\n", 2, "belongs to the system"),
        ("user-data", "user:\n  name: bob\n  uid: 0\n", 3, "`user.uid`"),
        ("user-data", "user:\n  name: bob\n  plain_text_passwd: secret-word\n", 3, "plain_text_passwd"),
        ("user-data", "user:\n  name: bob\n  passwd: secret-word\n", 3, "passwd"),
        ("user-data", "user:\n  name: bob\n  passwd: [secret-word]\n", 3, "passwd"),
        ("user-data", "user:\n  name: bob\n  passwd secret-word:\n", 3, "user.…"),
        ("user-data", "user:\n  name: bob\n  lock_passwd: maybe\n  passwd: secret-word\n", 3, "`true` or `false`"),
        ("user-data", "user:\n  name: bob\n  ssh_authorized_keys: secret-word\n", 3, "ssh_authorized_keys"),
        ("user-data", "user:\n  name: b\n  ssh_authorized_keys:\n  - ''\n  - secret-word\n", 5, "an SSH key"),
        ("user-data", "user:\n  name: b\n  ssh_authorized_keys: ['command=\"x\" ssh-rsa AAAA']\n", 3, "an SSH key"),
        ("user-data", "user:\n  name: b\n  ssh_authorized_keys: [ssh-ed25519 AAAA]\n", 3, "an SSH key, whole"),
        ("user-data", "users:\n- name: a\n- name: b\n", 1, "users"),
        ("user-data", "user:\n  name: a\nusers:\n- name: b\n", 3, "beside `user`"),
        ("user-data", "users:\n- default\n", 2, "expected keys and values"),
        ("user-data", "keyboard:\n  layout: '$(reboot)'\n", 2, "`keyboard.layout`: found `$(reboot)`"),
        ("user-data", 'runcmd:\n- localectl set-x11-keymap "$(reboot)" pc105\n', 2, "found `$(reboot)`"),
        ("user-data", "ssh_pwauth: yes\n", 1, "`true` or `false`"),
        ("user-data", "enable_ssh: true\n", 1, "nobody who could log in"),
        ("user-data", "ssh_pwauth: true\nuser:\n  name: bob\n", 1, "nobody who could log in"),
        ("user-data", "hostname: [a\n", 1, "list"),
        ("user-data", "hostname: &a x\ntimezone: *a\n", 1, "anchor"),
        ("user-data", "hostname: !!python/name:os.system x\n", 1, "a tag"),
        ("user-data", "hostname: a\nhostname: b\n", 2, "second time"),
        ("user-data", f'user:\n  name: b\n  ssh_authorized_keys: ["{KEY} \\ud83d"]\n', 3, "half a character"),
        ("user-data", f"packages: {'[' * 30_000}\n", 1, "too deep"),
        ("user-data", "- a\n- b\n", 1, "keys and values"),
        ("network-config", f"{_POINT}password: short\n", 5, "password"),
        ("network-config", f'{_POINT}password: "12345678\\ud83d"\n', 5, "half a character"),
        ("network-config", 'wifis:\n  w:\n    access-points:\n      "\\ud83d": {}\n', 4, "half a character"),
        ("network-config", f"{_POINT}password: [secret-word]\n", 5, "password"),
        ("network-config", f"{_POINT}hidden: 1\n", 5, "`true` or `false`"),
        ("network-config", f"{_POINT}auth: {{key-management: eap, password: secret-word}}\n", 5, "auth"),
        ("network-config", f"{_POINT}auth: {{key-management: sae}}\n", 5, "more than a password"),
        ("network-config", f"{_POINT}password: 12345678\n        bssid: 00:11:22:33:44:55\n", 6, "bssid"),
        ("network-config", "wifis:\n  wlan0:\n    access-points:\n      x: {}\n", 4, "password"),
        ("network-config", "wifis:\n  wlan0:\n    addresses: [192.0.2.1/24]\n", 3, "addresses"),
        ("network-config", "wifis:\n  wlan0: true\n", 2, "expected keys and values"),
        ("network-config", "network:\n  ethernets:\n    eth0:\n      addresses: [192.0.2.1/24]\n", 4, "addresses"),
        ("network-config", "network:\n  bridges: {}\n", 2, "`network.bridges`"),
        ("network-config", "network: {}\nwifis: {}\n", 2, "wifis"),
        ("network-config", "network: true\n", 1, "expected keys and values"),
        ("network-config", "wifis:\n  w:\n    regulatory-domain: DEU\n", 3, "found `DEU`"),
        (
            "network-config",
            f"wifis:\n  w:\n    access-points:\n      {'x' * 33}:\n        password: '{'a' * 64}'\n",
            4,
            "octets",
        ),
    ],
)
def test_what_would_not_take_effect_is_told_with_its_line(name: str, text: str, line: int, word: str) -> None:
    with pytest.raises(ImagerError) as caught:
        read_imager({name: text.encode()}, taken_names={"mail"})
    told = str(caught.value)
    assert any(f"{name}, line {line}:" in row and word in row for row in told.splitlines()), told
    assert "secret-word" not in told


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x: " + b"y" * 70_000])
def test_what_is_no_text_is_refused(content: bytes) -> None:
    with pytest.raises(ImagerError, match="user-data"):
        read_imager({"user-data": content})


@given(st.dictionaries(st.sampled_from(FILES), st.binary(max_size=300)))
def test_any_content_is_read_or_refused(files: dict[str, bytes]) -> None:
    with suppress(ImagerError):
        assert read_imager(files).settings.model_dump_json()


class Card:
    """The boot partition and what the device keeps."""

    def __init__(self, folder: Path, files: dict[str, bytes]) -> None:
        self.boot = folder / "boot"
        self.boot.mkdir(parents=True)
        (folder / "kept").mkdir()
        self.settings, self.password = folder / "kept/settings.json", folder / "kept/login-password"
        for name, content in {**files, "autoboot.txt": b"[all]\nboot_partition=2\n"}.items():
            (self.boot / name).write_bytes(content)

    def take(self) -> Taken:
        return take_imager(self.boot, self.settings, self.password, {"mail"})

    def kept(self) -> Settings:
        return Settings.model_validate_json(self.settings.read_bytes())


def test_settings_are_kept_and_wiped(tmp_path: Path) -> None:
    card = Card(tmp_path, version_2(replace(EVERYTHING, connect_token="a-canary")))
    links = []
    for number, path in enumerate(sorted(card.boot.iterdir())):
        links.append(tmp_path / str(number))
        links[-1].hardlink_to(path)
    secrets = [HASH.encode(), psk(EVERYTHING.passphrase, EVERYTHING.ssid).encode(), b"a-canary"]
    before = b"".join(link.read_bytes() for link in links)
    assert all(secret in before for secret in secrets)
    assert card.take() is Taken.TAKEN
    assert [path.name for path in card.boot.iterdir()] == ["autoboot.txt"]
    # The very blocks, which the names no longer lead to.
    left = b"".join(link.read_bytes() for link in links)
    assert not any(secret in left for secret in secrets)
    assert card.kept().login == Login(name="alice", keys=(KEY,))
    assert card.password.read_text() == f"{HASH}\n"
    assert HASH not in card.settings.read_text()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (card.settings, card.password)} == {0o600}
    assert card.take() is Taken.NONE


@pytest.mark.parametrize("choices", [Choices(user="bob", keys=(KEY,), ssh=True), Choices()])
def test_a_password_of_an_earlier_life_goes(tmp_path: Path, choices: Choices) -> None:
    """The data disk may be older than the card: without a password of its own, the login must not have that one."""
    card = Card(tmp_path, version_2(choices))
    card.password.write_text(f"{HASH}\n")
    card.take()
    assert card.kept().login == read_imager(version_2(choices)).settings.login
    assert not card.password.exists()


def test_a_device_that_has_started_takes_no_other_settings(tmp_path: Path) -> None:
    card = Card(tmp_path, {})
    assert card.take() is Taken.NONE
    assert card.kept() == Settings()
    for name, content in version_2(Choices(user="mallory", keys=(KEY,), ssh=True)).items():
        (card.boot / name).write_bytes(content)
    assert card.take() is Taken.LEFTOVER
    assert card.kept() == Settings()
    assert [path.name for path in card.boot.iterdir()] == ["autoboot.txt"]


@pytest.mark.parametrize("wrong", [b"hostname: -\n", b"user:\n  name: mail\n", b"#" * 70_000])
def test_wrong_files_stay_to_be_mended(tmp_path: Path, wrong: bytes) -> None:
    card = Card(tmp_path, {"user-data": wrong})
    with pytest.raises(ImagerError):
        card.take()
    assert (card.boot / "user-data").read_bytes() == wrong
    assert not card.settings.exists()
    (card.boot / "user-data").write_bytes(b"hostname: mail\n")
    assert card.take() is Taken.TAKEN
    assert card.kept().hostname == "mail"


def test_a_power_cut_at_any_step_loses_nothing(tmp_path: Path) -> None:
    cards: dict[int, Card] = {}
    numbers = itertools.count()

    def start() -> Taken:
        number = next(numbers)
        cards[number] = Card(tmp_path / f"{number}", version_2(EVERYTHING))
        return cards[number].take()

    for number in at_every_step(start):
        if card := cards.get(number):
            untouched = {path.name: path.read_bytes() for path in card.boot.iterdir() if path.name in FILES}
            assert card.settings.exists() or untouched == version_2(EVERYTHING)
            card.take()
            assert card.kept().login == Login(name="alice", keys=(KEY,))
            assert card.password.read_text() == f"{HASH}\n"
            assert [path.name for path in card.boot.iterdir()] == ["autoboot.txt"]
    assert len(cards) > 6
