"""The device's name in the home's network: who gets an answer over multicast, and that the page has this name."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import struct
import time
from contextlib import closing

import dns.message
import dns.rdatatype

from tests.machine.machine import CLIENT_ADDRESS, HOME_ADDRESS, STRANGER_ADDRESS, Machine, wait_for

_GROUP, _PORT = "224.0.0.251", 5353
_NAME = "darkpipe.local"
_PATIENCE = 1.5
"""Seconds; an answer for a name of its own comes at once, or in up to half a second (RFC 6762 §6)."""


def _ask(name: str, sender: str) -> set[str]:
    """Ask the network for a name as RFC 6762 §5 has it, and give the addresses in the answers."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        asking.bind(("", _PORT))
        member = struct.pack("4s4s", socket.inet_aton(_GROUP), socket.inet_aton(sender))
        asking.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sender))
        asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        question = dns.message.make_query(name, dns.rdatatype.A, id=0, flags=0)
        asking.sendto(question.to_wire(), (_GROUP, _PORT))
        return _answers(asking, name)


def _answers(asking: socket.socket, name: str) -> set[str]:
    found: set[str] = set()
    end = time.monotonic() + _PATIENCE
    while not found and (left := end - time.monotonic()) > 0:
        asking.settimeout(left)
        try:
            message = dns.message.from_wire(asking.recv(9000))
        except TimeoutError:
            break
        sets = [one for one in message.answer if (one.name.to_text(), one.rdtype) == (f"{name}.", dns.rdatatype.A)]
        # As octets: the uppermost bit of the class has a meaning of its own here (RFC 6762 §10.2).
        found |= {socket.inet_ntoa(row.to_wire() or b"") for one in sets for row in one}
    return found


def _page(certificate: str) -> int:
    """Open the page by its name, with the certificate as the only one that is trusted; give the status."""
    context = ssl.create_default_context(cadata=certificate)
    connection = http.client.HTTPSConnection(_NAME, context=context, timeout=30)
    with closing(connection), socket.create_connection((HOME_ADDRESS, 443), 30) as plain:
        connection.sock = context.wrap_socket(plain, server_hostname=_NAME)
        connection.request("GET", "/")
        return connection.getresponse().status


def test_neighbours_find_the_page_by_name_and_the_tunnel_hears_nothing(device: Machine) -> None:
    own = device.run("cat", "/etc/systemd/network/80-ethernet.network")
    # A cable of the tests is no real port; apart from that and from its fixed address it is taken as one.
    lan = re.sub(r"Type=ether\n(#.*\n)*Kind=.*", "Name=lan0", own)
    lan = lan.replace("[Network]\n", "[Network]\nKeepConfiguration=yes\n")
    assert lan.count("lan0") == lan.count("KeepConfiguration") == 1
    device.run("install", "-D", "--mode=0644", "/dev/stdin", "/run/systemd/network/10-lan0.network", stdin=lan.encode())
    try:
        with device.lan() as client:
            device.run("networkctl", "reload")
            wait_for(lambda: client.call(_ask, _NAME, CLIENT_ADDRESS) == {HOME_ADDRESS}, "the name is answered")
            assert client.call(_ask, "darkpipe-2.local", CLIENT_ADDRESS) == set()
            assert client.call(_ask, _NAME, STRANGER_ADDRESS) == set(), "only to the home's own addresses"
            certificate = (device.state / "page/page.pem").read_text().partition("-----BEGIN CERT")
            assert client.call(_page, certificate[1] + certificate[2]) == 200
        with device.tunnel() as relay:
            # Of itself, systemd-resolved would answer there as well.
            assert "mDNS/IPv4" in device.run("resolvectl", "status", "relay0")
            assert relay.call(_ask, _NAME, "10.99.0.2") == set()
    finally:
        device.run("rm", "/run/systemd/network/10-lan0.network")
        device.run("networkctl", "reload")
    assert device.failed_units() == []
    # It listens for nothing else: no resolver, no LLMNR (5355).
    ports = set(re.findall(r"^\S+ +\S+ +\S+ +\S+:(\d+) .*systemd-resolve", device.run("ss", "-Hlnup"), re.MULTILINE))
    assert ports <= {str(_PORT)}
    assert "systemd-resolve" not in device.run("ss", "-Hlntp")


def test_the_responder_sees_nothing_of_the_disk(device: Machine) -> None:
    process = device.run("systemctl", "show", "-P", "MainPID", "systemd-resolved.service").strip()
    for folder in ("/data", "/state"):
        assert device.run("ls", "-A", folder), "there is something to be seen"
        assert device.run("ls", "-A", f"/proc/{process}/root{folder}") == ""
