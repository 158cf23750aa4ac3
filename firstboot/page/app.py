"""The page that makes and unlocks the encrypted disk: plain forms, which need no script.

It runs as nobody and asks darkpipe-disk.service, which judges all that is typed (`firstboot/unlock_socket.py`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from firstboot.page.guard import COOKIE, Guard, Tokens
from firstboot.unlock_socket import UnlockClient
from firstboot.unlocking import Refused, Stage, View
from firstboot.vault import SHORTEST

_HERE = Path(__file__).parent
_STYLE = (_HERE / "style.css").read_bytes()
_PATIENCE = 2.0
"""Seconds after which the browser is shown how far the disk is, instead of waiting until it is made."""

_GONE = View(Stage.OPEN)
"""What is to be seen once nobody waits for the disk any more."""


class Page:
    """What the routes have in common."""

    def __init__(self, client: UnlockClient, tokens: Tokens) -> None:
        self._client = client
        self._tokens = tokens
        loader = jinja2.FileSystemLoader(_HERE / "templates")
        self._templates = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
        self._under_way: set[asyncio.Task[None]] = set()

    async def show(self, request: Request) -> Response:
        """Show what is to be done now."""
        return await self._render(request)

    async def choose(self, request: Request) -> Response:
        """Take the new passphrase, and show the recovery secret."""
        form = await self._form(request)
        if form is None:
            return await self._render(request, _OLD_FORM, status=403)
        if form["passphrase"] != form["again"]:
            return await self._render(request, "These are two different passphrases.", status=422)
        try:
            recovery = await run_in_threadpool(self._client.choose, form["passphrase"], form["code"])
        except Refused as error:
            return await self._render(request, _sentence(error), status=422)
        return await self._render(request, recovery=recovery)

    async def confirm(self, request: Request) -> Response:
        """Take the part of the recovery secret that was typed back; making the disk goes on behind the answer."""
        form = await self._form(request)
        if form is None:
            return await self._render(request, _OLD_FORM, status=403)
        task = asyncio.create_task(run_in_threadpool(self._client.confirm, (form["first"], form["second"])))
        self._under_way.add(task)
        task.add_done_callback(self._forget)
        await asyncio.wait({task}, timeout=_PATIENCE)
        if task.done() and isinstance(error := task.exception(), Refused):
            return await self._render(request, _sentence(error), status=422)
        return RedirectResponse("/", 303)

    async def unlock(self, request: Request) -> Response:
        """Try passphrase or recovery secret."""
        form = await self._form(request)
        if form is None:
            return await self._render(request, _OLD_FORM, status=403)
        try:
            await run_in_threadpool(self._client.unlock, form["passphrase"])
        except Refused as error:
            return await self._render(request, _sentence(error), status=422)
        return RedirectResponse("/", 303)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asks again sees what became of it

    async def _form(self, request: Request) -> Mapping[str, str] | None:
        async with request.form(max_files=0, max_fields=8) as sent:
            form = {name: str(sent.get(name, "")) for name in _FIELDS}
        cookie = self._tokens.cookie(request.headers)
        return form if self._tokens.fits(cookie, form["token"]) else None

    async def _render(
        self, request: Request, complaint: str = "", *, recovery: str = "", status: int = 200
    ) -> Response:
        try:
            view = (await run_in_threadpool(self._client.see)).view
        except Refused:
            view = _GONE
        cookie = self._tokens.cookie(request.headers)
        values: dict[str, Any] = {"view": view, "complaint": complaint, "token": self._tokens.token(cookie)}
        groups = recovery.split("-") if recovery else []
        text = self._templates.get_template(f"{view.stage}.html").render(values, groups=groups, shortest=SHORTEST)
        response = HTMLResponse(text, status)
        response.set_cookie(COOKIE, cookie, path="/", secure=True, httponly=True, samesite="strict")
        return response


def make_app(
    client: UnlockClient, hostname: Callable[[], str] = socket.gethostname, tokens: Tokens | None = None
) -> Starlette:
    """Make the page.

    Args:
        client: asks about the disk.
        hostname: gives the device's name now.
    """
    page = Page(client, tokens or Tokens())
    return Starlette(
        routes=[
            Route("/", page.show),
            Route("/choose", page.choose, methods=["POST"]),
            Route("/confirm", page.confirm, methods=["POST"]),
            Route("/unlock", page.unlock, methods=["POST"]),
            Route("/style.css", _style),
        ],
        middleware=[Middleware(Guard, hostname=hostname)],
    )


async def _style(_: Request) -> Response:
    return Response(_STYLE, media_type="text/css")


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


_FIELDS = ("token", "code", "passphrase", "again", "first", "second")
_OLD_FORM = "This form was too old. Here is a new one."
