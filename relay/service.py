"""The queue as a service: keeps mail for home behind Postfix (postconf(5), smtpd_proxy_filter)."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyrage

from relay.reception import Policy, Terms, converse
from relay.recipients import ListError, RecipientList, Recipients
from relay.server import Server
from relay.spool import Spool

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

_EXAMPLES = """\
example:
  python3 -m relay.service --name mx.example.com --spool /var/lib/darkpipe/spool \\
      --recipients /var/lib/darkpipe/recipients --key age1… --key age1… --budget 10000000000

SIGHUP reads the list of recipients again; SIGTERM ends the service, and with it the sessions that are open.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; exit status 1 after a text when it cannot begin."""
    options = _parser().parse_args(arguments)
    # Before the first thread, since threads inherit it: none of them takes a signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    recipients = Recipients()
    try:
        spool = Spool(options.spool, options.key, options.budget)
        listener = socket.create_server(options.listen)
    except pyrage.RecipientError as error:
        return _fail(f"--key {' '.join(options.key)}: {error}")
    except OSError as error:
        return _fail(f"{error.filename or 'the listener'}: {error.strerror}")
    _read_list(recipients, options.recipients)
    terms = Terms(options.name, options.largest, recipients.judge, Policy(options.policy))
    server = Server(listener, partial(converse, terms=terms, spool=spool))

    failed = threading.Event()

    def serve() -> None:
        try:
            server.serve()
        except BaseException:
            failed.set()
            raise
        finally:  # also by a fault of our own: systemd starts what has ended, and not what only sits there
            os.kill(os.getpid(), signal.SIGTERM)

    serving = threading.Thread(target=serve)
    with listener:
        serving.start()
        print(f"darkpipe-queue: listens on port {server.address[1]}, {len(spool.items())} messages wait", flush=True)
        # A handler would run in the middle of something; like this, signals come one after the other.
        while signal.sigwait(_SIGNALS) == signal.SIGHUP:
            _read_list(recipients, options.recipients)
        server.stop()
        serving.join()
    return 1 if failed.is_set() else 0


def _fail(text: str) -> int:
    print(f"darkpipe-queue: {text}", file=sys.stderr)
    return 1


def _place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text}, expected an address and a port such as 127.0.0.1:10026")
    return host, int(port)


def _read_list(recipients: Recipients, path: Path) -> None:
    """Take the list that home has pushed, if it has; one that cannot be read changes nothing."""
    try:
        if path.exists():
            recipients.replace(RecipientList.read(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, ListError) as error:
        print(f"darkpipe-queue: the recipients stay as they were: {path}: {error}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="darkpipe-queue",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", required=True, help="name of the relay in SMTP")
    parser.add_argument("--spool", required=True, type=Path, help="folder for what waits")
    parser.add_argument("--recipients", required=True, type=Path, help="the list that home pushes; it may come later")
    parser.add_argument("--key", required=True, action="append", help="a public age key of home; repeatable")
    parser.add_argument("--budget", required=True, type=int, help="octets that all messages may take")
    parser.add_argument("--largest", type=int, default=50_000_000, help="octets of one message (default: %(default)s)")
    parser.add_argument(
        "--policy", choices=[str(policy) for policy in Policy], default="queue", help="default: %(default)s"
    )
    parser.add_argument(
        "--listen", type=_place, default="127.0.0.1:10026", help="address and port (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
