"""A browser as far as the tests of pages need one."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.applications import Starlette

HOST = "192.168.1.20"


@dataclass(frozen=True)
class Answer:
    """What a browser gets."""

    status: int
    headers: dict[str, str]
    text: str
    cookies: tuple[str, ...] = ()


class Browser:
    """Keeps the cookie, and fills in the form that it has seen last."""

    def __init__(self, app: Starlette, address: str = "192.168.1.7") -> None:
        self.app, self._address = app, address
        self.cookies: dict[str, str] = {}
        self.token = ""

    @property
    def cookie(self) -> str:
        """The header field."""
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items() if value)

    def get(self, path: str = "/", host: str = HOST, query: str = "") -> Answer:
        return self._keep(self.send("GET", path, {"host": host}, query=query))

    def walk(self, path: str, method: str = "GET") -> Answer:
        """Go where an address bar or an old form leads, as browsers do: they ask for a page, and follow."""
        answer = self.send(method, path, {"host": HOST, "origin": f"https://{HOST}", "accept": "text/html,*/*;q=0.8"})
        return (
            self._keep(self.send("GET", answer.headers["location"], {"host": HOST})) if answer.status == 303 else answer
        )

    def post(self, path: str, **fields: str) -> Answer:
        headers = {"host": HOST, "origin": f"https://{HOST}"}
        return self._keep(self.send("POST", path, headers, urlencode({"token": self.token, **fields}).encode()))

    def send(self, method: str, path: str, headers: dict[str, str], body: bytes = b"", query: str = "") -> Answer:
        headers = {"cookie": self.cookie, "content-length": str(len(body)), **headers}
        headers.setdefault("content-type", "application/x-www-form-urlencoded")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": (self._address, 50000),
            "server": (HOST, 443),
        }
        sent: list[dict[str, object]] = []

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        asyncio.run(self.app(scope, receive, send))  # type: ignore[arg-type]
        start = sent[0]
        pairs: list[tuple[bytes, bytes]] = start["headers"]  # type: ignore[assignment]
        text = b"".join(bytes(message.get("body", b"")) for message in sent[1:])  # type: ignore[call-overload]
        fields = [(name.decode(), value.decode()) for name, value in pairs]
        cookies = tuple(value for name, value in fields if name == "set-cookie")
        return Answer(int(str(start["status"])), dict(fields), text.decode(errors="replace"), cookies)

    def _keep(self, answer: Answer) -> Answer:
        for line in answer.cookies:
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = "" if "max-age=0" in line.lower() else value
        if found := re.search(r'name="token" value="([0-9a-f]+)"', answer.text):
            self.token = found[1]
        return answer
