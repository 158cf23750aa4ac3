"""The world of the first evening: device, browser, the relay's provider, and somebody who writes and is written to."""

from __future__ import annotations

import imaplib
import re
import smtplib
import ssl
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from pathlib import Path

from tests import mail
from tests.accessible import faults
from tests.chromium import BrowserError, Chromium
from tests.images.conftest import PASSWORD
from tests.images.correspondent import FRIEND, Correspondent
from tests.images.locked import PASSPHRASE, Page
from tests.images.machine import REPOSITORY, Machine
from tests.images.provider import Provider
from tests.keyboard import fill
from tests.machine.machine import wait_for
from tests.network.internet import Internet, Site
from tests.network.names import ROOT

ALICE = "alice@example.com"
RELAY = Site(1)
PATIENCE = 1800.0
"""Seconds; all of them share two slow processors."""
_PAUSE = 60
"""Seconds between two looks at what costs the device time."""

_REVERSE = "1.18.198.in-addr.arpa"
ZONES = ("example.com", "example.org", _REVERSE)
_UNBOUND = "/run/resolver-of-the-tests"
_RESOLVER = f"""\
sed -e 's|/usr/share/dns/root.hints|{_UNBOUND}.hints|' -e 's|trust-anchor-file:.*|module-config: "iterator"|' \
/etc/unbound/unbound.conf >{_UNBOUND}.conf && \
echo 'server: local-zone: "{_REVERSE}" nodefault' >>{_UNBOUND}.conf && \
printf '. 300 NS a.root-servers.example.\\na.root-servers.example. 300 A {ROOT}\\n' >{_UNBOUND}.hints"""
"""The root of the tests is not signed, and has one server."""

_UNIT = f"""\
mkdir -p /run/systemd/system/unbound.service.d && \
printf '[Service]\\nExecStart=\\nExecStart=/usr/sbin/unbound -d -p -c {_UNBOUND}.conf\\n' \
>/run/systemd/system/unbound.service.d/tests.conf"""

_PICTURES = REPOSITORY / "out/screenshots"


