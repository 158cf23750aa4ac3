"""Accounts: whose mail a home takes, and who may log in; what the account store on `data` holds.

A Site starts it. From then on it is changed on the device (`model.account_changes`), and a Site's users and domains no
longer matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from model import names
from model.account_rules import broken_rules
from model.passwords import GENERATE, HASH_PATTERN, PROMPT
from model.quota import quota_bytes
from model.site import Site


def _same(canonical: str, text: str) -> str:
    """The store is written by programs: another form than the canonical one is damage, not a matter of taste."""
    if canonical != text:
        raise ValueError(f"not in the form {canonical}")
    return text


def _password_hash(text: str) -> str:
    if not re.fullmatch(HASH_PATTERN, text):
        raise ValueError("no argon2id hash")
    return text


DomainName = Annotated[str, AfterValidator(lambda text: _same(names.domain_name(text), text))]
HomeAddress = Annotated[str, AfterValidator(lambda text: _same(names.mail_address(text), text))]
Target = Annotated[str, AfterValidator(lambda text: _same(names.target_address(text), text))]
PasswordHash = Annotated[str, AfterValidator(_password_hash)]
Quota = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    # Pydantic would quote the input in its errors, and with it a hash.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class MailDomain(_Strict):
    """A domain whose mail arrives here.

    Args:
        catch_all: the mailbox that takes mail to addresses which nobody has.
    """

    name: DomainName
    catch_all: HomeAddress | None = None


class Account(_Strict):
    """A mailbox, and who may log in to it.

    Args:
        address: its address, also the name for logging in.
        password_hash: argon2id; None while a password has still to be made and shown to somebody.
        quota: the most bytes that the mailbox may hold; None for no limit.
    """

    address: HomeAddress
    password_hash: PasswordHash | None = Field(None, repr=False)
    quota: Quota | None = None


class Alias(_Strict):
    """An address without a mailbox of its own.

    Args:
        targets: who gets its mail: mailboxes and aliases of this home (perhaps with a `+extension`), and addresses
            elsewhere.
    """

    address: HomeAddress
    targets: tuple[Target, ...] = Field(min_length=1)


class Accounts(_Strict):
    """Everybody whom this home knows, consistent in itself.

    Args:
        domains: the first one is the primary: the machine's names follow from it, and it stays.
        admin: address of a user or an alias: gets reports, and mail to postmaster.
    """

    version: Literal[1] = 1
    domains: tuple[MailDomain, ...]
    users: tuple[Account, ...]
    aliases: tuple[Alias, ...] = ()
    admin: HomeAddress

    @property
    def primary_domain(self) -> str:
        """The domain that the machine's names belong to."""
        return self.domains[0].name

    @property
    def mail_host(self) -> str:
        """The name that mail apps and browsers use."""
        return f"mail.{self.primary_domain}"

    @property
    def mx_host(self) -> str:
        """The name that other mail servers use: MX, EHLO and PTR."""
        return f"mx.{self.primary_domain}"

    @property
    def targets(self) -> Mapping[str, tuple[str, ...]]:
        """The targets of each alias."""
        return {alias.address: alias.targets for alias in self.aliases}

    def domain(self, name: str) -> MailDomain | None:
        """Find a domain."""
        return next((domain for domain in self.domains if domain.name == name), None)

    def user(self, address: str) -> Account | None:
        """Find a user."""
        return next((user for user in self.users if user.address == address), None)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        findings = [str(refusal) for refusal in broken_rules(self)]
        if findings:
            raise ValueError("\n".join(findings))
        return self


def first_accounts(site: Site) -> Accounts:
    """Give the accounts that a Site asks for, at the first start of a device."""
    catch_all = {domain: user.address for user in site.users for domain in user.catch_all}
    return Accounts(
        domains=tuple(MailDomain(name=name, catch_all=catch_all.get(name)) for name in site.domains),
        users=tuple(
            Account(
                address=user.address,
                # The device makes a password also for those that should have been asked for earlier: nobody could be.
                password_hash=None if user.password in {GENERATE, PROMPT} else user.password,
                quota=quota_bytes(user.quota) if user.quota else None,
            )
            for user in site.users
        ),
        aliases=tuple(Alias(address=alias, targets=(user.address,)) for user in site.users for alias in user.aliases),
        admin=site.admin,
    )
