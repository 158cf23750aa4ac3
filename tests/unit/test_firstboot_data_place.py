"""Where data lies: every case of the decision, and the record that is kept of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from firstboot.data_place import (
    MakeAgain,
    MakeUsb,
    Place,
    Record,
    UseOther,
    UseSystem,
    Wait,
    decide,
    keep_record,
    keep_seed,
    read_record,
    read_seed,
)
from firstboot.other_disks import OtherDisk, Volume
from firstboot.partitions import DiskError
from model.site import DataDisk
from tests.unit.disk_world import DATA, EMPTY, OURS, PART, PHOTOS, STRANGER, THEIRS, VOLUME

_CLONE = replace(DATA, device=Path("/dev/sdc"), volumes=(Volume(Path("/dev/sdc1"), OURS),))
_SMALL = OtherDisk(Path("/dev/sdf"), "Stick", 4 * 10**9, usb=True)
_NVME = OtherDisk(Path("/dev/nvme1n1"), "980", 10**12, usb=False)
_BEGUN = replace(EMPTY, device=Path("/dev/sdg"), content="gpt", unfinished=True)

_ON_SYSTEM = Record(place=Place.SYSTEM, uuid=THEIRS)
_ON_OTHER = Record(place=Place.OTHER, uuid=OURS)
_MAKING = Record(place=Place.OTHER, uuid=OURS, encrypted=True, making=PART)
_BARE = replace(EMPTY, content="1 partition", partitions={PART: Path("/dev/sda1")})
_USB, _SYSTEM = DataDisk.USB, DataDisk.SYSTEM


@pytest.mark.parametrize(
    ("record", "wish", "others", "expected"),
    [
        # Encrypted for the first time, and cut off.
        (_MAKING, None, [_BARE, PHOTOS], MakeAgain(Path("/dev/sda1"))),
        (_MAKING, None, [DATA], f"the disk that is to be encrypted is missing (partition {PART})"),
        (_MAKING, None, [_BARE, replace(_BARE, device=Path("/dev/sdh"))], "is there more than once"),
        (_ON_SYSTEM.model_copy(update={"making": "system"}), None, [_BARE], UseSystem(settled=True)),
        # what was decided counts, whatever is plugged in
        (_ON_SYSTEM, None, [DATA, EMPTY], UseSystem(settled=True)),
        (_ON_SYSTEM, _USB, [EMPTY], UseSystem(settled=True)),
        (_ON_OTHER, None, [DATA], UseOther(VOLUME)),
        (_ON_OTHER, _SYSTEM, [STRANGER, EMPTY, DATA], UseOther(VOLUME)),
        (_ON_OTHER, None, [], "the disk with its data is missing"),
        (_ON_OTHER, _USB, [EMPTY], "is missing"),
        (_ON_OTHER, None, [], "If it is gone for good, write the image again"),
        (_MAKING, None, [], "If it is gone for good, write the image again"),
        (_ON_OTHER, None, [STRANGER], "another device's"),
        (_ON_OTHER, None, [DATA, _CLONE], "several copies"),
        # a disk with our label is taken, whatever the seed says
        (None, None, [DATA], UseOther(VOLUME)),
        (None, _SYSTEM, [DATA, PHOTOS], UseOther(VOLUME)),
        (None, _USB, [EMPTY, DATA], UseOther(VOLUME)),
        (None, _SYSTEM, [DATA, STRANGER], "several disks for its data"),
        (None, _USB, [DATA, _CLONE, EMPTY], "several disks for its data"),
        # the system's own disk
        (None, None, [EMPTY, PHOTOS], UseSystem(settled=False)),
        (None, _SYSTEM, [EMPTY, PHOTOS, _NVME], UseSystem(settled=True)),
        # the one that is empty
        (None, _USB, [EMPTY], MakeUsb(EMPTY)),
        (None, _USB, [PHOTOS, EMPTY, _SMALL, _NVME], MakeUsb(EMPTY)),
        (None, _USB, [_BEGUN], MakeUsb(_BEGUN)),
        (None, _USB, [], "no USB disk"),
        (None, _USB, [_NVME], "no USB disk"),
        (None, _USB, [_SMALL], "is empty, and too small"),
        (None, _USB, [PHOTOS], "/dev/sde (Elements, 1000.0 GB): has 1 partition (ntfs “Photos”)"),
        (None, _USB, [EMPTY, _BEGUN], "several USB disks are empty"),
    ],
)
def test_decision(
    record: Record | None,
    wish: DataDisk | None,
    others: list[OtherDisk],
    expected: UseSystem | UseOther | MakeUsb | str,
) -> None:
    for order in (others, others[::-1]):
        decision = decide(record, wish, order)
        if isinstance(expected, str):
            assert isinstance(decision, Wait)
            assert expected in decision.text
        else:
            assert decision == expected


def test_a_text_names_every_disk_that_was_found_and_fits_a_screen() -> None:
    decision = decide(None, _USB, [PHOTOS, _SMALL])
    assert isinstance(decision, Wait)
    assert "/dev/sde (Elements" in decision.text
    assert "/dev/sdf (Stick, 4.0 GB)" in decision.text
    assert "darkpipe-data" not in decision.text, "a disk that was given our label would be used as it is"
    assert len(decision.text.splitlines()) < 20
    assert max(map(len, decision.text.splitlines())) <= 120


def test_a_record_is_read_as_it_was_kept(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    assert read_seed(tmp_path) is None
    keep_record(tmp_path, _ON_OTHER)
    keep_seed(tmp_path, THEIRS)
    assert read_record(tmp_path) == _ON_OTHER
    assert read_seed(tmp_path) == THEIRS


@pytest.mark.parametrize("content", ["", "{}", '{"place": "moon", "uuid": "0"}', "\0" * 20])
def test_a_damaged_record_is_no_new_device(tmp_path: Path, content: str) -> None:
    (tmp_path / "data-disk.json").write_text(content)
    with pytest.raises(DiskError, match=r"damaged.* delete data-disk\.json on its partition darkpipe-state"):
        read_record(tmp_path)


@pytest.mark.parametrize("wish", [None, DataDisk.SYSTEM])
def test_of_two_disks_with_mail_and_no_record_none_is_taken(wish: DataDisk | None) -> None:
    """Else a `state` that has lost its memory, and an older disk that is plugged in, show an older mailbox."""
    decision = decide(None, wish, [DATA], own=True)
    assert isinstance(decision, Wait)
    assert "/dev/sdb1" in decision.text
    assert "Unplug it" in decision.text
    assert max(map(len, decision.text.splitlines())) <= 120
    assert decide(None, wish, [], own=True) == UseSystem(settled=wish is not None)
    assert decide(None, DataDisk.USB, [DATA], own=True) == UseOther(VOLUME)
