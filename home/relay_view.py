"""The relay's user-data, as the page shows them."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Origin(StrEnum):
    """Where the user-data of this device's relay are."""

    NOWHERE = "nowhere"
    """Its site names no relay."""

    TO_MAKE = "to make"
    """Nobody has made them."""

    ELSEWHERE = "elsewhere"
    """Its keys came with the image: the computer that has built that has the rest."""

    HERE = "here"
    SPENT = "spent"
    """Home and relay are paired."""


class RelayView(BaseModel):
    """The relay's user-data, and what one needs to know about them.

    Args:
        name: the relay's, in DNS and SMTP.
        mail_host: the name that apps know.
        address: where home looks for the relay: a name or an address.
        text: the user-data; empty unless they are here. A secret.
        size, limit: octets.
        ssh: whether SSH is on.
        mtls: whether its tunnel is of OpenVPN.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    origin: Origin
    name: str = ""
    mail_host: str = ""
    address: str = ""
    text: str = ""
    size: int = 0
    limit: int = 0
    ssh: bool = False
    mtls: bool = False
