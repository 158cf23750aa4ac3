"""User-data that a device makes: kept for root alone, in step with what home goes by, and gone once they are spent."""

from __future__ import annotations

import itertools
import stat
from pathlib import Path

import pytest
import yaml

from home import pairing_file, relay_draft
from home.pair_keeper import STATE_FILE
from home.pair_state import REPLACEMENT, WISHES
from home.pairing import Kept
from home.pairing_file import Document
from home.relay_draft import make, point, read_draft, show
from home.relay_half import DRAFT, retire
from home.relay_view import Origin
from home.store import Store, write_accounts
from model.document import dump_site
from model.mtls import MtlsHome, read_home_end
from model.problems import Refusal
from stack.durable import write_atomically
from tests.unit.stack_samples import accounts, site

_RELAY = "relays: [{address: mx.example.com, offline: tempfail%s}]"


class Place:
    """A device's disk."""

    def __init__(self, data: Path, relay: str) -> None:
        self.store, self.folder = Store(data), data / "pairing"
        for name in ("darkpipe", "pairing"):
            (data / name).mkdir(parents=True)
        write_accounts(self.store.accounts, accounts())
        self.store.site.write_text(dump_site(site()).replace("relays: []", relay))

    def begin_pairing(self) -> Document:
        """Do what darkpipe-pair does at its first look."""
        document = Document(read_home_end(self.store.tunnel.read_bytes()), Kept("a" * 32))
        pairing_file.write(self.folder / STATE_FILE, document)
        return document

    @property
    def wish(self) -> Path:
        return self.folder / WISHES / REPLACEMENT


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A device whose site names a relay, and that has no keys of it."""
    return Place(tmp_path / "data", _RELAY % "")


@pytest.mark.parametrize("transport", ["wireguard", "mtls"])
def test_user_data_are_what_cloud_init_takes_and_home_goes_by_the_other_half(tmp_path: Path, transport: str) -> None:
    place = Place(tmp_path / "data", _RELAY % f", transport: {transport}")
    assert show(place.store, place.folder).origin is Origin.TO_MAKE
    make(place.store, "", anew=False, folder=place.folder)
    shown = show(place.store, place.folder)
    assert (shown.origin, shown.mtls) == (Origin.HERE, transport == "mtls")
    assert shown.size == len(shown.text.encode()) <= shown.limit
    assert "write_files" in yaml.safe_load(shown.text)
    home = read_home_end(place.store.tunnel.read_bytes())
    assert isinstance(home, MtlsHome) is (transport == "mtls")
    draft = read_draft(place.folder)
    assert draft
    assert draft.bootstrap.home == home
    for path in (place.folder / DRAFT, place.store.tunnel):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert draft.bootstrap.relay.private_key not in repr(draft)


def test_the_text_is_the_same_each_time(place: Place) -> None:
    make(place.store, "", anew=False, folder=place.folder)
    assert show(place.store, place.folder) == show(place.store, place.folder)


def test_keys_that_there_are_need_consent(place: Place) -> None:
    make(place.store, "", anew=False, folder=place.folder)
    first = show(place.store, place.folder)
    with pytest.raises(Refusal, match="keys that this device has"):
        make(place.store, "", anew=False, folder=place.folder)
    assert show(place.store, place.folder) == first
    make(place.store, "", anew=True, folder=place.folder)
    assert show(place.store, place.folder).text != first.text


def test_keys_of_the_image_are_told_and_not_shown(place: Place) -> None:
    make(place.store, "", anew=False, folder=place.folder)
    (place.folder / DRAFT).unlink()
    shown = show(place.store, place.folder)
    assert (shown.origin, shown.text) == (Origin.ELSEWHERE, "")


def test_a_service_that_has_begun_is_told_by_a_wish(place: Place) -> None:
    make(place.store, "", anew=False, folder=place.folder)
    before = place.begin_pairing()
    make(place.store, "", anew=True, folder=place.folder)
    draft = read_draft(place.folder)
    assert draft
    assert read_home_end(place.wish.read_bytes()) == draft.bootstrap.home != before.bootstrap
    assert read_home_end(place.store.tunnel.read_bytes()) == before.bootstrap, "that file is the service's by now"
    assert show(place.store, place.folder).origin is Origin.HERE


def test_a_service_that_begins_meanwhile_is_told_as_well(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    make(place.store, "", anew=False, folder=place.folder)
    real = write_atomically

    def write(path: Path, content: bytes, mode: int) -> None:
        if path == place.store.tunnel:
            place.begin_pairing()
        real(path, content, mode)

    monkeypatch.setattr(relay_draft, "write_atomically", write)
    make(place.store, "", anew=True, folder=place.folder)
    draft = read_draft(place.folder)
    assert draft
    assert read_home_end(place.wish.read_bytes()) == draft.bootstrap.home


def test_a_power_cut_shows_no_text_that_home_does_not_go_by(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    make(place.store, "", anew=False, folder=place.folder)
    before = place.store.tunnel.read_bytes()
    real = write_atomically
    for allowed in itertools.count():
        left = itertools.chain([True] * allowed, itertools.repeat(False))

        def write(path: Path, content: bytes, mode: int, left: itertools.chain[bool] = left) -> None:
            if not next(left):
                raise OSError("cut")
            real(path, content, mode)

        monkeypatch.setattr(relay_draft, "write_atomically", write)
        try:
            make(place.store, "", anew=True, folder=place.folder)
        except OSError:
            shown, draft = show(place.store, place.folder), read_draft(place.folder)
            assert draft
            assert place.store.tunnel.read_bytes() == before
            assert (shown.origin is Origin.HERE) == (draft.bootstrap.home == read_home_end(before))
        else:
            assert allowed == 2
            return


def test_an_address_that_somebody_types_counts_for_the_same_keys(place: Place) -> None:
    make(place.store, "", anew=False, folder=place.folder)
    text = show(place.store, place.folder).text
    point(place.store, " 203.0.113.7", place.folder)
    shown = show(place.store, place.folder)
    assert (shown.origin, shown.address, shown.text) == (Origin.HERE, "203.0.113.7", text)
    assert read_home_end(place.store.tunnel.read_bytes()).relay == "203.0.113.7"
    with pytest.raises(Refusal):
        point(place.store, "203.0.113.7; reboot", place.folder)


def test_an_address_for_nothing_is_refused(place: Place) -> None:
    with pytest.raises(Refusal, match="no keys of a relay"):
        point(place.store, "203.0.113.7", place.folder)


def test_a_site_without_a_relay_has_no_user_data(tmp_path: Path) -> None:
    place = Place(tmp_path / "data", "relays: []")
    assert show(place.store, place.folder).origin is Origin.NOWHERE
    with pytest.raises(Refusal, match="a site without a relay"):
        make(place.store, "", anew=False, folder=place.folder)


def test_a_spent_half_is_removed_and_one_to_come_stays(place: Place) -> None:
    make(place.store, "", anew=False, folder=place.folder)
    first = read_home_end(place.store.tunnel.read_bytes())
    point(place.store, "203.0.113.7", place.folder)
    retire(place.folder, first)
    assert not (place.folder / DRAFT).exists(), "another address is no other key"
    make(place.store, "", anew=True, folder=place.folder)
    retire(place.folder, first)
    assert (place.folder / DRAFT).exists()
    (place.folder / DRAFT).write_text("{")
    retire(place.folder, first)
    assert not (place.folder / DRAFT).exists()
    retire(place.folder, first)
