"""The page, request by request: what it shows, and whom it does not serve."""

from __future__ import annotations

import html
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import pytest

from firstboot import opening
from firstboot.console_code import ConsoleCode
from firstboot.door import Door
from firstboot.page import server as page_server
from firstboot.page.app import make_app
from firstboot.page.certificate import PATH, ensure_page_certificate, page_names
from firstboot.partitions import DiskError
from firstboot.unlock_dialog import Dialog
from firstboot.unlock_socket import UnlockClient, forget_words, leave_word, serve
from firstboot.unlocking import Session, Stage
from stack.certificate import read_certificate
from tests.unit.browser import HOST, Browser
from tests.unit.locked_disk import GOOD, GROUPS, Disk, Screen
from web import plain
from web.lan import is_ours


@dataclass
class Device:
    """A device whose page is open."""

    disk: Disk
    session: Session
    browser: Browser


@pytest.fixture
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Device]:
    """A device with a locked disk, or with a new or a refused one where a test says so."""
    disk = Disk()
    kind = getattr(request, "param", "locked")
    session = disk.session(new=kind == "new", refused="its head says <cipher_null>" if kind == "refused" else "")
    path = tmp_path / "run/control"
    with pytest.MonkeyPatch.context() as patch, serve(session, "AB", path, group=None):
        patch.setattr("firstboot.questions._Connection._uid", lambda _: 1234)
        yield Device(disk, session, Browser(make_app(UnlockClient(path), lambda: "darkpipe")))


@pytest.mark.parametrize("device", ["new"], indirect=True)
def test_a_disk_is_made(device: Device) -> None:
    browser, code = device.browser, device.session.code.shown
    asked = browser.get().text
    assert "Encrypt the disk" in asked
    assert "unless the disk is unlocked by what your site names besides: a stick, the TPM or the relay" in " ".join(
        asked.split()
    )
    wrong = browser.post("/choose", code="1", passphrase=GOOD, again=GOOD)
    assert (wrong.status, "The code is not the right one" in wrong.text) == (422, True)
    assert GOOD not in wrong.text
    other = browser.post("/choose", code=code, passphrase=GOOD, again=f"{GOOD}x")
    assert "two different passphrases" in other.text
    assert f'name="code" value="{code}"' in other.text, "what was typed right is not typed again"
    shown = browser.post("/choose", code=code, passphrase=GOOD, again=GOOD)
    assert re.findall(r"<li>(\w+)</li>", shown.text) == list(GROUPS)
    assert shown.headers["cache-control"] == "no-store"
    assert GROUPS[7] not in browser.get().text, "it is shown once"
    assert "groups 2 and 8" in browser.post("/confirm", first="x", second="y").text
    assert device.disk.made == []
    made = browser.post("/confirm", first=GROUPS[1], second=GROUPS[7].lower())
    assert (made.status, made.headers["location"]) == (303, "/")
    assert device.session.view().stage is Stage.OPEN
    after = browser.get().text
    assert "is unlocked" in after
    assert "the administrator's page is at this address" in after, "nobody else says what comes next"


@pytest.mark.parametrize("device", ["new"], indirect=True)
def test_who_has_not_written_the_secret_down_is_asked_for_the_same_code_again(device: Device) -> None:
    device.session.code = ConsoleCode(lambda: 0.0, "bluegeesefly7")
    assert "Your own code, which image or card has brought" in device.browser.get().text
    shown = device.browser.post("/choose", code="Blue geese fly 7", passphrase=GOOD, again=GOOD).text
    again = shown[shown.index("I have not written it down") :]
    assert "Your own code, which image or card has brought" in again
    assert "numeric" not in again, "a telephone would offer no letters"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DiskError("the <disk> cannot be made: no space"), "The &lt;disk&gt; cannot be made: no space"),
        (subprocess.CalledProcessError(1, ["mkfs.btrfs"], "ERROR: no space"), "Mkfs.btrfs failed: ERROR: no space"),
        (KeyError("a line of the seed"), "DarkPipe itself has failed (KeyError). Start the device again; if it stays"),
    ],
)
def test_a_wait_that_ends_with_an_error_is_not_shown_as_a_disk_that_is_there(
    tmp_path: Path, error: Exception, told: str
) -> None:
    """darkpipe-disk.service ends, and answers no more: so it does when the disk is unlocked, too."""
    path, session = tmp_path / "run/control", Disk().session(new=True)
    browser = Browser(make_app(UnlockClient(path), lambda: "darkpipe"))

    def wait_in_vain() -> None:
        with Door(tmp_path, open_socket=partial(serve, path=path, group=None)) as door:
            door.open(session)
            assert "Encrypt the disk" in browser.get().text
            raise error

    with pytest.raises(type(error)):
        wait_in_vain()
    after = browser.get().text
    assert "The disk cannot be used" in after
    assert told in after
    assert "Unless something else is said above: start the device again" in after, "not every fault is the disk's"
    assert "unlocked" not in after
    assert page_server._is_waiting(UnlockClient(path)), "the page stays, for who comes back to it"
    terminal = Screen()
    assert not Dialog(UnlockClient(path), terminal, "leave").run()
    assert [text for text in terminal.shown if html.unescape(told)[1:] in text]
    forget_words(path)
    assert "The disk is unlocked" in browser.get().text
    assert not page_server._is_waiting(UnlockClient(path))


