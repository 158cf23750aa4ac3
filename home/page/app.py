"""The administrator's page: claim, sign in, the state of the device, and what has to stand in DNS. It needs no script.

The pages of the other steps are in `steps.py`.

It runs as nobody and asks darkpipe-desk.service, which judges all that is typed and every session (`home/desk.py`).
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from home.administrator import LONGEST, Denied, SignedOut
from home.desk_client import DeskClient
from home.page.guide import has_shown_mail, next_step, steps
from home.page.overview import cards
from home.page.steps import FIELDS, Steps
from stack.passwords import SHORTEST
from web.frame import OLD_FORM, Frame, guarded_app, sentence
from web.guard import Tokens

SESSION = "__Host-darkpipe-session"
"""Only over HTTPS, only for this very host (RFC 6265bis §4.1.3.2)."""

_HERE = Path(__file__).parent
_FIELDS = ("code", *FIELDS)

_NOT_DONE = "You are not signed in, or not any more. What you have sent was not done: sign in, and send it again."

_Answer = Callable[[Request, str], Awaitable[Response]]


class Page:
    """What the routes have in common."""

    def __init__(self, client: DeskClient, frame: Frame) -> None:
        self._client, self._frame = client, frame

    def inside(self, answer: _Answer) -> Callable[[Request], Awaitable[Response]]:
        """Let only those pass who have a session; others are shown how to get one."""

        async def guarded(request: Request) -> Response:
            try:
                return await answer(request, _session(request))
            except SignedOut:
                if request.method == "POST":
                    return await self._outside(request, _NOT_DONE, status=403)
                return await self._outside(request)
            except Denied as error:
                return self._frame.render(request, "trouble.html", sentence(error), status=503)

        return guarded

    async def home(self, request: Request, session: str, complaint: str = "", code: int = 200) -> Response:
        """Show how the device is."""
        status = await run_in_threadpool(self._client.status, session)
        facts = None
        try:
            facts = await run_in_threadpool(self._client.facts, session)
        except SignedOut:
            raise
        except Denied as error:
            complaint = sentence(error)  # of a damaged file, say: what works is shown all the same
        found = steps(status, facts) if facts else ()
        return self._frame.render(
            request,
            "home.html",
            complaint,
            status=code,
            inside=True,
            problems=status.problems,
            cards=cards(status, shown=bool(facts and has_shown_mail(facts)), relay=facts is None or bool(facts.relay)),
            steps=found,
            relay=facts.relay if facts else "",
            next_step=next_step(found),
        )

    async def records(self, request: Request, session: str) -> Response:
        """Show what has to stand in DNS."""
        found = await run_in_threadpool(self._client.records, session, check=False)
        return self._frame.render(request, "dns.html", inside=True, found=found, checked=False)

    async def check_records(self, request: Request, session: str) -> Response:
        """Ask the name servers, and show what stands there."""
        found = await run_in_threadpool(self._client.records, session, check=True)
        return self._frame.render(request, "dns.html", inside=True, found=found, checked=True)

    async def zone(self, _: Request, session: str) -> Response:
        """Give the records as a zone file."""
        found = await run_in_threadpool(self._client.records, session, check=False)
        headers = {"content-disposition": 'attachment; filename="darkpipe.zone"'}
        return PlainTextResponse(found["zone"], headers=headers)

    async def claim(self, request: Request) -> Response:
        """Make whoever knows the code the administrator."""
        form = await self._frame.form(request)
        if form is None:
            return await self._outside(request, OLD_FORM, status=403)
        request.state.typed = {"code": form["code"]}
        if form["password"] != form["again"]:
            return await self._outside(request, "These are two different passwords.", status=422)
        return await self._enter(request, lambda: self._client.claim(form["code"], form["password"]))

    async def sign_in(self, request: Request) -> Response:
        """Begin a session."""
        form = await self._frame.form(request)
        if form is None:
            return await self._outside(request, OLD_FORM, status=403)
        return await self._enter(request, lambda: self._client.sign_in(form["password"]))

    async def sign_out(self, request: Request) -> Response:
        """End the session."""
        form = await self._frame.form(request)
        if form is None:
            # Whoever sees a page from outside takes it for the end of the session.
            return await self.inside(lambda request, session: self.home(request, session, OLD_FORM, 403))(request)
        await run_in_threadpool(self._client.sign_out, _session(request))
        response = RedirectResponse("/", 303)
        response.delete_cookie(SESSION, path="/", secure=True, httponly=True, samesite="strict")
        return response

    async def _enter(self, request: Request, ask: Callable[[], str]) -> Response:
        try:
            session = await run_in_threadpool(ask)
        except Denied as error:
            return await self._outside(request, sentence(error), status=422)
        response = RedirectResponse("/", 303)
        response.set_cookie(
            SESSION, session, max_age=int(LONGEST), path="/", secure=True, httponly=True, samesite="strict"
        )
        return response

    async def _outside(self, request: Request, complaint: str = "", *, status: int = 200) -> Response:
        try:
            seen = await run_in_threadpool(self._client.see)
        except Denied as error:
            return self._frame.render(request, "trouble.html", sentence(error), status=503)
        name = "sign-in.html" if seen.claimed else "claim.html"
        return self._frame.render(request, name, complaint, status=status, shortest=SHORTEST, own_code=seen.own_code)


def make_app(
    client: DeskClient, hostname: Callable[[], str] = socket.gethostname, tokens: Tokens | None = None
) -> Starlette:
    """Make the page.

    Args:
        client: asks about the device.
        hostname: gives the device's name now.
    """
    frame = Frame(_HERE / "templates", hostname, _FIELDS, tokens or Tokens())
    page, step = Page(client, frame), Steps(client, frame)
    return guarded_app(
        [
            Route("/", page.inside(page.home)),
            Route("/dns", page.inside(page.records)),
            Route("/dns/check", page.inside(page.check_records)),
            Route("/dns/darkpipe.zone", page.inside(page.zone)),
            Route("/relay", page.inside(step.relay)),
            Route("/relay/live", page.inside(step.relay_live)),
            Route("/relay/begin", page.inside(step.begin_relay), methods=["POST"]),
            Route("/relay/make", page.inside(step.make_relay), methods=["POST"]),
            Route("/relay/address", page.inside(step.point_relay), methods=["POST"]),
            Route("/relay/claim", page.inside(step.claim_relay), methods=["POST"]),
            Route("/preflight", page.inside(step.preflight)),
            Route("/preflight/start", page.inside(step.start_preflight), methods=["POST"]),
            Route("/users", page.inside(step.users)),
            Route("/users/add", page.inside(step.add_user), methods=["POST"]),
            Route("/users/password", page.inside(step.set_password), methods=["POST"]),
            Route("/message", page.inside(step.message)),
            Route("/message/send", page.inside(step.send_message), methods=["POST"]),
            Route("/claim", page.claim, methods=["POST"]),
            Route("/sign-in", page.sign_in, methods=["POST"]),
            Route("/sign-out", page.sign_out, methods=["POST"]),
        ],
        hostname,
    )


def _session(request: Request) -> str:
    return request.cookies.get(SESSION, "")
