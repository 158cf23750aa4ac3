"""What the relay is told about its bucket: the Site's words, the store's secret key, and a secret of home and relay.

`/data/pairing/s3-secret-key` has what the store has given out; a person types it in on the device. `bucket-seal`
beside it is made here: by it the relay's records in the bucket are sealed, so that home finds what is left there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyrage import IdentityError, x25519

from model.quota import quota_bytes
from model.s3 import S3Settings
from model.site import S3
from stack.durable import write_atomically, write_once

SECRET_KEY, SEAL = "s3-secret-key", "bucket-seal"

_KEY = re.compile(r"[!-~]{1,512}")


class S3KeyError(Exception):
    """A key cannot be used; the text names its file, quotes nothing of it, and says what to do."""


def keep_secret_key(folder: Path, text: str) -> None:
    """Keep the store's secret key.

    Args:
        folder: home's folder for pairing.

    Raises:
        S3KeyError: the text is no key.
    """
    key = text.strip()
    if not _KEY.fullmatch(key):
        raise S3KeyError("found something else than a secret key: one word; copy it from the store's page again")
    write_atomically(folder / SECRET_KEY, f"{key}\n".encode("ascii"), 0o600)


def s3_settings(site: S3, folder: Path) -> S3Settings:
    """Give the settings for the relay, and for home when the relay has died; makes the seal when there is none.

    Args:
        folder: home's folder for pairing.

    Raises:
        S3KeyError: the secret key was not given to the device yet, or a file is damaged.
    """
    return S3Settings(
        endpoint=site.endpoint,
        bucket=site.bucket,
        access_key=site.access_key,
        secret_key=_secret_key(folder / SECRET_KEY),
        seal=_seal(folder / SEAL),
        mode=site.mode,
        region=site.region,
        prefix=site.prefix,
        budget=quota_bytes(site.budget),
    )


def told(settings: S3Settings) -> Mapping[str, Any]:
    """Give the settings as they go to the relay (`QueueSettings.s3`)."""
    return {name: str(value) if name == "mode" else value for name, value in asdict(settings).items()}


def _secret_key(path: Path) -> str:
    try:
        key = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise S3KeyError("the device has no secret key for the S3 store yet: `darkpipe relay s3-key`") from None
    except UnicodeDecodeError:
        key = ""
    if not _KEY.fullmatch(key):
        raise S3KeyError(f"{path} holds no secret key; type it in again: `darkpipe relay s3-key`")
    return key


def _seal(path: Path) -> str:
    try:
        seal = path.read_text(encoding="ascii").strip()
        x25519.Identity.from_str(seal)
    except FileNotFoundError:
        seal = str(x25519.Identity.generate())
        # darkpipe-pair and a command may come here at once: with the other's, the relay would find nothing any more.
        if not write_once(path, f"{seal}\n".encode("ascii"), 0o600):
            return _seal(path)
    except (UnicodeDecodeError, IdentityError):
        # Another one would hide from home what lies in the bucket already.
        raise S3KeyError(
            f"{path} holds no age identity; restore it from a backup; to remove it gives up what lies in the bucket"
        ) from None
    return seal
