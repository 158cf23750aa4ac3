"""The keys that sign what this home sends (DKIM, RFC 6376), one RSA and one Ed25519 key for each domain.

They are made here and stay here: `<folder>/<selector>.<domain>.key`. A selector is `dp<generation>-<algorithm>`. Both
keys of the highest generation sign; all keys that are there are to be published, so that the keys of two generations
can live side by side while one replaces the other.
"""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from stack.durable import write_atomically
from stack.owners import Owners

KEYS = "dkim"
"""Name of the volume with the keys."""

READER = "_rspamd"
"""The group that reads them: rspamd's."""

_FIRST = 1
_RSA_BITS = 2048  # RFC 8301 §3.2; a longer key does not fit into one answer of many DNS servers
_STRING_LENGTH = 255  # of one character-string in a TXT record, RFC 1035 §3.3

_ED25519_LENGTH = 32  # of a key and of its public half, in bytes

_SEED_PREFIX = bytes.fromhex("302e020100300506032b657004220420")
"""What stands in front of the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410 §7); rspamd wants these alone."""

_PUBLIC_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""What stands in front of the 32 bytes of its public half (RFC 8410 §4); DNS has these alone (RFC 8463 §4.2)."""

_FILE = re.compile(r"dp([1-9][0-9]*)-(rsa|ed25519)\.(.+)\.key")


class Algorithm(StrEnum):
    """How a key signs, by its name in DNS (k=)."""

    RSA = "rsa"
    ED25519 = "ed25519"


class DkimError(Exception):
    """A key could not be made or read; the text names it."""


@dataclass(frozen=True)
class Key:
    """A key for signing.

    Args:
        domain: in ASCII.
        folder: the volume with the keys.
    """

    domain: str
    generation: int
    algorithm: Algorithm
    folder: Path

    @property
    def path(self) -> Path:
        """Where it lies, or will lie."""
        return self.folder / f"{self.selector}.{self.domain}.key"

    @property
    def selector(self) -> str:
        """Its name below `_domainkey` (RFC 6376 §3.1)."""
        return f"dp{self.generation}-{self.algorithm}"


@dataclass(frozen=True)
class Record:
    """A TXT record that the world needs to check signatures.

    Args:
        name: without a dot at the end.
        value: the text as a whole; in a zone file it is divided into strings.
    """

    domain: str
    selector: str
    name: str
    value: str

    @property
    def zone_line(self) -> str:
        """The record as it stands in a zone file."""
        strings = [self.value[at : at + _STRING_LENGTH] for at in range(0, len(self.value), _STRING_LENGTH)]
        return f"{self.name}. IN TXT " + " ".join(f'"{string}"' for string in strings)


def signing_keys(folder: Path, domains: Iterable[str]) -> Mapping[str, Sequence[Key]]:
    """Tell which keys sign for each of some domains; what is not there yet, `ensure_keys` makes.

    Args:
        folder: the volume with the keys.
    """
    generations: dict[str, int] = {}
    for key in _stored(folder):
        generations[key.domain] = max(key.generation, generations.get(key.domain, _FIRST))
    return {
        domain: tuple(Key(domain, generations.get(domain, _FIRST), algorithm, folder) for algorithm in Algorithm)
        for domain in domains
    }


def ensure_keys(folder: Path, domains: Iterable[str], owners: Owners) -> None:
    """Make what is missing of the keys that sign for some domains.

    Keys of other domains stay: when a domain comes back, its records are still true.

    Args:
        folder: the volume with the keys.

    Raises:
        DkimError: openssl failed.
    """
    missing = [key for keys in signing_keys(folder, domains).values() for key in keys if not key.path.exists()]
    for key in missing:
        write_atomically(key.path, _make(key.algorithm), 0o640, owners.ids("root", READER))


def records(folder: Path, domains: Iterable[str]) -> Sequence[Record]:
    """List what is to be published for some domains: a record for every key that is there, signing or not.

    Raises:
        DkimError: a key cannot be read.
    """
    wanted = list(domains)
    keys = sorted(
        (key for key in _stored(folder) if key.domain in wanted),
        key=lambda key: (wanted.index(key.domain), key.generation, list(Algorithm).index(key.algorithm)),
    )
    return [
        Record(key.domain, key.selector, f"{key.selector}._domainkey.{key.domain}", _record_text(key)) for key in keys
    ]


def faults(folder: Path, domains: Iterable[str]) -> Sequence[str]:
    """Say which keys that should sign for some domains cannot."""
    found = []
    for keys in signing_keys(folder, domains).values():
        for key in keys:
            try:
                if key.path.exists():
                    _record_text(key)
                else:
                    found.append(f"{key.path} is missing")
            except DkimError as error:
                found.append(str(error))
    return found


def _stored(folder: Path) -> Iterable[Key]:
    for path in sorted(folder.glob("*.key")):
        if found := _FILE.fullmatch(path.name):
            yield Key(found[3], int(found[1]), Algorithm(found[2]), folder)


def _make(algorithm: Algorithm) -> bytes:
    """Make a key in the form that rspamd reads: PEM for RSA, the bytes in base64 for Ed25519."""
    if algorithm is Algorithm.RSA:
        made = _openssl(["genpkey", "-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{_RSA_BITS}"], "make a key")
        # openssl can end with 0 though it could not write.
        if not made.endswith(b"-----END PRIVATE KEY-----\n"):
            raise DkimError("openssl made no RSA key")
        return made
    seed = _bare(_openssl(["genpkey", "-algorithm", "ED25519", "-outform", "DER"], "make a key"), _SEED_PREFIX)
    return base64.b64encode(seed) + b"\n"


def _record_text(key: Key) -> str:
    read = f"read {key.path}"
    if key.algorithm is Algorithm.RSA:
        public = _openssl(["pkey", "-in", str(key.path), "-pubout", "-outform", "DER"], read)
    else:
        private = _SEED_PREFIX + _seed(key.path)
        public = _openssl(["pkey", "-inform", "DER", "-pubout", "-outform", "DER"], read, private)
        public = _bare(public, _PUBLIC_PREFIX)
    return f"v=DKIM1; k={key.algorithm}; p={base64.b64encode(public).decode()}"


def _seed(path: Path) -> bytes:
    try:
        return base64.b64decode(path.read_bytes().strip(), validate=True)
    except ValueError as error:
        raise DkimError(f"{path} is no Ed25519 key: {error}") from error


def _bare(encoded: bytes, prefix: bytes) -> bytes:
    bare = encoded.removeprefix(prefix)
    if len(bare) != _ED25519_LENGTH:
        raise DkimError(
            f"openssl gave {len(encoded)} bytes for an Ed25519 key, expected {len(prefix) + _ED25519_LENGTH}"
        )
    return bare


def _openssl(arguments: Sequence[str], task: str, data: bytes = b"") -> bytes:
    try:
        done = subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=False)
    except OSError as error:
        raise DkimError(f"openssl cannot be run: {error}") from error
    if done.returncode != 0:
        raise DkimError(f"openssl cannot {task}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
