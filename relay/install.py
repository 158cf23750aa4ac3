"""Makes a server the relay that its bundle describes: packages, users, files, services. To do it again is harmless.

run relay.install apply    files and services as bundle and settings say
run relay.install files    the files alone, at a start before any service
run relay.install health   exit status 1, and a line about it, when the relay is not well within a minute
run relay.install first    apply and health, for a server that has no bundle yet
"""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import jinja2

from model.bundle import MANIFEST, SYSTEM, WHEELS, BundleState, BundleStatus, Manifest
from model.control import ControlError, QueueSettings
from model.unlock import TANG_PORT, UnlockKeys
from relay import files, pairing_file
from relay.health import wait_until_well
from relay.keeper import Folders
from relay.machine import QUEUE_USER, RECORD, SETTINGS, Failure, System
from relay.render import RelayFile, render_files
from relay.services import SERVICES, Service
from relay.tunnel_file import INTERFACE, Tunnel, find_tunnel
from relay.unlock import PACKAGE, UnlockFolder

_CAGE = PurePosixPath("/etc/darkpipe/cage.conf")
_UNITS = PurePosixPath("/etc/systemd/system")
_SSH = Path("etc/darkpipe/ssh")
"""Is there on a server whose user-data let somebody log in."""

_WRITTEN = Path("var/lib/darkpipe/files.json")
"""Paths of the files that are ours, so that those that no bundle has any more go."""

_APPLIED = Path("var/lib/darkpipe/services.json")
"""What each service was last started with."""

_LOCK = Path("run/darkpipe-install.lock")
"""Held by whoever applies: settings, keys and software may come at the same time."""

_HTTPS = 443

_TANG = "darkpipe-tang.socket"
_TANG_CONNECTIONS = "darkpipe-tang@*.service"
_TANG_FILES = str(_UNITS / "darkpipe-tang")

_SERVING = ("/etc/haproxy/", "/etc/postfix/")
"""Where files lie that wait for home's settings."""


@dataclass(frozen=True)
class Bundle:
    """An unpacked bundle."""

    folder: Path

    @property
    def identifier(self) -> str:
        """Its id."""
        return self.folder.name

    @property
    def manifest(self) -> Manifest:
        """What it says about itself.

        Raises:
            Failure: it is damaged.
        """
        try:
            return Manifest.read((self.folder / MANIFEST).read_bytes())
        except (OSError, ControlError) as error:
            raise Failure(f"{MANIFEST} of the bundle cannot be read: {error}") from None


