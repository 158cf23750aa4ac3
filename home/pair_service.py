"""darkpipe-pair: pairs home with its relay, changes their keys, and lets the relay have what it must know."""

from __future__ import annotations

import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from firstboot.data_place import read_record
from firstboot.partitions import DiskError
from home import pair_push, pairing_file, unlock_keys
from home.boot_stage import BootStageError
from home.bundle import Carried, Courier, NotInstalled, Older, bring_first, has_none
from home.control_errors import ControlFailure, Refused
from home.pair_diagnosis import diagnose, look_around
from home.pair_keeper import STATE_FILE, Keeper, ToolError, begin_pairing, clashes, home_end, home_networks
from home.pair_state import REPLACEMENT, WISHES, Stage, Told, Wish, tell
from home.pairing import Change, Claim, Kept, Look, Restored, Start, Tick, Which
from home.pairing_file import Document, PairingError
from home.queue_keys import QueueKeyError
from home.relay_answers import sentence
from home.relay_half import retire
from home.relay_peer import FOLDER
from home.s3_settings import S3KeyError
from home.store import Store, StoreError, read_accounts
from home.tunnel_service import FileError, read_home_file
from home.tunnel_state import is_up, read_tunnel
from model.control_tls import CertificateError
from model.document import SiteError, read_site
from model.mtls import AnyHome, MtlsHome
from model.pairing import turns
from model.site import Relay, Rotation
from stack.durable import discard_partials, write_atomically

_EVERY = 1.0
_LOOK = 15.0
"""Seconds between two looks at accounts and networks, and at why the tunnel is down."""

_PUSH = 300.0
"""Seconds until the relay is asked what it has, though nothing has changed at home."""

_REFUSED = 60.0
"""Seconds until the relay is brought once more what it has refused."""

_ROTATE_AGAIN = 3600.0
"""Seconds between two tries of a change of keys that nobody has asked for just now."""

_AFTER_END = 86400.0
"""Seconds until a change is tried again to whose keys the relay never came; each try has the tunnel down a while."""

_TELL = 5.0
"""Seconds between two lines to others while the relay's software is on its way."""

UNREADABLE = "replace: the file of the new relay's keys cannot be read, give it once more; nothing has changed"

_STATE = Path("/state")

_UNITS = ("darkpipe-drain.service",)
"""Read certificates and ids at their start (LoadCredential=)."""


