"""What the agent answers on `/bundle`: which software runs, and other software taken in."""

from __future__ import annotations

import platform
import shutil
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

from model.bundle import DOWNGRADE, IDENTIFIER, PATH, BundleState, BundleStatus
from relay.control import Request, Response
from relay.machine import Failure, System
from relay.parcel import Refused, receive, unpack
from relay.switch import announce, read_manifest, status, withdraw

_ROOM = 64 * 2**20
"""Octets that stay free on the disk."""

_SWITCH = "darkpipe-switch.service"

_AGAIN = 600.0
"""Seconds until a trial that nobody is at is taken up once more: each one starts services again."""


class Updates:
    """Handles `GET /bundle` and `PUT /bundle?id=…&downgrade=…`.

    Args:
        system: the relay.
        clock: seconds that only ever grow.
    """

    def __init__(self, system: System | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._system, self._clock = system or System(), clock
        self._one = threading.Lock()
        self._next = 0.0

    def __call__(self, request: Request) -> Response:
        """Say how it stands with the relay's software, or take other software.

        What was taken is tried after the answer, which says 202, or 200 when it runs already.
        """
        match request.method, request.path:
            case "GET", bundle if bundle == PATH:
                return Response.of(self._known())
            case "PUT", bundle if bundle == PATH:
                return self._take_alone(request)
            case method, path:
                return Response.refuse(HTTPStatus.NOT_FOUND, f"there is no {method} {path}")

    def _known(self) -> BundleStatus:
        """Tell how it stands; a trial that nobody is at is taken up again.

        It is what a kill between its announcement and its start has left, or a bundle before that could not put
        everything back, for want of room for instance. Until a restart of the machine nothing else would end it.
        """
        known = status(self._system)
        if known.state is not BundleState.TRYING or not self._is_idle():
            return known
        # Once more: a trial takes its mark away before its unit ends.
        known = status(self._system)
        if known.state is BundleState.TRYING and self._clock() >= self._next:
            self._next = self._clock() + _AGAIN
            self._system.try_run("systemctl", "start", "--no-block", _SWITCH)
        return known

    def _is_idle(self) -> bool:
        _, shown = self._system.try_run("systemctl", "show", "--property=ActiveState", _SWITCH)
        return shown.strip() in {"ActiveState=inactive", "ActiveState=failed"}

    def _take_alone(self, request: Request) -> Response:
        if not self._one.acquire(blocking=False):
            return Response.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "another bundle is just coming in")
        try:
            return self._take(request, request.query.get(IDENTIFIER, ""))
        except Refused as refused:
            return Response.refuse(HTTPStatus.BAD_REQUEST, str(refused))
        except Failure as failure:
            return Response.refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(failure))
        except OSError as error:
            return Response.refuse(HTTPStatus.INSUFFICIENT_STORAGE, f"the bundle was not kept: {error.strerror}")
        finally:
            self._one.release()

    def _take(self, request: Request, identifier: str) -> Response:
        known = status(self._system)
        if known.state is BundleState.TRYING:
            return Response.refuse(
                HTTPStatus.SERVICE_UNAVAILABLE, "another bundle is being tried; it takes two minutes at most"
            )
        if known.bundle == identifier:
            return Response.of(known)
        base = self._system.base
        if (free := shutil.disk_usage(base).free) < 3 * request.body.length + _ROOM:
            return Response.refuse(HTTPStatus.INSUFFICIENT_STORAGE, f"the relay's disk has only {free:,} octets left")
        incoming = base / ".incoming"
        try:
            receive(request.body, request.body.length, identifier, incoming)
            folder = unpack(incoming, base, identifier)
        finally:
            incoming.unlink(missing_ok=True)
        try:
            ours, other = read_manifest(self._system, known.bundle), read_manifest(self._system, identifier)
        except Failure as failure:
            shutil.rmtree(folder)
            raise Refused(str(failure)) from None
        if not other.serves(machine := platform.machine()):
            shutil.rmtree(folder)
            return Response.refuse(
                HTTPStatus.PRECONDITION_FAILED, f"the bundle has no libraries for {machine}, which this relay is"
            )
        if other.is_older_than(ours) and request.query.get(DOWNGRADE) != "yes":
            shutil.rmtree(folder)
            problem = f"home brings version {other.version}, and here is {ours.version}, which is newer"
            return Response.refuse(HTTPStatus.PRECONDITION_FAILED, problem)
        announce(self._system, identifier)
        try:
            self._system.run("systemctl", "start", "--no-block", _SWITCH)
        except Failure:
            withdraw(self._system)
            raise
        return Response.of(status(self._system), HTTPStatus.ACCEPTED)


def apply_settings(system: System | None = None) -> None:
    """Bring the relay's files and services to what settings say now; they were written before.

    Raises:
        Failure: it did not work; the text says what.
    """
    # A unit of its own: the agent that asks may not write to /etc, and may be started again by this.
    unit = ("systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--unit=darkpipe-apply", "--")
    (system or System()).run(*unit, "/opt/darkpipe/current/run", "relay.install", "apply")
