"""Home brings the relay's software, once, and tells what comes of it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from home.bundle import Carried, Courier, NotInstalled, Older, bring
from home.control_client import Answer, ControlClient
from home.control_errors import Unreachable
from model.bundle import BundleState, BundleStatus

_OURS, _OTHER = "1" * 64, "0" * 64


class _Agent:
    """Answers in an order; an answer that is None is none."""

    def __init__(self, *answers: BundleStatus | None) -> None:
        self._answers = list(answers)
        self.taken: list[tuple[str, int]] = []

    def request(self, method: str, path: str, body: bytes | BinaryIO = b"") -> Answer:
        if method == "PUT":
            assert not isinstance(body, bytes)
            self.taken.append((path, len(body.read())))
            return Answer(202, {})
        answer = self._answers.pop(0)
        if answer is None:
            raise Unreachable("nobody answers")
        return Answer(200, {}, answer.to_json())


def _status(state: BundleState, bundle: str = _OTHER, other: str = "", problem: str = "") -> BundleStatus:
    return BundleStatus(bundle, "0.1.0", state, other, problem)


def _bring(tmp_path: Path, answers: Iterable[BundleStatus | None], **options: Any) -> tuple[_Agent, BundleStatus]:
    path = tmp_path / "bundle.tar"
    path.write_bytes(b"x" * 100_000)
    agent = _Agent(*answers)
    client = cast("ControlClient", agent)
    return agent, bring(client, Carried(path, _OURS, "0.2.0"), sleep=lambda _: None, **options)


def test_what_runs_already_is_not_brought(tmp_path: Path) -> None:
    agent, _ = _bring(tmp_path, [_status(BundleState.INSTALLED, _OURS)])
    assert agent.taken == []


def test_the_agent_itself_is_started_again_meanwhile(tmp_path: Path) -> None:
    told: list[float] = []
    trying = _status(BundleState.TRYING, other=_OURS)
    answers = [_status(BundleState.INSTALLED), trying, None, None, _status(BundleState.INSTALLED, _OURS)]
    agent, known = _bring(tmp_path, answers, report=told.append)
    assert agent.taken == [(f"/bundle?id={_OURS}", 100_000)]
    assert known.bundle == _OURS
    assert told[-1] == 1.0
    assert told == sorted(told)


def test_what_the_relay_has_refused_is_not_brought_again_by_itself(tmp_path: Path) -> None:
    refused = _status(BundleState.REFUSED, other=_OURS, problem="the agent does not answer")
    with pytest.raises(NotInstalled, match="gone back: the agent does not answer"):
        _bring(tmp_path, [refused])
    agent, _ = _bring(tmp_path, [refused, _status(BundleState.INSTALLED, _OURS)], again=True, downgrade=True)
    assert agent.taken[0][0] == f"/bundle?id={_OURS}&downgrade=yes"


def test_a_day_later_what_was_refused_is_tried_once_more(tmp_path: Path) -> None:
    """The relay's power may have failed meanwhile."""
    path = tmp_path / "bundle.tar"
    path.write_bytes(b"x")
    refused = _status(BundleState.REFUSED, other=_OURS, problem="the relay was switched off while it was tried")
    day, now = 86400.0, 5.0
    courier, carried = Courier(lambda: now), Carried(path, _OURS, "0.2.0")

    def bring_at(moment: float, *answers: BundleStatus) -> int:
        nonlocal now
        now, agent = moment, _Agent(*answers)
        with suppress(NotInstalled):
            courier.bring(cast("ControlClient", agent), carried, lambda _: None, lambda _: None)
        return len(agent.taken)

    assert bring_at(5.0, _status(BundleState.INSTALLED), refused) == 1
    assert [bring_at(moment, refused) for moment in (65.0, day)] == [0, 0]
    assert bring_at(day + 5, refused, refused) == 1
    assert [bring_at(moment, refused) for moment in (day + 65, 2 * day)] == [0, 0]
    assert bring_at(2 * day + 5, refused, _status(BundleState.INSTALLED, _OURS)) == 1


def test_a_relay_that_has_gone_back_says_why(tmp_path: Path) -> None:
    refused = _status(BundleState.REFUSED, other=_OURS, problem="the agent does not answer")
    with pytest.raises(NotInstalled, match="the agent does not answer"):
        _bring(tmp_path, [_status(BundleState.INSTALLED), _status(BundleState.TRYING), refused])


def test_what_the_relay_says_cannot_paint_on_the_terminal(tmp_path: Path) -> None:
    for answers in ([_status(BundleState.REFUSED, other=_OURS, problem="a\x1b[2Jb")], []):
        known = _status(BundleState.REFUSED, problem="a\x1b[2Jb")
        with pytest.raises(NotInstalled) as refused:
            _bring(tmp_path, answers or [_status(BundleState.INSTALLED), known])
        assert "\x1b" not in str(refused.value)
        assert "[2Jb" in str(refused.value)


def test_a_trial_that_goes_on_is_waited_for(tmp_path: Path) -> None:
    trying = _status(BundleState.TRYING, other=_OURS)
    agent, known = _bring(tmp_path, [trying, trying, _status(BundleState.INSTALLED, _OURS)])
    assert (agent.taken, known.bundle) == ([], _OURS)


def test_a_relay_that_does_not_come_back_is_given_up(tmp_path: Path) -> None:
    clock = iter(range(0, 10**6, 100))
    with pytest.raises(Unreachable):
        _bring(tmp_path, [_status(BundleState.INSTALLED), *[None] * 50], clock=lambda: float(next(clock)))


def test_a_relay_with_newer_software_is_sent_nothing_unless_home_says_so(tmp_path: Path) -> None:
    newer = BundleStatus(_OTHER, "0.10.0", BundleState.INSTALLED)
    agent = _Agent(newer)
    path = tmp_path / "bundle.tar"
    path.touch()
    with pytest.raises(Older, match=r"home has software of version 0\.2\.0, and the relay has version 0\.10\.0"):
        bring(cast("ControlClient", agent), Carried(path, _OURS, "0.2.0"))
    assert agent.taken == []
    agent, _ = _bring(tmp_path, [newer, _status(BundleState.INSTALLED, _OURS)], downgrade=True)
    assert agent.taken[0][0].endswith("downgrade=yes")
