"""User-data: what is in it, how large it gets, and what cannot be slipped into it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bootstrap.ends import Bootstrap, make_bootstrap
from builder.bootstrap import open_bootstrap
from builder.errors import BuildError
from builder.user_data import LIMIT, next_steps, providers, user_data
from model.accounts import first_accounts
from model.names import domain_name
from model.problems import Refusal
from model.site import Relay
from stack.addresses import alias_domains
from tests.relay_files import RelaySetting, relay_files
from tests.tiers import REPOSITORY
from tests.unit.user_data_samples import KEY, PLAIN_KEY, public_key_line, some_site


@pytest.fixture
def bootstrap(tmp_path: Path) -> Bootstrap:
    return open_bootstrap(tmp_path / "home.yaml", some_site().relays[0])


def _written(text: str) -> dict[str, dict[str, str]]:
    return {file["path"]: file for file in yaml.safe_load(text)["write_files"]}


def test_it_is_yaml_and_holds_every_file_as_it_is(bootstrap: Bootstrap) -> None:
    text = user_data(some_site(), bootstrap)
    assert text.startswith("#cloud-config\n")
    files = _written(text)
    for path in ("usr/local/sbin/darkpipe-setup", "etc/apt/apt.conf.d/52darkpipe", "etc/sysctl.d/60-darkpipe.conf"):
        assert files[f"/{path}"]["content"] == (REPOSITORY / "relay-cloudinit/files" / path).read_text()
    assert files["/etc/wireguard/home0.conf"]["permissions"] == "0600"


def test_domains_are_no_part_of_it(bootstrap: Bootstrap) -> None:
    """They come with home's settings, and so do changes of them."""
    assert user_data(some_site("example.com"), bootstrap) == user_data(
        some_site("example.com", "example.org"), bootstrap
    )


def test_nothing_that_a_program_had_in_memory_comes_to_the_disk(bootstrap: Bootstrap) -> None:
    """By swap, by a core file, or by Ubuntu's reports of crashes."""
    files = _written(user_data(some_site(), bootstrap))
    setup = files["/usr/local/sbin/darkpipe-setup"]["content"]
    assert re.search(r"^swapoff --all", setup, re.MULTILINE)
    masked = re.search(r"^systemctl mask --quiet --now (.*)$", setup, re.MULTILINE)
    assert masked
    # The target: else systemd turns on what the partition table calls swap.
    assert {"apport", "swap.target"} <= set(masked[1].split())
    assert "LimitCORE=0\n" in files["/etc/darkpipe/cage.conf"]["content"]


def test_the_only_secret_in_it_is_the_relays_key(bootstrap: Bootstrap) -> None:
    text = user_data(some_site(), bootstrap)
    assert text.count(bootstrap.relay.private_key) == 1
    assert bootstrap.home.private_key not in text
    assert bootstrap.relay.private_key not in next_steps(some_site(), text, providers()["generic"])
    assert bootstrap.relay.private_key not in repr(bootstrap)


def test_the_largest_that_people_have_fits(bootstrap: Bootstrap) -> None:
    many = [f"family-with-a-long-name-number-{number}.example" for number in range(12)]
    key = public_key_line("ssh-rsa", b"\1\0\1", b"\0" + b"\xff" * 512) + " alice@desk"
    text = user_data(some_site(*many), bootstrap, key)
    assert len(text.encode()) <= LIMIT


def test_too_much_is_refused(bootstrap: Bootstrap) -> None:
    key = public_key_line("ssh-rsa", b"\1\0\1", b"\0" + b"\xff" * 4096)
    with pytest.raises(BuildError, match="takes 16,384") as error:
        user_data(some_site(), bootstrap, key)
    assert "ssh-ed25519" in error.value.hint


@pytest.mark.parametrize(
    "key",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
        KEY + "\n" + KEY,
        "ssh-ed25519 AAAA alice: desk\nruncmd:",
        "ssh-ed25519 AAAA # {{ 1 }}",
        f'command="reboot" {KEY}',
        f"{PLAIN_KEY[:-4]} alice@desk",
        KEY.replace("ssh-ed25519", "ssh-rsa"),
        public_key_line("ssh-dss", b"p", b"q", b"g", b"y"),
        public_key_line("ssh-ed25519"),
        f"{PLAIN_KEY}\truncmd",
        "hello",
    ],
)
def test_what_is_no_public_key_is_refused(bootstrap: Bootstrap, key: str) -> None:
    with pytest.raises(BuildError, match="SSH key"):
        user_data(some_site(), bootstrap, key)


