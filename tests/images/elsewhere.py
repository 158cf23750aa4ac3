"""Running our program as another user of another computer, as far as one computer can be two."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

USER = 54321
_FIRST_ID = 700_000
_ENTER = r"""
hostname other-host
for name in passwd group subuid subgid; do mount --bind "$PUBLIC/$name" "/etc/$name"; done
mount --bind "$VENV" "$PUBLIC/venv"
mount --bind "$CACHE" "$PUBLIC/cache"
umask 077
cd "$PUBLIC"
# Without a group of root's, without its capabilities, on one processor.
exec taskset --cpu-list 0 setpriv --reuid="$ID" --regid="$ID" --clear-groups --bounding-set=+all -- "$@"
"""
_RUN = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module(sys.argv.pop(1), run_name='__main__')"


@contextmanager
def public_folder() -> Iterator[Path]:
    """Give a folder that other users can reach."""
    made = subprocess.run(["mktemp", "-d", "-p", "/var/tmp"], stdout=subprocess.PIPE, text=True, check=True).stdout
    folder = Path(made.strip())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)


def run_as_other_user(
    public: Path, cache: Path, checkout: Path, words: Sequence[str], *, container: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a module of a checkout as a user who is there for this run only, and who may not even see our files.

    Args:
        public: a folder of `public_folder`; it becomes the user's, is the current one, and `cache` in it the cache.
        cache: the folder that is shown as the cache.
        checkout: a copy below `public`.
        words: the module's name and its arguments.
        container: whether the user is root of a container.
    """
    for name, line in {
        "passwd": f"root:x:0:0::/root:/bin/sh\nother:x:{USER}:{USER}::/nowhere:/bin/sh\n",
        "group": f"root:x:0:\nother:x:{USER}:\n",
        "subuid": f"other:{_FIRST_ID}:65536\n",
        "subgid": f"other:{_FIRST_ID}:65536\n",
    }.items():
        (public / name).write_text(line)
    for name in ("venv", "cache", "out", "home"):
        (public / name).mkdir()
    subprocess.run(["chown", "-R", f"{USER}:{USER}", public], check=True)
    subprocess.run(["chmod", "-R", "go=", checkout], check=True)
    inside = ["unshare", "--user", "--map-root-user", "--map-auto", "--mount", "--ipc", "--"] if container else []
    outside = ["unshare", "--mount", "--uts", "--propagation", "private", "--", "sh", "-euc", _ENTER, "enter"]
    program = [str(public / "venv/bin/python"), "-I", "-c", _RUN, str(checkout), *words]
    return subprocess.run(
        [*outside, *inside, *program],
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin" + (":/usr/sbin:/sbin" if container else ""),
            "PUBLIC": str(public),
            "VENV": sys.prefix,
            "CACHE": str(cache),
            "ID": str(USER),
            "HOME": str(public / "home"),
            "DARKPIPE_CACHE": str(public / "cache"),
            # What lies there already is another user's, who alone can evict it.
            "DARKPIPE_CACHE_SIZE": "100G",
            "LC_ALL": "tr_TR.UTF-8",
            "TZ": "Pacific/Kiritimati",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
