"""darkpipe-desk: what stands behind the device's page. It judges who asks, and looks at the device for those who may.

The page itself is nobody. What it cannot ask here without a session, somebody who has broken into it cannot either.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstboot.console import announce
from firstboot.lan import home_addresses, page_places
from firstboot.owner_code import KEPT as FIRST_CODE
from firstboot.owner_code import read_kept_code
from firstboot.page.certificate import PATH, fingerprint
from firstboot.qr_code import beside_code
from firstboot.questions import ask, serve_questions
from home.administrator import Denied, Gate, SignedOut
from home.command import EXPECTED
from home.configure import known_accounts
from home.desk_client import GROUP, SOCKET
from home.desk_facts import Watched, read_facts
from home.dns_commands import known_records, record_json
from home.dns_records import zone_text
from home.seen import DNS
from home.status import read_status
from home.store import Store
from model.owner_code import CODE_NAME
from model.problems import Refusal
from stack.durable import discard_partials, write_atomically
from stack.passwords import fits, hash_password
from stack.stack import COMPONENTS, Stack

KEPT = Path("page/administrator.json")
"""Below `data`."""

HAND = Path("/run/darkpipe-hand")
"""Where darkpipe-hand is asked (darkpipe-hand.socket)."""

_HAND_SECONDS = 150.0
"""A change of the accounts has every daemon check its configuration, which takes a small computer a minute."""

_STATE = Path("/state")
_FRESH = 3.0
"""Seconds for which a status is shown again: asking every service costs something."""

_ADDRESS_SECONDS = 120.0
"""For so long after the start the console learns of an address that the router gives."""


class KeptError(Exception):
    """The file with the administrator's password is damaged; the text names it."""


