"""What home asks the queue for, through the control plane: what waits, an item of it, and that it may be forgotten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus

from model.control import Header, Page, QueueStatus
from relay.control import Request, Response
from relay.place import LostError, PlaceError
from relay.presence import Presence, Sign
from relay.spool import Spool, SpoolError

PAGE = 500
"""Items of one page: a message of some 100 KB."""


class QueueApi:
    """A `relay.control.Handler`.

    | request | answer |
    |---|---|
    | `GET /status` | `QueueStatus` |
    | `GET /items?after=SEQUENCE` | `Page` of what is behind it; without `after`, from the beginning |
    | `GET /items/ID` | the ciphertext; 404 when there is none, 503 when it cannot be had now, 502 when it is lost |
    | `DELETE /items/ID` | 204; 404 when there is no such item any more, 503 when it may be there still |

    Args:
        status: gives what `GET /status` answers.
    """

    def __init__(self, spool: Spool, presence: Presence, status: Callable[[], QueueStatus]) -> None:
        self._spool, self._presence, self._status = spool, presence, status

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        self._presence.note(Sign.SEEN)
        answer = self._answer(request)
        return replace(answer, headers={**answer.headers, str(Header.QUEUE_EPOCH): self._spool.epoch})

    def _answer(self, request: Request) -> Response:
        match request.path.split("/")[1:]:
            case ["status"]:
                return Response.of(self._status()) if request.method == "GET" else _only("GET")
            case ["items"]:
                return self._list(request) if request.method == "GET" else _only("GET")
            case ["items", name]:
                return self._one(request.method, name)
        return Response.refuse(HTTPStatus.NOT_FOUND, "the queue knows /status, /items and /items/ID")

    def _list(self, request: Request) -> Response:
        text = request.query.get("after", "0")
        # int() takes more than digits, and from long texts very long.
        if not (text.isascii() and text.isdigit() and len(text) <= 15):
            return Response.refuse(HTTPStatus.BAD_REQUEST, "found something else than a number in the place of `after`")
        items = self._spool.items(int(text), PAGE + 1)
        return Response.of(Page(self._spool.epoch, tuple(items[:PAGE]), len(items) > PAGE))

    def _one(self, method: str, name: str) -> Response:
        try:
            match method:
                case "GET":
                    return self._content(name)
                case "DELETE":
                    self._spool.remove(name)
                    self._presence.note(Sign.DRAINED)
                    return Response(HTTPStatus.NO_CONTENT)
        except KeyError:
            return Response.refuse(HTTPStatus.NOT_FOUND, "there is no such item")
        except LostError as error:
            return Response.refuse(HTTPStatus.BAD_GATEWAY, str(error))
        except (PlaceError, SpoolError) as error:
            return Response.refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        return _only("GET, DELETE")

    def _content(self, name: str) -> Response:
        content = self._spool.open(name)
        kind = {"Content-Type": "application/octet-stream"}
        if content.file:
            return Response(HTTPStatus.OK, content.file, kind)
        return Response(HTTPStatus.OK, content.pieces, {**kind, "Content-Length": str(content.item.size)})


def _only(methods: str) -> Response:
    refused = Response.refuse(HTTPStatus.METHOD_NOT_ALLOWED, f"found another method, expected {methods}")
    return replace(refused, headers={**refused.headers, "Allow": methods})
