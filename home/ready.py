"""darkpipe-ready: tells the relay whether mail can be taken.

HAProxy asks in two ways. Its agent check sends a short line and reads a word (its manual, agent-check). Its TCP check
sends 4096 octets and wants as many back: a path that swallows large packets counts as none. The answer is a line as
long as the question, with the word in front and blanks behind.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from home.word import VERDICT, down, word_of

PORT = 2500
LONGEST = 8192
"""Octets of a question with its end of line."""

PATIENCE = 2.0
"""Seconds for a question, and for its answer to be taken."""

MOST = 128
"""Connections at once. HAProxy has two, and as many again while it takes the first for lost."""

_FAREWELL = 3.0
"""Seconds for which a device that shuts down says so: HAProxy asks every second or two, and would take a closed port
for an agent that is out of order, which changes nothing."""

_HEARD_OF = 30.0
"""Seconds after which nobody is there who would listen to that."""


def answer(question: bytes, word: str) -> bytes:
    """Write the answer to a question, both with their end of line."""
    text = word.encode("ascii", "replace")
    return text.ljust(len(question) - 1) + b"\n"


def current_word(path: Path = VERDICT) -> str:
    """Read the verdict of this moment."""
    try:
        return word_of(path.read_text(), time.monotonic())
    except (OSError, UnicodeDecodeError):
        return down("unknown")


class Server:
    """Answers.

    Args:
        word: gives the word of the moment.
    """

    def __init__(self, word: Callable[[], str]) -> None:
        self._word = word
        self._open = 0
        self._last: float | None = None
        self._leaving = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one question and hang up."""
        if self._open >= MOST:
            writer.transport.abort()
            return
        self._open += 1
        try:
            async with asyncio.timeout(PATIENCE):
                question = await reader.readuntil(b"\n")
                self._last = time.monotonic()
                writer.write(answer(question, down("stopping") if self._leaving else self._word()))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self._open -= 1

    def say_goodbye(self) -> float:
        """Say no from now on.

        Returns:
            For how many seconds there may be somebody who wants to hear it.
        """
        self._leaving = True
        heard = self._last is not None and time.monotonic() - self._last < _HEARD_OF
        return _FAREWELL if heard else 0.0


async def run(word: Callable[[], str], stopped: asyncio.Event, port: int = PORT) -> None:
    """Serve until told to stop.

    Raises:
        OSError: somebody else has the port.
    """
    server = Server(word)
    # For both families; the addresses of the tunnel come and go.
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=MOST)
    # A question that is as long as allowed fits; a longer one ends the connection.
    async with await asyncio.start_server(server.serve, sock=listener, limit=LONGEST - 1):
        await stopped.wait()
        await asyncio.sleep(server.say_goodbye())


async def _main() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await run(current_word, stopped)


if __name__ == "__main__":
    asyncio.run(_main())
