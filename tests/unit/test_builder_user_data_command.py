"""`./darkpipe user-data`: what it prints, writes, renews and refuses."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

from bootstrap.ends import Bootstrap
from builder.bootstrap import bootstrap_file, has_bootstrap, keys_folder, open_bootstrap
from builder.user_data import user_data
from home.pair_commands import read_bootstrap
from model.site import Relay
from tests.tiers import REPOSITORY
from tests.unit.user_data_samples import KEY, public_key_line, some_site

_FILE = """\
version: 1
domains: [example.com]
users: [{address: alice@example.com}]
disk: {unlock: none}
"""
_RELAYS = "relays: [{address: mx.example.com, offline: tempfail}]\n"


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "builder", *map(str, arguments)]
    return subprocess.run(
        command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_command_prints_the_text_alone_and_the_same_again(tmp_path: Path) -> None:
    site, key, written = (tmp_path / name for name in ("home.yaml", "key.pub", "relay.yaml"))
    site.write_text(_FILE + _RELAYS)
    key.write_text(KEY + "\n")
    relay = Relay.model_validate({"address": "mx.example.com"})
    assert not has_bootstrap(site, relay)
    first = _run("user-data", site, "--provider", "hetzner", "--ssh-key", key)
    assert first.returncode == 0, first.stderr
    assert has_bootstrap(site, relay)
    assert "The keys are new" in first.stderr
    made = open_bootstrap(site, relay)
    assert first.stdout == user_data(some_site("example.com"), made, KEY)
    assert made.relay.private_key not in first.stderr
    assert "Hetzner" in first.stderr
    written.write_text("#cloud-config\n# older\n")
    written.chmod(0o644)
    second = _run("user-data", site, "--ssh-key", key, "--output", written)
    assert (second.returncode, second.stdout) == (0, ""), second.stderr
    assert "The keys are new" not in second.stderr
    assert written.read_text() == first.stdout
    assert stat.S_IMODE(written.stat().st_mode) == 0o600


def test_renewed_keys_make_another_relay_and_the_former_ones_stay(tmp_path: Path) -> None:
    site, output = tmp_path / "home.yaml", tmp_path / "relay.yaml"
    site.write_text(_FILE + _RELAYS)
    relay = some_site("example.com").relays[0]
    first = _run("user-data", site)
    before = open_bootstrap(site, relay)
    file = bootstrap_file(site, relay)
    renewed = _run("user-data", site, "--renew", "--output", output)
    assert renewed.returncode == 0, renewed.stderr
    after = open_bootstrap(site, relay)
    assert f"sudo darkpipe relay replace --yes < {file.name}\n" in renewed.stderr
    assert read_bootstrap(file.read_bytes()) == after.home
    assert output.read_text() == user_data(some_site("example.com"), after, "") != first.stdout
    keys = {end.private_key for made in (before, after) for end in (made.home, made.relay)}
    assert len(keys) == 4
    assert not any(key in renewed.stderr for key in keys)
    former = file.with_name(f"{file.name}.former")
    assert Bootstrap.model_validate_json(former.read_bytes()) == before
    assert stat.S_IMODE(former.stat().st_mode) == 0o600
    # Without the option, it stays the same text; what is refused renews nothing.
    assert _run("user-data", site).stdout == output.read_text()
    too_long = tmp_path / "long.pub"
    too_long.write_text(public_key_line("ssh-rsa", b"\1\0\1", b"\0" + b"\xff" * 4096) + "\n")
    for arguments in (("--provider", "nobody"), ("--ssh-key", too_long)):
        assert _run("user-data", site, "--renew", *arguments).returncode == 1
        assert open_bootstrap(site, relay) == after


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    site, key = tmp_path / "home.yaml", tmp_path / "key"
    site.write_text(_FILE)
    key.write_bytes(b"-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\xff\n")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for arguments, words in (
        ((), "found no relay"),
        (("--provider", "nobody"), "known are: generic, hetzner"),
        (("--ssh-key", key), "with the ending .pub"),
        (("--output", tmp_path / "no/relay.yaml"), "cannot be written"),
        (("--output", site), "is there already, and is no user-data"),
        (("--output", key), "is there already, and is no user-data"),
        (("--output", pipe), "is there already, and is no user-data"),
        (("--output", ""), "is there already, and is no user-data"),
        (("--ssh-key", os.devnull), "the SSH key is none"),
    ):
        refused = _run("user-data", site, *arguments)
        assert refused.returncode == 1
        assert refused.stdout == ""
        assert words in " ".join(refused.stderr.split())
        assert "Traceback" not in refused.stderr
        assert "c2VjcmV0" not in refused.stderr
        assert not keys_folder(site).exists(), "refused before anything is changed"
        assert site.read_text().startswith(_FILE)
        site.write_text(_FILE + _RELAYS)


def test_an_empty_file_is_written_over(tmp_path: Path) -> None:
    site, empty = tmp_path / "home.yaml", tmp_path / "relay.yaml"
    site.write_text(_FILE + _RELAYS)
    empty.touch()
    done = _run("user-data", site, "--output", empty)
    assert done.returncode == 0, done.stderr
    assert empty.read_text().startswith("#cloud-config\n")
