"""What documents and the example say of `site.yaml` is what the model takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from model.document import parse_site
from model.site import S3, Alarm, Disk, Relay, Site, UnlockPolicy, User

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
MODELS: tuple[type[BaseModel], ...] = (Site, Relay, S3, Alarm, Disk, User)
CHOICES: Mapping[str, type[StrEnum]] = {
    name: field.annotation
    for model in MODELS
    for name, field in model.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, StrEnum)
}
EXAMPLE = (REPOSITORY / "examples/home.yaml").read_text()


def wrong_choices(text: str) -> Iterator[str]:
    """The settings between backticks whose values the model does not have."""
    for quoted in re.findall(r"`(\{?\w+: [^`]+)`", text):
        try:
            found = yaml.safe_load(quoted)
        except yaml.YAMLError:
            continue
        yield from (f"{key}: {value}" for key, value in _settings(found) if value not in set(CHOICES[key]))


def _settings(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        for one in value:
            yield from _settings(one)
    elif isinstance(value, dict):
        for key, inside in value.items():
            if key in CHOICES and isinstance(inside, str):
                yield key, inside
            yield from _settings(inside)


def whole_example() -> str:
    """The example with all that is commented out in it."""
    head, _, rest = EXAMPLE.partition("# relays:\n")
    block, _, tail = rest.partition("\n\n")
    relays = "\n".join(line.removeprefix("# ").removeprefix("#") for line in block.splitlines())
    return f"{head}relays:\n{relays}\n\n{tail.replace('# catch_all:', 'catch_all:')}"


def test_settings_in_documents_have_values_that_are_there() -> None:
    assert {file.name: found for file in DOCUMENTS if (found := list(wrong_choices(file.read_text())))} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`disk: {unlock: stick}`", ["unlock: stick"]),
        ("`relays: [{address: mx.example.com, offline: bounce}]`", ["offline: bounce"]),
        ("`transport: mtls` and `data: usb` and `unlock: relay`", []),
    ],
)
def test_a_planted_value_is_found(text: str, found: list[str]) -> None:
    assert list(wrong_choices(text)) == found


def test_the_example_is_a_site_with_all_that_it_only_mentions() -> None:
    site = parse_site(whole_example(), "example")
    assert site.relays[0].s3
    assert site.users[0].catch_all == ("example.com",)


@pytest.mark.parametrize("model", MODELS)
def test_the_example_has_every_key(model: type[BaseModel]) -> None:
    keys = set(re.findall(r"(\w+):", whole_example()))
    assert set(model.model_fields) - keys == set()


def test_the_example_names_every_way_to_unlock() -> None:
    assert [policy for policy in UnlockPolicy if f"`{policy}`" not in EXAMPLE] == []
