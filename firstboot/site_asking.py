"""The way from a device that has brought no site to one that has: nothing here knows of pages, sockets or consoles."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from firstboot.console_code import ConsoleCode, WrongCode
from firstboot.unlocking import Refused, Stage, View
from model.document import SEED_NAME
from model.first_site import Answer, Complaint, NoSiteError, first_site
from model.site import Site, UnlockPolicy

_FROM_FILE = f"What you have left empty is filled in from {SEED_NAME}: look at it, and send the form."
_ALREADY = "the device has a site already"
_TAKEN = "looking at the disks"


@dataclass(frozen=True)
class Judged:
    """What became of somebody's answers.

    Args:
        grant: shown in place of the code from now on.
        complaints: what is wrong; none: the site is kept.
        answers: what was judged, to be shown again.
    """

    grant: str
    complaints: tuple[Complaint, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)


class SiteSession:
    """Asks for a site until there is one; several people may try at once.

    Args:
        code: without which nobody is heard.
        keep: keeps a site so that a power cut does not take it away.
        policies: ways to unlock the disk that this device has.
        problems: what is wrong with the site that lies on the boot partition; empty when there is none.
        draft: what that says, by `Answer`; whoever has shown the code sees it in the fields that they left empty.
    """

    def __init__(
        self,
        code: ConsoleCode,
        keep: Callable[[Site], None],
        policies: Sequence[UnlockPolicy],
        problems: str = "",
        draft: Mapping[str, str] | None = None,
    ) -> None:
        self.code = code
        self.policies = tuple(policies)
        self.finished = threading.Event()
        self.site: Site | None = None
        self._keep = keep
        self.draft = draft or {}
        self._problems = problems
        self._text = _TAKEN
        self._busy = threading.Lock()

    def view(self) -> View:
        """Give what is to be seen now."""
        return View(Stage.TAKEN, self._text) if self.site else View(Stage.SITE, self._problems)

    def take(self, answers: Mapping[str, str], code: str) -> Judged:
        """Judge answers, and keep the site that they make; the same once more, as of a button pressed twice, is one.

        Args:
            answers: texts by `model.first_site.Answer`.

        Raises:
            Refused: the code is wrong, there is a site by now, or it cannot be kept; nothing has changed.
        """
        try:
            self.code.check(code)
        except WrongCode as error:
            raise Refused(str(error)) from None
        from_file: tuple[Complaint, ...] = ()
        # Only who sees it there can have emptied a field of it.
        if self.draft and not self.site and code != self.code.grant:
            answers = {answer: answers.get(answer, "").strip() or self.draft.get(answer, "") for answer in Answer}
            from_file = (Complaint(None, _FROM_FILE),)
        with self._busy:
            try:
                site = self._judge(answers)
            except NoSiteError as error:
                if self.site:
                    raise Refused(_ALREADY) from None
                return Judged(self.code.grant, from_file + error.complaints, answers)
            if from_file:
                return Judged(self.code.grant, from_file, answers)
            if self.site:
                if site == self.site:
                    return Judged(self.code.grant)
                raise Refused(_ALREADY)
            try:
                self._keep(site)
            except Exception as error:
                raise Refused(f"it cannot be kept on the boot partition: {error}") from error
            self.site = site
        self.finished.set()
        return Judged(self.code.grant)

    def tell(self, text: str) -> None:
        """Say what goes on once there is a site, to whoever looks."""
        self._text = text

    def _judge(self, answers: Mapping[str, str]) -> Site:
        site = first_site(answers)
        if site.disk.unlock not in self.policies:
            text = "This device cannot be unlocked like that. Choose another way."
            raise NoSiteError((Complaint(Answer.UNLOCK, text),))
        return site