def test_a_stick_that_was_given_no_key_is_told_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a screen nobody sees what the console says, and the next start would wait for a passphrase."""
    path, told = tmp_path / "run/control", list[str]()
    monkeypatch.setattr(opening, "announce", told.append)
    monkeypatch.setattr(opening, "leave_word", lambda text: leave_word(text, path))
    browser = Browser(make_app(UnlockClient(path), lambda: "darkpipe"))
    with serve(Disk().session(new=True), "AB", path, group=None):
        browser.get()
        opening.tell_all("DarkPipe: no key was put on a USB stick: there is none")
    shown = browser.get().text
    assert '<p role="alert">No key was put on a USB stick: there is none</p>' in shown
    assert "The disk is unlocked" in shown
    assert told == ["DarkPipe: no key was put on a USB stick: there is none"]
    forget_words(path)
    assert "USB stick" not in browser.get().text


def test_a_service_that_was_killed_has_unlocked_nothing(tmp_path: Path) -> None:
    path = tmp_path / "control"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
    shown = Browser(make_app(UnlockClient(path), lambda: "darkpipe")).get().text
    assert "Darkpipe-disk.service, which waits for the disk, has ended without a word" in shown
    assert "unlocked" not in shown
    path.unlink()
    assert "The disk is there" in Browser(make_app(UnlockClient(path), lambda: "darkpipe")).get().text


def test_a_disk_is_unlocked(device: Device) -> None:
    browser = device.browser
    assert "takes no mail" in browser.get().text
    wrong = browser.post("/unlock", passphrase="<script>")
    assert (wrong.status, "<script>" in wrong.text) == (422, False)
    for _ in range(3):
        wrong = browser.post("/unlock", passphrase="wrong")
    assert "wait 1 second" in wrong.text
    device.disk.now += 100
    assert browser.post("/unlock", passphrase=GOOD).status == 303
    assert device.session.finished.is_set()


def test_who_is_asked_by_a_device_that_the_tpm_does_not_know_hears_of_it_first(tmp_path: Path) -> None:
    """Whoever has no screen would type the passphrase into what somebody else has made of the device."""
    path, disk = tmp_path / "run/control", Disk()
    session = Session(
        new=False, make=disk.make, unlock=disk.unlock, clock=lambda: 0.0, warning="the TPM does not.\nDo not type it"
    )
    screen = Screen("")
    with serve(session, "AB", path, group=None):
        shown = Browser(make_app(UnlockClient(path), lambda: "darkpipe")).get().text
        Dialog(UnlockClient(path), screen, "leave", lambda: (), lambda _: None).run()
    for row in ("The TPM does not.", "Do not type it"):
        assert f'<p role="alert">{row}</p>' in shown
        assert shown.index(row) < shown.index('name="passphrase"')
    assert "Do not type it" in screen.shown[0], "over SSH, too"


@pytest.mark.parametrize("device", ["refused"], indirect=True)
def test_a_disk_that_is_refused_asks_for_nothing(device: Device) -> None:
    shown = device.browser.get().text
    assert "its head says &lt;cipher_null&gt;." in shown
    assert "<input" not in shown
    assert device.browser.post("/unlock", passphrase=GOOD).status in {403, 422}
    assert device.disk.tried == []


def test_a_form_of_another_site_is_not_heard(device: Device) -> None:
    browser = device.browser
    browser.get()
    body = urlencode({"token": browser.token, "passphrase": GOOD}).encode()
    foreign = {"host": HOST, "origin": "https://evil.example"}
    assert browser.send("POST", "/unlock", foreign, body).status == 403
    own = {"host": HOST, "origin": f"https://{HOST}"}
    forged = urlencode({"token": "0" * 64, "passphrase": GOOD}).encode()
    assert browser.send("POST", "/unlock", own, forged).status == 403
    assert browser.send("POST", "/unlock", {**own, "cookie": "__Host-darkpipe=" + "0" * 32}, body).status == 403
    assert device.disk.tried == []
    # The same is heard as it is meant: the checks above can fail.
    assert browser.send("POST", "/unlock", own, body).status == 303
    assert device.disk.tried == [GOOD]


@pytest.mark.parametrize("path", ["/unlock", "/choose", "/users", "/dns/check"])
def test_an_address_of_another_page_of_the_device_leads_to_this_one(device: Device, path: str) -> None:
    """Whoever has the administrator's page open while the device starts anew finds the locked disk there."""
    assert "The disk is locked" in device.browser.walk(path).text
    assert "The disk is locked" in device.browser.walk("/users/add", "POST").text
    assert device.disk.tried == []


