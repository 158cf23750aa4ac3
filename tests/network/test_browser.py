"""Both pages of the device in a real browser: by keyboard, without scripts, narrow and wide, light and dark.

Pages and desk are the real ones, over HTTPS on loopback; the device behind them is the unit tests' one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from firstboot.console_code import ConsoleCode
from firstboot.page.app import make_app as make_unlock_app
from firstboot.page.certificate import PATH, ensure_page_certificate
from firstboot.questions import serve_questions
from firstboot.site_asking import SiteSession
from firstboot.unlock_socket import UnlockClient, serve
from home.administrator import IDLE
from home.pair_state import Stage
from home.relay_view import Origin, RelayView
from home.seen import Seen
from home.trial_message import Fate
from model.site import Site, UnlockPolicy
from tests.accessible import faults
from tests.chromium import Chromium, chromium
from tests.keyboard import fill, tab_to
from tests.tiers import REPOSITORY
from tests.unit.locked_disk import GOOD, GROUPS, Disk
from tests.unit.page_device import Device
from tests.unit.page_samples import FRESH, TROUBLED, checked, facts, message, pairing, status
from tests.unit.test_home_page_steps import _HERE
from web import frame
from web.server import listening_socket, server

_PICTURES = REPOSITORY / "out/screenshots"
"""For people to look at; Git does not look there."""

_LOOKS = ((360, False), (360, True), (1280, False), (1280, True))
_PASSWORD = "four words are good"
_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@laptop"


class Place:
    """Where the browser finds whichever page is being tested."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        assert self.app
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The server of the page, with a certificate as the device makes it."""
    state = tmp_path_factory.mktemp("state")
    ensure_page_certificate(state)
    listening = listening_socket(0)
    made = Place(f"https://127.0.0.1:{listening.getsockname()[1]}")
    running = server(made, state / PATH)
    thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
    thread.start()
    yield made
    running.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def browser(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One browser for all walks: its start takes the longest. It ends before the server, and so its connections do."""
    assert place.app is None
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as made:
        yield made


@contextmanager
def _served(app: ASGIApp, place: Place) -> Iterator[str]:
    place.app = app
    yield place.address


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, browser: Chromium) -> None:
    """Let the services take the page for nobody, as it is on the device; the browser knows nothing yet."""
    monkeypatch.setattr("firstboot.questions._Connection._uid", lambda _: 1234)
    browser.call("Network.clearBrowserCookies")
    browser.scripts(on=True)
    browser.appear(1280, dark=False)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """A device that nobody has claimed, with some problems."""
    made = Device(tmp_path / "run/control", status=TROUBLED, rows=[checked("good"), checked("wrong", type="TXT")])
    with serve_questions(made.desk.answer, made.path, None):
        yield made


