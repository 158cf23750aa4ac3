"""The head of a LUKS2 container: whose it is, and whether DarkPipe could have made it.

Who had the disk in hand for an hour can write any head, and cryptsetup(8) does what it says: with `cipher_null` for the
data, the right passphrase opens a disk that takes the mail as it is; with `cipher_null` for a key slot, any passphrase
opens one whose key its maker knows. So nothing is asked for, and nothing opened, before all of this is as it was made.
What the slots are for is no part of it: who cannot open the container cannot make a slot for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from firstboot.cipher import ADIANTUM, AES_XTS, Cipher

_MAGICS = {0: b"LUKS\xba\xbe", 16384: b"SKUL\xba\xbe"}
"""By place: of the header, and of its copy behind a first one of the usual size (LUKS2 On-Disk Format 1.1.1, §2.1)."""
_HEADER_SIZE = 512
_VERSION = b"\x00\x02"
_LABEL = slice(24, 24 + 48)
_UUID = slice(168, 168 + 40)

_CIPHERS = {cipher.specification: cipher for cipher in (AES_XTS, ADIANTUM)}
"""All that DarkPipe has ever made."""

_SEGMENT = {"type": "crypt", "size": "dynamic", "iv_tweak": "0"}
"""The one that holds everything, without integrity and flags (LUKS2 On-Disk Format 1.1.1, §3.3)."""
_FREE = {"offset", "encryption", "sector_size"}
"""What is judged by itself; where the data begin follows from the disk's block sizes (cryptsetup-luksFormat(8))."""

_SPLITTER = {"type": "luks1", "stripes": 4000, "hash": "sha256"}
_DIGEST = {"type": "pbkdf2", "hash": "sha256"}
_CONFIG = {"json_size", "keyslots_size"}
_STRETCHERS = ("argon2id", "pbkdf2")
_HASHES = ("sha256", "sha512")


@dataclass(frozen=True)
class Header:
    """What tells a LUKS2 container from others."""

    uuid: UUID
    label: str


def read_luks(device: Path) -> Header | None:
    """Read whose LUKS2 container lies on a device; also when a power cut has torn the first header.

    Returns:
        None when there is none, or the device cannot be read.
    """
    try:
        with device.open("rb") as file:
            for place, magic in _MAGICS.items():
                file.seek(place)
                block = file.read(_HEADER_SIZE)
                if block.startswith(magic + _VERSION) and (header := _parse(block)):
                    return header
    except OSError:  # a card reader without a card, a disk that was pulled out a moment ago
        pass
    return None


def _parse(block: bytes) -> Header | None:
    try:
        uuid = UUID(block[_UUID].rstrip(b"\0").decode("ascii"))
    except ValueError:
        return None
    return Header(uuid, block[_LABEL].split(b"\0", 1)[0].decode(errors="replace"))


def why_not_ours(metadata: Mapping[str, Any]) -> str | None:
    """Say what in a head DarkPipe does not make, whichever version of it; None when there is nothing.

    Args:
        metadata: of a LUKS2 container, as `cryptsetup luksDump --dump-json-metadata` gives it.
    """
    try:
        return next(_differences(metadata), None)
    except (KeyError, TypeError, AttributeError) as error:
        return f"it cannot be understood ({type(error).__name__}: {error})"


def _differences(metadata: Mapping[str, Any]) -> Iterator[str]:
    if sorted(metadata["segments"]) != ["0"]:
        yield f"it has {len(metadata['segments'])} segments of data, where there is one"
        return
    segment = metadata["segments"]["0"]
    cipher = _CIPHERS.get(segment.get("encryption", ""))
    if cipher is None:
        yield f"the mail would be encrypted with {_name(segment.get('encryption'))}, where this is {_KNOWN}"
        return
    yield from _of_segment(segment, cipher)
    for number, slot in metadata["keyslots"].items():
        yield from _of_slot(number, slot, cipher)
    yield from _of_digests(metadata["digests"], set(metadata["keyslots"]))
    if foreign := sorted(set(metadata["config"]) - _CONFIG):
        yield f"it has {', '.join(foreign)} ({_name(metadata['config'][foreign[0]])}), which is never set"


def _of_segment(segment: Mapping[str, Any], cipher: Cipher) -> Iterator[str]:
    for name in sorted({*segment, *_SEGMENT} - _FREE):
        if segment.get(name) != _SEGMENT.get(name):
            yield f"its segment has {name} {_name(segment.get(name))}, where this is {_name(_SEGMENT.get(name))}"
    if segment["sector_size"] != cipher.sector_bytes:
        yield f"its sectors have {_name(segment['sector_size'])} bytes, where these are {cipher.sector_bytes}"


def _of_slot(number: str, slot: Mapping[str, Any], cipher: Cipher) -> Iterator[str]:
    name, area, stretch = f"key slot {_name(number)}", slot["area"], slot["kdf"]
    if slot["type"] != "luks2" or area["type"] != "raw":
        yield f"{name} is a {_name(slot['type'])} of kind {_name(area['type'])}, where this is a luks2 of kind raw"
        return
    if slot["key_size"] * 8 != cipher.key_bits:
        yield f"{name} has a key of {_name(slot['key_size'])} bytes, where this has {cipher.key_bits // 8}"
    # The default is the cipher of the data, or else AES (cryptsetup-luksFormat(8), --keyslot-cipher).
    around = _CIPHERS.get(area["encryption"])
    if around is None or area["key_size"] * 8 != around.key_bits:
        found = f"{_name(area['encryption'])} with {_name(area['key_size'])} bytes"
        yield f"{name} is encrypted with {found}, where this is {_KNOWN}"
    if slot["af"] != _SPLITTER:
        yield f"the key in {name} is split by {_name(slot['af'])}, where this is {_SPLITTER}"
    if stretch["type"] not in _STRETCHERS or stretch.get("hash", _HASHES[0]) not in _HASHES:
        found = " ".join(str(stretch[field]) for field in ("type", "hash") if field in stretch)
        yield f"{name} is opened by way of {_name(found)}, where this is {' or '.join(_STRETCHERS)} ({_HASHES[0]})"


def _of_digests(digests: Mapping[str, Any], slots: set[str]) -> Iterator[str]:
    if len(digests) != 1:
        yield f"it has {len(digests)} keys of its own, where there is one"
        return
    (digest,) = digests.values()
    if any(digest[name] != value for name, value in _DIGEST.items()):
        yield f"its key is known by {_name(digest['type'])} {_name(digest['hash'])}, where this is pbkdf2 sha256"
    if digest["segments"] != ["0"] or set(digest["keyslots"]) != slots:
        yield "its key slots and its data belong to different keys, where there is one key"


_KNOWN = " or ".join(f"{cipher.specification} with {cipher.key_bits // 8} bytes" for cipher in _CIPHERS.values())

_LONGEST = 60


def _name(found: object) -> str:
    """Show what a stranger may have written, on one line of the console."""
    text = "nothing" if found is None else str(found)
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"
