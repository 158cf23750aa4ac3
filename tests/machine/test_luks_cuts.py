"""A power cut at each point of each change of the keys, and of unlocking, with the device's cryptsetup(8) on a file.

strace(1) records what is written and when it is flushed. Replayed is each prefix of it, torn within a write, and each
choice of the writes that no flush has forced onto the disk. Then a key that worked before has to work, and giving the
command again has to end where it would have ended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from firstboot.cipher import AES_XTS
from firstboot.luks import Luks, LuksError, Slot, Use, cryptsetup
from firstboot.luks_head import read_luks
from tests.machine.writes import SECTOR, Write, applied, cuts, flush_groups, wrap
from tests.syscalls import why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

_RECOVERY, _OLD, _NEW = b"r" * 16, b"eleven quiet geese", b"nineteen loud geese"
_DISK = UUID(int=7)
_SIZE = 17 * 2**20
_COPY, _TEXT = 16384, 4096
"""Where the second header lies, and where in each of them its text begins (LUKS2 On-Disk Format 1.1.1, §2)."""


@dataclass(frozen=True)
class Change:
    """One change of the keys.

    Args:
        make: makes it, or ends it when it was cut off.
        slots: what there is when it is made.
    """

    make: Callable[[Luks], object]
    slots: tuple[Slot, ...]


def _add(luks: Luks) -> None:
    if not luks.fits(_NEW, Use.PASSPHRASE):
        luks.add(_OLD, _NEW, Use.PASSPHRASE, None)


def _add_stick(luks: Luks) -> None:
    if not luks.fits(_NEW, Use.USB_KEY) and not luks.name_unnamed(_NEW, Use.USB_KEY):
        luks.add(_OLD, _NEW, Use.USB_KEY, None)


def _remove(luks: Luks) -> None:
    if any(slot.number == 2 for slot in luks.slots()):
        luks.remove(2)


_FIRST = (Slot(0, Use.RECOVERY), Slot(1, Use.PASSPHRASE))
_CHANGES = {
    "add": Change(_add, (*_FIRST, Slot(2, Use.PASSPHRASE))),
    "add-stick": Change(_add_stick, (*_FIRST, Slot(2, Use.USB_KEY))),
    "revoke": Change(_remove, _FIRST),
    "finish": Change(lambda luks: luks.finish("darkpipe-data"), _FIRST),
}


@pytest.fixture
def luks(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Luks:
    """A container in a file, with the device's cryptsetup(8)."""
    wrapper = wrap(root, "usr/sbin/cryptsetup", tmp_path)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:/usr/sbin:/usr/bin:/sbin:/bin")
    monkeypatch.delenv("RECORD", raising=False)
    partition = tmp_path / "disk"
    with partition.open("wb") as file:
        file.truncate(_SIZE)
    made = Luks(partition)
    made.format(_DISK, AES_XTS, _RECOVERY, Use.RECOVERY)
    made.add(_RECOVERY, _OLD, Use.PASSPHRASE, None)
    return made


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], list[list[Write]]]:
    """Runs something and gives what was written to the disk, in groups that a flush ends."""

    def record(work: Callable[[], object]) -> list[list[Write]]:
        log = tmp_path / "strace"
        log.unlink(missing_ok=True)
        monkeypatch.setenv("RECORD", str(log))
        try:
            work()
        finally:
            monkeypatch.delenv("RECORD")
        return [group for group in flush_groups(log.read_text().splitlines(), tmp_path / "disk") if group]

    return record


def _states(before: bytes, groups: Sequence[Sequence[Write]]) -> Iterator[bytes]:
    return (applied(before, writes) for writes in cuts(groups))


def _opens(luks: Luks) -> bool:
    try:
        return luks.fits(_OLD, Use.PASSPHRASE)
    except LuksError:
        return False


@pytest.mark.parametrize("name", _CHANGES)
def test_cut_anywhere_a_key_opens_it_and_the_command_ends_the_change(
    luks: Luks, recorded: Callable[[Callable[[], object]], list[list[Write]]], name: str
) -> None:
    change = _CHANGES[name]
    if name == "revoke":
        luks.add(_OLD, _NEW, Use.PASSPHRASE, None)
    before = luks.partition.read_bytes()
    groups = recorded(lambda: change.make(luks))
    assert luks.slots() == change.slots
    after = luks.partition.read_bytes()
    assert len(after) == _SIZE
    assert after != before
    assert applied(before, [write for group in groups for write in group]) == after, "this is all that was written"
    seen: set[bytes] = set()
    for state in _states(before, groups):
        if (digest := hashlib.sha256(state).digest()) in seen:
            continue
        seen.add(digest)
        luks.partition.write_bytes(state)
        assert _opens(luks)
        header = read_luks(luks.partition)
        assert header is not None
        assert header.uuid == _DISK
        if name == "revoke":
            assert None not in _uses(luks.slots()), "a key that is being destroyed has its name as long as it opens"
        change.make(luks)
        uses = [slot.use for slot in luks.slots()]
        # Cut before its name, a passphrase works without one.
        assert uses == [slot.use for slot in change.slots] or (name == "add" and uses == [*_uses(_FIRST), None])
        assert _opens(luks)
        assert luks.fits(_NEW, Use.PASSPHRASE) is (name == "add")
    assert len(seen) >= 5


