"""What every request to the page has to pass, and what every answer carries.

The page is for a browser in the home's network that came to it by itself: another site may not reach it in the name of
that browser (DNS rebinding, forged forms), nor frame it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.lan import is_neighbour, is_ours

COOKIE = "__Host-darkpipe"
"""Only over HTTPS, only for this very host (RFC 6265bis §4.1.3.2)."""

_MOST_BYTES = 8192
_TOKEN_BYTES = 16

_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # With no-referrer a browser says "Origin: null" of the page's own forms, too (Fetch standard, Origin header).
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """Middleware (ASGI) around the page.

    Args:
        hostname: gives the device's name now.
    """

    def __init__(self, app: ASGIApp, hostname: Callable[[], str]) -> None:
        self._app = app
        self._hostname = hostname

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if refused := self._refuse(scope["method"], headers, (scope.get("client") or ("",))[0]):
            await PlainTextResponse(f"{refused[1]}\n", refused[0])(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)

    def _refuse(self, method: str, headers: Headers, client: str) -> tuple[int, str] | None:
        if not is_neighbour(client):
            return 403, "This page is for the home's own network."
        host = headers.get("host", "")
        if not is_ours(host, self._hostname()):
            return 421, "This is another name than this device has. Open the page by the address on its console."
        return _refuse_form(host, headers) if method == "POST" else None


def _refuse_form(host: str, headers: Headers) -> tuple[int, str] | None:
    origin = headers.get("origin")
    if origin is not None and origin != f"https://{host}":
        return 403, "Another site has sent this form. Open the page by the address on the device's console."
    length = headers.get("content-length", "")
    # With Transfer-Encoding the length counts for nothing (RFC 9112 §6.3). No browser sends a form like that.
    if "transfer-encoding" in headers or not length.isascii() or not length.isdigit():
        return 411, "The length is missing."
    if len(length) > 9 or int(length) > _MOST_BYTES:
        return 413, "This is too long."
    return None


class Tokens:
    """Forms carry a token that only a page of this server can have put into them: it fits the browser's cookie."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)

    def cookie(self, headers: Headers) -> str:
        """Give the cookie that the browser has sent, or a new one."""
        # Not by http.cookies, which after a pair that it does not understand reads no other: a neighbour in the home's
        # domain can give browsers such a one (RFC 6265 §8.6).
        sent = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        return sent if len(sent) == 2 * _TOKEN_BYTES else secrets.token_hex(_TOKEN_BYTES)

    def token(self, cookie: str) -> str:
        """Give what fits a cookie."""
        return hmac.new(self._key, cookie.encode(), hashlib.sha256).hexdigest()

    def fits(self, cookie: str, token: str) -> bool:
        """Tell whether a form has the token that fits the cookie."""
        return hmac.compare_digest(self.token(cookie).encode(), token.encode(errors="replace"))
