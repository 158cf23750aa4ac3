"""A Postfix in a network namespace: that of a system of ours, with settings of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.network.net import Namespace

POSTFIX_MASTER = """\
{doors}
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
"""master.cf; `doors` are the services that listen."""


@contextmanager
def running_postfix(
    place: Namespace, settings: Path, name: str, root: Path, scratch: Path, log: Path, disk: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the Postfix of a system with settings of its own, in a copy that is changed instead.

    Args:
        settings: folder with its main.cf and master.cf.
        name: of the host; it gets a certificate in /etc/postfix/<name>.pem.
        root: the system.
        scratch: folder on a disk for what is changed.
        log: file for what it logs.
        disk: whether its queue lies on that disk, too, or in memory.
    """
    layers = {layer: scratch / layer for layer in ("upper", "work", "system")}
    for folder in layers.values():
        folder.mkdir(parents=True)
    system = layers["system"]
    where = f"lowerdir={root},upperdir={layers['upper']},workdir={layers['work']}"
    place.run("mount", "-t", "overlay", "overlay", "-o", where, str(system))
    for kind, point in (("proc", "proc"), ("tmpfs", "run"), ("tmpfs", "tmp")):
        place.run("mount", "-t", kind, "none", str(system / point))
    place.run("mount", "--rbind", "/dev", str(system / "dev"))
    if disk:
        (scratch / "var").mkdir()
        place.run("mount", "--bind", str(scratch / "var"), str(system / "var"))
    else:
        place.run("mount", "-t", "tmpfs", "none", str(system / "var"))
    inside = ("chroot", str(system))
    # In the root of a home, a link leads to its own settings, and Debian's files about Postfix itself lie elsewhere.
    place.run("rm", str(system / "etc/postfix"))
    place.run("cp", "-r", str(system / "usr/share/postfix/meta"), str(system / "etc/postfix"))
    place.run("cp", "-r", f"{settings}/.", str(system / "etc/postfix"))
    place.run(*inside, "mkdir", "-p", "/var/spool/postfix", "/var/lib/postfix")
    place.run(*inside, "chown", "postfix:", "/var/lib/postfix")
    _make_certificate(place, system / f"etc/postfix/{name}.pem", name)
    # Otherwise it logs to a syslog that is not there.
    place.run(*inside, "sh", "-c", "echo maillog_file = /dev/stdout >>/etc/postfix/main.cf")
    with (
        log.open("wb") as output,
        subprocess.Popen(
            place.command(*inside, "postfix", "start-fg"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            # Its master is in a session of its own, and the script before it passes no signal on.
            place.run(*inside, "postfix", "stop", check=False)
            process.terminate()
            process.wait()


def _make_certificate(place: Namespace, path: Path, name: str) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    place.run("openssl", "req", "-x509", *key, "-days", "30", *names, "-keyout", str(path), "-out", f"{path}.crt")
    place.run("sh", "-c", f"cat {path}.crt >>{path}")
