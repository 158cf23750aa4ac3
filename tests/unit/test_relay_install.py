"""The relay's files and services: what bundle and settings say, whatever was cut off before."""

from __future__ import annotations

import fcntl
import itertools
import os
import platform
import shutil
import sys
import threading
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from model.bundle import Manifest
from model.control import QueueSettings
from relay import pairing_file
from relay.install import Bundle, apply, https_ports, write_files
from relay.keeper import Folders
from relay.machine import SETTINGS, Failure, System
from relay.pairing import Kept, Keys
from tests.unit.power_cut import PowerCut, power_cut

_TUNNEL = """\
[Interface]
PrivateKey = secret
ListenPort = 51820
Address = 10.1.0.2/32, fd01::2/128
[Peer]
AllowedIPs = 10.1.0.1/32, fd01::1/128
"""
_SETTINGS = QueueSettings(1, "mx.example.com", ("example.com",), "queue", (), 10**9)
_FILES = {
    "etc/darkpipe/cage.conf": "[Service]\nNoNewPrivileges=yes\n",
    "etc/nftables.conf.j2": "#!/usr/sbin/nft -f\n# {{ tunnel.addresses.home6 }}{{ ' ssh' if ssh }}\n",
    "etc/haproxy/haproxy.cfg.j2": "# {{ name }}\n",
    "etc/postfix/main.cf.j2": "relay_domains = {{ domains | join(' ') }}\n",
    "etc/systemd/system/darkpipe-agent.service": "[Service]\n",
    "etc/systemd/system/haproxy.service.d/darkpipe.conf": "[Service]\n",
}


@dataclass(frozen=True)
class _Server(System):
    """A server whose programs are noted down.

    Args:
        refuses: words of a command that fails.
    """

    refuses: str = ""
    ran: list[str] = field(default_factory=list)

    def run(self, *argv: str) -> str:
        line = " ".join(argv)
        if self.refuses and self.refuses in line:
            raise Failure("it refuses")
        self.ran.append(line)
        for option, path in itertools.pairwise(argv):
            if option in {"-keyout", "-out"}:
                Path(path).write_text("PEM\n")
        return ""

    def try_run(self, *argv: str) -> tuple[int, str]:
        return 0, "".join(f"{name} installed\n" for name in argv[3:])

    def user(self, name: str) -> int | None:
        return len(name)

    def started(self) -> list[str]:
        """Give what was started since the last call."""
        found = [line.removeprefix("systemctl ") for line in self.ran if "start " in line or "reload-" in line]
        self.ran.clear()
        return found


def _server(root: Path, refuses: str = "") -> _Server:
    for name, text in {"etc/wireguard/home0.conf": _TUNNEL, "var/lib/darkpipe/config/keep": ""}.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)
    return _Server(root, refuses)


def _bundle(folder: Path, files: Mapping[str, str]) -> Bundle:
    for name, text in files.items():
        path = folder / "system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "lib").mkdir()
    (folder / "bundle.json").write_bytes(Manifest("0.1.0", 1, ("haproxy",)).to_json())
    return Bundle(folder)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return _bundle(tmp_path / "bundle", _FILES)


def _settle(server: System, settings: QueueSettings = _SETTINGS) -> None:
    (server.root / SETTINGS).write_bytes(settings.to_json())


class _Interrupted(_Server):
    """A server that lacks its packages, and whose power has failed while some were installed."""

    def missing_packages(self, wanted: Sequence[str]) -> list[str]:
        return list(wanted)

    def try_run(self, *argv: str) -> tuple[int, str]:
        self.ran.append(" ".join(argv))
        return 0, ""

    def run(self, *argv: str) -> str:
        if argv[:2] == ("apt-get", "install") and "dpkg --force-confold --configure -a" not in self.ran:
            raise Failure("dpkg was interrupted")
        return super().run(*argv)


def test_packages_are_installed_behind_one_that_a_cut_has_left_half(tmp_path: Path, bundle: Bundle) -> None:
    server = _Interrupted(_server(tmp_path / "root").root)
    apply(server, bundle)
    assert "apt-get install --yes --fix-broken --no-install-recommends haproxy" in server.ran


