"""User-data: what is in it, how large it gets, and what cannot be slipped into it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import builder.bootstrap
from bootstrap.ends import Bootstrap, make_bootstrap
from builder.bootstrap import bootstrap_file, has_bootstrap, keys_folder, open_bootstrap
from builder.errors import BuildError
from builder.user_data import LIMIT, next_steps, providers, user_data
from home.pair_commands import read_bootstrap
from model.accounts import first_accounts
from model.names import domain_name
from model.problems import Refusal
from model.site import Relay, Site
from model.tunnel import Addresses, HomeEnd, RelayEnd
from stack.addresses import alias_domains
from tests.relay_files import RelaySetting, relay_files


def _public_key(kind: str, *parts: bytes) -> str:
    """Put a line of authorized_keys together (RFC 4253 §6.6)."""
    strings = (kind.encode(), *parts)
    blob = b"".join(len(part).to_bytes(4) + part for part in strings)
    return f"{kind} {base64.b64encode(blob).decode()}"


_PLAIN_KEY = _public_key("ssh-ed25519", bytes(range(32)))
_KEY = f"{_PLAIN_KEY} alice@desk"


def _site(*domains: str) -> Site:
    names = domains or ("example.com", "bücher.example")
    return Site.model_validate(
        {
            "version": 1,
            "domains": names,
            "users": [{"address": f"alice@{names[0]}"}],
            "disk": {"unlock": "none"},
            "relays": [{"address": "mx.example.com", "offline": "tempfail"}],
        }
    )


@pytest.fixture
def bootstrap(tmp_path: Path) -> Bootstrap:
    return open_bootstrap(tmp_path / "home.yaml", _site().relays[0])


def _written(text: str) -> dict[str, dict[str, str]]:
    return {file["path"]: file for file in yaml.safe_load(text)["write_files"]}


def test_it_is_yaml_and_holds_every_file_as_it_is(bootstrap: Bootstrap) -> None:
    text = user_data(_site(), bootstrap)
    assert text.startswith("#cloud-config\n")
    files = _written(text)
    repository = Path(__file__).resolve().parent.parent.parent
    for path in ("usr/local/sbin/darkpipe-setup", "etc/apt/apt.conf.d/52darkpipe", "etc/sysctl.d/60-darkpipe.conf"):
        assert files[f"/{path}"]["content"] == (repository / "relay-cloudinit/files" / path).read_text()
    assert files["/etc/wireguard/home0.conf"]["permissions"] == "0600"


def test_domains_are_no_part_of_it(bootstrap: Bootstrap) -> None:
    """They come with home's settings, and so do changes of them."""
    assert user_data(_site("example.com"), bootstrap) == user_data(_site("example.com", "example.org"), bootstrap)


def test_the_only_secret_in_it_is_the_relays_key(bootstrap: Bootstrap) -> None:
    text = user_data(_site(), bootstrap)
    assert text.count(bootstrap.relay.private_key) == 1
    assert bootstrap.home.private_key not in text
    assert bootstrap.relay.private_key not in next_steps(_site(), text, providers()["generic"])
    assert bootstrap.relay.private_key not in repr(bootstrap)


def test_the_largest_that_people_have_fits(bootstrap: Bootstrap) -> None:
    many = [f"family-with-a-long-name-number-{number}.example" for number in range(12)]
    key = _public_key("ssh-rsa", b"\1\0\1", b"\0" + b"\xff" * 512) + " alice@desk"
    text = user_data(_site(*many), bootstrap, key)
    assert len(text.encode()) <= LIMIT


def test_too_much_is_refused(bootstrap: Bootstrap) -> None:
    key = _public_key("ssh-rsa", b"\1\0\1", b"\0" + b"\xff" * 4096)
    with pytest.raises(BuildError, match="takes 16,384") as error:
        user_data(_site(), bootstrap, key)
    assert "ssh-ed25519" in error.value.hint


