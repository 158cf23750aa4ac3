"""The user-data of a site's relay, and what its owner is told to do with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bootstrap import user_data as common
from bootstrap.ends import Bootstrap
from bootstrap.user_data import LIMIT, Provider, providers, render
from builder.errors import BuildError
from model.accounts import first_accounts
from model.site import Site, Transport

__all__ = ["LIMIT", "Provider", "next_steps", "providers", "public_key", "user_data"]


def user_data(site: Site, bootstrap: Bootstrap, ssh_key: str = "") -> str:
    """Write the user-data for the relay of a site.

    Args:
        ssh_key: a public key as ssh-keygen(1) writes it; empty turns SSH off.

    Raises:
        BuildError: it is no public key, or there is too much to say for a provider's form.
    """
    with _refused():
        return common.user_data(first_accounts(site).mx_host, bootstrap, ssh_key)


def public_key(text: str) -> str:
    """Give a public key as it may stand in user-data.

    Raises:
        BuildError: it is no public key.
    """
    with _refused():
        return common.public_key(text)


def next_steps(site: Site, text: str, provider: Provider, ssh_key: str = "") -> str:
    """Tell the owner what to do with the user-data, in lines for a terminal."""
    accounts = first_accounts(site)
    return render(
        "next-steps.txt.j2",
        host=accounts.mx_host,
        mail=accounts.mail_host,
        address=site.relays[0].address,
        size=len(text.encode()),
        limit=LIMIT,
        provider=provider,
        ssh_key=ssh_key,
        mtls=site.relays[0].transport is Transport.MTLS,
    )


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except common.UserDataError as error:
        raise BuildError(str(error), error.hint) from error
