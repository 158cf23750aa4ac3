"""Settings of one device: its host name, network, clock and who logs in on it. They have nothing to do with mail.

They are of use before the data disk is unlocked and therefore lie on `state`, where a thief can read them: no password
and no hash of one is among them.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from model.ssh_key import PublicKey

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""RFC 1123 §2.1."""

_LOGIN = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
"""What useradd(8) of Debian takes, without the final `$`."""

_TIME_ZONE = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+){0,2}")
_LAYOUT = re.compile(r"[a-z]{2,12}(?:,[a-z]{2,12})*")
_VARIANT = re.compile(r"[a-z0-9_-]*(?:,[a-z0-9_-]*)*")
_MODEL = re.compile(r"[a-z0-9_-]+")
_COUNTRY = re.compile(r"[A-Z]{2}")
_PRE_SHARED_KEY = re.compile(r"[0-9a-f]{64}")


def _fits(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"expected {what}")
        return text

    return AfterValidator(check)


def _is_key(line: str) -> str:
    if (key := PublicKey.parse(line)) is None:
        raise ValueError("expected the public half of an SSH key, whole")
    # What its owner calls it is often a mail address, which is none of a thief's business.
    return f"{key.kind} {key.key}"


class _Strict(BaseModel):
    # Pydantic would quote the input in its errors, and with it the key of a Wi-Fi network.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class WifiNetwork(_Strict):
    """A wireless network to join.

    Args:
        ssid: its name as hexadecimal octets, 1 to 32 of them: IEEE 802.11 knows no character set.
        key: the 256-bit pairwise master key as 64 hexadecimal digits, as wpa_passphrase(8) derives it; None for an open
            network. A secret.
        hidden: whether it does not announce its name.
    """

    ssid: Annotated[str, _fits(re.compile(r"(?:[0-9a-f]{2}){1,32}"), "1 to 32 octets in hexadecimal")]
    key: Annotated[str, _fits(_PRE_SHARED_KEY, "64 hexadecimal digits")] | None = Field(None, repr=False)
    hidden: bool = False


class Login(_Strict):
    """The person who may log in to a shell, on the console or over SSH, and become root by sudo(8).

    Args:
        name: of the account.
        keys: lines of authorized_keys (sshd(8)), without options; comments are left out.
        by_password: whether SSH takes the password, too.
    """

    name: Annotated[str, _fits(_LOGIN, "1 to 31 lower-case letters, digits, `_` and `-`, beginning with a letter")]
    keys: tuple[Annotated[str, AfterValidator(_is_key)], ...] = ()
    by_password: bool = False


class Keyboard(_Strict):
    """The keyboard at the console, in XKB's words (keyboard(5))."""

    layout: Annotated[str, _fits(_LAYOUT, "layouts such as `de` or `us,fr`")]
    variant: Annotated[str, _fits(_VARIANT, "variants such as `nodeadkeys`")] = ""
    model: Annotated[str, _fits(_MODEL, "a model such as `pc105`")] = "pc105"


class Settings(_Strict):
    """All settings of one device; None leaves the image's own.

    Args:
        hostname: a single label.
        country: where the device stands (ISO 3166-1 alpha-2): the radio keeps to that country's rules.
        time_zone: for the times that people read, by its name in the IANA database.
        ssh: whether sshd(8) is started.
    """

    hostname: Annotated[str, _fits(_LABEL, "up to 63 lower-case letters, digits and inner hyphens")] | None = None
    wifi: tuple[WifiNetwork, ...] = ()
    country: Annotated[str, _fits(_COUNTRY, "two capital letters")] | None = None
    time_zone: Annotated[str, _fits(_TIME_ZONE, "a name such as `Europe/Berlin`")] | None = None
    keyboard: Keyboard | None = None
    login: Login | None = None
    ssh: bool = False
