"""Files as the Raspberry Pi Imager writes them, made by following its own generator's steps.

Version 2: `CustomisationGenerator` (generateCloudInitUserData, generateCloudInitNetworkConfig, and the way in which
DownloadThread puts `#cloud-config` in front); version 1: the OS customisation of its OptionsPopup.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

HASH = "$y$j9T$OGkyUplPU0eXNUlVpiOPp.$GnyXqzzTbFjjqjQfbtJDJ2bq7HbmPlcsmYtIvLmJnFA"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJl3dIeudNqd0DPMRD6OIh65tjkxuhJxYCNpbLsJz9dU alice@laptop"


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


def psk(passphrase: str, ssid: bytes) -> str:
    """The key that the Imager derives from a passphrase (Qt's deriveKeyPbkdf2)."""
    return hashlib.pbkdf2_hmac("sha1", passphrase.encode(), ssid, 4096, 32).hex()


def version_2(choices: Choices) -> dict[str, bytes]:
    """The files of Imager 2.x."""
    lines: list[str] = ["manage_resolv_conf: false", ""]
    if choices.hostname:
        lines += [f"hostname: {choices.hostname}", "manage_etc_hosts: true", "packages:", "- avahi-daemon"]
        lines += ["apt:", "  preserve_sources_list: true", "  conf: |", "    Acquire {"]
        lines += ['      Check-Date "false";', "    };"]
    if choices.timezone:
        lines += [f"timezone: {choices.timezone}"]
    if choices.keyboard:
        lines += ["keyboard:", "  model: pc105", f'  layout: "{choices.keyboard}"']
    keys = choices.keys if choices.ssh else ()
    if (choices.user and choices.password_hash) or keys:
        lines += ["user:", f"  name: {choices.user}", "  shell: /bin/bash"]
        if choices.password_hash:
            lines += ["  lock_passwd: false", f'  passwd: "{choices.password_hash}"']
        else:
            lines += ["  lock_passwd: true"]
        if keys:
            lines += ["  ssh_authorized_keys:", *(f'    - "{key}"' for key in keys)]
        lines += ["  sudo: null"]
    if choices.ssh:
        lines += [f"ssh_pwauth: {'true' if choices.ssh_password else 'false'}"]
        lines += ["", "runcmd:", "  - [ systemctl, enable, --now, ssh ]"]
    files = {
        "meta-data": b"instance-id: rpi-imager-1763900000000\n",
        "user-data": ("#cloud-config\n" + "\n".join(lines) + "\n").encode(),
        "cmdline.txt": b" ds=nocloud;i=rpi-imager-1763900000000",
    }
    if choices.ssid:
        files["network-config"] = _network_2(choices)
    elif choices.country:
        files["cmdline.txt"] = b"cfg80211.ieee80211_regdom=" + choices.country.encode() + files["cmdline.txt"]
    return files


def _network_2(choices: Choices) -> bytes:
    lines = ["network:", "  version: 2", "  ethernets:", "    eth0:", "      dhcp4: true", "      dhcp6: true"]
    lines += ["      optional: true", "  wifis:", "    wlan0:", "      dhcp4: true"]
    if choices.country:
        lines += [f'      regulatory-domain: "{choices.country}"']
    lines += ["      access-points:", f'        "{_escaped(choices.ssid)}":']
    lines += ["          hidden: true"] if choices.hidden else []
    if choices.passphrase:
        lines += [f'          password: "{psk(choices.passphrase, choices.ssid)}"']
    else:
        lines += ["          auth:", "            key-management: none"]
    return ("\n".join([*lines, "      optional: true"]) + "\n").encode()


def _escaped(octets: bytes) -> str:
    named = {0x5C: "\\\\", 0x22: '\\"', 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x08: "\\b", 0x0C: "\\f", 0: "\\0"}
    return "".join(named.get(o) or (chr(o) if 0x20 <= o < 0x7F else f"\\x{o:02x}") for o in octets)


def version_1(choices: Choices) -> dict[str, bytes]:
    """The files of Imager 1.8 and 1.9."""
    lines = ["#cloud-config"]
    if choices.hostname:
        lines += [f"hostname: {choices.hostname}", "manage_etc_hosts: true", "packages:", "- avahi-daemon", "apt:"]
        lines += ["  conf: |", "    Acquire {", '      Check-Date "false";', "    };", ""]
    if choices.user:
        lines += ["users:", f"- name: {choices.user}", "  groups: users,adm,sudo", "  shell: /bin/bash"]
        if choices.password_hash:
            lines += ["  lock_passwd: false", f"  passwd: {choices.password_hash}"]
        if choices.keys:
            lines += ["  lock_passwd: true", "  ssh_authorized_keys:", *(f"    - {key}" for key in choices.keys)]
        lines += ["  sudo: ALL=(ALL) NOPASSWD:ALL", ""]
    lines += ["ssh_pwauth: true"] if choices.ssh_password else []
    if choices.timezone:
        lines += [f"timezone: {choices.timezone}", "keyboard:", "  model: pc105", f'  layout: "{choices.keyboard}"']
    files = {"user-data": ("\n".join(lines) + "\n").encode(), "meta-data": b""}
    if choices.ssid:
        network = ["version: 2", "wifis:", "  renderer: networkd", "  wlan0:", "    dhcp4: true", "    optional: true"]
        network += ["    access-points:", f'      "{choices.ssid.decode()}":']
        network += [f'        password: "{psk(choices.passphrase, choices.ssid)}"']
        network += ["        hidden: true"] if choices.hidden else []
        files["network-config"] = ("\n".join(network) + "\n").encode()
        files["cmdline.txt"] = f" cfg80211.ieee80211_regdom={choices.country}".encode()
    return files