def test_before_home_has_said_anything_nothing_serves_mail(tmp_path: Path, bundle: Bundle) -> None:
    server = _server(tmp_path / "root")
    apply(server, bundle)
    assert server.started() == ["reload-or-restart nftables.service", "restart darkpipe-agent.service"]
    assert not (server.root / "etc/haproxy").exists()
    assert not (server.root / "etc/postfix").exists()
    assert (server.root / "etc/nftables.conf").read_text().endswith("# fd01::1\n")
    assert (server.root / "etc/systemd/system/darkpipe-agent.service.d/50-cage.conf").exists()


def test_a_service_is_started_again_for_its_own_files_only(tmp_path: Path, bundle: Bundle) -> None:
    server = _server(tmp_path / "root")
    apply(server, bundle)
    _settle(server)
    server.ran.clear()
    apply(server, bundle)
    assert server.started() == ["restart postfix.service", "restart haproxy.service"]
    apply(server, bundle)
    assert server.started() == []
    _settle(server, QueueSettings(2, "mx.example.com", ("example.com", "example.org"), "queue", (), 10**9))
    apply(server, bundle)
    assert server.started() == ["restart postfix.service"]
    other = _bundle(tmp_path / "other", {**_FILES, "etc/haproxy/haproxy.cfg.j2": "# other\n"})
    apply(server, other)
    assert server.started() == ["restart darkpipe-agent.service", "reload-or-restart haproxy.service"]


def test_systemd_reads_its_units_once_and_before_any_of_them_starts(tmp_path: Path, bundle: Bundle) -> None:
    server = _server(tmp_path / "root")
    _settle(server)
    apply(server, bundle)
    ran = [line for line in server.ran if line.startswith("systemctl ")]
    assert [line for line in ran if " enable " in line and "--no-reload" not in line] == []
    assert [("daemon-reload" in line, " enable " in line) for line in ran[:2]] == [(False, True), (True, False)]
    assert [line for line in ran[2:] if "start" not in line] == []
    assert "postfix.service" in ran[0]
    assert "haproxy.service" in ran[0]


def test_what_could_not_be_started_is_started_next_time(tmp_path: Path, bundle: Bundle) -> None:
    server = _server(tmp_path / "root", "restart darkpipe-agent")
    with pytest.raises(Failure):
        apply(server, bundle)
    healed = _Server(server.root)
    apply(healed, bundle)
    assert healed.started() == ["restart darkpipe-agent.service"]


def test_what_others_have_written_over_is_put_in_force_again(tmp_path: Path, bundle: Bundle) -> None:
    """Cloud-init that runs once more loads the firewall of a bare server: no way for alarms, none to Tang."""
    server = _server(tmp_path / "root")
    _settle(server)
    apply(server, bundle)
    wanted = _content(server.root)
    for name in ("etc/nftables.conf", "etc/haproxy/haproxy.cfg"):
        (server.root / name).write_text("# bare\n")
    cut = _Server(server.root, "reload-or-restart nftables")
    with pytest.raises(Failure):
        apply(cut, bundle)
    server.ran.clear()
    apply(server, bundle)
    assert server.started() == ["reload-or-restart nftables.service", "reload-or-restart haproxy.service"]
    assert _content(server.root) == wanted
    apply(server, bundle)
    assert server.started() == []


@pytest.mark.parametrize(("paired", "shown"), [(True, "10.2.0.1"), (False, "10.1.0.1")])
def test_the_firewall_lets_home_out_by_the_address_that_holds(tmp_path: Path, paired: bool, shown: str) -> None:
    """Whether or not the agent has mended the tunnel's file, which cloud-init has written once more."""
    server = _server(tmp_path / "root")
    nftables = {"etc/nftables.conf.j2": "# {{ tunnel.addresses.home4 }} {{ tunnel.addresses.home6 }}\n"}
    bundle = _bundle(tmp_path / "bundle", {**_FILES, **nftables})
    keys = Keys("own", "ours", "PEM", "theirs", "PEM", home4="10.2.0.1", relay4="10.2.0.2")
    state = Folders(server.root / "var/lib/darkpipe").state
    state.parent.mkdir()
    pairing_file.write(state, Kept("ab" * 16, keys, "cd" * 16, 1, paired))
    apply(server, bundle)
    assert (server.root / "etc/nftables.conf").read_text() == f"# {shown} fd01::1\n"


