"""Where data lies, acted on: a device with disks of files that is started, asked, cut off and started again."""

from __future__ import annotations

import itertools
import re
import struct
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from firstboot import disk as firstboot_disk
from firstboot.data_place import (
    Place,
    Record,
    keep_record,
    read_record,
)
from firstboot.partitions import DiskError
from firstboot.site_asking import SiteSession
from firstboot.state_files import make_folders
from firstboot.superblock import read_btrfs
from model.document import SEED_NAME, read_site
from model.site import DataDisk, UnlockPolicy
from tests.tiers import REPOSITORY
from tests.unit.disk_world import DATA, EMPTY, OURS, PART, PHOTOS, SEED, STRANGER, THEIRS, VOLUME, World, world_maker
from tests.unit.power_cut import at_every_step
from tests.unit.test_firstboot_superblock import superblock


@pytest.fixture
def new_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    return world_maker(tmp_path, monkeypatch)


def test_a_power_cut_at_any_step_of_making_a_usb_disk(new_world: Callable[[str], World]) -> None:
    worlds = [new_world("usb")]
    most = 0

    def start() -> Path:
        return worlds[-1].start()

    for _ in at_every_step(start):
        world = worlds[-1]
        assert world.start() == Path("/dev/sda1")
        assert world.seed is not None
        record = Record(place=Place.OTHER, uuid=uuid.uuid5(world.seed, "file system"))
        assert read_record(world.state) == record
        # From now on the stick counts, and no other.
        world.plugged = (STRANGER,)
        assert world.start() == Path("/dev/sda1")
        most = max(most, world.made)
        worlds.append(new_world("usb"))
    assert most == 2


def test_a_power_cut_at_any_step_of_making_data_on_the_own_disk(new_world: Callable[[str], World]) -> None:
    worlds = [new_world("system")]
    cuts = 0

    def start() -> Path:
        return worlds[-1].start()

    for _ in at_every_step(start):
        world = worlds[-1]
        data = world.folder / "data"
        assert world.start() == data
        found, record = read_btrfs(data), read_record(world.state)
        assert found is not None
        assert record == Record(place=Place.SYSTEM, uuid=found.uuid)
        assert world.start() == data
        assert read_btrfs(data) == found, "what was made once stays"
        assert world.made == 0
        worlds.append(new_world("system"))
        cuts += 1
    assert cuts > 4


def test_without_a_boot_partition_nothing_is_decided(new_world: Callable[[str], World]) -> None:
    world = new_world("")
    world.has_boot = False
    assert world.start() == world.folder / "data"
    assert read_record(world.state) is None
    assert world.asked == []
    world.has_boot = True
    (world.folder / "boot" / SEED_NAME).write_text(SEED.replace("system", "usb"))
    assert world.start() == Path("/dev/sda1")


def answering(**answers: str) -> Callable[[SiteSession], object]:
    """Give somebody who answers the page, with the code of the console."""
    given = {"domains": "example.com", "owner": "alice@example.com", "unlock": "none", **answers}
    return lambda asking: asking.take(given, asking.code.shown)


def test_without_a_seed_a_person_is_asked_and_the_answer_is_the_seed(new_world: Callable[[str], World]) -> None:
    world = new_world("")
    (world.folder / "boot/site.yaml.txt").write_text("version: 1")
    world.meanwhile = answering(data="usb")
    assert world.start() == Path("/dev/sda1"), "it decides by the answer"
    assert "site.yaml.txt" in world.asked[0]
    assert read_site(world.folder / "boot" / SEED_NAME).users[0].address == "alice@example.com"
    world.start()
    assert len(world.asked) == 1, "it is asked once"


