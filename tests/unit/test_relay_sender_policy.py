"""SPF at acceptance: whoever is slow, or breaks it, costs a result and no message."""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from relay.sender_policy import SenderPolicy, by_dns
from relay.smtp import Mail

_LIBRARY = Path("/usr/lib/python3/dist-packages/spf.py")
_CLIENT = {"ADDR": "192.0.2.7", "HELO": "sender.example.net"}


def _mail(sender: str = "a@example.net", **client: str) -> Mail:
    return Mail(sender, None, utf8=False, parameters={}, client=client or _CLIENT)


def test_the_domain_of_the_sender_is_asked_or_that_of_its_greeting() -> None:
    asked: list[tuple[str, str, str]] = []

    def check(address: str, sender: str, helo: str, _seconds: float) -> str:
        asked.append((address, sender, helo))
        return "pass"

    policy = SenderPolicy(check)
    for mail in (_mail(), _mail(""), _mail("x", ADDR="IPV6:2001:db8::1", HELO="h.example")):
        question = policy.ask(mail)
        assert question
        found = question.result()
        assert found["result"] == "pass"
        assert (found["identity"], found["domain"]) == (
            ("mailfrom", "example.net") if mail.sender == "a@example.net" else
            ("helo", "sender.example.net") if not mail.sender else ("mailfrom", "x")
        )  # fmt: skip
    assert asked == [
        ("192.0.2.7", "a@example.net", "sender.example.net"),
        ("192.0.2.7", "", "sender.example.net"),
        ("2001:db8::1", "x", "h.example"),
    ]
    policy.stop()


@pytest.mark.parametrize("client", [{"HELO": "x"}, {"ADDR": "nowhere"}, {"ADDR": ""}])
def test_of_whom_nothing_is_known_nothing_is_asked(client: dict[str, str]) -> None:
    assert SenderPolicy(lambda *_: "pass").ask(_mail(**client)) is None


def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    released = threading.Event()

    def check(*_: object) -> str:
        released.wait(30)
        return "pass"

    policy = SenderPolicy(check, seconds=0.05)
    questions = [policy.ask(_mail()) for _ in range(200)]
    assert [question.result()["result"] for question in questions if question] == ["temperror"] * 200
    released.set()
    policy.stop()


@pytest.mark.parametrize("answer", [ValueError("odd DNS"), "", "maybe"])
def test_what_breaks_the_library_is_a_result(answer: Exception | str) -> None:
    def check(*_: object) -> str:
        if isinstance(answer, Exception):
            raise answer
        return answer

    question = SenderPolicy(check).ask(_mail())
    assert question
    assert question.result()["result"] == "temperror"


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Debian's python3-spf, which this environment does not have by itself."""
    specification = importlib.util.spec_from_file_location("spf", _LIBRARY)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "spf", module)
    specification.loader.exec_module(module)
    return module


_ZONE = {
    ("example.net", "TXT"): [("v=spf1 ip4:192.0.2.0/24 -all",)],
    ("loop.example", "TXT"): [("v=spf1 include:loop.example -all",)],
}


@pytest.mark.parametrize(
    ("address", "sender", "result"),
    [
        ("192.0.2.7", "a@example.net", "pass"),
        ("198.51.100.1", "a@example.net", "fail"),
        ("192.0.2.7", "a@example.org", "none"),
        ("192.0.2.7", "a@loop.example", "permerror"),
        ("192.0.2.7", "a@late.example", "temperror"),
        ("192.0.2.7", "a@bücher.example", "none"),
    ],
)
def test_debians_library_judges(
    library: ModuleType, monkeypatch: pytest.MonkeyPatch, address: str, sender: str, result: str
) -> None:
    def look_up(name: str, kind: str, *_: object, **__: object) -> list[object]:
        if name == "late.example":
            raise library.TempError("DNS timeout")
        return [((name, kind), tuple(text.encode() for text in texts)) for texts in _ZONE.get((name, kind), ())]

    monkeypatch.setattr(library, "DNSLookup", look_up)
    assert by_dns(address, sender, "sender.example.net", 5) == result