def test_one_waits_for_another_and_both_are_done(tmp_path: Path, bundle: Bundle) -> None:
    """Pairing has the relay applied, and home's first settings come at once."""
    server = _server(tmp_path / "root")
    (server.root / "run").mkdir()
    with (server.root / "run/darkpipe-install.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=apply, args=(server, bundle))
        second.start()
        second.join(0.3)
        assert (second.is_alive(), server.ran) == (True, [])
    second.join()
    assert server.started() == ["reload-or-restart nftables.service", "restart darkpipe-agent.service"]


def test_the_key_of_postfix_stays_and_is_for_root_only(tmp_path: Path, bundle: Bundle) -> None:
    server = _server(tmp_path / "root")
    _settle(server)
    apply(server, bundle)
    pem = server.root / "etc/postfix/mx.example.com.pem"
    assert (pem.read_text(), pem.stat().st_mode & 0o777) == ("PEM\nPEM\n", 0o600)
    assert {path.name for path in pem.parent.iterdir()} == {"main.cf", pem.name}
    pem.write_text("mine")
    apply(server, bundle)
    assert pem.read_text() == "mine"


def _content(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(root)): (path.stat().st_mode, path.read_bytes())
        for path in (root / "etc").rglob("*")
        if path.is_file()
    }


def test_after_a_cut_the_next_run_leaves_what_an_uncut_one_does(tmp_path: Path, bundle: Bundle) -> None:
    """In the middle of going from one bundle to another, which has other files."""
    fewer = {name: text for name, text in _FILES.items() if "haproxy.service.d" not in name}
    other = _bundle(tmp_path / "other", {**fewer, "etc/added.conf": "added\n", "etc/haproxy/haproxy.cfg.j2": "# o\n"})
    first = _server(tmp_path / "first")
    _settle(first)
    write_files(first, bundle)
    before, kept = _content(first.root), tmp_path / "kept"
    shutil.copytree(first.root, kept)
    write_files(first, other)
    wanted = _content(first.root)
    assert "etc/systemd/system/haproxy.service.d/darkpipe.conf" not in wanted
    for number in range(sys.maxsize):
        shutil.rmtree(first.root)
        shutil.copytree(kept, first.root)
        try:
            with power_cut(number):
                write_files(first, other)
        except PowerCut:
            for name, (_, octets) in _content(first.root).items():
                if not name.endswith(".new"):
                    assert octets in {side[name][1] for side in (before, wanted) if name in side}, (number, name)
            write_files(first, bundle if number % 2 else other)
            assert _content(first.root) == (before if number % 2 else wanted), number
        else:
            assert number > 10
            return


def test_the_queue_gets_to_the_ports_that_home_names() -> None:
    store, hook = {"endpoint": "https://s3.example:8443"}, {"webhook": "https://[2001:db8::1]/x"}
    assert https_ports(_SETTINGS) == [443]
    assert https_ports(QueueSettings(1, "mx", (), "queue", (), 1, alarm=hook, s3=store)) == [443, 8443]


@pytest.mark.parametrize(("machine", "library"), [("x86_64", "amd64.py"), ("aarch64", "arm64.py"), ("riscv64", "")])
def test_a_server_gets_the_libraries_for_its_machine(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, machine: str, library: str
) -> None:
    wheels = {"amd64": "x86_64", "arm64": "aarch64"}
    manifest = Manifest("0.1.0", 1, (), {f"{name}.whl": one for name, one in wheels.items()})
    (bundle.folder / "bundle.json").write_bytes(manifest.to_json())
    (bundle.folder / "lib").rmdir()
    (bundle.folder / "wheels").mkdir()
    for name in wheels:
        with zipfile.ZipFile(bundle.folder / f"wheels/{name}.whl", "w") as file:
            file.writestr(f"{name}.py", "")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    synced: list[bool] = []
    monkeypatch.setattr(os, "sync", lambda: synced.append((bundle.folder / "lib").exists()))
    server = _server(tmp_path / "root")
    if not library:
        with pytest.raises(Failure, match="no libraries for riscv64"):
            apply(server, bundle)
        assert server.started() == []
        return
    apply(server, bundle)
    assert [path.name for path in (bundle.folder / "lib").glob("*.py")] == [library]
    assert synced == [False], "on the disk before it has its name"
