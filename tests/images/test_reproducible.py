"""The same image from another path, by another user, with another umask, time zone, locale, host name, core count.

Tools and package layer are shared, all behind them is made anew; `./dev test reproducible` is for the package layer.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.bench import SITE, Bench, new_bench, sums

_USER = 54321
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
_RUN = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module('builder', run_name='__main__')"


@pytest.fixture
def bench(image: Path, tmp_path: Path) -> Iterator[Bench]:
    assert image.is_dir()
    with new_bench(tmp_path) as made:
        yield made


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can reach, and that is theirs."""
    made = subprocess.run(["mktemp", "-d", "-p", "/var/tmp"], stdout=subprocess.PIPE, text=True, check=True).stdout
    folder = Path(made.strip())
    folder.chmod(0o755)
    yield folder
    subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("container", [False, True], ids=["ordinary user", "root of a container"])
def test_conditions_do_not_matter(bench: Bench, public: Path, container: bool) -> None:
    ours, made = bench.build("ours")
    assert "Project layer" in made
    theirs = _build_elsewhere(bench, public, container)
    if sums(ours) != sums(theirs):
        pytest.fail(bench.darkpipe("diff", str(ours), str(theirs)))


def _build_elsewhere(bench: Bench, public: Path, container: bool) -> Path:
    """Build as a user that is there for this build only, who may not even see our files."""
    checkout = public / "a checkout, elsewhere"
    subprocess.run(["cp", "-R", bench.checkout, checkout], check=True)
    subprocess.run(["find", checkout, "-exec", "touch", "--no-dereference", "--date=2001-02-03", "{}", "+"], check=True)
    for folder in (bench.cache, bench.cache / "archive"):
        os.chown(folder, _USER, _USER)
    for kind in ("project", "tar", "root", "boot", "image", "work", "locks"):
        subprocess.run(["rm", "-rf", bench.cache / kind], check=True)
    for name, line in {
        "passwd": f"root:x:0:0::/root:/bin/sh\nother:x:{_USER}:{_USER}::/nowhere:/bin/sh\n",
        "group": f"root:x:0:\nother:x:{_USER}:\n",
        "subuid": f"other:{_FIRST_ID}:65536\n",
        "subgid": f"other:{_FIRST_ID}:65536\n",
    }.items():
        (public / name).write_text(line)
    (public / "site.yaml").write_text(SITE)
    for name in ("venv", "cache", "out", "home"):
        (public / name).mkdir()
    subprocess.run(["chown", "-R", f"{_USER}:{_USER}", public], check=True)
    subprocess.run(["chmod", "-R", "go=", checkout], check=True)
    inside = ["unshare", "--user", "--map-root-user", "--map-auto", "--mount", "--ipc", "--"] if container else []
    outside = ["unshare", "--mount", "--uts", "--propagation", "private", "--", "sh", "-euc", _ENTER, "enter"]
    program = [public / "venv/bin/python", "-I", "-c", _RUN, checkout]
    built = subprocess.run(
        [*outside, *inside, *map(str, program), "build", "site.yaml", "--output", "out"],
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin" + (":/usr/sbin:/sbin" if container else ""),
            "PUBLIC": str(public),
            "VENV": sys.prefix,
            "CACHE": str(bench.cache),
            "ID": str(_USER),
            "HOME": str(public / "home"),
            "DARKPIPE_CACHE": str(public / "cache"),
            "LC_ALL": "tr_TR.UTF-8",
            "TZ": "Pacific/Kiritimati",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert re.search(r"^Package layer: unchanged$", built.stderr, re.MULTILINE), built.stderr
    assert re.search(r"^Project layer: [0-9.]+ s$", built.stderr, re.MULTILINE), built.stderr
    return public / built.stdout.splitlines()[-1]
