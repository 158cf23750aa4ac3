"""A relay's user-data, made on this device: what is kept of them, and for how long.

The relay's half of the bootstrap is in them, and so they lie where home's keys do, for root's eyes only. Once home and
relay are paired, that half opens nothing any more, and darkpipe-pair removes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bootstrap.ends import Bootstrap, make_bootstrap
from bootstrap.user_data import LIMIT, UserDataError, public_key, user_data
from home import pairing_file
from home.configure import known_accounts
from home.pair_keeper import STATE_FILE
from home.pair_state import REPLACEMENT, WISHES
from home.relay_half import DRAFT
from home.relay_peer import FOLDER
from home.relay_view import Origin, RelayView
from home.store import Store
from model.document import read_site
from model.mtls import AnyHome, MtlsHome, read_home_end
from model.names import host
from model.problems import Kind, Refusal
from model.site import Relay, Transport
from stack.durable import write_atomically


class Draft(BaseModel):
    """The file.

    Args:
        ssh_key: who may log in to the relay; empty for nobody.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    format: Literal[1] = 1
    bootstrap: Bootstrap
    ssh_key: str = ""


def show(store: Store, folder: Path = FOLDER) -> RelayView:
    """Tell where the user-data are, and give them if they are here; nothing changes.

    Raises:
        Refusal: the device was not set up.
        SiteError, StoreError, PairingError, ValidationError, OSError: a file cannot be used.
    """
    accounts, relay = known_accounts(store), _relay(store)
    if relay is None:
        return RelayView(origin=Origin.NOWHERE, name=accounts.mx_host, mail_host=accounts.mail_host)
    home = _in_force(store, folder)
    view = RelayView(
        origin=Origin.TO_MAKE if home is None else Origin.ELSEWHERE,
        name=accounts.mx_host,
        mail_host=accounts.mail_host,
        address=home.relay if home else relay.address,
        mtls=isinstance(home, MtlsHome) if home else relay.transport is Transport.MTLS,
    )
    if _is_paired(folder):
        return view.model_copy(update={"origin": Origin.SPENT})
    draft = read_draft(folder)
    # A power cut may have come before home's half counted: such a text would make a relay that home never finds.
    if draft is None or draft.bootstrap.home != home:
        return view
    text = user_data(accounts.mx_host, draft.bootstrap, draft.ssh_key)
    told = {"origin": Origin.HERE, "text": text, "size": len(text.encode()), "limit": LIMIT, "ssh": bool(draft.ssh_key)}
    return view.model_copy(update=told)


def make(store: Store, ssh_key: str, *, anew: bool, folder: Path = FOLDER) -> None:
    """Make keys and user-data for a relay, and let home go by its half of them.

    Args:
        ssh_key: a public key that may log in to the relay; empty for none.
        anew: whether keys that there are, of a relay perhaps, are given up for it.

    Raises:
        Refusal: there are such keys, there can be no such user-data, or the device was not set up.
        SiteError, StoreError, PairingError, ValidationError, OSError: a file cannot be used; nothing has changed.
    """
    with store.locked():
        accounts, relay = known_accounts(store), _relay(store)
        if relay is None:
            raise Refusal(
                Kind.NOT_SET_UP,
                "a site without a relay",
                "a site that names one",
                "give the device a relay first, on the same page",
            )
        if _in_force(store, folder) is not None and not anew:
            raise Refusal(
                Kind.IN_USE,
                "keys that this device has of a relay already",
                "a device without",
                "say that they are given up for new ones",
            )
        try:
            key = public_key(ssh_key) if ssh_key.strip() else ""
            made = Draft(bootstrap=make_bootstrap(relay), ssh_key=key)
            user_data(accounts.mx_host, made.bootstrap, key)  # what is refused is refused before keys change
        except UserDataError as error:
            raise Refusal(Kind.UNREADABLE, str(error), "a public SSH key, or none", error.hint) from None
        _put_in_force(made, store, folder)


def point(store: Store, address: str, folder: Path = FOLDER) -> None:
    """Let home look for its relay at another address, which somebody has read off the provider's page.

    Args:
        address: a name or an IP address.

    Raises:
        Refusal: it is neither, home and relay are paired, or there is nothing to look for.
        StoreError, PairingError, ValidationError, OSError: a file cannot be used; nothing has changed.
    """
    found = host(address.strip())
    with store.locked():
        home = _in_force(store, folder)
        if home is None or _is_paired(folder):
            raise Refusal(
                Kind.IN_USE if home else Kind.NOT_SET_UP,
                "a relay that home is paired with" if home else "no keys of a relay",
                "a relay that home is looking for",
                "let the relay's name lead to its address, in DNS" if home else "make its user-data first",
            )
        draft, end = read_draft(folder), home.model_copy(update={"relay": found})
        if draft and draft.bootstrap.home == home:
            moved = Bootstrap(home=end, relay=draft.bootstrap.relay)
            _put_in_force(draft.model_copy(update={"bootstrap": moved}), store, folder)
        else:
            _let_home_go_by(end, store, folder)


def read_draft(folder: Path) -> Draft | None:
    """Read what is kept; None without.

    Raises:
        ValidationError: it is damaged; the text quotes nothing of it.
        OSError: it cannot be read.
    """
    try:
        return Draft.model_validate_json((folder / DRAFT).read_bytes())
    except FileNotFoundError:
        return None


def _put_in_force(draft: Draft, store: Store, folder: Path) -> None:
    # The relay's half first: a cut between the two leaves home with the keys that it had.
    write_atomically(folder / DRAFT, draft.model_dump_json().encode(), 0o600)
    _let_home_go_by(draft.bootstrap.home, store, folder)


def _let_home_go_by(home: AnyHome, store: Store, folder: Path) -> None:
    content = home.model_dump_json().encode()
    if pairing_file.read(folder / STATE_FILE) is None:
        write_atomically(store.tunnel, content, 0o600)
    # darkpipe-pair may have begun with what it found meanwhile; a wish for what it has already changes nothing.
    if pairing_file.read(folder / STATE_FILE) is not None:
        (folder / WISHES).mkdir(mode=0o700, exist_ok=True)
        write_atomically(folder / WISHES / REPLACEMENT, content, 0o600)


def _in_force(store: Store, folder: Path) -> AnyHome | None:
    """Give home's half of the bootstrap that it goes by, or will in a moment."""
    wish = folder / WISHES / REPLACEMENT
    if wish.exists():
        return read_home_end(wish.read_bytes())
    document = pairing_file.read(folder / STATE_FILE)
    if document is not None:
        return document.bootstrap
    return read_home_end(store.tunnel.read_bytes()) if store.tunnel.exists() else None


def _is_paired(folder: Path) -> bool:
    if (folder / WISHES / REPLACEMENT).exists():
        return False
    document = pairing_file.read(folder / STATE_FILE)
    return document is not None and document.kept.base is not None


def _relay(store: Store) -> Relay | None:
    relays = read_site(store.site).relays if store.site.exists() else ()
    return relays[0] if relays else None
