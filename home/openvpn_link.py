"""The tunnel's interface over TCP: openvpn(8) between an interface of ip(8) and the relay.

The interface, its addresses and its routes stay while OpenVPN dials again.
"""

from __future__ import annotations

import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from home.openvpn_reasons import reason
from home.tunnel import Pace
from home.tunnel_link import LinkError, Reading, address_commands, end_program, endpoint, run_ip
from model.mtls import SHARED_PORT, MtlsHome
from model.openvpn import RELAY_NAME
from model.tunnel import HOME_INTERFACE, MTU

OPENVPN = Pace(stale=35.0, each=20.0, quiet=25.0)
"""Either end says something every ten seconds at least. A dial tries two ports, each for four seconds."""

_SOCKET = Path("/run/darkpipe-tunnel/openvpn/socket")
"""OpenVPN lets everybody write to it (socket_bind_unix() in its socket.c), so that its folder is shut."""

_PATIENCE = 2.0
"""Seconds that OpenVPN has for each answer about itself."""

_REMEMBERED = 30
"""Lines of its log that a reason is looked for in."""


def openvpn_settings(home: MtlsHome, address: str) -> str:
    """Write what openvpn(8) reads.

    Args:
        address: the relay's.
    """
    return f"""\
tls-client
pull
# Of what the relay says, only this: how data are encrypted and numbered. No routes, no addresses, no scripts.
pull-filter accept "cipher "
pull-filter accept "peer-id "
pull-filter accept "protocol-flags "
pull-filter ignore ""
script-security 0
proto {"tcp6" if ":" in address else "tcp4"}-client
# Strict networks let the port out that the web has.
remote {address} {home.port}
remote {address} {SHARED_PORT}
connect-timeout 4
connect-retry 1 5
nobind
socket-flags TCP_NODELAY
dev {HOME_INTERFACE}
dev-type tun
tun-mtu {MTU}
mssfix 0
ifconfig-noexec
route-noexec
persist-tun
persist-key
keepalive 10 30
tls-version-min 1.3
tls-ciphersuites TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256
data-ciphers AES-256-GCM:CHACHA20-POLY1305
remote-cert-tls server
verify-x509-name {RELAY_NAME} name
management {_SOCKET} unix
management-log-cache {_REMEMBERED}
suppress-timestamps
verb 1
<peer-fingerprint>
{home.other}
</peer-fingerprint>
<cert>
{home.certificate}</cert>
<key>
{home.private_key}</key>
<tls-crypt>
-----BEGIN OpenVPN Static key V1-----
{home.shield_lines}
-----END OpenVPN Static key V1-----
</tls-crypt>
"""


@dataclass(frozen=True)
class Management:
    """What OpenVPN says of itself (its management interface, management-notes.txt).

    Args:
        connected: whether data can pass.
        port: of the relay, as far as there is a connection.
        received: octets that have come.
        log: its latest lines.
    """

    connected: bool
    port: int | None
    received: int
    log: tuple[str, ...]


def parse_management(text: str) -> Management:
    """Read the answers to `state`, `status` and `log`, each up to END."""
    state, status, log, *_ = [*text.replace("\r\n", "\n").split("END\n"), "", "", ""]
    rows = [row.split(",") for row in state.splitlines() if not row.startswith(">")]
    last = rows[-1] if rows else []
    counted = dict(row.split(",", 1) for row in status.splitlines() if "," in row)
    received = counted.get("TCP/UDP read bytes", "")
    return Management(
        connected=last[1:3] == ["CONNECTED", "SUCCESS"],
        port=int(last[5]) if len(last) > 5 and last[5].isdigit() else None,
        received=int(received) if received.isdigit() else 0,
        log=tuple(row.split(",", 2)[-1] for row in log.splitlines() if not row.startswith(">")),
    )


class OpenvpnLink:
    """The interface, and OpenVPN while it has somewhere to go."""

    def __init__(self, home: MtlsHome) -> None:
        self._home = home
        self._made = False
        self._program: subprocess.Popen[bytes] | None = None
        self._told: Management | None = None
        self._problem: str | None = None

    def read(self) -> Reading | None:
        """Ask for the relay; None when there is no interface, or nobody behind it any more."""
        self._told = None
        if not self._made or not Path("/sys/class/net", HOME_INTERFACE).exists():
            return None
        if self._program is None:
            return Reading()
        if self._program.poll() is not None:
            return None
        self._told = _ask()
        if self._told is None or not self._told.connected:
            return Reading()
        self._problem = None
        # There are no handshakes to be seen; that something came says the same.
        return Reading(self._told.received, self._told.received)

    def make(self) -> None:
        """Make the interface, in the place of whatever has its name.

        Raises:
            LinkError: that is not possible; what was made of it is removed.
        """
        self.remove()
        try:
            run_ip("-4", [f"tuntap add dev {HOME_INTERFACE} mode tun"])
            for family, lines in zip(("-4", "-6"), address_commands(self._home), strict=True):
                run_ip(family, lines)
        except LinkError:
            self.remove()
            raise
        self._made = True

    def point(self, address: str) -> None:
        """Forget the connection, if there is one, and dial an address.

        Raises:
            LinkError: there is no OpenVPN.
        """
        # The next one has nothing to say at first.
        self._problem = self._reason()
        self._end()
        try:
            _SOCKET.parent.mkdir(mode=0o700, exist_ok=True)
            _SOCKET.unlink(missing_ok=True)
        except OSError as error:
            raise LinkError(f"openvpn has no place for its socket: {error}") from None
        try:
            self._program = subprocess.Popen(["openvpn", "--config", "stdin"], stdin=subprocess.PIPE)
        except OSError as error:
            raise LinkError(f"openvpn cannot be started: {error}") from None
        # The keys go through a pipe: arguments can be read by everybody.
        settings = openvpn_settings(self._home, address).encode()
        try:
            assert self._program.stdin is not None
            with self._program.stdin as pipe:
                pipe.write(settings)
        except OSError as error:
            raise LinkError(f"openvpn takes no settings: {error}") from None

    def remove(self) -> None:
        """Remove the interface; the rules and the unreachable routes stay."""
        self._end()
        self._made = False
        run_ip("-4", [f"link delete dev {HOME_INTERFACE}"], ignoring="Cannot find device")

    def endpoint(self, address: str) -> str:
        """Say where the relay is, for people."""
        port = self._told.port if self._told and self._told.connected else None
        return endpoint(address, port or self._home.port)

    def problem(self) -> str | None:
        """Say what is in the tunnel's way, as far as OpenVPN's log tells."""
        return self._reason() or self._problem

    def _reason(self) -> str | None:
        return reason(self._told.log, self._home.relay) if self._told else None

    def _end(self) -> None:
        if self._program is not None:
            end_program(self._program)
            self._program = None


def _ask() -> Management | None:
    """Ask OpenVPN; None when it does not answer."""
    try:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(_PATIENCE)
            asked.connect(str(_SOCKET))
            text = b""
            # One by one: it drops what it has not sent when the other side has gone.
            for number, command in enumerate((b"state\n", b"status\n", b"log %d\n" % _REMEMBERED), 1):
                asked.sendall(command)
                while text.replace(b"\r\n", b"\n").count(b"END\n") < number:
                    more = asked.recv(65536)
                    if not more:
                        return None
                    text += more
    except OSError:
        return None
    return parse_management(text.decode(errors="replace"))
