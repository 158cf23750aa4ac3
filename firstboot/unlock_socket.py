"""What page, console and SSH ask darkpipe-disk.service about the disk, and about a site that it has not brought.

The page is nobody on this device: it may ask (by its group) and no more. What a stranger must not know or do without
the code on the console is decided on this side, by who is at the other end.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from firstboot.luks import LuksError
from firstboot.partitions import DiskError
from firstboot.questions import ask, serve_questions
from firstboot.seed import SeedError
from firstboot.site_asking import Judged, SiteSession
from firstboot.unlocking import Refused, Session, Stage, View, in_words
from firstboot.why import forget_reason, keep_reason
from model.first_site import Answer, Complaint
from model.site import UnlockPolicy
from stack.certificate import CertificateError

SOCKET = Path("/run/darkpipe-disk/control")
GROUP = "darkpipe-unlock"

_FAILED = "failed"
"""A file beside the socket, once nobody answers there: why the disk cannot be used, or is waited for. Without it, the
disk is there."""

_WORD = "word"
"""Likewise, once the disk is there: what has to be said of it."""

_KILLED = "darkpipe-disk.service, which waits for the disk, has ended without a word; the journal may say why"

_EXPECTED = (CertificateError, DiskError, LuksError, OSError, SeedError, subprocess.CalledProcessError)

_SECONDS = 600.0
"""A slow processor may try a passphrase for so long, and a slow disk takes its time to be made."""


Asking = SiteSession | Session
"""What may be asked about."""

_WITH_CODE = (Stage.SITE, Stage.NEW, Stage.CONFIRM)
"""Whoever has not written the recovery secret down chooses anew, with the code."""


@dataclass(frozen=True)
class Seen:
    """What an asker sees.

    Args:
        fingerprint: of the page's certificate.
        code: what the page asks for before a new device obeys; empty for strangers.
        own_code: whether that is the owner's own, which is not shown.
        refused_code: why the owner's own is not taken; empty when it is, or there is none.
        policies: ways to unlock the disk that this device has, while it asks for a site.
        draft: whether there is a site file that cannot be used, and that the form can be filled in from.
        answers: what that says, for a browser that has shown the code; empty for others.
        granted: whether this browser has shown the code of this start.
    """

    view: View
    fingerprint: str = ""
    code: str = ""
    own_code: bool = False
    refused_code: str = ""
    policies: tuple[UnlockPolicy, ...] = ()
    draft: bool = False
    answers: Mapping[str, str] = field(default_factory=dict)
    granted: bool = False


class UnlockClient:
    """Asks; each question on a connection of its own.

    Raises (all methods):
        Refused: with the text of the other side, or when there is none: the disk is not locked.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path

    def see(self, grant: str = "") -> Seen:
        """Ask how far it is.

        Args:
            grant: what a browser shows that has shown the code; empty for any other.
        """
        try:
            answer = self._ask({"do": "see", "grant": grant})
        except Refused:
            if failure := _read_failure(self._path):
                return Seen(View(Stage.FAILED, failure))
            raise
        view = View(Stage(answer["stage"]), answer["text"], tuple(answer["asked"]), answer["wait"])
        policies = tuple(map(UnlockPolicy, answer["policies"]))
        own, refused = answer["own_code"], answer["refused_code"]
        draft, answers, granted = answer["draft"], answer["answers"], answer["granted"]
        return Seen(view, answer["fingerprint"], answer["code"], own, refused, policies, draft, answers, granted)

    def word(self) -> str:
        """Give what has to be said of a disk that is there by now; empty for nothing."""
        try:
            return self._path.with_name(_WORD).read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def take_site(self, answers: Mapping[str, str], code: str) -> Judged:
        """Answer what a device asks that has brought no site."""
        answer = self._ask({"do": "site", "answers": dict(answers), "code": code})
        complaints = tuple(Complaint(Answer(name) if name else None, text) for name, text in answer["complaints"])
        return Judged(answer["grant"], complaints, answer["answers"])

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
def serve(
    asking: Asking, fingerprint: str, path: Path = SOCKET, group: str | None = GROUP
) -> Iterator[Callable[[Asking], None]]:
    """Answer for as long as it takes; when that ends with an error, whoever looks is told of it until the next start.

    Args:
        asking: what is asked about first.
        group: who may ask besides root; None for nobody.

    Yields:
        What makes something else be asked about from now on.

    Raises:
        OSError: the socket cannot be made.
    """
    now = asking

    def turn(other: Asking) -> None:
        nonlocal now
        now = other

    with serve_questions(
        lambda question, stranger: _answer(now, fingerprint, question, stranger=stranger), path, group
    ):
        try:
            yield turn
        except Exception as error:
            # While the socket is there: who finds neither takes the end of the waiting for success.
            keep_reason(_failure(error), path.with_name(_FAILED))
            raise


