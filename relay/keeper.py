"""Does what relay.pairing decides: what is kept goes to the disk first."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Protocol

from model.control_tls import certificate_command, certificate_of
from relay import files, pairing_file
from relay.control import Response
from relay.fence import Identity
from relay.link import LinkError
from relay.pairing import (
    Action,
    Answer,
    Event,
    Kept,
    Keys,
    Made,
    Publish,
    Refuse,
    Settle,
    Start,
    State,
    Tick,
    Use,
    standing,
    step,
)


class Tunnel(Protocol):
    """The relay's end of the tunnel; see relay.link.Link."""

    def use(self, keys: Keys, /) -> None:
        """Speak with home by these keys."""

    def settle(self, keys: Keys, /) -> None:
        """Let them hold after the next start, too."""

    def networks(self) -> Sequence[IPv4Network]:
        """Give the networks that the relay is in."""

    def new_key(self) -> tuple[str, str]:
        """Make a key; gives it, and what home knows it by."""


@dataclass(frozen=True)
class Folders:
    """Where the relay keeps its things.

    Args:
        base: `/var/lib/darkpipe`, but for tests.
    """

    base: Path = Path("/var/lib/darkpipe")

    @property
    def state(self) -> Path:
        """How far it is with its keys."""
        return self.base / "agent" / "pairing.json"

    @property
    def published(self) -> Path:
        """A digest of what the relay's other programs were last told of."""
        return self.base / "agent" / "published"

    @property
    def given(self) -> Path:
        """What of home's settings and recipients is in force; see relay/given.py."""
        return self.base / "agent" / "given.json"

    @property
    def control(self) -> Path:
        """Certificates for the relay's other programs."""
        return self.base / "control"

    @property
    def config(self) -> Path:
        """What these read."""
        return self.base / "config"


class Keeper:
    """The relay's keys.

    Args:
        kept: as it is on the disk.
        told: is called after the certificates for other programs have changed.
        settled: is called after keys have come to hold for good.
    """

    def __init__(
        self,
        kept: Kept,
        tunnel: Tunnel,
        folders: Folders,
        told: Callable[[], None],
        settled: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state, self._written = State(kept), kept
        self._tunnel, self._folders, self._clock = tunnel, folders, clock
        self._told, self._settled = told, settled
        self._lock = threading.RLock()
        self._owes = False

    @property
    def state(self) -> State:
        """How it is now."""
        return self._state

    @property
    def identity(self) -> Identity:
        """Whom the listener serves."""
        kept = self._state.kept
        known = kept.paired or self._state.trying
        return Identity(kept.relay, kept.home if known else "", kept.epoch if known else 0)

    @property
    def networks(self) -> Sequence[IPv4Network]:
        """The networks that the relay is in."""
        return self._tunnel.networks()

    def make_halves(self) -> Made:
        """Make the relay's half of new keys.

        Raises:
            LinkError: a tool refuses.
        """
        private, public = self._tunnel.new_key()
        name = f"darkpipe-relay-{self._state.kept.relay[:8]}"
        done = subprocess.run(certificate_command(name), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LinkError(f"openssl: {done.stderr.strip()}")
        return Made(private, public, done.stdout, certificate_of(done.stdout))

    def start(self) -> None:
        """Begin, after a start of the machine or of the agent."""
        self.happen(Start())

    def tick(self) -> None:
        """Let time pass."""
        self.happen(Tick(self._clock()))

    def again(self) -> None:
        """Have the tunnel do as it is told once more, by the keys that are in use."""
        with self._lock:
            self._tunnel.use(self._state.in_use)

    def happen(self, event: Event, under: Keys | None = None) -> Response | None:
        """Let something happen.

        Args:
            under: keys of the connection by which home asks; those that are in use no longer ask for nothing.

        Returns:
            What home is answered, if it is.

        Raises:
            LinkError: the tunnel does not do as it is told.
            OSError: the disk has failed.
                What could not be done for either is done before the next event.
        """
        with self._lock:
            if self._owes:
                self._do(standing(self._state))
            if under is not None and under != self._state.in_use:
                return Response.refuse(409, "the relay has just changed its keys; ask again")
            state, actions = step(self._state, event)
            if state.kept != self._written:
                pairing_file.write(self._folders.state, state.kept)
                self._written = state.kept
            self._state = state
            return self._do(actions)

    def _do(self, actions: Sequence[Action]) -> Response | None:
        answer = None
        self._owes = True
        for action in actions:
            match action:
                case Use(keys):
                    self._tunnel.use(keys)
                case Settle():
                    self._tunnel.settle(self._state.kept.base)
                    self._settled()
                case Publish():
                    self._publish(self._state.kept)
                case Answer(message):
                    answer = Response.of(message)
                case Refuse(status, problem):
                    log(f"refused home: {problem}")
                    answer = Response.refuse(status, problem)
        self._owes = False
        return answer

    def _publish(self, kept: Kept) -> None:
        """Write what the relay's other programs read."""
        control, config, base = self._folders.control, self._folders.config, kept.base
        wanted = {
            control / "relay.pem": base.own_pem.encode(),
            control / "home.pem": (base.home_certificate + kept.former).encode(),
            config / "relay.json": json.dumps({"relay": kept.relay}).encode(),
            config / "fence.json": json.dumps({"home": kept.home, "home_epoch": kept.epoch}).encode(),
        }
        for path, content in wanted.items():
            if not path.exists() or path.read_bytes() != content:
                # The folders say who may come near.
                files.replace(path, content, 0o600 if path.parent == control else 0o644)
        digest, mark = hashlib.sha256(b"\0".join(wanted.values())).hexdigest().encode(), self._folders.published
        if not mark.exists() or mark.read_bytes() != digest:
            self._told()
            # Written last: after a kill before it, they are told once more.
            files.replace(mark, digest)


def log(text: str) -> None:
    """Write a line into the relay's log."""
    print(f"darkpipe-agent: {text}", file=sys.stderr, flush=True)
