"""The Raspberry Pi Imager's settings: read as it writes them, kept, and wiped."""

from __future__ import annotations

import itertools
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstboot.imager import FILES, ImagerError, Taken, read_imager, take_imager
from model.settings import Keyboard, Login, Settings, WifiNetwork
from tests.unit.imager_samples import HASH, KEY, Choices, psk, version_1, version_2
from tests.unit.power_cut import at_every_step

EVERYTHING = Choices(
    hostname="Post",
    timezone="Europe/Berlin",
    keyboard="de",
    user="alice",
    password_hash=HASH,
    keys=(KEY,),
    ssh=True,
    ssid='Küche "5" \\o/'.encode(),
    passphrase="kein Geheimnis mehr",
    hidden=True,
    country="DE",
)


def test_everything_that_version_2_writes() -> None:
    found = read_imager(version_2(EVERYTHING))
    assert found.settings == Settings(
        hostname="post",
        time_zone="Europe/Berlin",
        keyboard=Keyboard(layout="de"),
        login=Login(name="alice", keys=(KEY,)),
        ssh=True,
        country="DE",
        wifi=(WifiNetwork(ssid=EVERYTHING.ssid.hex(), key=psk(EVERYTHING.passphrase, EVERYTHING.ssid), hidden=True),),
    )
    assert found.password_hash == HASH


def test_everything_that_version_1_writes() -> None:
    choices = Choices(**{**vars(EVERYTHING), "ssid": "Küche".encode(), "keys": (), "ssh_password": True})
    found = read_imager(version_1(choices))
    assert found.settings.wifi[0].ssid == "Küche".encode().hex()
    assert found.settings.wifi[0].hidden
    assert found.settings.login == Login(name="alice", by_password=True)
    assert (found.settings.ssh, found.settings.country, found.password_hash) == (True, "DE", HASH)


@pytest.mark.parametrize("write", [version_1, version_2])
def test_nothing_but_a_host_name(write: object) -> None:
    assert callable(write)
    found = read_imager(write(Choices(hostname="mail")))
    assert found.settings == Settings(hostname="mail")
    assert found.password_hash is None


def test_no_file_says_nothing() -> None:
    assert read_imager({}).settings == Settings()


@pytest.mark.parametrize(
    ("choices", "ssh", "by_password"),
    [
        (Choices(user="bob", password_hash=HASH), False, False),
        (Choices(user="bob", password_hash=HASH, ssh=True, ssh_password=True), True, True),
        (Choices(user="bob", keys=(KEY,), ssh=True), True, False),
        (Choices(user="bob", password_hash=HASH, keys=(KEY,)), False, False),
    ],
)
def test_ssh_is_on_for_whom_it_was_switched_on(choices: Choices, ssh: bool, by_password: bool) -> None:
    found = read_imager(version_2(choices)).settings
    assert found.login is not None
    assert (found.ssh, found.login.by_password) == (ssh, by_password)


def test_an_open_network_and_a_country_without_a_network() -> None:
    (network,) = read_imager(version_2(Choices(ssid=b"guests"))).settings.wifi
    assert network == WifiNetwork(ssid=b"guests".hex())
    assert read_imager(version_2(Choices(country="FR"))).settings.country == "FR"


@given(ssid=st.binary(min_size=1, max_size=32))
def test_any_octets_may_be_a_network(ssid: bytes) -> None:
    (network,) = read_imager(version_2(Choices(ssid=ssid, passphrase="12345678"))).settings.wifi
    assert bytes.fromhex(network.ssid) == ssid
    assert network.key == psk("12345678", ssid)


def test_a_passphrase_becomes_a_key() -> None:
    """Test vector of IEEE 802.11-2020 annex J.4.2."""
    text = b'wifis:\n  wlan0:\n    access-points:\n      "IEEE":\n        password: "password"\n'
    (network,) = read_imager({"network-config": text}).settings.wifi
    assert network.key == "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"


@pytest.mark.parametrize(
    ("name", "text", "line", "word"),
    [
        ("user-data", "hostname: ok\nhostnam: x\n", 2, "hostnam"),
        ("user-data", "#cloud-config\nhostname: -x\n", 2, "hostname"),
        ("user-data", "timezone: ../../etc/shadow\n", 1, "timezone"),
        ("user-data", "user:\n  name: root;id\n", 2, "name"),
        ("user-data", "user:\n  name: bob\n  passwd: secret-word\n", 3, "passwd"),
        ("user-data", "user:\n  name: bob\n  ssh_authorized_keys: secret-word\n", 3, "ssh_authorized_keys"),
        ("user-data", "user:\n  name: bob\n  ssh_authorized_keys: ['command=\"x\" ssh-rsa AAAA']\n", 2, "name"),
        ("user-data", "users:\n- name: a\n- name: b\n", 1, "users"),
        ("user-data", "keyboard:\n  layout: '$(reboot)'\n", 1, "keyboard"),
        ("user-data", "hostname: [a\n", 1, "list"),
        ("user-data", "hostname: &a x\ntimezone: *a\n", 1, "anchor"),
        ("user-data", "hostname: a\nhostname: b\n", 2, "second time"),
        ("user-data", "- a\n- b\n", 1, "keys and values"),
        ("network-config", "wifis:\n  wlan0:\n    access-points:\n      x:\n        password: short\n", 5, "password"),
        ("network-config", "wifis:\n  wlan0:\n    access-points:\n      x: {}\n", 4, "password"),
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
        read_imager({name: text.encode()})
    told = str(caught.value)
    assert f"{name}, line {line}:" in told
    assert word in told
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
        return take_imager(self.boot, self.settings, self.password)

    def kept(self) -> Settings:
        return Settings.model_validate_json(self.settings.read_bytes())


def test_settings_are_kept_and_wiped(tmp_path: Path) -> None:
    card = Card(tmp_path, version_2(EVERYTHING))
    links = []
    for number, path in enumerate(sorted(card.boot.iterdir())):
        links.append(tmp_path / str(number))
        links[-1].hardlink_to(path)
    secrets = [HASH.encode(), psk(EVERYTHING.passphrase, EVERYTHING.ssid).encode()]
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


def test_a_device_that_has_started_takes_no_other_settings(tmp_path: Path) -> None:
    card = Card(tmp_path, {})
    assert card.take() is Taken.NONE
    assert card.kept() == Settings()
    for name, content in version_2(Choices(user="mallory", keys=(KEY,), ssh=True)).items():
        (card.boot / name).write_bytes(content)
    assert card.take() is Taken.LEFTOVER
    assert card.kept() == Settings()
    assert [path.name for path in card.boot.iterdir()] == ["autoboot.txt"]


def test_wrong_files_stay_to_be_mended(tmp_path: Path) -> None:
    card = Card(tmp_path, {"user-data": b"hostname: -\n"})
    with pytest.raises(ImagerError):
        card.take()
    assert (card.boot / "user-data").read_bytes() == b"hostname: -\n"
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
            card.take()
            assert card.kept().login == Login(name="alice", keys=(KEY,))
            assert card.password.read_text() == f"{HASH}\n"
            assert [path.name for path in card.boot.iterdir()] == ["autoboot.txt"]
    assert len(cards) > 6
