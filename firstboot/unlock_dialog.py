"""The conversation on a console or over SSH that shows the way to the page, makes the encrypted disk, or unlocks it."""

from __future__ import annotations

import os
import select
import socket
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from firstboot.lan import home_addresses, page_places
from firstboot.qr_code import beside_code
from firstboot.unlock_socket import Seen, UnlockClient
from firstboot.unlocking import Refused, Stage
from firstboot.vault import SHORTEST
from model.owner_code import CODE_NAME

_LOOK_AGAIN = 1.0
_ADDRESS_SECONDS = 10
"""For so long the first words wait until the router has given the device an address."""

_WAITING = (Stage.NEW, Stage.CONFIRM, Stage.LOCKED)

_FORGET_SCREEN = "\033[H\033[2J\033[3J"
"""Go to the upper left, erase the screen, and what was scrolled out of it (console_codes(4))."""


class GoneError(Exception):
    """The input has ended: nobody types any more."""


class Terminal(Protocol):
    """Where the conversation takes place."""

    def show(self, text: str) -> None:
        """Write a text and a line end."""

    def ask(self, question: str, *, hidden: bool, until: Callable[[], bool]) -> str | None:
        """Ask for a line; None when none is needed any more.

        Raises:
            GoneError: there will be none.
        """


class Tty:
    """The terminal on standard input and output."""

    def show(self, text: str) -> None:
        """Write a text and a line end."""
        print(text, flush=True)

    def ask(self, question: str, *, hidden: bool, until: Callable[[], bool]) -> str | None:
        """Ask for a line; it does not show while it is typed if it is `hidden`.

        Raises:
            GoneError: the input has ended.
        """
        print(question, end=" ", flush=True)
        descriptor = sys.stdin.fileno()
        with _no_echo(descriptor) if hidden else _as_it_is():
            while not select.select([descriptor], [], [], _LOOK_AGAIN)[0]:
                if until():
                    self.show("")
                    return None
            line = _read(descriptor)
        if hidden or not line:
            self.show("")
        if not line:
            raise GoneError
        return line.decode(errors="replace").rstrip("\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # a terminal that was hung up
        return b""


@contextmanager
def _no_echo(descriptor: int) -> Iterator[None]:
    try:
        before = termios.tcgetattr(descriptor)
    except termios.error:  # no terminal: a program types
        yield
        return
    quiet = list(before)
    quiet[3] &= ~termios.ECHO
    # What was typed before the question is not lost, and is not an answer that shows.
    termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


class Dialog:
    """One conversation.

    Args:
        leave: what an empty answer leads to, in words.
        addresses: give the device's addresses in the home's network.
        hostname: gives the device's name.
    """

    def __init__(
        self,
        client: UnlockClient,
        terminal: Terminal,
        leave: str,
        addresses: Callable[[], tuple[str, ...]] = home_addresses,
        sleep: Callable[[float], None] = time.sleep,
        hostname: Callable[[], str] = socket.gethostname,
    ) -> None:
        self._client, self._terminal, self._leave = client, terminal, leave
        self._addresses, self._sleep, self._hostname = addresses, sleep, hostname

    def run(self) -> bool:
        """Talk until the disk is open, here or by somebody else.

        Returns:
            Whether it is open or was never locked; False when whoever sits there wanted to leave, or has gone.
        """
        try:
            return self._talk()
        except GoneError:
            return False

    def _talk(self) -> bool:
        greeted: tuple[str, ...] = ()
        while True:
            try:
                seen = self._client.see()
            except Refused:
                return True
            if seen.view.stage in {Stage.REFUSED, Stage.FAILED}:
                self._terminal.show(f"DarkPipe: {seen.view.text}")
            if seen.view.stage in {Stage.OPEN, Stage.FAILED, Stage.REFUSED}:
                return seen.view.stage is Stage.OPEN
            if seen.view.stage in {Stage.WORKING, Stage.TAKEN}:
                self._sleep(_LOOK_AGAIN)
                continue
            topic = _GREETINGS.get(seen.view.stage, _NEW)
            if topic is not greeted:
                self._terminal.show(self._greeting(seen))
                greeted = topic
            try:
                stays = self._step(seen.view.stage)
            except Refused as error:
                self._terminal.show(f"Not done: {error}.")
                continue
            if not stays:
                return False

    def _step(self, stage: Stage) -> bool:
        if stage is Stage.SITE:
            return self._ask(f"\n(Enter: {self._leave})", hidden=False, stages=(Stage.SITE,)) != ""
        return self._unlock() if stage is Stage.LOCKED else self._create()

    def _greeting(self, seen: Seen) -> str:
        places = page_places(self._hostname(), self._wait_for_address())
        lines = [*_GREETINGS.get(seen.view.stage, _NEW), *places]
        lines += ["whose certificate has the SHA-256 fingerprint", *_in_rows(seen.fingerprint)]
        if seen.code:
            lines += [f"and which asks for the code {seen.code[:4]} {seen.code[4:]}"]
        elif seen.own_code:
            lines += [f"and which asks for your code of {CODE_NAME}"]
        why = seen.view.text if seen.view.stage in {Stage.SITE, Stage.LOCKED} else ""
        # Before, however long it is: what scrolls away is not the address and the code.
        first = "".join(f"\n{text}\n" for text in (why, seen.refused_code) if text)
        return f"{first}\n{beside_code(places, lines)}"

    def _wait_for_address(self) -> tuple[str, ...]:
        for _ in range(_ADDRESS_SECONDS):
            if found := self._addresses():
                return found
            self._sleep(1.0)
        return ()

    def _unlock(self) -> bool:
        answer = self._ask(f"\nPassphrase or recovery secret (Enter alone: {self._leave}):", hidden=True)
        if answer == "":
            return False
        if answer is not None:
            self._terminal.show("Trying …")
            self._client.unlock(answer)
            self._terminal.show("The disk is unlocked.")
        return True

    def _create(self) -> bool:
        question = f"\nA new passphrase, {SHORTEST} characters or more (Enter alone: {self._leave}):"
        passphrase = self._ask(question, hidden=True)
        if passphrase == "":
            return False
        if passphrase is None:
            return True
        if self._ask("Once more:", hidden=True) != passphrase:
            raise Refused("these are two different passphrases")
        secret = self._client.choose(passphrase)
        groups = secret.split("-")
        self._terminal.show(_SECRET.format(first=" ".join(groups[:4]), second=" ".join(groups[4:])))
        asked = self._client.see().view.asked
        while True:
            typed = [self._ask(f"Group {number} of 8 (counted from the left):", hidden=False) for number in asked]
            if None in typed:
                self._terminal.show(f"{_FORGET_SCREEN}Somebody else has gone on with it.")
                return True
            try:
                self._confirm(tuple(group or "" for group in typed))
            except Refused as error:
                if self._client.see().view.stage is not Stage.CONFIRM:
                    raise
                self._terminal.show(f"{error}. Look again:")
            else:
                return True

    def _confirm(self, typed: tuple[str, ...]) -> None:
        failed: list[Refused] = []

        def work() -> None:
            try:
                self._client.confirm(typed)
            except Refused as error:
                failed.append(error)

        worker = threading.Thread(target=work)
        worker.start()
        told = ""
        while worker.is_alive():
            worker.join(_LOOK_AGAIN)
            try:
                view = self._client.see().view
            except Refused:
                continue
            if view.stage is Stage.WORKING and view.text != told:
                if not told:
                    self._terminal.show(f"{_FORGET_SCREEN}Making the disk; this may take a minute or two.")
                told = view.text
                self._terminal.show(f"  {told} …")
        if failed:
            raise failed[0]
        # A fast device is ready before it was seen at work, and the screen still shows the recovery secret.
        forget = "" if told else _FORGET_SCREEN
        self._terminal.show(
            f"{forget}The disk is made and unlocked. From now on, each start wants the passphrase, or what your site "
            "names besides: a stick, the TPM or the relay."
        )

    def _ask(self, question: str, *, hidden: bool, stages: tuple[Stage, ...] = _WAITING) -> str | None:
        def is_over() -> bool:
            try:
                return self._client.see().view.stage not in stages
            except Refused:
                return True

        return self._terminal.ask(question, hidden=hidden, until=is_over)


def _in_rows(fingerprint: str) -> list[str]:
    pairs = fingerprint.split(":")
    return [":".join(pairs[start : start + 16]) for start in range(0, len(pairs), 16)]


_HERE_OR_THERE = ("", "Do it here, or in a browser at home:")
_LOCKED = ("DarkPipe: the disk for the mail is locked.", *_HERE_OR_THERE)
_SITE = (
    "DarkPipe: first start. The device has to know",
    "your domain and mailboxes, and how its disk is",
    "unlocked. Tell it in a browser at home:",
)
_NEW = (
    "DarkPipe: first start. The disk for the mail is",
    "going to be encrypted, and needs a passphrase.",
    "After every start somebody has to type it; until",
    "then the device takes no mail.",
    *_HERE_OR_THERE,
)
_GREETINGS = {Stage.LOCKED: _LOCKED, Stage.SITE: _SITE}

_SECRET = """
This is the RECOVERY SECRET. Write it down on paper, and keep it where no thief finds it together with the device.
It opens the disk when the passphrase is forgotten. It is shown only now.

    {first}
    {second}
"""


def main() -> int:
    """Run on a console before its login prompt; see darkpipe-console."""
    Dialog(UnlockClient(), Tty(), "a login").run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
