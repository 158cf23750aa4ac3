"""Builds in a Debian container, for computers that are not like Debian: the same builder, called in another place.

The checkout and the files of a command are copied in and its results copied out, since the engine may run on another
computer or in a virtual machine. Nothing that a container has got outlives it but the cache, which is a volume.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.build import SOURCE, check_output, publish
from builder.digests import content_id, file_digest
from builder.engine import Container, Engine, Output, connected
from builder.errors import BuildError
from builder.eviction import SIZE_VARIABLE
from builder.parcel import Item, folder_items, pack, unpack
from builder.progress import Stages
from builder.seed import Seed
from builder.where import CONTAINER_VARIABLE, container_image
from model.document import dump_site
from model.site import Site

CHECKOUT = (
    *(
        "bootstrap",
        "builder",
        "components",
        "darkpipe",
        "firstboot",
        "home",
        "model",
        "profiles",
        "requirements.lock",
        "stack",
    ),
    *("relay", "relay-cloudinit", "web", "wheels.lock"),
)
"""What a build needs of the checkout."""

PREPARED = "darkpipe-build"
"""The repository of the images that have all that the launcher installs."""

LABEL = "darkpipe.prepared"
CACHE_VOLUME = "darkpipe-cache"
CACHE = "/cache"
"""Where a container sees the volume."""

_FOLDER = "darkpipe"
RESULTS = f"/{_FOLDER}/out"
"""Where commands in a container leave what they make."""

_PROGRAM = f"/{_FOLDER}/checkout/darkpipe"
_INPUTS = f"{_FOLDER}/in"
_WRITTEN = "site.yaml"
_FINISH = f"""
apt-get install --yes --no-install-recommends openssh-client  # for ./darkpipe verify --allowed-signers
apt-get clean
rm -rf /{_FOLDER} /var/lib/apt/lists/*
"""
_HANDED_ON = (SIZE_VARIABLE, "DARKPIPE_MIRROR")
_KEPT_LINES = 40


@dataclass(frozen=True)
class Given:
    """An argument that names a file or folder of this computer, which the command reads."""

    path: Path


Argument = str | Given


def given(**options: str | bool | Path | None) -> list[Argument]:
    """Write options of a command as its arguments.

    Args:
        options: values by the options' names; True is a flag, and what is not set is left out.
    """
    words: list[Argument] = []
    for name, value in options.items():
        if value is not None and value is not False:
            words.append(f"--{name.replace('_', '-')}")
            if value is not True:
                words.append(Given(value) if isinstance(value, Path) else value)
    return words


def build_in_container(
    site: Site | None, seed: Seed, options: Sequence[Argument], output: Path, stages: Stages
) -> Path:
    """Build an image in a container.

    Args:
        site: as its file has it; None for an image without one.
        seed: of the image.
        options: further arguments of `./darkpipe build`.
        output: the folder in which the result's folder is made.

    Returns:
        The result's folder.

    Raises:
        BuildError: something that the user can act on; nothing half-made is left.
        SystemExit: the builder in the container has failed; it has said why.
    """
    files = {**({_WRITTEN: dump_site(site)} if site else {}), **seed.files()}
    what = [f"/{_INPUTS}/{_WRITTEN}" if site else "--without-site", *(["--seed", f"/{_INPUTS}"] if files else [])]
    check_output(output)
    with _workplace(stages) as container:
        container.put("/", pack(Item(f"{_INPUTS}/{name}", text.encode(), 0o600) for name, text in files.items()))
        arguments = ["build", *what, *options, "--output", RESULTS]
        status = run_darkpipe(container, arguments, lambda _, err: _print_error(err), terminal=sys.stderr.isatty())
        if status:
            sys.exit(status)
        return _fetch_folder(container, output)


def lock_in_container(options: Sequence[Argument], stages: Stages) -> str:
    """Make a lock in a container; gives its text.

    Args:
        options: arguments of `./darkpipe lock` but the file.

    Raises:
        BuildError: something that the user can act on.
        SystemExit: the builder in the container has failed; it has said why.
    """
    name = "packages.lock"
    with _workplace(stages) as container:
        arguments = ["lock", *options, "--output", f"{RESULTS}/{name}"]
        status = run_darkpipe(container, arguments, lambda _, err: _print_error(err), terminal=sys.stderr.isatty())
        if status:
            sys.exit(status)
        with tempfile.TemporaryDirectory() as folder:
            unpack(container.fetch(f"{RESULTS}/{name}"), Path(folder))
            return Path(folder, name).read_text(encoding="utf-8")


def run_in_container(arguments: Sequence[Argument], stages: Stages) -> int:
    """Run a command that leaves nothing but words and an exit status, which is given back.

    Raises:
        BuildError: the engine does not do its part.
    """
    with _workplace(stages) as container:
        return run_darkpipe(container, arguments, _print)


def prepared_name(base: str) -> str:
    """Name the image that is made from a base image by the launcher.

    Args:
        base: the base image's id.
    """
    files = {name: file_digest(SOURCE / name) for name in ("builder/launch.sh", "requirements.lock")}
    return f"{PREPARED}:{content_id({'base': base, 'files': files, 'finish': _FINISH})[:16]}"


@contextmanager
def _workplace(stages: Stages) -> Iterator[Container]:
    """Give a container with checkout and cache."""
    with connected() as engine:
        image = _prepared_image(engine, stages)
        with engine.container(image, {CACHE_VOLUME: CACHE}) as container:
            put_checkout(container)
            yield container


def _prepared_image(engine: Engine, stages: Stages) -> str:
    wanted = container_image()
    base = engine.find_image(wanted)
    if base is None:
        with stages.stage(f"Fetch the image {wanted}"):
            base = engine.pull_image(wanted)
    name = prepared_name(base)
    if engine.find_image(name) is None:
        with (
            stages.stage("Prepare a container", f"from {wanted}, once") as advance,
            engine.container(base) as container,
        ):
            put_checkout(container)
            last: deque[str] = deque(maxlen=_KEPT_LINES)

            def follow(out: bytes, err: bytes) -> None:
                for line in (out + err).decode(errors="replace").splitlines():
                    last.append(line)
                    advance(0, line)

            status = run_darkpipe(container, ["--version"], follow)
            if status or container.run(["sh", "-euc", _FINISH], follow):
                shown = "\n".join(last)
                raise BuildError(
                    f"the image {wanted} cannot be prepared for builds:\n\n{shown}",
                    "is it one of Debian 13, and do containers reach Debian's archive and the Python libraries?",
                )
            container.commit(name, {LABEL: "true"})
    return name


def put_checkout(container: Container) -> None:
    """Give a container what a build needs of our checkout."""
    names = (name for name in CHECKOUT if (SOURCE / name).exists())
    items = (item for name in names for item in folder_items(SOURCE / name, f"{_FOLDER}/checkout/{name}"))
    folders = (_FOLDER, f"{_FOLDER}/checkout", _INPUTS, RESULTS.lstrip("/"))
    container.put("/", pack([*(Item(name, None, 0o700) for name in folders), *items]))


def run_darkpipe(container: Container, arguments: Sequence[Argument], output: Output, *, terminal: bool = False) -> int:
    """Run `darkpipe` in a container that has our checkout; gives its exit status."""
    words = []
    for number, argument in enumerate(arguments):
        if isinstance(argument, Given):
            path = argument.path.resolve()
            parent = f"{_INPUTS}/{number}"
            _put_given(container, path, parent)
            words.append(f"/{parent}/{path.name}")
        else:
            words.append(argument)
    environment = {name: value for name in _HANDED_ON if (value := os.environ.get(name))}
    environment |= {"DARKPIPE_CACHE": CACHE, CONTAINER_VARIABLE: "never"}
    return container.run(
        [_PROGRAM, "--yes", *words], output, folder=RESULTS, environment=environment, terminal=terminal
    )


def _put_given(container: Container, path: Path, parent: str) -> None:
    if not path.exists():
        raise BuildError(f"there is no {path}")
    try:
        container.put("/", pack([Item(parent, None, 0o700), *folder_items(path, f"{parent}/{path.name}")]))
    except OSError as error:
        raise BuildError(f"{path} cannot be read: {error.strerror}") from error


def _fetch_folder(container: Container, output: Path) -> Path:
    """Take over the one result; it appears whole, as that of a build on this computer."""
    with tempfile.TemporaryDirectory(prefix=".darkpipe-", dir=output) as folder:
        unpack(container.fetch(f"{RESULTS}/."), Path(folder))
        (result,) = Path(folder).iterdir()
        return publish(result, output)


def _print(out: bytes, err: bytes) -> None:
    for stream, data in ((sys.stdout, out), (sys.stderr, err)):
        stream.buffer.write(data)
        stream.flush()


def _print_error(err: bytes) -> None:
    sys.stderr.buffer.write(err)
    sys.stderr.flush()