@dataclass
class Evening:
    """All that there is on this evening.

    Args:
        site: the file of the image's Site.
        user_data: what the relay is made of when the image has brought the other half; else empty.
        records: names and texts of the TXT records that were published.
    """

    site: Path
    internet: Internet
    provider: Provider
    home: Machine
    browser: Chromium
    friend: Correspondent
    user_data: str = ""
    recovery: str = ""
    subjects: list[str] = field(default_factory=list)
    records: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Of the device's page, for the browser."""
        return f"https://127.0.0.1:{self.home.page}"

    def point_resolver(self) -> None:
        """Have the device's resolver ask the tests' Internet, which is not signed; until the next start."""
        self.home.lines(f"{_RESOLVER} && {_UNIT} && systemctl daemon-reload && systemctl restart unbound && echo done")
        self.home.lines("getent ahostsv4 ns1.example.net")

    def show(self, expected: str, path: str = "") -> None:
        """Open a page, and wait until it shows a text; it is opened again seldom, since the device has other work."""
        opened = float("-inf")

        def shows() -> bool:
            nonlocal opened
            try:
                if time.monotonic() > opened + _PAUSE:
                    self.browser.open(f"{self.address}{path}")
                    opened = time.monotonic()
                return expected in self.browser.text
            except BrowserError:
                time.sleep(5)  # it is starting, or the page is just replaced
                return False

        wait_for(shows, f"the page says: {expected}", PATIENCE)

    def picture(self, name: str) -> None:
        """Look at the page as a person does, and keep a picture."""
        assert faults(self.browser) == [], name
        for width in (360, 1280):
            self.browser.appear(width, dark=False)
            self.browser.picture(_PICTURES / f"evening-{name}-{width}.png")

    def publish(self, zone_file: str) -> None:
        """Publish what the device wants to stand in DNS."""
        # PTR stands in comments: the provider keeps that zone.
        found = [line.removeprefix("; ") for line in zone_file.splitlines()]
        lines = [line for line in found if len(line.split()) > 4 and line.split()[2] == "IN"]
        assert {"A", "MX", "TXT", "CAA", "PTR"} <= {line.split()[3] for line in lines}
        for line in lines:
            if line.split()[3] == "TXT":
                self.records[line.split()[0].rstrip(".")] = "".join(re.findall(r'"([^"]*)"', line))
        self.friend.publish({name: _in_zone(name, lines) for name in ZONES})

    def unlock(self) -> None:
        """Type the passphrase into the page, and wait until the device is up."""
        if not self.user_data:
            self.internet.router.call(Page, self.home.page)  # the page is there
            self.show("The disk is locked")
            fill(self.browser, ("passphrase", PASSPHRASE))
        self.home.up()
        self.point_resolver()

    def wait_until_paired(self) -> None:
        """Wait until home says that it and its relay are paired."""
        paired = 'darkpipe pair --json | grep --quiet \'"stage": "paired"\''
        paused = f"sleep {_PAUSE}; {paired}"
        wait_for(lambda: self.home.run(paused).status == 0, "home and relay are paired", PATIENCE)

    def make_user_data(self) -> str:
        """Have the page make user-data for a new relay, and copy them."""
        self.show("Make other user-data", "/relay")
        self.browser.look("document.querySelector('details').open = true")
        self.browser.look("document.querySelector('[name=anew]').click()")
        fill(self.browser, ("ssh_key", ""))
        return str(self.browser.look("document.querySelector('#user-data').value"))

    def send(self, recipient: str = ALICE) -> str:
        """Have the correspondent write to Alice; gives the subject."""
        subject = f"in {uuid.uuid4()}"
        self.subjects.append(subject)
        self.friend.send(recipient, mail.letter(subject, FRIEND, recipient).encode())
        return subject

    def submit(self, letter: str) -> None:
        """Send as Alice's app does, from somewhere else through the relay."""
        context = mail.any_certificate()
        with self.internet.router.call(smtplib.SMTP_SSL, RELAY.address, 465, timeout=120, context=context) as session:
            session.login(ALICE, PASSWORD)
            session.sendmail(ALICE, FRIEND, letter.encode())

    @contextmanager
    def mailbox(self) -> Iterator[imaplib.IMAP4_SSL]:
        """Open Alice's mailbox through the relay; whatever happens, the connection ends."""
        box = self.internet.router.call(mail.mailbox, 993, ALICE, PASSWORD, host=RELAY.address)
        try:
            yield box
        finally:
            box.shutdown()

    def fetch(self, subject: str) -> bytes:
        """Wait for a letter in Alice's mailbox, read through the relay."""
        found = b""

        def is_there() -> bool:
            nonlocal found
            try:
                with self.mailbox() as box:
                    found = self.internet.router.call(mail.fetch, box, subject)
            except (AssertionError, OSError, imaplib.IMAP4.error):
                return False
            return True

        wait_for(is_there, f"the letter {subject}", PATIENCE)
        return found

    def count(self, subject: str) -> int:
        """Count a letter in all of Alice's folders for new mail."""
        found = 0
        with self.mailbox() as box:
            for folder in mail.ARRIVED:
                box.select(folder, readonly=True)
                found += len(box.search(None, "HEADER", "Subject", f'"{subject}"')[1][0].split())
        return found


def _in_zone(name: str, lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines if f".{line.split()[0]}".endswith(f".{name}."))


def zone_file(evening: Evening) -> str:
    """Get the zone file, as the browser of the administrator does."""
    cookies = evening.browser.call("Network.getCookies", urls=[f"{evening.address}/"])["cookies"]
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def get() -> str:
        connection = HTTPSConnection("127.0.0.1", evening.home.page, timeout=600, context=context)
        sent = "; ".join(f"{each['name']}={each['value']}" for each in cookies)
        connection.request("GET", "/dns/darkpipe.zone", headers={"cookie": sent})
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    return evening.internet.router.call(get)
