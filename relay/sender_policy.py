"""SPF (RFC 7208): what the sender's domain says of the client, asked when a message comes.

When home takes the message days later, the domain may say something else. Debian's python3-spf does the asking.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass

from relay.smtp import Mail

SECONDS = 10.0
"""For the answer; RFC 7208 §4.6.4 asks for 20 at least, but with each of them the sender's sessions wait."""

_WORKERS = 32
_MOST_WAITING = 100

_RESULTS = frozenset({"none", "neutral", "pass", "fail", "softfail", "temperror", "permerror"})

Check = Callable[[str, str, str, float], str]
"""Gives SPF's result for the client's address, the sender (empty for the null sender), the client's HELO, and the
seconds that it may take."""


@dataclass(frozen=True)
class Asked:
    """A question that is on its way.

    Args:
        deadline: of the answer, as time.monotonic().
    """

    identity: str
    domain: str
    answer: Future[str] | None
    deadline: float

    @property
    def answered(self) -> bool:
        """Whether `result` waits for nothing."""
        return self.answer is None or self.answer.done()

    def result(self) -> Mapping[str, str]:
        """Wait for the answer; see `Envelope.spf`."""
        return {"result": self._wait(), "identity": self.identity, "domain": self.domain}

    def _wait(self) -> str:
        if self.answer is None:
            return "temperror"
        try:
            found = self.answer.result(max(self.deadline - time.monotonic(), 0))
        except FutureTimeoutError:
            self.answer.cancel()
            return "temperror"
        except Exception:  # whatever a stranger's DNS makes the library do, the message is taken
            return "temperror"
        return found if found in _RESULTS else "temperror"


class SenderPolicy:
    """Asks, in some threads of its own.

    Args:
        check: gives the result.
        seconds: for an answer; later it is `temperror`.
    """

    def __init__(self, check: Check, seconds: float = SECONDS) -> None:
        self._check, self._seconds = check, seconds
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="spf")
        self._places = threading.Semaphore(_MOST_WAITING)

    def ask(self, mail: Mail) -> Asked | None:
        """Begin to ask; None when nothing is known of the client."""
        address = _plain(mail.client.get("ADDR", ""))
        if address is None:
            return None
        helo = mail.client.get("HELO", "")
        _, _, domain = mail.sender.rpartition("@")
        identity = "mailfrom" if mail.sender else "helo"
        answer: Future[str] | None = None
        # Who sends faster than names are looked up is not asked about.
        if self._places.acquire(blocking=False):
            answer = self._pool.submit(self._check, address, mail.sender, helo, self._seconds)
            answer.add_done_callback(lambda _: self._places.release())
        return Asked(identity, domain or helo, answer, time.monotonic() + self._seconds)

    def stop(self) -> None:
        """Ask no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def by_dns(address: str, sender: str, helo: str, seconds: float) -> str:
    """Ask the DNS; a `Check`.

    Raises:
        ImportError: Debian's python3-spf is not there.
    """
    import spf

    result, _ = spf.check2(address, sender, helo, querytime=seconds)
    return str(result)


def _plain(address: str) -> str | None:
    """Read an address as XFORWARD writes it."""
    try:
        return str(ipaddress.ip_address(address.removeprefix("IPV6:").removeprefix("IPv6:")))
    except ValueError:
        return None
