"""Whether a domain's published SPF policy lets an address send (check_host() of RFC 7208 §4).

It follows what records say of addresses: `a`, `mx`, `ip4`, `ip6`, `include`, `redirect`, `all`. Terms that depend on a
single message (macros, `exists`) or that nobody should use (`ptr`) cannot be judged beforehand; where the result hangs
on one of them, it is `Result.UNSURE`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from home.dns_answer import Answer, Status

VERSION = "v=spf1"

_MOST_LOOKUPS = 10
_MOST_VOID = 2
_MOST_MX = 10
"""RFC 7208 §4.6.4."""

_TERM = re.compile(r"([+?~-]?)([a-z0-9]+)(?:[:]([^/]+))?((?:/[0-9]+)?(?://[0-9]+)?)", re.IGNORECASE)
_MODIFIER = re.compile(r"([a-z][a-z0-9_.-]*)=(.*)", re.IGNORECASE)

Address = IPv4Address | IPv6Address
Look = Callable[[str, str], Answer]


class Result(StrEnum):
    """What check_host() can give (RFC 7208 §2.6), and that it cannot be told."""

    PASS = "pass"
    FAIL = "fail"
    SOFTFAIL = "softfail"
    NEUTRAL = "neutral"
    NONE = "none"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"
    UNSURE = "unsure"


_QUALIFIERS = {
    "": Result.PASS,
    "+": Result.PASS,
    "-": Result.FAIL,
    "~": Result.SOFTFAIL,
    "?": Result.NEUTRAL,
}


@dataclass(frozen=True)
class Judged:
    """A result, and in a few words where it comes from."""

    result: Result
    why: str


class _Stop(Exception):
    def __init__(self, result: Result, why: str) -> None:
        super().__init__(why)
        self.judged = Judged(result, why)


def policies(texts: Sequence[str]) -> Sequence[str]:
    """Pick the SPF policies among the TXT records of a name (RFC 7208 §4.5)."""
    return [text for text in texts if text.lower() == VERSION or text.lower().startswith(f"{VERSION} ")]


def check_host(address: Address, domain: str, texts: Sequence[str], look: Look) -> Judged:
    """Judge whether an address may send for a domain.

    Args:
        texts: the TXT records of the domain.
        look: asks DNS for the records of a name and type.
    """
    try:
        return _Check(address, look).judge(domain, texts)
    except _Stop as stop:
        return stop.judged


class _Check:
    def __init__(self, address: Address, look: Look) -> None:
        self._address = address
        self._look = look
        self._lookups = 0
        self._void = 0
        self._unsure = ""

    def judge(self, domain: str, texts: Sequence[str]) -> Judged:
        found = policies(texts)
        if not found:
            return Judged(Result.NONE, f"{domain} has no SPF record")
        if len(found) > 1:
            raise _Stop(Result.PERMERROR, f"{domain} has {len(found)} SPF records; receivers ignore them all")
        terms = found[0].split()[1:]
        modifiers = {term: modifier for term in terms if (modifier := _MODIFIER.fullmatch(term))}
        judged = self._first_match(domain, [term for term in terms if term not in modifiers])
        redirects = [modifier[2] for modifier in modifiers.values() if modifier[1].lower() == "redirect"]
        if judged is None and redirects:
            return self._redirected(redirects[0])
        judged = judged or Judged(Result.NEUTRAL, f"no term of {domain} says anything of {self._address}")
        if judged.result is not Result.PASS and self._unsure:
            return Judged(Result.UNSURE, self._unsure)
        return judged

    def _first_match(self, domain: str, terms: Sequence[str]) -> Judged | None:
        for term in terms:
            mechanism = _TERM.fullmatch(term)
            if mechanism is None:
                raise _Stop(Result.PERMERROR, f"{domain}: {term} is no term of SPF")
            if self._matches(mechanism, domain, term):
                return Judged(_QUALIFIERS[mechanism[1]], f"{term} of {domain}")
        return None

    def _redirected(self, domain: str) -> Judged:
        if "%" in domain:
            return Judged(Result.UNSURE, f"redirect={domain} depends on the message")
        judged = self.judge(domain, self._texts(domain))
        return Judged(Result.PERMERROR, judged.why) if judged.result is Result.NONE else judged

    def _matches(self, mechanism: re.Match[str], domain: str, term: str) -> bool:
        name, target, masks = mechanism[2].lower(), mechanism[3], mechanism[4]
        if name == "all":
            return True
        if name in {"ip4", "ip6"}:
            return self._in_network(f"{target}{masks}", term)
        if name not in {"a", "mx", "include", "exists", "ptr"}:
            raise _Stop(Result.PERMERROR, f"{domain}: SPF has no {mechanism[2]}")
        if name in {"exists", "ptr"} or "%" in (target or ""):
            self._count(domain)
            self._unsure = self._unsure or f"{term} of {domain} depends on the message"
            return False
        return self._looked_up(name, target or domain, masks, domain)

    def _looked_up(self, name: str, target: str, masks: str, domain: str) -> bool:
        if name == "include":
            judged = self.judge(target, self._texts(target))
            if judged.result is Result.NONE:
                raise _Stop(Result.PERMERROR, f"{domain} includes {target}, which has no SPF record")
            return judged.result is Result.PASS
        self._count(domain)
        hosts = [target]
        if name == "mx":
            hosts = [value.rpartition(" ")[2] for value in self._ask(target, "MX")]
            if len(hosts) > _MOST_MX:
                raise _Stop(Result.PERMERROR, f"{target} has more than {_MOST_MX} MX records")
        four, _, six = masks.partition("//")
        length = (six or "128") if self._address.version == 6 else (four.removeprefix("/") or "32")
        return any(self._covers(found, length) for host in hosts if host != "." for found in self._addresses(host))

    def _covers(self, found: str, length: str) -> bool:
        try:
            return self._address in ip_network((ip_address(found), int(length)), strict=False)
        except ValueError:
            raise _Stop(Result.PERMERROR, f"/{length} is no length of a prefix") from None

    def _in_network(self, text: str, term: str) -> bool:
        try:
            return self._address in ip_network(text, strict=False)
        except ValueError:
            raise _Stop(Result.PERMERROR, f"{term} names no network") from None

    def _addresses(self, host: str) -> Sequence[str]:
        return self._ask(host, "A" if self._address.version == 4 else "AAAA")

    def _texts(self, domain: str) -> Sequence[str]:
        self._count(domain)
        return self._ask(domain, "TXT")

    def _ask(self, name: str, kind: str) -> Sequence[str]:
        answer = self._look(name, kind)
        if answer.status is Status.FAILED:
            raise _Stop(Result.TEMPERROR, f"{name} {kind} cannot be looked up: {answer.error}")
        if answer.status is not Status.FOUND:
            self._void += 1
            if self._void > _MOST_VOID:
                raise _Stop(Result.PERMERROR, f"more than {_MOST_VOID} of its names do not exist")
        return answer.values

    def _count(self, domain: str) -> None:
        self._lookups += 1
        if self._lookups > _MOST_LOOKUPS:
            raise _Stop(Result.PERMERROR, f"{domain}: more than {_MOST_LOOKUPS} look-ups, and receivers give up")