def read_kept(path: Path) -> str | None:
    """Read the hash of the administrator's password; None while there is none.

    Raises:
        KeptError: the file is damaged. Nobody gets in then; a device that counts as unclaimed would be worse.
        OSError: the disk fails.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        kept = json.loads(content)["password"]
    except (ValueError, KeyError, TypeError):
        kept = None
    if not isinstance(kept, str) or not kept.startswith("$argon2id$"):
        raise KeptError(f"{path} is damaged: bring it back from a backup, or remove it and claim the device anew")
    return kept


def write_kept(path: Path, kept: str | None) -> None:
    """Keep another hash, for root's eyes only, or none; on return it is durable.

    Raises:
        OSError: it cannot be kept.
    """
    if kept is None:
        path.unlink(missing_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    else:
        write_atomically(path, f"{json.dumps({'format': 1, 'password': kept})}\n".encode(), 0o600)


@dataclass(frozen=True)
class Look:
    """How the desk looks at the device, for those who may see it.

    Args:
        status: gives what `darkpipe status --json` prints.
        records: gives what `DeskClient.records` returns; with True, name servers are asked.
        facts: gives how far the device is, as JSON (home/desk_facts.py).
        hand: asks darkpipe-hand, which changes the device; gives its answer.
    """

    status: Callable[[], Mapping[str, Any]]
    records: Callable[[bool], Mapping[str, Any]]
    facts: Callable[[], Mapping[str, Any]]
    hand: Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Desk:
    """Answers the questions of `home/desk_client.py`.

    Args:
        fingerprint: of the page's certificate.
        changed: is called with the gate when it was claimed or forgotten.
    """

    def __init__(self, gate: Gate, look: Look, fingerprint: str, changed: Callable[[Gate], None]) -> None:
        self._gate, self._look, self._fingerprint, self._changed = gate, look, fingerprint, changed

    def answer(self, question: Mapping[str, Any], stranger: bool) -> Mapping[str, Any]:
        """Answer one question; a stranger is whoever is not root."""
        try:
            return self._answer(question, stranger=stranger)
        except SignedOut:
            return {"signed-out": True}
        except (Denied, Refusal, *EXPECTED) as error:
            return {"refused": str(error)}

    def _answer(self, question: Mapping[str, Any], *, stranger: bool) -> Mapping[str, Any]:
        match question["do"]:
            case "see":
                told = ("", "") if stranger else (self._gate.code, self._fingerprint)
                own = self._gate.own_code
                return {"claimed": self._gate.claimed, "code": told[0], "fingerprint": told[1], "own_code": own}
            case "claim":
                session = self._gate.claim(str(question["code"]), str(question["password"]))
                self._changed(self._gate)
                return {"session": session}
            case "sign-in":
                return {"session": self._gate.sign_in(str(question["password"]))}
            case "sign-out":
                self._gate.sign_out(str(question["session"]))
            case "forget" if not stranger:
                self._gate.forget()
                self._changed(self._gate)
            case "check" | "status" | "dns" | "facts" | "hand" as what:
                self._gate.check(str(question["session"]))
                return self._shown(what, question)
            case _:
                return {"refused": "there is no such question"}
        return {}

    def _shown(self, what: str, question: Mapping[str, Any]) -> Mapping[str, Any]:
        match what:
            case "status":
                return {"status": self._look.status()}
            case "dns":
                return self._look.records(bool(question["check"]))
            case "facts":
                return {"facts": self._look.facts()}
            case "hand":
                return self._look.hand(dict(question["ask"]))
        return {}


class Fresh:
    """Looks again only after some seconds; who comes meanwhile is shown the same.

    Args:
        look: takes its time.
        clock: seconds that only ever grow.
    """

    def __init__(
        self,
        look: Callable[[], Mapping[str, Any]],
        seconds: float = _FRESH,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._seconds, self._clock = look, seconds, clock
        self._lock = threading.Lock()
        self._seen: tuple[float, Mapping[str, Any]] | None = None

    def __call__(self) -> Mapping[str, Any]:
        """Give what was seen last."""
        with self._lock:
            if self._seen is None or self._clock() - self._seen[0] > self._seconds:
                found = self._look()
                self._seen = self._clock(), found
            return self._seen[1]


def read_records(store: Store, *, check: bool) -> Mapping[str, Any]:
    """Give the records of all domains, and with `check` what the name servers have of them.

    Raises:
        Refusal: the device was not set up.
        OSError, StoreError, DkimError: a file cannot be read.
    """
    from home.dns_checks import check_records
    from home.dns_lookup import RealDns

    dns = RealDns()
    accounts = known_accounts(store)
    found, relay = known_records(accounts, (), dns)
    rows = [each.as_json() for each in check_records(found, relay, dns)] if check else map(record_json, found.records)
    zone = zone_text(found, [domain.name for domain in accounts.domains])
    # What was checked says by itself that an address is not proven.
    doubts = [] if check else list(found.doubts)
    return {"records": list(rows), "unknown": list(found.unknown), "doubts": doubts, "zone": zone}


def ask_hand(question: Mapping[str, Any], path: Path = HAND) -> Mapping[str, Any]:
    """Ask darkpipe-hand for a change of the device."""
    answer = ask(path, question, _HAND_SECONDS)
    return {"refused": "the device does not do it; its log says why"} if answer is None else answer


def greeting(hostname: str, addresses: tuple[str, ...], fingerprint: str, code: str, *, own_code: bool = False) -> str:
    """Write what the console says of the page, for 80 columns.

    Args:
        code: by which it is claimed; empty when somebody has done so.
        own_code: whether it is claimed by the owner's own.
    """
    places = page_places(hostname, addresses)
    warning = (
        "The browser warns of the certificate, which is",
        "the device's own. Compare its SHA-256",
        "fingerprint:",
        "",
        fingerprint[:47],
        fingerprint[48:],
    )
    last = ("", f"The page asks for this code: {code[:4]} {code[4:]}") if code else ()
    last = ("", f"The page asks for your code of {CODE_NAME}") if own_code else last
    first = ("This device has a page for its administrator.", "In a browser at home, open", "")
    return beside_code(places, (*first, *places, "", *warning, *last))


def _wait_for_address(stopped: threading.Event) -> bool:
    end = time.monotonic() + _ADDRESS_SECONDS
    while time.monotonic() < end and not stopped.wait(1.0):
        if home_addresses():
            return True
    return False


def main() -> int:
    """Run as systemd's service; exit status 1 when the file with the password cannot be used."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    store, stack = Store(), Stack.load(COMPONENTS)
    kept = store.data / KEPT
    first = store.data / FIRST_CODE
    discard_partials(kept.parent)

    def keep(wanted: str | None) -> None:
        write_kept(kept, wanted)
        first.unlink(missing_ok=True)

    try:
        found, own = read_kept(kept), read_kept_code(first)
        if found is not None:
            first.unlink(missing_ok=True)  # the power went right after the claim
    except (KeptError, OSError) as error:
        print(error, flush=True)
        return 1
    gate = Gate(
        found,
        keep=keep,
        hash_password=hash_password,
        fits=fits,
        clock=time.monotonic,
        own_code=own,
    )
    certificate = fingerprint((_STATE / PATH).read_text(encoding="ascii"))

    def show(gate: Gate) -> None:
        name, addresses = socket.gethostname(), home_addresses()
        announce(greeting(name, addresses, certificate, gate.code, own_code=gate.own_code))

    status = Fresh(lambda: read_status(stack, store).model_dump(mode="json"))
    records = Watched(lambda check: read_records(store, check=check), store.data / DNS)
    look = Look(status, records, lambda: read_facts(store, records.seen, ask_hand).model_dump(mode="json"), ask_hand)
    with serve_questions(Desk(gate, look, certificate, show).answer, SOCKET, GROUP):
        show(gate)
        if not home_addresses() and _wait_for_address(stopped):
            show(gate)
        stopped.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
