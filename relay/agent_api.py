"""What the agent answers: to whoever has the bootstrap until the relay is paired, and then to home alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from time import monotonic

from model.control import LARGEST_MESSAGE, PROTOCOL, ControlError, QueueSettings
from model.pairing import AgentState, Confirm, Offer
from model.recipients import ListError, RecipientList
from model.unlock import PATH as UNLOCK
from model.unlock import UNFINISHED, UnlockKeys
from relay import files, given
from relay.control import Handler, Request, Response
from relay.keeper import Folders, Keeper
from relay.pairing import Confirmed, Heard, Keys, Offered
from relay.unlock import UnlockFolder

SETTINGS, RECIPIENTS = "settings.json", "recipients.json"
"""Home's files, as the queue reads them."""

_PENDING = b"pending"

_LARGEST_LIST = 32 * 2**20
"""Octets of a list of recipients: some 900,000 addresses."""


@dataclass(frozen=True)
class AgentApi:
    """Answers over connections that came by certain keys.

    Args:
        keys: these keys; a change makes another one of these.
        bundle: takes software.
        apply: is called after home's settings have changed.
        reread: is called after home's recipients have changed.
        group: gives the group that may read what home has pushed; None before there is one.
        turn: what home pushes is taken one after the other: on a slow relay home asks again before the first is done.
        unlock: where the keys for home's disk lie.
    """

    keeper: Keeper
    keys: Keys
    folders: Folders
    software: str
    bundle: Handler
    apply: Callable[[], None]
    reread: Callable[[], None]
    group: Callable[[], int | None]
    turn: threading.Lock
    unlock: UnlockFolder = field(default_factory=UnlockFolder)

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        if not self.keys.own_pem:
            return self._by_bootstrap(request)
        if (request.method, request.path) == ("POST", "/confirm"):
            return self._answer(self.keeper.happen(Confirmed(request.message(Confirm)), self.keys))
        if self.keeper.state.trying:
            return Response.refuse(HTTPStatus.CONFLICT, "home has not confirmed the new keys yet")
        self.keeper.happen(Heard(request.home_epoch), self.keys)
        return self._by_home(request)

    def _by_bootstrap(self, request: Request) -> Response:
        match request.method, request.path:
            case "POST", "/exchange":
                return self._offered(request)
            case "GET", "/state":
                return Response.of(self._state())
            case method, path:
                return Response.refuse(HTTPStatus.FORBIDDEN, f"this relay is not paired yet: no {method} {path}")

    def _by_home(self, request: Request) -> Response:
        match request.method, request.path:
            case "POST", "/rotate":
                return self._offered(request)
            case ("GET", "/state") | ("PUT", "/fence"):  # the fence was raised by home's epoch
                return Response.of(self._state())
            case _, "/bundle":
                return self.bundle(request)
            case method, path:
                with self.turn:
                    return self._given(method, path, request)

    def _given(self, method: str, path: str, request: Request) -> Response:
        match method, path:
            case "PUT", "/settings":
                return self._settings(request)
            case "PUT", "/recipients":
                return self._recipients(request)
            case (("PUT" | "DELETE"), place) if place == UNLOCK:
                return self._unlock(request)
        return Response.refuse(HTTPStatus.NOT_FOUND, f"there is no {method} {path}")

    def _offered(self, request: Request) -> Response:
        offer = request.message(Offer)
        keeper = self.keeper
        made = keeper.make_halves()
        event = Offered(monotonic(), int(time.time()), offer, keeper.networks, made)
        return self._answer(keeper.happen(event, self.keys))

    @staticmethod
    def _answer(answer: Response | None) -> Response:
        assert answer is not None  # each offer and each confirmation has one
        return answer

    def _settings(self, request: Request) -> Response:
        octets = request.octets(LARGEST_MESSAGE)
        wanted = QueueSettings.read(octets)
        if wanted.version < (version := self._version(SETTINGS)):
            return Response.refuse(
                HTTPStatus.CONFLICT, f"found settings of version {wanted.version}, and the relay has version {version}"
            )
        self._put(SETTINGS, octets, self.apply)
        return Response.of(self._state())

    def _recipients(self, request: Request) -> Response:
        octets = request.octets(_LARGEST_LIST)
        try:
            wanted = RecipientList.read(octets.decode("utf-8"))
        except (ListError, UnicodeDecodeError) as error:
            return Response.refuse(HTTPStatus.BAD_REQUEST, str(error))
        if wanted.version < (version := self._version(RECIPIENTS)):
            return Response.refuse(
                HTTPStatus.CONFLICT,
                f"found recipients of version {wanted.version}, and the relay has version {version}",
            )
        self._put(RECIPIENTS, octets, self.reread)
        return Response.of(self._state())

    def _unlock(self, request: Request) -> Response:
        wanted = request.message(UnlockKeys) if request.method == "PUT" else None
        given.note(self.folders.given, UNLOCK, _PENDING)
        if wanted:
            self.unlock.put(wanted)
        else:
            self.unlock.remove()
        self.keeper.again()
        self.apply()
        given.note(self.folders.given, UNLOCK, wanted.to_json() if wanted else b"")
        return Response.of(self._state())

    def _put(self, name: str, content: bytes, use: Callable[[], None]) -> None:
        files.replace(self.folders.config / name, content, 0o640, self.group())
        use()
        given.note(self.folders.given, name, content)

    def _state(self) -> AgentState:
        kept = self.keeper.state.kept
        return AgentState(
            PROTOCOL,
            self.software,
            kept.paired,
            int(time.time()),
            self._version(RECIPIENTS),
            self._version(SETTINGS),
            kept.epoch,
            self._unlocks(),
        )

    def _unlocks(self) -> str:
        known = self.unlock.read()
        if known and given.is_in_force(self.folders.given, UNLOCK, known.to_json()):
            return known.digest
        return UNFINISHED if known or given.is_in_force(self.folders.given, UNLOCK, _PENDING) else ""

    def _version(self, name: str) -> int:
        """Give the version of what is in force; 0 for nothing, and for what cannot be read: home brings it again."""
        path = self.folders.config / name
        content = path.read_bytes() if path.exists() else b""
        if not content or not given.is_in_force(self.folders.given, name, content):
            return 0
        try:
            return (
                QueueSettings.read(content).version
                if name == SETTINGS
                else RecipientList.read(content.decode("utf-8")).version
            )
        except (ControlError, ListError, UnicodeDecodeError):  # by other software than has taken it
            return 0
