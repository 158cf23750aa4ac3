"""The first evening, whole: a device is set up in a browser, gets its relay and its names, and mail comes and goes.

Both machines are emulated, and the steps follow each other: an hour and more, only when asked for.

    ./dev test evening
    ./dev test evening --seeded      # from a seed that asks nothing; nobody opens the page
    ./dev test evening --home raspberrypi
"""

from __future__ import annotations

import base64
import imaplib
import re
import smtplib
import ssl
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from builder.bootstrap import keys_folder
from builder.tools import host_architecture
from tests import mail
from tests.accessible import faults
from tests.chromium import BrowserError, Chromium, chromium
from tests.images.conftest import PASSWORD, SITE
from tests.images.correspondent import ADDRESS, FRIEND, SOURCE, Correspondent, correspondent
from tests.images.locked import PASSPHRASE, Page
from tests.images.machine import REPOSITORY, Machine, darkpipe, install_emulator, words_in
from tests.images.provider import Provider, open_provider
from tests.keyboard import fill, tab_to
from tests.machine.conftest import root  # noqa: F401 (a fixture)
from tests.machine.machine import wait_for
from tests.network.internet import Internet, Site, make_internet
from tests.network.names import ROOT
from tests.signatures import judge

pytestmark = pytest.mark.skipif(host_architecture() != "amd64", reason="the emulator runs on amd64")

_ALICE, _CAROL = "alice@example.com", "caroline@example.com"
_ALICE_BY_A_CANARY = "alice+zq7-canary@example.com"
"""Alice, by an address that stands in no program's examples."""

_RELAY = Site(1)
_ADMINISTRATOR = "nine slow trains by night"
_PATIENCE = 1800.0
"""Seconds; all of them share two slow processors."""
_PAUSE = 60
"""Seconds between two looks at what costs the device time."""

_REVERSE = "1.18.198.in-addr.arpa"
_ZONES = ("example.com", "example.org", _REVERSE)
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

        wait_for(shows, f"the page says: {expected}", _PATIENCE)

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
        self.friend.publish({name: _in_zone(name, lines) for name in _ZONES})

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
        wait_for(lambda: self.home.run(paused).status == 0, "home and relay are paired", _PATIENCE)

    def make_user_data(self) -> str:
        """Have the page make user-data for a new relay, and copy them."""
        self.show("Make other user-data", "/relay")
        self.browser.look("document.querySelector('details').open = true")
        self.browser.look("document.querySelector('[name=anew]').click()")
        fill(self.browser, ("ssh_key", ""))
        return str(self.browser.look("document.querySelector('#user-data').value"))

    def send(self, recipient: str = _ALICE) -> str:
        """Have the correspondent write to Alice; gives the subject."""
        subject = f"in {uuid.uuid4()}"
        self.subjects.append(subject)
        self.friend.send(recipient, mail.letter(subject, FRIEND, recipient).encode())
        return subject

    def submit(self, letter: str) -> None:
        """Send as Alice's app does, from somewhere else through the relay."""
        context = mail.any_certificate()
        with self.internet.router.call(smtplib.SMTP_SSL, _RELAY.address, 465, timeout=120, context=context) as session:
            session.login(_ALICE, PASSWORD)
            session.sendmail(_ALICE, FRIEND, letter.encode())

    @contextmanager
    def mailbox(self) -> Iterator[imaplib.IMAP4_SSL]:
        """Open Alice's mailbox through the relay; whatever happens, the connection ends."""
        box = self.internet.router.call(mail.mailbox, 993, _ALICE, PASSWORD, host=_RELAY.address)
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

        wait_for(is_there, f"the letter {subject}", _PATIENCE)
        return found

    def count(self, subject: str) -> int:
        """Count a letter in all of Alice's folders for new mail."""
        found = 0
        with self.mailbox() as box:
            for folder in mail.ARRIVED:
                box.select(folder, readonly=True)
                found += len(box.search(None, "HEADER", "Subject", f'"{subject}"')[1][0].split())
        return found


@pytest.fixture(scope="module")
def evening(request: pytest.FixtureRequest, scratch: Path, password_hash: str) -> Iterator[Evening]:
    if not request.config.getoption("--evening"):
        pytest.skip("an hour and more; ./dev test evening, and the network tier without kernels")
    site = scratch / "evening.yaml"
    seeded = request.config.getoption("--seeded")
    text = SITE.format(hash=password_hash)
    if not seeded:
        text = text.replace("unlock: none", "unlock: passphrase")
    # Without a name in DNS a seed that asks nothing has to say where the relay is.
    relay = _RELAY.address if seeded else "mx.example.com"
    site.write_text(f"{text}relays: [{{address: {relay}, offline: queue}}]\n")
    user_data = darkpipe("user-data", str(site)) if seeded else ""
    profile = request.config.getoption("--home-profile")
    build = ("build", str(site), "--profile", profile, "--output", str(scratch / "evening"))
    image = Path(darkpipe(*build).splitlines()[-1])
    install_emulator(profile)
    with make_internet() as internet, ExitStack() as stack:
        (outside := scratch / "outside").mkdir()
        # Only when it is wanted: it is built first.
        root = request.getfixturevalue("root")
        friend = stack.enter_context(correspondent(internet.router, root, outside, _ZONES))
        browser = stack.enter_context(chromium(scratch / "chromium/profile", internet.router))
        browser.patience = 600.0
        provider = stack.enter_context(open_provider(request, internet, _RELAY, scratch / "relay.log"))
        home = Machine(image, scratch / "home.img", place=internet.router)
        home.boot()
        stack.callback(home.off)
        yield Evening(site, internet, provider, home, browser, friend, user_data)


