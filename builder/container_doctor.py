"""Judging whether a computer that is not like Debian can build: its container engine, and what a container can do."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator

from builder.container import CACHE, CACHE_VOLUME, RESULTS, prepared_name, put_checkout, run_darkpipe
from builder.doctor import Finding, Verdict
from builder.engine import Container, Engine, connected
from builder.errors import BuildError
from builder.host import ENTER_TREE
from builder.sandbox import NAMESPACES
from builder.where import IMAGE_VARIABLE, container_image, distribution

_OURS = ("system", "virtual machines")
"""What the doctor in the container says about things that are not the container's."""


def examine_engine() -> Iterator[Finding]:
    """Judge in the order in which a build would meet it; nothing is fetched, and nothing left in the engine."""
    name = (distribution() or "this system").split()[0]
    yield Finding("system", Verdict.FINE, f"{name} on {platform.machine()}; builds run in a container")
    try:
        with connected() as engine:
            yield Finding("container engine", Verdict.FINE, f"{engine.name} answers")
            yield from _image(engine)
    except BuildError as error:
        yield Finding("container engine", Verdict.PROBLEM, str(error), error.hint)


def _image(engine: Engine) -> Iterator[Finding]:
    wanted = container_image()
    base = engine.find_image(wanted)
    if base is None:
        remedy = f"the first build lets it fetch the image; without a network, name one that is there: {IMAGE_VARIABLE}"
        yield Finding("container image", Verdict.WARNING, f"the engine does not have {wanted}", remedy)
        return
    prepared = engine.find_image(prepared_name(base))
    found = f"{wanted} is there" + ("" if prepared else "; the first build installs in it what it needs")
    yield Finding("container image", Verdict.FINE, found)
    if prepared:
        with engine.container(prepared, {CACHE_VOLUME: CACHE}) as container:
            yield from _inside(container)
    else:
        with engine.container(base) as container:
            yield _trial(container)


def _inside(container: Container) -> Iterator[Finding]:
    """Ask the doctor in a container as builds get it."""
    said, complaints = bytearray(), bytearray()

    def listen(out: bytes, err: bytes) -> None:
        said.extend(out)
        complaints.extend(err)

    put_checkout(container)
    run_darkpipe(container, ["doctor", "--json", "--output", RESULTS], listen)
    try:
        findings = json.loads(said)
    except ValueError as error:
        raise BuildError(f"no doctor in the container: {complaints.decode(errors='replace')}") from error
    for finding in findings:
        if finding["subject"] not in _OURS:
            yield Finding(finding["subject"], Verdict(finding["verdict"]), finding["found"], finding["remedy"])


def _trial(container: Container) -> Finding:
    said = bytearray()
    status = container.run([*NAMESPACES, "--", "sh", "-c", ENTER_TREE], lambda out, err: said.extend(out + err))
    if status == 0:
        return Finding("private namespaces", Verdict.FINE, "can be made in a container")
    last = (said.decode(errors="replace").strip().splitlines() or [f"exit status {status}"])[-1]
    remedy = "the engine must let its containers have the capability SYS_ADMIN (docker run --cap-add SYS_ADMIN)"
    return Finding("private namespaces", Verdict.PROBLEM, f"cannot be made in a container: {last}", remedy)
