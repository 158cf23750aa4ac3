"""The build command: what it leaves, and what it leaves when it fails or is interrupted."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pexpect
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from builder.archive import Archive
from builder.cache import Cache
from builder.progress import Stages
from builder.tools import BUILD_TOOLS, open_tools
from tests.images.bench import abandoned_workspaces
from tests.images.machine import REPOSITORY

_DARKPIPE = str(REPOSITORY / "darkpipe")
_SITE = str(REPOSITORY / "examples/home.yaml")


def _run_build(output: Path, site: str = _SITE, *options: str) -> subprocess.CompletedProcess[str]:
    command = [_DARKPIPE, "build", site, "--output", str(output), *options]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)


def _build(output: Path) -> Path:
    return Path(_run_build(output).stdout.splitlines()[-1])


def test_result_is_complete_and_the_same_each_time(tmp_path: Path) -> None:
    first, second = _build(tmp_path / "one"), _build(tmp_path / "two")
    assert first.name == second.name
    assert {path.name for path in first.iterdir()} == {
        "SHA256SUMS",
        f"{first.name}.img.bmap",
        f"{first.name}.img.zst",
        "manifest.json",
        "packages.lock",
        "sbom.spdx.json",
    }
    assert (first / "SHA256SUMS").read_text() == (second / "SHA256SUMS").read_text()
    for folder in (first, second):
        subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True)


def test_image_is_for_its_owner_only(tmp_path: Path) -> None:
    """The seed may hold password hashes."""
    assert _build(tmp_path).stat().st_mode & 0o077 == 0


def test_manifest(image: Path, tmp_path: Path) -> None:
    manifest = json.loads((image / "manifest.json").read_text())
    other = json.loads((_build(tmp_path) / "manifest.json").read_text())
    assert manifest["ids"]["generic"] == other["ids"]["generic"], "without the seed all images are the same"
    assert manifest["ids"]["seeded"] != other["ids"]["seeded"]
    assert manifest["ids"]["seeded"].startswith(image.name.rsplit("-", 1)[1])
    assert manifest["packages"]["postfix:amd64"].startswith("3.10.")
    assert manifest["image"]["compressed_bytes"] == next(image.glob("*.img.zst")).stat().st_size


@pytest.mark.parametrize(
    ("number", "to_group"), [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)]
)
def test_interrupted_build_leaves_nothing(image: Path, tmp_path: Path, number: signal.Signals, to_group: bool) -> None:
    command = [_DARKPIPE, "build", _SITE, "--output", str(tmp_path)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=quiet, stdin=quiet, text=True, process_group=0
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Disk image …"):
                (os.killpg if to_group else os.kill)(process.pid, number)
    assert process.returncode == 130, image
    assert list(tmp_path.iterdir()) == []
    assert abandoned_workspaces() == []


def test_output_that_cannot_be_made_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [_DARKPIPE, "build", _SITE, "--output", str(tmp_path / "file/out")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "Hint: " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_progress_is_a_bar_on_a_terminal(image: Path, tmp_path: Path) -> None:
    capable = {**os.environ, "TERM": "xterm"}  # whatever the tests' own terminal can do
    command = ["build", _SITE, "--output", str(tmp_path)]
    console = pexpect.spawn(_DARKPIPE, command, encoding="utf-8", timeout=120, env=capable)
    console.expect("Disk image.*━")
    console.expect("darkpipe-0.1.0-x64-")
    console.expect(pexpect.EOF)
    console.close()
    assert console.exitstatus == 0, image


def test_password_is_asked_for_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(Path(_SITE).read_text().replace("password: generate", "password: prompt", 1))
    console = pexpect.spawn(
        _DARKPIPE, ["build", str(site), "--output", str(tmp_path / "out")], encoding="utf-8", timeout=120
    )
    console.expect("Password for alice@example.com: ")
    console.sendline("short")
    console.expect("Repeat for confirmation: ")
    console.sendline("short")
    console.expect("at least 10 characters")
    for _ in range(2):
        console.expect("(Password for alice@example.com|Repeat for confirmation): ")
        console.sendline("correct horse battery")
    console.expect("darkpipe-0.1.0-x64-")
    console.expect(pexpect.EOF)
    console.close()
    assert console.exitstatus == 0
    assert "correct horse" not in str(console.before)
    built = next((tmp_path / "out").iterdir())
    tools = open_tools(BUILD_TOOLS, Cache.default(), Archive.from_environment(), Stages())
    with next(built.glob("*.img.zst")).open("rb") as packed:
        search = "grep --text --only-matching --fixed-strings -e '$argon2id$v=19$m=65536,t=3,p=4$' -e 'correct horse'"
        assert tools.run(["sh", "-c", f"zstd -dc | {search}"], stdin=packed) == "$argon2id$v=19$m=65536,t=3,p=4$"


def test_what_init_writes_can_be_built(image: Path, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    asked = [_DARKPIPE, "init", str(site), "--domain", "example.com", "--unlock", "none"]
    subprocess.run(asked, check=True, capture_output=True)
    built = _run_build(tmp_path / "out", str(site))
    assert Path(built.stdout.splitlines()[-1]).is_dir(), image


def test_image_and_user_data_hold_the_two_ends_of_one_tunnel(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(f"{Path(_SITE).read_text()}relays: [{{address: 192.0.2.1, offline: tempfail}}]\n")
    built = _run_build(tmp_path / "out", str(site))
    assert f"./darkpipe user-data {site}" in built.stderr
    printed = subprocess.run([_DARKPIPE, "user-data", str(site)], capture_output=True, text=True, check=True).stdout
    ours, homes = (re.findall(rf"(?m)^ *{name} = (\S+)$", printed)[0] for name in ("PrivateKey", "PublicKey"))
    tools = open_tools(BUILD_TOOLS, Cache.default(), Archive.from_environment(), Stages())
    with next(Path(built.stdout.splitlines()[-1]).glob("*.img.zst")).open("rb") as packed:
        search = 'grep --text --only-matching --extended-regexp "\\"(private|relay)_key\\": \\"[A-Za-z0-9+/=]{44}\\""'
        found = tools.run(["sh", "-c", f"zstd -dc | {search}"], stdin=packed)
    image = json.loads(f"{{{','.join(found.split(chr(10)))}}}")
    assert _public_key(image["private_key"]) == homes
    assert _public_key(ours) == image["relay_key"]


def test_a_code_for_the_page_lies_in_the_seed(tmp_path: Path) -> None:
    code = tmp_path / "code.txt"
    built = _run_build(tmp_path / "out", _SITE, "--code", str(code))
    made = code.read_text().strip()
    assert made
    assert made not in f"{built.stdout}{built.stderr}"
    assert f"asks for the code in {code}" in built.stderr
    bare = made.replace("-", "")
    tools = open_tools(BUILD_TOOLS, Cache.default(), Archive.from_environment(), Stages())
    for result, found in ((Path(built.stdout.splitlines()[-1]), "1"), (_build(tmp_path / "without"), "0")):
        with next(result.glob("*.img.zst")).open("rb") as packed:
            search = f"zstd -dc | grep --text --count {bare} || :"
            assert tools.run(["sh", "-c", search], stdin=packed) == found


def _public_key(private: str) -> str:
    key = X25519PrivateKey.from_private_bytes(base64.b64decode(private)).public_key()
    return base64.b64encode(key.public_bytes_raw()).decode()
