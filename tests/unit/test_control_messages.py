"""What the messages of the control plane take: nothing but what their fields say, whoever has written them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.bundle import BundleStatus, Manifest
from model.control import ControlError, Message, Page, Problem, QueuedItem, QueueSettings, QueueStatus
from model.pairing import AgentState, Confirm, Counter, Offer
from tests.unit.certificates import some_certificates

_KINDS: list[type[Message]] = [AgentState, BundleStatus, Confirm, Counter, Manifest, Offer]
_KINDS += [Page, Problem, QueuedItem, QueueSettings, QueueStatus]
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6)
_LEAVES |= st.sampled_from(["a" * 32, "A" * 43 + "=", "10.0.0.1", "0.1", "installed", some_certificates()[0][1]])
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "int | None": (int, type(None)),
}


@given(kind=st.sampled_from(_KINDS), data=st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_json_comes_is_refused_or_what_its_fields_say(kind: type[Message], data: st.DataObject) -> None:
    fields = dataclasses.fields(kind)
    try:
        message = kind.read(json.dumps({field.name: data.draw(_VALUES) for field in fields}).encode())
    except ControlError:
        return
    for field in fields:
        kinds = _TYPES.get(str(field.type))
        assert kinds is None or type(getattr(message, field.name)) in kinds, field.name


_GOOD: dict[type[Message], Message] = {
    AgentState: AgentState(1, "", paired=True, clock=0),
    BundleStatus: BundleStatus.of({"bundle": "", "version": "0.1", "state": "empty"}),
    QueueStatus: QueueStatus(1, "", "", 0, 0, None, 0, None, 0, 0),
}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (AgentState, {"recipients": "1"}),
        (AgentState, {"settings": True}),
        (AgentState, {"software": None}),
        (AgentState, {"recipients": 10**4000}),
        (AgentState, {"clock": -1}),
        (BundleStatus, {"version": "newest"}),
        (BundleStatus, {"version": f"0.{'1' * 5000}"}),
        (BundleStatus, {"problem": 5}),
        (QueueStatus, {"count": 1.5}),
        (QueueStatus, {"oldest": "now"}),
    ],
)
def test_a_relay_cannot_answer_with_something_else_than_a_field_is(kind: type[Message], wrong: dict[str, Any]) -> None:
    good = _GOOD[kind].to_json()
    assert kind.read(good) == _GOOD[kind]
    with pytest.raises(ControlError):
        kind.read(json.dumps({**json.loads(good), **wrong}).encode())


def test_beside_a_certificate_nothing_is_taken() -> None:
    """The other end keeps it, and could use none of its own certificates with it any more."""
    _, certificate = some_certificates()[0]
    key = "A" * 43 + "="
    assert Counter("b" * 32, key, certificate).certificate == certificate
    for more in (f"{certificate}\nhello", f"hello\n{certificate}", f"{certificate}{' ' * 10000}"):
        with pytest.raises(ControlError, match="more than a certificate"):
            Counter.of({"relay": "b" * 32, "key": key, "certificate": more})
