"""The services of a relay: which files each reads, and how one sees that it is well."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass


@dataclass(frozen=True)
class Service:
    """One unit of systemd.

    Args:
        unit: its name.
        files: beginnings of the paths after whose change it is started again.
        rereads: the same, of files that it reads again by itself when it is told so.
        code: whether its program is the bundle's.
        settled: whether it does nothing before home has pushed settings.
        needs: a file without which it does nothing, either; the pairing makes it.
        caged: units that get the common cage.
        ports: where it listens when it is well; an empty address is the relay's in the tunnel.
    """

    unit: str
    files: tuple[str, ...] = ()
    rereads: tuple[str, ...] = ()
    code: bool = False
    settled: bool = False
    needs: str = ""
    caged: tuple[str, ...] = ()
    ports: tuple[tuple[str, int], ...] = ()

    @property
    def starts_by_itself(self) -> bool:
        """Tell whether Debian has it started at each start of the machine, whatever we say."""
        return self.unit.startswith("systemd-")

    def file_is_in(self, names: AbstractSet[str]) -> bool:
        """Tell whether some paths have a file of it."""
        return any(name.startswith((*self.files, *self.rereads)) for name in names)


_UNITS = "/etc/systemd/system"
_LOCAL = "127.0.0.1"

SERVICES = (
    Service("systemd-journald.service", ("/etc/systemd/journald.conf.d/",)),
    Service("systemd-sysctl.service", ("/etc/sysctl.d/60-darkpipe.conf",)),
    Service("nftables.service", rereads=("/etc/nftables.conf",)),
    Service("darkpipe-peer.timer", (f"{_UNITS}/darkpipe-peer.timer",), caged=("darkpipe-peer",)),
    Service("darkpipe-resume.service", (f"{_UNITS}/darkpipe-resume.service",)),
    Service(
        "darkpipe-agent.service",
        (f"{_UNITS}/darkpipe-agent.service",),
        code=True,
        caged=("darkpipe-agent",),
        ports=(("", 2601),),
    ),
    Service(
        "darkpipe-queue.service",
        (f"{_UNITS}/darkpipe-queue.service", "/etc/sysusers.d/"),
        code=True,
        settled=True,
        needs="var/lib/darkpipe/control/home.pem",
        caged=("darkpipe-queue",),
        ports=((_LOCAL, 10026), ("", 2600)),
    ),
    Service("darkpipe-tang.socket", (f"{_UNITS}/darkpipe-tang",), caged=("darkpipe-tang@",)),
    Service("darkpipe-log.service", (f"{_UNITS}/darkpipe-log.",), code=True, caged=("darkpipe-log",)),
    Service(
        "postfix.service",
        ("/etc/postfix/", f"{_UNITS}/postfix"),
        settled=True,
        caged=("postfix", "postfix@-"),
        ports=((_LOCAL, 10024),),
    ),
    Service(
        "haproxy.service",
        (f"{_UNITS}/haproxy.service.d/",),
        ("/etc/haproxy/",),
        settled=True,
        caged=("haproxy",),
        ports=((_LOCAL, 25),),
    ),
)
"""In the order in which they are started."""
