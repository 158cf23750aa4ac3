"""The first message of WireGuard's handshake, with a time stamp that the test chooses (WireGuard's paper, §5.4.2).

A container has no clock of its own, and a Go program asks the kernel for the time where no library can answer instead.
"""

from __future__ import annotations

import hmac
import socket
import struct
from base64 import b64decode
from hashlib import blake2s

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from model.tunnel import LISTEN_PORT, HomeEnd

_CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
_IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
_RESPONSE = b"\2\0\0\0"
_TAI64 = 1 << 62
_PATIENCE = 2.0
"""Seconds; an answer takes some milliseconds."""


def is_answered(home: HomeEnd, address: str, seconds: int) -> bool:
    """Tell whether a relay answers when its home begins a handshake.

    Args:
        address: of the relay.
        seconds: home's clock, since the epoch.
    """
    message = _initiation(home, seconds)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.settimeout(_PATIENCE)
        way.connect((address, LISTEN_PORT))
        way.send(message)
        try:
            return way.recv(1500).startswith(_RESPONSE)
        except TimeoutError:
            return False


def _initiation(home: HomeEnd, seconds: int) -> bytes:
    relay_key = b64decode(home.relay_key)
    static, ephemeral = X25519PrivateKey.from_private_bytes(b64decode(home.private_key)), X25519PrivateKey.generate()
    relay, sent = X25519PublicKey.from_public_bytes(relay_key), ephemeral.public_key().public_bytes_raw()
    chain = _hash(_CONSTRUCTION)
    said = _hash(_hash(chain + _IDENTIFIER) + relay_key)
    chain, _ = _derive(chain, sent)
    said = _hash(said + sent)
    chain, key = _derive(chain, ephemeral.exchange(relay))
    sealed_key = _seal(key, static.public_key().public_bytes_raw(), said)
    said = _hash(said + sealed_key)
    _, key = _derive(chain, static.exchange(relay))
    sealed_time = _seal(key, struct.pack(">QI", _TAI64 + seconds, 0), said)
    message = b"\1\0\0\0" + b"home" + sent + sealed_key + sealed_time
    return message + blake2s(message, key=_hash(b"mac1----" + relay_key), digest_size=16).digest() + bytes(16)


def _hash(text: bytes) -> bytes:
    return blake2s(text).digest()


def _derive(chain: bytes, text: bytes) -> tuple[bytes, bytes]:
    """Give the next chaining key and a key (KDF2 of the paper)."""
    secret = hmac.digest(chain, text, blake2s)
    first = hmac.digest(secret, b"\1", blake2s)
    return first, hmac.digest(secret, first + b"\2", blake2s)


def _seal(key: bytes, text: bytes, said: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(bytes(12), text, said)