def test_a_power_cut_while_a_person_answers(new_world: Callable[[str], World]) -> None:
    worlds = [new_world("")]
    worlds[-1].meanwhile = answering()
    asked = set()

    def start() -> Path:
        return worlds[-1].start()

    for _ in at_every_step(start):
        world = worlds[-1]
        assert world.start() == world.folder / "data"
        assert read_site(world.folder / "boot" / SEED_NAME).disk.unlock is UnlockPolicy.NONE
        asked.add(len(world.asked))
        worlds.append(new_world(""))
        worlds[-1].meanwhile = answering()
    assert asked == {1, 2}, "before the answer is kept it is asked again, afterwards never"


def test_with_a_wrong_seed_nothing_is_touched_until_there_is_a_right_one(new_world: Callable[[str], World]) -> None:
    world = new_world("moon")
    seed = world.folder / "boot" / SEED_NAME
    before = seed.read_text()

    def look(asking: SiteSession) -> None:
        assert list(world.state.iterdir()) == []
        assert (world.folder / "data").read_bytes() == bytes(2**20)
        assert seed.read_text() == before
        # The file says all but where the disk is, which is wrong in it.
        filled = asking.take({}, asking.code.shown)
        assert seed.read_text() == before
        assert "data" not in filled.answers or filled.answers["data"] == ""
        assert asking.take(filled.answers, filled.grant).complaints == ()

    world.meanwhile = look
    assert world.start() == world.folder / "data"
    assert "line 3: found the text `moon`" in world.asked[0]
    assert "replaces the file" in world.asked[0]
    assert "E1" in world.told[0], "the console shows it in its place"
    assert read_site(seed).disk.data is DataDisk.SYSTEM


def test_a_file_that_an_editor_has_named_otherwise_is_named_beside_a_wrong_one(
    new_world: Callable[[str], World],
) -> None:
    """Who mends the file in Notepad saves darkpipe.yaml.txt beside it, which Windows shows as darkpipe.yaml."""
    world = new_world("moon")
    (world.folder / "boot" / f"{SEED_NAME}.txt").write_text(SEED)

    def answer(asking: SiteSession) -> None:
        filled = asking.take({}, asking.code.shown)
        asking.take(filled.answers, filled.grant)

    world.meanwhile = answer
    world.start()
    for text in (world.asked[0], world.told[0]):
        assert "There is a file darkpipe.yaml.txt beside it" in text


