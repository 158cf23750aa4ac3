"""The bundle: the same bits for the same sources, and all that its modules need."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from builder.build import SOURCE
from builder.bundle import make_bundle, model_modules
from builder.digests import file_digest
from builder.wheels import Wheel
from model.bundle import Manifest
from relay.parcel import unpack
from relay.services import SERVICES


@pytest.fixture
def wheels(tmp_path: Path) -> tuple[Wheel, ...]:
    made = []
    for architecture in ("amd64", "arm64"):
        path = tmp_path / f"pyrage-1-{architecture}.whl"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("pyrage/__init__.py", architecture)
        made.append(
            Wheel(name="pyrage", version="1", architecture=architecture, file=path.name, sha256=file_digest(path))
        )
    return tuple(made)


@pytest.fixture
def unpacked(tmp_path: Path, wheels: tuple[Wheel, ...]) -> Path:
    """The bundle of this checkout, as a relay has it."""
    made = make_bundle(SOURCE, wheels, tmp_path, tmp_path / "work", tmp_path / "bundle.tar")
    (tmp_path / "base").mkdir()
    return unpack(tmp_path / "bundle.tar", tmp_path / "base", str(made["id"]))


def test_the_same_sources_give_the_same_bits(tmp_path: Path, wheels: tuple[Wheel, ...]) -> None:
    before = os.umask(0o022)
    try:
        first = make_bundle(SOURCE, wheels, tmp_path, tmp_path / "1", tmp_path / "1.tar")
        os.umask(0o077)
        second = make_bundle(SOURCE, wheels, tmp_path, tmp_path / "other", tmp_path / "2.tar")
    finally:
        os.umask(before)
    assert first == second
    assert first["id"] == file_digest(tmp_path / "1.tar")


def test_it_holds_no_key_and_says_what_it_needs(unpacked: Path) -> None:
    assert not (unpacked / "system/etc/wireguard").exists()
    assert (unpacked / "system/etc/haproxy/haproxy.cfg.j2").is_file()
    assert os.access(unpacked / "run", os.X_OK)
    manifest = Manifest.read((unpacked / "bundle.json").read_bytes())
    assert manifest.wheels == {"pyrage-1-amd64.whl": "x86_64", "pyrage-1-arm64.whl": "aarch64"}
    assert {path.name for path in (unpacked / "wheels").iterdir()} == set(manifest.wheels)
    assert "haproxy" in manifest.packages


def test_every_module_finds_what_it_imports_and_none_of_it_is_pydantic(unpacked: Path) -> None:
    """What Debian 12 has of pydantic is another one."""
    names = [f"relay.{path.stem}" for path in sorted((unpacked / "relay").glob("*.py")) if path.stem != "__init__"]
    assert "relay.install" in names
    script = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r})\n"
        + "".join(f"import {name}\n" for name in names)
        + f"import model; assert model.__file__.startswith({str(unpacked)!r})\n"
        + "assert 'pydantic' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_modules_that_others_import_go_along(tmp_path: Path) -> None:
    for name, text in {
        "relay/a.py": "def f():\n    from model.one import x\n",
        "model/one.py": "from model import two\n",
        "model/two.py": "",
        "model/three.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert model_modules(tmp_path) == ("__init__.py", "one.py", "two.py")


def test_every_unit_and_every_file_belongs_to_a_service(unpacked: Path) -> None:
    """What belongs to none would be changed, and nobody told."""
    beginnings = tuple(beginning for service in SERVICES for beginning in (*service.files, *service.rereads))
    nobodys = {
        *("/etc/apt/apt.conf.d/52darkpipe", "/etc/darkpipe/cage.conf", "/etc/tmpfiles.d/darkpipe.conf"),
        *("/usr/local/sbin/darkpipe-peer", "/usr/local/sbin/darkpipe-setup"),
        *(f"/etc/systemd/system/darkpipe-{name}.service" for name in ("peer", "receiver", "switch")),
    }
    files = {
        f"/{path.relative_to(unpacked / 'system')}".removesuffix(".j2")
        for path in (unpacked / "system").rglob("*")
        if path.is_file()
    }
    assert {path for path in files if not path.startswith(beginnings)} == nobodys


def test_the_tar_has_plain_members_only(tmp_path: Path, wheels: tuple[Wheel, ...]) -> None:
    make_bundle(SOURCE, wheels, tmp_path, tmp_path / "work", tmp_path / "bundle.tar")
    with tarfile.open(tmp_path / "bundle.tar") as tar:
        assert all(member.isfile() or member.isdir() for member in tar)
