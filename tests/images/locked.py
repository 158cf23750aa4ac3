"""A device whose disk is encrypted, as whoever sits in front of it sees it: its console and its page."""

from __future__ import annotations

import re
import ssl
import struct
import time
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path
from urllib.parse import urlencode

import pytest

from firstboot.page.certificate import fingerprint
from model.site import UnlockPolicy
from tests.images.conftest import SITE
from tests.images.machine import Machine, darkpipe

PASSPHRASE = "eleven quiet geese at dawn"
SECONDS = 900
"""That an emulated processor may take for argon2id and what comes with it."""


def encrypted_image(request: pytest.FixtureRequest, scratch: Path, password_hash: str, unlock: UnlockPolicy) -> Path:
    """Build the tests' site with an encrypted disk, if long tests were asked for."""
    if not request.config.getoption("--encrypted-disk"):
        pytest.skip("takes long on an emulated processor: --encrypted-disk")
    site = scratch / f"{unlock}.yaml"
    site.write_text(SITE.format(hash=password_hash).replace("unlock: none", f"unlock: {unlock}"), encoding="utf-8")
    return Path(darkpipe("build", str(site), "--output", str(scratch / str(unlock))).splitlines()[-1])


def choose(machine: Machine) -> str:
    """Choose the passphrase of a new disk on the console; gives the recovery secret that it shows."""
    assert machine.expect(["A new passphrase", "login:", "cannot use"], SECONDS) == 0
    machine.type(PASSPHRASE)
    machine.expect(["Once more:"], 60)
    machine.type(PASSPHRASE)
    machine.expect([r"Group \d of 8"], SECONDS)
    rows = re.findall(r"^    ((?:[0-9A-Z]{4} ?){4})$", machine.console_text(), re.MULTILINE)
    return "-".join(" ".join(rows[-2:]).split())


def confirm(machine: Machine, secret: str) -> None:
    """Type the groups of the recovery secret that the console asks for."""
    groups = secret.split("-")
    for number in _asked(machine):
        machine.type(groups[number - 1])


def _asked(machine: Machine) -> Iterator[int]:
    for count in (1, 2):
        deadline = time.monotonic() + 60
        while True:
            text = machine.console_text().rpartition("RECOVERY SECRET")[2]
            asked = re.findall(r"Group (\d) of 8", text)
            if len(asked) == count:
                break
            assert time.monotonic() < deadline, text
            machine.expect([r"Group \d of 8"], 60)
        yield int(asked[-1])


def shown_fingerprint(machine: Machine) -> str:
    """The fingerprint of the page's certificate on the console of a locked device."""
    machine.expect(["Passphrase or recovery secret"], 60)
    text = machine.console_text().rpartition("fingerprint")[2]
    return ":".join(re.findall(r"[0-9A-F]{2}(?::[0-9A-F]{2})+", text)[:2])


class Page:
    """The page as a browser without scripts sees it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._token = ""
        self._cookies: dict[str, str] = {}
        self.fingerprint = fingerprint(_certificate(port))

    def get(self) -> str:
        """Give the page."""
        return self._ask("GET", "/", "")

    def post(self, path: str, **fields: str) -> str:
        """Send a form, and give what comes then."""
        return self._ask("POST", path, urlencode({"token": self._token, **fields}))

    def _ask(self, method: str, path: str, body: str) -> str:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = HTTPSConnection("127.0.0.1", self._port, timeout=SECONDS, context=context)
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        headers = {"cookie": cookies, "content-type": "application/x-www-form-urlencoded"}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        text = response.read().decode()
        for cookie in response.headers.get_all("set-cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            self._cookies[name] = value
        if token := re.search(r'name="token" value="(\w+)"', text):
            self._token = token[1]
        connection.close()
        return text


def _certificate(port: int) -> str:
    """Get the page's certificate; it comes some seconds after the console's text, on an emulated processor a minute."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return ssl.get_server_certificate(("127.0.0.1", port), timeout=60)
        except OSError:
            # QEMU takes each connection, and resets it while the device does not listen.
            if time.monotonic() > deadline:
                raise
        time.sleep(2)


_SECTORS, _SECTORS_OF_A_FAT = 32768, 32


def make_stick(path: Path) -> None:
    """Make a file that is a USB stick of 16 MiB with an empty FAT16, and no table, as some are sold.

    Microsoft's FAT specification 1.03, "Boot Sector and BPB".
    """
    bpb = struct.pack("<HBHBHHBHHHII", 512, 4, 1, 2, 512, _SECTORS, 0xF8, _SECTORS_OF_A_FAT, 32, 64, 0, 0)
    rest = struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 0x5A5107, b"STICK      ", b"FAT16   ")
    boot = (b"\xeb\x3c\x90MSWIN4.1" + bpb + rest).ljust(510, b"\0") + b"\x55\xaa"
    fat = b"\xf8\xff\xff\xff".ljust(_SECTORS_OF_A_FAT * 512, b"\0")
    with path.open("wb") as file:
        file.write(boot + fat + fat)
        file.truncate(_SECTORS * 512)
