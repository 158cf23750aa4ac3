"""The pages of the steps: relay, pre-flight, users and the test message."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from firstboot.page.site_form import SiteForm
from home.administrator import Denied
from home.desk_client import DeskClient
from home.hand_questions import (
    AddUser,
    BeginRelay,
    ClaimRelay,
    MakeRelay,
    PointRelay,
    Question,
    SendTest,
    SetPassword,
    StartPreflight,
)
from home.page.guide import has_shown_mail, preflight_step, relay_step
from home.pair_state import Stage
from home.trial_message import Fate
from stack.passwords import SHORTEST
from web.frame import OLD_FORM, Frame, sentence

FIELDS = ("password", "again", "address", "ssh_key", "anew", "sender", "recipient", "offline", "transport")
"""Of the forms here."""

_STAYS = ("address", "ssh_key", "sender", "recipient")
"""What was typed into these is there again beside what is wrong with it; no password is ever sent back."""

_PROVIDERS = Path(__file__).resolve().parents[2] / "relay-cloudinit/providers.yaml"

_Show = Callable[[Request, str, str, int], Awaitable[Response]]
_Form = Mapping[str, str]


class Steps:
    """What the routes have in common.

    Args:
        client: asks about the device.
    """

    def __init__(self, client: DeskClient, frame: Frame) -> None:
        self._client, self._frame = client, frame
        self._providers: Mapping[str, Any] = yaml.safe_load(_PROVIDERS.read_text(encoding="utf-8"))

    async def relay(self, request: Request, session: str, complaint: str = "", status: int = 200) -> Response:
        """Show the relay's user-data, what to do with them, and how far home and relay are."""
        view = await run_in_threadpool(self._client.relay, session)
        facts = await run_in_threadpool(self._client.facts, session)
        wanted = request.query_params.get("provider", "")
        return self._frame.render(
            request,
            "relay.html",
            complaint,
            status=status,
            inside=True,
            view=view,
            step=relay_step(facts),
            form=SiteForm((), {}),
            pairing=facts.pairing,
            rebuilt=facts.pairing is not None and facts.pairing.stage is Stage.REBUILT,
            providers=self._providers,
            provider=wanted if wanted in self._providers else "generic",
        )

    async def relay_live(self, request: Request, session: str) -> Response:
        """Show how far home and relay are, and nothing else."""
        facts = await run_in_threadpool(self._client.facts, session)
        return self._frame.render(request, "relay-live.html", step=relay_step(facts), pairing=facts.pairing)

    async def begin_relay(self, request: Request, session: str) -> Response:
        """Let a device have a relay whose site names none."""
        return await self._changed(
            request,
            session,
            lambda form: BeginRelay.model_validate({"offline": form["offline"], "transport": form["transport"]}),
            self.relay,
        )

    async def make_relay(self, request: Request, session: str) -> Response:
        """Make user-data."""
        return await self._changed(
            request,
            session,
            lambda form: MakeRelay(ssh_key=form["ssh_key"].strip(), anew=form["anew"] == "yes"),
            self.relay,
        )

    async def point_relay(self, request: Request, session: str) -> Response:
        """Take the address that somebody has read off the provider's page."""
        return await self._changed(
            request, session, lambda form: PointRelay(address=form["address"].strip()), self.relay
        )

    async def claim_relay(self, request: Request, session: str) -> Response:
        """Take the consent to a relay that was built anew."""
        return await self._changed(request, session, lambda _: ClaimRelay(), self.relay)

    async def preflight(self, request: Request, session: str, complaint: str = "", status: int = 200) -> Response:
        """Show what the last pre-flight has found."""
        facts = await run_in_threadpool(self._client.facts, session)
        return self._frame.render(
            request,
            "preflight.html",
            complaint,
            status=status,
            inside=True,
            step=preflight_step(facts),
            last=facts.preflight,
            runs=facts.preflight_runs,
            shown=has_shown_mail(facts),
            relay=facts.relay,
        )

    async def start_preflight(self, request: Request, session: str) -> Response:
        """Begin a pre-flight, unless one is under way."""
        return await self._changed(request, session, lambda _: StartPreflight(), self.preflight)

    async def users(self, request: Request, session: str, complaint: str = "", status: int = 200) -> Response:
        """Show who has a mailbox."""
        facts = await run_in_threadpool(self._client.facts, session)
        changed = "" if complaint else request.query_params.get("changed", "")
        return self._frame.render(
            request,
            "users.html",
            complaint,
            status=status,
            inside=True,
            users=facts.users,
            changed=changed if changed in {user.address for user in facts.users} else "",
            mail_server=facts.mail_server,
            shortest=SHORTEST,
        )

    async def add_user(self, request: Request, session: str) -> Response:
        """Add a mailbox."""
        return await self._changed(
            request, session, lambda form: AddUser(address=form["address"].strip(), password=_same(form)), self.users
        )

    async def set_password(self, request: Request, session: str) -> Response:
        """Give a mailbox another password; nothing else on the page would show that it has one."""
        return await self._changed(
            request,
            session,
            lambda form: SetPassword(address=form["address"], password=_same(form)),
            self.users,
            lambda form: {"changed": form["address"]},
        )

    async def message(self, request: Request, session: str, complaint: str = "", status: int = 200) -> Response:
        """Show what became of the test message."""
        facts = await run_in_threadpool(self._client.facts, session)
        return self._frame.render(
            request,
            "message.html",
            complaint,
            status=status,
            inside=True,
            users=facts.users,
            told=facts.message,
            stays=facts.message_stays,
            waits=facts.message is not None and facts.message.fate in {Fate.QUEUED, Fate.DEFERRED},
        )

    async def send_message(self, request: Request, session: str) -> Response:
        """Send a test message."""
        return await self._changed(
            request,
            session,
            lambda form: SendTest(
                sender=form["sender"], password=form["password"], recipient=form["recipient"].strip()
            ),
            self.message,
        )

    async def _changed(
        self,
        request: Request,
        session: str,
        question: Callable[[_Form], Question],
        show: _Show,
        query: Callable[[_Form], _Form] = lambda _: {},
    ) -> Response:
        """Do what a form asks for, and lead back to the page that it is on; or show that page with what is wrong.

        Args:
            query: what the page is told then.
        """
        form = await self._frame.form(request)
        sent = request.state.sent if form is None else form
        request.state.typed = {name: sent[name] for name in _STAYS if name in sent}
        if form is None:
            return await show(request, session, OLD_FORM, 403)
        try:
            asked = question(form)
        except ValidationError as error:
            kinds = {found["type"] for found in error.errors(include_url=False, include_context=False)}
            text = "That is too long to be right." if "string_too_long" in kinds else "Choose one of each."
            return await show(request, session, text, 422)
        except Denied as error:
            return await show(request, session, sentence(error), 422)
        try:
            await run_in_threadpool(self._client.change, session, asked)
        except Denied as error:
            return await show(request, session, sentence(error), 422)
        told = urlencode(query(form))
        return RedirectResponse(re.sub(r"/[a-z]+$", "", request.url.path) + (f"?{told}" if told else ""), 303)


def _same(form: _Form) -> str:
    if form["password"] != form["again"]:
        raise Denied("these are two different passwords")
    return form["password"]
