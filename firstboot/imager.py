"""What the Raspberry Pi Imager leaves on the boot partition: its user's settings, as cloud-init's NoCloud files.

Of cloud-config only what the Imager writes is understood (`init_format: cloudinit`; its CustomisationGenerator in
version 2, its OptionsPopup in version 1): there is no cloud-init on the device, and nothing in these files is run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from firstboot.wipe import wipe
from model.problems import Path as Place
from model.settings import Keyboard, Login, Settings, WifiNetwork
from model.yaml_faults import SyntaxFault
from model.yaml_tree import Tree, read_tree
from stack.durable import write_atomically

USER_DATA = "user-data"
NETWORK_CONFIG = "network-config"
COMMAND_LINE = "cmdline.txt"
FILES = (USER_DATA, NETWORK_CONFIG, "meta-data", COMMAND_LINE)
"""The Imager's files. The image itself has none of them on this partition."""

_LARGEST = 64 * 1024
"""Octets; the Imager writes a few hundred."""

# Without a meaning here: what is installed is part of the image, DNS is the device's own, and commands are not run but
# for the one that starts SSH. `rpi` switches interfaces of boards that this appliance does not use.
_WITHOUT_MEANING = frozenset(
    {"manage_resolv_conf", "manage_etc_hosts", "packages", "apt", "write_files", "rpi", "package_update"}
)
_KNOWN = frozenset({"hostname", "timezone", "keyboard", "user", "users", "ssh_pwauth", "runcmd"}) | _WITHOUT_MEANING
_START_SSH = ["systemctl", "enable", "--now", "ssh"]
_HASH = re.compile(r"\$(?:y|gy|7|6|5|2b)\$[./A-Za-z0-9$=,+]{8,400}")
"""What crypt(5) gives, of methods that are still strong."""

_COUNTRY = re.compile(r"(?:^|\s)cfg80211\.ieee80211_regdom=([A-Za-z]{2})(?:\s|$)")
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


def take_imager(boot: Path, settings: Path, password: Path) -> Taken:
    """Move the Imager's settings from the boot partition to where the device keeps its own; once.

    Each step can be cut off: the settings are durable before anything is wiped, and the password before them.

    Args:
        boot: folder with the boot partition.
        settings: file that holds the settings (`model.settings.Settings` as JSON) from then on. A device that has it
            takes no others: who gets at its card for a moment must not become its master.
        password: file that holds the hash of the login's password.

    Raises:
        ImagerError: the files are wrong; they stay where they are, to be mended.
    """
    present = [boot / name for name in FILES if (boot / name).is_file()]
    taken = Taken.LEFTOVER if present else Taken.NONE
    if not settings.exists():
        imported = read_imager({path.name: _read(path) for path in present}) if present else Imported(Settings())
        if imported.password_hash:
            write_atomically(password, f"{imported.password_hash}\n".encode(), 0o600)
        write_atomically(settings, imported.settings.model_dump_json().encode(), 0o600)
        taken = Taken.TAKEN if present else Taken.NONE
    for path in present:
        wipe(path)
    return taken


def read_imager(files: Mapping[str, bytes]) -> Imported:
    """Read the Imager's files.

    Args:
        files: by name; those that are missing say nothing.

    Raises:
        ImagerError: they say something that would not take effect.
    """
    faults: list[str] = []
    user, network = (_open(name, files.get(name, b""), faults) for name in (USER_DATA, NETWORK_CONFIG))
    values: dict[str, Any] = {}
    password_hash = _user_data(user, values)
    _network(network, values, ascii_only=files.get(NETWORK_CONFIG, b"").isascii())
    if country := _COUNTRY.search(files.get(COMMAND_LINE, b"").decode("latin-1")):
        values.setdefault("country", country[1].upper())
    if faults:
        raise ImagerError(
            "the Raspberry Pi Imager's settings cannot be used:\n  "
            + "\n  ".join(faults)
            + "\nMend the files on the small partition of the card, or write the card again."
        )
    return Imported(Settings(**values), password_hash)