@pytest.mark.parametrize(
    "key",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
        _KEY + "\n" + _KEY,
        "ssh-ed25519 AAAA alice: desk\nruncmd:",
        "ssh-ed25519 AAAA # {{ 1 }}",
        f'command="reboot" {_KEY}',
        f"{_PLAIN_KEY[:-4]} alice@desk",
        _KEY.replace("ssh-ed25519", "ssh-rsa"),
        _public_key("ssh-dss", b"p", b"q", b"g", b"y"),
        _public_key("ssh-ed25519"),
        f"{_PLAIN_KEY}\truncmd",
        "hello",
    ],
)
def test_what_is_no_public_key_is_refused(bootstrap: Bootstrap, key: str) -> None:
    with pytest.raises(BuildError, match="SSH key"):
        user_data(_site(), bootstrap, key)


@pytest.mark.parametrize(
    "comment", ["alice's key: no 1", "# hash", "runcmd: [reboot]", "{{ 1 }}", "büro", '"', "a  b", ""]
)
def test_a_comment_that_yaml_might_read_is_left_out(bootstrap: Bootstrap, comment: str) -> None:
    table = yaml.safe_load(user_data(_site(), bootstrap, f"{_PLAIN_KEY} {comment}\n"))
    assert table["ssh_authorized_keys"] == [_PLAIN_KEY]
    assert table["runcmd"][1:] == [["/usr/local/sbin/darkpipe-setup"]]


def test_ssh_is_on_with_a_key_only(bootstrap: Bootstrap) -> None:
    with_key, without = (yaml.safe_load(user_data(_site(), bootstrap, key)) for key in (_KEY + "\n", ""))
    assert with_key["ssh_authorized_keys"] == [_KEY]
    assert "ssh_authorized_keys" not in without
    assert with_key["runcmd"] == without["runcmd"][1:]
    assert without["runcmd"][0].startswith("systemctl disable --now ssh.service")
    assert with_key["ssh_pwauth"] is without["ssh_pwauth"] is False


def test_an_archive_that_does_not_answer_is_asked_again(bootstrap: Bootstrap, tmp_path: Path) -> None:
    """Nobody else would: SSH is off, and cloud-init does its work once."""
    waits, sets_up = yaml.safe_load(user_data(_site(), bootstrap, _KEY))["runcmd"]
    asked = tmp_path / "asked"
    for name, script in {
        "cloud-init": f'echo "$*" >>{asked}',
        "which": f"[ $(wc -l <{asked}) = 2 ] && [ $# = 4 ]",
        "sleep": "",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    asked.touch()
    subprocess.run(["sh", "-c", waits], check=True, timeout=60, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert asked.read_text() == "single --name cc_package_update_upgrade_install --frequency always\n" * 2
    assert sets_up == ["/usr/local/sbin/darkpipe-setup"]


def test_two_first_calls_at_once_give_the_same_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)

    def make_slowly(relay: Relay) -> Bootstrap:
        with contextlib.suppress(threading.BrokenBarrierError):  # the other one waits elsewhere, as it should
            together.wait(0.2)
        return make_bootstrap(relay)

    monkeypatch.setattr(builder.bootstrap, "make_bootstrap", make_slowly)
    site, relay = tmp_path / "home.yaml", _site().relays[0]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: open_bootstrap(site, relay), range(2))
    assert first == second == open_bootstrap(site, relay)


def test_the_same_keys_every_time(tmp_path: Path) -> None:
    site, relay = tmp_path / "home.yaml", _site().relays[0]
    first = open_bootstrap(site, relay)
    assert open_bootstrap(site, relay) == first
    assert user_data(_site(), first) == user_data(_site(), open_bootstrap(site, relay))
    assert open_bootstrap(site, Relay.model_validate({"address": "192.0.2.1"})) != first
    folder = keys_folder(site)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_the_keys_get_into_no_repository(tmp_path: Path) -> None:
    site = tmp_path / "home.yaml"
    site.touch()
    open_bootstrap(site, _site().relays[0])
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    git = ["git", "-C", str(tmp_path), "status", "--porcelain", "--untracked-files=all"]
    assert subprocess.run(git, capture_output=True, text=True, check=True).stdout == "?? home.yaml\n"


