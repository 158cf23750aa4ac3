"""`unlock: relay`: what goes where in which order, what a cut in between leaves, and what follows a change of keys."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from bootstrap.ends import make_bootstrap
from firstboot.luks import Luks, LuksError, Slot, Use
from firstboot.relay_key import VOLUME, WaitingKeyError, give_relay, read_waiting
from home import boot_stage, pairing_file, relay_policy, unlock_keys
from home.boot_stage import BootStageError
from home.pair_keeper import STATE_FILE, make_own
from home.pairing import Kept, Keys, Own
from home.pairing_file import Document
from home.relay_policy import Places, add_relay, finish, follow, forget_relay, helps
from model.pairing import Counter
from model.site import Relay, Transport
from stack.stack import Stack
from tests.tiers import REPOSITORY
from tests.unit.test_firstboot_luks import CONTAINER, PASSPHRASE, RECOVERY, Header2, a_container
from tests.unit.unlock_samples import WIREGUARD, some_unlock_keys


class Relays:
    """The relay and its Tang; encrypted is what has its mark."""

    def __init__(self) -> None:
        self.away = False
        self.forgets = False
        self.tried: list[tuple[str, ...]] = []

    @contextmanager
    def tunnel(self, stage: boot_stage.BootStage, *_: object) -> Iterator[None]:
        self.tried.append(stage.relay_keys)
        if self.away:
            raise BootStageError("the relay does not answer")
        yield

    def encrypt(self, key: bytes, *_: object) -> str:
        return f"sealed {key.hex()}"

    def decrypt(self, encrypted: str) -> bytes:
        return b"" if self.forgets else bytes.fromhex(encrypted.removeprefix("sealed "))


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Relays:
    """A relay that does its part."""
    made = Relays()
    for name in ("tunnel", "encrypt", "decrypt"):
        monkeypatch.setattr(boot_stage, name, getattr(made, name))
    monkeypatch.setattr(unlock_keys, "make", some_unlock_keys)
    monkeypatch.setattr(relay_policy, "_wait_for_relay", lambda _: None)
    monkeypatch.setattr(relay_policy, "look_up", lambda *_: ("192.0.2.1",))
    return made


@pytest.fixture
def luks() -> Luks:
    """A container with a passphrase."""
    return a_container(Header2())


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device has our components."""
    stack = Stack.load(REPOSITORY / "components")
    monkeypatch.setattr(Stack, "load", lambda: stack)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Home's folder for pairing, paired."""
    own = Own(WIREGUARD[0], WIREGUARD[1], "pem", "certificate", "10.1.0.1", "10.1.0.0")

    counter = Counter("b" * 32, WIREGUARD[1], make_own("darkpipe-relay", ("10.1.0.1", "10.1.0.0")).certificate)
    bootstrap = make_bootstrap(Relay(address="192.0.2.1")).home
    pairing_file.write(tmp_path / STATE_FILE, Document(bootstrap, Kept("a" * 32, base=Keys(own, counter))))
    return tmp_path


def _add(luks: Luks, folder: Path, known: bytes = PASSPHRASE) -> Slot:
    return add_relay(luks, CONTAINER, known, lambda _: None, _places(folder))


def _places(folder: Path) -> Places:
    return Places(folder, folder / "stage.json", folder / VOLUME)


def test_the_relay_and_the_state_have_their_parts_before_the_disk_has_its_slot(
    luks: Luks, folder: Path, relay: Relays
) -> None:
    assert _add(luks, folder) == Slot(2, Use.RELAY)
    stage = boot_stage.read(folder / "stage.json")
    assert stage is not None
    assert relay.tried == [stage.relay_keys], "the tunnel that a start will have"
    key = relay.decrypt(stage.key)
    assert luks.fits(key, Use.RELAY)
    assert not luks.fits(key, Use.PASSPHRASE), "nobody can type it"
    assert Slot(0, Use.RECOVERY) in luks.slots()
    assert key.hex() not in (folder / unlock_keys.FILE).read_text(), "the disk's key is nowhere but in its slot"


@pytest.mark.parametrize("fault", ["away", "forgets"])
def test_a_relay_that_does_not_do_its_part_changes_nothing(luks: Luks, folder: Path, relay: Relays, fault: str) -> None:
    before = luks.slots()
    setattr(relay, fault, True)
    with pytest.raises(BootStageError):
        _add(luks, folder)
    assert luks.slots() == before
    assert not (folder / "stage.json").exists()
    setattr(relay, fault, False)
    assert _add(luks, folder) == Slot(2, Use.RELAY)


