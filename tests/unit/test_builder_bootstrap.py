"""A site's keys on the computer: made once, kept beside the site file, for nobody else to read."""

from __future__ import annotations

import contextlib
import json
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import builder.bootstrap
from bootstrap.ends import Bootstrap, make_bootstrap
from builder.bootstrap import has_bootstrap, keys_folder, open_bootstrap
from builder.errors import BuildError
from builder.user_data import user_data
from model.site import Relay
from model.tunnel import HomeEnd, RelayEnd
from tests.unit.user_data_samples import some_site


def test_the_same_keys_every_time(tmp_path: Path) -> None:
    site, relay = tmp_path / "home.yaml", some_site().relays[0]
    first = open_bootstrap(site, relay)
    assert open_bootstrap(site, relay) == first
    assert user_data(some_site(), first) == user_data(some_site(), open_bootstrap(site, relay))
    assert open_bootstrap(site, Relay.model_validate({"address": "192.0.2.1"})) != first
    folder = keys_folder(site)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_two_first_calls_at_once_give_the_same_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)

    def make_slowly(relay: Relay) -> Bootstrap:
        with contextlib.suppress(threading.BrokenBarrierError):  # the other one waits elsewhere, as it should
            together.wait(0.2)
        return make_bootstrap(relay)

    monkeypatch.setattr(builder.bootstrap, "make_bootstrap", make_slowly)
    site, relay = tmp_path / "home.yaml", some_site().relays[0]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: open_bootstrap(site, relay), range(2))
    assert first == second == open_bootstrap(site, relay)


def test_the_keys_get_into_no_repository(tmp_path: Path) -> None:
    site = tmp_path / "home.yaml"
    site.touch()
    open_bootstrap(site, some_site().relays[0])
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    git = ["git", "-C", str(tmp_path), "status", "--porcelain", "--untracked-files=all"]
    assert subprocess.run(git, capture_output=True, text=True, check=True).stdout == "?? home.yaml\n"


def test_both_halves_belong_together(tmp_path: Path) -> None:
    bootstrap = open_bootstrap(tmp_path / "home.yaml", some_site().relays[0])
    assert bootstrap.home.addresses == bootstrap.relay.addresses
    assert isinstance(bootstrap.home, HomeEnd)
    assert isinstance(bootstrap.relay, RelayEnd)
    keys = {bootstrap.home.private_key, bootstrap.home.relay_key, bootstrap.relay.private_key, bootstrap.relay.home_key}
    assert len(keys) == 4


def test_addresses_are_made_up_anew_for_each(tmp_path: Path) -> None:
    made = {open_bootstrap(tmp_path / f"{number}.yaml", some_site().relays[0]).home.addresses for number in range(20)}
    assert len(made) == 20


def test_a_folder_that_others_may_read_is_refused(tmp_path: Path) -> None:
    site = tmp_path / "home.yaml"
    keys_folder(site).mkdir(mode=0o755)
    with pytest.raises(BuildError, match="found permissions 0755") as error:
        open_bootstrap(site, some_site().relays[0])
    assert "chmod 0700" in error.value.hint


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    site = tmp_path / "home.yaml"
    keys_folder(site).write_text("mine")
    assert not has_bootstrap(site, some_site().relays[0])
    with pytest.raises(BuildError, match="exists"):
        open_bootstrap(site, some_site().relays[0])


@pytest.mark.parametrize("part", ["home", "relay"])
@pytest.mark.parametrize("wrong", ["keys", "addresses"])
def test_ends_of_two_tunnels_are_refused(tmp_path: Path, part: str, wrong: str) -> None:
    site, relay = tmp_path / "home.yaml", some_site().relays[0]
    one, other = (open_bootstrap(site, relay).model_dump(mode="json"), make_bootstrap(relay).model_dump(mode="json"))
    theirs, addresses = (other, one) if wrong == "keys" else (one, other)
    mixed = theirs[part] | {"addresses": addresses[part]["addresses"]}
    (keys_folder(site) / "mx.example.com.json").write_text(json.dumps(one | {part: mixed}))
    with pytest.raises(BuildError, match=f"the {wrong} of the two ends do not belong together"):
        open_bootstrap(site, relay)


@pytest.mark.parametrize("content", ["", "{}", "null", '{"home": {"private_key": "c2VjcmV0"}}'])
def test_a_damaged_file_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    site, relay = tmp_path / "home.yaml", some_site().relays[0]
    open_bootstrap(site, relay)
    path = keys_folder(site) / "mx.example.com.json"
    path.write_text(content)
    with pytest.raises(BuildError) as error:
        open_bootstrap(site, relay)
    assert str(path) in str(error.value)
    assert "c2VjcmV0" not in str(error.value)
    assert path.read_text() == content
