"""The relay's end of a tunnel by openvpn(8): its files, and the service that goes by them.

The service reads the files when it starts, and each change of keys starts it anew; home dials again within seconds. The
interface stays.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path

from model import openvpn
from model.control_tls import CertificateError
from model.wireguard import RELAY_INTERFACE
from relay import files
from relay.link import LinkError, move, networks, run
from relay.pairing import Keys
from relay.tunnel_file import OPENVPN_ADDRESSES, OPENVPN_FILE, OPENVPN_HOME, Tunnel, read_openvpn

_UNIT = f"openvpn-server@{RELAY_INTERFACE}.service"
_STARTS_WITHIN = 10.0
"""Seconds; systemd starts it a second after its end."""

_MARK = "openvpn"
"""File that is there while the service may go by other files than there are."""


class OpenvpnLink:
    """The interface, and the service behind it.

    Args:
        root: the folder in the place of `/`.
        state: the agent's own folder.
    """

    def __init__(self, state: Path, root: Path = Path("/"), interface: str = RELAY_INTERFACE) -> None:
        self._settings, self._home = root / OPENVPN_FILE, root / OPENVPN_HOME
        self._addresses = root / OPENVPN_ADDRESSES
        self._mark, self._interface = state / _MARK, interface

    @property
    def tunnel(self) -> Tunnel:
        """What is no secret of the files."""
        return read_openvpn(*(path.read_text(encoding="utf-8") for path in (self._settings, self._addresses)))

    def initial_keys(self) -> Keys:
        """Give the bootstrap's keys, which user-data have written.

        Raises:
            LinkError: the files lack something.
        """
        text, ends = self._settings.read_text(encoding="utf-8"), self.tunnel.addresses
        own = _block(text, "key") + _block(text, "cert")
        theirs = _block(text, "peer-fingerprint").strip()
        try:
            openvpn.check_public(theirs)
            public = openvpn.public_half(own)
            key = "".join(openvpn.parts(own))
        except (ValueError, CertificateError) as error:
            raise LinkError(f"{OPENVPN_FILE.name}: {error}") from None
        return Keys(key, public, "", theirs, "", str(ends.home4), str(ends.relay4))

    def new_key(self) -> tuple[str, str]:
        """Make a key with its certificate; gives them, and what home knows them by.

        Raises:
            LinkError: openssl(1) refuses.
        """
        made = run(*openvpn.certificate_command(openvpn.RELAY_NAME))
        return "".join(openvpn.parts(made)), openvpn.public_half(made)

    def use(self, keys: Keys) -> None:
        """Speak with home by these keys from now on, and with nobody by others; also after the next start.

        Raises:
            LinkError: a tool refuses, or OpenVPN does not start.
        """
        wanted = self._wanted(keys)
        changed = [path for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
        if not changed and not self._mark.exists():
            return
        # As long as it is there, the service may go by files that are no longer there, whenever this is cut off.
        files.replace(self._mark, b"")
        for path in changed:
            files.replace(path, wanted[path].encode(), 0o600)
        # One that is just starting may have read the files before they were written.
        started = self._wait_for_another("")
        run("systemctl", "kill", "--kill-whom=main", _UNIT)
        move(self._interface, keys)
        self._wait_for_another(started)
        self._mark.unlink()
        files.sync_folder(self._mark.parent)

    def settle(self, keys: Keys) -> None:
        """The same: the files are always those of the keys in use, and the agent's start mends them after a cut."""
        self.use(keys)

    def networks(self) -> Sequence[IPv4Network]:
        """Give the networks that the relay is in, without the tunnel's."""
        return networks(self._interface)

    def _wanted(self, keys: Keys) -> Mapping[Path, str]:
        """Give the texts of the files, the settings last."""
        key, certificate = openvpn.parts(keys.own_key)
        settings = self._settings.read_text(encoding="utf-8")
        for name, text in (("peer-fingerprint", f"{keys.home_key}\n"), ("cert", certificate), ("key", key)):
            settings = _with_block(settings, name, text)
        addresses = self._addresses.read_text(encoding="utf-8")
        # With IPv6 it is /128.
        for command, address in (("address", keys.relay4), ("route", keys.home4)):
            addresses = re.sub(rf"(?m)^{command} replace \S+/32 ", f"{command} replace {address}/32 ", addresses)
        home = re.sub(r"(?m)^iroute .*$", f"iroute {keys.home4}", self._home.read_text(encoding="utf-8"))
        return {self._addresses: addresses, self._home: home, self._settings: settings}

    def _started(self) -> str:
        """Name the service's present run; empty when it does not run."""
        shown = run("systemctl", "show", "--property=ActiveState,InvocationID", _UNIT)
        found = dict(line.split("=", 1) for line in shown.splitlines())
        return found.get("InvocationID", "") if found.get("ActiveState") == "active" else ""

    def _wait_for_another(self, before: str) -> str:
        """Wait for a run of the service that is not the one before, and name it."""
        end = time.monotonic() + _STARTS_WITHIN
        while (now := self._started()) in {"", before}:
            if time.monotonic() >= end:
                raise LinkError(f"{_UNIT} does not start: `systemctl status {_UNIT}`")
            time.sleep(0.1)
        return now


def _block(settings: str, name: str) -> str:
    found = re.findall(rf"(?ms)^<{name}>\n(.*?)^</{name}>$", settings)
    if len(found) != 1:
        raise LinkError(f"{OPENVPN_FILE.name} has no <{name}>")
    return str(found[0])


def _with_block(settings: str, name: str, text: str) -> str:
    _block(settings, name)
    head, _, rest = settings.partition(f"<{name}>\n")
    return f"{head}<{name}>\n{text}{rest[rest.index(f'</{name}>') :]}"