class _Yaml:
    """One of the files, taken apart; what is wrong with it is collected."""

    def __init__(self, name: str, tree: Tree, faults: list[str]) -> None:
        self._name, self._tree, self._faults = name, tree, faults

    @property
    def data(self) -> Any:
        return self._tree.data

    def fault(self, place: Place, found: str, expected: str) -> None:
        span = self._tree.span(place)
        line = f", line {span.line}" if span else ""
        key = ".".join(str(part) for part in place if isinstance(part, str))
        self._faults.append(f"{self._name}{line}: {key + ': ' if key else ''}found {found}, expected {expected}")

    def mapping(self, value: Any, place: Place) -> dict[str, Any]:
        if value is None or isinstance(value, dict):
            return value or {}
        self.fault(place, "something else", "keys and values")
        return {}

    def items(self, value: Any, place: Place) -> list[Any]:
        if value is None or isinstance(value, list):
            return value or []
        self.fault(place, "something else", "a list")
        return []

    def text(self, value: Any, place: Place) -> str | None:
        if value is None:
            return None
        if isinstance(value, (str, int)):
            return str(value)
        self.fault(place, "something else", "a text")
        return None

    def truth(self, value: Any, place: Place) -> bool:
        if value in (None, "true", "false"):
            return bool(value == "true")
        self.fault(place, "something else", "true or false")
        return False

    def valid(self, make: Any, place: Place, **values: Any) -> Any:
        """Make a model of some values, or tell what is wrong with them; the values themselves may be secret."""
        try:
            return make(**values)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            self.fault(place, "something else", str(first["msg"]).removeprefix("Value error, expected "))
            return None


def _open(name: str, content: bytes, faults: list[str]) -> _Yaml:
    tree = Tree()
    if len(content) > _LARGEST:
        faults.append(f"{name}: found {len(content):,} octets, expected at most {_LARGEST:,}")
        return _Yaml(name, tree, faults)
    try:
        tree = read_tree(content.decode())
    except UnicodeDecodeError:
        faults.append(f"{name}: found octets that are no UTF-8, expected a text")
    except SyntaxFault as fault:
        faults.append(f"{name}, line {fault.problem.line}: {fault.problem.found}, expected {fault.problem.expected}")
    yaml = _Yaml(name, tree, faults)
    for span, finding in tree.findings:
        faults.append(f"{name}, line {span.line}: found {finding.found}, expected {finding.expected}")
    return yaml


def _user_data(yaml: _Yaml, values: dict[str, Any]) -> str | None:
    data = yaml.mapping(yaml.data, ())
    for key in data.keys() - _KNOWN:
        yaml.fault((key,), "a setting that the device does not have", "only what the Imager writes")
    if hostname := yaml.text(data.get("hostname"), ("hostname",)):
        _keep(yaml, values, ("hostname",), hostname=hostname.lower())
    if time_zone := yaml.text(data.get("timezone"), ("timezone",)):
        _keep(yaml, values, ("timezone",), time_zone=time_zone)
    if keyboard := yaml.mapping(data.get("keyboard"), ("keyboard",)):
        fields = {key: yaml.text(keyboard.get(key), ("keyboard", key)) for key in ("layout", "variant", "model")}
        given = {key: value for key, value in fields.items() if value}
        values["keyboard"] = yaml.valid(Keyboard, ("keyboard",), **given)
    commands = yaml.items(data.get("runcmd"), ("runcmd",))
    by_password = yaml.truth(data.get("ssh_pwauth"), ("ssh_pwauth",))
    person, place = _person(yaml, data)
    if not person:
        return None
    keys = [yaml.text(key, (*place, "ssh_authorized_keys")) for key in _keys(yaml, person, place)]
    name = yaml.text(person.get("name"), (*place, "name"))
    login = yaml.valid(Login, (*place, "name"), name=name, keys=tuple(filter(None, keys)), by_password=by_password)
    values["login"] = login
    values["ssh"] = bool(login and (login.keys or by_password or _START_SSH in commands))
    return _password(yaml, person, place)


