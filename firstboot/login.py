"""The device's login as files: an account, its keys, what it may do by sudo(8) and how SSH lets it in.

The root is read-only and the same for everybody, so the account lies in /run only: nss-systemd(8) finds it there as a
JSON user record (https://systemd.io/USER_RECORD), anew after every start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from model.settings import Login
from stack.render import File

UID = 1000
"""The first number of ordinary users (Debian Policy §9.2.2), for the user and the group of the same name."""

HOMES = PurePosixPath("/run/home")
"""Where the home directory lies: in memory, since `data` may be locked when somebody has to log in."""

USER_RECORDS = PurePosixPath("/run/userdb")
AUTHORIZED_KEYS = PurePosixPath("/run/darkpipe/authorized_keys")
SUDOERS = PurePosixPath("/run/darkpipe/sudoers.d")
SSHD = PurePosixPath("/run/darkpipe/sshd.conf")

UNLOCK = "/usr/bin/darkpipe disk unlock"
"""The one command that a login may always run as root."""

_HASH = re.compile(r"\$[0-9a-z]{1,8}\$[./A-Za-z0-9$,=+-]{8,500}")
"""crypt(5): a method, its parameters, salt and hash."""

_OURS = ("darkpipe-", "systemd-")
"""systemd names users that it makes for a moment like their services (`DynamicUser=`)."""


class LoginError(Exception):
    """There can be no such login; the text says why and what to do."""


def check_name(name: str, taken: Collection[str]) -> None:
    """Refuse names that would be somebody else.

    Args:
        taken: names of the system's users and groups.

    Raises:
        LoginError: it is one of these, or of those that systemd makes.
    """
    if name in taken or name.startswith(_OURS):
        raise LoginError(f"`{name}` belongs to the system and cannot be the login: choose another name")


def taken_names(*databases: Path) -> frozenset[str]:
    """Read the names from files in the manner of passwd(5) and group(5); nss would also find last time's login."""
    return frozenset(
        row.partition(":")[0] for path in databases for row in path.read_text(encoding="utf-8").splitlines()
    )


def read_password_hash(path: Path) -> str | None:
    """Read the hash of the login's password.

    Returns:
        A hash of crypt(5), or None when the login has no password.

    Raises:
        LoginError: nobody can tell: the data disk is not there, or the file holds something else.
    """
    if not path.parent.is_dir():
        raise LoginError("the data disk is not there, and with it the login's password: only its SSH keys work")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError) as error:
        raise LoginError(f"{path} cannot be read: {error}") from error
    if not _HASH.fullmatch(text):
        # Not the text itself: it may be a password.
        raise LoginError(f"{path} holds no password hash of crypt(5): set the password anew")
    return text


def account(login: Login, password_hash: str | None) -> Mapping[PurePosixPath, File]:
    """Make the records by which the system knows the account.

    Without a hash no password fits; what is secret lies in a file of its own that only root reads.
    """
    user = {
        "userName": login.name,
        "uid": UID,
        "gid": UID,
        "disposition": "regular",
        "homeDirectory": str(HOMES / login.name),
        "shell": "/bin/bash",
    }
    group = {"groupName": login.name, "gid": UID, "disposition": "regular"}
    privileged = {"privileged": {"hashedPassword": [password_hash]}} if password_hash else {}
    files = {}
    # systemd asks by name and by number (systemd-userdbd.service(8), "Configuration Files").
    for stem in (login.name, str(UID)):
        files[USER_RECORDS / f"{stem}.user"] = _record(user, 0o644)
        files[USER_RECORDS / f"{stem}.group"] = _record(group, 0o644)
        if privileged:
            files[USER_RECORDS / f"{stem}.user-privileged"] = _record(privileged, 0o600)
    return files


def sudoers(login: Login, *, asks: bool) -> Mapping[PurePosixPath, File]:
    """Let the login become root (sudoers(5)).

    Args:
        asks: whether for the login's password; without one there is nothing to ask for, and who holds the SSH key
            has shown who they are.
    """
    rule = f"{login.name} ALL=(ALL:ALL) {'' if asks else 'NOPASSWD: '}ALL\n"
    # The password lies on the disk that this unlocks; the command itself asks for the disk's.
    rule += f"{login.name} ALL=(root) NOPASSWD: {UNLOCK}\n"
    return {SUDOERS / "login": File(rule.encode(), 0o440)}


def ssh(login: Login, *, has_password: bool) -> Mapping[PurePosixPath, File]:
    """Let the login in over SSH: its keys, and what /etc/ssh/sshd_config includes.

    sshd runs if that is there.
    """
    password = "yes" if login.by_password and has_password else "no"
    configuration = f"AllowUsers {login.name}\nPasswordAuthentication {password}\n"
    keys = "".join(f"{key}\n" for key in login.keys)
    # Readable for the login: sshd reads the keys with its rights.
    return {SSHD: File(configuration.encode()), AUTHORIZED_KEYS / login.name: File(keys.encode())}


def _record(content: Mapping[str, object], mode: int) -> File:
    return File((json.dumps(content, indent=1) + "\n").encode(), mode)
