"""Requests of the control plane and their responses, as handlers see them: no socket, no TLS, no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from model.control import LARGEST_MESSAGE, ControlError, Message, Problem

_M = TypeVar("_M", bound=Message)


class Body(Protocol):
    """The content of a request as it comes in."""

    length: int
    """Octets, as the request has declared them."""

    def read(self, size: int, /) -> bytes:
        """Give at most so many octets; none at the end.

        Raises:
            OSError: home has gone in the middle of it.
        """
        ...


@dataclass(frozen=True)
class Request:
    """What home asks for. Who asks has proven to be home by its certificate, and is not fenced.

    Args:
        method: such as GET.
        path: such as `/items/0123…`, without the query.
        query: parameters behind `?`.
        home_epoch: of the home that asks.
    """

    method: str
    path: str
    body: Body
    query: Mapping[str, str] = field(default_factory=dict)
    home_epoch: int = 0

    def message(self, kind: type[_M]) -> _M:
        """Read the body as a message.

        Raises:
            ControlError: it is something else, which is answered with status 400.
            OSError: home has gone in the middle of it.
        """
        return kind.read(self.octets(LARGEST_MESSAGE))

    def octets(self, largest: int) -> bytes:
        """Read the whole body.

        Raises:
            ControlError: there are more octets than allowed.
            OSError: home has gone in the middle of it.
        """
        if self.body.length > largest:
            raise ControlError(f"found a message of {self.body.length} octets, expected {largest} at most")
        return b"".join(iter(lambda: self.body.read(largest), b""))


@dataclass(frozen=True)
class Response:
    """What home gets.

    Args:
        status: of HTTP.
        body: octets, a file that is sent as it is, or pieces whose `Content-Length` the headers tell. When an iterator
            raises something, the connection is cut, so that home sees that there is more.
    """

    status: int
    body: bytes | Path | Iterator[bytes] = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, message: Message, status: int = 200) -> Response:
        """Answer with a message."""
        return cls(status, message.to_json(), {"Content-Type": "application/json"})

    @classmethod
    def refuse(cls, status: int, problem: str) -> Response:
        """Answer with a reason, a sentence for a person."""
        return cls.of(Problem(problem), status)


Handler = Callable[[Request], Response]
"""Answers one request; what it raises becomes a 500 without a word about it, and a line in the log."""
