"""The site whose relay the tests make, and its user-data."""

from __future__ import annotations

from model.control import QueueSettings

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
