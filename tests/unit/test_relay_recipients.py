"""The list of recipients: whom it takes, and what it tells to whoever steals it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import relay.recipients
from model.recipients import DomainRule, ListError, RecipientList
from relay.recipients import Recipients

_DOMAINS = {
    "example.com": DomainRule(separator="+"),
    "example.org": DomainRule(catch_all=True),
    "bücher.example": DomainRule(),
    "xn--bcher-kva.example": DomainRule(),
}
_ADDRESSES = ["Alice@example.com", "a+b@bücher.example", "a+b@xn--bcher-kva.example", "bücher@bücher.example"]
_LIST = RecipientList.make(7, _DOMAINS, _ADDRESSES)


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("alice@example.com", 250),
        ("ALICE@EXAMPLE.COM", 250),
        ('"alice"@example.com', 250),
        ("alice+shop@example.com", 250),
        ("alice+@example.com", 250),
        ("alice-shop@example.com", 550),
        ("+shop@example.com", 550),
        ("bob@example.com", 550),
        ("anybody@example.org", 250),
        ("a+b@bücher.example", 250),
        ("a+b@xn--bcher-kva.example", 250),
        ("a@bücher.example", 550),
        ("a+c@bücher.example", 550),
        ("BÜCHER@bücher.example", 250),
        ("SRS0=x2Yk=QT=example.net=bob@example.com", 450),
        ('"srs1=x2Yk=example.org==x2Yk=QT=example.net=bob"@example.com', 450),
        ("srs0-x2Yk=QT=example.net=bob@example.com", 450),
        ("srs0@example.com", 550),
        ("SRS0=x2Yk=QT=example.net=bob@example.net", 554),
        ("alice@example.net", 554),
        ("alice@sub.example.com", 554),
        ("alice@example.com@example.net", 554),
        ("alice%example.net@example.com", 550),
        ("alice", 554),
        ("@example.com", 554),
        ("", 554),
    ],
)
def test_who_is_a_recipient(address: str, code: int) -> None:
    recipients = Recipients(_LIST)
    assert recipients.judge(address).code == code
    assert recipients.judge(address).code == code, "the second time, from memory"


def test_without_a_list_everybody_is_asked_to_come_again() -> None:
    assert Recipients().judge("alice@example.com").code == 450


def test_what_is_written_is_read_again() -> None:
    assert RecipientList.read(_LIST.text()) == _LIST


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"version": 1}', _LIST.text().replace('"salt": "', '"salt": "x'), _LIST.text()[:-1],
     _LIST.text().replace('"hashes": ["', '"hashes": ["00", "'), _LIST.text().replace("catch_all", "catch")],
)  # fmt: skip
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ListError):
        RecipientList.read(text)


def test_it_tells_no_address_and_the_same_address_not_twice_in_the_same_way() -> None:
    text = _LIST.text()
    assert not any(
        address.partition("@")[0].lower() in text.replace("catch_all", "") for address in ("alice@", "bücher@")
    )
    assert RecipientList.make(8, _DOMAINS, _ADDRESSES).hashes.isdisjoint(_LIST.hashes)
    assert "alice" not in repr(_LIST)


def test_an_older_list_is_not_taken_and_a_newer_one_is_asked_anew() -> None:
    recipients = Recipients(_LIST)
    assert recipients.judge("bob@example.com").code == 550
    assert not recipients.replace(RecipientList.make(7, _DOMAINS, ["bob@example.com"]))
    assert not recipients.replace(RecipientList.make(6, _DOMAINS, ["bob@example.com"]))
    assert recipients.judge("bob@example.com").code == 550
    assert recipients.replace(RecipientList.make(8, _DOMAINS, ["bob@example.com"]))
    assert recipients.version == 8
    assert (recipients.judge("bob@example.com").code, recipients.judge("alice@example.com").code) == (250, 550)


def test_who_asks_again_costs_nothing_and_not_everybody_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def cheap(folded: str, _salt: bytes) -> bytes:
        asked.append(folded)
        return folded.encode()

    monkeypatch.setattr(relay.recipients, "hash_address", cheap)
    monkeypatch.setattr(relay.recipients, "_REMEMBERED", 10)
    recipients = Recipients(_LIST)
    for _ in range(3):
        recipients.judge("nobody@example.com")
    assert asked == ["nobody@example.com"]
    for number in range(100):
        recipients.judge(f"{number}@example.com")
    recipients.judge("nobody@example.com")
    assert asked.count("nobody@example.com") == 2
    assert len(recipients._remembered) == 10


@given(st.text(max_size=40))
def test_whatever_is_asked_there_is_an_answer(address: str) -> None:
    few = RecipientList(1, {"example.com": DomainRule(catch_all=True)}, b"", frozenset())
    assert Recipients(few).judge(address).code in {250, 554}


def test_what_was_asked_before_is_quick_and_a_guess_is_not() -> None:
    recipients = Recipients()
    assert recipients.is_quick("alice@example.com"), "without a list the answer is there"
    rules = {"example.com": DomainRule(separator="+"), "example.org": DomainRule(catch_all=True)}
    recipients.replace(RecipientList.make(1, rules, ["alice@example.com"]))
    for address in ("anybody@example.org", "a@example.net", "postmaster"):
        assert recipients.is_quick(address), address
    for address, code in (("alice@example.com", 250), ("alice+x@example.com", 250), ("guess@example.com", 550)):
        assert not recipients.is_quick(address), address
        assert recipients.judge(address).code == code
        assert recipients.is_quick(address), address
    assert not recipients.is_quick("guess+x@example.com")
