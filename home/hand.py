"""darkpipe-hand: changes the device for whoever has a session of the page. darkpipe-desk judges that, and asks here.

systemd takes each connection and starts one process for it, which answers one question and ends: a hand that is not
needed uses nothing, and it has more rights than all others. It may be asked by darkpipe-desk.service alone.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from home import preflight_job, relay_begin, relay_draft, trial_message
from home.command import EXPECTED, change
from home.hand_questions import (
    QUESTION,
    AddUser,
    BeginRelay,
    ClaimRelay,
    MakeRelay,
    PointRelay,
    Question,
    SendTest,
    SetPassword,
    ShowRelay,
    ShowTest,
    StartPreflight,
)
from home.pair_commands import ask as ask_pairing
from home.pair_state import Wish
from home.pairing_file import PairingError
from home.relay_peer import FOLDER
from home.seen import PREFLIGHT
from home.store import Store
from home.user_work import with_user
from model.account_changes import set_password
from model.accounts import Accounts
from model.names import mail_address
from model.problems import Refusal
from stack.passwords import check_password, fits, hash_password

DESK = "darkpipe-desk.service"
"""Who may ask."""

_PREFLIGHT = "darkpipe-preflight.service"
_LONGEST_LINE = 16384
_PATIENCE = 10.0
_PEER = struct.Struct("3i")


class HandError(Exception):
    """Something on this device does not do what it should; the text says what."""


def start_unit(unit: str) -> None:
    """Have systemd start a unit, and do not wait for it; one that runs goes on.

    Raises:
        HandError: it does not.
    """
    done = subprocess.run(
        ["systemctl", "--no-block", "start", unit], capture_output=True, text=True, check=False, timeout=30
    )
    if done.returncode != 0:
        raise HandError(f"{unit} cannot be started: {done.stderr.strip()}")


@dataclass(frozen=True)
class Hand:
    """Does what is asked for.

    Args:
        folder: home's for pairing.
        change: changes the accounts, as the commands do.
        start: starts a unit.
        wish: lays a wish before darkpipe-pair, and gives what became of it.
    """

    store: Store = field(default_factory=Store)
    folder: Path = FOLDER
    change: Callable[..., Accounts] = change
    start: Callable[[str], None] = start_unit
    wish: Callable[[Wish], str] = ask_pairing

    def answer(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a question as it came; what cannot be done is told in words."""
        try:
            question = QUESTION.validate_python(asked)
        except ValidationError:
            return {"refused": "this is no question"}
        try:
            return self._do(question)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[0]
            return {"refused": f"a file about the relay is damaged: {found['msg']}"}
        except (Refusal, HandError, PairingError, trial_message.SendError, *EXPECTED) as error:
            return {"refused": str(error)}

    def _do(self, question: Question) -> Mapping[str, Any]:
        match question:
            case ShowRelay() | BeginRelay() | MakeRelay() | PointRelay() | ClaimRelay():
                return self._do_relay(question)
            case StartPreflight():
                self._start_preflight()
            case AddUser(address=address, password=password):
                self._add_user(address, password)
            case SetPassword(address=address, password=password):
                hashed, name = hash_password(check_password(password)), mail_address(address)
                self.change(lambda before: set_password(before, name, hashed), end_sessions_of=name)
            case SendTest(sender=sender, password=password, recipient=recipient):
                trial_message.send(self.store, sender, password, recipient)
            case ShowTest():
                told = trial_message.look(self.store)
                return {"message": told and told.model_dump(mode="json")}
        return {}

    def _do_relay(self, question: ShowRelay | BeginRelay | MakeRelay | PointRelay | ClaimRelay) -> Mapping[str, Any]:
        match question:
            case ShowRelay():
                return {"relay": relay_draft.show(self.store, self.folder).model_dump(mode="json")}
            case BeginRelay(offline=offline, transport=transport):
                relay_begin.begin(self.store, offline, transport, self.change)
            case MakeRelay(ssh_key=key, anew=anew):
                relay_draft.make(self.store, key, anew=anew, folder=self.folder)
            case PointRelay(address=address):
                relay_draft.point(self.store, address, self.folder)
            case ClaimRelay():
                return {"said": self.wish(Wish.AGAIN)}
        return {}

    def _start_preflight(self) -> None:
        path = self.store.data / PREFLIGHT
        preflight_job.begin(path, preflight_job.boot_id(), time.monotonic(), datetime.now(UTC))
        try:
            self.start(_PREFLIGHT)
        except HandError as error:
            preflight_job.fail(path, str(error), datetime.now(UTC))
            raise

    def _add_user(self, address: str, password: str) -> None:
        name = mail_address(address)
        hashed = hash_password(check_password(password))

        def wish(before: Accounts) -> Accounts:
            found = before.user(name)
            # A button that was pressed twice: the first takes a small computer a minute.
            if found and found.password_hash and fits(found.password_hash, password):
                return before
            return with_user(before, name, hashed, None, self.store, old_mail=False)

        self.change(wish)


def unit_of(process: int, proc: Path = Path("/proc")) -> str:
    """Tell which unit of systemd a process belongs to (cgroups(7)); empty when that cannot be seen."""
    try:
        return (proc / str(process) / "cgroup").read_text().strip().rpartition("/")[2]
    except OSError:
        return ""


def serve(connection: socket.socket, answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Answer the one question of a connection, if whoever asks may: root in darkpipe-desk.service."""
    connection.settimeout(_PATIENCE)
    # unix(7): struct ucred has pid, uid and gid.
    process, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    with contextlib.suppress(OSError), connection.makefile("rwb") as file:
        if user != 0 or unit_of(process) != DESK:
            told: Mapping[str, Any] = {"refused": "this is for darkpipe-desk.service alone"}
        else:
            told = _heard(file.readline(_LONGEST_LINE), answer)
        file.write(json.dumps(told).encode() + b"\n")


def _heard(line: bytes, answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Mapping[str, Any]:
    try:
        asked = json.loads(line)
    except ValueError:
        asked = None
    return answer(asked) if isinstance(asked, dict) else {"refused": "this is no question"}


def main() -> int:
    """Run as systemd's service, with the connection as standard input (Accept=yes in systemd.socket(5))."""
    with socket.socket(fileno=sys.stdin.fileno()) as connection:
        serve(connection, Hand().answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