def test_both_halves_belong_together(bootstrap: Bootstrap) -> None:
    assert bootstrap.home.addresses == bootstrap.relay.addresses
    assert isinstance(bootstrap.home, HomeEnd)
    assert isinstance(bootstrap.relay, RelayEnd)
    keys = {bootstrap.home.private_key, bootstrap.home.relay_key, bootstrap.relay.private_key, bootstrap.relay.home_key}
    assert len(keys) == 4


def test_addresses_are_made_up_anew_for_each(tmp_path: Path) -> None:
    made = {open_bootstrap(tmp_path / f"{number}.yaml", _site().relays[0]).home.addresses for number in range(20)}
    assert len(made) == 20
    assert all(isinstance(one, Addresses) for one in made)


def test_a_folder_that_others_may_read_is_refused(tmp_path: Path) -> None:
    site = tmp_path / "home.yaml"
    keys_folder(site).mkdir(mode=0o755)
    with pytest.raises(BuildError, match="found permissions 0755") as error:
        open_bootstrap(site, _site().relays[0])
    assert "chmod 0700" in error.value.hint


@pytest.mark.parametrize("part", ["home", "relay"])
@pytest.mark.parametrize("wrong", ["keys", "addresses"])
def test_ends_of_two_tunnels_are_refused(tmp_path: Path, part: str, wrong: str) -> None:
    site, relay = tmp_path / "home.yaml", _site().relays[0]
    one, other = (open_bootstrap(site, relay).model_dump(mode="json"), make_bootstrap(relay).model_dump(mode="json"))
    theirs, addresses = (other, one) if wrong == "keys" else (one, other)
    mixed = theirs[part] | {"addresses": addresses[part]["addresses"]}
    (keys_folder(site) / "mx.example.com.json").write_text(json.dumps(one | {part: mixed}))
    with pytest.raises(BuildError, match=f"the {wrong} of the two ends do not belong together"):
        open_bootstrap(site, relay)


@pytest.mark.parametrize("content", ["", "{}", "null", '{"home": {"private_key": "c2VjcmV0"}}'])
def test_a_damaged_file_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    site, relay = tmp_path / "home.yaml", _site().relays[0]
    open_bootstrap(site, relay)
    path = keys_folder(site) / "mx.example.com.json"
    path.write_text(content)
    with pytest.raises(BuildError) as error:
        open_bootstrap(site, relay)
    assert str(path) in str(error.value)
    assert "c2VjcmV0" not in str(error.value)
    assert path.read_text() == content


@pytest.mark.parametrize("name", sorted(providers()))
def test_every_claim_about_a_provider_has_its_source(name: str, bootstrap: Bootstrap) -> None:
    site, provider = _site(), providers()[name]
    said = next_steps(site, user_data(site, bootstrap), provider)
    assert provider.name in said
    assert "PTR" in said
    assert "mx.example.com" in said
    for claim in provider.claims:
        assert claim.source in said
        assert str(claim.seen) in said


def test_what_is_next_names_records_and_ports(bootstrap: Bootstrap) -> None:
    site, provider = _site(), providers()["generic"]
    closed, open_ = (next_steps(site, user_data(site, bootstrap, key), provider, key) for key in ("", _KEY))
    assert "mail.example.com" in closed
    assert "SSH is off" in closed
    assert "TCP 22" not in closed
    assert "TCP 22" in open_
    assert "SSH is off" not in open_
    assert "looks for the relay" not in closed
    elsewhere = site.model_copy(update={"relays": (Relay.model_validate({"address": "192.0.2.1"}),)})
    assert "looks for the relay at 192.0.2.1" in next_steps(elsewhere, "", provider)


