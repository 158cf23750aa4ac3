"""What the relay reads of a message that passes."""

from __future__ import annotations

import pytest

from relay.header import message_id_of, tls_of

_RECEIVED = (
    b"Received: from sender.example.net (unknown [192.0.2.7])\r\n"
    b"\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)\r\n"
    b"\t key-exchange x25519 server-signature ECDSA (prime256v1) server-digest SHA256)\r\n"
    b"\t(No client certificate requested)\r\n\tby mx.example.com (Postfix) with ESMTPS\r\n"
    b"\tfor <alice@example.com>; Wed, 25 Nov 2026 10:00:00 +0000 (UTC)\r\n"
)
_PLAIN = b"Received: from x (unknown [192.0.2.7])\r\n\tby mx.example.com (Postfix) with ESMTP\r\n"


def test_how_the_connection_was_encrypted_stands_in_postfixs_own_field() -> None:
    assert tls_of(_RECEIVED + b"\r\n") == {"protocol": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384"}


@pytest.mark.parametrize(
    "message", [b"", _PLAIN + b"\r\n", _PLAIN + _RECEIVED + b"\r\n", b"Subject: x\r\n" + _RECEIVED]
)
def test_what_the_sender_has_written_there_does_not_count(message: bytes) -> None:
    assert tls_of(message) == {}


@pytest.mark.parametrize(
    ("message", "identifier"),
    [
        (_PLAIN + b"Message-ID: <a@b>\r\nSubject: x\r\n\r\n", "<a@b>"),
        (b"message-id:\r\n <a@b>\r\n\r\n", "<a@b>"),
        (b"Message-ID: <a@b>\r\n", "<a@b>"),
        (b"Subject: x\r\n\r\nMessage-ID: <a@b>\r\n\r\n", ""),
        (b"X-Message-ID: <a@b>\r\n\r\n", ""),
        (b"Message-ID: <a b>\r\n\r\n", ""),
        (b"Message-ID: <a\r\nBcc: c@d>\r\n\r\n", ""),
        (b"Message-ID: <\xff>\r\n\r\n", ""),
        (b"Message-ID: <" + b"a" * 600 + b">\r\n\r\n", ""),
    ],
)
def test_a_message_id_is_taken_only_as_it_should_be(message: bytes, identifier: str) -> None:
    assert message_id_of(message) == identifier
