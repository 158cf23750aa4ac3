"""The first evening, whole: a device is set up in a browser, gets its relay and its names, and mail comes and goes.

Both machines are emulated, and the steps follow each other: half an hour on a quiet computer, only when asked for.

    ./dev test evening
    ./dev test evening --seeded      # from a seed that asks nothing; nobody opens the page
    ./dev test evening --home raspberrypi
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from builder.bootstrap import keys_folder
from builder.tools import host_architecture
from tests import mail
from tests.chromium import chromium
from tests.images.conftest import PASSWORD, SITE
from tests.images.correspondent import ADDRESS, FRIEND, SOURCE, correspondent
from tests.images.evening import ALICE, PATIENCE, RELAY, ZONES, Evening, zone_file
from tests.images.locked import PASSPHRASE, Page
from tests.images.machine import Machine, darkpipe, install_emulator, words_in
from tests.images.provider import open_provider
from tests.keyboard import fill, tab_to
from tests.machine.conftest import root  # noqa: F401 (a fixture)
from tests.machine.machine import wait_for
from tests.network.internet import make_internet
from tests.signatures import judge

pytestmark = pytest.mark.skipif(host_architecture() != "amd64", reason="the emulator runs on amd64")

_CAROL = "caroline@example.com"
_ALICE_BY_A_CANARY = "alice+zq7-canary@example.com"
"""Alice, by an address that stands in no program's examples."""
_ADMINISTRATOR = "nine slow trains by night"


@pytest.fixture(scope="module")
def evening(request: pytest.FixtureRequest, scratch: Path, password_hash: str) -> Iterator[Evening]:
    if not request.config.getoption("--evening"):
        pytest.skip("half an hour; ./dev test evening, and the network tier without kernels")
    site = scratch / "evening.yaml"
    seeded = request.config.getoption("--seeded")
    text = SITE.format(hash=password_hash)
    if not seeded:
        text = text.replace("unlock: none", "unlock: passphrase")
    # Without a name in DNS a seed that asks nothing has to say where the relay is.
    relay = RELAY.address if seeded else "mx.example.com"
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
        friend = stack.enter_context(correspondent(internet.router, root, outside, ZONES))
        browser = stack.enter_context(chromium(scratch / "chromium/profile", internet.router))
        browser.patience = 600.0
        provider = stack.enter_context(open_provider(request, internet, RELAY, scratch / "relay.log"))
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
    assert home.expect(["A new passphrase", "cannot use"], PATIENCE) == 0
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
    assert home.expect(["the disk for the mail is there", "Not done", "cannot use"], PATIENCE) == 0
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
    assert "It is encrypted." in evening.browser.text


def test_the_relay_is_made_from_what_the_page_shows(in_browser: Evening) -> None:
    """Instead of what the image has brought: the computer that has built it is not there this evening."""
    evening = in_browser
    evening.show("The relay", "/relay")
    evening.picture("5-relay")
    text = evening.make_user_data()
    evening.picture("6-user-data")
    fill(evening.browser, ("address", RELAY.address))
    evening.provider.rent(text)
    evening.show("Home and relay are paired", "/relay")
    evening.picture("7-paired")


def test_the_records_of_the_page_are_published_and_judged(in_browser: Evening) -> None:
    evening = in_browser
    evening.show("Check again", "/dns/check")
    evening.picture("8-dns")
    moods = "[...document.querySelectorAll('.record .mood')].map(e => e.innerText.toLowerCase())"
    assert "good" not in evening.browser.look(moods)
    evening.publish(zone_file(evening))
    # An hour later the resolver has forgotten that there were none.
    evening.home.lines("systemctl restart unbound && echo done")

    def are_good() -> bool:
        evening.show("Check again", "/dns/check")
        return set(evening.browser.look(moods)) == {"good"}

    # Of so many questions some come too late on an emulated processor.
    wait_for(are_good, "the page finds all records good", PATIENCE)
    evening.picture("9-dns-published")


def test_the_pre_flight_passes(in_browser: Evening) -> None:
    evening = in_browser
    # An emulated relay is minutes at what home has told it.
    router = evening.internet.router
    wait_for(lambda: router.can_connect(25, RELAY.address), "the relay takes mail", PATIENCE)
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


def test_mail_comes_in_with_its_true_sender(evening: Evening) -> None:
    """The correspondent looks the relay up in DNS; TLS ends at home, which the correspondent's log shows."""
    received = evening.fetch(evening.send())
    assert f"[{SOURCE}]".encode() in received
    assert "TLS connection established to mx.example.com" in evening.friend.log.read_text()


def test_mail_goes_out_signed_from_the_relays_address(evening: Evening) -> None:
    subject = f"out {uuid.uuid4()}"
    evening.submit(mail.letter(subject, ALICE, FRIEND))
    wait_for(lambda: bool(evening.friend.received(subject)), "the letter", PATIENCE)
    (message,) = evening.friend.received(subject)
    assert f"[{RELAY.address}]".encode() in message
    verdicts = judge(message, evening.records)
    assert verdicts
    assert all(verdict.good and verdict.domain == "example.com" for verdict in verdicts), verdicts
    assert evening.friend.sender_is_allowed(RELAY.address, ALICE)
    assert not evening.friend.sender_is_allowed(ADDRESS, ALICE), "the control"


def test_what_comes_while_home_is_off_is_kept_and_arrives_once(evening: Evening) -> None:
    """Through a power cut of the relay, and until somebody has unlocked the disk."""
    evening.home.cut_power()
    subject = evening.send(_ALICE_BY_A_CANARY)
    taken = evening.friend.deliveries
    wait_for(lambda: taken(_ALICE_BY_A_CANARY) == 1, "the relay takes it", PATIENCE)
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
        # The device was off: nobody is signed in any more.
        evening.show("The administrator's password")
        fill(evening.browser, ("password", _ADMINISTRATOR))
        text = evening.make_user_data()
        fill(evening.browser, ("address", RELAY.address))
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
