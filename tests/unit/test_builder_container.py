"""Builds in containers, as far as it goes without an engine; tests/images has a real one."""

from __future__ import annotations

import io
import os
import platform
import stat
import tarfile
from pathlib import Path

import pytest

from builder import container, parcel
from builder.container import CHECKOUT, Given, given, prepared_name
from builder.container_doctor import examine_engine
from builder.doctor import Verdict
from builder.engine import connected, security_options
from builder.errors import BuildError
from builder.parcel import Item, folder_items, pack, unpack
from builder.where import (
    CONTAINER_VARIABLE,
    DEFAULT_IMAGE,
    IMAGE_VARIABLE,
    builds_here,
    container_image,
    debian_like,
    must_be_here,
)

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("words", "like"),
    [
        ("debian", True),
        ("ubuntu debian", True),
        ("linuxmint ubuntu debian", True),
        ("fedora", False),
        ("almalinux rhel centos fedora", False),
        ("debianish", False),
        ("", False),
    ],
)
def test_debian_and_what_is_made_from_it(words: str, like: bool) -> None:
    assert debian_like(words) is like


@pytest.mark.parametrize(
    ("setting", "release", "here"),
    [
        (None, {"ID": "fedora"}, False),
        (None, {"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, True),
        ("always", {"ID": "debian"}, False),
        ("never", {"ID": "fedora"}, True),
    ],
)
def test_where_builds_run(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, release: dict[str, str], here: bool
) -> None:
    monkeypatch.delenv(CONTAINER_VARIABLE, raising=False)
    if setting:
        monkeypatch.setenv(CONTAINER_VARIABLE, setting)
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    assert builds_here() is here


def test_a_setting_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONTAINER_VARIABLE, "yes")
    with pytest.raises(BuildError, match="'yes'") as refused:
        builds_here()
    assert "always or never" in refused.value.hint


def test_the_image_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(IMAGE_VARIABLE, raising=False)
    assert container_image() == DEFAULT_IMAGE
    monkeypatch.setenv(IMAGE_VARIABLE, " ours:1 ")
    assert container_image() == "ours:1"


def test_what_needs_devices_is_refused_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONTAINER_VARIABLE, "always")
    with pytest.raises(BuildError) as refused:
        must_be_here("do it by hand")
    assert refused.value.hint == "do it by hand"
    monkeypatch.setenv(CONTAINER_VARIABLE, "never")
    must_be_here("do it by hand")


def test_options_are_written_as_arguments(tmp_path: Path) -> None:
    assert given(profile="x64", refresh=True, lock=tmp_path, dry_run=True, packages=None, json=False) == [
        *("--profile", "x64", "--refresh", "--lock", Given(tmp_path), "--dry-run"),
    ]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    (made / "sub/__pycache__").mkdir(parents=True)
    (made / "sub/__pycache__/x.pyc").touch()
    (made / "sub/program").write_bytes(b"#!/bin/sh\n" * 100)
    (made / "sub/program").chmod(0o750)
    (made / "empty").touch(mode=0o600)
    (made / "link").symlink_to("sub/program")
    (made / "nowhere").symlink_to("/nowhere")
    (made / ("long" * 50)).write_text("x")
    return made


def _members(items: list[Item]) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(pack(items)))) as tar:
        return {member.name: member for member in tar}


def test_files_are_sent_as_roots_and_links_stay_links(tree: Path) -> None:
    members = _members(list(folder_items(tree, "in/tree")))
    assert set(members) == {
        *("in/tree", "in/tree/sub", "in/tree/sub/program", "in/tree/empty", "in/tree/link", "in/tree/nowhere"),
        f"in/tree/{'long' * 50}",
    }
    assert {(member.uid, member.gid) for member in members.values()} == {(0, 0)}
    assert members["in/tree/sub/program"].mode == 0o755
    assert members["in/tree/empty"].mode == 0o644
    assert members["in/tree/nowhere"].linkname == "/nowhere"


def test_secrets_are_sent_for_root_only() -> None:
    (member,) = _members([Item("site.yaml", b"secret", 0o600)]).values()
    assert (member.mode, member.size) == (0o600, 6)


def test_a_device_is_not_sent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BuildError, match="neither a file nor a folder"):
        list(folder_items(tmp_path, "in"))


def test_a_file_that_shrinks_meanwhile_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "_CHUNK", 1000)
    path = tmp_path / "file"
    path.write_bytes(bytes(5000))
    chunks = pack([Item("file", path, 0o644)])
    next(chunks), next(chunks)
    os.truncate(path, 1500)
    with pytest.raises(BuildError, match="shorter"):
        list(chunks)


@pytest.mark.parametrize("size", [1, 511, 10**6])
def test_what_is_sent_comes_back_whatever_the_pieces(tree: Path, tmp_path: Path, size: int) -> None:
    (tree / "link").unlink()
    (tree / "nowhere").unlink()
    stream = b"".join(pack(folder_items(tree, "result")))
    pieces = (stream[start : start + size] for start in range(0, len(stream), size))
    target = tmp_path / "out"
    target.mkdir()
    assert unpack(pieces, target) == [target / "result"]
    assert (target / "result/sub/program").read_bytes() == (tree / "sub/program").read_bytes()
    assert stat.S_IMODE((target / "result/sub/program").stat().st_mode) == 0o755
    assert (target / "result" / ("long" * 50)).read_text() == "x"


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../b"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BuildError, match="named"):
        unpack(pack([Item(name, b"x", 0o644)]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_link_from_a_container_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="neither file nor folder"):
        unpack(pack([Item("link", None, 0o777, "/etc")]), tmp_path)


def test_a_tar_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    stream = b"".join(pack([Item("file", bytes(5000), 0o644)]))
    with pytest.raises(BuildError, match="damaged"):
        unpack([stream[:3000]], tmp_path)


@pytest.mark.parametrize(
    ("shown", "options"),
    [
        (["name=seccomp,profile=default"], ()),
        (["name=apparmor", "name=seccomp,profile=builtin"], ("apparmor=unconfined",)),
        (["name=selinux", "name=cgroupns"], ("label=disable",)),
        ([], ()),
    ],
)
def test_only_what_forbids_mounts_is_taken_away(shown: list[str], options: tuple[str, ...]) -> None:
    assert security_options(shown) == options


def test_an_engine_that_is_not_there_is_told_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(BuildError, match=r"127\.0\.0\.1:1: Connection refused") as refused, connected():
        pass
    assert "DOCKER_HOST" in refused.value.hint
    findings = list(examine_engine())
    assert [finding.verdict for finding in findings] == [Verdict.FINE, Verdict.PROBLEM]
    assert "start Docker" in findings[1].remedy


def test_an_image_is_prepared_anew_when_what_is_installed_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("builder/launch.sh", "requirements.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(container, "SOURCE", tmp_path)
    names = {prepared_name("sha256:one"), prepared_name("sha256:two")}
    for name in ("builder/launch.sh", "requirements.lock"):
        (tmp_path / name).write_text("changed")
        names.add(prepared_name("sha256:one"))
    assert len(names) == 4
    assert prepared_name("sha256:one") in names


def test_what_a_build_needs_of_the_checkout_is_there() -> None:
    assert [name for name in CHECKOUT if not (REPOSITORY / name).exists()] == []