def _uses(slots: Sequence[Slot]) -> list[Use | None]:
    return [slot.use for slot in slots]


def test_a_copy_of_the_head_opens_the_disk_again(luks: Luks, tmp_path: Path) -> None:
    """With the keys of its day, and as one that a DarkPipe has made."""
    copy = tmp_path / "copy"
    luks.backup(copy)
    assert copy.stat().st_mode & 0o777 == 0o400
    luks.add(_OLD, _NEW, Use.PASSPHRASE, None)
    with luks.partition.open("r+b") as file:
        file.write(bytes(2**20))
    assert not _opens(luks)
    assert read_luks(luks.partition) is None
    done = cryptsetup(("luksHeaderRestore", "--header-backup-file", str(copy), str(luks.partition)))
    assert done.returncode == 0, done.stderr
    assert _opens(luks)
    assert luks.why_not_ours() is None
    assert luks.slots() == _FIRST


def test_unlocking_a_whole_disk_writes_nothing(
    luks: Luks, recorded: Callable[[Callable[[], object]], list[list[Write]]]
) -> None:
    """There is nothing that a cut could tear, neither with a right nor with a wrong passphrase."""
    before = luks.partition.read_bytes()
    assert recorded(lambda: luks.fits(_OLD, Use.PASSPHRASE)) == []
    assert recorded(lambda: luks.fits(_NEW, Use.PASSPHRASE)) == []
    assert luks.partition.read_bytes() == before


def test_a_container_whose_partition_has_grown_is_not_written_to(
    luks: Luks, recorded: Callable[[Callable[[], object]], list[list[Write]]]
) -> None:
    """It ends where the partition does: there is no step of its own that a cut could come into."""
    with luks.partition.open("r+b") as file:
        file.truncate(2 * _SIZE)
    before = luks.partition.read_bytes()
    assert recorded(lambda: luks.fits(_OLD, Use.PASSPHRASE)) == []
    assert luks.partition.read_bytes() == before
    assert [segment["size"] for segment in luks.describe()["segments"].values()] == ["dynamic"]


@pytest.mark.parametrize("torn", [0, _COPY], ids=["first", "copy"])
def test_cut_while_unlocking_mends_a_torn_header_it_opens(
    luks: Luks, recorded: Callable[[Callable[[], object]], list[list[Write]]], torn: int
) -> None:
    """A cut has torn one of the two headers; a second one comes while the next unlocking mends it from the other."""
    _tear(luks.partition, torn)
    before = luks.partition.read_bytes()
    groups = recorded(lambda: luks.fits(_OLD, Use.PASSPHRASE))
    assert applied(before, [write for group in groups for write in group]) == luks.partition.read_bytes()
    assert groups, "it was mended"
    for state in _states(before, groups):
        luks.partition.write_bytes(state)
        header = read_luks(luks.partition)
        assert header is not None
        assert header.uuid == _DISK
        assert _opens(luks)
        assert luks.slots() == _FIRST
    _tear(luks.partition, _COPY - torn)
    assert _opens(luks), "the one that was mended is as good as the other was"
    luks.partition.write_bytes(before)
    _tear(luks.partition, _COPY - torn)
    assert not _opens(luks), "the control: with both torn nothing opens"


def _tear(partition: Path, header: int) -> None:
    """Change a sector in the middle of a header's text, as a cut between two sectors leaves it."""
    with partition.open("r+b") as file:
        file.seek(header + _TEXT)
        file.write(b"\xff" * SECTOR)


def test_a_disk_without_flushes_is_found_out(
    luks: Luks, recorded: Callable[[Callable[[], object]], list[list[Write]]]
) -> None:
    """The control: with both headers in one group, some cut leaves none, and the check above says so."""
    before = luks.partition.read_bytes()
    groups = recorded(lambda: luks.finish("darkpipe-data"))
    flat = [write for group in groups for write in group]
    assert len(groups) > 1
    found = False
    for state in _states(before, [flat]):
        luks.partition.write_bytes(state)
        if not _opens(luks):
            found = True
            break
    assert found
