"""Why home and its relay cannot speak with each other, each with what to do about it."""

from __future__ import annotations

from model.control import PROTOCOL


class ControlFailure(Exception):
    """A request has got no good answer; the text says what was found.

    Attributes:
        remedy: what to do, in a sentence.
    """

    remedy = ""

    def __str__(self) -> str:
        return f"{super().__str__()}. {self.remedy}"

    @property
    def found(self) -> str:
        """What was found, without the remedy."""
        return super().__str__()


class Unreachable(ControlFailure):
    """Nobody answers, or the connection ends in the middle."""

    remedy = "Home tries again by itself; `darkpipe relay status` shows whether the tunnel is up"


class WrongCertificate(ControlFailure):
    """Who answers does not have the relay's key."""

    remedy = (
        "This is not the relay that home was paired with, or somebody has changed it. If you have rebuilt it, "
        "`darkpipe pair --again` claims it; if not, `darkpipe relay replace` makes a new one"
    )


class NotAccepted(ControlFailure):
    """The relay does not know home's certificate."""

    remedy = (
        "The relay belongs to another home, or was set up anew. If you have rebuilt it, `darkpipe pair --again` "
        "claims it"
    )


class OtherRelay(ControlFailure):
    """Who answers has the relay's key, and another id."""

    remedy = "If the relay was set up anew, `darkpipe pair --again` claims it"


class Garbled(ControlFailure):
    """The answer cannot be understood."""

    remedy = "Home and relay run software that does not fit together; `darkpipe relay status` shows the relay's"


class Apart(ControlFailure):
    """Home and relay speak versions that are two or more apart."""

    def __init__(self, theirs: int) -> None:
        super().__init__(f"the relay speaks version {theirs} of the protocol, and home version {PROTOCOL}")
        self.theirs = theirs
        self.remedy = (
            "Bring home up to date"
            if theirs > PROTOCOL
            else "Bring the relay up to date: a home that is one version older than this one can still do so"
        )


class Refused(ControlFailure):
    """The relay has understood, and does not do it; its own sentence says why."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status

    def __str__(self) -> str:
        return self.found


class Fenced(Refused):
    """Another home counts for the relay (status 409)."""