def main(arguments: Sequence[str]) -> int:
    """Do one of the four; exit status 1 after a line about what is wrong."""
    system, bundle = System(), Bundle(Path(__file__).resolve().parent.parent)
    try:
        match list(arguments):
            case ["apply"]:
                apply(system, bundle)
            case ["files"]:
                write_files(system, bundle)
            case ["health"]:
                _check(system)
            case ["first"]:
                apply(system, bundle)
                _check(system)
                status = BundleStatus(bundle.identifier, bundle.manifest.version, BundleState.INSTALLED)
                files.replace(system.root / RECORD, status.to_json(), 0o644)
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except (Failure, OSError, ValueError, ControlError, jinja2.TemplateError, zipfile.BadZipFile) as error:
        print(f"darkpipe-install: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def apply(system: System, bundle: Bundle) -> None:
    """Bring the server to what bundle and settings say, and start again what that concerns; waits for another one.

    Raises:
        Failure: a program of Debian has refused its part; what was done before it stays, and may be repeated.
    """
    with _alone(system):
        _apply(system, bundle)


@contextmanager
def _alone(system: System) -> Iterator[None]:
    lock = system.root / _LOCK
    lock.parent.mkdir(exist_ok=True)
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _apply(system: System, bundle: Bundle) -> None:
    manifest = bundle.manifest
    unlock = UnlockFolder(system.root).read()
    if unlock is None and (system.root / str(_UNITS / _TANG).lstrip("/")).exists():
        system.run("systemctl", "disable", "--quiet", "--now", _TANG)
        system.run("systemctl", "stop", _TANG_CONNECTIONS)
    if missing := system.missing_packages((*manifest.packages, *([PACKAGE] if unlock else []))):
        if PACKAGE in missing:
            system.run("systemctl", "mask", "--quiet", "tangd.socket")  # Debian's, which listens everywhere
        system.try_run("dpkg", "--force-confold", "--configure", "-a")  # apt refuses what a cut has left half
        system.run("apt-get", "update")
        system.run("apt-get", "install", "--yes", "--fix-broken", "--no-install-recommends", *missing)
    _unpack_libraries(bundle, manifest)
    users = bundle.folder / SYSTEM / "etc/sysusers.d/darkpipe.conf"
    if users.is_file():
        system.run("systemd-sysusers", str(users))
    written = write_files(system, bundle)
    if (system.root / "etc/tmpfiles.d/darkpipe.conf").is_file():
        system.run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/darkpipe.conf")
    _start(system, bundle, written)


def write_files(system: System, bundle: Bundle) -> tuple[RelayFile, ...]:
    """Write the relay's files where they differ, each as a whole, and remove those of another bundle; gives all."""
    settings = read_settings(system)
    wanted = wanted_files(system, bundle, settings)
    record = system.root / _WRITTEN
    before = json.loads(record.read_text(encoding="utf-8")) if record.exists() else []
    names = [str(file.path) for file in wanted]
    # Named before they are written: a cut in between must not make somebody else's file of one.
    files.replace(record, json.dumps(sorted({*before, *names})).encode(), 0o644)
    for file in wanted:
        _remove_leftovers(system.root / file.path.relative_to("/"))
    differing = [file for file in wanted if not _is_there(system.root / file.path.relative_to("/"), file)]
    _forget_started(system, [str(file.path) for file in differing])
    for file in differing:
        _write(system.root / file.path.relative_to("/"), file)
    for name in set(before) - set(names):
        for left in (name, f"{name}{files.PARTIAL}"):
            (system.root / left.lstrip("/")).unlink(missing_ok=True)
    if settings:
        _make_certificate(system, settings.name)
    files.replace(record, json.dumps(names).encode(), 0o644)
    return wanted


def wanted_files(system: System, bundle: Bundle, settings: QueueSettings | None) -> tuple[RelayFile, ...]:
    """Render the files that the relay shall have; those that wait for settings are left out without them."""
    folder = bundle.folder / SYSTEM
    tunnel = _tunnel(system)
    shown = settings or QueueSettings(0, "relay.invalid", (), "tempfail", (), 0)
    unlock = UnlockFolder(system.root).read()
    ssh = (system.root / _SSH).exists()
    without = () if unlock else (_TANG_FILES,)
    rendered = render_files([folder], context(shown, tunnel, ssh, system.user(QUEUE_USER), unlock), without)
    kept = [file for file in rendered if settings or not str(file.path).startswith(_SERVING)]
    cage = next(file.text for file in kept if file.path == _CAGE)
    names = {str(file.path) for file in kept}
    caged = sorted({unit for service in SERVICES if service.file_is_in(names) for unit in service.caged})
    kept += [RelayFile(_UNITS / f"{unit}.service.d/50-cage.conf", cage, 0o644) for unit in caged]
    return tuple(kept)


def context(
    settings: QueueSettings, tunnel: Tunnel, ssh: bool, queue_user: int | None, unlock: UnlockKeys | None = None
) -> dict[str, object]:
    """Give what the templates may use."""
    return {
        "name": settings.name,
        "domains": settings.domains,
        "settings": settings,
        "tunnel": tunnel,
        "mtls": tunnel.mtls,
        "interface": INTERFACE,
        "ssh": ssh,
        "bare": settings.version == 0,
        "queue_user": queue_user,
        "unlock": unlock,
        "tang_port": TANG_PORT,
        "https_ports": https_ports(settings),
    }


def https_ports(settings: QueueSettings) -> list[int]:
    """Give the ports that the queue calls others at by HTTPS: a store, and who is told that home is away."""
    urls = (settings.s3.get("endpoint"), settings.alarm.get("webhook"))
    return sorted({_HTTPS, *(urlsplit(str(url)).port or _HTTPS for url in urls if url)})


def read_settings(system: System) -> QueueSettings | None:
    """Read what home has said; None before it has.

    Raises:
        ControlError: the file is damaged.
    """
    path = system.root / SETTINGS
    return QueueSettings.read(path.read_bytes()) if path.exists() else None


def _tunnel(system: System) -> Tunnel:
    """Read the tunnel, with the addresses that hold.

    In its file cloud-init may have written the bootstrap's once more, and the agent not yet those that came after them.
    """
    tunnel = find_tunnel(system.root)
    try:
        kept = pairing_file.read(Folders(system.root / "var/lib/darkpipe").state)
    except pairing_file.DamagedError:  # the agent says so
        kept = None
    if kept is None or not kept.paired:
        return tunnel
    home4, relay4 = IPv4Address(kept.base.home4), IPv4Address(kept.base.relay4)
    return replace(tunnel, addresses=replace(tunnel.addresses, home4=home4, relay4=relay4))


def _remove_leftovers(path: Path) -> None:
    path.with_name(f"{path.name}{files.PARTIAL}").unlink(missing_ok=True)  # a cut's
    if path.is_symlink():  # darkpipe-setup's
        path.unlink()


def _is_there(path: Path, file: RelayFile) -> bool:
    return path.is_file() and path.read_bytes() == file.text.encode() and path.stat().st_mode & 0o777 == file.mode


def _write(path: Path, file: RelayFile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, file.text.encode(), file.mode)


def _read_applied(system: System) -> dict[str, list[str]]:
    path = system.root / _APPLIED
    applied: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return applied


def _forget_started(system: System, names: Sequence[str]) -> None:
    """Note, before some files are written, that whoever reads them goes by others.

    What they are to say may be nothing new: cloud-init that runs once more puts a firewall in force that is not ours.
    """
    applied = _read_applied(system)
    left = dict(applied)
    for service in SERVICES:
        if known := applied.get(service.unit):
            left[service.unit] = [
                "" if any(name.startswith(beginnings) for name in names) else digest
                for digest, beginnings in zip(known, (service.files, service.rereads), strict=True)
            ]
    if left != applied:
        files.replace(system.root / _APPLIED, json.dumps(left).encode(), 0o644)


def _make_certificate(system: System, name: str) -> None:
    """Make the certificate by which Postfix offers STARTTLS while home is away."""
    pem = system.root / f"etc/postfix/{name}.pem"
    if pem.exists():
        return
    key, certificate = pem.with_suffix(".key"), pem.with_suffix(".crt")
    try:
        system.run(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "3650", "-subj", f"/CN={name[:64]}"),  # ub-common-name (RFC 5280, appendix A.1)
            *("-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(certificate)),
        )
        files.replace(pem, key.read_bytes() + certificate.read_bytes())
    finally:
        key.unlink(missing_ok=True)
        certificate.unlink(missing_ok=True)


def _unpack_libraries(bundle: Bundle, manifest: Manifest) -> None:
    target, partial = bundle.folder / "lib", bundle.folder / ".lib.new"
    if target.is_dir():
        return
    if not manifest.serves(platform.machine()):
        raise Failure(f"the bundle has no libraries for {platform.machine()}, which this server is")
    shutil.rmtree(partial, ignore_errors=True)
    for name, machine in manifest.wheels.items():
        if machine == platform.machine():
            with zipfile.ZipFile(bundle.folder / WHEELS / Path(name).name) as file:
                file.extractall(partial)
    # The services that run this may not write it.
    compileall.compile_dir(bundle.folder, quiet=2)
    compileall.compile_dir(partial, quiet=2)
    os.sync()  # what has this name is whole, also after a power cut
    partial.rename(target)


def _start(system: System, bundle: Bundle, written: Sequence[RelayFile]) -> None:
    """Enable all services, and start those again whose files differ from what they were last started with."""
    settings = read_settings(system)
    path = system.root / _APPLIED
    applied = _read_applied(system)
    names = {str(file.path) for file in written}
    chosen = [one for one in SERVICES if one.file_is_in(names) and not (one.settled and settings is None)]
    # One reload for all of them: each takes seconds on a small server.
    enabled = [one.unit for one in chosen if not one.starts_by_itself]
    if enabled:
        system.run("systemctl", "enable", "--quiet", "--no-reload", *enabled)
    system.run("systemctl", "daemon-reload")
    for service in chosen:
        again = _digest(written, service.files, bundle if service.code else None)
        reread = _digest(written, service.rereads)
        known = applied.get(service.unit)
        if known == [again, reread]:
            continue
        # Whoever needs the firewall would be started again with it.
        gentle = not service.files or (known is not None and known[0] == again)
        system.run("systemctl", "reload-or-restart" if gentle else "restart", service.unit)
        applied[service.unit] = [again, reread]
        files.replace(path, json.dumps(applied).encode(), 0o644)


def _digest(written: Sequence[RelayFile], beginnings: Sequence[str], bundle: Bundle | None = None) -> str:
    chosen: Mapping[str, str] = {
        str(file.path): file.text for file in written if str(file.path).startswith(tuple(beginnings))
    }
    text = json.dumps([chosen, bundle.identifier if bundle else ""], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check(system: System) -> None:
    settings = read_settings(system)
    tunnel = find_tunnel(system.root)
    units = [service for service in SERVICES if _shall_answer(system, service, settings)]
    if problem := wait_until_well(system, units, str(tunnel.addresses.relay6)):
        raise Failure(problem)


def _shall_answer(system: System, service: Service, settings: QueueSettings | None) -> bool:
    written = json.loads((system.root / _WRITTEN).read_text(encoding="utf-8"))
    waits = (service.settled and settings is None) or not (system.root / service.needs).exists()
    return bool(service.ports) and service.file_is_in(set(written)) and not waits


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
