"""Where builds run: on this computer if it is like Debian, else in a Debian container (builder/container.py)."""

from __future__ import annotations

import os
import platform

from builder.errors import BuildError

CONTAINER_VARIABLE = "DARKPIPE_CONTAINER"
"""Environment variable: `always` or `never` in a container; without it, where the system is not like Debian."""

IMAGE_VARIABLE = "DARKPIPE_CONTAINER_IMAGE"
"""Environment variable with the name of the container image."""

DEFAULT_IMAGE = "debian:trixie"


def distribution() -> str:
    """Give ID and ID_LIKE of os-release(5) as words; nothing when there is no such file."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return ""
    return f"{release.get('ID', '')} {release.get('ID_LIKE', '')}".strip()


def debian_like(words: str) -> bool:
    """Whether the words of `distribution` name Debian or a system made from it."""
    return not {"debian", "ubuntu"}.isdisjoint(words.split())


def builds_here() -> bool:
    """Whether builds run on this computer rather than in a container.

    Raises:
        BuildError: the setting is none.
    """
    match os.environ.get(CONTAINER_VARIABLE, ""):
        case "":
            return debian_like(distribution())
        case "always":
            return False
        case "never":
            return True
        case other:
            raise BuildError(f"{CONTAINER_VARIABLE} is {other!r}", "set it to always or never, or not at all")


def container_image() -> str:
    """Give the name of the container image: `$DARKPIPE_CONTAINER_IMAGE`, or the default."""
    return os.environ.get(IMAGE_VARIABLE, "").strip() or DEFAULT_IMAGE


def must_be_here(hint: str) -> None:
    """Stop a command that needs Debian's tools beside devices of this computer, which no container gets.

    Args:
        hint: what to do instead.

    Raises:
        BuildError: builds do not run here.
    """
    if not builds_here():
        raise BuildError("this works on Debian and systems made from it only", hint)
