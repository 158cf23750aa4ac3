"""What forms for DNS make of a record that was copied rightly: each looks to its owner as if it stood there.

Whoever hears only that a record is missing enters it the same way once more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from home.dns_records import Record, RecordType

_QUOTATION_MARKS = re.compile(r'^"|"$|"\s*"')
"""A text of two strings, copied from a zone file into a form that adds marks of its own, has `" "` inside."""


@dataclass(frozen=True)
class Slip:
    """One of them.

    Args:
        meant: the values without it.
        text: what has happened, in words.
        remedy: how to enter the record, up to the record itself.
    """

    meant: tuple[str, ...]
    text: str
    remedy: str


def slip_in(record: Record, values: Sequence[str]) -> Slip | None:
    """Find one in what is published at the name of a record; None without."""
    if record.type is RecordType.TXT:
        meant = tuple(_QUOTATION_MARKS.sub("", value.strip()) for value in values)
        text = "quotation marks are a part of it: only in a zone file do they stand around a text"
        remedy = "enter it without them"
    elif record.type in {RecordType.MX, RecordType.SRV}:
        # The same form that takes names without the domain takes the server's for one (RFC 1035 §5.1).
        longer = f"{record.value}.{record.domain}"
        meant = tuple(record.value if value == longer else value for value in values)
        text = f"the form has put {record.domain} behind the name of the server: {', '.join(values)}"
        remedy = "write that name with a dot at its end"
    else:
        return None
    return None if meant == tuple(values) else Slip(meant, text, remedy)


def longer_name(record: Record, zone: str) -> str:
    """Give the name at which a record stands when the form puts the zone's name behind each by itself."""
    return f"{record.name}.{zone}"


def short_name(record: Record, zone: str) -> str:
    """Give the name as such a form wants it."""
    return record.name.removesuffix(zone).rstrip(".") or "@"
