"""Where data lies: every case of the decision, and the record that is kept of it."""

from __future__ import annotations

import uuid
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

_OURS, _THEIRS = uuid.UUID(int=1), uuid.UUID(int=2)
_EMPTY = OtherDisk(Path("/dev/sda"), "Ultra Fit", 32 * 10**9, usb=True)
_VOLUME = Volume(Path("/dev/sdb1"), _OURS)
_DATA = OtherDisk(Path("/dev/sdb"), "T7", 10**12, usb=True, content="1 partition", volumes=(_VOLUME,))
_CLONE = replace(_DATA, device=Path("/dev/sdc"), volumes=(Volume(Path("/dev/sdc1"), _OURS),))
_STRANGER = replace(_DATA, device=Path("/dev/sdd"), volumes=(Volume(Path("/dev/sdd1"), _THEIRS),))
_PHOTOS = OtherDisk(Path("/dev/sde"), "Elements", 10**12, usb=True, content="1 partition (ntfs “Photos”)")
_SMALL = OtherDisk(Path("/dev/sdf"), "Stick", 4 * 10**9, usb=True)
_NVME = OtherDisk(Path("/dev/nvme1n1"), "980", 10**12, usb=False)
_BEGUN = replace(_EMPTY, device=Path("/dev/sdg"), content="gpt", unfinished=True)

_ON_SYSTEM = Record(place=Place.SYSTEM, uuid=_THEIRS)
_ON_OTHER = Record(place=Place.OTHER, uuid=_OURS)
_PART = "0f0f0f0f-0000-4000-8000-000000000001"
_MAKING = Record(place=Place.OTHER, uuid=_OURS, encrypted=True, making=_PART)
_BARE = replace(_EMPTY, content="1 partition", partitions={_PART: Path("/dev/sda1")})
_USB, _SYSTEM = DataDisk.USB, DataDisk.SYSTEM


@pytest.mark.parametrize(
    ("record", "wish", "others", "expected"),
    [
        # Encrypted for the first time, and cut off.
        (_MAKING, None, [_BARE, _PHOTOS], MakeAgain(Path("/dev/sda1"))),
        (_MAKING, None, [_DATA], f"the disk that is to be encrypted is missing (partition {_PART})"),
        (_MAKING, None, [_BARE, replace(_BARE, device=Path("/dev/sdh"))], "is there more than once"),
        (_ON_SYSTEM.model_copy(update={"making": "system"}), None, [_BARE], UseSystem(settled=True)),
        # what was decided counts, whatever is plugged in
        (_ON_SYSTEM, None, [_DATA, _EMPTY], UseSystem(settled=True)),
        (_ON_SYSTEM, _USB, [_EMPTY], UseSystem(settled=True)),
        (_ON_OTHER, None, [_DATA], UseOther(_VOLUME)),
        (_ON_OTHER, _SYSTEM, [_STRANGER, _EMPTY, _DATA], UseOther(_VOLUME)),
        (_ON_OTHER, None, [], "the disk with its data is missing"),
        (_ON_OTHER, _USB, [_EMPTY], "is missing"),
        (_ON_OTHER, None, [_STRANGER], "another device's"),
        (_ON_OTHER, None, [_DATA, _CLONE], "several copies"),
        # a disk with our label is taken, whatever the seed says
        (None, None, [_DATA], UseOther(_VOLUME)),
        (None, _SYSTEM, [_DATA, _PHOTOS], UseOther(_VOLUME)),
        (None, _USB, [_EMPTY, _DATA], UseOther(_VOLUME)),
        (None, _SYSTEM, [_DATA, _STRANGER], "several disks for its data"),
        (None, _USB, [_DATA, _CLONE, _EMPTY], "several disks for its data"),
        # the system's own disk
        (None, None, [_EMPTY, _PHOTOS], UseSystem(settled=False)),
        (None, _SYSTEM, [_EMPTY, _PHOTOS, _NVME], UseSystem(settled=True)),
        # the one that is empty
        (None, _USB, [_EMPTY], MakeUsb(_EMPTY)),
        (None, _USB, [_PHOTOS, _EMPTY, _SMALL, _NVME], MakeUsb(_EMPTY)),
        (None, _USB, [_BEGUN], MakeUsb(_BEGUN)),
        (None, _USB, [], "no USB disk"),
        (None, _USB, [_NVME], "no USB disk"),
        (None, _USB, [_SMALL], "is empty, and too small"),
        (None, _USB, [_PHOTOS], "/dev/sde (Elements, 1000.0 GB): has 1 partition (ntfs “Photos”)"),
        (None, _USB, [_EMPTY, _BEGUN], "several USB disks are empty"),
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
    decision = decide(None, _USB, [_PHOTOS, _SMALL])
    assert isinstance(decision, Wait)
    assert "/dev/sde (Elements" in decision.text
    assert "/dev/sdf (Stick, 4.0 GB)" in decision.text
    assert len(decision.text.splitlines()) < 20
    assert max(map(len, decision.text.splitlines())) <= 120


def test_a_record_is_read_as_it_was_kept(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    assert read_seed(tmp_path) is None
    keep_record(tmp_path, _ON_OTHER)
    keep_seed(tmp_path, _THEIRS)
    assert read_record(tmp_path) == _ON_OTHER
    assert read_seed(tmp_path) == _THEIRS


@pytest.mark.parametrize("content", ["", "{}", '{"place": "moon", "uuid": "0"}', "\0" * 20])
def test_a_damaged_record_is_no_new_device(tmp_path: Path, content: str) -> None:
    (tmp_path / "data-disk.json").write_text(content)
    with pytest.raises(DiskError, match="damaged"):
        read_record(tmp_path)
