"""A device behind the administrator's page: a real desk, and a device of whatever state a test gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from home.administrator import Gate
from home.desk import Desk, Look
from home.desk_client import DeskClient
from home.desk_facts import Facts
from home.page.app import make_app
from home.relay_view import Origin, RelayView
from home.status import Status
from home.store import StoreError
from tests.unit.browser import Browser
from tests.unit.page_samples import checked, facts, record, status

GOOD = "correct horse battery"
"""The administrator's password."""


@dataclass
class Device:
    """A device with a desk; its page may be seen by several browsers."""

    path: Path
    now: float = 1000.0
    kept: str | None = None
    status: Status = field(default_factory=status)
    looked: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    is_root: bool = False
    facts: Facts = field(default_factory=facts)
    relay: RelayView = field(default_factory=lambda: RelayView(origin=Origin.SPENT, name="mx.example.com"))
    asked: list[Mapping[str, Any]] = field(default_factory=list)
    refused: str = ""
    damaged: str = ""
    own_code: str = ""

    def __post_init__(self) -> None:
        self.gate = Gate(
            self.kept,
            keep=self._keep,
            hash_password=lambda password: f"#{password}",
            fits=lambda kept, password: kept == f"#{password}",
            clock=lambda: self.now,
            own_code=self.own_code,
        )
        look = Look(self._status, self._records, self._facts, self._hand)
        self.desk = Desk(self.gate, look, "AB:CD", lambda _: None)
        self.browser = self.another()

    def another(self, address: str = "192.168.1.7") -> Browser:
        return Browser(self.app(), address)

    def app(self) -> Starlette:
        return make_app(DeskClient(self.path), lambda: "darkpipe")

    def enter(self) -> Browser:
        self.browser.get()
        assert self.browser.post("/claim", code=self.gate.code, password=GOOD, again=GOOD).status == 303
        return self.browser

    def _keep(self, kept: str | None) -> None:
        self.kept = kept

    def _facts(self) -> Mapping[str, Any]:
        if self.damaged:
            raise StoreError(self.damaged)
        return self.facts.model_dump(mode="json")

    def _status(self) -> Mapping[str, Any]:
        self.looked.append("status")
        return self.status.model_dump(mode="json")

    def _hand(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        if question["do"] == "show-relay":
            return {"relay": self.relay.model_dump(mode="json")}
        self.asked.append(question)
        return {"refused": self.refused} if self.refused else {}

    def _records(self, check: bool) -> Mapping[str, Any]:
        self.looked.append("check" if check else "records")
        rows = self.rows or [checked("good") if check else record()]
        doubts = [] if check else self.doubts
        return {"records": rows, "unknown": [], "doubts": doubts, "zone": "$ORIGIN example.com.\n"}