def _heard(app: Starlette, asked: list[str]) -> ASGIApp:
    """Take note of what is asked for."""

    async def heard(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        await app(scope, receive, send)

    return heard


def _looked_at(browser: Chromium, name: str) -> None:
    """See the page in both widths and both colours, and keep its pictures."""
    for width, dark in _LOOKS:
        browser.appear(width, dark=dark)
        assert faults(browser) == [], f"{name}, {width} wide, {'dark' if dark else 'light'}"
        browser.picture(_PICTURES / f"{name}-{width}{'-dark' if dark else ''}.png")
    browser.appear(1280, dark=False)


def wait_for(seen: Callable[[], bool], what: str) -> None:
    """Wait until something is seen."""
    end = time.monotonic() + 20
    while not seen():
        assert time.monotonic() < end, f"{what}: not in time"
        time.sleep(0.2)


def _go(browser: Chromium, address: str, title: str) -> None:
    """Open a page from the navigation of the home page."""
    browser.open(address)
    tab_to(browser, f"a {title}")
    with browser.loading():
        browser.press("Enter")


def _claim(browser: Chromium, code: str) -> None:
    fill(browser, ("code", code), ("password", _PASSWORD), ("again", _PASSWORD))


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
def test_the_device_is_claimed_by_keyboard(browser: Chromium, device: Device, place: Place, scripts: bool) -> None:
    browser.scripts(on=scripts)
    with _served(device.app(), place) as address:
        browser.open(address)
        _looked_at(browser, "claim")
        browser.open(address)
        _claim(browser, "00000000")
        assert "not the one that the device shows" in browser.text
        _looked_at(browser, "claim-refused")
        browser.open(address)
        _claim(browser, device.gate.code)
        assert "Keeps mail away: dovecot" in browser.text
        _looked_at(browser, "home")
        browser.open(address)
        tab_to(browser, "a DNS")
        with browser.loading():
            browser.press("Enter")
        _looked_at(browser, "dns")
        browser.open(f"{address}/dns/check")
        assert "Another value is published" in browser.text
        _looked_at(browser, "dns-checked")
        browser.open(f"{address}/dns")
        if scripts:
            browser.look("navigator.clipboard.writeText = async text => { document.title = text }")
            tab_to(browser, "button Copy")
            browser.press("Enter")
            wait_for(lambda: "Copied" in browser.text, "the button says that it has copied")
            assert browser.look("document.title") == device.rows[0]["value"]
            heard = browser.look("document.querySelector('main > [role=status]').textContent").split()
            assert heard == ["Copied", device.rows[0]["type"], device.rows[0]["name"]], "who does not see it hears it"
        browser.open(f"{address}/dns")
        tab_to(browser, "textarea value1")
        browser.select_all()
        selected = "(e => e.value.slice(e.selectionStart, e.selectionEnd))(document.activeElement)"
        assert browser.look(selected) == device.rows[0]["value"]
        browser.open(address)
        tab_to(browser, "button Sign out")
        with browser.loading():
            browser.press("Enter")
        _looked_at(browser, "sign-in")
        browser.open(address)
        fill(browser, ("password", "not this one"))
        assert "Keeps mail away" not in browser.text
        browser.open(address)
        fill(browser, ("password", _PASSWORD))
        assert "Keeps mail away" in browser.text


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
def test_the_steps_are_taken_by_keyboard(browser: Chromium, device: Device, place: Place, scripts: bool) -> None:
    device.status, device.facts = status(tunnel=None, seen=Seen(relay="mx.example.com")), FRESH
    device.relay = RelayView(origin=Origin.TO_MAKE, name="mx.example.com")
    browser.scripts(on=scripts)
    looked_at = _looked_at if scripts else lambda *_: None  # they look the same
    with _served(device.app(), place) as address:
        browser.open(address)
        _claim(browser, device.gate.code)
        assert "Nobody has ordered one" in browser.text
        looked_at(browser, "guide")
        _go(browser, address, "Relay")
        looked_at(browser, "relay-to-make")
        device.relay = RelayView(origin=Origin.NOWHERE, name="mx.example.com")
        browser.open(f"{address}/relay")
        looked_at(browser, "relay-none")
        device.relay = RelayView(origin=Origin.ELSEWHERE, name="mx.example.com", address="mx.example.com")
        browser.open(f"{address}/relay")
        looked_at(browser, "relay-elsewhere")
        device.relay = RelayView(origin=Origin.TO_MAKE, name="mx.example.com")
        browser.open(f"{address}/relay")
        fill(browser, ("ssh_key", _KEY))
        assert device.asked == [{"do": "make-relay", "ssh_key": _KEY, "anew": False}]
        device.relay, device.facts = _HERE, facts(pairing=pairing(Stage.CALLING, "its name has no address yet"))
        browser.open(f"{address}/relay")
        looked_at(browser, "relay")
        browser.open(f"{address}/relay")
        if scripts:
            browser.look("navigator.clipboard.writeText = async text => { document.title = text }")
            tab_to(browser, "button Copy")
            browser.press("Enter")
            wait_for(lambda: "Copied" in browser.text, "the button says that it has copied")
            assert str(browser.look("document.title")).split() == _HERE.text.split()
            device.facts = facts(pairing=pairing(Stage.INSTALLING))
            wait_for(lambda: "which installs its software" in browser.text, "the page shows how far the relay is")
        else:
            assert "Copy" not in browser.text
        _go(browser, address, "Pre-flight")
        looked_at(browser, "preflight")
        _go(browser, address, "Users")
        looked_at(browser, "users")
        _go(browser, address, "Test")
        device.facts = facts(message=message(Fate.DEFERRED, "host said: 451 4.7.1 Greylisted, try again later"))
        looked_at(browser, "message")
        browser.open(f"{address}/message")
        fill(browser, ("password", "correct horse"), ("recipient", "alice@example.net"))
        assert device.asked[-1]["recipient"] == "alice@example.net"


def test_a_page_that_waits_stays_until_something_has_changed(
    browser: Chromium, device: Device, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has it read is not interrupted, and whoever types loses nothing."""
    monkeypatch.setattr(frame, "_SCRIPT", frame._SCRIPT.replace(b"EVERY = 5000", b"EVERY = 300"))
    device.facts = facts(message=message(Fate.QUEUED))
    asked: list[str] = []
    with _served(_heard(device.app(), asked), place) as address:
        browser.open(address)
        _claim(browser, device.gate.code)
        browser.open(f"{address}/message")
        browser.look("window.before = true")
        asked.clear()
        wait_for(lambda: "/message" in asked, "the page asks whether something has changed")
        assert browser.look("window.before") is True
        tab_to(browser, "input recipient")
        browser.type("a")
        time.sleep(0.5)  # what was asked before is answered
        device.facts = facts(message=message(Fate.SENT))
        asked.clear()
        time.sleep(1.5)
        assert (asked, browser.look("window.before")) == ([], True)
        browser.select_all()
        with browser.loading():
            browser.press("Backspace")
        assert "The other server has taken it" in browser.text


def test_a_session_ends_and_a_forgotten_password_begins_anew(browser: Chromium, device: Device, place: Place) -> None:
    with _served(device.app(), place) as address:
        browser.open(address)
        _claim(browser, device.gate.code)
        device.now += IDLE - 1
        browser.open(address)
        assert "Keeps mail away" in browser.text
        device.now += IDLE + 1
        browser.open(address)
        assert "The administrator's password" in browser.text
        fill(browser, ("password", _PASSWORD))
        assert "Keeps mail away" in browser.text
        device.gate.forget()
        browser.open(address)
        assert "Nobody looks after this device yet" in browser.text
        _claim(browser, device.gate.code)
        assert "Keeps mail away" in browser.text


def test_a_disk_is_made_by_keyboard_without_scripts(browser: Chromium, place: Place, tmp_path: Path) -> None:
    browser.scripts(on=False)
    disk = Disk()
    session = disk.session(new=True)
    path = tmp_path / "run/control"
    app = make_unlock_app(UnlockClient(path), lambda: "darkpipe")
    with serve(session, "AB", path, group=None), _served(app, place) as address:
        browser.open(address)
        _looked_at(browser, "disk-new")
        browser.open(address)
        fill(browser, ("code", session.code.shown), ("passphrase", GOOD), ("again", GOOD))
        assert all(group in browser.text for group in GROUPS)
        _looked_at(browser, "disk-recovery")
        fill(browser, ("first", GROUPS[1]), ("second", GROUPS[7]))
        assert "The disk is unlocked" in browser.text
        _looked_at(browser, "disk-open")
        assert len(disk.made) == 1


def test_a_device_gets_its_site_by_keyboard_without_scripts(browser: Chromium, place: Place, tmp_path: Path) -> None:
    """The form, filled in wrong and then right, and after it the passphrase, with the code typed once."""
    browser.scripts(on=False)
    kept: list[Site] = []
    code = ConsoleCode(time.monotonic)
    session = SiteSession(code, kept.append, (UnlockPolicy.NONE, UnlockPolicy.USB_KEY, UnlockPolicy.PASSPHRASE))
    path = tmp_path / "run/control"
    app = make_unlock_app(UnlockClient(path), lambda: "darkpipe")
    with serve(session, "AB", path, group=None) as turn, _served(app, place) as address:
        browser.open(address)
        _looked_at(browser, "site")
        browser.open(address)
        for name, value in (("code", code.shown), ("domains", "example.com"), ("owner", "alice@example.com")):
            tab_to(browser, f"input {name}")
            browser.type(value)
        tab_to(browser, "textarea others")
        browser.type("bob@exampel.com")
        tab_to(browser, "input relay")
        browser.type("mx.example.com")
        tab_to(browser, "input unlock")
        browser.press("ArrowDown")
        with browser.loading():
            browser.press("Enter")
        assert "Did you mean" in browser.text
        assert browser.look("document.forms[0].owner.value") == "alice@example.com"
        assert browser.look("document.forms[0].unlock.value") == "usb-key"
        _looked_at(browser, "site-wrong")
        browser.scripts(on=False)
        tab_to(browser, "textarea others")
        browser.select_all()
        browser.type("bob@example.com")
        tab_to(browser, "input relay")
        with browser.loading():
            browser.press("Enter")
        assert "Your answers are kept" in browser.text
        _looked_at(browser, "site-kept")
        (site,) = kept
        assert [user.address for user in site.users] == ["alice@example.com", "bob@example.com"]
        assert (site.relays[0].address, site.disk.unlock) == ("mx.example.com", UnlockPolicy.USB_KEY)
        disk = Disk()
        turn(disk.session(new=True, code=code))
        browser.open(address)
        fill(browser, ("passphrase", GOOD), ("again", GOOD))
        assert all(group in browser.text for group in GROUPS)


def test_a_disk_is_unlocked_by_keyboard(browser: Chromium, place: Place, tmp_path: Path) -> None:
    session = Disk().session(new=False)
    path = tmp_path / "run/control"
    app = make_unlock_app(UnlockClient(path), lambda: "darkpipe")
    with serve(session, "AB", path, group=None), _served(app, place) as address:
        browser.open(address)
        _looked_at(browser, "disk-locked")
        browser.open(address)
        fill(browser, ("passphrase", "wrong"))
        assert "The disk is locked" in browser.text
        browser.open(address)
        fill(browser, ("passphrase", GOOD))
        assert "The disk is unlocked" in browser.text


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("document.documentElement.lang = ''", "no language"),
        ("document.querySelector('h1').remove()", "heading"),
        ("document.querySelectorAll('label').forEach(e => e.remove())", "no label"),
        ("document.querySelector('p.hint, h1').style.color = '#ccc'", "contrast"),
        (
            "document.querySelector('main').style.minWidth = '3000px'",
            "wider",
        ),
        ("document.querySelector('button').textContent = ''", "no text"),
    ],
)
def test_the_judge_finds_what_is_wrong(
    browser: Chromium, device: Device, place: Place, planted: str, found: str
) -> None:
    with _served(device.app(), place) as address:
        browser.open(address)
        assert faults(browser) == []
        browser.look(planted)
        assert any(found in fault for fault in faults(browser))
