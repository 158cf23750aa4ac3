"""What it takes to add a user, whoever asks for it."""

from __future__ import annotations

from home.store import Store
from model.account_changes import add_user
from model.accounts import Accounts
from model.names import mail_address
from model.problems import Kind, Refusal, quoted


def with_user(
    before: Accounts, address: str, password_hash: str | None, quota: int | None, store: Store, *, old_mail: bool
) -> Accounts:
    """Give accounts with one user more.

    Args:
        password_hash: None when a password is to be made.
        quota: bytes; None for no limit.
        old_mail: whether the user may read what an earlier one of this address has left.

    Raises:
        Refusal: the address is not to be had, or there is such mail.
    """
    after = add_user(before, address, password_hash, quota)
    if not old_mail:
        _refuse_old_mail(mail_address(address), store)
    return after


def _refuse_old_mail(address: str, store: Store) -> None:
    folder = store.mailbox(address)
    if folder.exists():
        raise Refusal(
            Kind.OLD_MAIL,
            f"mail of an earlier user of {quoted(address)} in {folder}",
            "an address without mail",
            "`darkpipe user add --with-old-mail` lets the new user read it; otherwise move the folder away first",
        )
