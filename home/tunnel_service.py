"""darkpipe-tunnel: keeps the tunnel to the relay up, and the way out of mail shut where there is none.

systemd hands the file with the key over as a credential, so that this needs no right to read anything on /data. It sees
when the file there becomes another one, and ends; systemd starts it again with the new one.
"""

from __future__ import annotations

import os
import pwd
import signal
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from home.openvpn_link import OPENVPN, OpenvpnLink
from home.tunnel import WIREGUARD, Action, Make, Point, Resolve, Seen, State, decide
from home.tunnel_link import Link, LinkError, Reading, guard_routes
from home.tunnel_state import Noted, note
from model import mtls
from model.tunnel import HOME_FILE
from stack.pending import Late, Pending, begin
from stack.stack import DATA

_SOURCE = Path(DATA) / "darkpipe" / HOME_FILE
_MAIL_USER = "postfix"

_SOON = 1.0
_LATER = 5.0
"""Seconds between two looks, while the tunnel is down and while it is up."""

_LOOK_UP = 30.0
"""Seconds after which a look-up is given up; the resolver answers much earlier, if only that it does not know."""


class FileError(Exception):
    """The file about the relay cannot be used; the text says why, and quotes no key."""


def read_home_file(path: Path) -> mtls.AnyHome | None:
    """Read home's half of what the two ends know; None while there is none.

    Args:
        path: the credential, empty when systemd has found no file.

    Raises:
        FileError: it is damaged.
    """
    content = path.read_bytes()
    if not content.strip():
        return None
    try:
        return mtls.read_home_end(content)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors(include_url=False))
        raise FileError(f"{_SOURCE} is damaged: {'; '.join(problems)}") from None


@dataclass(frozen=True)
class Version:
    """Which version of a file lies there: a file that was replaced is another one, whatever it holds."""

    inode: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> Version | None:
        """Look at a file; None when it is not there."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        return cls(found.st_ino, found.st_ctime_ns)


def is_outdated(first: Version | None, now: Version | None, taken: int, clock: int) -> bool:
    """Tell whether what was handed over is not what lies there.

    Args:
        first: the file when the service started.
        taken: when systemd took it, nanoseconds of the clock on the wall; shortly before.
        clock: nanoseconds of the same clock, now. A change in its future tells nothing: the clock was set back.
    """
    return now != first or (now is not None and taken < now.changed <= clock)


def look_up(name: str, port: int) -> tuple[str, ...]:
    """Give the addresses of the relay, in the order in which they are to be tried; none when there is no answer."""
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM)
    except OSError:
        return ()
    return tuple(str(entry[4][0]) for entry in found)


class Keeper:
    """Does what home.tunnel decides.

    Args:
        home: what home knows of the relay.
    """

    def __init__(self, home: mtls.AnyHome) -> None:
        self._home = home
        self._link: Link | OpenvpnLink = OpenvpnLink(home) if isinstance(home, mtls.MtlsHome) else Link(home)
        self._pace = OPENVPN if isinstance(home, mtls.MtlsHome) else WIREGUARD
        self._state = State(since=time.monotonic())
        self._asked: Pending[tuple[str, ...]] | None = None
        self._error: str | None = None
        self._known = True

    def step(self) -> Noted:
        """Look, act, and say how things are."""
        now = time.monotonic()
        read = self._link.read()
        known = read or Reading()
        seen = Seen(now, read is not None, known.handshake, known.received, self._answer(now))
        before = self._state.up
        self._state, actions = decide(self._state, seen, self._pace)
        if self._state.up != before:
            print(f"the tunnel to {self._home.relay} is {'up' if self._state.up else 'down'}", flush=True)
        try:
            for action in actions:
                self._act(action)
            self._tell(None)
        except LinkError as error:
            self._tell(str(error))
        where = self._state.endpoint
        problem = self._error or (None if self._state.up else self._link.problem())
        return Noted(
            written=now,
            relay=self._home.relay,
            up=self._state.up,
            since=self._state.since,
            heard=self._state.heard,
            endpoint=where and self._link.endpoint(where),
            error=problem or (None if where or self._state.up else f"no address of {self._home.relay} is known"),
            relay_key=self._home.relay_key,
        )

    def close(self) -> None:
        """Take the tunnel down."""
        self._link.remove()

    def _act(self, action: Action) -> None:
        match action:
            case Make():
                self._link.make()
            case Resolve():
                self._asked = begin(look_up, self._home.relay, self._home.port)
            case Point(address):
                self._link.point(address)

    def _answer(self, now: float) -> tuple[str, ...] | None:
        if self._asked is None:
            return None
        try:
            found = self._asked.result(now)
        except Late:
            if now - self._state.asked < _LOOK_UP:
                return None
            found = ()
        self._asked = None
        if bool(found) != self._known:
            print(
                f"{self._home.relay} {'has an address again' if found else 'is a name that has no address now'}",
                flush=True,
            )
        self._known = bool(found)
        return found

    def _tell(self, error: str | None) -> None:
        if error is not None and error != self._error:
            print(error, flush=True)
        self._error = error


def serve(credential: Path, stopped: threading.Event, source: Path = _SOURCE) -> None:
    """Keep the tunnel until told to stop, or until there is another file to go by."""
    first = Version.of(source)
    taken = credential.stat().st_mtime_ns
    uid = pwd.getpwnam(_MAIL_USER).pw_uid
    step = _begin(credential)
    noted: Noted | None = None
    while not stopped.is_set():
        # Each time: whoever else sets routes on this device may have taken ours for a mistake.
        guard_routes(uid)
        noted = step.step()
        note(noted)
        end = time.monotonic() + (_LATER if noted.up else _SOON)
        # Other keys come into use within a second: the relay waits for home under them.
        while not (outdated := is_outdated(first, Version.of(source), taken, time.time_ns())):
            if stopped.wait(_SOON) or time.monotonic() >= end:
                break
        if outdated:
            break
    step.close()
    # The file outlives the service, since others look into this very folder.
    now = time.monotonic()
    note(Noted(written=now, relay=noted.relay, up=False, since=now, error=noted.error) if noted else _Idle(None).step())


class _Idle:
    """Stands for a tunnel that nothing, or nothing good, is known of."""

    def __init__(self, error: str | None) -> None:
        self._error = error
        self._since = time.monotonic()

    def step(self) -> Noted:
        return Noted(written=time.monotonic(), relay=None, up=False, since=self._since, error=self._error)

    def close(self) -> None:
        """There is nothing to take down."""


def _begin(credential: Path) -> Keeper | _Idle:
    try:
        home = read_home_file(credential)
    except FileError as error:
        print(error, flush=True)
        return _Idle(str(error))
    return Keeper(home) if home else _Idle(None)


def _stop_on_signal() -> threading.Event:
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    return stopped


def main() -> None:
    """Run as systemd's service."""
    try:
        serve(Path(os.environ["CREDENTIALS_DIRECTORY"]) / HOME_FILE, _stop_on_signal())
    except LinkError as error:
        # Without the rules there must be no tunnel; the firewall still lets no mail out another way.
        raise SystemExit(f"mail cannot be kept to the tunnel: {error}") from None


if __name__ == "__main__":
    main()
