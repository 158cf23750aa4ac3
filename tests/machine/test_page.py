"""The administrator's page on the device: who gets there, and what it shows of the real services."""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import re
import socket
import ssl
import stat
from collections.abc import Callable
from contextlib import closing
from urllib.parse import urlencode

import pytest
import yaml

from firstboot.page.certificate import fingerprint
from tests.machine.conftest import PASSWORD, SEED
from tests.machine.machine import (
    HOME_ADDRESS,
    HOME_ADDRESS_6,
    STRANGER_ADDRESS,
    TUNNEL_ADDRESS,
    Client,
    Machine,
    wait_for,
)

_PASSWORD = "four words are good"


class _Browser:
    """Keeps cookies, fills in the form that it has seen last, and judges the certificate by its fingerprint alone."""

    def __init__(self, client: Client, certificate: str) -> None:
        self._client, self._certificate = client, certificate
        self._cookies: dict[str, str] = {}
        self._token = ""

    def get(self, path: str = "/") -> tuple[int, str]:
        return self._client.call(self._ask, "GET", path, "")

    def post(self, path: str, **fields: str) -> tuple[int, str]:
        return self._client.call(self._ask, "POST", path, urlencode({"token": self._token, **fields}))

    def _ask(self, method: str, path: str, body: str) -> tuple[int, str]:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(HOME_ADDRESS, 443, context=context, timeout=60)
        with contextlib.closing(connection):
            return self._exchange(connection, method, path, body)

    def _exchange(self, connection: http.client.HTTPSConnection, method: str, path: str, body: str) -> tuple[int, str]:
        connection.connect()
        shown = connection.sock.getpeercert(binary_form=True)
        assert fingerprint(ssl.DER_cert_to_PEM_cert(shown or b"")) == self._certificate
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        headers = {"cookie": cookies, "origin": f"https://{HOME_ADDRESS}"}
        kind = {"content-type": "application/x-www-form-urlencoded"} if method == "POST" else {}
        connection.request(method, path, body, {**headers, **kind})
        answer = connection.getresponse()
        for line in answer.headers.get_all("set-cookie", []):
            name, _, value = line.partition(";")[0].partition("=")
            self._cookies[name] = value
        text = answer.read().decode()
        if found := re.search(r'name="token" value="([0-9a-f]+)"', text):
            self._token = found[1]
        return answer.status, text


