"""A site with a relay, and SSH keys, for the tests of user-data."""

from __future__ import annotations

import base64

from model.site import Site


def public_key_line(kind: str, *parts: bytes) -> str:
    """Put together a line of authorized_keys (RFC 4253 §6.6)."""
    strings = (kind.encode(), *parts)
    blob = b"".join(len(part).to_bytes(4) + part for part in strings)
    return f"{kind} {base64.b64encode(blob).decode()}"


PLAIN_KEY = public_key_line("ssh-ed25519", bytes(range(32)))
KEY = f"{PLAIN_KEY} alice@desk"


def some_site(*domains: str) -> Site:
    """Give a site of some domains, or of two."""
    names = domains or ("example.com", "bücher.example")
    return Site.model_validate(
        {
            "version": 1,
            "domains": names,
            "users": [{"address": f"alice@{names[0]}"}],
            "disk": {"unlock": "none"},
            "relays": [{"address": "mx.example.com", "offline": "tempfail"}],
        }
    )
