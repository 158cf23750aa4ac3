"""An S3 store that keeps items of the queue: the settings that home makes and the relay follows.

Any store with the API of S3 will do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, Self
from urllib.parse import urlsplit

_PREFIX = re.compile(r"(?:[A-Za-z0-9._-]+/)*")


class Mode(StrEnum):
    """What goes into a bucket."""

    OVERFLOW = "overflow"
    """What the relay's disk has no room for."""
    WRITE_THROUGH = "write-through"
    """Everything, besides the disk."""


@dataclass(frozen=True)
class S3Settings:
    """A bucket, who may use it, and what it is used for.

    Args:
        endpoint: URL of the store, without the bucket; HTTPS, unless it is on this very computer.
        access_key, secret_key: that the store has given out.
        seal: a secret that home and relay share, in the form of an age identity (`AGE-SECRET-KEY-1…`).
        prefix: that names of all objects begin with; empty, or with a `/` at its end.
        budget: octets that items may take there.
    """

    endpoint: str
    bucket: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    seal: str = field(repr=False)
    mode: Mode
    region: str = "us-east-1"
    prefix: str = ""
    budget: int = 20 * 10**9

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Take them from what a JSON reader gives; what the reader does not know is read over.

        Raises:
            ValueError: they are no settings; the text has nothing secret in it.
        """
        known = {one.name: data[one.name] for one in fields(cls) if one.name in data}
        texts = {name: value for name, value in known.items() if name != "budget"}
        if wrong := sorted(name for name, value in texts.items() if not isinstance(value, str)):
            raise ValueError(f"{wrong[0]}: expected a text")
        if not isinstance(known.get("budget", 0), int):
            raise ValueError("budget: expected a number")
        try:
            settings = cls(**{**known, "mode": Mode(known.get("mode", Mode.OVERFLOW))})
        except TypeError as error:
            raise ValueError(str(error)) from None
        if not _PREFIX.fullmatch(settings.prefix):
            raise ValueError("prefix: expected words with a / behind each")
        if urlsplit(settings.endpoint).scheme != "https" and not is_local(settings.endpoint):
            raise ValueError("endpoint: expected https://")
        return settings


def is_local(endpoint: str) -> bool:
    """Tell whether a store is on this very computer, so that nobody can listen on the way."""
    host = urlsplit(endpoint).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
