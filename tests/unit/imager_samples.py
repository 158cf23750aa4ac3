"""Files as the Raspberry Pi Imager writes them, made by following its own generators' steps, version by version.

Since 2.0: `CustomisationGenerator` (generateCloudInitUserData, generateCloudInitNetworkConfig), the kernel's command
line from ImageWriter, and DownloadThread, which puts them on the card; before: `applySettings` of OptionsPopup.qml.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

HASH = "$y$j9T$OGkyUplPU0eXNUlVpiOPp.$GnyXqzzTbFjjqjQfbtJDJ2bq7HbmPlcsmYtIvLmJnFA"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJl3dIeudNqd0DPMRD6OIh65tjkxuhJxYCNpbLsJz9dU alice@laptop"

_INSTANCE = "rpi-imager-1763900000000"
_GROUPS = "users,adm,dialout,audio,netdev,video,plugdev,cdrom,games,input,gpio,spi,i2c,render,sudo"
_APT = ["  conf: |", "    Acquire {", '      Check-Date "false";', "    };"]


@dataclass(frozen=True)
class Choices:
    """What a person has chosen in the Imager."""

    hostname: str = ""
    timezone: str = ""
    keyboard: str = ""
    user: str = ""
    password_hash: str = ""
    keys: tuple[str, ...] = ()
    ssh: bool = False
    ssh_password: bool = False
    ssid: bytes = b""
    passphrase: str = ""
    hidden: bool = False
    country: str = ""
    passwordless_sudo: bool = False
    connect_token: str = ""


def psk(passphrase: str, ssid: bytes) -> str:
    """The key that the Imager derives from a passphrase (Qt's deriveKeyPbkdf2)."""
    return hashlib.pbkdf2_hmac("sha1", passphrase.encode(), ssid, 4096, 32).hex()


def version_2(choices: Choices) -> dict[str, bytes]:
    """The files of Imager 2.0.11."""
    lines = [*_host(choices, ["  preserve_sources_list: true", *_APT]), *_locale(choices)]
    keys = choices.keys if choices.ssh else ()
    if (choices.user and choices.password_hash) or keys:
        lines += ["user:", f"  name: {choices.user}", "  shell: /bin/bash", *_secret(choices, '"')]
        lines += ["  ssh_authorized_keys:", *(f'    - "{key}"' for key in keys)] if keys else []
        lines += [f"  sudo: {'ALL=(ALL) NOPASSWD:ALL' if choices.passwordless_sudo else 'null'}"]
    lines += _password_authentication(choices)
    commands = ["[ systemctl, enable, --now, ssh ]"] if choices.ssh else []
    if choices.passwordless_sudo:
        rule = f"/etc/sudoers.d/010_{choices.user}-nopasswd"
        commands += [f"[ sh, -c, \"echo '{choices.user} ALL=(ALL) NOPASSWD:ALL' >{rule}\" ]"]
        commands += [f"[ chmod, '0440', '{rule}' ]"]
    commands += _other_commands(choices)
    lines += ["runcmd:", *(f"  - {command}" for command in commands)] if commands else []
    user_data = ["manage_resolv_conf: false", "", *lines] if lines else []
    network = ["network:", "  version: 2", *_cable(), *_radio(choices, _octets(choices.ssid))] if choices.ssid else []
    return _card(user_data, network, choices, marked=True)


def version_2_0_4(choices: Choices) -> dict[str, bytes]:
    """The files of Imager 2.0.4, which are those of 2.0.3 to 2.0.6."""
    lines = ["manage_resolv_conf: false", *_host(choices, ["  preserve_sources_list: true", *_APT]), *_locale(choices)]
    keys = choices.keys if choices.ssh else ()
    if (choices.user and choices.password_hash) or keys:
        lines += ["users:", f"- name: {choices.user}", f"  groups: {_GROUPS}", "  shell: /bin/bash"]
        lines += _secret(choices, '"')
        lines += ["  ssh_authorized_keys:", *(f"    - {key}" for key in keys)] if keys else []
        lines += ["  sudo: ALL=(ALL) NOPASSWD:ALL"] if keys else []
    lines += ["enable_ssh: true"] if choices.ssh else []
    lines += _password_authentication(choices)
    commands = _other_commands(choices)
    lines += ["runcmd:", *(f"  - {command}" for command in commands)] if commands else []
    network = ["network:", "  version: 2", *_cable()]
    network += _radio(choices, _characters(choices.ssid.decode())) if choices.ssid else []
    return _card(lines, network, choices)


def version_2_0_0(choices: Choices) -> dict[str, bytes]:
    """The files of Imager 2.0.0 and 2.0.1, which know a user only together with SSH."""
    lines = [*_host(choices, _APT), *_locale(choices)]
    if choices.ssh:
        lines += ["enable_ssh: true"]
        if choices.user:
            lines += ["users:", f"- name: {choices.user}", f"  groups: {_GROUPS}", "  shell: /bin/bash"]
            lines += _secret(choices, "") if choices.password_hash or choices.keys else []
            if choices.keys:
                lines += ["  ssh_authorized_keys:", *(f"    - {key}" for key in choices.keys)]
                lines += ["  sudo: ALL=(ALL) NOPASSWD:ALL"]
        lines += ["ssh_pwauth: true"] if choices.ssh_password else []
    commands = _other_commands(choices)
    lines += ["runcmd:", *(f"  - {command}" for command in commands)] if commands else []
    network = []
    if choices.ssid:
        network = ["network:", "  version: 2", "  wifis:", "    wlan0:", "      dhcp4: true"]
        network += [f'      regulatory-domain: "{choices.country}"'] if choices.country else []
        quoted = choices.ssid.decode().replace('"', '\\"')
        key = psk(choices.passphrase, choices.ssid) if choices.passphrase else ""
        network += ["      access-points:", f'        "{quoted}":', f'          password: "{key}"']
        network += ["          hidden: true"] if choices.hidden else []
        network += ["      optional: true"]
    return _card(lines, network, choices, named=False)


def version_1(choices: Choices, *, keyboard_command: bool = False) -> dict[str, bytes]:
    """The files of Imager 1.9.

    Args:
        keyboard_command: write those of 1.8.5.
    """
    lines = _host(choices, _APT)
    if choices.ssh or choices.user:
        lines += ["users:", f"- name: {choices.user}", f"  groups: {_GROUPS}", "  shell: /bin/bash"]
        if choices.password_hash:
            lines += ["  lock_passwd: false", f"  passwd: {choices.password_hash}"]
        if choices.ssh and not choices.ssh_password:
            lines += [] if choices.password_hash else ["  lock_passwd: true"]
            lines += ["  ssh_authorized_keys:", *(f"    - {key}" for key in choices.keys)]
            lines += ["  sudo: ALL=(ALL) NOPASSWD:ALL"]
        lines += [""]
        lines += ["ssh_pwauth: true"] if choices.ssh and choices.ssh_password else []
        lines += [""]
    if choices.timezone:
        lines += [f"timezone: {choices.timezone}"]
        if keyboard_command:
            lines += ["runcmd:", f'- localectl set-x11-keymap "{choices.keyboard}" pc105']
            lines += ["- setupcon -k --force || true", ""]
        else:
            lines += ["keyboard:", "  model: pc105", f'  layout: "{choices.keyboard}"']
    network = []
    if choices.ssid:
        network = ["version: 2", "wifis:", "  renderer: networkd", "  wlan0:", "    dhcp4: true", "    optional: true"]
        network += ["    access-points:", f'      "{choices.ssid.decode()}":']
        network += [f'        password: "{psk(choices.passphrase, choices.ssid) if choices.passphrase else ""}"']
        network += ["        hidden: true"] if choices.hidden else []
    # It knows a country only together with a network.
    return _card(lines, network, choices if choices.ssid else replace(choices, country=""), named=False)


def version_1_8(choices: Choices) -> dict[str, bytes]:
    """The files of Imager 1.8.5."""
    return version_1(choices, keyboard_command=True)


def _host(choices: Choices, apt: list[str]) -> list[str]:
    if not choices.hostname:
        return []
    return [f"hostname: {choices.hostname}", "manage_etc_hosts: true", "packages:", "- avahi-daemon", "apt:", *apt]


def _locale(choices: Choices) -> list[str]:
    lines = [f"timezone: {choices.timezone}"] if choices.timezone else []
    return lines + (["keyboard:", "  model: pc105", f'  layout: "{choices.keyboard}"'] if choices.keyboard else [])


def _secret(choices: Choices, mark: str) -> list[str]:
    if choices.password_hash:
        return ["  lock_passwd: false", f"  passwd: {mark}{choices.password_hash}{mark}"]
    return ["  lock_passwd: true"]


def _password_authentication(choices: Choices) -> list[str]:
    if not choices.ssh or not (choices.ssh_password or choices.keys):
        return []
    return [f"ssh_pwauth: {'true' if choices.ssh_password else 'false'}"]


def _other_commands(choices: Choices) -> list[str]:
    commands = []
    if choices.connect_token:  # the first two of thirteen
        folder = f"/home/{choices.user}/.config/com.raspberrypi.connect"
        commands += [f'[ sh, -c, "install -o {choices.user} -m 700 -d {folder}" ]']
        write = rf"printf '%s\n' '{choices.connect_token}' > {folder}/auth.key"
        commands += [f'[ sh, -c, "{write} && chmod 600 {folder}/auth.key" ]']
    if choices.country and not choices.ssid:
        commands += ["[ rfkill, unblock, wifi ]"]
        commands += [r'[ sh, -c, "for f in /var/lib/systemd/rfkill/*:wlan; do echo 0 > \"$f\"; done" ]']
    return commands


def _cable() -> list[str]:
    return ["  ethernets:", "    eth0:", "      dhcp4: true", "      dhcp6: true", "      optional: true"]


def _radio(choices: Choices, ssid: str) -> list[str]:
    lines = ["  wifis:", "    wlan0:", "      dhcp4: true"]
    lines += [f'      regulatory-domain: "{choices.country}"'] if choices.country else []
    lines += ["      access-points:", f'        "{ssid}":']
    lines += ["          hidden: true"] if choices.hidden else []
    if choices.passphrase:
        lines += [f'          password: "{psk(choices.passphrase, choices.ssid)}"']
    else:
        lines += ["          auth:", "            key-management: none"]
    return [*lines, "      optional: true"]


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f", "\0": "\\0"}


def _octets(ssid: bytes) -> str:
    """Version 2.0.10 and later: what is not printable ASCII, octet by octet."""
    return "".join(_ESCAPES.get(c) or (c if " " <= c < "\x7f" else f"\\x{ord(c):02x}") for c in ssid.decode("latin-1"))


def _characters(ssid: str) -> str:
    """Before: control characters only."""
    return "".join(_ESCAPES.get(c) or (f"\\x{ord(c):02x}" if c < " " or c == "\x7f" else c) for c in ssid)


def _card(
    user_data: list[str], network: list[str], choices: Choices, *, named: bool = True, marked: bool = False
) -> dict[str, bytes]:
    """Put the texts into files.

    Args:
        named: whether there is `meta-data`.
        marked: whether the kernel's command line names it, too.
    """
    files: dict[str, bytes] = {}
    if not user_data and not network:
        return files
    command_line = f" cfg80211.ieee80211_regdom={choices.country}" if choices.country else ""
    if named:
        files["meta-data"] = f"instance-id: {_INSTANCE}\n".encode()
        command_line += f" ds=nocloud;i={_INSTANCE}" if marked else ""
    if user_data:
        files["user-data"] = ("#cloud-config\n" + "\n".join(user_data) + "\n").encode()
    if network:
        files["network-config"] = ("\n".join(network) + "\n").encode()
    if command_line:
        files["cmdline.txt"] = command_line.encode()
    return files
