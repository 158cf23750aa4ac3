"""What darkpipe-hand can be asked for: this list, and nothing else."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from model.site import OfflinePolicy, Transport

_Line = Annotated[str, Field(max_length=1024)]


class _Question(BaseModel):
    # Pydantic would quote the input in its errors, and with it a password.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ShowRelay(_Question):
    """Where the relay's user-data are, and their text if they are here."""

    do: Literal["show-relay"] = "show-relay"


class BeginRelay(_Question):
    """A relay for a device whose site names none."""

    do: Literal["begin-relay"] = "begin-relay"
    offline: OfflinePolicy
    transport: Transport


class MakeRelay(_Question):
    """New keys and user-data.

    Args:
        ssh_key: a public key that may log in to the relay; empty for none.
        anew: whether keys that there are, are given up.
    """

    do: Literal["make-relay"] = "make-relay"
    ssh_key: Annotated[str, Field(max_length=4096)] = ""
    anew: bool = False


class PointRelay(_Question):
    """The relay's address, as somebody has read it."""

    do: Literal["point-relay"] = "point-relay"
    address: _Line


class ClaimRelay(_Question):
    """The consent to a relay that was built anew from the same user-data."""

    do: Literal["claim-relay"] = "claim-relay"


class StartPreflight(_Question):
    """A pre-flight, unless one is under way."""

    do: Literal["preflight"] = "preflight"


class AddUser(_Question):
    """A mailbox."""

    do: Literal["add-user"] = "add-user"
    address: _Line
    password: _Line = Field(repr=False)


class SetPassword(_Question):
    """Another password for a mailbox."""

    do: Literal["set-password"] = "set-password"
    address: _Line
    password: _Line = Field(repr=False)


class SendTest(_Question):
    """A message by which a user sees that mail goes out.

    Args:
        sender: the user.
        password: the user's own: the message goes the way of a mail app's.
    """

    do: Literal["send-test"] = "send-test"
    sender: _Line
    password: _Line = Field(repr=False)
    recipient: _Line


class ShowTest(_Question):
    """What became of the latest of these messages."""

    do: Literal["show-test"] = "show-test"


Question = (
    ShowRelay
    | BeginRelay
    | MakeRelay
    | PointRelay
    | ClaimRelay
    | StartPreflight
    | AddUser
    | SetPassword
    | SendTest
    | ShowTest
)

QUESTION: TypeAdapter[Question] = TypeAdapter(Annotated[Question, Field(discriminator="do")])
"""Reads one."""
