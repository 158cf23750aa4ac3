"""A real browser without a window: Debian's Chromium, spoken to by the DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.network.net import Namespace

PROGRAM = "/usr/bin/chromium"

_OPTIONS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    # Tests run as root, for whom there is no sandbox, and the device's certificate is its own.
    *("--no-sandbox", "--ignore-certificate-errors", "--no-proxy-server"),
)
_PATIENCE = 30.0
_KEYS = {"Backspace": (8, ""), "Tab": (9, ""), "Enter": (13, "\r"), "ArrowDown": (40, "")}
_SHIFT = 8


class BrowserError(Exception):
    """The browser refuses, or does not answer."""


class Chromium:
    """One tab.

    Args:
        write: descriptor of the pipe to the browser.
        read: descriptor of the pipe from it.
    """

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._loads = 0
        self._session: str | None = None
        self.patience = _PATIENCE
        """Seconds for whatever the browser is asked to do."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol, and give its result.

        Raises:
            BrowserError: it was refused, or there was no answer.
        """
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._write, content) :]
        end = time.monotonic() + self.patience
        while (answer := self._next(end)).get("id") != number:
            pass
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Do something that leads to another page, and wait until that is there.

        Raises:
            BrowserError: no page was loaded.
        """
        before = self._loads
        yield
        end = time.monotonic() + self.patience
        while self._loads == before:
            self._next(end)

    def open(self, address: str) -> None:
        """Go to a page."""
        with self.loading():
            if text := self.call("Page.navigate", url=address).get("errorText"):
                raise BrowserError(f"{address}: {text}")

    def look(self, expression: str) -> Any:
        """Give the value of an expression in JavaScript; it works when the page's own scripts are off, too."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise BrowserError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    @property
    def text(self) -> str:
        """What the page shows."""
        return str(self.look("document.body.innerText"))

    def press(self, key: str, *, back: bool = False) -> None:
        """Press a key, Backspace, Tab, Enter or ArrowDown; Tab goes `back` with Shift."""
        code, text = _KEYS[key]
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": _SHIFT if back else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def select_all(self) -> None:
        """Select all of the field that has the focus, as Ctrl-A does."""
        event = {"key": "a", "code": "KeyA", "windowsVirtualKeyCode": 65, "modifiers": 2}
        self.call("Input.dispatchKeyEvent", type="keyDown", commands=["selectAll"], **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def appear(self, width: int, *, dark: bool) -> None:
        """Have a window of a width in CSS pixels, for somebody who likes it dark or light."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def scripts(self, *, on: bool) -> None:
        """Let pages run scripts, or not."""
        self.call("Emulation.setScriptExecutionDisabled", value=not on)

    def picture(self, path: Path) -> None:
        """Write all of the page into a file, as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(data))

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]:
                raise BrowserError(f"nothing from the browser in {self.patience:.0f} seconds")
            if not (more := os.read(self._read, 65536)):
                raise BrowserError("the browser has ended")
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if message.get("method") == "Page.loadEventFired":
            self._loads += 1
        return message


@contextmanager
def chromium(folder: Path, place: Namespace | None = None) -> Iterator[Chromium]:
    """Start a browser, and end it.

    Args:
        folder: for its profile.
        place: the network that it is in; None for this computer's.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    program = [PROGRAM, *_OPTIONS, f"--user-data-dir={folder}", "about:blank"]
    command = place.command(*program) if place else program
    # The protocol is spoken on descriptors 3 and 4.
    shell = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{from_write}', "bash", *command]
    with (folder.parent / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            shell, pass_fds=(to_read, from_write), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    os.close(to_read)
    os.close(from_write)
    try:
        yield Chromium(to_write, from_read)
    finally:
        os.close(to_write)  # at the end of the pipe it ends by itself
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(from_read)
        shutil.rmtree(folder, ignore_errors=True)
