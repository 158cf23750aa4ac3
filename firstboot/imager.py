"""What the Raspberry Pi Imager leaves on the boot partition: its user's settings, as cloud-init's NoCloud files.

Of cloud-config only what the Imager writes is understood (`init_format: cloudinit`; OptionsPopup.qml of its versions
1.8 and 1.9, customization_generator.cpp since 2.0): there is no cloud-init on the device, and nothing in these files is
run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from firstboot.imager_file import LARGEST, ImagerFile
from firstboot.login import LoginError, check_name
from firstboot.wipe import wipe
from model.problems import Path as Place
from model.settings import Keyboard, Login, Settings, WifiNetwork
from stack.durable import sync_folder, write_atomically

USER_DATA = "user-data"
NETWORK_CONFIG = "network-config"
COMMAND_LINE = "cmdline.txt"
FILES = (USER_DATA, NETWORK_CONFIG, "meta-data", COMMAND_LINE)
"""The Imager's files. The image itself has none of them on this partition."""

# What the Imager writes without a meaning here: `packages`, `apt` and `write_files` would change a system that is part
# of the image; DNS and /etc/hosts are the device's own; `preserve_hostname` is about cloud-init's later starts; `rpi`
# switches interfaces of the board that this appliance does not use.
_WITHOUT_MEANING = frozenset(
    {"packages", "apt", "write_files", "manage_resolv_conf", "manage_etc_hosts", "preserve_hostname", "rpi"}
)
# `enable_ssh` is written by 2.0.0 to 2.0.8, the command that starts SSH by later ones, `users` before 2.0.9.
_KNOWN = _WITHOUT_MEANING | {"hostname", "timezone", "keyboard", "user", "users", "enable_ssh", "ssh_pwauth", "runcmd"}
# `groups` and `shell` are the same for every login here. `sudo` may say NOPASSWD, which versions before 2.0.9 write
# unasked: who has a password is always asked for it.
_KNOWN_OF_USER = frozenset({"name", "passwd", "lock_passwd", "ssh_authorized_keys", "groups", "shell", "sudo"})
_KNOWN_OF_KEYBOARD = frozenset({"layout", "variant", "model"})
# The device asks for addresses by DHCP on all that it has.
_KNOWN_OF_NETWORK = frozenset({"version", "ethernets", "wifis"})
_KNOWN_OF_CABLE = frozenset({"dhcp4", "dhcp6", "optional"})
_KNOWN_OF_RADIO = _KNOWN_OF_CABLE | {"regulatory-domain", "access-points"}
_KNOWN_OF_WIFI = frozenset({"password", "hidden", "auth"})

_START_SSH = ["systemctl", "enable", "--now", "ssh"]
_SET_KEYBOARD = re.compile(r'localectl set-x11-keymap "([^"]*)" \w+')
"""How version 1.8 sets the keyboard's layout."""

_HASH = re.compile(r"\$(?:y|gy|7|6|5|2b)\$[./A-Za-z0-9$=,+]{8,400}")
"""What crypt(5) gives, of methods that are still strong."""

_COUNTRY = re.compile(r"(?:^|\s)cfg80211\.ieee80211_regdom=([A-Za-z]{2})(?:\s|$)")
_KEY = re.compile(r"[0-9A-Fa-f]{64}")
_ROUNDS = 4096
_PASSPHRASE = range(8, 64)
"""IEEE 802.11-2020 annex J.4: a passphrase has 8 to 63 characters, and becomes a key in that many rounds of PBKDF2."""


class Taken(StrEnum):
    """What became of the Imager's files."""

    NONE = "the Raspberry Pi Imager has left no settings"
    TAKEN = "the settings of the Raspberry Pi Imager were taken over and wiped"
    LEFTOVER = "this device has its settings already: new ones on the boot partition were wiped unread"


class ImagerError(Exception):
    """The files cannot be used as they are; the text says what is wrong in which line, and what to do."""


@dataclass(frozen=True)
class Imported:
    """What the files say.

    Args:
        password_hash: of the login's password (crypt(5)); None for none. A secret.
    """

    settings: Settings
    password_hash: str | None = None