def _plain(path: str) -> tuple[int, str | None]:
    with closing(http.client.HTTPConnection(HOME_ADDRESS, timeout=30)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("location")


def test_the_page_is_claimed_from_the_lan_alone_and_shows_the_device(device: Machine) -> None:
    shown = json.loads(device.run("darkpipe", "page", "show", "--json"))
    assert shown["claimed"] is False
    assert f"{shown['code'][:4]} {shown['code'][4:]}" in device.console
    assert shown["fingerprint"][:47] in device.console
    with device.lan() as client:
        wait_for(lambda: client.can_connect(443), "the page listens")
        assert client.can_connect(443, HOME_ADDRESS_6)
        browser = _Browser(client, shown["fingerprint"])
        assert "Nobody looks after this device" in browser.get()[1]
        claimed = browser.post("/claim", code=shown["code"], password=_PASSWORD, again=_PASSWORD)
        assert claimed[0] == 303, claimed
        status, home = browser.get()
        assert (status, "Mail is taken" in home) == (200, True), home
        assert " free</p>" in home
        assert "Nothing waits" in home or "on the way" in home
        assert "are well" in home, re.sub(r"<[^>]*>|\n", " ", home)
        assert "v=DKIM1" in browser.get("/dns")[1]
        # A second start of both forgets the sessions, and not the administrator.
        device.run("systemctl", "restart", "darkpipe-desk.service", "darkpipe-home-page.service")
        wait_for(lambda: client.can_connect(443), "the page listens again")
        assert 'action="/sign-in"' in browser.get()[1]
        signed_in = browser.post("/sign-in", password=_PASSWORD)
        assert signed_in[0] == 303, signed_in
        assert "How the device is" in browser.get()[1]
        assert client.call(_plain, "/dns") == (307, f"https://{HOME_ADDRESS}/")
        # From an address that no home has, nobody gets there.
        for port in (80, 443):
            with pytest.raises(OSError, match="timed out"):
                client.call(socket.create_connection, (HOME_ADDRESS, port), 1.5, (STRANGER_ADDRESS, 0))
    with device.tunnel() as relay:
        assert not any(relay.can_connect(port, TUNNEL_ADDRESS) for port in (80, 443))
    for unit, most in (("darkpipe-desk", 256), ("darkpipe-home-page", 128)):
        process = device.run("systemctl", "show", "-P", "MainPID", f"{unit}.service").strip()
        peak = int(re.findall(r"VmHWM:\s+(\d+) kB", device.run("cat", f"/proc/{process}/status"))[0])
        assert peak < most * 1024 / 2, f"{unit} has little room below its MemoryMax="
    device.run("darkpipe", "page", "forget-password", "--yes")
    assert json.loads(device.run("darkpipe", "page", "show", "--json"))["claimed"] is False
    assert device.failed_units() == []


def _signed_in(device: Machine, client: Client) -> _Browser:
    shown = json.loads(device.run("darkpipe", "page", "show", "--json"))
    wait_for(lambda: client.can_connect(443), "the page listens")
    browser = _Browser(client, shown["fingerprint"])
    browser.get()
    entered = browser.post("/claim", code=shown["code"], password=_PASSWORD, again=_PASSWORD)
    assert entered[0] == 303, entered
    return browser


def _done(browser: _Browser, path: str, **fields: str) -> None:
    """Fill in a form, and see that what it asks for was done."""
    browser.get(path.rpartition("/")[0])
    answer = browser.post(path, **fields)
    assert answer[0] == 303, answer


def test_a_test_message_from_the_page(device: Machine) -> None:
    with device.lan() as client:
        browser = _signed_in(device, client)
        message = {"sender": "dave@example.org", "recipient": "alice@example.com"}
        _done(browser, "/message/send", password=PASSWORD, **message)
        wait_for(lambda: ">sent</span>" in browser.get("/message")[1], "Dovecot has taken the message")
        assert "lmtp" in browser.get("/message")[1]
        mail = [path.read_bytes() for path in device.data.glob("mail/example.com/alice/Maildir/new/*")]
        assert any(b"A test from your DarkPipe" in octets and b"d=example.org" in octets for octets in mail)
        denied = browser.post("/message/send", password="not the password", **message)
        assert "This is not the password of dave@example.org." in denied[1], denied
        # Who is not the desk is not heard, not even root.
        asked = "import json, sys; from pathlib import Path; from firstboot.questions import ask; "
        asked += 'print(json.dumps(ask(Path("/run/darkpipe-hand"), {"do": "show-test"}, 30)))'
        refused_root = device.run("env", "PYTHONPATH=/usr/lib/darkpipe", "python3", "-c", asked)
        assert "for darkpipe-desk.service alone" in refused_root
        device.run("darkpipe", "page", "forget-password", "--yes")
    assert device.failed_units() == []
    assert PASSWORD not in device.run("journalctl", "-b", "--no-pager", "--output=cat")


def test_a_user_and_a_relays_user_data_are_made_on_the_device(new_machine: Callable[[str], Machine]) -> None:
    machine = new_machine(SEED).start()
    with machine.lan() as client:
        browser = _signed_in(machine, client)
        _done(browser, "/users/add", address="carol@example.com", password=PASSWORD, again=PASSWORD)
        assert "carol@example.com" in browser.get("/users")[1]
        assert "carol@example.com" in machine.run("doveadm", "user", "*")
        assert "Have a relay" in browser.get("/relay")[1]
        assert "outside" not in machine.run("postconf", "-h", "default_transport")
        _done(browser, "/relay/begin", offline="tempfail", transport="wireguard")
        assert "outside" in machine.run("postconf", "-h", "default_transport")
        assert "Nobody has ordered one" in browser.get()[1]
        assert "Mail is taken" not in browser.get()[1]
        _done(browser, "/relay/make", ssh_key="")
        wait_for(lambda: "has not answered yet" in browser.get("/relay/live")[1], "home looks for its relay")
        page = browser.get("/relay")[1]
        text = html.unescape(re.findall(r"(?s)<textarea[^>]*>(.*?)</textarea>", page)[0])
        made = {file["path"]: file["content"] for file in yaml.safe_load(text)["write_files"]}
        key = re.findall(r"PublicKey = (\S+)", made["/etc/wireguard/home0.conf"])
        relay = json.loads((machine.data / "darkpipe/relay.json").read_text())
        assert key == [machine.run("wg", "pubkey", stdin=relay["private_key"].encode()).strip()]
        _done(browser, "/relay/address", address="203.0.113.7")
        wait_for(lambda: "203.0.113.7" in (machine.data / "darkpipe/relay.json").read_text(), "it looks there")
        _done(browser, "/preflight/start")
        wait_for(lambda: "Something keeps mail away" in browser.get("/preflight")[1], "it has ended", 120)
        assert "nobody answers" in browser.get("/preflight")[1].lower()
        assert "Check again" in browser.get("/dns/check")[1]
        machine.run("systemctl", "restart", "darkpipe-desk.service")
        wait_for(lambda: 'action="/sign-in"' in browser.get()[1], "the desk answers again")
        assert browser.post("/sign-in", password=_PASSWORD)[0] == 303
        home = browser.get()[1]
        assert "records are wrong or not to be found; looked at" in home
        assert "Something keeps mail away or could not be seen" in home
    assert machine.failed_units() == []
    assert stat.S_IMODE((machine.data / "pairing/user-data.json").stat().st_mode) == 0o600
    secret = json.loads((machine.data / "pairing/user-data.json").read_text())["bootstrap"]["relay"]["private_key"]
    assert secret not in machine.run("journalctl", "-b", "--no-pager", "--output=cat")
    machine.stop()


def test_no_password_is_in_a_log(device: Machine) -> None:
    assert _PASSWORD not in device.run("journalctl", "-b", "--no-pager", "--output=cat")
    assert "$argon2id" not in device.run("journalctl", "-b", "--no-pager", "--output=cat", "-u", "darkpipe-desk")