def _person(yaml: _Yaml, data: Mapping[str, Any]) -> tuple[dict[str, Any], Place]:
    """Give the one account: `user` of the Imager's version 2, or the first of version 1's `users`."""
    if "user" in data:
        return yaml.mapping(data["user"], ("user",)), ("user",)
    people = yaml.items(data.get("users"), ("users",))
    if len(people) > 1:
        yaml.fault(("users",), f"{len(people)} users", "one, as the Imager writes it")
    return (yaml.mapping(people[0], ("users", 0)), ("users", 0)) if people else ({}, ("users",))


def _keys(yaml: _Yaml, person: Mapping[str, Any], place: Place) -> list[Any]:
    return yaml.items(person.get("ssh_authorized_keys"), (*place, "ssh_authorized_keys"))


def _password(yaml: _Yaml, person: Mapping[str, Any], place: Place) -> str | None:
    found = yaml.text(person.get("passwd"), (*place, "passwd"))
    if not found or yaml.truth(person.get("lock_passwd"), (*place, "lock_passwd")):
        return None
    if not _HASH.fullmatch(found):
        yaml.fault((*place, "passwd"), "something else", "the hash of a password, such as $y$…")
        return None
    return found


def _keep(yaml: _Yaml, values: dict[str, Any], place: Place, **value: Any) -> None:
    if yaml.valid(Settings, place, **value):
        values.update(value)


def _network(yaml: _Yaml, values: dict[str, Any], *, ascii_only: bool) -> None:
    data = yaml.mapping(yaml.data, ())
    inside: Place = ()
    if "network" in data:
        data, inside = yaml.mapping(data["network"], ("network",)), ("network",)
    networks: list[WifiNetwork] = []
    for name, card in yaml.mapping(data.get("wifis"), (*inside, "wifis")).items():
        place = (*inside, "wifis", name)
        if not isinstance(card, dict):
            continue  # `renderer: networkd`, which stands beside the cards in version 1
        if country := yaml.text(card.get("regulatory-domain"), (*place, "regulatory-domain")):
            _keep(yaml, values, (*place, "regulatory-domain"), country=country.upper())
        points = yaml.mapping(card.get("access-points"), (*place, "access-points"))
        for ssid, point in points.items():
            network = _wifi(yaml, ssid, point, (*place, "access-points", ssid), ascii_only=ascii_only)
            networks += [network] if network else []
    values["wifi"] = tuple(networks)


def _wifi(yaml: _Yaml, ssid: str, point: Any, place: Place, *, ascii_only: bool) -> WifiNetwork | None:
    # Version 2 writes each octet beyond ASCII as \xHH, which YAML takes for a character of that number; version 1 has
    # the text itself.
    octets = ssid.encode("latin-1" if ascii_only and all(ord(char) < 256 for char in ssid) else "utf-8")
    fields = yaml.mapping(point, place)
    hidden = yaml.truth(fields.get("hidden"), (*place, "hidden"))
    secret = yaml.text(fields.get("password"), (*place, "password"))
    is_open = yaml.mapping(fields.get("auth"), (*place, "auth")).get("key-management") == "none"
    key = None
    if secret and re.fullmatch(r"[0-9A-Fa-f]{64}", secret):
        key = secret.lower()
    elif secret and len(secret.encode()) in _PASSPHRASE:
        key = hashlib.pbkdf2_hmac("sha1", secret.encode(), octets, _ROUNDS, 32).hex()
    elif secret or not is_open:
        yaml.fault((*place, "password"), "something else", "a passphrase of 8 to 63 characters, or 64 hex digits")
        return None
    network = yaml.valid(WifiNetwork, place, ssid=octets.hex(), key=key, hidden=hidden)
    return network if isinstance(network, WifiNetwork) else None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LARGEST + 1)