def take_imager(boot: Path, settings: Path, password: Path, taken_names: Collection[str] = ()) -> Taken:
    """Move the Imager's settings from the boot partition to where the device keeps its own; once.

    Each step can be cut off: the settings are durable before anything is wiped, and the password before them.

    Args:
        boot: folder with the boot partition.
        settings: file that holds the settings (`model.settings.Settings` as JSON) from then on. A device that has it
            takes no others: who gets at its card for a moment must not become its master.
        password: file that holds the hash of the login's password. One that is there from an earlier life of the data
            disk goes.
        taken_names: users and groups that the login cannot be.

    Raises:
        ImagerError: the files are wrong; they stay where they are, to be mended.
    """
    present = [boot / name for name in FILES if (boot / name).is_file()]
    taken = Taken.LEFTOVER if present else Taken.NONE
    if not settings.exists():
        imported = read_imager({path.name: _read(path) for path in present}, taken_names)
        if imported.password_hash:
            write_atomically(password, f"{imported.password_hash}\n".encode(), 0o600)
        elif password.exists():
            password.unlink()
            sync_folder(password.parent)
        write_atomically(settings, imported.settings.model_dump_json().encode(), 0o600)
        taken = Taken.TAKEN if present else Taken.NONE
    for path in present:
        wipe(path)
    return taken


def look_at_imager(boot: Path, taken_names: Collection[str] = ()) -> Settings:
    """Read the Imager's settings and leave them where they are: their password has no place to go yet.

    Args:
        boot: folder with the boot partition.
        taken_names: users and groups that the login cannot be.

    Raises:
        ImagerError: the files are wrong.
    """
    present = [boot / name for name in FILES if (boot / name).is_file()]
    return read_imager({path.name: _read(path) for path in present}, taken_names).settings


def read_imager(files: Mapping[str, bytes], taken_names: Collection[str] = ()) -> Imported:
    """Read the Imager's files.

    Args:
        files: by name; those that are missing say nothing.
        taken_names: users and groups that the login cannot be.

    Raises:
        ImagerError: they say something that would not take effect.
    """
    faults: list[str] = []
    values: dict[str, Any] = {}
    user_data = ImagerFile(USER_DATA, files.get(USER_DATA, b""), faults)
    password_hash = _user_data(user_data, values, taken_names)
    network = files.get(NETWORK_CONFIG, b"")
    _network(ImagerFile(NETWORK_CONFIG, network, faults), values, ascii_only=network.isascii())
    if country := _COUNTRY.search(files.get(COMMAND_LINE, b"").decode("latin-1")):
        values.setdefault("country", country[1].upper())
    if faults:
        raise ImagerError(
            "the Raspberry Pi Imager's settings cannot be used:\n  "
            + "\n  ".join(faults)
            + "\nMend the files on the small partition of the card, or write the card again."
        )
    return Imported(Settings(**values), password_hash)


def _user_data(file: ImagerFile, values: dict[str, Any], taken_names: Collection[str]) -> str | None:
    data = file.mapping(file.data, (), _KNOWN)
    if hostname := file.text(data.get("hostname"), ("hostname",)):
        _keep(file, values, ("hostname",), hostname=hostname.lower())
    if time_zone := file.text(data.get("timezone"), ("timezone",)):
        _keep(file, values, ("timezone",), time_zone=time_zone)
    commands = file.items(data.get("runcmd"), ("runcmd",))
    _keyboard(file, data, commands, values)
    return _login(file, data, commands, values, taken_names)


def _keyboard(file: ImagerFile, data: Mapping[str, Any], commands: list[Any], values: dict[str, Any]) -> None:
    place: Place = ("keyboard",)
    keyboard = file.mapping(data.get("keyboard"), place, _KNOWN_OF_KEYBOARD)
    fields = {key: file.text(keyboard.get(key), (*place, key)) for key in sorted(_KNOWN_OF_KEYBOARD)}
    for number, command in enumerate(commands):
        if isinstance(command, str) and (set_keyboard := _SET_KEYBOARD.fullmatch(command)):
            place = ("runcmd", number)
            fields["layout"] = set_keyboard[1]
    if fields["layout"]:
        at: dict[Place, Place] = {(key,): (*place, key) for key in fields}
        given = {key: value for key, value in fields.items() if value}
        values["keyboard"] = file.valid(Keyboard, place, at, **given)


def _login(
    file: ImagerFile, data: Mapping[str, Any], commands: list[Any], values: dict[str, Any], taken_names: Collection[str]
) -> str | None:
    by_password = file.truth(data.get("ssh_pwauth"), ("ssh_pwauth",))
    ssh = file.truth(data.get("enable_ssh"), ("enable_ssh",)) or _START_SSH in commands or by_password
    person, place = _person(file, data)
    password_hash = None
    keys: dict[Place, str] = {}
    if person:
        password_hash = _password(file, person, place)
        inside = (*place, "ssh_authorized_keys")
        for number, item in enumerate(file.items(person.get("ssh_authorized_keys"), inside)):
            if key := file.text(item, (*inside, number)):
                keys[(*inside, number)] = key
        name = file.text(person.get("name"), (*place, "name"))
        at: dict[Place, Place] = {("keys", number): where for number, where in enumerate(keys)}
        at[("name",)] = (*place, "name")
        login = file.valid(Login, place, at, name=name, keys=tuple(keys.values()), by_password=by_password)
        try:
            check_name(name or "", taken_names)
        except LoginError:
            file.fault((*place, "name"), "a name that belongs to the system", "another name")
        values["login"] = login
    # Version 1 has no word for SSH but these.
    values["ssh"] = ssh or bool(keys)
    if values["ssh"] and not (keys or (by_password and password_hash)):
        where = next(key for key in ("enable_ssh", "ssh_pwauth", "runcmd") if key in data)
        file.fault((where,), "SSH, but nobody who could log in", "a user with an SSH key, or with a password for SSH")
    return password_hash


