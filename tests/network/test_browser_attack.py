"""A hostile page in the owner's own browser: what it sends to the device's page, reads of it, and puts around it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from firstboot.page.certificate import PATH, ensure_page_certificate
from firstboot.questions import serve_questions
from tests.chromium import Chromium, chromium
from tests.keyboard import fill
from tests.network.test_browser import wait_for
from tests.unit.page_device import GOOD, Device
from web.server import listening_socket, server

_TRAP = """<!doctype html><title>Kittens</title>
<form method="post" action="{page}/users/add"><input name="address" value="thief@example.com">
<input name="password" value="a password of mine"><input name="again" value="a password of mine"></form>
<iframe src="{page}/users"></iframe>"""

_READ = """fetch("{page}/relay", {{credentials: "include"}}).then(answer => answer.text())
.then(text => {{ document.title = "read: " + text }}, () => {{ document.title = "not read" }})"""


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A device that nobody has claimed."""
    monkeypatch.setattr("firstboot.questions._Connection._uid", lambda _: 1234)
    made = Device(tmp_path / "run/control")
    with serve_questions(made.desk.answer, made.path, None):
        yield made


def _serve(app: Starlette, certificate: Path | None) -> Iterator[int]:
    listening = listening_socket(0)
    running = server(app, certificate)
    thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    running.should_exit = True
    thread.join(20)


@pytest.fixture
def page(device: Device, tmp_path: Path) -> Iterator[str]:
    """The address of the device's page."""
    ensure_page_certificate(tmp_path)
    for port in _serve(device.app(), tmp_path / PATH):
        yield f"https://127.0.0.1:{port}"


@pytest.fixture
def trap(page: str) -> Iterator[str]:
    """The address of the hostile page: for a browser it is of the same site, and so it sends the cookies along."""

    async def show(_: Request) -> Response:
        return HTMLResponse(_TRAP.format(page=page))

    for port in _serve(Starlette(routes=[Route("/", show)]), None):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def browser(page: str, trap: str, tmp_path: Path) -> Iterator[Chromium]:
    """It ends before the servers, and so its connections do."""
    assert page != trap
    with chromium(tmp_path / "profile") as made:
        yield made


def _framed(browser: Chromium) -> str:
    """Give the text of what is in the frame."""
    targets = browser.call("Target.getTargets")["targetInfos"]
    (frame,) = [target["targetId"] for target in targets if target["type"] == "iframe"]
    session = browser.call("Target.attachToTarget", targetId=frame, flatten=True)["sessionId"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(browser, "_session", session)
        return browser.text


def test_a_hostile_page_in_the_owners_browser_changes_and_reads_nothing(
    browser: Chromium, device: Device, page: str, trap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.open(page)
    fill(browser, ("code", device.gate.code), ("password", GOOD), ("again", GOOD))
    assert "How the device is" in browser.text
    browser.open(trap)
    assert "DarkPipe" not in _framed(browser), "nobody puts a frame around the page"
    with monkeypatch.context() as patch:
        patch.setattr("web.guard._HEADERS", {})
        browser.open(trap)
        assert "DarkPipe" in _framed(browser), "without the headers somebody could"
    browser.open(trap)
    browser.look(_READ.format(page=page))
    wait_for(lambda: browser.look("document.title") != "Kittens", "the browser has tried to read")
    assert browser.look("document.title") == "not read"
    with browser.loading():
        browser.look("document.forms[0].submit()")
    assert "Another site has sent this form." in browser.text
    assert device.asked == []
    # The owner is signed in all the while: the same form of the page's own is heard.
    browser.open(f"{page}/users")
    fill(browser, ("new-address", "carol@example.com"), ("new-password", GOOD), ("new-again", GOOD))
    assert [asked["do"] for asked in device.asked] == ["add-user"]
    # DNS rebinding: a name of the attacker's leads to the device, and a browser takes the page for the attacker's own.
    browser.open(page.replace("127.0.0.1", "localhost"))
    assert browser.text.strip() == (
        "This is another name than this device has. Open the page by the address on its console."
    )
