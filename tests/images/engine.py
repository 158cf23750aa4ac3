"""A container engine of our own, and the image of Debian 13 that it has; there is no registry."""

from __future__ import annotations

import configparser
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker

from builder.cache import Cache
from builder.container import CACHE_VOLUME
from builder.workshop import Stage

IMAGE = "darkpipe-test/trixie"
_BRIDGE = "darkpipe-test0"
_NETWORK = "10.231.77.0/24"
_GATEWAY = "10.231.77.1/24"
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_CERTIFICATES = "opt/certificates.pem"


@dataclass(frozen=True)
class OwnEngine:
    """A running dockerd.

    Args:
        folder: holds its socket and all that it keeps.
    """

    folder: Path

    @property
    def host(self) -> str:
        """The value of DOCKER_HOST."""
        return f"unix://{self.folder}/docker.sock"

    @property
    def data(self) -> Path:
        """Its images, containers and volumes."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "dockerd.log"

    @contextmanager
    def api(self) -> Iterator[docker.APIClient]:
        """Talk to it."""
        api = docker.APIClient(base_url=self.host, timeout=300)
        try:
            yield api
        finally:
            api.close()

    def containers(self) -> list[str]:
        """The states of all its containers."""
        with self.api() as api:
            return [str(row["State"]) for row in api.containers(all=True)]


@contextmanager
def own_engine() -> Iterator[OwnEngine]:
    """Start dockerd with a bridge of its own, apart from an engine that the computer may have; all goes at the end."""
    with ExitStack() as stack:
        # A file system on which overlayfs works, which /tmp need not be.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="darkpipe-engine-", dir="/var/tmp")))
        stack.enter_context(_bridge())
        engine = OwnEngine(folder)
        stack.enter_context(_dockerd(engine))
        yield engine


@contextmanager
def _dockerd(engine: OwnEngine) -> Iterator[None]:
    options = {
        "data-root": engine.data,
        "exec-root": engine.folder / "exec",
        "pidfile": engine.folder / "pid",
        "host": engine.host,
        "bridge": _BRIDGE,
        "containerd-namespace": "darkpipe-test",
        "containerd-plugins-namespace": "darkpipe-test-plugins",
    }
    command = [
        "dockerd",
        "--iptables=false",
        "--ip6tables=false",
        *(f"--{name}={text}" for name, text in options.items()),
    ]
    with (
        engine.log.open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0) as process,
    ):
        try:
            _wait(engine, process)
            yield
        finally:
            process.terminate()
            process.wait(timeout=_STOP_SECONDS)


def _wait(engine: OwnEngine, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as attempt:
                attempt.connect(engine.host.removeprefix("unix://"))
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"dockerd does not answer:\n{engine.log.read_text()[-3000:]}") from None
            time.sleep(0.1)


@contextmanager
def _bridge() -> Iterator[None]:
    """A network behind this computer for containers, by rules that are only for it."""
    forward = Path("/proc/sys/net/ipv4/ip_forward")
    before = forward.read_text()
    rules = [
        ["-t", "nat", "POSTROUTING", "-s", _NETWORK, "!", "-o", _BRIDGE, "-j", "MASQUERADE"],
        ["-t", "filter", "FORWARD", "-i", _BRIDGE, "-j", "ACCEPT"],
        ["-t", "filter", "FORWARD", "-o", _BRIDGE, "-j", "ACCEPT"],
    ]
    with ExitStack() as stack:
        _run("ip", "link", "add", _BRIDGE, "type", "bridge")
        stack.callback(_run, "ip", "link", "delete", _BRIDGE)
        _run("ip", "address", "add", _GATEWAY, "dev", _BRIDGE)
        _run("ip", "link", "set", _BRIDGE, "up")
        forward.write_text("1\n")
        stack.callback(forward.write_text, before)
        for _, table, *rule in rules:
            _run("iptables", "--wait", "-t", table, "-I", *rule)
            stack.callback(_run, "iptables", "--wait", "-t", table, "-D", *rule)
        yield


def import_image(engine: OwnEngine) -> None:
    """Make what `debian:trixie` is, the essential packages and apt, and let it reach the registries as we do."""
    with tempfile.TemporaryDirectory(dir=engine.folder) as scratch:
        root, tar = Path(scratch, "root"), Path(scratch, "root.tar")
        _run("mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", "--format=directory", "trixie", str(root))
        _let_it_reach_the_network(root)
        _run("tar", "-C", str(root), "--exclude=./dev/*", "-cf", str(tar), ".")
        with engine.api() as api:
            api.import_image_from_file(str(tar), repository=IMAGE, tag="latest")


def lend_cache(engine: OwnEngine) -> None:
    """Put the tools, the package layer and the wheels of our cache into the volume that builds will use."""
    with engine.api() as api:
        api.create_volume(CACHE_VOLUME)
        volume = Path(api.inspect_volume(CACHE_VOLUME)["Mountpoint"])
    for name in (Stage.TOOLS, Stage.PACKAGES, "archive", "wheels"):
        _run("cp", "-a", str(Cache.default().root / name), str(volume / name))


def _let_it_reach_the_network(root: Path) -> None:
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt"
    (root / _CERTIFICATES).parent.mkdir(exist_ok=True)
    shutil.copyfile(certificates, root / _CERTIFICATES)
    settings = configparser.RawConfigParser()
    settings.read("/etc/pip.conf")
    settings.read_dict({"global": _pip_variables() | {"cert": f"/{_CERTIFICATES}"}})
    with (root / "etc/pip.conf").open("w", encoding="utf-8") as file:
        settings.write(file)


def _pip_variables() -> dict[str, str]:
    """pip's settings from our environment; a folder of this computer is no use in a container."""
    names = {name for name in os.environ if name.startswith("PIP_") and name not in {"PIP_FIND_LINKS", "PIP_CERT"}}
    return {name.removeprefix("PIP_").lower().replace("_", "-"): os.environ[name] for name in names}


def _run(*command: str) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
