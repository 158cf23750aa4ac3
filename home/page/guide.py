"""The guide: what it takes until mail comes and goes, and how far the device is with each of it.

Nothing of this is ticked off and kept: the same checks say it as on the rest of the page, whoever looks, and when.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from home.desk_facts import Facts
from home.dns_judges import Outcome
from home.pair_state import Stage
from home.room import megabytes
from home.status import Status
from home.trial_message import Fate


class Mark(StrEnum):
    """How far a step is."""

    DONE = "done"
    TO_DO = "to do"
    WAITING = "waiting"
    """It goes on by itself."""

    TROUBLE = "trouble"
    NONE = "not needed"


@dataclass(frozen=True)
class Step:
    """One of them.

    Args:
        text: how it is, in a sentence without its period.
        path: the page that has more; empty for none.
    """

    title: str
    mark: Mark
    text: str
    path: str = ""


PAIRING = {
    Stage.NO_RELAY: "Nobody has ordered one, as far as this device knows",
    Stage.CALLING: "Home calls its relay, which has not answered yet; a server has to be ordered for it first",
    Stage.INSTALLING: "Home has found its relay, which installs its software; this takes some minutes",
    Stage.OFFERING: "Home and relay exchange keys",
    Stage.CONFIRMING: "Home and relay confirm their new keys",
    Stage.PAIRED: "Home and relay are paired",
    Stage.CHANGING: "Home and relay are paired, and change to new keys",
    Stage.SILENT: "Home and relay are paired, and the relay does not answer now",
    Stage.REBUILT: "A relay answers that was built anew from the same user-data, and waits for your consent",
    Stage.BROKEN: "Files about the relay cannot be used",
}
"""What is said of each stage."""

_DNS_MARKS = {Outcome.GOOD: Mark.DONE, Outcome.WARNING: Mark.DONE, Outcome.WAITING: Mark.WAITING}
_GOES_ON = {Stage.CALLING, Stage.INSTALLING, Stage.OFFERING, Stage.CONFIRMING}


def steps(status: Status, facts: Facts) -> tuple[Step, ...]:
    """Give all steps, in the order in which they are taken."""
    return (_disk(status), relay_step(facts), _dns(facts), preflight_step(facts), _users(facts), _message(facts))


def next_step(found: tuple[Step, ...]) -> Step | None:
    """Give the one that somebody should turn to; None when there is nothing to do."""
    open_ones = [step for step in found if step.mark in {Mark.TO_DO, Mark.TROUBLE, Mark.WAITING}]
    return open_ones[0] if open_ones else None


def has_shown_mail(facts: Facts) -> bool:
    """Tell whether somebody may be told that mail comes and goes: a pre-flight has passed, or there is no relay."""
    return not facts.relay or preflight_step(facts).mark is Mark.DONE


def _disk(status: Status) -> Step:
    if status.disk is None or status.disk.write_error:
        return Step("Disk", Mark.TROUBLE, "It does not take data; what is wrong stands below")
    return Step("Disk", Mark.DONE, f"{megabytes(status.disk.size)}, in use")


def relay_step(facts: Facts) -> Step:
    """Tell how far the relay is."""
    title, path = "Relay", "/relay"
    if not facts.relay:
        return Step(title, Mark.NONE, "This device has none: mail to others waits here", path)
    if facts.pairing is None:
        return Step(title, Mark.TROUBLE, "The service that speaks with it does not run", path)
    stage = facts.pairing.stage
    text = PAIRING[stage]
    if stage is Stage.NO_RELAY:
        return Step(title, Mark.TO_DO, text, path)
    if stage in _GOES_ON:
        return Step(title, Mark.WAITING, text, path)
    if stage is Stage.PAIRED and not facts.pairing.settings:
        return Step(title, Mark.WAITING, f"{text}, and the relay is told for whom it takes mail", path)
    return Step(title, Mark.DONE if stage in {Stage.PAIRED, Stage.CHANGING} else Mark.TROUBLE, text, path)


def _dns(facts: Facts) -> Step:
    title, path = "DNS", "/dns"
    if not facts.relay:
        return Step(title, Mark.NONE, "Without a relay the records would lead nowhere", path)
    if facts.dns is None:
        return Step(title, Mark.TO_DO, "Nobody has looked whether the records are there", path)
    return Step(title, _DNS_MARKS.get(facts.dns.worst, Mark.TROUBLE), facts.dns.text, path)


def preflight_step(facts: Facts) -> Step:
    """Tell how far the pre-flight is."""
    title, path, last = "Pre-flight", "/preflight", facts.preflight
    if not facts.relay:
        return Step(title, Mark.NONE, "Without a relay no mail comes or goes", path)
    if facts.preflight_runs:
        return Step(title, Mark.WAITING, "It is under way", path)
    if last is None:
        return Step(title, Mark.TO_DO, "Nobody has looked whether mail can come and go", path)
    if not last.counts(facts.pairing):
        return Step(title, Mark.TO_DO, "Nobody has looked since this device has another relay", path)
    mark = Mark.DONE if last.passed else Mark.TROUBLE
    return Step(title, mark, last.text, path)


def _users(facts: Facts) -> Step:
    title, path, number = "Users", "/users", len(facts.users)
    waiting = [user.address for user in facts.users if not user.has_password]
    if waiting:
        return Step(title, Mark.TO_DO, f"{waiting[0]} has no password that anybody has seen", path)
    return Step(title, Mark.DONE, f"{number} mailbox{'es' if number > 1 else ''}", path)


def _message(facts: Facts) -> Step:
    title, path = "Test message", "/message"
    if not facts.relay:
        return Step(title, Mark.NONE, "Without a relay it would wait here", path)
    if facts.message is None:
        return Step(title, Mark.TO_DO, "None was sent", path)
    to = facts.message.message.recipient
    if facts.message_stays:
        return Step(title, Mark.TO_DO, f"It went to {to}, on this device: send one elsewhere", path)
    return {
        Fate.SENT: Step(title, Mark.DONE, f"The server of {to} has taken it", path),
        Fate.QUEUED: Step(title, Mark.WAITING, f"It is on its way to {to}", path),
        Fate.DEFERRED: Step(title, Mark.WAITING, f"The server of {to} has not taken it yet", path),
        Fate.BOUNCED: Step(title, Mark.TROUBLE, f"It was refused on its way to {to}", path),
    }[facts.message.fate]