_HOSTILE = (
    "\n",
    "\r",
    "\0",
    "\x85",
    "\u2028",
    " ",
    "\t",
    "'",
    '"',
    "#",
    ": ",
    "{{ 1 }}",
    "${a}",
    "$(a)",
    ";",
    "}",
    "\\",
    ",",
)


@given(st.text(max_size=30) | st.lists(st.sampled_from((*_HOSTILE, "a", "ü", "-")), max_size=12).map("".join))
def test_a_domain_is_a_word_and_nothing_else(label: str) -> None:
    try:
        name = domain_name(f"{label}.example")
    except Refusal:
        return
    site = _site(name)
    bootstrap = make_bootstrap(site.relays[0])
    user_data_of_it = yaml.safe_load(user_data(site, bootstrap))
    assert user_data_of_it.get("fqdn", f"mx.{name}") == f"mx.{name}"
    accounts = first_accounts(site)
    setting = RelaySetting(accounts.mx_host, [name, *alias_domains(accounts)], bootstrap.relay)
    settings = {str(file.path): file.text for file in relay_files(setting)}["/etc/postfix/main.cf"]
    line = next(line for line in settings.splitlines() if line.startswith("relay_domains = "))
    first, second, *unicode = line.split()[2:]
    assert (first, second) == (name, f"mx.{name}")
    assert [word.encode("idna").decode() for word in unicode] in ([], [name])


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "builder", *map(str, arguments)]
    folder = Path(__file__).resolve().parent.parent.parent
    return subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    )


_FILE = """\
version: 1
domains: [example.com]
users: [{address: alice@example.com}]
disk: {unlock: none}
"""
_RELAYS = "relays: [{address: mx.example.com, offline: tempfail}]\n"


def test_the_command_prints_the_text_alone_and_the_same_again(tmp_path: Path) -> None:
    site, key, written = (tmp_path / name for name in ("home.yaml", "key.pub", "relay.yaml"))
    site.write_text(_FILE + _RELAYS)
    key.write_text(_KEY + "\n")
    relay = Relay.model_validate({"address": "mx.example.com"})
    assert not has_bootstrap(site, relay)
    first = _run("user-data", site, "--provider", "hetzner", "--ssh-key", key)
    assert first.returncode == 0, first.stderr
    assert has_bootstrap(site, relay)
    assert "The keys are new" in first.stderr
    made = open_bootstrap(site, relay)
    assert first.stdout == user_data(_site("example.com"), made, _KEY)
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
    relay = _site("example.com").relays[0]
    first = _run("user-data", site)
    before = open_bootstrap(site, relay)
    file = bootstrap_file(site, relay)
    renewed = _run("user-data", site, "--renew", "--output", output)
    assert renewed.returncode == 0, renewed.stderr
    after = open_bootstrap(site, relay)
    assert f"sudo darkpipe relay replace --yes < {file.name}\n" in renewed.stderr
    assert read_bootstrap(file.read_bytes()) == after.home
    assert output.read_text() == user_data(_site("example.com"), after, "") != first.stdout
    keys = {end.private_key for made in (before, after) for end in (made.home, made.relay)}
    assert len(keys) == 4
    assert not any(key in renewed.stderr for key in keys)
    former = file.with_name(f"{file.name}.former")
    assert Bootstrap.model_validate_json(former.read_bytes()) == before
    assert stat.S_IMODE(former.stat().st_mode) == 0o600
    # Without the option, it stays the same text; what is refused renews nothing.
    assert _run("user-data", site).stdout == output.read_text()
    too_long = tmp_path / "long.pub"
    too_long.write_text(_public_key("ssh-rsa", b"\1\0\1", b"\0" + b"\xff" * 4096) + "\n")
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


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    site = tmp_path / "home.yaml"
    keys_folder(site).write_text("mine")
    assert not has_bootstrap(site, _site().relays[0])
    with pytest.raises(BuildError, match="exists"):
        open_bootstrap(site, _site().relays[0])
