"""`./dev test reproducible`: what packages make up at installation is found by a comparison, not by a list."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from builder.archive import Archive
from builder.build import SOURCE, open_workshop
from builder.cache import Cache
from builder.digests import file_digest
from builder.errors import BuildError
from builder.packages import PackageLayer, package_layer
from builder.profile import load_profile
from builder.progress import Stages
from builder.sandbox import Sandbox, remove_tree
from builder.workshop import Workshop
from stack.component import Component, load_components

_PLANTED = "./etc/planted"
_HOOK = "\nhead -c 16 /dev/urandom >/etc/planted\n"
_SECOND = "--second-run"


@click.command()
@click.option("--planted", is_flag=True, help="Let a package hook write a random file: exactly that must be found.")
@click.option(_SECOND, "second", hidden=True, type=click.Path(path_type=Path))
def reproducible(planted: bool, second: Path | None) -> None:
    """Install the package layer twice, under different conditions, and compare every bit.

    The second time has another host name, umask, time zone, locale, process ids and, with two processors, only one of
    them, and is some minutes later. Needs root and a few minutes. Two systems and two users:
    `./dev test fresh --step build`.

    \b
    Examples:
      ./dev test reproducible
      ./dev test reproducible --planted
    """
    if second:
        layer = _install(Cache(second, remove_tree), planted=planted)
        click.echo(layer.folder)
        return
    if os.geteuid() != 0:
        raise click.ClickException("this needs root: it changes the host name of a namespace")
    parent = Cache.default()
    with parent.workspace() as work:
        folders = []
        for name in ("one", "two"):
            (work / name).mkdir()
        folders.append(_install(Cache(work / "one", remove_tree), planted=planted).folder)
        folders.append(_install_elsewhere(work / "two", planted=planted))
        differences = differing_members(*folders)
    for line in differences:
        click.echo(line)
    expected = [f"{_PLANTED}: content"] if planted else []
    click.echo("as expected" if differences == expected else "NOT as expected")
    sys.exit(0 if differences == expected else 1)


def _install(cache: Cache, *, planted: bool) -> PackageLayer:
    ready = open_workshop(Cache(Cache.default().root, remove_tree), Archive.from_environment(), Stages())
    shop = Workshop(Sandbox(ready.tools.tree, cache.root), cache, ready.archive, ready.stages)
    with plant(load_components(SOURCE / "components"), planted) as wanted:
        try:
            return package_layer(shop, load_profile(SOURCE / "profiles/x64"), wanted)
        except BuildError as error:
            raise click.ClickException(str(error)) from error


@contextmanager
def plant(components: Sequence[Component], planted: bool) -> Iterator[Sequence[Component]]:
    """Give components of which one, if that is wanted, writes a random file when it is installed: `/etc/planted`."""
    if not planted:
        yield components
        return
    first = next(component for component in components if component.package_hook.is_file())
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cp", "-R", f"{first.folder}/.", folder], check=True)
        with Path(folder, first.package_hook.name).open("a") as hook:
            hook.write(_HOOK)
        changed = first.model_copy(update={"folder": Path(folder)})
        yield [changed if component is first else component for component in components]


def _install_elsewhere(cache: Path, *, planted: bool) -> Path:
    again = [sys.executable, "-m", "tests.reproducible.command", _SECOND, str(cache), *(["--planted"] * planted)]
    script = 'hostname elsewhere; umask 077; exec taskset --cpu-list 0 "$@"'
    done = subprocess.run(
        ["unshare", "--uts", "--", "sh", "-euc", script, "again", *again],
        cwd=SOURCE,
        env={**os.environ, "TZ": "Pacific/Kiritimati", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise click.ClickException("the second installation failed; its messages are above")
    return Path(done.stdout.splitlines()[-1])


def differing_members(first: Path, second: Path) -> list[str]:
    """Name what differs between two package layers: members of the tar by property, and the other files."""
    lines = []
    for path in sorted(path for path in first.rglob("*") if path.is_file()):
        other = second / path.relative_to(first)
        if path.name in {"root.tar", "inputs.json", "digest"}:
            continue
        if not other.is_file() or file_digest(path) != file_digest(other):
            lines.append(f"{path.relative_to(first)}: content")
    with tarfile.open(first / "root.tar") as one, tarfile.open(second / "root.tar") as two:
        ours, theirs = ({member.name: member for member in tar} for tar in (one, two))
        for name in sorted({*ours, *theirs}):
            if name not in ours or name not in theirs:
                lines.append(f"{name}: only once")
                continue
            a, b = ours[name].get_info(), theirs[name].get_info()
            lines += [f"{name}: {key}" for key in a if a[key] != b[key] and key != "chksum"]
            if ours[name].pax_headers != theirs[name].pax_headers:
                lines.append(f"{name}: extended attributes")
            if ours[name].isfile() and _content(one, ours[name]) != _content(two, theirs[name]):
                lines.append(f"{name}: content")
    if not lines and file_digest(first / "root.tar") != file_digest(second / "root.tar"):
        lines.append("root.tar: order or padding")
    return lines


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # it is a regular file
    with file:
        return file.read()


if __name__ == "__main__":
    reproducible()
