"""Quarantine: the folder, and `darkpipe quarantine`."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import home.quarantine_commands
import home.quarantine_release
from home.bucket_seen import note_seen
from home.cli import main
from home.drain import Entry, Reply, opened
from home.drain_letter import Letter, LetterError, read_letter
from home.drain_state import Doing, Drained, note
from home.drain_status import Waiting, read_waiting, waiting_problems
from home.quarantine import Kept, Quarantine, QuarantineError
from home.quarantine_release import ReleaseError, release
from model.control import BucketStatus, Fault, QueuedItem, QueueStatus
from tests.drain import RECEIVED, envelope
from tests.unit.stack_samples import accounts

_MESSAGE = b"Subject: \x1b[31mhello\r\nTo: alice@example.com\r\n\r\nhi\r\n"
_IDS = ("a1" + "0" * 30, "a2" + "0" * 30)


@pytest.fixture
def box(tmp_path: Path) -> Quarantine:
    (tmp_path / "quarantine").mkdir()
    return Quarantine(tmp_path / "quarantine")


def _entry(item: str, *people: str) -> Entry:
    return opened(Entry("e", QueuedItem(item, 1, 100, RECEIVED, "f" * 64)), people)


def _letter(folder: Path, *people: str) -> Letter:
    path = folder / "incoming.letter"
    utf8 = not "".join(people).isascii()
    path.write_bytes(envelope(*people, utf8=utf8).octets() + _MESSAGE)
    return read_letter(path)


@pytest.fixture
def kept(box: Quarantine, tmp_path: Path) -> Kept:
    """A letter to Alice and to nobody, refused for both."""
    people = ("alice@example.com", "nobody@example.com")
    replies = {number: Reply(550, f"5.1.{number} no") for number in range(2)}
    letter = _letter(tmp_path, *people)
    box.keep_refused(_entry(_IDS[0], *people), letter, replies, RECEIVED)
    letter.path.unlink()
    return box.find(_IDS[0])


def test_what_is_kept_is_whole_and_for_nobody_else(box: Quarantine, kept: Kept) -> None:
    with read_letter(box.content(kept)).open() as file:
        assert file.read() == _MESSAGE
    assert [(one.address, one.reply) for one in kept.recipients] == [
        ("alice@example.com", "550 5.1.0 no"),
        ("nobody@example.com", "550 5.1.1 no"),
    ]
    assert {path.name for path in box.folder.iterdir()} == {f"{_IDS[0]}.json", f"{_IDS[0]}.letter"}
    assert (box.folder / f"{_IDS[0]}.json").stat().st_mode & 0o777 == 0o600


def test_recipients_come_and_go_one_by_one(box: Quarantine, kept: Kept, tmp_path: Path) -> None:
    people = ("alice@example.com", "nobody@example.com", "third@example.com")
    box.keep_refused(_entry(kept.id, *people), _letter(tmp_path, *people), {2: Reply(554, "no")}, RECEIVED)
    assert [one.number for one in box.find(kept.id).recipients] == [0, 1, 2]
    box.forget(kept.id, [0, 2])
    assert [one.number for one in box.find(kept.id).recipients] == [1]
    box.forget(kept.id, [1])
    assert not list(box.folder.iterdir())
    box.forget(kept.id, [1])


def test_a_cut_leaves_what_counts_and_the_rest_goes(box: Quarantine, kept: Kept) -> None:
    (box.folder / f"{_IDS[1]}.letter").touch()
    (box.folder / f".{_IDS[1]}.age.new").touch()
    box.tidy()
    assert {path.name for path in box.folder.iterdir()} == {f"{kept.id}.json", f"{kept.id}.letter"}


def test_a_damaged_file_hides_no_other(box: Quarantine, kept: Kept) -> None:
    (box.folder / f"{_IDS[1]}.json").write_text("{}")
    assert box.all() == ([kept], [f"{_IDS[1]}.json"])


def test_before_the_first_pairing_nothing_is_there(tmp_path: Path) -> None:
    """The drain makes the folder when it has a relay to ask."""
    assert Quarantine(tmp_path / "none").all() == ((), ())


def test_the_beginning_of_an_id_is_enough_if_there_is_one_such(box: Quarantine, kept: Kept, tmp_path: Path) -> None:
    assert box.find("A1") == kept
    sealed = tmp_path / "sealed"
    sealed.write_bytes(b"?")
    box.keep_sealed(_entry(_IDS[1]), sealed, "no key", RECEIVED)
    for start in ("", "a", "b", "*"):
        with pytest.raises(QuarantineError, match="quarantine list"):
            box.find(start)


# ---- the commands


class _Device:
    """A device whose mailboxes are in memory."""

    def __init__(self, box: Quarantine) -> None:
        self.box = box
        self.has: list[str] = []
        self.full: set[str] = set()

    def deliver(self, _box: Quarantine, _kept: Kept, mailbox: str) -> None:
        if mailbox in self.full:
            raise ReleaseError(f"{mailbox} did not take it")
        self.has.append(mailbox)

    def run(self, *arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["quarantine", *arguments])
        return done.exit_code, done.output

    def told(self, *arguments: str) -> Any:
        return json.loads(CliRunner().invoke(main, ["quarantine", *arguments, "--json"]).stdout)


@pytest.fixture
def device(box: Quarantine, monkeypatch: pytest.MonkeyPatch) -> _Device:
    made = _Device(box)
    monkeypatch.setattr(home.quarantine_commands, "Quarantine", lambda: box)
    monkeypatch.setattr(home.quarantine_commands, "known_accounts", lambda _store: accounts())
    monkeypatch.setattr(home.quarantine_release, "deliver", made.deliver)
    monkeypatch.setattr(home.quarantine_release, "_is_there", lambda _kept, mailbox: mailbox in made.has)
    return made


def test_the_list_shows_who_and_why(device: _Device, kept: Kept) -> None:
    _, text = device.run("list")
    assert "a1000000" in text
    assert "bob@example.net" in text
    assert "alice@example.com, nobody@example.com" in text
    assert "550 5.1.0 no; 550 5.1.1 no" in text
    assert device.told("list") == {"quarantine": [kept.model_dump(mode="json", exclude={"format"})], "damaged": []}


@pytest.mark.parametrize("received", [10**20, -1])
def test_a_letter_of_no_time_is_none(tmp_path: Path, received: int) -> None:
    """The list of what lies in quarantine could not be shown any more, for one that a relay has made up."""
    (tmp_path / "letter").write_bytes(envelope(received=received).octets() + _MESSAGE)
    with pytest.raises(LetterError, match="calendar"):
        read_letter(tmp_path / "letter")


@pytest.mark.usefixtures("kept")
def test_a_message_is_shown_without_what_a_terminal_obeys(device: _Device) -> None:
    code, text = device.run("show", "a1")
    assert code == 0
    assert "Subject: \N{REPLACEMENT CHARACTER}[31mhello" in text
    assert "192.0.2.25" in text
    assert device.told("show", "a1")["item"]["header"][1] == "To: alice@example.com"
    assert CliRunner().invoke(main, ["quarantine", "show", "a1", "--message"]).stdout_bytes == _MESSAGE


def test_a_release_needs_mailboxes_and_takes_nothing_away_without(device: _Device, kept: Kept) -> None:
    device.box.forget(kept.id, [0])
    code, text = device.run("release", "a1")
    assert code == 1
    assert "nobody@example.com" in text
    assert "--to" in text
    assert device.run("release", "a1", "--to", "carol@example.com")[0] == 1
    assert not device.has
    assert device.told("release", "a1", "--to", "alice@example.com")["mailboxes"] == ["alice@example.com"]
    assert device.has == ["alice@example.com"]
    assert device.box.all() == ([], [])


def test_a_release_takes_nothing_from_those_without_a_mailbox(device: _Device, kept: Kept) -> None:
    code, text = device.run("release", "a1")
    assert (code, device.has) == (0, ["alice@example.com"])
    assert "stays in quarantine for nobody@example.com" in text
    ((left,), _) = device.box.all()
    assert [one.address for one in left.recipients] == ["nobody@example.com"]
    assert device.box.content(left).read_bytes() == device.box.content(kept).read_bytes()
    assert device.run("release", "a1", "--to", "alice@example.com")[0] == 0
    assert device.has == ["alice@example.com"], "who has it does not get it again"
    assert device.box.all() == ([], [])


@pytest.mark.parametrize(
    ("address", "mailboxes"),
    [
        ("Postmaster@example.com", ["alice@example.com"]),
        ("sales+shop@example.org", ["alice@example.com"]),
        ("anything@caught.example", ["bob@example.com"]),
        ("bob@bücher.example", ["bob@xn--bcher-kva.example"]),
    ],
)
def test_a_letter_is_released_to_whoever_gets_the_mail_of_its_address(
    device: _Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, mailboxes: list[str]
) -> None:
    """As the mail server has it: also the addresses that every domain has, and those that nobody has."""
    more = "  - {address: bob@example.com, catch_all: [caught.example]}\n  - {address: bob@bücher.example}\n"
    home_of = accounts(more, "example.com, example.org, caught.example, bücher.example")
    monkeypatch.setattr(home.quarantine_commands, "known_accounts", lambda _store: home_of)
    device.box.keep_refused(_entry(_IDS[0], address), _letter(tmp_path, address), {0: Reply(550, "spam")}, RECEIVED)
    assert device.run("release", "a1")[0] == 0
    assert device.has == mailboxes
    assert device.box.all() == ([], [])


def test_a_release_that_fails_loses_nothing_and_the_next_one_repeats_nothing(device: _Device, kept: Kept) -> None:
    device.full.add("bob@example.com")
    with pytest.raises(ReleaseError):
        release(device.box, kept, [0, 1], ["alice@example.com", "bob@example.com"])
    assert device.box.find("a1") == kept
    device.full.clear()
    release(device.box, kept, [0, 1], ["alice@example.com", "bob@example.com"])
    assert device.has == ["alice@example.com", "bob@example.com"]
    assert device.box.all() == ([], [])


def test_what_is_deleted_is_gone(device: _Device, kept: Kept) -> None:
    assert device.told("delete", "a1") == {"deleted": kept.id}
    assert not list(device.box.folder.iterdir())
    assert device.run("delete", "a1")[0] == 1


def test_what_cannot_be_opened_is_shown_and_not_released(device: _Device, tmp_path: Path) -> None:
    sealed = tmp_path / "sealed"
    sealed.write_bytes(b"ciphertext")
    device.box.keep_sealed(_entry(_IDS[1]), sealed, "it cannot be decrypted", RECEIVED)
    assert "it cannot be decrypted" in device.run("list")[1]
    assert "it cannot be decrypted" in device.run("show", "a2")[1]
    code, text = device.run("release", "a2", "--to", "alice@example.com")
    assert code == 1
    assert "nothing to release" in text
    assert len(device.box.all()[0]) == 1


# ---- the status


def _status(*faults: Fault) -> QueueStatus:
    return QueueStatus(1, "", "e", 0, 0, None, 10**9, None, 1, 1, faults=faults)


@pytest.mark.usefixtures("kept")
def test_the_status_names_quarantine_and_what_the_drain_and_the_relay_say(box: Quarantine, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    assert read_waiting(state, box.folder) == Waiting(drain=None, refused=1, sealed=0, damaged=0)
    assert read_waiting(state, tmp_path / "none") == Waiting(drain=None, refused=0, sealed=0, damaged=0)
    drain = Drained(
        written=0.0, doing=Doing.FENCED, since=0.0, trouble="another home", lost=4, relay=_status(Fault(0, "full", "x"))
    )
    found = [one.found for one in waiting_problems(Waiting(drain=drain, refused=1, sealed=2, damaged=3))]
    for words in ("another home", "full", "4 messages", "1 messages", "2 items", "3 files"):
        assert len([text for text in found if words in text]) == 1
    quiet = drain.model_copy(update={"doing": Doing.EMPTY, "trouble": "", "lost": 0, "relay": _status()})
    assert not list(waiting_problems(Waiting(drain=quiet, refused=0, sealed=0, damaged=0)))


def test_the_status_tells_of_what_a_relay_of_before_has_left_in_the_bucket(box: Quarantine, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    before, now = BucketStatus("1" * 32, 7, 0, 0), BucketStatus("2" * 32, 1, 0, 0)
    for relay, folder, left in ((_status(), before, 0), (_status(), now, 1)):
        note_seen(box.folder.parent, folder)
        silent = Drained(written=time.monotonic(), doing=Doing.AWAY, since=0.0, relay=relay)
        note(silent, state)
        assert read_waiting(state, box.folder).left == 0, "any may be the one in which the relay is at work"
        note(silent.model_copy(update={"relay": replace(relay, bucket=folder)}), state)
        assert read_waiting(state, box.folder).left == left
    (problem,) = waiting_problems(read_waiting(state, box.folder))
    assert "recover-bucket" in problem.remedy
