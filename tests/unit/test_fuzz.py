"""The fuzzer's targets take what they begin with, and complain of a planted fault."""

from __future__ import annotations

import pytest

import tests.fuzz.targets
from model.envelope import Envelope
from relay.smtp import Session
from tests.fuzz.targets import SEEDS, TARGETS


@pytest.mark.parametrize(("name", "octets"), [(name, octets) for name, some in SEEDS.items() for octets in some])
def test_seeds_are_taken(name: str, octets: bytes) -> None:
    TARGETS[name](octets)


def test_a_session_that_depends_on_how_octets_are_cut_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Session.feed

    def forgetful(session: Session, data: bytes) -> None:
        session._input = b"" if len(data) == 1 else session._input
        feed(session, data)

    monkeypatch.setattr(Session, "feed", forgetful)
    with pytest.raises(AssertionError):
        TARGETS["smtp"](SEEDS["smtp"][0])


def test_an_envelope_that_is_not_what_was_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Envelope, "__eq__", lambda _, other: False)
    with pytest.raises(AssertionError):
        TARGETS["item"](SEEDS["item"][0])


def test_a_handler_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tests.fuzz.targets, "QueueApi", lambda *_: lambda request: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        TARGETS["api"](SEEDS["api"][0])
