"""A site made of what a person has answered: to `./darkpipe init`, or on the page of a device that has brought none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from model.document import check_values
from model.passwords import GENERATE
from model.problems import Finding, Kind
from model.site import DataDisk, OfflinePolicy, Site, Transport, UnlockPolicy
from model.yaml_faults import SyntaxFault
from model.yaml_tree import read_tree


class Answer(StrEnum):
    """What is asked on the page."""

    DOMAINS = "domains"
    OWNER = "owner"
    """The first mailbox, in the form of `mailbox`."""
    OTHERS = "others"
    """More of them, one in a line."""
    RELAY = "relay"
    """Name or IP address; empty for none."""
    OFFLINE = "offline"
    TRANSPORT = "transport"
    DATA = "data"
    UNLOCK = "unlock"


@dataclass(frozen=True)
class Complaint:
    """What is wrong with an answer; None is all of them together."""

    answer: Answer | None
    text: str


class NoSiteError(Exception):
    """The answers make no site; holds all that can be said about them."""

    def __init__(self, complaints: tuple[Complaint, ...]) -> None:
        super().__init__("; ".join(complaint.text for complaint in complaints))
        self.complaints = complaints


def words(text: str) -> list[str]:
    """Split a list as people type it: by spaces, commas and line ends."""
    return [word for word in re.split(r"[\s,]+", text) if word]


def mailbox(text: str) -> dict[str, Any]:
    """Read one mailbox, its address and then its aliases, into the shape of `site.yaml`; the device makes its password.

    Args:
        text: with at least one word.
    """
    address, *aliases = words(text)
    return {"address": address, "aliases": aliases, "password": GENERATE}


def relays(
    address: str, offline: str = OfflinePolicy.QUEUE, transport: str = Transport.WIREGUARD
) -> list[dict[str, Any]]:
    """Give the relay of an address in the shape of `site.yaml`; an empty one means none."""
    address = address.strip()
    return [{"address": address, "offline": str(offline), "transport": str(transport)}] if address else []


def first_site(answers: Mapping[str, str]) -> Site:
    """Make a site of the answers to the page, by the checks of a `site.yaml`.

    Args:
        answers: texts by `Answer`; one that is missing counts as empty.

    Raises:
        NoSiteError: they make none that works today.
    """
    data = _composed(answers)
    if findings := check_values(data):
        raise NoSiteError(tuple(dict.fromkeys(_complaint(finding) for finding in findings)))
    return Site.model_validate(data)


def answers_in(text: str) -> dict[str, str]:
    """Read what a site file says of that which the page asks, though the file as a whole cannot be used.

    Returns:
        Texts by `Answer`, as a person would type them; what is missing, or is none of the choices, is not there.
    """
    try:
        data = read_tree(text).data
    except SyntaxFault:
        return {}
    if not isinstance(data, dict):
        return {}
    users = [_mailbox_text(user) for user in _maps(data.get("users"))]
    relay = next(iter(_maps(data.get("relays"))), {})
    disk = next(iter(_maps([data.get("disk")])), {})
    found = {
        Answer.DOMAINS: " ".join(_texts(data.get("domains"))),
        Answer.OWNER: users[0] if users else "",
        Answer.OTHERS: "\n".join(filter(None, users[1:])),
        Answer.RELAY: " ".join(_texts([relay.get("address")])),
        Answer.OFFLINE: _choice(relay.get("offline"), OfflinePolicy),
        Answer.TRANSPORT: _choice(relay.get("transport"), Transport),
        Answer.DATA: _choice(disk.get("data"), DataDisk),
        Answer.UNLOCK: _choice(disk.get("unlock"), UnlockPolicy),
    }
    return {str(answer): text for answer, text in found.items() if text}


def _maps(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _mailbox_text(user: dict[str, Any]) -> str:
    return " ".join(_texts([user.get("address")]) + _texts(user.get("aliases")))


def _choice(value: Any, choices: type[StrEnum]) -> str:
    return value if isinstance(value, str) and value in set(choices) else ""


def _composed(answers: Mapping[str, str]) -> dict[str, Any]:
    said = {answer: answers.get(answer, "").strip() for answer in Answer}
    # The owner's place is kept when it is empty, so that what is said of the others is said of them.
    users = [mailbox(said[Answer.OWNER]) if words(said[Answer.OWNER]) else {}]
    users += [mailbox(line) for line in said[Answer.OTHERS].splitlines() if words(line)]
    disk = {"data": said[Answer.DATA] or DataDisk.SYSTEM.value}
    if said[Answer.UNLOCK]:
        disk["unlock"] = said[Answer.UNLOCK]
    offline = said[Answer.OFFLINE] or OfflinePolicy.QUEUE
    transport = said[Answer.TRANSPORT] or Transport.WIREGUARD
    return {
        "version": 1,
        "domains": words(said[Answer.DOMAINS]),
        "users": users,
        "relays": relays(said[Answer.RELAY], offline, transport),
        "disk": disk,
    }


def _complaint(finding: Finding) -> Complaint:
    answer = _answer(finding)
    if finding.kind in {Kind.MISSING_KEY, Kind.EMPTY_LIST} and answer in _MISSING:
        return Complaint(answer, _MISSING[answer])
    if finding.kind is Kind.NO_RELAY:
        return Complaint(answer, _NO_RELAY)
    remedy = finding.remedy.rstrip(".")
    end = "" if remedy.endswith("?") else "."
    return Complaint(
        answer, f"Found {finding.found}; expected {finding.expected}. {remedy[:1].upper()}{remedy[1:]}{end}"
    )


def _answer(finding: Finding) -> Answer | None:
    match finding.path:
        case ("domains", *_):
            return Answer.DOMAINS
        case ("users", 0, *_) | ("users",) | ("admin", *_):
            return Answer.OWNER
        case ("users", *_):
            return Answer.OTHERS
        case ("relays", _, "offline" | "transport" as key, *_) | ("disk", "data" | "unlock" as key, *_):
            return Answer(str(key))
        case ("relays", *_):
            return Answer.RELAY
        case _:
            return None


_NO_RELAY = (
    "The relay can help only if there is one, and if the device reaches it by WireGuard. Say its name or address "
    "above, with WireGuard; or choose another way."
)

_MISSING = {
    Answer.DOMAINS: "No domain yet. Type one that you have registered, such as example.com.",
    Answer.OWNER: "No address yet. Type one in your domain, such as alice@example.com.",
    Answer.UNLOCK: "Nothing is chosen yet. There is no default: mail on a disk that is not encrypted must be your own "
    "decision.",
}
