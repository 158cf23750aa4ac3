#!/usr/bin/python3 -I
"""Takes the relay's software from home when a server has none; from then on the software's agent takes the next.

The handshake of the bootstrap's tunnel proves that home calls. `PUT /bundle?id=…` brings a tar with this SHA-256.
"""

import hashlib
import http.server
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable

BASE = pathlib.Path("/opt/darkpipe")
LARGEST = 96 * 2**20
SECONDS = 60


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection of home; `server` is the listener, which gives the port up for the bundle's agent."""

    timeout = SECONDS

    def do_GET(self) -> None:
        """Say that there is no software."""
        self.answer(200, {"bundle": "", "version": "", "state": "empty"})

    def do_PUT(self) -> None:
        """Take a bundle."""
        identifier = self.path.partition("?id=")[2]
        try:
            problem = take(self.rfile.read, int(self.headers["Content-Length"]), identifier)
            if not problem:
                self.server.close()  # type: ignore[attr-defined]
                problem = install(identifier)
        except (OSError, TypeError, ValueError) as error:
            problem = f"the bundle was not taken: {error}"
        if problem:
            self.answer(400, {"problem": problem})
        else:
            self.answer(200, {"bundle": identifier, "version": "", "state": "installed"})

    def answer(self, status: int, content: dict[str, str]) -> None:
        """Send JSON."""
        self.send_response_only(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())


def take(read: Callable[[int], bytes], length: int, identifier: str) -> str:
    """Receive and unpack a bundle; gives what is wrong, or nothing."""
    incoming, folder = BASE / "incoming", BASE / identifier
    if not 0 < length <= LARGEST:
        return f"found a bundle of {length} octets, expected at most {LARGEST}"
    digest = hashlib.sha256()
    BASE.mkdir(parents=True, exist_ok=True)
    with incoming.open("wb") as file:
        while length and (piece := read(min(length, 2**20))):
            digest.update(piece)
            file.write(piece)
            length -= len(piece)
    if digest.hexdigest() != identifier:
        return f"found SHA-256 {digest.hexdigest()}, expected {identifier}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    subprocess.run(["tar", "-xf", incoming, "-C", folder, "--no-same-owner"], check=True)
    incoming.unlink()
    return ""


def install(identifier: str) -> str:
    """Install a bundle that is unpacked; gives what is wrong, or nothing."""
    current = BASE / "current"
    current.unlink(missing_ok=True)
    current.symlink_to(identifier)
    # In a unit of its own, since this one may hardly do anything.
    unit = ["systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--unit=darkpipe-install"]
    done = subprocess.run(
        [*unit, current / "run", "relay.install", "first"], capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr, flush=True)
    if done.returncode:
        current.unlink()
        return f"the bundle could not be installed: {done.stderr.strip()[-500:]}"
    return ""


def main() -> None:
    """Listen on the given address in the tunnel."""
    os.umask(0o022)  # a bundle is for the queue's user, too
    while not (BASE / "current").is_symlink():
        # It may be left of an installation that has failed.
        subprocess.run(["systemctl", "stop", "darkpipe-agent"], stderr=subprocess.DEVNULL, check=False)
        with socket.create_server((sys.argv[1], 2601), family=socket.AF_INET6) as listener:
            while listener.fileno() >= 0:
                connection, _ = listener.accept()
                with connection:
                    try:
                        Handler(connection, "home", listener)  # type: ignore[arg-type]
                    except OSError as error:
                        print("home has gone:", error, flush=True)


if __name__ == "__main__":
    main()
