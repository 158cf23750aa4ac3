"""Where things are on `data`, and the account store among them."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from model.accounts import Accounts
from model.tunnel import HOME_FILE
from stack.dkim import KEYS
from stack.durable import discard_partials, write_atomically
from stack.stack import DATA


class StoreError(Exception):
    """The account store cannot be used; the text names the file."""


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
    def tunnel(self) -> Path:
        """Home's end of the tunnel, once the seed was taken over."""
        return self.data / "darkpipe" / HOME_FILE

    @property
    def accounts(self) -> Path:
        """Domains, users and aliases, once they were made from the Site."""
        return self.data / "darkpipe" / "accounts.json"

    @property
    def configurations(self) -> Path:
        """The rendered configurations."""
        return self.data / "darkpipe" / "config"

    @property
    def restarts(self) -> Path:
        """The services that have still to see the configuration in force (`home.restarts`)."""
        return self.data / "darkpipe" / "restarts"

    @property
    def certificate(self) -> Path:
        """Key and certificate of the mail server."""
        return self.data / "tls" / "mail.pem"

    @property
    def srs_key(self) -> Path:
        """What postsrsd signs addresses with."""
        return self.data / "srs" / "key"

    @property
    def dkim_keys(self) -> Path:
        """The keys that sign outgoing mail."""
        return self.data / KEYS

    @property
    def queue_keys(self) -> Path:
        """The keys that open what waits on the relay."""
        return self.data / "queue-keys"

    def mailbox(self, address: str) -> Path:
        """Where the mail of an address lies (mail_home in dovecot.conf)."""
        name, _, domain = address.partition("@")
        return self.data / "mail" / domain / name

    def discard_partials(self) -> None:
        """Remove what power cuts have left of the writing of files here; the caller holds the lock."""
        for path in (self.accounts, self.certificate, self.srs_key, self.dkim_keys / "any", self.queue_keys / "any"):
            discard_partials(path.parent)

    def left_mailboxes(self, accounts: Accounts) -> Sequence[str]:
        """List the addresses that have mail here and no user any more."""
        folders = sorted(path for path in (self.data / "mail").glob("*/*") if path.is_dir())
        addresses = [f"{path.name}@{path.parent.name}" for path in folders]
        return [address for address in addresses if accounts.user(address) is None]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep whoever else wants to change something waiting until this change is done."""
        with (self.data / "darkpipe" / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def read_accounts(path: Path) -> Accounts | None:
    """Read the account store; None while there is none.

    Raises:
        StoreError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Accounts.model_validate_json(content)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors(include_url=False))
        text = "\n  ".join([f"the account store {path} is damaged:", *problems])
        raise StoreError(f"{text}\nThe services go on with the accounts that they have; mend the file.") from None


def write_accounts(path: Path, accounts: Accounts) -> None:
    """Replace the account store, for root's eyes only; on return it is durable."""
    text = json.dumps(accounts.model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_atomically(path, f"{text}\n".encode(), 0o600)
