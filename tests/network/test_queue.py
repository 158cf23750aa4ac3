"""The relay's Postfix in front of the queue: what a sender sends is in the spool, sealed, and Postfix keeps nothing.

The relay's own settings do not lead here yet; what differs from them is `_QUEUED`.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyrage
import pytest

from builder.relay_files import RelaySetting, relay_files
from model.envelope import Envelope
from model.recipients import DomainRule, RecipientList
from relay.reception import Terms, converse
from relay.recipients import Recipients
from relay.server import Server
from relay.spool import Spool
from tests import mail
from tests.machine.machine import wait_for
from tests.network.conftest import DOMAINS, RELAY_NAME, Ends, scratch_folder
from tests.network.net import Namespace, namespace
from tests.network.postfix import running_postfix
from tests.sealed import opened

_HOME = pyrage.x25519.Identity.generate()
_SENDER = "203.0.113.77"
_QUEUED = {
    ", check_recipient_access static:{450 4.3.2 Home is away, please try again later}": "",
    "smtpd_proxy_filter = unix:private/nobody": "smtpd_proxy_filter = 127.0.0.1:10026",
    "smtpd_end_of_data_restrictions = check_client_access static:{450 4.3.2 Home is away, please try again later}": "",
}


@dataclass(frozen=True)
class Queue:
    """A Postfix with the queue behind it.

    Args:
        written: folder with all that Postfix has written.
    """

    place: Namespace
    spool: Spool
    written: Path

    def opened(self) -> list[tuple[Envelope, bytes]]:
        return opened(self.spool, _HOME)


@pytest.fixture(scope="module")
def queue(root: Path, ends: Ends) -> Iterator[Queue]:
    with namespace() as place, scratch_folder() as scratch:
        place.add_address(_SENDER)
        (settings := scratch / "settings").mkdir()
        for file in relay_files(RelaySetting(RELAY_NAME, DOMAINS, ends.relay)):
            if file.path.parent.name == "postfix":
                (settings / file.path.name).write_text(file.text)
        text = (settings / "main.cf").read_text()
        for old, new in _QUEUED.items():
            assert old in text
            text = text.replace(old, new)
        (settings / "main.cf").write_text(text)
        (folder := scratch / "spool").mkdir(mode=0o700)
        spool = Spool(folder, [str(_HOME.to_public())], 10**9)
        recipients = Recipients(RecipientList.make(1, {name: DomainRule() for name in DOMAINS}, ["alice@example.com"]))
        listener = place.call(socket.create_server, ("127.0.0.1", 10026))
        server = Server(listener, partial(converse, terms=Terms(RELAY_NAME, 50_000_000, recipients.judge), spool=spool))
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            postfix = running_postfix(
                place, settings, RELAY_NAME, root, scratch / "postfix", scratch / "log", disk=True
            )
            with postfix:
                wait_for(lambda: place.reachable([10024], "127.0.0.1") == {10024}, "Postfix")
                yield Queue(place, spool, scratch / "postfix/var")
        finally:
            server.stop()
            thread.join()
            listener.close()


def _send(
    queue: Queue, message: Path, *recipients: str, sender: str = "a@example.net"
) -> subprocess.CompletedProcess[str]:
    # As HAProxy does: the client's address stands in the PROXY header.
    options = [
        "--proxy-version",
        "2",
        "--proxy-protocol",
        "STREAM",
        "--proxy-command",
        "PROXY",
        "--proxy-family",
        "AF_INET",
        "--proxy-source",
        _SENDER,
    ]
    options += ["--proxy-source-port", "4711", "--proxy-dest", "203.0.113.1", "--proxy-dest-port", "25"]
    return queue.place.call(
        mail.swaks, 10024, sender, ",".join(recipients), message, host="127.0.0.1", options=[*options, "--tls"]
    )


def test_what_a_sender_sends_is_kept_for_home(queue: Queue, tmp_path: Path) -> None:
    message = tmp_path / "message"
    message.write_bytes(b"From: a@example.net\nSubject: canary-subject\n\n.dot\n" + b"y" * 100_000 + b"\n")
    sent = _send(queue, message, "alice@example.com", "nobody@example.com")
    assert "250 2.0.0 Kept until the recipient is back" in sent.stdout, sent.stdout[-2000:]
    assert "550 5.1.1 There is no such mailbox here" in sent.stdout
    ((envelope, content),) = queue.opened()
    trace, _, rest = content.partition(b"From: a@")
    assert trace.startswith(b"Received: ")
    assert (b"From: a@" + rest).rstrip() == message.read_bytes().replace(b"\n", b"\r\n").rstrip()
    assert envelope.sender == "a@example.net"
    assert [address for address, _ in envelope.recipients] == ["alice@example.com"]
    assert envelope.client["ADDR"] == _SENDER
    assert envelope.client["PORT"] == "4711"
    holding = [path for path in queue.written.rglob("*") if path.is_file() and b"canary-subject" in path.read_bytes()]
    assert holding == []
    assert [
        path for path in (queue.written / "spool/postfix").rglob("*") if path.is_file() and "/pid/" not in str(path)
    ] == []
