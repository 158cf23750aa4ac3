"""The page that asks for a site, and makes and unlocks the encrypted disk: plain forms, which need no script.

It runs as nobody and asks darkpipe-disk.service, which judges all that is typed (`firstboot/unlock_socket.py`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from firstboot.console_code import WRONG
from firstboot.page.site_form import NOTHING_KEPT, SiteForm
from firstboot.unlock_socket import Seen, UnlockClient
from firstboot.unlocking import Refused, Stage, View
from firstboot.vault import SHORTEST
from model.first_site import Answer, Complaint
from web.frame import OLD_FORM, Frame, guarded_app, sentence
from web.guard import Tokens

_HERE = Path(__file__).parent
_FIELDS = ("code", "passphrase", "again", "first", "second", *Answer)
_PATIENCE = 2.0
"""Seconds after which the browser is shown how far the disk is, instead of waiting until it is made."""

_GRANT = "__Host-darkpipe-grant"
"""The cookie of a browser that has shown the code; it counts until the device starts anew."""


class Page:
    """What the routes have in common."""

    def __init__(self, client: UnlockClient, frame: Frame) -> None:
        self._client, self._frame = client, frame
        self._under_way: set[asyncio.Task[None]] = set()
        self._was_locked = False

    async def show(self, request: Request) -> Response:
        """Show what is to be done now."""
        return await self._render(request)

    async def choose(self, request: Request) -> Response:
        """Take the new passphrase, and show the recovery secret."""
        form = await self._frame.form(request)
        if form is None:
            return await self._render(request, OLD_FORM, status=403)
        request.state.typed = {"code": form["code"]}
        if form["passphrase"] != form["again"]:
            return await self._render(request, "These are two different passphrases.", status=422)
        code = form["code"] or request.cookies.get(_GRANT, "")
        try:
            recovery = await run_in_threadpool(self._client.choose, form["passphrase"], code)
        except Refused as error:
            return await self._render(request, sentence(error), status=422, doubted=str(error).startswith(WRONG))
        return await self._render(request, recovery=recovery)

    async def site(self, request: Request) -> Response:
        """Take the answers that make a site; what is wrong is told beside each, and what was typed stays."""
        form = await self._frame.form(request)
        sent = request.state.sent if form is None else form
        typed = {str(name): sent[name] for name in Answer if name in sent}
        if form is None:
            return await self._render(request, OLD_FORM, status=403, typed=typed)
        request.state.typed = {"code": form["code"]}
        try:
            judged = await run_in_threadpool(
                self._client.take_site, typed, form["code"] or request.cookies.get(_GRANT, "")
            )
        except Refused as error:
            doubted = str(error).startswith(WRONG)
            return await self._render(request, sentence(error), status=422, typed=typed, doubted=doubted)
        if judged.complaints:
            response = await self._render(
                request, NOTHING_KEPT, status=422, typed=judged.answers, complaints=judged.complaints, known=True
            )
        else:
            response = RedirectResponse("/", 303)
        response.set_cookie(_GRANT, judged.grant, path="/", secure=True, httponly=True, samesite="strict")
        return response

    async def confirm(self, request: Request) -> Response:
        """Take the part of the recovery secret that was typed back; making the disk goes on behind the answer."""
        form = await self._frame.form(request)
        if form is None:
            return await self._render(request, OLD_FORM, status=403)
        task = asyncio.create_task(run_in_threadpool(self._client.confirm, (form["first"], form["second"])))
        self._under_way.add(task)
        task.add_done_callback(self._forget)
        await asyncio.wait({task}, timeout=_PATIENCE)
        if task.done() and isinstance(error := task.exception(), Refused):
            return await self._render(request, sentence(error), status=422)
        return RedirectResponse("/", 303)

    async def unlock(self, request: Request) -> Response:
        """Try passphrase or recovery secret."""
        form = await self._frame.form(request)
        if form is None:
            return await self._render(request, OLD_FORM, status=403)
        try:
            await run_in_threadpool(self._client.unlock, form["passphrase"])
        except Refused as error:
            return await self._render(request, sentence(error), status=422)
        return RedirectResponse("/", 303)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asks again sees what became of it

    async def _render(
        self,
        request: Request,
        complaint: str = "",
        *,
        recovery: str = "",
        status: int = 200,
        typed: Mapping[str, str] | None = None,
        complaints: Sequence[Complaint] = (),
        known: bool | None = None,
        doubted: bool = False,
    ) -> Response:
        try:
            seen = await run_in_threadpool(self._client.see, request.cookies.get(_GRANT, ""))
            self._was_locked = seen.view.stage not in {Stage.SITE, Stage.TAKEN}
        except Refused:  # nobody waits for the disk any more
            seen = Seen(View(Stage.OPEN, self._client.word()))
        is_known = not doubted and (seen.granted if known is None else known)
        free = seen.draft and not is_known
        groups = recovery.split("-") if recovery else []
        response = self._frame.render(
            request,
            f"{seen.view.stage}.html",
            complaint,
            status=status,
            seen=seen,
            view=seen.view,
            groups=groups,
            was_locked=self._was_locked,
            shortest=SHORTEST,
            # Who comes back finds what the file says, and not what was typed beside it.
            form=SiteForm(seen.policies, seen.answers if typed is None else typed, complaints, blank=free),
            free=free,
            known=is_known,
        )
        if doubted:
            response.delete_cookie(_GRANT, path="/", secure=True, httponly=True, samesite="strict")
        return response


def make_app(
    client: UnlockClient, hostname: Callable[[], str] = socket.gethostname, tokens: Tokens | None = None
) -> Starlette:
    """Make the page.

    Args:
        client: asks about the disk.
        hostname: gives the device's name now.
    """
    page = Page(client, Frame(_HERE / "templates", hostname, _FIELDS, tokens or Tokens()))
    return guarded_app(
        [
            Route("/", page.show),
            Route("/site", page.site, methods=["POST"]),
            Route("/choose", page.choose, methods=["POST"]),
            Route("/confirm", page.confirm, methods=["POST"]),
            Route("/unlock", page.unlock, methods=["POST"]),
        ],
        hostname,
    )
