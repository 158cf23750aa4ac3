"""A fresh Debian system in a folder: made by mmdebstrap, entered by pivot_root, thrown away."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).resolve().parent.parent.parent
USERS = ("root", "user")

_ENTER = Path(__file__).with_name("enter.sh")
_CERTIFICATES = "opt/fresh/certificates.pem"
_HANDED_ON = ("http_proxy", "https_proxy", "no_proxy", "DARKPIPE_MIRROR")


@dataclass(frozen=True)
class System:
    """A fresh system with a clone of this repository in its user's home.

    Args:
        root: its root file system.
        user: who works in it, one of USERS; `user` may call sudo without a password, `root` has no sudo.
    """

    root: Path
    user: str

    @property
    def home(self) -> str:
        """The user's home, as seen inside."""
        return "/root" if self.user == "root" else f"/home/{self.user}"

    @property
    def checkout(self) -> str:
        """The clone, as seen inside."""
        return f"{self.home}/darkpipe"

    def run(self, command: Sequence[str], stdout: IO[bytes], stderr: IO[bytes], timeout: float) -> int:
        """Run a command in the clone, without a terminal; whatever it leaves running ends with it.

        Raises:
            subprocess.TimeoutExpired: it took too long, and was ended.
        """
        namespaces = ("--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
        entry = ("unshare", *namespaces, "--", "sh", str(_ENTER), str(self.root), self.user, self.checkout)
        return subprocess.run(
            [*entry, *command],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            timeout=timeout,
            start_new_session=True,  # no controlling terminal either, which sudo would ask at
            check=False,
        ).returncode

    def inside(self, path: str) -> Path:
        """Where a path of the system lies for us."""
        return self.root / path.lstrip("/")

    def _environment(self) -> dict[str, str]:
        # As login(1) sets it: the superuser's folders are not on an ordinary user's PATH in Debian.
        path = "/usr/local/bin:/usr/bin:/bin"
        if self.user == "root":
            path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        network = {
            name: value
            for name, value in os.environ.items()
            if name.lower() in _HANDED_ON or name in _HANDED_ON or name.startswith("PIP_")
        }
        network.pop("PIP_FIND_LINKS", None)  # a folder of this computer
        return network | {
            "PATH": path,
            "HOME": self.home,
            "USER": self.user,
            "LOGNAME": self.user,
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "PIP_CERT": f"/{_CERTIFICATES}",
        }


@contextmanager
def fresh_system(folder: Path, suite: str, user: str, log: IO[bytes], *, uncommitted: bool) -> Iterator[System]:
    """Make a system in a new folder; it is removed at the end.

    Args:
        folder: must not exist.
        suite: bookworm or trixie.
        user: one of USERS.
        log: what the tools say goes there.
        uncommitted: take the files as they are rather than HEAD.

    Raises:
        subprocess.CalledProcessError: a tool failed; the log tells why.
    """
    try:
        _install(folder, suite, user, log)
        system = System(folder, user)
        _let_it_reach_the_network(system)
        _clone(system, log, uncommitted=uncommitted)
        yield system
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)


def _install(folder: Path, suite: str, user: str, log: IO[bytes]) -> None:
    # "important": what Debian's installer puts on a computer when no task is chosen, less the kernel.
    options = ["--variant=important", "--mode=root", "--format=directory"]
    if user != "root":
        options += [
            "--include=sudo",
            f'--customize-hook=chroot "$1" useradd --create-home --shell /bin/bash {user}',
            f'--customize-hook=echo "{user} ALL=(ALL) NOPASSWD: ALL" >"$1/etc/sudoers.d/{user}"',
        ]
    command = ["mmdebstrap", *options, suite, str(folder)]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)


def _let_it_reach_the_network(system: System) -> None:
    """Give the system what this computer needs to reach package registries: certificates, pip's settings, names."""
    name = socket.gethostname()
    system.inside("/etc/hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n", encoding="ascii")
    system.inside("/etc/hostname").write_text(f"{name}\n", encoding="ascii")
    target = system.inside(_CERTIFICATES)
    target.parent.mkdir()
    target.parent.chmod(0o755)
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt"
    shutil.copyfile(certificates, target)
    settings = Path("/etc/pip.conf")
    if settings.exists():
        shutil.copyfile(settings, system.inside("/etc/pip.conf"))


def _clone(system: System, log: IO[bytes], *, uncommitted: bool) -> None:
    target = system.inside(system.checkout)
    _run(["git", "clone", "--quiet", str(REPOSITORY), str(target)], log)
    if uncommitted:
        listing = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listing, stdout=subprocess.PIPE, check=True).stdout.decode().split("\0")
        for name in names:
            source = REPOSITORY / name
            if name and source.exists():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (target / name).unlink(missing_ok=True)
                shutil.copy2(source, target / name, follow_symlinks=False)
    _run(["chroot", str(system.root), "chown", "-R", f"{system.user}:", system.checkout], log)


def _run(command: Sequence[str], log: IO[bytes]) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