@pytest.mark.parametrize(
    "comment", ["alice's key: no 1", "# hash", "runcmd: [reboot]", "{{ 1 }}", "büro", '"', "a  b", ""]
)
def test_a_comment_that_yaml_might_read_is_left_out(bootstrap: Bootstrap, comment: str) -> None:
    table = yaml.safe_load(user_data(some_site(), bootstrap, f"{PLAIN_KEY} {comment}\n"))
    assert table["ssh_authorized_keys"] == [PLAIN_KEY]
    assert table["runcmd"][1:] == [["/usr/local/sbin/darkpipe-setup"]]


def test_ssh_is_on_with_a_key_only(bootstrap: Bootstrap) -> None:
    with_key, without = (yaml.safe_load(user_data(some_site(), bootstrap, key)) for key in (KEY + "\n", ""))
    assert with_key["ssh_authorized_keys"] == [KEY]
    assert "ssh_authorized_keys" not in without
    assert with_key["runcmd"] == without["runcmd"][1:]
    assert without["runcmd"][0].startswith("systemctl disable --now ssh.service")
    assert with_key["ssh_pwauth"] is without["ssh_pwauth"] is False


def test_an_archive_that_does_not_answer_is_asked_again(bootstrap: Bootstrap, tmp_path: Path) -> None:
    """Nobody else would: SSH is off, and cloud-init does its work once."""
    waits, sets_up = yaml.safe_load(user_data(some_site(), bootstrap, KEY))["runcmd"]
    asked = tmp_path / "asked"
    for name, script in {
        "cloud-init": f'echo "$*" >>{asked}',
        "which": f"[ $(wc -l <{asked}) = 2 ] && [ $# = 4 ]",
        **dict.fromkeys(("sleep", "dpkg", "apt-get"), ""),
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    asked.touch()
    subprocess.run(["sh", "-c", waits], check=True, timeout=60, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert asked.read_text() == "single --name cc_package_update_upgrade_install --frequency always\n" * 2
    assert sets_up == ["/usr/local/sbin/darkpipe-setup"]


def test_packages_that_a_power_cut_has_left_half_are_finished(bootstrap: Bootstrap, tmp_path: Path) -> None:
    """Apt refuses everything before somebody does (dpkg(1), --configure; apt-get(8), --fix-broken)."""
    waits, _ = yaml.safe_load(user_data(some_site(), bootstrap, KEY))["runcmd"]
    half, broken, there = (tmp_path / f"packages-{state}" for state in ("half", "broken", "there"))
    for name, script in {
        "dpkg": f'case "$*" in *--force-confold*--configure*) rm {half} ;; esac',
        "apt-get": f"[ ! -e {half} ] && rm {broken}",
        "cloud-init": f"[ ! -e {half} ] && [ ! -e {broken} ] && touch {there}",
        "which": f"[ -e {there} ]",
        "sleep": "",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    half.touch()
    broken.touch()
    subprocess.run(["timeout", "10", "sh", "-c", waits], check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})


@pytest.mark.parametrize("name", sorted(providers()))
def test_every_claim_about_a_provider_has_its_source(name: str, bootstrap: Bootstrap) -> None:
    site, provider = some_site(), providers()[name]
    said = next_steps(site, user_data(site, bootstrap), provider)
    assert provider.name in said
    assert "PTR" in said
    assert "mx.example.com" in said
    for claim in provider.claims:
        assert claim.source in said
        assert str(claim.seen) in said


def test_what_is_next_names_records_and_ports(bootstrap: Bootstrap) -> None:
    site, provider = some_site(), providers()["generic"]
    closed, open_ = (next_steps(site, user_data(site, bootstrap, key), provider, key) for key in ("", KEY))
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
    site = some_site(name)
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
