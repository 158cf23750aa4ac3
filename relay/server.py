"""A listener: a thread for each client, and so many at most."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable

from relay.smtp import Reply

MOST = 100
"""Clients at once: as many as Postfix has processes (postconf(5), default_process_limit)."""

BUSY = Reply(421, "4.3.2 Too many connections, please try again later").octets()
"""What a client is told for whom there is no room."""
_SECONDS = 5.0
"""For a client that is sent off to take the word."""

_PAUSE = 0.5
"""Seconds until the next try when the system has no descriptor, memory or thread to spare."""


class Server:
    """Serves clients.

    Args:
        listener: that they connect to.
        converse: serves one of them; the connection is closed afterwards.
        busy: what one is told for whom there is no room.
    """

    def __init__(
        self,
        listener: socket.socket,
        converse: Callable[[socket.socket], None],
        most: int = MOST,
        busy: bytes = BUSY,
    ) -> None:
        self._listener, self._converse, self._most, self._busy = listener, converse, most, busy
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._stopping = threading.Event()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: address and port."""
        host, port, *_ = self._listener.getsockname()
        return host, port

    def serve(self) -> None:
        """Serve until `stop`; on return nobody is served any more."""
        threads: list[threading.Thread] = []
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                self._wait(error)
                continue
            threads = [thread for thread in threads if thread.is_alive()]
            if len(threads) >= self._most:
                self._send_off(connection)
            elif thread := self._start(connection):
                threads.append(thread)
        for thread in threads:
            thread.join()

    def _start(self, connection: socket.socket) -> threading.Thread | None:
        """Serve a client in a thread of its own; none when the system has none."""
        thread = threading.Thread(target=self._serve_one, args=(connection,))
        with self._lock:
            # `stop` hangs up on those in here; who comes after it is not let in.
            if self._stopping.is_set():
                connection.close()
                return None
            self._open.add(connection)
        try:
            thread.start()
        except RuntimeError as error:
            with self._lock:
                self._open.discard(connection)
            self._send_off(connection)
            self._wait(error)
            return None
        return thread

    def _wait(self, error: Exception) -> None:
        """Let a shortage pass: clients come again, but a service that has ended takes nothing."""
        if not self._stopping.is_set():
            print(f"darkpipe-queue: {error}", file=sys.stderr, flush=True)
            self._stopping.wait(_PAUSE)

    def stop(self) -> None:
        """Take no more clients, and hang up on those that are there: what they have not finished they will repeat."""
        self._stopping.set()
        with self._lock:
            for connection in (self._listener, *self._open):
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # it has gone by itself
                    continue

    def _serve_one(self, connection: socket.socket) -> None:
        try:
            self._converse(connection)
        finally:
            with self._lock:
                self._open.discard(connection)
                connection.close()

    def _send_off(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(_SECONDS)
            try:
                connection.sendall(self._busy)
            except OSError:  # it did not wait
                return