def _person(file: ImagerFile, data: Mapping[str, Any]) -> tuple[dict[str, Any], Place]:
    """Give the one account: `user` of the Imager since version 2.0.9, or the first of the older `users`."""
    if "user" in data:
        if "users" in data:
            file.fault(("users",), "a list of users beside `user`", "only one of the two, as the Imager writes it")
        return file.mapping(data["user"], ("user",), _KNOWN_OF_USER), ("user",)
    people = file.items(data.get("users"), ("users",))
    if len(people) > 1:
        file.fault(("users",), f"{len(people)} users", "one, as the Imager writes it")
    return (file.mapping(people[0], ("users", 0), _KNOWN_OF_USER), ("users", 0)) if people else ({}, ("users",))


def _password(file: ImagerFile, person: Mapping[str, Any], place: Place) -> str | None:
    found = file.text(person.get("passwd"), (*place, "passwd"))
    if not found or file.truth(person.get("lock_passwd"), (*place, "lock_passwd")):
        return None
    if not _HASH.fullmatch(found):
        file.fault((*place, "passwd"), "something else", "the hash of a password, such as $y$…")
        return None
    return found


def _keep(file: ImagerFile, values: dict[str, Any], place: Place, **value: Any) -> None:
    if file.valid(Settings, place, **value):
        values.update(value)


def _network(file: ImagerFile, values: dict[str, Any], *, ascii_only: bool) -> None:
    inside: Place = ()
    data = file.data
    if isinstance(data, dict) and "network" in data:
        data, inside = file.mapping(data, (), {"network"})["network"], ("network",)
    data = file.mapping(data, inside, _KNOWN_OF_NETWORK)
    for name, cable in file.mapping(data.get("ethernets"), (*inside, "ethernets")).items():
        file.mapping(cable, (*inside, "ethernets", name), _KNOWN_OF_CABLE)
    networks: list[WifiNetwork] = []
    for name, radio in file.mapping(data.get("wifis"), (*inside, "wifis")).items():
        if name == "renderer":
            continue  # `renderer: networkd` stands beside the radios in version 1
        place = (*inside, "wifis", name)
        card = file.mapping(radio, place, _KNOWN_OF_RADIO)
        if country := file.text(card.get("regulatory-domain"), (*place, "regulatory-domain")):
            _keep(file, values, (*place, "regulatory-domain"), country=country.upper())
        points = file.mapping(card.get("access-points"), (*place, "access-points"))
        for ssid, point in points.items():
            network = _wifi(file, ssid, point, (*place, "access-points", ssid), ascii_only=ascii_only)
            networks += [network] if network else []
    values["wifi"] = tuple(networks)


def _wifi(file: ImagerFile, ssid: str, point: Any, place: Place, *, ascii_only: bool) -> WifiNetwork | None:
    # Since version 2.0.10 each octet beyond ASCII is written as \xHH, which YAML takes for a character of that number;
    # older ones have the text itself.
    octets = ssid.encode("latin-1" if ascii_only and all(ord(char) < 256 for char in ssid) else "utf-8")
    fields = file.mapping(point, place, _KNOWN_OF_WIFI)
    hidden = file.truth(fields.get("hidden"), (*place, "hidden"))
    secret = file.text(fields.get("password"), (*place, "password"))
    auth = file.mapping(fields.get("auth"), (*place, "auth"), {"key-management"})
    method = auth.get("key-management")
    if method not in (None, "none"):
        file.fault(
            (*place, "auth", "key-management"),
            "a network that asks for more than a password",
            "`none`, or a `password` in its place",
        )
        return None
    key = None
    if secret and _KEY.fullmatch(secret):
        key = secret.lower()
    elif secret and len(secret.encode()) in _PASSPHRASE:
        key = hashlib.pbkdf2_hmac("sha1", secret.encode(), octets, _ROUNDS, 32).hex()
    # An open network: `key-management: none`; with version 2.0.0 an empty password.
    elif secret or (secret is None and method is None):
        file.fault((*place, "password"), "something else", "a passphrase of 8 to 63 characters, or 64 hex digits")
        return None
    return file.valid(WifiNetwork, place, ssid=octets.hex(), key=key, hidden=hidden)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LARGEST + 1)
