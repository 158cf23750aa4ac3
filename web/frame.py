"""The frame around each page: templates, forms with their token, and the application that serves them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from web.guard import COOKIE, Guard, Tokens

OLD_FORM = "This form was too old, and nothing was done. Here is a new one: look at it, and send it again."
"""What is said to a form without a token of this server; a restart makes all tokens old."""

_FEWEST_FIELDS = 8
"""So many may every form send, whatever it is about; and the token."""

_HERE = Path(__file__).parent
_STYLE = (_HERE / "style.css").read_bytes()
_SCRIPT = (_HERE / "page.js").read_bytes()


class Frame:
    """Renders pages, and takes the forms that they hold.

    Args:
        templates: folder of the pages; each extends `base.html`.
        hostname: gives the device's name now.
        fields: names of the fields that a form may have; what else is sent is not looked at.
    """

    def __init__(self, templates: Path, hostname: Callable[[], str], fields: Sequence[str], tokens: Tokens) -> None:
        self._hostname, self._fields, self._tokens = hostname, fields, tokens
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader([templates, _HERE / "templates"]),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    async def form(self, request: Request) -> Mapping[str, str] | None:
        """Read a form: every field, empty if it was not sent; None if its token is not one of this browser's.

        What was typed into such a one is then in the request's `state.sent`, to be shown again, if the browser says
        that it was on a page of this device (the guard refuses all others): a restart makes all tokens old.
        """
        async with request.form(max_files=0, max_fields=max(_FEWEST_FIELDS, len(self._fields) + 1)) as sent:
            form = {name: str(sent.get(name, "")) for name in self._fields}
            token = str(sent.get("token", ""))
        if self._tokens.fits(self._tokens.cookie(request.headers), token):
            return form
        request.state.sent = form if "origin" in request.headers else {}
        return None

    def render(
        self,
        request: Request,
        template: str,
        complaint: str = "",
        *,
        status: int = 200,
        inside: bool = False,
        **values: Any,
    ) -> Response:
        """Render a page.

        Args:
            complaint: a sentence about what was typed, shown above all else.
            status: of the answer (RFC 9110 §15).
            inside: whether it is for somebody who has signed in, and has the ways to the other pages.
            values: what its template speaks of.
        """
        cookie = self._tokens.cookie(request.headers)
        common = {
            "complaint": complaint,
            "hostname": self._hostname(),
            "inside": inside,
            "path": request.url.path,
            "token": self._tokens.token(cookie),
            # What was typed before and is shown again, by name of the field; nothing for all others.
            "typed": defaultdict(str, getattr(request.state, "typed", {})),
        }
        response = HTMLResponse(self._templates.get_template(template).render(common, **values), status)
        response.set_cookie(COOKIE, cookie, path="/", secure=True, httponly=True, samesite="strict")
        return response


def guarded_app(routes: Sequence[Route], hostname: Callable[[], str]) -> Starlette:
    """Make an application of pages: the guard before them, style and script beside them."""
    return Starlette(
        routes=[*routes, Route("/style.css", _style), Route("/page.js", _script)],
        middleware=[Middleware(Guard, hostname=hostname)],
        exception_handlers={404: _astray, 405: _astray},
    )


async def _astray(request: Request, error: Exception) -> Response:
    """Lead a browser to a page: it has the address of a form, or of a page that this address showed at another time.

    A telephone that opens its tabs again asks for the address of the form that was sent last; and while the disk is
    locked, none of the administrator's pages is there.
    """
    assert isinstance(error, HTTPException)
    if "text/html" not in request.headers.get("accept", ""):
        return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
    place = request.url.path.rpartition("/")[0] if error.status_code == 405 else ""
    return RedirectResponse(place or "/", 303)


def sentence(error: Exception) -> str:
    """Make a sentence of what an error says."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?')) else '.'}"


async def _script(_: Request) -> Response:
    return Response(_SCRIPT, media_type="text/javascript")


async def _style(_: Request) -> Response:
    return Response(_STYLE, media_type="text/css")
