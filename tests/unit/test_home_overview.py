"""The home page's cards: none calls good what the problems above name."""

from __future__ import annotations

from datetime import timedelta

import pytest

from home.page.overview import Card, Mood, cards
from home.readings import Disk, Queue
from home.status import CertificateState, Status
from tests.unit.page_samples import GOOD_PROBE, NOW, service, status


def _card(title: str, found: Status) -> Card:
    return next(card for card in cards(found) if card.title == title)


def test_a_device_that_is_well_has_good_cards_only() -> None:
    assert {card.mood for card in cards(status())} == {Mood.GOOD}


@pytest.mark.parametrize(
    ("encrypted", "told"),
    [(True, ("It is encrypted.",)), (False, ("It is not encrypted: whoever takes it can read it.",)), (None, ())],
)
def test_whether_the_disk_is_encrypted_is_said_where_it_is_known(encrypted: bool | None, told: tuple[str, ...]) -> None:
    found = status(disk=Disk(size=2, free=1, write_error=None, errors={}, encrypted=encrypted))
    assert _card("Disk", found).lines == told


@pytest.mark.parametrize("state", ["failed", "inactive", "deactivating", "unknown"])
def test_a_service_that_does_not_run_is_not_among_the_well(state: str) -> None:
    card = _card("Services", status(services=(service("postfix", GOOD_PROBE), service("darkpipe-drain", state=state))))
    assert (card.mood, card.headline) == (Mood.BAD, "1 of 2 in trouble")
    assert card.lines == (f"darkpipe-drain: {state}",)


@pytest.mark.parametrize(("hours", "mood"), [(23, Mood.GOOD), (25, Mood.WATCH)])
def test_a_message_that_waits_for_long_is_to_be_looked_at(hours: int, mood: Mood) -> None:
    card = _card("Queue", status(queue=Queue(messages={"deferred": 1}, oldest_seconds=hours * 3600)))
    assert card.mood is mood


@pytest.mark.parametrize(
    ("left", "mood", "told"),
    [
        (timedelta(days=15), Mood.GOOD, "15 days left"),
        (timedelta(days=13), Mood.WATCH, "13 days left"),
        (timedelta(days=-3), Mood.WATCH, "it has ended"),
    ],
)
def test_a_certificate_that_is_not_renewed_is_to_be_looked_at(left: timedelta, mood: Mood, told: str) -> None:
    certificate = CertificateState(path="/x", names=("mail.example.com",), expires=NOW + left, self_signed=True)
    card = _card("System", status(certificates=(certificate,)))
    assert card.mood is mood
    assert f"certificate mail.example.com: self-signed, {told}" in card.lines
