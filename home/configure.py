"""`darkpipe apply`: from the Site on `data` (or on the boot partition, at first) to the configuration in force."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from firstboot.seed import Taken, boot_partition, take_seed
from model.document import SEED_NAME, read_site
from model.site import Site
from stack.apply import Applied, apply
from stack.certificate import ensure_certificate
from stack.credentials import expect, generate_password, hash_password, mark_shown, settle
from stack.owners import SystemOwners
from stack.preview import Preview, discard_leftover, preview
from stack.render import render
from stack.stack import DATA, Stack
from stack.volumes import make_volumes

_NOTHING = f"""\
DarkPipe has nothing to do yet: it knows no domain and no mailbox.
Put a file {SEED_NAME} on the small partition of the disk (FAT, named DP-ESP or darkpipe-esp) and start again;
`./darkpipe build` makes one from your site.yaml."""


@dataclass(frozen=True)
class Store:
    """Where things are on `data`.

    Args:
        data: the folder with all volumes.
        scratch: where a configuration lies that is only tried; not on `data`, which may be full.
    """

    data: Path = Path(DATA)
    scratch: Path = Path("/run/darkpipe-dry-run")

    @property
    def site(self) -> Path:
        """The Site, once the seed was taken over."""
        return self.data / "darkpipe" / "site.yaml"

    @property
    def credentials(self) -> Path:
        """Hashes of the passwords that were made here."""
        return self.data / "darkpipe" / "credentials.json"

    @property
    def configurations(self) -> Path:
        """The rendered configurations."""
        return self.data / "darkpipe" / "config"

    @property
    def certificate(self) -> Path:
        """Key and certificate of the mail server."""
        return self.data / "tls" / "mail.pem"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second `darkpipe apply` waiting until this one is done."""
        with (self.data / "darkpipe" / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class ConsoleError(Exception):
    """There is no console to show a password on."""


def configure(stack: Stack, store: Store, announce: Callable[[str], bool]) -> Applied | None:
    """Bring the Site into force; calling it again changes nothing.

    Args:
        announce: shows a text to whoever sits at the device, in no log.

    Returns:
        What has changed, or None while there is no Site.

    Raises:
        OSError, CheckError, RenderError, CertificateError, CredentialsError, SeedError, DiskError,
        ConsoleError, model.document.SiteError: each says what to do; the configuration in force is untouched.
    """
    make_volumes(stack.volumes, store.data, SystemOwners())
    discard_leftover(store.scratch)
    with store.locked():
        with boot_partition() as boot:
            if boot and take_seed(boot, store.site) is Taken.LEFTOVER:
                print(Taken.LEFTOVER)
        if not store.site.exists():
            announce(_NOTHING)
            return None
        return _bring_into_force(stack, store, read_site(store.site), announce)


def try_out(stack: Stack, store: Store) -> Preview | None:
    """Tell what `configure` would change; it changes nothing, and waits for nobody who is changing something.

    A seed on the boot partition stays there unread.

    Returns:
        What would change, or None while there is no Site.

    Raises:
        OSError, CheckError, RenderError, CredentialsError, model.document.SiteError: `configure` would end so too.
    """
    if not store.site.exists():
        return None
    site = read_site(store.site)
    files = render(stack, site, expect(site, store.credentials).accounts, PurePosixPath(store.certificate))
    return preview(stack, files, store.configurations, store.scratch, SystemOwners())


def _bring_into_force(stack: Stack, store: Store, site: Site, announce: Callable[[str], bool]) -> Applied:
    ensure_certificate(store.certificate, list(dict.fromkeys([site.mail_host, site.mx_host])))
    settled = settle(site, store.credentials, hash_password, generate_password)
    files = render(stack, site, settled.accounts, PurePosixPath(store.certificate))
    applied = apply(stack, files, store.configurations, SystemOwners())
    if settled.unseen:
        if not announce(_passwords(settled.unseen)):
            raise ConsoleError("no console could be opened: the passwords that were made will be made anew next time")
        mark_shown(store.credentials, settled.unseen)
    return applied


def _passwords(unseen: Mapping[str, str]) -> str:
    width = max(len(address) for address in unseen)
    lines = [f"    {address:<{width}}   {password}" for address, password in unseen.items()]
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