def test_a_disk_with_a_devices_mail_needs_no_answer(
    new_world: Callable[[str], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world("")
    looks = itertools.count()

    def seen() -> frozenset[tuple[str, str]]:
        if next(looks) == 1:  # while a person is asked
            world.plugged = (DATA,)
        return frozenset({(str(len(world.plugged)), "")})

    monkeypatch.setattr(firstboot_disk, "known_devices", seen)
    assert world.start() == VOLUME.partition
    assert (len(world.asked), world.made) == (1, 0)


def test_data_that_has_gone_is_not_made_anew(new_world: Callable[[str], World]) -> None:
    world = new_world("system")
    world.start()
    (world.folder / "data").write_bytes(bytes(2**20))
    with pytest.raises(DiskError, match="damaged"):
        world.start()
    assert (world.folder / "data").read_bytes() == bytes(2**20)


def test_it_waits_and_says_so_once_until_the_disk_is_there(
    new_world: Callable[[str], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world("usb")
    world.plugged = (replace(EMPTY, device=Path("/dev/sdz")),)
    looks = []

    def unplug_in_the_end(_: object) -> None:
        assert world.waits == f"the device waits: {world.told[0].removeprefix('DarkPipe waits: ')}"
        looks.append(len(world.told))
        if len(looks) == 3:
            world.plugged = ()

    monkeypatch.setattr(firstboot_disk, "_wait_for_change", unplug_in_the_end)
    assert world.start() == Path("/dev/sda1")
    assert looks == [1, 1, 1]
    assert "several USB disks are empty" in world.told[0]


def test_disks_that_come_late_are_waited_for(
    new_world: Callable[[str], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that was started a moment ago decides nothing that a disk still to come could change."""
    world = new_world("system")
    now = itertools.count(5.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(now))

    def sleep(_: float) -> None:
        world.seed, world.whole = OURS, True  # the disk of an earlier device

    monkeypatch.setattr(time, "sleep", sleep)
    assert world.start() == Path("/dev/sda1")
    assert world.told == []


def test_a_copy_that_comes_late_is_waited_for(
    new_world: Callable[[str], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it is chance which of the two gets today's mail."""
    world = new_world("system")
    keep_record(world.state, Record(place=Place.OTHER, uuid=OURS))
    world.plugged = (DATA,)
    now = itertools.count(5.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    copy = replace(DATA, device=Path("/dev/sdf"), volumes=(replace(VOLUME, partition=Path("/dev/sdf1")),))

    def sleep(_: float) -> None:
        world.plugged = (DATA, copy)

    def unplug(_: object) -> None:
        world.plugged = (copy,)

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(firstboot_disk, "_wait_for_change", unplug)
    assert world.start() == Path("/dev/sdf1")
    assert "several copies" in world.told[0]


def _container(path: Path, of: uuid.UUID, label: str) -> None:
    """Write what tells a LUKS2 container: magic, version, label and identifier of its header."""
    block = bytearray(2**20)
    block[:8] = b"LUKS\xba\xbe\x00\x02"
    block[24 : 24 + len(label)] = label.encode()
    block[168:204] = str(of).encode()
    path.write_bytes(block)


def test_a_power_cut_at_any_step_before_a_usb_disk_is_encrypted(new_world: Callable[..., World]) -> None:
    """Whatever was written, the partition is found again as one on which nothing of worth is."""
    worlds = [new_world("usb", encrypted=True)]
    cuts = 0

    def start() -> Path:
        return worlds[-1].start()

    for _ in at_every_step(start):
        world = worlds[-1]
        world.plugged = (PHOTOS, STRANGER) if read_record(world.state) else (PHOTOS,)
        found = world.find()
        assert found.partition == Path("/dev/sda1")
        assert found.record is not None
        assert (found.record.place, found.record.encrypted, found.record.making) == (Place.OTHER, True, PART)
        assert read_record(world.state) == found.record
        assert world.find() == found, "what was decided once stays"
        worlds.append(new_world("usb", encrypted=True))
        cuts += 1
    assert cuts > 8


def test_the_own_disk_is_encrypted_instead_of_formatted(new_world: Callable[..., World]) -> None:
    world = new_world("system", encrypted=True)
    data = world.folder / "data"
    found = world.find()
    assert (found.partition, found.record) == (data, read_record(world.state))
    assert found.record is not None
    assert found.record.making == "system"
    assert data.read_bytes() == bytes(2**20), "until somebody has chosen a passphrase"
    # A header that is half made, or made and not finished, changes nothing about that.
    _container(data, found.record.uuid, "")
    assert world.find() == found
    # The label is written last; the power went before that was recorded.
    _container(data, found.record.uuid, "darkpipe-data")
    settled = world.find()
    assert settled.record == found.record.model_copy(update={"making": ""}) == read_record(world.state)
    assert world.find() == settled


def test_an_encrypted_disk_that_is_another_one_or_gone_is_not_made_anew(new_world: Callable[..., World]) -> None:
    world = new_world("system", encrypted=True)
    keep_record(world.state, Record(place=Place.SYSTEM, uuid=OURS, encrypted=True))
    for content in (OURS, THEIRS, None):
        _container(world.folder / "data", content or OURS, "darkpipe-data")
        if content is None:
            (world.folder / "data").write_bytes(bytes(2**20))
        if content == OURS:
            assert world.start() == world.folder / "data"
            continue
        before = (world.folder / "data").read_bytes()
        with pytest.raises(DiskError, match="damaged"):
            world.start()
        assert (world.folder / "data").read_bytes() == before


def test_a_finished_container_on_the_own_disk_is_adopted(new_world: Callable[..., World]) -> None:
    """A system partition that has lost its memory must not cost the mail."""
    world = new_world("system", encrypted=True)
    _container(world.folder / "data", OURS, "darkpipe-data")
    assert world.find().record == Record(place=Place.SYSTEM, uuid=OURS, encrypted=True)


@pytest.mark.parametrize(("used", "kept"), [(147456, False), (2**21, True)])
def test_mail_that_is_not_encrypted_is_not_encrypted_over(
    new_world: Callable[..., World], used: int, kept: bool
) -> None:
    """What mkfs.btrfs(8) makes holds 144 KiB; more than that was written by a device that has forgotten it."""
    world = new_world("system", encrypted=True)
    block = bytearray(superblock(1, 0))
    block[32:48], block[299:312] = OURS.bytes, b"darkpipe-data"
    struct.pack_into("<Q", block, 120, used)
    (world.folder / "data").write_bytes(bytes(65536) + block)
    if kept:
        with pytest.raises(DiskError, match=r"holds a device's mail .* NOT encrypted.*`unlock: none`"):
            world.find()
        assert read_record(world.state) is None
    else:
        record = world.find().record
        assert record is not None
        assert record.making == "system"


def test_mail_that_is_not_encrypted_needs_no_answer_either(new_world: Callable[..., World]) -> None:
    world = new_world("")
    block = bytearray(superblock(1, 0))
    block[32:48], block[299:312] = OURS.bytes, b"darkpipe-data"
    struct.pack_into("<Q", block, 120, 2**21)
    (world.folder / "data").write_bytes(b"darkpipe-data: finished\n".ljust(65536, b"\0") + block)
    world.meanwhile = answering(data="system")
    assert world.find().record == Record(place=Place.SYSTEM, uuid=OURS)
    assert world.asked == []


@pytest.mark.parametrize("has_boot", [False, True])
@pytest.mark.parametrize("wish", ["", "system", "usb"])
def test_a_finished_container_is_not_formatted_whatever_the_seed_says(
    new_world: Callable[..., World], wish: str, has_boot: bool
) -> None:
    """Nor is anybody asked, as with another disk that has a device's mail."""
    world = new_world(wish)
    world.has_boot = has_boot
    world.meanwhile = answering(data="system")
    _container(world.folder / "data", OURS, "darkpipe-data")
    before = (world.folder / "data").read_bytes()
    found = world.find()
    assert (world.folder / "data").read_bytes() == before
    if wish == "usb" and has_boot:
        assert found.partition == Path("/dev/sda1"), "its owner wants another one, and this one stays as it is"
        return
    assert found.record == Record(place=Place.SYSTEM, uuid=OURS, encrypted=True)
    assert (world.asked, world.made) == ([], 0)
    assert len(world.told) == 1
    assert "is used as it is: it is encrypted" in world.told[0]
    assert world.find() == found


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_disk_with_data_is_adopted_as_it_is(new_world: Callable[..., World], encrypted: bool) -> None:
    world = new_world("system", encrypted=True)
    world.plugged = (replace(DATA, volumes=(replace(VOLUME, encrypted=encrypted),)),)
    assert world.find().record == Record(place=Place.OTHER, uuid=OURS, encrypted=encrypted)
    assert [text for text in world.told if "IT IS NOT ENCRYPTED" in text] == world.told
    assert bool(world.told) is not encrypted


def test_folders_that_services_see_of_state_are_there(tmp_path: Path) -> None:
    """A unit that binds one which is missing does not start, not even what would make it (systemd.exec(5))."""
    make_folders(tmp_path)
    make_folders(tmp_path)
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in tmp_path.iterdir())
    units = "\n".join(path.read_text() for path in (REPOSITORY / "components").glob("*/units/*"))
    bound = set(re.findall(r"^Bind(?:ReadOnly)?Paths=/state/(\S+)$", units, re.MULTILINE))
    assert bound - {_OF_THE_PAGE} == {path.name for path in tmp_path.iterdir()}


_OF_THE_PAGE = "page"
"""It comes with its certificate (`firstboot/page/certificate.py`), before any service that sees it."""
