"""What may stand in a `site.yaml` about an S3 store; the key by which the store knows us never does."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from model.names import host
from model.passwords import PROMPT
from model.problems import Kind, Refusal, quoted

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REGION = re.compile(r"[A-Za-z0-9-]{1,64}")
_ACCESS_KEY = re.compile(r"[!-~]{1,128}")
_PREFIX = re.compile(r"(?:[A-Za-z0-9._-]{1,64}/){0,8}")


def endpoint(text: str) -> str:
    """Give the address of a store in its usual form, without a `/` at its end.

    Raises:
        Refusal: it is none.
    """
    expected = "an address such as `https://s3.example.net`, without the bucket"
    if "@" in text:  # a password may stand before it
        raise Refusal(Kind.BAD_S3, "an address with a user's name", expected, "leave out what stands before the `@`")
    try:
        parts = urlsplit(text)
        port = parts.port
        host(parts.hostname or "")
    except (ValueError, Refusal):
        raise Refusal(
            Kind.BAD_S3, f"{quoted(text)}, which is no address", expected, "copy it from your provider"
        ) from None
    plain = parts.path in {"", "/"} and not (parts.query or parts.fragment) and port != 0
    if parts.scheme != "https" or not plain:
        raise Refusal(Kind.BAD_S3, quoted(text), expected, "write `https://` and the name of the store")
    return text.removesuffix("/")


def bucket(text: str) -> str:
    """Give the name of a bucket as it is.

    Raises:
        Refusal: no bucket has such a name.
    """
    return _fitting(_BUCKET, text, "the name of a bucket: 3 to 63 small letters, digits, `.` and `-`")


def region(text: str) -> str:
    """Give the name of a region as it is.

    Raises:
        Refusal: no region has such a name.
    """
    return _fitting(_REGION, text, "the name of a region such as `eu-central-1`")


def access_key(text: str) -> str:
    """Give the name by which a store knows us, as it is.

    Raises:
        Refusal: it has characters that none has.
    """
    return _fitting(_ACCESS_KEY, text, "the access key's id, without blanks")


def prefix(text: str) -> str:
    """Give what names of all objects begin with, with a `/` at its end.

    Raises:
        Refusal: it has characters that stores do not agree about.
    """
    return _fitting(_PREFIX, f"{text.rstrip('/')}/" if text else "", "words such as `mail/relay/`")


def secret_key(text: str) -> str:
    """Give the only word that may stand in the place of the secret key.

    Raises:
        Refusal: it is something else. The text of it is not in the refusal.
    """
    if text != PROMPT:
        raise no_secret_key("another text than `prompt`")
    return text


def no_secret_key(found: str) -> Refusal:
    """Refuse what is no wish to be asked; `found` must not quote it."""
    remedy = "write `prompt`, keep the key out of this file, and give it to the device: `darkpipe relay s3-key`"
    return Refusal(Kind.BAD_S3, found, f"`{PROMPT}`", remedy)


def _fitting(pattern: re.Pattern[str], text: str, expected: str) -> str:
    if not pattern.fullmatch(text):
        raise Refusal(Kind.BAD_S3, quoted(text), expected, "copy it from your provider")
    return text
