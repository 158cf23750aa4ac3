"""What page, console and SSH ask darkpipe-disk.service about the disk.

The page is nobody on this device: it may ask (by its group) and no more. What a stranger must not know or do without
the code on the console is decided on this side, by who is at the other end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstboot.questions import ask, serve_questions
from firstboot.unlocking import Refused, Session, Stage, View

SOCKET = Path("/run/darkpipe-disk/control")
GROUP = "darkpipe-unlock"

_SECONDS = 600.0
"""A slow processor may try a passphrase for so long, and a slow disk takes its time to be made."""


@dataclass(frozen=True)
class Seen:
    """What an asker sees.

    Args:
        fingerprint: of the page's certificate.
        code: what the page asks for before a passphrase is chosen; empty for strangers.
    """

    view: View
    fingerprint: str = ""
    code: str = ""


class UnlockClient:
    """Asks; each question on a connection of its own.

    Raises (all methods):
        Refused: with the text of the other side, or when there is none: the disk is not locked.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path

    def see(self) -> Seen:
        """Ask how far it is."""
        answer = self._ask({"do": "see"})
        view = View(Stage(answer["stage"]), answer["text"], tuple(answer["asked"]), answer["wait"])
        return Seen(view, answer["fingerprint"], answer["code"])

    def choose(self, passphrase: str, code: str = "") -> str:
        """Choose the passphrase of a new disk; gives the recovery secret in its written form."""
        return str(self._ask({"do": "choose", "passphrase": passphrase, "code": code})["recovery"])

    def confirm(self, typed: tuple[str, ...]) -> None:
        """Type a part of the recovery secret back; returns when the disk is made."""
        self._ask({"do": "confirm", "typed": list(typed)})

    def unlock(self, typed: str) -> None:
        """Type passphrase or recovery secret; returns when the disk is unlocked."""
        self._ask({"do": "unlock", "typed": typed})

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        answer = ask(self._path, question, _SECONDS)
        if answer is None:
            raise Refused("the disk is not waiting for anything")
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer


@contextmanager
def serve(session: Session, fingerprint: str, path: Path = SOCKET, group: str | None = GROUP) -> Iterator[None]:
    """Answer for as long as it takes.

    Args:
        group: who may ask besides root; None for nobody.

    Raises:
        OSError: the socket cannot be made.
    """
    with serve_questions(
        lambda question, stranger: _answer(session, fingerprint, question, stranger=stranger), path, group
    ):
        yield


def _answer(session: Session, fingerprint: str, question: Mapping[str, Any], *, stranger: bool) -> Mapping[str, Any]:
    try:
        match question["do"]:
            case "choose":
                secret = session.choose(question["passphrase"], question["code"], stranger=stranger)
                return {"recovery": str(secret)}
            case "confirm":
                session.confirm([str(group) for group in question["typed"]])
            case "unlock":
                session.unlock(question["typed"], stranger=stranger)
            case "see":
                pass
            case _:
                return {"refused": "there is no such question"}
    except Refused as error:
        return {"refused": str(error)}
    view = session.view()
    seen = {"stage": view.stage, "text": view.text, "asked": view.asked, "wait": view.wait, "fingerprint": fingerprint}
    return {**seen, "code": "" if stranger or view.stage is not Stage.NEW else session.code}
