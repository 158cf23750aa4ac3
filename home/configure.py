"""`darkpipe apply`, and every change of the accounts: from what is on `data` to the configuration in force.

The Site (from the boot partition) makes the accounts at the first apply. From then on these rule.

The order makes a change safe to be cut off at every step: the configuration is rendered and judged by the daemons,
then the accounts are stored, then the configuration is switched to. A cut before the storing leaves the old state; a
cut after it leaves new accounts, which the apply of the next start brings into force.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from firstboot.owner_code import KEPT as FIRST_CODE
from firstboot.owner_code import take_code
from firstboot.seed import Taken, boot_partition, misnamed_seeds, take_seed, take_tunnel, wipe_partial
from home.queue_keys import ensure_identity
from home.restarts import note, noted
from home.store import Store, read_accounts, write_accounts
from model.accounts import Accounts, first_accounts
from model.document import SEED_NAME, read_site
from model.problems import Kind, Refusal
from model.site import Relay
from stack.apply import Applied, Run, apply, run_check
from stack.certificate import ensure_certificate
from stack.dkim import ensure_keys, signing_keys
from stack.owners import Owners, SystemOwners
from stack.passwords import expect, generate_password, hash_password, settle
from stack.preview import Preview, discard_leftover, preview
from stack.render import File, render
from stack.srs_key import ensure_srs_key
from stack.stack import Stack
from stack.volumes import make_volumes

NOTHING = f"""\
DarkPipe has nothing to do yet: it knows no domain and no mailbox.
Put a file {SEED_NAME} on the small partition of the disk (FAT, named DP-ESP or darkpipe-esp) and start again;
`./darkpipe build` makes one from your site.yaml."""

Show = Callable[[Mapping[str, str]], bool]
"""Shows passwords, by address, to somebody, and in no log; tells whether that was possible."""


@dataclass(frozen=True)
class InForce:
    """What is in force now.

    Args:
        accounts: as they are stored, or will be once their passwords have been shown.
        applied: the configuration, and which services do not know it yet.
        unshown: addresses with a password that was made and that nobody could be shown; the next apply makes another.
    """

    accounts: Accounts
    applied: Applied
    unshown: tuple[str, ...] = ()


def configure(stack: Stack, store: Store, announce: Callable[[str], bool]) -> InForce | None:
    """Bring the accounts into force; calling it again changes nothing.

    Args:
        announce: shows a text to whoever sits at the device, in no log.

    Returns:
        What is in force now, or None while there is no Site.

    Raises:
        OSError, CheckError, RenderError, CertificateError, DkimError, QueueKeyError, SeedError, DiskError,
        home.store.StoreError, model.document.SiteError: each says what to do; the configuration in force is untouched.
    """
    make_volumes(stack.volumes, store.data, SystemOwners())
    discard_leftover(store.scratch)
    with store.locked():
        store.discard_partials()
        with boot_partition() as boot:
            if boot and (refusal := take_over(boot, store)):
                announce(f"DarkPipe: your own code is not taken: {refusal}.")
            misnamed = misnamed_seeds(boot) if boot else ()
        if not store.site.exists():
            announce(
                "\n".join((NOTHING, *(f"There is a file {name}: is it that one? Rename it." for name in misnamed)))
            )
            return None
        return bring_into_force(stack, store, _accounts(store), lambda passwords: announce(passwords_text(passwords)))


def take_over(boot: Path, store: Store) -> str:
    """Take over what waits on the boot partition: the owner's code, the tunnel, and last the Site, which starts all.

    Cut off by the power at any step, nothing is lost, and doing it again goes on with it.

    Args:
        boot: folder with the boot partition.

    Returns:
        Why the owner's code is not taken; empty when it is, or when there is none.

    Raises:
        SiteError, SeedError: what is wrong with Site or tunnel, which stay there.
        OSError: something cannot be kept.
    """
    wipe_partial(boot)
    known = store.site.exists()
    waits = known or (boot / SEED_NAME).is_file()
    refusal = take_code(boot, store.data / FIRST_CODE, fresh=not known) if waits else ""
    if Taken.LEFTOVER in {take_tunnel(boot, store.tunnel), take_seed(boot, store.site)}:
        print(Taken.LEFTOVER)
    return refusal


def try_out(stack: Stack, store: Store) -> Preview | None:
    """Tell what `configure` would change; it changes nothing, and waits for nobody who is changing something.

    A seed on the boot partition stays there unread.

    Returns:
        What would change, or None while there is no Site.

    Raises:
        OSError, CheckError, RenderError, StoreError, model.document.SiteError: `configure` would end so too.
    """
    if not store.site.exists():
        return None
    accounts = _accounts(store)
    files = _rendered(stack, store, expect(accounts))
    found = preview(stack, files, store.configurations, store.scratch, SystemOwners())
    waiting = {*found.changed, *noted(store.restarts, stack)}
    return replace(found, changed=tuple(service.name for service in stack.services if service.name in waiting))


def change_accounts(stack: Stack, store: Store, change: Callable[[Accounts], Accounts], show: Show) -> InForce:
    """Change the accounts and bring the change into force, or leave everything as it was.

    Args:
        change: gives the new accounts, or refuses.

    Raises:
        Refusal: from `change`, or the device was not set up.
        OSError, CheckError, RenderError, CertificateError, DkimError, QueueKeyError, StoreError: the old accounts
            are in force.
    """
    with store.locked():
        return bring_into_force(stack, store, change(known_accounts(store)), show)


def known_accounts(store: Store) -> Accounts:
    """Read the accounts of a device that was set up.

    Raises:
        Refusal: it was not.
    """
    accounts = read_accounts(store.accounts)
    if accounts is None:
        raise Refusal(
            Kind.NOT_SET_UP,
            "a device without accounts",
            "a device that was set up from a site.yaml",
            f"put {SEED_NAME} on its boot partition and start it, or run `darkpipe apply` to see what is wrong",
        )
    return accounts


def bring_into_force(
    stack: Stack,
    store: Store,
    accounts: Accounts,
    show: Show,
    owners: Owners | None = None,
    run: Run = run_check,
) -> InForce:
    """Store accounts and switch to their configuration; the caller holds the lock.

    Args:
        owners: who files belong to; None for the system's users.
        run: runs the daemons' checks.
    """
    ensure_certificate(store.certificate, list(dict.fromkeys([accounts.mail_host, accounts.mx_host])))
    ensure_srs_key(store.srs_key)
    if _relays(store):
        ensure_identity(store.queue_keys)
    settled = settle(accounts, hash_password, generate_password)
    ensure_keys(store.dkim_keys, [domain.name for domain in accounts.domains], owners or SystemOwners())
    files = _rendered(stack, store, settled.accounts)
    applied = apply(
        stack,
        files,
        store.configurations,
        owners or SystemOwners(),
        run,
        # Without the hashes of passwords that nobody has seen: a cut from here on, and the next apply makes others.
        commit=lambda names: _store(store, accounts, names),
    )
    applied = replace(applied, changed=noted(store.restarts, stack))
    if settled.unseen and not show(settled.unseen):
        return InForce(settled.accounts, applied, tuple(settled.unseen))
    if settled.unseen:
        write_accounts(store.accounts, settled.accounts)
    return InForce(settled.accounts, applied)


def passwords_text(passwords: Mapping[str, str]) -> str:
    """Write passwords for a screen."""
    width = max(len(address) for address in passwords)
    lines = [f"    {address:<{width}}   {password}" for address, password in passwords.items()]
    rule = "=" * 72
    return "\n".join(
        [
            rule,
            "DarkPipe made these passwords. They are shown this once and kept nowhere:",
            "write them down now.",
            "",
            *lines,
            rule,
        ]
    )


def _accounts(store: Store) -> Accounts:
    # Also when it only made the accounts: what else it says must be right.
    site = read_site(store.site)
    return read_accounts(store.accounts) or first_accounts(site)


def _store(store: Store, accounts: Accounts, restarts: Sequence[str]) -> None:
    note(store.restarts, restarts)
    if read_accounts(store.accounts) != accounts:
        write_accounts(store.accounts, accounts)


def _rendered(stack: Stack, store: Store, accounts: Accounts) -> Mapping[PurePosixPath, File]:
    keys = signing_keys(store.dkim_keys, [domain.name for domain in accounts.domains])
    return render(stack, accounts, PurePosixPath(store.certificate), keys, relayed=bool(_relays(store)))


def _relays(store: Store) -> Sequence[Relay]:
    return read_site(store.site).relays if store.site.exists() else ()