def test_a_cut_before_the_slot_leaves_what_opens_nothing_and_again_ends_it(
    luks: Luks, folder: Path, relay: Relays
) -> None:
    with pytest.raises(LuksError):
        _add(luks, folder, known=b"wrong")  # stops where a cut would
    stage = boot_stage.read(folder / "stage.json")
    assert stage is not None
    assert not luks.fits(relay.decrypt(stage.key), Use.RELAY)
    assert _add(luks, folder) == Slot(2, Use.RELAY)


@pytest.mark.usefixtures("relay")
def test_a_cut_between_the_slot_and_its_name_is_mended(
    luks: Luks, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Luks, "_name", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            _add(luks, folder)
    assert Slot(2, None) in luks.slots()
    assert _add(luks, folder) == Slot(2, Use.RELAY)
    assert len(luks.slots()) == 3


@pytest.mark.usefixtures("relay")
def test_what_lies_on_state_follows_the_relays_keys(luks: Luks, folder: Path) -> None:
    _add(luks, folder)
    before = boot_stage.read(folder / "stage.json")
    assert before is not None
    document = pairing_file.read(folder / STATE_FILE)
    assert document is not None
    assert document.kept.base is not None
    base = document.kept.base
    following = replace(base.relay, key=WIREGUARD[2])
    pairing_file.write(
        folder / STATE_FILE, replace(document, kept=replace(document.kept, own=base.own, answer=following))
    )
    follow(_places(folder))
    after = boot_stage.read(folder / "stage.json")
    assert after == before.model_copy(update={"relay_keys": (WIREGUARD[1], WIREGUARD[2])})


def _made_for_the_relay(luks: Luks, folder: Path) -> bytes:
    """Have a disk made with a slot for the relay, before anybody has paired; gives its key."""
    assert give_relay(luks, CONTAINER, RECOVERY, folder) == Slot(2, Use.RELAY)
    waiting = read_waiting(folder / VOLUME)
    assert waiting is not None
    assert luks.fits(waiting.octets, Use.RELAY)
    assert stat.S_IMODE((folder / VOLUME).stat().st_mode) == 0o700
    return waiting.octets


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("fault", ["", "away", "forgets"])
def test_a_new_disks_key_waits_on_the_disk_until_the_relay_helps(
    luks: Luks, folder: Path, relay: Relays, fault: str
) -> None:
    data, state = folder / "data", folder / "state"
    for made in (data, state):
        made.mkdir()
    places = Places.below(data, state)
    key = _made_for_the_relay(luks, data)
    places.pairing.mkdir()
    (folder / STATE_FILE).rename(places.pairing / STATE_FILE)
    assert not helps(CONTAINER, places)
    if fault:
        setattr(relay, fault, True)
        with pytest.raises(BootStageError):
            finish(lambda _: None, places)
        assert read_waiting(places.waiting), "it waits on"
        assert not places.stage.exists()
        setattr(relay, fault, False)
    assert finish(lambda _: None, places)
    assert helps(CONTAINER, places)
    assert not helps(UUID(int=8), places)
    stage = boot_stage.read(places.stage)
    assert stage is not None
    assert relay.decrypt(stage.key) == key
    assert read_waiting(places.waiting) is None
    assert not any(key.hex() in path.read_text() for path in folder.rglob("*.json") if path != places.stage)
    assert not finish(lambda _: None, places), "once"


@pytest.mark.usefixtures("relay", "shipped")
def test_a_cut_after_state_was_written_is_mended(luks: Luks, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = _places(folder)
    key = _made_for_the_relay(luks, folder)
    with monkeypatch.context() as patch:
        patch.setattr(relay_policy, "forget_waiting", lambda _: (_ for _ in ()).throw(OSError("cut")))
        with pytest.raises(OSError, match="cut"):
            finish(lambda _: None, places)
    assert helps(CONTAINER, places)
    assert finish(lambda _: None, places)
    assert read_waiting(places.waiting) is None
    assert luks.fits(key, Use.RELAY)


@pytest.mark.usefixtures("relay", "shipped")
def test_a_key_waits_for_a_home_that_pairs_late(luks: Luks, folder: Path) -> None:
    """systemd starts nothing a second time for a file that changes while what it has started is running."""
    places = _places(folder)
    (folder / STATE_FILE).rename(folder / "later")
    _made_for_the_relay(luks, folder)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(relay_policy.keep_up, lambda _: None, places, 0.01)
        time.sleep(0.1)
        assert not done.done()
        (folder / "later").rename(folder / STATE_FILE)
        done.result(timeout=20)
    assert helps(CONTAINER, places)


@pytest.mark.usefixtures("relay", "shipped")
def test_keys_that_change_meanwhile_are_followed(luks: Luks, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places, followed = _places(folder), [0]
    _add(luks, folder)

    def change(given: Places) -> None:
        followed[0] += 1
        follow(given)
        if followed[0] < 3:
            content = (folder / STATE_FILE).read_bytes()
            (folder / "new").write_bytes(content)
            (folder / "new").replace(folder / STATE_FILE)

    monkeypatch.setattr(relay_policy, "follow", change)
    relay_policy.keep_up(lambda _: None, places, 0.01)
    assert followed == [3], "until nothing changes any more"


@pytest.mark.usefixtures("shipped")
def test_what_a_command_ends_meanwhile_does_not_come_back(
    luks: Luks, folder: Path, relay: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Home asks the relay, or for its address, in a service of its own while somebody chooses the passphrase alone."""
    places = _places(folder)
    encrypt = relay.encrypt

    def ended(key: bytes, *rest: object) -> str:
        forget_relay(places)
        return encrypt(key, *rest)

    _made_for_the_relay(luks, folder)
    with monkeypatch.context() as patch:
        patch.setattr(boot_stage, "encrypt", ended)
        assert not finish(lambda _: None, places)
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {STATE_FILE}

    def done(key: bytes, *rest: object) -> str:
        monkeypatch.setattr(boot_stage, "encrypt", encrypt)
        assert finish(lambda _: None, places)
        return encrypt(key, *rest)

    _made_again(luks, folder)
    monkeypatch.setattr(boot_stage, "encrypt", done)
    assert not finish(lambda _: None, places)
    assert helps(CONTAINER, places), "a command that was as far is no end"

    def moved(*_: object) -> tuple[str, ...]:
        forget_relay(places)
        return ("192.0.2.2",)

    monkeypatch.setattr(relay_policy, "look_up", moved)
    follow(places)
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {STATE_FILE}


def _made_again(luks: Luks, folder: Path) -> None:
    for slot in luks.slots():
        if slot.use is Use.RELAY:
            luks.remove(slot.number)
    _made_for_the_relay(luks, folder)


def test_a_damaged_key_that_waits_is_told_of(folder: Path) -> None:
    (folder / VOLUME).mkdir()
    (folder / VOLUME / "waiting.json").write_text(json.dumps({"disk": str(CONTAINER), "key": "zz"}))
    with pytest.raises(WaitingKeyError, match="damaged") as told:
        finish(lambda _: None, _places(folder))
    assert "zz" not in str(told.value)


@pytest.mark.usefixtures("relay", "shipped")
def test_what_is_forgotten_is_nowhere(luks: Luks, folder: Path) -> None:
    _add(luks, folder)
    give_relay(luks, CONTAINER, RECOVERY, folder)
    places = _places(folder)
    forget_relay(places)
    forget_relay(places)
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {STATE_FILE}


def test_a_home_that_is_not_paired_is_told_so(luks: Luks, tmp_path: Path) -> None:
    with pytest.raises(BootStageError, match="not paired"):
        _add(luks, tmp_path)


def test_a_tunnel_over_tcp_is_refused(luks: Luks, folder: Path) -> None:
    document = pairing_file.read(folder / STATE_FILE)
    assert document is not None
    other = make_bootstrap(Relay(address="192.0.2.1", transport=Transport.MTLS)).home
    pairing_file.write(folder / STATE_FILE, replace(document, bootstrap=other))
    with pytest.raises(BootStageError, match="OpenVPN"):
        _add(luks, folder)


@pytest.mark.usefixtures("relay", "shipped")
@pytest.mark.parametrize("state", ["helps", "waits"])
def test_a_relay_over_tcp_in_place_of_the_one_that_helped_is_told_once(luks: Luks, folder: Path, state: str) -> None:
    """It is no fault that trying again would mend."""
    if state == "helps":
        _add(luks, folder)
    else:
        _made_for_the_relay(luks, folder)
    document = pairing_file.read(folder / STATE_FILE)
    assert document is not None
    other = make_bootstrap(Relay(address="192.0.2.1", transport=Transport.MTLS)).home
    pairing_file.write(folder / STATE_FILE, replace(document, bootstrap=other))
    told: list[str] = []
    relay_policy.keep_up(told.append, _places(folder), 0.01)
    assert len(told) == 1
    assert "OpenVPN" in told[0]
