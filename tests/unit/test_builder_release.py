"""Sums and signature of a result's folder, block map, lock and bill of materials; tests/images has a whole folder."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from builder.bmap import BLOCK, Extent, make_map, parse_map
from builder.commands.verify import verify as verify_command
from builder.errors import BuildError
from builder.lock import Installed, Lock, LockedPackage, installed_packages, packages_from_index, parse_lock
from builder.release import release_id, results
from builder.sandbox import Sandbox
from builder.sbom import sbom_packages, sbom_text
from builder.sums import check_sums, sign, signer, write_sums
from builder.verify import Finding, verify
from builder.wheels import Wheel

_FILES = ("image.img.zst", "image.img.bmap", "manifest.json", "packages.lock", "sbom.spdx.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "result"
    made.mkdir()
    for name in _FILES:
        (made / name).write_text(f"the content of {name}")
    write_sums(made)
    return made


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return _key(tmp_path / "key")


def _key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path


def _signers(key: Path, options: str = "") -> Path:
    path = key.with_name(f"{key.name}.signers")
    path.write_text(f"release@example.com {options} {key.with_suffix('.pub').read_text()}")
    return path


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_sums_are_those_of_sha256sum(folder: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "--status", "SHA256SUMS"], cwd=folder, check=True)
    assert check_sums(folder) == []


@pytest.mark.parametrize("name", _FILES)
def test_a_flipped_byte_a_missing_file_and_a_link_are_found(folder: Path, name: str) -> None:
    path = folder / name
    content = path.read_bytes()
    for position in (0, len(content) - 1):
        _flip(path, position)
        assert check_sums(folder) == [f"{name} is not what SHA256SUMS says"]
        path.write_bytes(content)
    path.rename(folder.parent / name)
    assert check_sums(folder) == [f"{name} is missing"]
    path.symlink_to(folder.parent / name)
    assert check_sums(folder) == [f"{name} is no regular file"]


def test_an_added_file_and_bad_sums_are_found(folder: Path) -> None:
    (folder / "autorun").touch()
    assert check_sums(folder) == ["autorun is in the folder, and not in SHA256SUMS"]
    (folder / "SHA256SUMS").write_text("nonsense\n")
    assert "no sum of a file" in check_sums(folder)[0]
    (folder / "SHA256SUMS").unlink()
    assert check_sums(folder) == ["SHA256SUMS is missing or cannot be read"]


def test_every_flipped_bit_of_the_sums_is_found_by_sums_or_signature(folder: Path, key: Path) -> None:
    sign(folder, key)
    for position in range(0, (folder / "SHA256SUMS").stat().st_size, 37):
        _flip(folder / "SHA256SUMS", position)
        with pytest.raises(BuildError, match="not good"):
            signer(folder, _signers(key))
        _flip(folder / "SHA256SUMS", position)


def test_a_good_signature_names_the_signer(folder: Path, key: Path) -> None:
    sign(folder, key)
    assert signer(folder, _signers(key)) == "release@example.com"
    assert check_sums(folder) == []
    sign(folder, key)  # again replaces it


def test_no_signature_and_anothers_signature_are_refused(folder: Path, key: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"there is no SHA256SUMS\.sig"):
        signer(folder, _signers(key))
    sign(folder, _key(tmp_path / "other"))
    with pytest.raises(BuildError, match="not good"):
        signer(folder, _signers(key))
    _flip(folder / "SHA256SUMS.sig", 100)
    with pytest.raises(BuildError, match="not good"):
        signer(folder, _signers(key))


def test_a_signature_for_something_else_is_refused(folder: Path, key: Path) -> None:
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", "git", str(folder / "SHA256SUMS")]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(BuildError, match="not good"):
        signer(folder, _signers(key))


def test_a_key_that_may_sign_other_things_only_is_refused(folder: Path, key: Path) -> None:
    sign(folder, key)
    with pytest.raises(BuildError, match="not good"):
        signer(folder, _signers(key, 'namespaces="git"'))


def test_what_does_not_fit_its_sums_is_not_signed(folder: Path, key: Path) -> None:
    _flip(folder / "manifest.json", 0)
    with pytest.raises(BuildError, match=r"is not signed: manifest\.json"):
        sign(folder, key)
    assert not (folder / "SHA256SUMS.sig").exists()


def test_no_key(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="could not sign"):
        sign(folder, tmp_path / "absent")


def test_map_of_content_and_its_reading(tmp_path: Path) -> None:
    file = tmp_path / "content"
    file.write_bytes(b"x" * (BLOCK + 1))
    made = make_map(10 * BLOCK, [Extent(0, BLOCK, file), Extent(4 * BLOCK, BLOCK + 1, file)])
    assert [(entry.first, entry.last) for entry in made.ranges] == [(0, 0), (4, 5)]
    padded = b"x" * (BLOCK + 1) + bytes(BLOCK - 1)
    assert made.ranges[1].sha256 == hashlib.sha256(padded).hexdigest()
    assert parse_map(made.text()) == made
    assert made.mapped == 3


def test_a_changed_map_is_found(tmp_path: Path) -> None:
    file = tmp_path / "content"
    file.write_bytes(b"x")
    text = make_map(10 * BLOCK, [Extent(0, BLOCK, file)]).text()
    for old, new in (("40960", "45056"), (">0<", ">1<"), ("2.0", "1.9"), ('chksum="', 'chksum="0')):
        with pytest.raises(ValueError, match="checksum is wrong"):
            parse_map(text.replace(old, new))
    with pytest.raises(ValueError, match="no block map"):
        parse_map("<bmap>")


def _package(**fields: object) -> LockedPackage:
    package = {"name": "a", "version": "1:2-3", "architecture": "all", "sha256": "0" * 64, "bytes": 7, "source": "b=4"}
    return LockedPackage.model_validate(package | fields)


def test_lock_and_its_reading() -> None:
    lock = Lock(profile="x64", suite="trixie", architecture="amd64", packages=(_package(), _package(name="c++")))
    assert parse_lock(lock.text(), "lock") == lock
    assert len(lock.text().splitlines()) == 4


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"darkpipe_lock": 1', '"darkpipe_lock": 2', "darkpipe_lock"),
        ('"0000', '"000', "packages/0/sha256"),
        ('"version"', '"vision"', "packages/0/vision|packages/0/version"),
        ('"c++"', '"a"', "twice"),
        ('"c++"', '"../a"', "packages/1/name"),
        ("{", "", "no lock"),
    ],
)
def test_what_is_no_lock_is_refused(old: str, new: str, words: str) -> None:
    lock = Lock(profile="x64", suite="trixie", architecture="amd64", packages=(_package(), _package(name="c++")))
    with pytest.raises(BuildError, match=words):
        parse_lock(lock.text().replace(old, new, 1), "lock")


def test_digests_come_from_the_index_and_what_is_installed_from_the_status() -> None:
    status = (
        "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1\nConffiles:\n /etc/a 0\n\n"
        "Package: b\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n"
    )
    installed = installed_packages(status)
    assert installed == {Installed("a", "1", "all")}
    index = f"Package: a\nVersion: {{}}\nArchitecture: all\nSource: s (2)\nSize: 7\nSHA256: {'0' * 64}\n\n"
    (package,) = packages_from_index(installed, index.format(0) + index.format(1))
    assert (package.version, package.source, package.bytes) == ("1", "s=2", 7)
    with pytest.raises(BuildError, match="a 1 is installed"):
        packages_from_index(installed, index.format(2))


def test_bill_of_materials_is_valid_spdx(tmp_path: Path) -> None:
    lock = Lock(profile="x64", suite="trixie", architecture="amd64", packages=(_package(), _package(name="c++")))
    path = tmp_path / "sbom.spdx.json"
    wheel = Wheel(name="pyrage", version="1.4.0", architecture="amd64", file="pyrage-1.whl", sha256="2" * 64)
    path.write_text(sbom_text(lock, [wheel], "1" * 64))
    document = parse_file(str(path))
    assert validate_full_spdx_document(document) == []
    assert len(document.packages) == 4
    assert list(sbom_packages(path.read_text())) == [
        "pkg:deb/debian/a@1%3A2-3?arch=all&distro=trixie",
        "pkg:deb/debian/c%2B%2B@1%3A2-3?arch=all&distro=trixie",
        "pkg:pypi/pyrage@1.4.0?file_name=pyrage-1.whl",
    ]


def _release_folder(folder: Path) -> Path:
    """A release of two results, as `./darkpipe build --all` lays it out."""
    manifests = {}
    for profile in ("raspberrypi", "x64"):
        part = folder / f"darkpipe-0.1.0-{profile}-abc"
        part.mkdir(parents=True)
        manifests[part.name] = {"profile": profile, "ids": {"generic": profile, "seeded": profile}}
        (part / "manifest.json").write_text(json.dumps(manifests[part.name]))
        write_sums(part)
    manifest = {"version": "0.1.0", "id": release_id(manifests), "results": manifests}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write_sums(folder)
    return folder


def test_the_sums_of_a_release_cover_every_file(tmp_path: Path) -> None:
    folder = _release_folder(tmp_path / "release")
    assert check_sums(folder) == []
    assert set(results(folder)) == {"darkpipe-0.1.0-raspberrypi-abc", "darkpipe-0.1.0-x64-abc"}
    part = folder / "darkpipe-0.1.0-x64-abc"
    (part / "manifest.json").write_text("{}")
    (part / "added").touch()
    faults = "; ".join(check_sums(folder))
    assert "darkpipe-0.1.0-x64-abc/manifest.json is not what" in faults
    assert "darkpipe-0.1.0-x64-abc/added is in the folder" in faults


def test_a_link_in_a_release_is_no_file_of_it(tmp_path: Path) -> None:
    folder = _release_folder(tmp_path / "release")
    path = folder / "darkpipe-0.1.0-x64-abc/manifest.json"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert any("is no regular file" in fault for fault in check_sums(folder))


def test_a_result_that_the_release_does_not_name_is_found(tmp_path: Path) -> None:
    folder = _release_folder(tmp_path / "release")

    def judged() -> dict[str, bool]:
        work = tmp_path / f"work-{len(list(folder.iterdir()))}"
        work.mkdir()
        tools = Sandbox(tmp_path / "tools", tmp_path)
        return {found.subject: found.good for found in verify(folder, tools, work, None)}

    assert judged()["release"]
    other = folder / "darkpipe-0.1.0-x64-def"
    other.mkdir()
    (other / "manifest.json").write_text("{}")
    (folder / "SHA256SUMS").unlink()
    write_sums(folder)
    found = judged()
    assert found["sums"]
    assert not found["release"]


def test_a_single_result_is_no_release(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"version": "0.1.0", "profile": "x64"}')
    assert results(tmp_path) == {}


def test_the_id_of_a_release_follows_from_its_images(tmp_path: Path) -> None:
    manifests = results(_release_folder(tmp_path / "release"))
    changed = json.loads(json.dumps(manifests))
    changed["darkpipe-0.1.0-x64-abc"]["ids"]["seeded"] = "other"
    assert release_id(changed) != release_id(manifests)


def test_a_name_in_the_folder_cannot_pass_for_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever cannot sign a release could otherwise name a folder in it so that the terminal shows a good signature."""
    lie = "good signature: good, by release@example.org"
    findings = [
        Finding("signature", True, "there is none"),
        Finding(f"x\x1b[1A\r{lie}\n{lie}: partitions", True, "as in the manifest"),
        Finding("sums", False, f"x\n{lie}"),
    ]
    monkeypatch.setenv("DARKPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DARKPIPE_CONTAINER", "never")
    monkeypatch.setattr("builder.sandbox.check_namespaces", lambda: None)
    monkeypatch.setattr("builder.tools.open_tools", lambda *_: None)
    monkeypatch.setattr("builder.verify.verify", lambda *_: iter(findings))
    done = CliRunner().invoke(verify_command, [str(tmp_path)], color=True)
    assert done.exit_code == 1
    lines = [click.unstyle(line) for line in done.stdout.splitlines()]
    assert [line for line in lines if line.startswith(("good", "BAD"))] == [
        "good signature: there is none",
        f"good x�[1A�{lie}",
        "BAD  sums: x",
    ]
    assert lines.count(f"     {lie}") == 1