@pytest.fixture
def in_browser(evening: Evening) -> Evening:
    """The evening of somebody who opens the page."""
    if evening.user_data:
        pytest.skip("a seed in full asks nothing, and nobody opens the page (--seeded)")
    return evening


def test_a_seed_in_full_asks_nothing(evening: Evening) -> None:
    """Switched on, and the relay made from what the builder has written: nobody types anything before DNS."""
    if not evening.user_data:
        pytest.skip("the seed leaves questions open; ./dev test evening --seeded")
    evening.home.up()
    evening.point_resolver()
    evening.provider.rent(evening.user_data)
    evening.wait_until_paired()
    evening.publish("\n".join(evening.home.lines("darkpipe dns zone")))
    assert evening.home.run("darkpipe dns check").status == 0


def test_the_disk_is_made_in_the_browser(in_browser: Evening) -> None:
    evening = in_browser
    home, browser = evening.home, evening.browser
    assert home.expect(["A new passphrase", "cannot use"], _PATIENCE) == 0
    code = re.findall(r"asks for the code (\d{4}) (\d{4})", home.console_text())[-1]
    evening.internet.router.call(Page, home.page)
    evening.show("Encrypt the disk for the mail")
    evening.picture("1-disk")
    fill(browser, ("code", "".join(code)), ("passphrase", PASSPHRASE), ("again", PASSPHRASE))
    groups = browser.look("[...document.querySelectorAll('ol.secret li')].map(e => e.innerText.trim())")
    assert len(groups) == 8
    evening.recovery = "-".join(groups)
    first, second = (int(number) for number in re.findall(r"Group (\d)", browser.text)[:2])
    evening.picture("2-recovery")
    fill(browser, ("first", groups[first - 1]), ("second", groups[second - 1]))
    assert home.expect(["the disk for the mail is there", "Not done", "cannot use"], _PATIENCE) == 0
    home.up()
    assert home.lines("findmnt --noheadings --output SOURCE,FSTYPE /data") == ["/dev/mapper/darkpipe-data btrfs"]
    evening.point_resolver()


def test_whoever_has_the_code_looks_after_the_device(in_browser: Evening) -> None:
    evening = in_browser
    evening.show("Nobody looks after this device yet")
    evening.picture("3-claim")
    shown = evening.home.run("darkpipe page show").output
    code = "".join(re.findall(r"\b(\d{4}) ?(\d{4})\b", shown)[-1])
    fill(evening.browser, ("code", code), ("password", _ADMINISTRATOR), ("again", _ADMINISTRATOR))
    evening.picture("4-home")
    assert "Sign out" in evening.browser.text


def test_the_relay_is_made_from_what_the_page_shows(in_browser: Evening) -> None:
    """Instead of what the image has brought: the computer that has built it is not there this evening."""
    evening = in_browser
    evening.show("The relay", "/relay")
    evening.picture("5-relay")
    text = evening.make_user_data()
    evening.picture("6-user-data")
    fill(evening.browser, ("address", _RELAY.address))
    evening.provider.rent(text)
    evening.show("Home and relay are paired", "/relay")
    evening.picture("7-paired")


def test_the_records_of_the_page_are_published_and_judged(in_browser: Evening) -> None:
    evening = in_browser
    evening.show("Check again", "/dns/check")
    evening.picture("8-dns")
    moods = "[...document.querySelectorAll('.record .mood')].map(e => e.innerText.toLowerCase())"
    assert "good" not in evening.browser.look(moods)
    evening.publish(_zone_file(evening))
    # An hour later the resolver has forgotten that there were none.
    evening.home.lines("systemctl restart unbound && echo done")

    def are_good() -> bool:
        evening.show("Check again", "/dns/check")
        return set(evening.browser.look(moods)) == {"good"}

    # Of so many questions some come too late on an emulated processor.
    wait_for(are_good, "the page finds all records good", _PATIENCE)
    evening.picture("9-dns-published")