def leave_word(text: str, path: Path = SOCKET) -> None:
    """Have something said on the page to whoever waits there, when the disk is there."""
    keep_reason(text, path.with_name(_WORD))


def leave_failure(text: str, path: Path = SOCKET) -> None:
    """Have whoever asks about the disk, and finds nobody who answers, hear why it is not there."""
    keep_reason(text, path.with_name(_FAILED))


def forget_failure(path: Path = SOCKET) -> None:
    """The disk is there: nothing is to be said of why it was not."""
    forget_reason(path.with_name(_FAILED))


def forget_words(path: Path = SOCKET) -> None:
    """Begin anew: nothing is to be said of what was before."""
    forget_failure(path)
    forget_reason(path.with_name(_WORD))


def _failure(error: Exception) -> str:
    if isinstance(error, _EXPECTED):
        return in_words(error)
    # Any other error's text might quote the seed.
    return (
        f"DarkPipe itself has failed ({type(error).__name__}). Start the device again; if it stays like this, please "
        "report it"
    )


def _read_failure(path: Path) -> str:
    try:
        return path.with_name(_FAILED).read_text(encoding="utf-8").strip()
    except OSError:
        # Who ends in order takes the socket away before anything else.
        return _KILLED if path.is_socket() else ""


def _answer(asking: Asking, fingerprint: str, question: Mapping[str, Any], *, stranger: bool) -> Mapping[str, Any]:
    try:
        if question["do"] != "see":
            answer = (
                _do_site(asking, question)
                if isinstance(asking, SiteSession)
                else _do(asking, question, stranger=stranger)
            )
            if answer is not None:
                return answer
    except Refused as error:
        return {"refused": str(error)}
    return _see(asking, fingerprint, str(question.get("grant", "")), stranger=stranger)


def _do_site(asking: SiteSession, question: Mapping[str, Any]) -> Mapping[str, Any]:
    if question["do"] != "site":
        raise Refused("the device has no site yet, or just got it, and its disk is not there")
    answers = {str(name): str(text) for name, text in question["answers"].items()}
    judged = asking.take(answers, str(question["code"]))
    complaints = [(complaint.answer or "", complaint.text) for complaint in judged.complaints]
    return {"grant": judged.grant, "complaints": complaints, "answers": dict(judged.answers)}


def _do(session: Session, question: Mapping[str, Any], *, stranger: bool) -> Mapping[str, Any] | None:
    match question["do"]:
        case "choose":
            secret = session.choose(question["passphrase"], question["code"], stranger=stranger)
            return {"recovery": str(secret)}
        case "confirm":
            session.confirm([str(group) for group in question["typed"]])
        case "unlock":
            session.unlock(question["typed"], stranger=stranger)
        case "site":
            raise Refused("the device has a site already")
        case _:
            raise Refused("there is no such question")
    return None


def _see(asking: Asking, fingerprint: str, grant: str, *, stranger: bool) -> Mapping[str, Any]:
    view = asking.view()
    needed = view.stage in _WITH_CODE
    granted = asking.code.is_granted(grant)
    draft = asking.draft if isinstance(asking, SiteSession) else {}
    return {
        "stage": view.stage,
        "text": view.text,
        "asked": view.asked,
        "wait": view.wait,
        "fingerprint": fingerprint,
        "code": asking.code.shown if needed and not stranger else "",
        "own_code": needed and asking.code.own,
        "refused_code": asking.code.refusal if needed else "",
        "policies": asking.policies if isinstance(asking, SiteSession) else (),
        "draft": bool(draft),
        "answers": dict(draft) if granted else {},
        "granted": granted,
    }
