"""The queue as a service: keeps mail for home behind Postfix (postconf(5), smtpd_proxy_filter), and hands it over."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from model.control_tls import CertificateError, Pins
from relay.control_server import ControlServer
from relay.fence import Identity
from relay.front import Front
from relay.place import Place
from relay.queue import MakePlace, Queue
from relay.queue_api import QueueApi
from relay.reception import Reception
from relay.sender_policy import by_dns

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""Of mallopt(3)."""

_EXAMPLES = """\
example:
  python3 -m relay.service --config /var/lib/darkpipe/config --spool /var/lib/darkpipe/queue \\
      --control [fd00::2]:2600 --own relay.pem --home home.pem

SIGHUP reads the settings again; SIGTERM ends the service, and with it the sessions that are open.
"""


class _Serves(Protocol):
    def serve(self) -> None: ...
    def stop(self) -> None: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; exit status 1 after a text when it cannot begin."""
    options = _parser().parse_args(arguments)
    _give_memory_back()
    threading.excepthook = _tell_where
    # Before the first thread, since threads inherit it: none of them takes a signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    with ExitStack() as stack:
        try:
            queue = Queue(options.config, options.spool, _places(options.spool), time.time, _software(), by_dns)
            listener = stack.enter_context(socket.create_server(options.listen))
            servers: list[_Serves] = [Front(listener, partial(_begin, queue=queue), queue.spool)]
            if options.control:
                listener_of_home = stack.enter_context(_listen(options.control))
                servers.append(_control(listener_of_home, queue, options))
        except CertificateError as error:
            return _fail(str(error))
        except OSError as error:
            return _fail(f"{error.filename or 'the listener'}: {error.strerror}")
        failed = threading.Event()
        threads = [threading.Thread(target=_serve, args=(server, failed)) for server in servers]
        for thread in threads:
            thread.start()
        # Nobody waits for it at the end: a notice that is on its way to a slow server is sent again.
        threading.Thread(target=queue.watch.serve, args=(lambda: queue.settings,), daemon=True).start()
        port, (count, _) = listener.getsockname()[1], queue.spool.usage()
        print(f"darkpipe-queue: listens on port {port}, {count} messages wait", flush=True)
        # A handler would run in the middle of something; like this, signals come one after the other.
        while signal.sigwait(_SIGNALS) == signal.SIGHUP:
            queue.reload()
        for server in servers:
            server.stop()
        queue.stop()
        for thread in threads:
            thread.join()
    return 1 if failed.is_set() else 0


def _begin(connection: socket.socket, queue: Queue) -> Reception:
    return Reception(connection, queue.terms(), queue.spool, queue.now)


def _serve(server: _Serves, failed: threading.Event) -> None:
    try:
        server.serve()
    except BaseException:
        failed.set()
        raise
    finally:  # also by a fault of our own: systemd starts what has ended, and not what only sits there
        os.kill(os.getpid(), signal.SIGTERM)


def _control(listener: socket.socket, queue: Queue, options: argparse.Namespace) -> ControlServer:
    """Make the listener for home.

    Raises:
        CertificateError, OSError: the keys cannot be used.
    """
    pins = Pins(options.own, options.home.read_text(encoding="utf-8"), server=True)
    api = QueueApi(queue.spool, queue.presence, queue.status)
    return ControlServer(listener, lambda: pins, lambda: Identity.read(options.config), api)


def _listen(place: tuple[str, int]) -> socket.socket:
    return socket.create_server(place, family=socket.AF_INET6 if ":" in place[0] else socket.AF_INET)


def _places(folder: Path) -> MakePlace:
    """Give what makes places besides the disk, which keep what they must remember in a folder."""
    cleans = [True]

    def make(settings: Mapping[str, Any], epoch: str) -> Place:
        # It takes memory that a relay without one does not need.
        from model.s3 import S3Settings
        from relay.s3 import S3Place

        place = S3Place(S3Settings.of(settings), folder, epoch, cleans=bool(cleans))
        cleans.clear()
        return place

    return make


def _software() -> str:
    """Give the id of the bundle that this is part of: the name of its folder; empty outside of one."""
    folder = Path(__file__).resolve().parent.parent
    return folder.name if (folder / "bundle.json").is_file() else ""


def _tell_where(fault: threading.ExceptHookArgs) -> None:
    """Tell of a fault of our own where it was, without its text: an address may be in that."""
    places = "".join(traceback.format_tb(fault.exc_traceback))
    print(f"darkpipe-queue: {fault.exc_type.__name__}\n{places}", file=sys.stderr, flush=True)


def _give_memory_back() -> None:
    """Let free(3) give back what scrypt has used: glibc keeps so much in every thread's arena (mallopt(3))."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_THRESHOLD, 128 * 1024)
    mallopt(_M_ARENA_MAX, 2)


def _fail(text: str) -> int:
    print(f"darkpipe-queue: {text}", file=sys.stderr)
    return 1


def _place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text}, expected an address and a port such as 127.0.0.1:10026")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _credential(name: str) -> Path:
    """Name a file that systemd hands over (systemd.exec(5), LoadCredential=)."""
    return Path(os.environ.get("CREDENTIALS_DIRECTORY", ".")) / name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="darkpipe-queue",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    place: Callable[[str], tuple[str, int]] = _place
    parser.add_argument("--config", required=True, type=Path, help="folder with settings, recipients and fence")
    parser.add_argument("--spool", required=True, type=Path, help="folder for what waits")
    parser.add_argument(
        "--listen", type=place, default="127.0.0.1:10026", help="address and port for Postfix (default: %(default)s)"
    )
    parser.add_argument("--control", type=place, help="address and port for home; without it, home takes nothing")
    parser.add_argument("--own", type=Path, default=_credential("relay.pem"), help="key and certificate of the relay")
    parser.add_argument("--home", type=Path, default=_credential("home.pem"), help="home's certificates")
    return parser


if __name__ == "__main__":
    sys.exit(main())