def test_the_pre_flight_passes(in_browser: Evening) -> None:
    evening = in_browser
    # An emulated relay is minutes at what home has told it.
    router = evening.internet.router
    wait_for(lambda: router.can_connect(25, _RELAY.address), "the relay takes mail", _PATIENCE)
    evening.show("Can mail come and go?", "/preflight")
    evening.picture("10-preflight")
    tab_to(evening.browser, "button Start")
    with evening.browser.loading():
        evening.browser.press("Enter")
    evening.show("Mail can come and go, seen", "/preflight")
    evening.picture("11-preflight-done")


def test_a_user_gets_a_mailbox_and_sends_a_test_message(in_browser: Evening) -> None:
    evening = in_browser
    browser, before = evening.browser, len(evening.friend.all())
    evening.show("Add one", "/users")
    fill(browser, ("new-address", _CAROL), ("new-password", PASSWORD), ("new-again", PASSWORD))
    assert _CAROL in browser.text
    evening.picture("12-users")
    evening.show("A test message", "/message")
    evening.picture("13-message")
    browser.look(f"document.querySelector('#sender').value = '{_CAROL}'")
    fill(browser, ("password", PASSWORD), ("recipient", FRIEND))
    evening.show("The other server has taken it", "/message")
    evening.picture("14-message-sent")
    assert len(evening.friend.all()) == before + 1


def _in_zone(name: str, lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines if f".{line.split()[0]}".endswith(f".{name}."))


def _zone_file(evening: Evening) -> str:
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


def test_mail_comes_in_with_its_true_sender(evening: Evening) -> None:
    """The correspondent looks the relay up in DNS; TLS ends at home, which the correspondent's log shows."""
    received = evening.fetch(evening.send())
    assert f"[{SOURCE}]".encode() in received
    assert "TLS connection established to mx.example.com" in evening.friend.log.read_text()


def test_mail_goes_out_signed_from_the_relays_address(evening: Evening) -> None:
    subject = f"out {uuid.uuid4()}"
    evening.submit(mail.letter(subject, _ALICE, FRIEND))
    wait_for(lambda: bool(evening.friend.received(subject)), "the letter", _PATIENCE)
    (message,) = evening.friend.received(subject)
    assert f"[{_RELAY.address}]".encode() in message
    verdicts = judge(message, evening.records)
    assert verdicts
    assert all(verdict.good and verdict.domain == "example.com" for verdict in verdicts), verdicts
    assert evening.friend.sender_is_allowed(_RELAY.address, _ALICE)
    assert not evening.friend.sender_is_allowed(ADDRESS, _ALICE), "the control"


def test_what_comes_while_home_is_off_is_kept_and_arrives_once(evening: Evening) -> None:
    """Through a power cut of the relay, and until somebody has unlocked the disk."""
    evening.home.cut_power()
    subject = evening.send(_ALICE_BY_A_CANARY)
    taken = evening.friend.deliveries
    wait_for(lambda: taken(_ALICE_BY_A_CANARY) == 1, "the relay takes it", _PATIENCE)
    evening.provider.vps.lines("echo planted-on-the-relay >/var/lib/planted && sync && echo done")
    evening.provider.vps.cut_power()
    evening.provider.vps.console.log_in()
    words = [*evening.subjects, _ALICE_BY_A_CANARY, FRIEND, "planted-on-the-relay"]
    assert words_in(evening.provider.vps.disk, words) == {"planted-on-the-relay"}
    evening.home.boot()
    evening.unlock()
    evening.fetch(subject)
    assert evening.count(subject) == 1


def test_a_destroyed_relay_is_replaced(evening: Evening) -> None:
    """By one with other keys, from other user-data: the page's, or for a seed that asks nothing the builder's."""
    evening.provider.destroy()
    if evening.user_data:
        evening.user_data = darkpipe("user-data", str(evening.site), "--renew")
        evening.provider.rent(evening.user_data)
        keys = base64.b64encode(next(keys_folder(evening.site).glob("*.json")).read_bytes()).decode()
        evening.home.lines(f"echo {keys} | base64 -d | darkpipe relay replace --yes")
        evening.wait_until_paired()
    else:
        text = evening.make_user_data()
        fill(evening.browser, ("address", _RELAY.address))
        evening.provider.rent(text)
        evening.show("Home and relay are paired", "/relay")
    evening.fetch(evening.send())


def test_a_thief_of_the_home_device_reads_nothing(in_browser: Evening, password_hash: str) -> None:
    """Its disk, switched off: no address, no password, no letter; what is planted beside the encryption is found."""
    evening = in_browser
    secrets = [FRIEND, PASSPHRASE, evening.recovery, PASSWORD, password_hash, _ADMINISTRATOR, *evening.subjects]
    evening.home.lines("echo planted-for-the-thief > /state/planted && sync && echo done")
    evening.home.off()
    assert words_in(evening.home.disk, [*secrets, "planted-for-the-thief"]) == {"planted-for-the-thief"}
