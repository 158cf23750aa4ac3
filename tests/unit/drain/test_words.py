"""The queue and the drain in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from home.drain_state import Doing, Drained
from home.drain_words import as_data, rows
from model.control import Fault, QueueStatus

_CLOCK = datetime(2026, 11, 25, 12, tzinfo=UTC)


def _ago(**spent: int) -> int:
    return int((_CLOCK - timedelta(**spent)).timestamp() * 1000)


_QUEUE = QueueStatus(
    protocol=1,
    software="b1",
    epoch="e",
    count=340,
    octets=1_500_000_000,
    oldest=_ago(days=3),
    budget=4_000_000_000,
    drained=_ago(minutes=5),
    recipients=1,
    settings=1,
    overdue=2,
    faults=(Fault(_ago(hours=2), "the store fails", "see to it"),),
)
_DRAIN = Drained(written=100.0, doing=Doing.DRAINING, since=90.0, items=120, octets=3_400_000, put_off=1, relay=_QUEUE)


def test_people_are_told_how_much_waits_since_when_and_how_fast_it_comes() -> None:
    assert rows(_DRAIN, _CLOCK, 100.0) == [
        ("drain", "fetches what waits: 120 so far, 12.0 messages/s, 0.3 MB/s; 1 are tried again later"),
        ("queue", "340 messages, 1.5 GB of 4.0 GB (37 %)"),
        ("oldest", "2026-11-22 12:00 UTC (3 days ago)"),
        ("drained", "2026-11-25 11:55 UTC (5 minutes ago)"),
        ("overdue", "2 messages are kept beyond their time: their senders cannot be told"),
        ("fault", "the store fails, 2026-11-25 10:00 UTC (2 hours ago); see to it"),
    ]


def test_what_is_not_known_is_said() -> None:
    assert "journalctl" in rows(None, _CLOCK, 0.0)[-1][1]
    away = Drained(written=0.0, doing=Doing.FENCED, since=0.0, trouble="another home")
    assert rows(away, _CLOCK, 0.0)[-1] == ("trouble", "another home")


def test_programs_get_all_of_it() -> None:
    data = as_data(_DRAIN)
    assert data["queue"]["count"] == 340
    assert data["queue"]["faults"][0]["found"] == "the store fails"
    assert data["drain"] == {
        "doing": "draining",
        "trouble": "",
        "items": 120,
        "octets": 3_400_000,
        "put_off": 1,
        "lost": 0,
    }
    assert as_data(None) == {"drain": None, "queue": None}
