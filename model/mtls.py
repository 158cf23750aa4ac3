"""The tunnel over TCP, for networks that let no UDP out: what each end of an OpenVPN with mutual certificates knows.

Each end knows the fingerprint of the other's very certificate, and takes no other: no authority stands between them,
and what is written in a certificate besides (its dates, above all) shuts nobody out whose clock is wrong. Its purpose
counts all the same, so that home's certificate is no relay's.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from model import names
from model.openvpn import is_fingerprint
from model.tunnel import Addresses, HomeEnd, RelayEnd

PORT = 1194
"""TCP port of OpenVPN on the relay (IANA's)."""

SHARED_PORT = 443
"""TCP port on which HAProxy tells OpenVPN's first packet from the apps' TLS; strict networks let it out."""

_BODY = r"\n(?:[A-Za-z0-9+/]{1,64}={0,2}\n){1,40}-----END "
_SHIELD = re.compile(r"[0-9a-f]{512}")


def _pem(text: str, kind: str) -> str:
    if not re.fullmatch(f"-----BEGIN {kind}-----{_BODY}{kind}-----\n", text):
        raise ValueError(f"expected one {kind} in PEM")
    return text


def _private_key(text: str) -> str:
    return _pem(text, "PRIVATE KEY")


def _certificate(text: str) -> str:
    return _pem(text, "CERTIFICATE")


def _fingerprint(text: str) -> str:
    if not is_fingerprint(text):
        raise ValueError("expected a fingerprint: 32 octets in hexadecimal digits, with colons")
    return text


def _shield(text: str) -> str:
    if not _SHIELD.fullmatch(text):
        raise ValueError("expected a key of 256 octets in hexadecimal digits")
    return text


class _MtlsEnd(BaseModel):
    """What either end must know.

    Args:
        private_key: its own, PEM. A secret.
        certificate: its own, PEM.
        other: SHA-256 of the other's certificate.
        shield: key of OpenVPN's tls-crypt, the same on both ends: whoever lacks it gets no answer. A secret.
        port: TCP port of OpenVPN itself.
    """

    # Pydantic would quote the input in its errors, and with it a private key.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    version: Literal[1] = 1
    transport: Literal["mtls"] = "mtls"
    private_key: Annotated[str, AfterValidator(_private_key)] = Field(repr=False)
    certificate: Annotated[str, AfterValidator(_certificate)]
    other: Annotated[str, AfterValidator(_fingerprint)]
    shield: Annotated[str, AfterValidator(_shield)] = Field(repr=False)
    port: Annotated[int, Field(ge=1, le=65535)] = PORT
    addresses: Addresses

    @property
    def shield_lines(self) -> str:
        """The key of tls-crypt as OpenVPN writes it, without its frame."""
        return "\n".join(self.shield[at : at + 32] for at in range(0, len(self.shield), 32))


class MtlsHome(_MtlsEnd):
    """What home must know; `relay` is the name or IP address of the relay."""

    relay: Annotated[str, AfterValidator(names.host)]

    @property
    def relay_key(self) -> str:
        """What the relay is known by, as in `HomeEnd`."""
        return self.other


class MtlsRelay(_MtlsEnd):
    """What the relay must know."""


AnyHome: TypeAlias = HomeEnd | MtlsHome
AnyRelay: TypeAlias = RelayEnd | MtlsRelay


def read_home_end(content: bytes) -> AnyHome:
    """Read home's half of what the two ends know, of either transport.

    Raises:
        pydantic.ValidationError: it is damaged.
    """
    try:
        found = json.loads(content)
    except ValueError:
        return HomeEnd.model_validate_json(content)  # says what is wrong
    return parse_home_end(found)


def parse_home_end(found: object) -> AnyHome:
    """Read the same from what JSON has given.

    Raises:
        pydantic.ValidationError: it is damaged.
    """
    mtls = isinstance(found, dict) and found.get("transport") == "mtls"
    # As JSON: its texts are addresses.
    return (MtlsHome if mtls else HomeEnd).model_validate_json(json.dumps(found))
