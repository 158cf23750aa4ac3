"""The relay's end of the tunnel: keys and addresses of the interface, and the file that it is made from at a start."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from model.unlock import UnlockKeys
from model.wireguard import RELAY_INTERFACE
from relay import files
from relay.pairing import Keys
from relay.tunnel_file import FILE, Tunnel, read_tunnel
from relay.unlock import UnlockFolder

_SECONDS = 15.0

_OURS = "220"
"""Number of who has made a route (ip-route(8), RTPROTO): of those to the boot stage."""


class LinkError(Exception):
    """A tool refuses; the text is the tool's."""


def wireguard_keys(text: str) -> Keys:
    """Read the bootstrap's keys from the file of wg-quick(8) that user-data have written.

    Raises:
        LinkError: it lacks something.
    """
    try:
        tunnel, private, theirs = read_tunnel(text), _value(text, "PrivateKey"), _value(text, "PublicKey")
    except ValueError as error:
        raise LinkError(str(error)) from None
    ends = tunnel.addresses
    return Keys(private, public_key(private), "", theirs, "", str(ends.home4), str(ends.relay4))


def rewrite(text: str, keys: Keys) -> str:
    """Give the file with other keys, and other addresses in IPv4.

    Raises:
        ValueError: it lacks something.
    """
    ends = read_tunnel(text).addresses
    values = {
        "PrivateKey": keys.own_key,
        "Address": f"{keys.relay4}/32, {ends.relay6}/128",
        "PublicKey": keys.home_key,
        "AllowedIPs": f"{keys.home4}/32, {ends.home6}/128",
    }
    for name, value in values.items():
        # None of them has a backslash in it.
        text = re.sub(rf"(?m)^{name}\s*=.*$", f"{name} = {value}", text)
    return text


def new_key() -> tuple[str, str]:
    """Make a WireGuard key; gives its private and its public half."""
    private = run("wg", "genkey").strip()
    return private, public_key(private)


def public_key(private: str) -> str:
    """Give the public half of a key.

    Raises:
        LinkError: it is none.
    """
    return run("wg", "pubkey", text=private).strip()


class Link:
    """The interface.

    Args:
        file: for wg-quick(8).
        interface: its name.
        unlock: who may ask Tang besides.
    """

    def __init__(
        self, file: Path = Path("/") / FILE, interface: str = RELAY_INTERFACE, unlock: UnlockFolder | None = None
    ) -> None:
        self._file, self._interface = file, interface
        self._unlock = unlock or UnlockFolder()

    @property
    def tunnel(self) -> Tunnel:
        """What is no secret of the file."""
        return read_tunnel(self.text())

    def text(self) -> str:
        """Read the file."""
        return self._file.read_text(encoding="utf-8")

    def initial_keys(self) -> Keys:
        """Give the bootstrap's keys, which user-data have written.

        Raises:
            LinkError: the file lacks something.
        """
        return wireguard_keys(self.text())

    def new_key(self) -> tuple[str, str]:
        """Make a key; gives it, and what home knows it by."""
        return new_key()

    def use(self, keys: Keys) -> None:
        """Speak with home by these keys from now on, and with nobody by others.

        Raises:
            LinkError: a tool refuses.
        """
        name, home6 = self._interface, self.tunnel.addresses.home6
        # Through a pipe: arguments can be read by everybody.
        run("wg", "set", name, "private-key", "/dev/stdin", text=f"{keys.own_key}\n")
        boot = self._unlock.read()
        known = {keys.home_key, boot.peer if boot else ""}
        for peer in run("wg", "show", name, "peers").split():
            if peer not in known:
                run("wg", "set", name, "peer", peer, "remove")
        run("wg", "set", name, "peer", keys.home_key, "allowed-ips", f"{keys.home4}/32,{home6}/128")
        move(name, keys)
        admit(name, boot)

    def settle(self, keys: Keys) -> None:
        """Let these keys hold after the next start, too; nothing of others stays in the file."""
        wanted = rewrite(self.text(), keys)
        if wanted != self.text():
            files.replace(self._file, wanted.encode(), 0o600)

    def networks(self) -> Sequence[ipaddress.IPv4Network]:
        """Give the networks that the relay is in, without the tunnel's."""
        return networks(self._interface)


def networks(interface: str) -> Sequence[ipaddress.IPv4Network]:
    """Give the networks that the relay is in, without the tunnel's.

    Args:
        interface: the tunnel's.
    """
    return [
        ipaddress.IPv4Network(f"{found['local']}/{found['prefixlen']}", strict=False)
        for device in json.loads(run("ip", "-json", "-4", "address", "show"))
        if device.get("ifname") != interface
        for found in device.get("addr_info", [])
    ]


def move(interface: str, keys: Keys) -> None:
    """Let the tunnel's interface have the addresses and routes of IPv4 that go with some keys, and no others.

    Raises:
        LinkError: ip(8) refuses.
    """
    run("ip", "-4", "address", "replace", f"{keys.relay4}/32", "dev", interface)
    run("ip", "-4", "route", "replace", f"{keys.home4}/32", "dev", interface)
    shown = json.loads(run("ip", "-json", "-4", "address", "show", "dev", interface))
    for address in [found["local"] for device in shown for found in device.get("addr_info", [])]:
        if address != keys.relay4:
            run("ip", "-4", "address", "delete", f"{address}/32", "dev", interface)
    for route in run("ip", "-4", "route", "show", "dev", interface).splitlines():
        if (where := route.split()[0]) != keys.home4:
            run("ip", "-4", "route", "delete", where, "dev", interface)


def admit(interface: str, boot: UnlockKeys | None) -> None:
    """Let the boot stage's peer, if there is one, have its address, and the relay its own for it; others go.

    Raises:
        LinkError: a tool refuses.
    """
    relay6, home6 = (f"{boot.relay6}/128", boot.home6) if boot else ("", "")
    if boot:
        run("wg", "set", interface, "peer", boot.peer, "allowed-ips", f"{home6}/128")
        # Nobody else is there, so that the address need not be tried out first.
        run("ip", "-6", "address", "replace", relay6, "dev", interface, "nodad", "preferred_lft", "0")
        run("ip", "-6", "route", "replace", home6, "dev", interface, "proto", _OURS)
    for device in json.loads(run("ip", "-json", "-6", "address", "show", "dev", interface)):
        for found in device.get("addr_info", []):
            address = f"{found['local']}/{found['prefixlen']}"
            if found.get("deprecated") and address != relay6:
                run("ip", "-6", "address", "delete", address, "dev", interface)
    for line in run("ip", "-6", "route", "show", "dev", interface, "proto", _OURS).splitlines():
        if line.split()[0] != home6:
            run("ip", "-6", "route", "delete", line.split()[0], "dev", interface)


def _value(text: str, name: str) -> str:
    found = re.findall(rf"(?m)^{name}\s*=\s*(\S+)\s*$", text)
    if not found:
        raise ValueError(f"{FILE.name} has no {name}")
    return str(found[-1])


def run(*argv: str, text: str = "") -> str:
    """Run a tool and give what it prints.

    Args:
        text: for its standard input.

    Raises:
        LinkError: it refuses, or does not end.
    """
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LinkError(f"{argv[0]}: {type(error).__name__}") from None
    if done.returncode != 0:
        raise LinkError(f"{argv[0]} {argv[1]}: {done.stderr.strip()}")
    return done.stdout
