"""Awkward messages, as they are sent on the wire, and as they must be in the mailbox.

Nothing between may change a message: signatures would break, and a mailbox is evidence. Where a server has to (IMAP
knows no NUL; a line that ends with LF alone has to become one), the sample says what becomes of it and why.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

_HEAD = b"From: Stranger <stranger@example.net>\r\nSubject: awkward\r\nDate: Mon, 23 Nov 2026 01:02:03 +0000\r\n"


@dataclass(frozen=True)
class Sample:
    """One message.

    Args:
        name: for the test's name.
        sent: its octets, before dots are doubled (RFC 5321 §4.5.2).
        kept: what is in the mailbox; None when it is what was sent.
        reason: why it is not.
        kept_of_chunks: what is in the mailbox when it came by BDAT, where that is something else.
    """

    name: str
    sent: bytes
    kept: bytes | None = None
    reason: str = ""
    kept_of_chunks: bytes | None = None

    def __post_init__(self) -> None:
        assert (self.kept is None) == (self.reason == ""), self.name

    def expected(self, chunks: bool) -> bytes:
        """What must be in the mailbox, below the trace.

        Args:
            chunks: whether it came by BDAT (RFC 3030) rather than by DATA.
        """
        if chunks and self.kept_of_chunks is not None:
            return self.kept_of_chunks
        return self.sent if self.kept is None else self.kept


def samples(seed: int = 1) -> list[Sample]:
    """Give all samples; the same seed gives the same octets."""
    dice = random.Random(seed)  # the same ones every time
    return [*_kept(dice), *_changed()]


def _kept(dice: random.Random) -> list[Sample]:
    plain = _HEAD + b"\r\n"
    octets = bytes(dice.choice([*range(1, 10), 11, 12, *range(14, 256)]) for _ in range(5000))
    return [
        Sample("empty body", plain),
        Sample("headers only", _HEAD),
        Sample("blank lines only", plain + b"\r\n" * 50),
        Sample("dots", plain + b".\r\n..\r\n...\r\n.a\r\n. \r\n\r\n.\r\n"),
        Sample("spaces at the end", plain + b"a \r\nb\t\r\n \r\n\t\t\r\nc   \r\n"),
        Sample("signature separator", plain + b"text\r\n-- \r\nme\r\n"),
        Sample("format flowed", _HEAD + b"Content-Type: text/plain; format=flowed; delsp=yes\r\n\r\n> a \r\n>  b \r\n"),
        Sample("mbox from", plain + b"From here on\r\n>From there\r\nFrom a@example.net Mon Nov 23 01:02:03 2026\r\n"),
        Sample("8 bit without a word", plain + "Grüße, € 日本 🙂\r\n".encode() + "Grüße\r\n".encode("latin-1")),
        Sample("every octet", plain + octets + b"\r\n"),
        Sample("utf-8 headers", "From: Jürgen <jürgen@example.net>\r\nSubject: 日本 🙂\r\n\r\ntext\r\n".encode()),
        Sample("latin-1 headers", "From: a@example.net\r\nSubject: Grüße\r\n\r\ntext\r\n".encode("latin-1")),
        Sample("long lines", plain + b"x" * 999 + b"\r\n" + b"y" * 2048 + b"\r\n" + b"z" * 4097 + b"\r\n"),
        Sample("a line of 300 kB", plain + b"x" * 300_000 + b"\r\nend\r\n"),
        Sample("a header of 59 kB", _HEAD + b"X-Long: " + b"x" * 59_000 + b"\r\n\r\ntext\r\n"),
        Sample("a folded header of 59 kB", _HEAD + b"X-Long: a\r\n" + b"\tbcdefghij\r\n" * 4900 + b"\r\ntext\r\n"),
        Sample("2000 headers", _HEAD + b"".join(b"X-%d: %d\r\n" % (n, n) for n in range(2000)) + b"\r\ntext\r\n"),
        Sample("headers twice", _HEAD + b"Subject: again\r\nFrom: b@example.net\r\nDATE: never\r\n\r\ntext\r\n"),
        Sample(
            "odd headers",
            _HEAD + b"X-Empty:\r\nX-Blank: \r\nX-Fold:\r\n\t\r\n a\r\nx@y!: z\r\nTo: a,,;b:<\r\n\r\ntext\r\n",
        ),
        Sample("addresses without a domain", b"From: stranger\r\nTo: alice, <bob>\r\nCc: (none)\r\n\r\ntext\r\n"),
        Sample(
            "trace of others", b"Received: from a by b; now\r\nDelivered-To: y@example.net\r\n" + plain + b"text\r\n"
        ),
        Sample("boundary that never ends", _multipart(b"b1", b"--b1\r\n\r\none\r\n--b2\r\n\r\ntwo\r\n")),
        Sample("boundary that nobody named", _multipart(b"", b"--\r\n\r\none\r\n----\r\n")),
        Sample(
            "boundary within a boundary", _multipart(b"b", b"--b\r\n\r\none\r\n--bb\r\n\r\ntwo\r\n--b--\r\n--b\r\n")
        ),
        Sample("99 parts deep", nested(99)),
        Sample("wrong encodings", _HEAD + b"Content-Transfer-Encoding: base64\r\n\r\n!!!!\r\n=41=\r\n===\r\n"),
        Sample("a part of rubbish", _multipart(b"b", b"--b\r\nContent-Type: /;;=\r\n\r\n" + octets + b"\r\n--b--\r\n")),
    ]


def _changed() -> list[Sample]:
    plain = _HEAD + b"\r\n"
    return [
        Sample(
            "return path",
            b"Received: from a by b; now\r\nReturn-Path: <x@example.net>\r\n" + plain + b"text\r\n",
            b"Received: from a by b; now\r\n" + plain + b"text\r\n",
            "there is one Return-Path, that of the last delivery (RFC 5321 §4.4)",
        ),
        Sample(
            "NUL",
            plain + b"a\0b\r\n\0\r\n",
            plain + b"a\x80b\r\n\x80\r\n",
            "a literal of IMAP must not hold NUL (RFC 9051 §9, CHAR8): Dovecot shows it as 0x80; on the disk it stays",
        ),
        Sample(
            "LF alone",
            plain + b"a\nb\r\n\n\r\n",
            plain + b"a\r\nb\r\n\r\n\r\n",
            "LF alone may end a line, and so a message, for the next server (CVE-2023-51764): Postfix makes it CR LF",
        ),
        Sample(
            "CR alone",
            plain + b"a\rb\r\n\rc\r\r\n",
            plain + b"a b\r\n c \r\n",
            "the same for CR alone: Postfix makes it a space (cleanup_replace_stray_cr_lf)",
        ),
        Sample(
            "no header",
            b"text at once\r\nmore: of it\r\n",
            b"\r\ntext at once\r\nmore: of it\r\n",
            "an empty line keeps the text out of the headers, where the trace is (RFC 5322 §2.1)",
        ),
        Sample(
            "mbox line on top",
            b"From a@example.net Mon Nov 23 01:02:03 2026\r\n" + plain + b"text\r\n",
            b"X-Mailbox-Line: From a@example.net Mon Nov 23 01:02:03 2026\r\n" + plain + b"text\r\n",
            "it would end the headers: Postfix makes a header of it, except in chunks, where it ends them",
            b"\r\nFrom a@example.net Mon Nov 23 01:02:03 2026\r\n" + plain + b"text\r\n",
        ),
        Sample(
            "a space on top",
            b" folded\r\n" + plain + b"text\r\n",
            b"\r\n folded\r\n" + plain + b"text\r\n",
            "it would continue the last field of the trace, and in chunks it does",
            plain + b"text\r\n",
        ),
    ]


def _multipart(boundary: bytes, body: bytes) -> bytes:
    kind = b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="' + boundary + b'"\r\n'
    return _HEAD + kind + b"\r\n" + body


def nested(levels: int) -> bytes:
    """Make a message of parts within parts, so many levels deep."""
    text = b""
    for level in range(levels):
        text += b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level)
    return _HEAD + b"MIME-Version: 1.0\r\n" + text + b"\r\ntext\r\n"
