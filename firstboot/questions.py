"""A socket by which a page, which is nobody on this device, asks a service of root's: one line of JSON in, one out.

Who may ask at all, its group decides; what a stranger may know and do, the service, which hears who is at the other
end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import socketserver
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Answer = Callable[[Mapping[str, Any], bool], Mapping[str, Any]]
"""Gives the answer to a question; the second argument tells whether somebody else than root asks."""

_LONGEST_LINE = 16384
_PEER = struct.Struct("3i")


def ask(path: Path, question: Mapping[str, Any], seconds: float) -> dict[str, Any] | None:
    """Ask, on a connection of its own; None when nobody is there who answers within some seconds."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(question).encode() + b"\n")
            line = connection.makefile("rb").readline()
        except OSError:
            return None
    if not line:
        return None
    answer: dict[str, Any] = json.loads(line)
    return answer


@contextmanager
def serve_questions(answer: Answer, path: Path, group: str | None) -> Iterator[None]:
    """Answer for as long as it takes.

    Args:
        group: who may ask besides root; None for nobody.

    Raises:
        OSError: the socket cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkdir(2) is subject to the umask, which lets nobody in.
    path.parent.chmod(0o755)
    path.unlink(missing_ok=True)
    server = _Server(str(path), answer)
    if group:
        shutil.chown(path, group=group)
    path.chmod(0o660)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        # Who has asked last hears the answer: server_close() waits for them.
        path.unlink(missing_ok=True)
        server.shutdown()
        server.server_close()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    block_on_close = True

    def __init__(self, path: str, answer: Answer) -> None:
        self.answer = answer
        # Nobody but root until the group is set.
        before = os.umask(0o177)
        try:
            super().__init__(path, _Connection)
        finally:
            os.umask(before)


class _Connection(socketserver.StreamRequestHandler):
    timeout = 10.0
    server: _Server

    def handle(self) -> None:
        try:
            line = self.rfile.readline(_LONGEST_LINE)
            question = json.loads(line)
            if not isinstance(question, dict):
                raise TypeError
            answer = self.server.answer(question, self._uid() != 0)
        except (ValueError, TypeError, KeyError, AttributeError):
            answer = {"refused": "this is no question"}
        except TimeoutError:
            return
        except Exception as error:
            # No answer at all means something else to whoever asks. The error's own text might quote what was typed.
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = type(error).__name__
            print(f"{kind} in {Path(where.filename).name}, line {where.lineno}", file=sys.stderr, flush=True)
            answer = {"refused": f"DarkPipe itself has failed ({kind}); the journal says where. Please report it"}
        self._reply(answer)

    def _reply(self, answer: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # who asked has gone
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    def _uid(self) -> int:
        # unix(7): struct ucred has pid, uid and gid.
        option = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        return int(_PEER.unpack(option)[1])
