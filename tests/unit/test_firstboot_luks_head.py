"""Which heads are taken for DarkPipe's own; cryptsetup's answers to planted ones are in the machine tier."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from firstboot.cipher import ADIANTUM, AES_XTS, Cipher
from firstboot.luks_head import Header, read_luks, why_not_ours

_UUID = UUID(int=7)
_SALT = "5CMYoBShfJUKeJjCLcQ9VVf4Xq8azRIdAiuoi/QC/t0="


def _slot(cipher: Cipher, kdf: dict[str, Any]) -> dict[str, Any]:
    key_size = cipher.key_bits // 8
    area = {"type": "raw", "offset": "32768", "size": "258048", "encryption": cipher.specification}
    return {
        "type": "luks2",
        "key_size": key_size,
        "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"},
        "area": {**area, "key_size": key_size},
        "kdf": {**kdf, "salt": _SALT},
    }


def a_head(cipher: Cipher) -> dict[str, Any]:
    """Give what `cryptsetup luksDump --dump-json-metadata` (2.6.1) says of a container that `Luks` has made."""
    return {
        "keyslots": {
            "0": _slot(cipher, {"type": "pbkdf2", "hash": "sha256", "iterations": 1000}),
            "1": _slot(cipher, {"type": "argon2id", "time": 4, "memory": 65536, "cpus": 2}),
        },
        "tokens": {"0": {"type": "darkpipe-recovery", "keyslots": ["0"]}},
        "segments": {
            "0": {
                "type": "crypt",
                "offset": "16777216",
                "size": "dynamic",
                "iv_tweak": "0",
                "encryption": cipher.specification,
                "sector_size": cipher.sector_bytes,
            }
        },
        "digests": {
            "0": {
                "type": "pbkdf2",
                "keyslots": ["0", "1"],
                "segments": ["0"],
                "hash": "sha256",
                "iterations": 1000,
                "salt": _SALT,
                "digest": _SALT,
            }
        },
        "config": {"json_size": "12288", "keyslots_size": "16744448"},
    }


@pytest.mark.parametrize("cipher", [AES_XTS, ADIANTUM], ids=str)
def test_what_darkpipe_makes_is_its_own(cipher: Cipher) -> None:
    head = a_head(cipher)
    assert why_not_ours(head) is None
    # Where cryptsetup cannot encrypt a slot with the cipher of the data, it takes its default; a disk with blocks of
    # another size has its data elsewhere; any version may add a slot, with or without a token.
    head["keyslots"]["2"] = _slot(AES_XTS, {"type": "argon2id", "time": 4, "memory": 524288, "cpus": 4})
    head["keyslots"]["2"]["key_size"] = cipher.key_bits // 8
    head["digests"]["0"]["keyslots"].append("2")
    head["segments"]["0"]["offset"] = "33553920"
    head["tokens"] = {}
    assert why_not_ours(head) is None


Plant = Callable[[dict[str, Any]], object]

_PLANTED: dict[str, tuple[Plant, str]] = {
    "plain data": (lambda h: h["segments"]["0"].update(encryption="cipher_null-ecb"), "encrypted with cipher_null-ecb"),
    "weak data": (lambda h: h["segments"]["0"].update(encryption="aes-ecb"), "encrypted with aes-ecb"),
    "the other cipher's key": (
        lambda h: h["segments"]["0"].update(encryption=ADIANTUM.specification, sector_size=512),
        "key slot 0 has a key of 64 bytes, where this has 32",
    ),
    "a shorter key": (lambda h: h["keyslots"]["1"].update(key_size=32), "slot 1 has a key of 32 bytes"),
    "other sectors": (lambda h: h["segments"]["0"].update(sector_size=512), "sectors have 512 bytes"),
    "linear": (lambda h: h["segments"]["0"].update(type="linear"), "type linear, where this is crypt"),
    "a part only": (lambda h: h["segments"]["0"].update(size="1048576"), "size 1048576"),
    "a second segment": (
        lambda h: h["segments"].update({"1": {"type": "linear", "offset": "0", "size": "dynamic"}}),
        "2 segments",
    ),
    "no segment": (lambda h: h["segments"].clear(), "0 segments"),
    "integrity": (lambda h: h["segments"]["0"].update(integrity={"type": "none"}), "has integrity"),
    "re-encryption": (lambda h: h["segments"]["0"].update(flags=["in-reencryption"]), "flags.*in-reencryption"),
    "an open slot": (lambda h: h["keyslots"]["1"]["area"].update(encryption="cipher_null-ecb"), "slot 1 is encrypted"),
    "a slot's short key": (lambda h: h["keyslots"]["0"]["area"].update(key_size=32), "with 32 bytes"),
    "a slot of another kind": (lambda h: h["keyslots"]["0"].update(type="reencrypt"), "is a reencrypt"),
    "a journal": (lambda h: h["keyslots"]["0"]["area"].update(type="journal"), "kind journal"),
    "few stripes": (lambda h: h["keyslots"]["0"]["af"].update(stripes=1), "is split by"),
    "a quick hash": (lambda h: h["keyslots"]["0"]["kdf"].update(hash="crc32"), "by way of pbkdf2 crc32"),
    "a strange stretcher": (lambda h: h["keyslots"]["1"]["kdf"].update(type="none"), "by way of none"),
    "a key of its own": (lambda h: h["digests"].update({"1": h["digests"]["0"]}), "2 keys of its own"),
    "no key at all": (lambda h: h["digests"].clear(), "0 keys"),
    "a slot for another key": (lambda h: h["digests"]["0"].update(keyslots=["0"]), "belong to different keys"),
    "data without a key": (lambda h: h["digests"]["0"].update(segments=[]), "belong to different keys"),
    "a digest's hash": (lambda h: h["digests"]["0"].update(hash="crc32"), "known by pbkdf2 crc32"),
    "requirements": (lambda h: h["config"].update(requirements={"mandatory": ["opal"]}), "requirements.*opal"),
    "flags": (lambda h: h["config"].update(flags=["allow-discards"]), "flags.*allow-discards"),
    "nonsense": (lambda h: h["keyslots"].update({"1": None}), "cannot be understood"),
    "nothing": (lambda h: h.clear(), "cannot be understood"),
    "a list": (lambda h: h.update(segments=["0"]), "cannot be understood"),
}


@pytest.mark.parametrize("name", _PLANTED)
def test_a_head_that_says_something_else_is_named(name: str) -> None:
    plant, expected = _PLANTED[name]
    head = copy.deepcopy(a_head(AES_XTS))
    plant(head)
    why = why_not_ours(head)
    assert why is not None
    assert re.search(expected, why)


def test_a_strangers_text_stays_on_its_line() -> None:
    head = a_head(AES_XTS)
    head["segments"]["0"]["encryption"] = f"\n\x1b[2J{'x' * 1000}"
    why = why_not_ours(head)
    assert why is not None
    assert why.isprintable()
    assert len(why) < 300


def _block(magic: bytes) -> bytes:
    block = bytearray(512)
    block[:8] = magic + b"\x00\x02"
    block[24:37] = b"darkpipe-data"
    block[168:204] = str(_UUID).encode()
    return bytes(block)


def test_a_container_is_known_by_either_header(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    whole = _block(b"LUKS\xba\xbe").ljust(16384, b"\0") + _block(b"SKUL\xba\xbe")
    expected = Header(_UUID, "darkpipe-data")
    for content in (whole, bytes(16384) + whole[16384:], whole[:16384]):
        disk.write_bytes(content)
        assert read_luks(disk) == expected
    for content in (b"", bytes(32768), whole[:6] + b"\x00\x01" + whole[8:16384], whole[:168] + bytes(344)):
        disk.write_bytes(content)
        assert read_luks(disk) is None
    assert read_luks(tmp_path / "missing") is None
