"""The site whose relay the tests make, and its user-data."""

from __future__ import annotations

from builder.bootstrap import make_bootstrap
from builder.user_data import user_data
from model.control import QueueSettings
from model.document import parse_site

SITE_TEXT = """\
version: 1
domains: [example.com, bücher.example]
admin: alice@example.com
disk: {unlock: none}
users:
  - {address: alice@example.com, password: generate}
relays: [{address: mx.example.com, offline: tempfail}]
"""
"""A file as its owner writes it."""

RELAY_NAME = "mx.example.com"

PORTS = {25, 443, 465, 587, 993}
"""What the relay passes on, and all TCP ports that it shows to the world when nobody may log in."""


SETTINGS = QueueSettings(
    1, RELAY_NAME, ("example.com", "xn--bcher-kva.example", "bücher.example"), "tempfail", (), 10**9
)
"""What its home pushes."""


def relay_user_data(ssh_key: str = "") -> str:
    """Write the user-data of its relay, with new keys."""
    site = parse_site(SITE_TEXT, "site.yaml")
    return user_data(site, make_bootstrap(site.relays[0]), ssh_key)
