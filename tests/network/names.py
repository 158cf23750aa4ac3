"""A DNS of its own in a network: nsd as root and as the two name servers of a domain, and home's unbound that asks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from home.dns_answer import Answer, Status
from home.dns_lookup import RealDns
from tests.machine.machine import wait_for
from tests.network.net import Namespace

DOMAIN, REVERSE = "example.com", "113.0.203.in-addr.arpa"
SERVERS = {"ns1.example.net": "203.0.113.54", "ns2.example.net": "203.0.113.55"}
ROOT = "203.0.113.53"

_SOA = "SOA ns1.example.net. hostmaster.example.net. {serial} 7200 3600 86400 300"

_DELEGATIONS = "".join(
    [
        f". 300 IN {_SOA.format(serial=1)}\n. 300 IN NS a.root-servers.example.\n",
        f"a.root-servers.example. IN A {ROOT}\n",
        *(f"{zone}. IN NS {server}.\n" for zone in (DOMAIN, REVERSE) for server in SERVERS),
        *(f"{server}. IN A {address}\n" for server, address in SERVERS.items()),
    ]
)

_NSD = """\
server:
    ip-address: {address}
    username: ""
    chroot: ""
    pidfile: "{folder}/nsd.pid"
    database: ""
    server-count: 1
    zonesdir: "{folder}"
    xfrdfile: "{folder}/xfrd"
    zonelistfile: "{folder}/zonelist"
    xfrdir: "{folder}"
    cookie-secret-file: ""
remote-control:
    control-enable: no
"""

# unbound answers for documentation's addresses by itself, unless it is told not to.
_UNBOUND = """\
server:
    interface: 127.0.0.1
    username: ""
    chroot: ""
    pidfile: ""
    use-syslog: no
    directory: "/mnt"
    root-hints: "/mnt/root.hints"
    local-zone: "{reverse}" nodefault
{more}
remote-control:
    control-enable: no
"""


def zone(text: str, serial: int = 1) -> str:
    """Put the head of a zone before some records."""
    servers = "".join(f"@ 300 IN NS {server}.\n" for server in SERVERS)
    return f"@ 300 IN {_SOA.format(serial=serial)}\n{servers}{text}"


@contextmanager
def name_servers(place: Namespace, scratch: Path, *zones: dict[str, str], more_root: str = "") -> Iterator[None]:
    """Serve a root at `ROOT`, and zones; see `names`."""
    with ExitStack() as stack:
        root_zone = {".": _DELEGATIONS + more_root}
        for address, served in zip((ROOT, *SERVERS.values()), (root_zone, *zones), strict=False):
            stack.enter_context(_nsd(place, scratch / address, address, served))
        yield


@contextmanager
def names(
    place: Namespace, root: Path, scratch: Path, *zones: dict[str, str], more_root: str = "", more_unbound: str = ""
) -> Iterator[None]:
    """Serve zones, and resolve them on 127.0.0.1.

    Args:
        root: a system with unbound in it.
        zones: for each of `SERVERS` the zones that it has, by name; a server without any is lame, and one that is left
            out does not run.
        more_root: records that the root has besides.
        more_unbound: lines of unbound.conf(5), in `server:`.
    """
    with ExitStack() as stack:
        stack.enter_context(name_servers(place, scratch, *zones, more_root=more_root))
        home = scratch / "unbound"
        home.mkdir(exist_ok=True)
        (home / "root.hints").write_text(f". 300 NS a.root-servers.example.\na.root-servers.example. 300 A {ROOT}\n")
        (home / "unbound.conf").write_text(_UNBOUND.format(reverse=REVERSE, more=more_unbound))
        place.run("mount", "--bind", str(home), str(root / "mnt"))
        stack.callback(place.run, "umount", str(root / "mnt"))
        stack.enter_context(place.running("chroot", str(root), "unbound", "-d", "-c", "/mnt/unbound.conf"))
        wait_for(lambda: _ask(place, "ns1.example.net", "A").status is Status.FOUND, "the resolver")
        yield


def reload_zone(scratch: Path, address: str, content: str, number: int = 0) -> None:
    """Have a name server of `names` read another text of one of its zones, by its number."""
    folder = scratch / address
    (folder / f"{number}.zone").write_text(content)
    os.kill(int((folder / "nsd.pid").read_text()), signal.SIGHUP)


@contextmanager
def _nsd(place: Namespace, folder: Path, address: str, zones: dict[str, str]) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    text = _NSD.format(address=address, folder=folder)
    for number, (name, content) in enumerate(zones.items()):
        (folder / f"{number}.zone").write_text(content)
        text += f'zone:\n    name: "{name}"\n    zonefile: "{number}.zone"\n'
    (folder / "nsd.conf").write_text(text)
    place.run("nsd-checkconf", str(folder / "nsd.conf"))
    with place.running("nsd", "-d", "-c", str(folder / "nsd.conf")):
        wait_for(lambda: place.can_connect(53, address), "a name server")
        yield


def _ask(place: Namespace, name: str, kind: str) -> Answer:
    return place.call(RealDns(whole=2).resolve, name, kind)
