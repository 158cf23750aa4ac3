"""User and group numbers by name."""

from __future__ import annotations

import grp
import pwd
from typing import Protocol


class Owners(Protocol):
    """Looks up who a file shall belong to."""

    def ids(self, user: str, group: str) -> tuple[int, int]:
        """Give uid and gid.

        Raises:
            KeyError: there is no such user or group.
        """


class SystemOwners:
    """passwd(5) and group(5) of this system."""

    def ids(self, user: str, group: str) -> tuple[int, int]:
        """Give uid and gid.

        Raises:
            KeyError: there is no such user or group.
        """
        return pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
