"""The seed: what the builder puts on the boot partition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bootstrap.ends import make_bootstrap
from builder.seed import Seed, read_seed
from model.document import SEED_NAME
from model.owner_code import CODE_NAME
from model.site import Site
from model.tunnel import HOME_FILE, HomeEnd

_SITE = Site.model_validate(
    {
        "version": 1,
        "domains": ["example.com"],
        "users": [{"address": "alice@example.com"}],
        "disk": {"unlock": "none"},
        "relays": [{"address": "mx.example.com", "offline": "tempfail"}],
    }
)


_TUNNEL = make_bootstrap(_SITE.relays[0]).home


@pytest.mark.parametrize("site", [None, _SITE])
@pytest.mark.parametrize("tunnel", [None, _TUNNEL])
@pytest.mark.parametrize("code", ["", "sevenwetgeese7"])
def test_what_is_written_is_read_again(tmp_path: Path, site: Site | None, tunnel: HomeEnd | None, code: str) -> None:
    seed = Seed(site, tunnel, code)
    for name, text in seed.files().items():
        (tmp_path / name).write_text(text)
    assert read_seed(tmp_path) == seed
    expected = {SEED_NAME: site, HOME_FILE: tunnel, CODE_NAME: code}
    assert {path.name for path in tmp_path.iterdir()} == {name for name, content in expected.items() if content}
    assert "geese" not in repr(seed)


def test_an_image_without_a_site_brings_nothing() -> None:
    assert Seed().files() == {}


def test_it_holds_homes_half_and_not_the_relays() -> None:
    bootstrap = make_bootstrap(_SITE.relays[0])
    files = Seed(_SITE, bootstrap.home).files()
    assert json.loads(files[HOME_FILE])["private_key"] == bootstrap.home.private_key
    assert not any(bootstrap.relay.private_key in text for text in files.values())
    assert bootstrap.home.private_key not in files[SEED_NAME]
    assert bootstrap.home.private_key not in repr(Seed(_SITE, bootstrap.home))
