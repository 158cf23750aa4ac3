"""What home takes from a relay that may lie: names that are no paths, numbers that are some, and texts for a terminal.

The relay is a rented server: whoever breaks into it can answer as he likes. An item's id becomes a file's name at home,
its size the room that is given to it, and the sentences of the relay stand in what the owner reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from model.control import LARGEST_ITEM, LATEST, BucketStatus, Fault, Page, QueueStatus
from model.problems import printable

_NAME = re.compile(r"[0-9a-f]{32}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SOFTWARE = re.compile(r"[!-~]{0,100}", re.ASCII)
_HIGHEST = 10**12

_MOST = 2**62
"""Of octets and of versions; sqlite has no larger numbers (https://sqlite.org/datatype3.html)."""

_LONGEST = 500
"""Characters of a sentence."""

_MOST_FAULTS = 20


class StrangeError(Exception):
    """The relay says what no relay of ours says; the text quotes nothing of it."""


def sentence(text: object) -> str:
    """Give a text of the relay as it may stand before a person."""
    return printable(str(text)[:_LONGEST])


def sound_page(page: Page) -> Page:
    """Give a page back that is one.

    Raises:
        StrangeError: it is none.
    """
    _expect(_is_name(page.epoch), "the queue's epoch")
    _expect(_is_flag(page.more), "whether there are more items")
    for item in page.items:
        _expect(_is_name(item.id), "an item's id")
        _expect(_is_number(item.sequence, _HIGHEST) and item.sequence > 0, "an item's number")
        _expect(_is_number(item.received, LATEST), "an item's time")
        _expect(_is_name(item.sha256, _SHA256), "an item's checksum")
        _expect(_is_number(item.size, LARGEST_ITEM), f"an item's size of at most {LARGEST_ITEM} octets")
    return page


def sound_status(status: QueueStatus) -> QueueStatus:
    """Give a status back that is one, with sentences that a terminal can show.

    Raises:
        StrangeError: it is none.
    """
    _expect(_is_name(status.epoch), "the queue's epoch")
    _expect(_is_name(status.software, _SOFTWARE), "the software's id")
    numbers = (status.protocol, status.count, status.octets, status.budget, status.recipients, status.settings)
    _expect(all(_is_number(one, _MOST) for one in (*numbers, status.overdue)), "numbers about the queue")
    moments = (status.oldest, status.drained)
    _expect(all(one is None or _is_number(one, LATEST) for one in moments), "times of the queue")
    if status.bucket is not None:
        _check_bucket(status.bucket)
    return replace(status, faults=tuple(_faults(status)))


def _faults(status: QueueStatus) -> Iterator[Fault]:
    for fault in status.faults[:_MOST_FAULTS]:
        _expect(_is_number(fault.since, LATEST), "the time of a fault")
        yield Fault(fault.since, sentence(fault.found), sentence(fault.remedy))


def _check_bucket(bucket: BucketStatus) -> None:
    _expect(_is_name(bucket.folder), "a folder of the bucket")
    numbers = (bucket.version, bucket.octets)
    sound = all(_is_number(one, _MOST) for one in numbers) and _is_number(bucket.written, LATEST)
    _expect(sound, "numbers about the bucket")


def _expect(true: bool, what: str) -> None:
    if not true:
        raise StrangeError(f"found something else in the place of {what}")


def _is_name(found: object, form: re.Pattern[str] = _NAME) -> bool:
    return isinstance(found, str) and bool(form.fullmatch(found))


def _is_flag(found: object) -> bool:
    return isinstance(found, bool)


def _is_number(found: object, most: int) -> bool:
    return isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= most
