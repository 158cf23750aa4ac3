"""Postfix's log without people: real lines of its programs, with canaries where clients and addresses stand."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from relay.log_service import pass_on
from relay.redaction import redact

_HEAD = "<22>Nov 25 10:00:00 postfix/smtpd[123]: "
_LINES = {
    "connect from unknown[203.0.113.77]": "connect from …",
    "disconnect from unknown[203.0.113.77] ehlo=2 starttls=1 mail=1 rcpt=1/2 data=1 quit=1 commands=7/8": (
        "disconnect from … ehlo=2 starttls=1 mail=1 rcpt=1/2 data=1 quit=1 commands=7/8"
    ),
    "disconnect from canary.example[2001:db8::77] ehlo=1 canary=5": "disconnect from … ehlo=1",
    "NOQUEUE: reject: RCPT from unknown[203.0.113.77]: 550 5.1.1 <canary@x.example>: no; from=<canary@x> to=<canary@y>"
    " proto=ESMTP helo=<canary.example>": "NOQUEUE: reject: RCPT from …: 550 5.1.1",
    "proxy-accept: END-OF-MESSAGE: 250 2.0.0 Kept; from=<canary@x> to=<canary@y> proto=ESMTP helo=<canary>": (
        "proxy-accept: END-OF-MESSAGE: 250 2.0.0 Kept"
    ),
    "lost connection after DATA (0 bytes) from unknown[203.0.113.77]": "lost connection after DATA (0 bytes) from …",
    "PREGREET 14 after 0.1 from [203.0.113.77]:4711: EHLO canary\\r\\n": "PREGREET 14 after 0.1 from …",
    "warning: non-SMTP command from unknown[2001:db8::77]: GET /canary?250 2.0.0 x": "warning: non-SMTP command from …",
    "improper command pipelining after EHLO from unknown[203.0.113.77]: MAIL FROM:<canary@x>\\r\\n": (
        "improper command pipelining after EHLO from …"
    ),
    "warning: connect to 127.0.0.1:10026: refused": "warning: connect to 127.0.0.1:10026: refused",
    'warning: Illegal address syntax: <"can>ary"@x.example>': "warning: Illegal address syntax: …",
    'warning: proxy inet:127.0.0.1:10026 rejected "RCPT TO:<"can>ary canary"@x.example>": "550 5.1.1 no"': (
        'warning: proxy inet:127.0.0.1:10026 rejected "RCPT TO:…": "550 5.1.1 no"'
    ),
    "warning: odd <canary canary": "warning: odd …",
    "warning: valid_hostname: misplaced delimiter: canary-.example": "warning: valid_hostname: …",
    "warning: valid_ipv6_hostaddr: too many `:' in IPv6 address: 2001:db8::1::canary": (
        "warning: valid_ipv6_hostaddr: …"
    ),
    'warning: midna_domain_to_ascii_create: Problem translating domain "canäry canary" to ASCII form: empty label': (
        "warning: midna_domain_to_ascii_create: Problem translating domain … to ASCII form: empty label"
    ),
    "warning: hostname canary.example does not resolve to address 203.0.113.77": (
        "warning: hostname … does not resolve to address …"
    ),
    "warning: odd 2001:db8::1::2 at 10:00:00": "warning: odd … at 10:00:00",
    "warning: odd canary@example.com in 2001:db8::77 and ::ffff:203.0.113.77": "warning: odd … in … and …",
    "statistics: max connection rate 1/60s for (smtp:203.0.113.77) at Nov 25 10:00:00": (
        "statistics: max connection rate 1/60s for (smtp:…) at Nov 25 10:00:00"
    ),
    "fatal: no SASL authentication mechanisms": "fatal: no SASL authentication mechanisms",
}


@pytest.mark.parametrize("line", _LINES)
@pytest.mark.parametrize(
    "head",
    ["Nov 25 10:00:00 mx postfix/smtpd[1]: ", _HEAD, "Nov 25 10:00:00 postfix/postscreen[1]: ", "postfix/smtpd[9]: "],
)
def test_what_was_done_stays_and_for_whom_does_not(head: str, line: str) -> None:
    assert redact(head + line) == head + _LINES[line]
    for canary in ("canary", "203.0.113.77", "db8"):
        assert canary not in redact(head + line)


@pytest.mark.parametrize("line", ["", "x", "a: b", "<22>", "@", "<" * 1000, "from " * 1000, ":" * 1000, "1." * 1000])
def test_whatever_comes_something_goes_on(line: str) -> None:
    assert redact(line) is not None


def test_lines_are_passed_on_redacted(tmp_path: Path) -> None:
    place = tmp_path / "journal"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender, journal = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    with sender, journal, ours, theirs:
        ours.send(b"x: nobody listens")
        ours.send(b"")
        pass_on(theirs, sender, place)
        journal.bind(str(place))
        journal.settimeout(30)
        for line in (_HEAD.encode() + b"connect from unknown[203.0.113.77]\n", b"\xff\xfe from x", b""):
            ours.send(line)
        pass_on(theirs, sender, place)
        assert [journal.recv(1000).decode() for _ in range(2)] == [_HEAD + "connect from …", "\ufffd\ufffd from …"]
