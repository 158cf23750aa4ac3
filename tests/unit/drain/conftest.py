"""A relay's real queue, a small mail server, and home's drain between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from home.drain_run import Drain
from tests.drain import LocalRelay, make_drain
from tests.mail_sink import Sink


@pytest.fixture
def relay(tmp_path: Path) -> LocalRelay:
    return LocalRelay(tmp_path / "relay")


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.close()


@pytest.fixture
def told() -> list[str]:
    """What the drain has said."""
    return []


@pytest.fixture
def start(tmp_path: Path, relay: LocalRelay, sink: Sink, told: list[str]) -> Callable[[], Drain]:
    """Starts home's drain, or starts it anew."""
    return lambda: make_drain(tmp_path / "home", relay, sink, told.append)
