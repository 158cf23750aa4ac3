"""Answers for whom the relay takes mail, by the list that home has pushed (model/recipients.py)."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence

from model.recipients import RecipientList, fold_address, hash_address
from relay.smtp import Reply

_REMEMBERED = 4096
"""Answers; each asked address costs once."""

_TAKEN = Reply(250, "2.1.5 Ok")
_UNKNOWN = Reply(550, "5.1.1 There is no such mailbox here")
_NO_LIST = Reply(450, "4.3.2 The recipients are not known yet, please try again later")
_ONLY_HOME = Reply(450, "4.3.2 Whether it is right is not known here, please try again later")
_ELSEWHERE = Reply(554, "5.7.1 Relay access denied")


_REWRITTEN = re.compile(r"srs[01][-+=]")
"""What home may have made of a sender whose mail it has passed on (SRS): bounces come to it, and home alone has the key
that tells it from a forged one."""


class Recipients:
    """Answers RCPT.

    Args:
        known: the list; None before home has pushed one.
    """

    def __init__(self, known: RecipientList | None = None) -> None:
        self._known = known
        self._lock = threading.Lock()
        self._costly = threading.Lock()
        self._remembered: OrderedDict[str, bool] = OrderedDict()

    @property
    def version(self) -> int:
        """Of the list; 0 when there is none."""
        return self._known.version if self._known else 0

    def replace(self, known: RecipientList) -> bool:
        """Take another list; an older one, or the same, is not taken.

        Returns:
            Whether it was taken.
        """
        with self._lock:
            if known.version <= self.version:
                return False
            self._known = known
            self._remembered.clear()
            return True

    def judge(self, address: str) -> Reply:
        """Say whether mail is taken for an address; one that was not asked for lately costs a tenth of a second."""
        known, found = self._look(address)
        if isinstance(found, Reply):
            return found
        assert known is not None, "without a list there is an answer"
        if any(self._is_known(folded, known) for folded in found):
            return _TAKEN
        return _ONLY_HOME if _REWRITTEN.match(found[0]) else _UNKNOWN

    def is_quick(self, address: str) -> bool:
        """Whether `judge` knows the answer already."""
        _, found = self._look(address)
        if isinstance(found, Reply):
            return True
        with self._lock:
            for folded in found:
                answer = self._remembered.get(folded)
                if answer is not False:
                    return answer is True
        return True

    def _look(self, address: str) -> tuple[RecipientList | None, Reply | Sequence[str]]:
        """Give the list, and the answer; or the folded addresses of which the list has to know one."""
        with self._lock:
            known = self._known
        if known is None:
            return None, _NO_LIST
        if address.casefold() == "postmaster":
            return known, _TAKEN  # of whichever domain (RFC 5321 §4.5.1); home knows
        folded = fold_address(address)
        local, _, domain = folded.rpartition("@")
        rule = known.domains.get(domain)
        if not local or rule is None:
            return known, _ELSEWHERE
        if rule.catch_all:
            return known, _TAKEN
        base, separator, _ = local.partition(rule.separator) if rule.separator else (local, "", "")
        return known, (folded, f"{base}@{domain}") if separator and base else (folded,)

    def _is_known(self, folded: str, known: RecipientList) -> bool:
        with self._lock:
            if known is self._known and (answer := self._remembered.get(folded)) is not None:
                self._remembered.move_to_end(folded)
                return answer
        with self._costly:  # a crowd that guesses does not take all of the memory
            answer = hash_address(folded, known.salt) in known.hashes
        with self._lock:
            if known is self._known:
                self._remembered[folded] = answer
                if len(self._remembered) > _REMEMBERED:
                    self._remembered.popitem(last=False)
        return answer
