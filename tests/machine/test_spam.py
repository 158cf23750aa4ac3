"""Spam: verdicts, what forged ones are worth, and who may ask rspamd for what."""

from __future__ import annotations

import re

import pytest

from tests.machine.machine import Client, Machine
from tests.machine.spam import ALICE, delivered, letter, new_subject, send, submit

GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
"""What every spam filter takes for spam (rspamd: gtube_patterns)."""

_FORGED_RESULTS = (
    "Authentication-Results: mx.example.com; dkim=pass header.d=forged.example",
    'authentication-results: (a (nested) one)\r\n\t"MX.Example.COM" (another) 1; spf=pass header.d=forged.example',
    "Authentication-Results:mx.example.com;arc=pass header.d=forged.example",
)


# ---- Verdicts


def test_every_message_from_outside_carries_a_verdict(client: Client) -> None:
    subject = new_subject()
    assert send(client, letter(subject))[0] == 250
    received = delivered(client, subject)
    assert re.search(rb"^X-Spamd-Result: default: False \[-?[0-9.]+ / 15\.00\];", received, re.MULTILINE)
    assert re.search(rb"^Authentication-Results: mx\.example\.com;", received, re.MULTILINE)
    assert b"\nX-Spam: " not in received


@pytest.mark.parametrize("way", ["port 25", "submission"])
def test_forged_verdicts_are_taken_out(client: Client, way: str) -> None:
    subject = new_subject()
    forged = (
        *_FORGED_RESULTS,
        "X-Spam: Yes",
        "X-SPAM: yes",
        "X-Spam-Status: No, forged",
        "X-Spamd-Result: forged",
    )
    if way == "submission":
        submit(client, letter(subject, fields=forged, sender=ALICE))
    else:
        assert send(client, letter(subject, fields=forged))[0] == 250
    received = delivered(client, subject)  # and not in Junk
    assert b"forged" not in received
    assert b"\nX-Spam: " not in received


@pytest.mark.parametrize("field", _FORGED_RESULTS)
def test_forged_results_are_known_in_every_form(client: Client, field: str) -> None:
    """One at a time: a message that brings several loses all of them when one is known."""
    subject = new_subject()
    assert send(client, letter(subject, fields=[field]))[0] == 250
    assert b"forged" not in delivered(client, subject)


def test_results_of_others_stay(client: Client) -> None:
    subject = new_subject()
    field = "Authentication-Results: notmx.example.com; spf=pass smtp.mailfrom=kept.example"
    assert send(client, letter(subject, fields=[field]))[0] == 250
    assert field.encode() in delivered(client, subject)


def test_spam_beyond_doubt_is_refused_in_the_session(client: Client) -> None:
    code, text = send(client, letter(new_subject(), GTUBE))
    assert (code, text[:5]) == (554, b"5.7.1"), text


def test_a_printer_may_leave_fields_out(client: Client) -> None:
    subject = new_subject()
    assert send(client, f"Subject: {subject}\r\n\r\nhello\r\n".encode())[0] == 250
    assert b"\nX-Spam: " not in delivered(client, subject)


# ---- The device


def test_nothing_phones_home(device: Machine) -> None:
    variables = ("--var=CONFDIR=/usr/share/rspamd/debian", "--var=LOCAL_CONFDIR=/etc/rspamd")
    dump = device.run("rspamadm", *variables, "configdump", "--config=/etc/rspamd/rspamd.conf")
    assert "dkim_signing {" in dump
    assert [row for row in dump.splitlines() if re.search(r"https?://\w", row) and "description" not in row] == []
    denied = device.run("systemctl", "show", "--property=IPAddressDeny", "--value", "rspamd")
    assert set(denied.split()) == {"0.0.0.0/0", "::/0"}


def test_rspamd_and_valkey_listen_on_no_port(device: Machine) -> None:
    listening = device.run("ss", "--listening", "--numeric", "--processes", "--tcp", "--udp")
    assert "unbound" in listening
    assert not re.search("rspamd|valkey", listening)


def test_sockets_are_for_whom_they_are_made(device: Machine) -> None:
    folders = device.run("stat", "--format=%n %a %U:%G", "/run/rspamd-postfix", "/run/rspamd-learn", "/run/valkey")
    assert folders.splitlines() == [
        "/run/rspamd-postfix 710 _rspamd:postfix",
        "/run/rspamd-learn 710 _rspamd:vmail",
        "/run/valkey 710 valkey:_rspamd",
    ]


def test_the_idle_device_is_small(device: Machine) -> None:
    script = "cat /proc/[0-9]*/smaps_rollup 2>/dev/null | awk '/^Pss:/ { sum += $2 } END { print sum }'"
    total = int(device.run("sh", "-c", script)) / 1024
    print(f"{total:.0f} MiB")
    assert total < 600


# ---- Who may ask rspamd for what

_FORGE = """\
import http.client, socket, sys
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/run/rspamd-learn/controller.sock")
who = {"User": "alice@example.com", "From": "alice@example.com", "Rcpt": "bob@example.org", "IP": "127.0.0.1"}
connection.request("POST", "/checkv2", sys.stdin.buffer.read(), who)
print(connection.getresponse().read().decode())
"""


def test_who_may_teach_may_not_have_mail_signed(device: Machine) -> None:
    pid = device.run("systemctl", "show", "--property=MainPID", "--value", "dovecot").strip()
    inside = ["nsenter", f"--target={pid}", "--mount", "--", "setpriv", "--reuid=vmail", "--regid=vmail"]
    message = letter(new_subject(), sender=ALICE)
    answer = device.run(*inside, "--clear-groups", "python3", "-c", _FORGE, stdin=message)
    assert '"action":"reject"' in answer
    assert "FROM_NOT_OWN" in answer
    assert "dkim-signature" not in answer.lower()