class Service:
    """Pairing at work.

    Args:
        document: how far it is.
        folder: home's folder for pairing.
        state: folder where `state` is mounted, which says which disk is home's.
    """

    def __init__(
        self,
        document: Document,
        store: Store,
        folder: Path = FOLDER,
        clock: Callable[[], float] = time.monotonic,
        state: Path = _STATE,
    ) -> None:
        self._store, self._folder, self._clock, self._state = store, folder, clock, state
        self._told = Told(written=time.monotonic(), stage=Stage.CALLING, relay=document.bootstrap.relay)
        self._keeper = Keeper(document, folder, store.tunnel, self._prepare, _restart, clock)
        self._looked = self._pushed = -_PUSH
        self._rotated = -_ROTATE_AGAIN
        self._courier = Courier(clock)
        self._pushed_for: object = None
        self._pause = _PUSH
        self._trouble = ""
        self._why = ""

    def start(self) -> None:
        """Begin, after a start of the device or of the service."""
        self._keeper.happen(Start(self._clock()))
        begin_pairing(self._keeper, self._clock())

    def step(self) -> None:
        """Look, act, and say how things are."""
        self._grant_wishes()
        up = self._is_up()
        self._keeper.happen(Tick(self._clock(), up))
        if self._keeper.state.kept.base is not None:
            retire(self._folder, self._keeper.bootstrap)
        now = self._clock()
        if now - self._looked >= _LOOK:
            self._looked = now
            self._look(up)
        self._tell(up)

    @property
    def _mtls(self) -> bool:
        return isinstance(self._keeper.bootstrap, MtlsHome)

    def _is_up(self) -> bool:
        return is_up(self._keeper.end.relay_key)

    def _look(self, up: bool) -> None:
        kept = self._keeper.state.kept
        self._why = "" if up else diagnose(look_around(read_tunnel(), paired=kept.base is not None, mtls=self._mtls))
        if kept.own is not None or kept.base is None:
            return
        own, ended = kept.base.own, self._keeper.state.ended
        rests = ended is not None and self._clock() - ended < _AFTER_END
        try:
            if not rests and clashes((own.home4, own.relay4), home_networks()):
                print("a network at home has come to the tunnel's addresses: they move", flush=True)
                self._keeper.happen(Change(self._clock(), self._keeper.make_own(other=True)))
            elif (
                not rests and up and self._wants_others(kept.changed) and self._clock() - self._rotated >= _ROTATE_AGAIN
            ):
                self._rotated = self._clock()
                self._keeper.happen(Change(self._clock(), self._keeper.make_own()))
            elif up and self._keeper.state.using is Which.BASE:
                self._push()
        except ToolError as error:
            self._trouble = str(error)

    def _is_due(self, changed: int) -> bool:
        try:
            relay = self._relay()
        except (SiteError, OSError):
            return False  # which is told when the relay is next brought its settings
        # Keys from a far future were made by a clock that was wrong.
        return abs(time.time() - changed) > (relay.rotation if relay else Rotation.DAYS_90).seconds

    def _wants_others(self, changed: int) -> bool:
        """Tell whether keys shall change: they are old, or a change was refused, as a restored home's, or given up."""
        state = self._keeper.state
        return self._is_due(changed) or state.refused or state.ended is not None

    def _push(self) -> None:
        """Let the relay have settings, recipients and software."""
        now = self._clock()
        try:
            accounts, relay = read_accounts(self._store.accounts), self._relay()
            if accounts is None or relay is None:
                return
            disk = found.uuid if (found := read_record(self._state)) else None
            wanted = (accounts, relay, self._unlock_keys(), disk)
            if wanted == self._pushed_for and now - self._pushed < self._pause:
                return
            self._pushed, self._pushed_for, self._pause = now, wanted, _LOOK
            with self._keeper.client(self._keeper.state.kept.base) as client:
                state = pair_push.push(client, self._folder, self._store.data / "queue-keys", relay, accounts)
                self._told = replace_told(self._told, recipients=state.recipients, settings=state.settings)
                self._told = replace_told(self._told, software=sentence(state.software))
                bundle, report = Carried.of_image(), lambda _: self._tell_meanwhile()
                self._told = replace_told(
                    self._told, software=sentence(self._courier.bring(client, bundle, report, self._sleep))
                )
                # A relay has to have software of today for it.
                unlock = pair_push.push_unlock(client, self._folder, state.unlock, disk)
                self._told = replace_told(self._told, unlock=unlock)
            self._pause, self._trouble = _PUSH, ""
        except (
            *(ControlFailure, CertificateError, S3KeyError, QueueKeyError, StoreError, SiteError, BootStageError),
            *(DiskError, OSError),
        ) as error:
            if str(error) != self._trouble:
                print(error, flush=True)
            self._trouble = str(error)
            if isinstance(error, Refused | NotInstalled | Older):
                self._pause = _REFUSED

    def _unlock_keys(self) -> bytes:
        path = self._folder / unlock_keys.FILE
        return path.read_bytes() if path.exists() else b""

    def _sleep(self, seconds: float) -> None:
        self._tell_meanwhile()
        time.sleep(seconds)

    def _tell_meanwhile(self) -> None:
        """Let others see that this service is busy, and has not ended."""
        if time.monotonic() - self._told.written >= _TELL:
            self._told = replace_told(self._told)
            tell(self._told)

    def _relay(self) -> Relay | None:
        site = read_site(self._store.site) if self._store.site.exists() else None
        return site.relays[0] if site and site.relays else None

    def _prepare(self, address: str) -> None:
        if not has_none(address):
            return
        print("the relay gets its software", flush=True)
        self._told = replace_told(self._told, stage=Stage.INSTALLING, trouble="")
        tell(self._told)
        bring_first(address, Carried.of_image())

    def _grant_wishes(self) -> None:
        for wish in Wish:
            path = self._folder / WISHES / wish
            if path.exists():
                said = self._grant(wish)
                print(f"{wish}: {said}", flush=True)
                self._told = replace_told(self._told, wish=f"{wish}: {said}")
                path.unlink()

        self._replace(self._folder / WISHES / REPLACEMENT)

    def _replace(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            bootstrap = read_home_file(path)
        except FileError:
            print(UNREADABLE, flush=True)
            self._told = replace_told(self._told, wish=UNREADABLE)
            bootstrap = None
        if bootstrap is not None and bootstrap != self._keeper.bootstrap:
            self._forget_what_it_has()
            self._keeper.replace(bootstrap)
            self._told = replace_told(self._told, relay=bootstrap.relay)
            print(f"home has another relay: {bootstrap.relay}", flush=True)
        path.unlink()

    def _forget_what_it_has(self) -> None:
        # First of all: after a cut, all is made once more for whichever relay it is.
        pair_push.begin_anew(self._folder)
        self._told = replace_told(self._told, software="", recipients=0, settings=0, unlock="")
        self._pushed_for = None

    def _grant(self, wish: Wish) -> str:
        now, keeper = self._clock(), self._keeper
        kept = keeper.state.kept
        match wish:
            case Wish.AGAIN if not kept.rebuilt:
                return self._look_for_another()
            case Wish.AGAIN:
                self._forget_what_it_has()
                keeper.happen(Claim(now, keeper.make_own()))
                return "home pairs with the relay that was built anew"
            case Wish.ROTATE if kept.base is None:
                return "home is not paired yet"
            case Wish.ROTATE:
                keeper.happen(Change(now, keeper.make_own()))
                return "home and relay change to new keys"
            case Wish.RESTORED:
                keeper.happen(Restored(now, keeper.make_own()))
                return f"this home counts from now on, with epoch {keeper.state.kept.epoch}"

    def _look_for_another(self) -> str:
        base = self._keeper.state.kept.base
        if base is None:
            return "home is not paired yet, and calls its relay by itself"
        if self._is_up():
            return "the relay answers to the paired keys: it was not built anew"
        self._keeper.happen(Look(self._clock()))
        return (
            f"for {turns(base.own.public).look:.0f} seconds home looks whether a relay answers to the bootstrap's "
            "keys. `darkpipe pair` tells when one does; give this command once more then, to claim it"
        )

    def _tell(self, up: bool) -> None:
        state = self._keeper.state
        kept = state.kept
        trouble = state.trouble if kept.own or state.refused else ""
        ended = state.trouble if state.ended is not None else ""
        now = stage(kept, state.using, up=up)
        self._told = replace_told(
            self._told,
            stage=now,
            # Why the relay of before does not answer is known: it is the one that was built anew.
            trouble=trouble or ("" if now is Stage.REBUILT else self._trouble or ("" if up else self._why)) or ended,
            relay_id=kept.base.relay.relay if kept.base else "",
            home_epoch=kept.epoch,
            changed=kept.changed,
        )
        tell(self._told)


def stage(kept: Kept, using: Which, *, up: bool) -> Stage:
    """Say how far home and relay are."""
    if kept.rebuilt and not up:
        return Stage.REBUILT
    if kept.base is not None:
        if kept.own is not None:
            return Stage.CHANGING
        return Stage.PAIRED if up else Stage.SILENT
    if using is Which.NEXT:
        return Stage.CONFIRMING
    return Stage.OFFERING if up else Stage.CALLING


def replace_told(told: Told, **changes: object) -> Told:
    """Give what is told with some changes, and the moment of now."""
    return told.model_copy(update={**changes, "written": time.monotonic()})


def read_document(folder: Path, store: Store) -> Document | None:
    """Read how far pairing is; at the first start, begin with the bootstrap. None while no relay is known.

    Raises:
        PairingError, FileError: a file is damaged.
        OSError: the disk has failed.
    """
    document = pairing_file.read(folder / STATE_FILE)
    if document is not None and document.kept.base is not None:
        return document
    found = read_home_file(store.tunnel) if store.tunnel.exists() else None
    # Anything else is another relay's bootstrap, put there before home was paired with the one before.
    if document is not None and found in {None, document.bootstrap, _next(document)}:
        return document
    if found is None:
        return None
    kept = Kept(document.kept.home, document.kept.epoch) if document else Kept(secrets.token_hex(16))
    document = Document(found, kept)
    pairing_file.write(folder / STATE_FILE, document)
    return document


def take_first(folder: Path, store: Store) -> None:
    """Let a device that knows no relay go by the keys that somebody has given it (`darkpipe relay replace`).

    Cut off by the power, the wish may still be there: one for what home goes by already, then.

    Raises:
        OSError: the disk has failed.
    """
    path = folder / WISHES / REPLACEMENT
    if not path.exists():
        return
    try:
        if bootstrap := read_home_file(path):
            write_atomically(store.tunnel, bootstrap.model_dump_json().encode(), 0o600)
    except FileError:
        print(UNREADABLE, flush=True)
    path.unlink()


def _next(document: Document) -> AnyHome:
    return home_end(document.bootstrap, document.kept.following)


def serve(stopped: threading.Event, folder: Path = FOLDER, store: Store | None = None) -> None:
    """Pair until told to stop."""
    store = store or Store()
    (folder / WISHES).mkdir(mode=0o700, exist_ok=True)
    discard_partials(folder)
    service: Service | None = None
    while not stopped.is_set():
        try:
            if service is None and (document := read_document(folder, store)):
                service = Service(document, store, folder)
                service.start()
            if service:
                service.step()
            else:
                take_first(folder, store)
                tell(Told(written=time.monotonic(), stage=Stage.NO_RELAY))
        except (PairingError, FileError, ToolError, CertificateError, OSError) as error:
            print(error, flush=True)
            tell(Told(written=time.monotonic(), stage=Stage.BROKEN, trouble=str(error)))
            service = None
            stopped.wait(_LOOK)
        stopped.wait(_EVERY)


def _restart() -> None:
    for unit in _UNITS:
        subprocess.run(["systemctl", "--no-block", "try-restart", unit], check=False, capture_output=True)


def main() -> None:
    """Run as systemd's service."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    serve(stopped)


if __name__ == "__main__":
    main()