@pytest.mark.parametrize("stage", [Stage.TAKEN, Stage.WORKING, Stage.OPEN])
def test_what_goes_on_by_itself_takes_no_page_away_from_who_has_it_read(device: Device, stage: Stage) -> None:
    """WCAG 2.2, failure F41: no page loads itself anew by the clock. Without scripts a link does it."""
    device.session._stage = stage
    text = device.browser.get().text
    assert "http-equiv" not in text
    assert 'data-reload="/"' in text
    assert '<a href="/">Look again</a>' in text
    assert re.findall(r"<script[^>]*>", text) == ['<script src="/page.js" defer>']


def test_another_name_is_not_served(device: Device) -> None:
    answer = device.browser.get(host="evil.example")
    assert (answer.status, "<form" in answer.text) == (421, False)


def test_what_is_too_long_is_not_read(device: Device) -> None:
    own = {"host": HOST, "origin": f"https://{HOST}"}
    assert device.browser.send("POST", "/unlock", own, b"x" * 9000).status == 413
    assert device.browser.send("POST", "/unlock", {**own, "content-length": "x"}).status == 411


def test_nothing_foreign_is_loaded_or_frames_it(device: Device) -> None:
    answer = device.browser.get()
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'")
    assert "<script" not in answer.text
    assert "http:" not in answer.text
    cookie = answer.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("__host-", "httponly", "secure", "samesite=strict"))
    assert device.browser.get("/style.css").headers["content-type"].startswith("text/css")


def test_the_certificate_is_made_once_and_its_fingerprint_is_openssls(tmp_path: Path) -> None:
    told = ensure_page_certificate(tmp_path)
    assert ensure_page_certificate(tmp_path) == told
    path = tmp_path / "page/page.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    shown = subprocess.run(
        ["openssl", "x509", "-in", path, "-noout", "-fingerprint", "-sha256"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert shown.stdout.strip().rpartition("=")[2] == told


def test_the_certificate_is_for_the_name_by_which_the_page_is_opened(tmp_path: Path) -> None:
    told = ensure_page_certificate(tmp_path, "attic")
    assert set(read_certificate(tmp_path / PATH).names) == {"attic", "attic.local"}
    assert all(is_ours(name, "attic") for name in page_names("attic"))
    assert ensure_page_certificate(tmp_path, "attic") == told
    assert ensure_page_certificate(tmp_path, "cellar") != told, "another name, another certificate"
    assert not is_ours("attic.local", "cellar")


def test_the_certificate_is_one_that_a_browser_lets_its_user_accept(tmp_path: Path) -> None:
    """Chrome on a Mac offers no way on when it is valid for more than 825 days."""
    ensure_page_certificate(tmp_path)
    assert read_certificate(tmp_path / PATH).expires - datetime.now(UTC) <= timedelta(days=825)


def test_without_port_80_the_page_serves_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ensure_page_certificate(tmp_path)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "page.pem").write_bytes((tmp_path / PATH).read_bytes())
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(plain, "PORT", taken.getsockname()[1])
        monkeypatch.setattr(plain, "listening_socket", lambda port: socket.create_server(("127.0.0.1", port)))
        monkeypatch.setattr(page_server, "listening_socket", lambda _: socket.create_server(("127.0.0.1", 0)))
        monkeypatch.setattr(page_server, "UnlockClient", lambda: UnlockClient(tmp_path / "nobody"))
        monkeypatch.setattr(page_server, "_FAREWELL", 0.0)
        assert page_server.main() == 0
    assert "plain HTTP leads nobody" in capsys.readouterr().out
