"""The relay's software, which home carries in its image, on its way to the relay."""

from __future__ import annotations

import http.client
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlencode

from home.control_client import ControlClient
from home.control_errors import ControlFailure, Refused, Unreachable
from home.relay_answers import sentence
from model.bundle import BUNDLE, BUNDLE_RECORD, DOWNGRADE, IDENTIFIER, PATH, BundleState, BundleStatus, is_older
from model.control import AGENT_PORT, ControlError, Problem

DATA = Path("/usr/share/darkpipe")

_CONNECT = 10.0
_INSTALL = 1800.0
"""Seconds within which a server without software has installed it, with packages of Debian that it may lack."""

_TRIAL = 900.0
"""Seconds within which a relay has tried other software, and gone back where it was not well."""

_LOOK = 2.0

_AGAIN = 86400.0
"""Seconds until software is tried once more that the relay has refused; each trial starts its services anew."""

Report = Callable[[float], None]
"""Is told how much of the bundle has been sent, from 0 to 1."""


class NotInstalled(ControlFailure):
    """The relay does not run the software that home has brought."""

    remedy = "The relay goes on with what it had; its journal says more (`journalctl -u darkpipe-switch`)"


class Older(ControlFailure):
    """The relay runs newer software than home carries; nothing was sent."""

    remedy = "Bring home up to date; its relay stays as it is"


@dataclass(frozen=True)
class Carried:
    """The bundle in this image.

    Args:
        path: of the tar.
        id: its SHA-256.
        version: of DarkPipe.
    """

    path: Path
    id: str
    version: str

    @classmethod
    def of_image(cls, folder: Path = DATA) -> Carried:
        """Read what the image says about it.

        Raises:
            OSError: there is none.
        """
        record = json.loads((folder / BUNDLE_RECORD).read_text(encoding="utf-8"))
        return cls(folder / BUNDLE, str(record["id"]), str(record["version"]))


def bring_first(address: str, bundle: Carried, report: Report = lambda _: None, port: int = AGENT_PORT) -> None:
    """Bring the software to a server that has none; its receiver knows home by the tunnel.

    Args:
        address: the relay's in the tunnel.

    Raises:
        Unreachable: nobody answers, or not to the end.
        Refused: the server could not install it; the text is the server's.
    """
    connection = http.client.HTTPConnection(address, port, timeout=_CONNECT)
    try:
        connection.connect()
        connection.sock.settimeout(_INSTALL)
        with _Reported(bundle.path, report) as file:
            headers = {"Content-Length": str(bundle.path.stat().st_size)}
            connection.request("PUT", _request(bundle), body=file, headers=headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"the software did not get to {address}: {error}") from None
    finally:
        connection.close()
    if response.status != HTTPStatus.OK:
        raise Refused(response.status, _problem(content))


def has_none(address: str, port: int = AGENT_PORT) -> bool:
    """Tell whether a server waits for its first software; False when an agent answers, or nobody."""
    connection = http.client.HTTPConnection(address, port, timeout=_CONNECT)
    try:
        connection.request("GET", PATH)
        return BundleStatus.read(connection.getresponse().read()).state is BundleState.EMPTY
    except (OSError, http.client.HTTPException, ControlError):
        return False
    finally:
        connection.close()


def bring(
    client: ControlClient,
    bundle: Carried,
    report: Report = lambda _: None,
    *,
    again: bool = False,
    downgrade: bool = False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> BundleStatus:
    """Bring the software to a relay that runs other software, and wait until it is in force.

    Args:
        client: of the relay's agent.
        again: also when the relay has refused this very bundle before.
        downgrade: also when it is older than the relay's.

    Returns:
        What the relay says at the end.

    Raises:
        NotInstalled: the relay has gone back to what it had; the text says why.
        Older: the relay's software is newer.
        ControlFailure: the relay cannot be asked, or does not take it.
    """
    known = client.request("GET", PATH).message(BundleStatus)
    if known.bundle == bundle.id and known.state is not BundleState.TRYING:
        return known
    if known.state is BundleState.REFUSED and known.other == bundle.id and not again:
        raise NotInstalled(
            f"the relay has tried version {bundle.version} before, and gone back: {sentence(known.problem)}"
        )
    if known.state is not BundleState.TRYING:
        if not downgrade and is_older(bundle.version, known.version):
            raise Older(f"home has software of version {bundle.version}, and the relay has version {known.version}")
        with _Reported(bundle.path, report) as file:
            client.request("PUT", _request(bundle, downgrade=downgrade), file)
    return _wait(client, bundle, clock, sleep)


class Courier:
    """Brings the software, and a day later once more what the relay has refused.

    A reboot in the middle, or an archive of packages that was busy, is no fault of the software; nobody else would try.

    Args:
        clock: seconds that only ever grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused: float | None = None

    def bring(self, client: ControlClient, bundle: Carried, report: Report, sleep: Callable[[float], None]) -> str:
        """Give the id of the software that runs at the end; see `bring`."""
        now = self._clock()
        again = self._refused is not None and now - self._refused >= _AGAIN
        if again:
            self._refused = None
        try:
            return bring(client, bundle, report, again=again, sleep=sleep).bundle
        except NotInstalled:
            self._refused = now if self._refused is None else self._refused
            raise


def _wait(
    client: ControlClient, bundle: Carried, clock: Callable[[], float], sleep: Callable[[float], None]
) -> BundleStatus:
    deadline = clock() + _TRIAL
    while True:
        sleep(_LOOK)
        try:
            known = client.request("GET", PATH).message(BundleStatus)
        except Unreachable:
            # The agent itself is started again.
            if clock() >= deadline:
                raise
            continue
        if known.state is BundleState.TRYING and clock() < deadline:
            continue
        if known.bundle == bundle.id:
            return known
        raise NotInstalled(sentence(known.problem) or f"the relay still runs version {known.version}")


def _request(bundle: Carried, *, downgrade: bool = False) -> str:
    return f"{PATH}?{urlencode({IDENTIFIER: bundle.id, **({DOWNGRADE: 'yes'} if downgrade else {})})}"


def _problem(content: bytes) -> str:
    try:
        return sentence(Problem.read(content).problem)
    except ControlError:
        return "the server gave no reason"


class _Reported(io.FileIO):
    """A file that tells how far it was read."""

    def __init__(self, path: Path, report: Report) -> None:
        super().__init__(path)
        self._size, self._report = path.stat().st_size, report

    def read(self, size: int | None = -1, /) -> bytes:
        octets = super().read(size)
        self._report(self.tell() / self._size)
        return octets
