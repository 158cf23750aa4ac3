"""Block lists in DNS (RFC 5782): whether the relay's address is on one that other mail servers ask.

Only lists that a private person may ask for free and without registering, a few times a day, by a resolver of his own:

- Spamhaus ZEN: "low-volume non-commercial users" (www.spamhaus.org/zen, "DNSBL Usage Terms", seen in 2026). It answers
  those that it does not want with 127.255.255.x.
- PSBL: "Anybody is free to use PSBL" (psbl.surriel.com/howto, seen in 2026).
- SpamCop: open to all, without a promise (www.spamcop.net/bl.shtml, seen in 2026).

Barracuda's is not among them: it wants the resolver's address to be registered, and is silent to all others
(www.barracudacentral.org/rbl). A list that is silent looks like one that has nothing against the address; so each list
is asked first for the address that all of them must have, and for the one that none may have (RFC 5782 §5).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network

from home.dns_answer import Answer, Status
from home.dns_judges import Outcome, Verdict
from home.spf import Look

_ALWAYS_LISTED = IPv4Address("127.0.0.2")
_NEVER_LISTED = IPv4Address("127.0.0.1")
_CODES = ip_network("127.0.0.0/8")
_REFUSALS = ip_network("127.255.255.0/24")


@dataclass(frozen=True)
class BlockList:
    """A list.

    Args:
        weight: how bad it is to be listed there.
        removal: where to ask to be taken out.
    """

    zone: str
    name: str
    weight: Outcome
    removal: str


BLOCK_LISTS = (
    BlockList("zen.spamhaus.org", "Spamhaus ZEN", Outcome.WRONG, "https://check.spamhaus.org"),
    BlockList("bl.spamcop.net", "SpamCop", Outcome.WARNING, "https://www.spamcop.net/bl.shtml"),
    BlockList("psbl.surriel.com", "PSBL", Outcome.WARNING, "https://psbl.org"),
)


def ask_lists(
    address: IPv4Address, look: Look, lists: Iterable[BlockList] = BLOCK_LISTS
) -> Sequence[tuple[BlockList, Verdict]]:
    """Ask all lists at once whether they have an address."""
    wanted = list(lists)
    with ThreadPoolExecutor(max(1, len(wanted))) as pool:
        return list(zip(wanted, pool.map(lambda each: ask_list(each, address, look), wanted), strict=True))


def ask_list(block_list: BlockList, address: IPv4Address, look: Look) -> Verdict:
    """Ask one list; a list that does not show that it works knows nothing."""
    if silence := _why_untrusted(block_list, look):
        return Verdict(
            Outcome.UNKNOWN,
            silence,
            f"nothing, as a rule: some lists do not answer some networks; look the address up at {block_list.removal}",
        )
    answer = look(_name(address, block_list), "A")
    if answer.status is Status.FAILED:
        return Verdict(Outcome.UNKNOWN, answer.error, "check again later")
    if not _codes(answer):
        return Verdict(Outcome.GOOD, f"{address} is not on it")
    reason = " ".join(look(_name(address, block_list), "TXT").values)
    return Verdict(
        block_list.weight,
        f"{address} is on it ({', '.join(answer.values)}){': ' if reason else ''}{reason}",
        f"ask to be taken out: {block_list.removal}. A new server often has an address whose last user sent spam: if "
        "that does not help, ask its provider for another one",
    )


def _why_untrusted(block_list: BlockList, look: Look) -> str:
    """Say why a list's answers are worth nothing here; empty when they are worth something."""
    test = look(_name(_ALWAYS_LISTED, block_list), "A")
    if test.status is Status.FAILED:
        return f"it does not answer: {test.error}"
    if any(IPv4Address(value) in _REFUSALS for value in test.values):
        return f"it does not want to answer this device's resolver ({', '.join(test.values)})"
    if not _codes(test):
        return f"it does not know {_ALWAYS_LISTED}, which every list that works has (RFC 5782 §5)"
    if look(_name(_NEVER_LISTED, block_list), "A").values:
        return f"it has {_NEVER_LISTED}, which no list that works has (RFC 5782 §5)"
    return ""


def _codes(answer: Answer) -> Sequence[str]:
    return [value for value in answer.values if IPv4Address(value) in _CODES]


def _name(address: IPv4Address, block_list: BlockList) -> str:
    return f"{'.'.join(reversed(str(address).split('.')))}.{block_list.zone}"
