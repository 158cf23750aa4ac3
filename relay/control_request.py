"""What makes a request of the control plane fit to be answered: its form, its version, and its home."""

from __future__ import annotations

import string
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from urllib.parse import parse_qsl

import h11

from model.control import PROTOCOL, Header
from relay.control import Body, Request
from relay.fence import Identity

_METHODS = frozenset({"GET", "PUT", "POST", "DELETE"})
_PATH = frozenset(string.ascii_letters + string.digits + "/-_.~")
_PARAMETERS = 16
_LONGEST_NUMBER = 15


class Unfit(Exception):
    """A request is refused.

    Args:
        status: of HTTP.
        problem: a sentence for a person at home.
    """

    def __init__(self, status: HTTPStatus, problem: str) -> None:
        super().__init__(problem)
        self.status, self.problem = status, problem


def parse(head: h11.Request, body: Body, largest: int) -> Request:
    """Take a request apart.

    Args:
        largest: octets that a body may have.

    Raises:
        Unfit: the relay does not understand it.
    """
    method = head.method.decode("ascii")
    if method not in _METHODS:
        raise Unfit(HTTPStatus.METHOD_NOT_ALLOWED, f"found {method}, expected {', '.join(sorted(_METHODS))}")
    path, _, query = head.target.decode("ascii").partition("?")
    if not path.startswith("/") or not _PATH.issuperset(path):
        raise Unfit(HTTPStatus.BAD_REQUEST, "found a path with characters that no path here has")
    if _field(head, "transfer-encoding"):
        raise Unfit(HTTPStatus.LENGTH_REQUIRED, "found a body without its length, expected Content-Length")
    if body.length > largest:
        raise Unfit(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"found a body of {body.length} octets, expected {largest} at most"
        )
    epoch = _number(head, Header.HOME_EPOCH)
    return Request(method, path, body, _parameters(query), epoch)


def judge(head: h11.Request, request: Request, identity: Identity, *, newer: bool) -> None:
    """Let a request pass if it comes from the home of this relay, and both speak the same protocol.

    Args:
        newer: whether a home is let pass whose epoch is higher than the fence.

    Raises:
        Unfit: it does not; what home has to do is in the text.
    """
    theirs = _number(head, Header.PROTOCOL)
    if abs(theirs - PROTOCOL) > 1:
        older = "home" if theirs < PROTOCOL else "the relay"
        raise Unfit(
            HTTPStatus.UPGRADE_REQUIRED,
            f"home speaks version {theirs} of the protocol and the relay version {PROTOCOL}: they must not be more "
            f"than one apart. Bring {older} up to date",
        )
    if not identity.home:
        return
    if _field(head, Header.HOME) != identity.home:
        raise Unfit(
            HTTPStatus.FORBIDDEN, "this relay belongs to another home; `darkpipe relay replace` makes a new relay"
        )
    if request.home_epoch < identity.home_epoch:
        raise Unfit(
            HTTPStatus.CONFLICT,
            f"this home has epoch {request.home_epoch}, and another device that was restored from its backup has "
            f"epoch {identity.home_epoch}: only the later one is served. If this device is the one to go on, "
            "`darkpipe pair --restored` says so",
        )
    if request.home_epoch > identity.home_epoch and not newer:
        raise Unfit(
            HTTPStatus.CONFLICT,
            f"home has epoch {request.home_epoch}, of which the relay's agent has not been told yet; the queue "
            f"serves epoch {identity.home_epoch}",
        )


def _field(head: h11.Request, name: str) -> str:
    """Give a field; empty when it is not there."""
    found = [value for key, value in head.headers if key == name.lower().encode()]
    if len(found) > 1:
        raise Unfit(HTTPStatus.BAD_REQUEST, f"found {name} {len(found)} times, expected it once")
    return found[0].decode("latin-1") if found else ""


def _number(head: h11.Request, name: str) -> int:
    text = _field(head, name)
    if not text.isascii() or not text.isdecimal() or len(text) > _LONGEST_NUMBER:
        raise Unfit(HTTPStatus.BAD_REQUEST, f"expected {name} with a number")
    return int(text)


def _parameters(query: str) -> Mapping[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=_PARAMETERS)
    except ValueError:
        raise Unfit(HTTPStatus.BAD_REQUEST, "found a query that cannot be read") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unfit(HTTPStatus.BAD_REQUEST, "found a parameter more than once")
    return MappingProxyType(found)
