"""An item at home: fetched, opened and on home's disk, as an envelope and a message."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import BinaryIO

import pyrage

from model.control import LATEST
from model.envelope import Envelope, EnvelopeError
from stack.durable import sync_folder

_PIECE = 64 * 1024
_IPV6 = "ipv6:"
_HELO = re.compile(r"[!-~]{1,255}")
_VALUE = re.compile(r"[^\x00-\x20\x7f]+")
"""What the relay has taken: more than RFC 3461 §4 allows, such as `=`, and with RFC 6533 §3 UTF-8."""
_END = b"\r\n"

_OF_SENDER = frozenset({"RET", "ENVID"})
_OF_RECIPIENT = frozenset({"NOTIFY", "ORCPT"})


class LetterError(Exception):
    """An item is none that the relay's queue can have taken; the text says what was found, and quotes nothing of it."""


@dataclass(frozen=True)
class Letter:
    """A message with its envelope.

    Args:
        path: of a file with both.
        start: where the message begins in it, in octets.
        size: of the message, in octets.
        eight_bit: whether there are octets above 127 in it.
    """

    path: Path
    envelope: Envelope
    start: int
    size: int
    eight_bit: bool

    @property
    def client(self) -> IPv4Address | IPv6Address:
        """Who has sent it to the relay."""
        return _address(self.envelope)

    @property
    def port(self) -> int:
        """From which of the client's ports; 0 when that is not known."""
        port = self.envelope.client.get("PORT", "")
        return int(port) if port.isascii() and port.isdecimal() and int(port) < 2**16 else 0

    @property
    def helo(self) -> str:
        """How the client has introduced itself; its address when that is not known (RFC 5321 §4.1.3)."""
        helo = self.envelope.client.get("HELO", "")
        tag = "IPv6:" if self.client.version == 6 else ""
        return helo if _HELO.fullmatch(helo) else f"[{tag}{self.client}]"

    @property
    def sender(self) -> tuple[str, Sequence[str]]:
        """The sender's address and the parameters of MAIL (RFC 3461, RFC 6152, RFC 6531, RFC 1870)."""
        words = [f"SIZE={self.size}", *_words(self.envelope.parameters, _OF_SENDER)]
        if self.eight_bit:
            words.append("BODY=8BITMIME")
        if self.envelope.utf8:
            words.append("SMTPUTF8")
        return self.envelope.sender, words

    def recipient(self, number: int) -> tuple[str, Sequence[str]]:
        """Give a recipient's address and the parameters of RCPT."""
        address, parameters = self.envelope.recipients[number]
        return address, _words(parameters, _OF_RECIPIENT)

    def open(self) -> BinaryIO:
        """Open the file where the message begins."""
        file = self.path.open("rb")
        file.seek(self.start)
        return file


def unseal(sealed: Path, to: Path, identities: Sequence[pyrage.x25519.Identity]) -> Letter:
    """Open an item into a file, which has another name until it is whole; on return it is durable.

    Args:
        sealed: the ciphertext.
        identities: keys, of which any may open it.

    Raises:
        LetterError: it cannot be opened, or what is in it is no letter.
        OSError: the disk fails.
    """
    partial = to.with_name(f".{to.name}.new")
    try:
        _decrypt(sealed, partial, identities)
        letter = read_letter(partial)
    except (LetterError, OSError):
        partial.unlink(missing_ok=True)
        raise
    partial.replace(to)
    sync_folder(to.parent)
    return replace(letter, path=to)


def _decrypt(sealed: Path, to: Path, identities: Sequence[pyrage.x25519.Identity]) -> None:
    with sealed.open("rb") as source, to.open("wb") as target:
        watched = _Watched(target)
        try:
            pyrage.decrypt_io(source, watched, list(identities))
        except pyrage.DecryptError as error:
            raise LetterError(f"it cannot be decrypted: {error}") from None
        except Exception as error:
            # pyrage passes on what the file has said in a form of its own.
            raise watched.failure or LetterError(f"it cannot be decrypted: {type(error).__name__}") from None
        target.flush()
        os.fsync(target.fileno())


def read_letter(path: Path) -> Letter:
    """Read what `unseal` has left.

    Raises:
        LetterError: it is no letter.
        OSError: the disk fails, or it is not there.
    """
    with path.open("rb") as file:
        try:
            envelope = Envelope.read(file)
            _check(envelope)
        except EnvelopeError as error:
            raise LetterError(str(error)) from None
        start = file.tell()
        eight_bit, tail, size = False, b"", 0
        while piece := file.read(_PIECE):
            eight_bit = eight_bit or not piece.isascii()
            size += len(piece)
            tail = (tail + piece[-2:])[-2:]
    if size and tail != _END:
        raise LetterError("the message does not end with the end of a line")
    return Letter(path, envelope, start, size, eight_bit)


def _check(envelope: Envelope) -> None:
    """See that it can be said in a session.

    Raises:
        EnvelopeError: it cannot.
    """
    _address(envelope)
    if not 0 <= envelope.received <= LATEST:
        raise EnvelopeError("a time that no calendar has")
    for address in (envelope.sender, *(address for address, _ in envelope.recipients)):
        if not envelope.utf8 and not address.isascii():
            raise EnvelopeError("an address with other letters than ASCII's, without SMTPUTF8")
    _words(envelope.parameters, _OF_SENDER)
    for _, parameters in envelope.recipients:
        _words(parameters, _OF_RECIPIENT)


def _address(envelope: Envelope) -> IPv4Address | IPv6Address:
    text = envelope.client.get("ADDR", "")
    # XFORWARD marks IPv6 so (Postfix's XFORWARD_README).
    bare = text[len(_IPV6) :] if text.lower().startswith(_IPV6) else text
    try:
        address = ip_address(bare)
    except ValueError:
        raise EnvelopeError("no address of the client") from None
    if address.version == 6 and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _words(parameters: Mapping[str, str | None], known: frozenset[str]) -> list[str]:
    words = []
    for name in sorted(known & parameters.keys()):
        value = parameters[name]
        if value is None or not _VALUE.fullmatch(value):
            raise EnvelopeError(f"a parameter {name} that nobody can have said")
        words.append(f"{name}={value}")
    return words


class _Watched:
    """A file that remembers why it could not be written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, octets: bytes, /) -> int:
        """Write some octets."""
        try:
            return self._file.write(octets)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        """Hand them to the system."""
        try:
            self._file.flush()
        except OSError as error:
            self.failure = error
            raise
