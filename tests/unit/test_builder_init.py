"""`./darkpipe init`: its questions on a scripted terminal, its flags, and the file that it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from builder.errors import BuildError
from builder.interview import Given, interview
from builder.site_file import site_text, write_site
from model.document import parse_site, read_site
from model.site import Site, UnlockPolicy

REPOSITORY = Path(__file__).resolve().parents[2]
_DARKPIPE = ["-m", "builder"]
_FLAGS = Given(domains=("example.com",), unlock="none")


def _spawn(*arguments: str) -> pexpect.spawn[str]:
    command = [*_DARKPIPE, *arguments]
    return pexpect.spawn(sys.executable, command, cwd=str(REPOSITORY), encoding="utf-8", timeout=30)


def _ended(console: pexpect.spawn[str]) -> int | None:
    console.expect(pexpect.EOF)
    console.close()
    return console.exitstatus


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *_DARKPIPE, *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_enter_wherever_possible_gives_a_valid_site(tmp_path: Path) -> None:
    target = tmp_path / "site.yaml"
    console = _spawn("init", str(target))
    console.expect("Recommended: a domain that you have registered")
    console.expect("Your domains: ")
    console.sendline("")
    console.expect("Your domains: ")
    console.sendline("example.com")
    for prompt in (
        r"Mailbox 1 \[[^]]+@example.com\]: ",
        r"Mailbox 2 \(Enter: no more\): ",
        r"passwords \[generate\]: ",
        r"Relay \(Enter: none\): ",
    ):
        console.expect(prompt)
        console.sendline("")
    console.expect("Unlock the disk by: ")
    console.sendline("")
    console.expect("Unlock the disk by: ")
    console.sendline("none")
    console.expect("Now: ./darkpipe build")
    assert _ended(console) == 0
    site = read_site(target)
    assert site.domains == ("example.com",)
    assert site.disk.unlock is UnlockPolicy.NONE
    assert site.relays == ()
    assert [user.password for user in site.users] == ["generate"]
    assert target.stat().st_mode & 0o777 == 0o600


def test_every_answer_is_checked_at_once_in_the_model_s_words(tmp_path: Path) -> None:
    target = tmp_path / "site.yaml"
    console = _spawn("init", str(target))
    for prompt, wrong, words, right in (
        ("Your domains: ", "example", "single word `example`", "example.com, example.org"),
        ("Mailbox 1 ", "alice@example.net", r"whose\s+domain\s+is\s+none", "alice@example.com Info@example.org"),
        ("Mailbox 2 ", "bob@example.com info@example.org", "a second time", "bob@example.com"),
        ("Mailbox 3 ", "", "", ""),
        ("First passwords ", "hunter2", r"Found\s", "prompt"),
        ("Administrator ", "carol@example.com", r"nobody\s+reads", "bob@example.com"),
        ("Relay ", "192.0.2.300", "Found", "192.0.2.1"),
        ("Unlock the disk by: ", "hope", "Found", "none"),
    ):
        if words:
            console.expect(prompt)
            console.sendline(wrong)
            console.expect(words)
        console.expect(prompt)
        console.sendline(right)
    assert _ended(console) == 0
    site = read_site(target)
    assert site.domains == ("example.com", "example.org")
    assert [user.address for user in site.users] == ["alice@example.com", "bob@example.com"]
    assert site.users[0].aliases == ("info@example.org",)
    assert site.admin == "bob@example.com"
    assert {user.password for user in site.users} == {"prompt"}
    assert [(relay.address, relay.offline) for relay in site.relays] == [("192.0.2.1", "queue")]


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    console = _spawn("init", str(tmp_path / "site.yaml"))
    console.expect("Your domains: ")
    # Python overlooks a signal that comes right before it begins to wait for input: a person presses once more.
    for _ in range(5):
        console.sendintr()
        if console.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=5) == 0:
            break
    assert _ended(console) == 130
    assert list(tmp_path.iterdir()) == []


def test_flags_answer_everything(tmp_path: Path) -> None:
    target = tmp_path / "site.yaml"
    flags = ["--domain", "example.com", "--user", "alice@example.com,info@example.com", "--user", "bob@example.com"]
    flags += ["--password", "generate", "--admin", "info@example.com", "--mail-server", "postfix-dovecot"]
    flags += ["--relay", "mx.example.com"]
    made = _run("init", str(target), *flags, "--unlock", "none")
    assert made.returncode == 0, made.stderr
    assert made.stdout == f"{target}\n"
    checked = _run("check", str(target))
    assert checked.returncode == 0, checked.stderr
    assert read_site(target).admin == "info@example.com"
    assert read_site(target).relays[0].address == "mx.example.com"
    assert "relays:\n  - address: mx.example.com\n    # What the relay does" in target.read_text()
    assert "null" not in target.read_text()
    assert f"./darkpipe user-data {target}" in made.stderr


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Given(unlock="none"), "--domain cannot be guessed"),
        (Given(), "--domain and --unlock"),
        (Given(("example",), unlock="none"), "--domain: the single word"),
        (Given(("example.com",), ("x@y.org",), unlock="none"), "--user: `x@y.org`, whose domain"),
        (Given(("example.com",), ("",), unlock="none"), "--user: an empty list"),
        (Given(("example.com",), relay="a b", unlock="none"), "--relay: "),
        (Given(("example.com",), unlock="hope"), "--unlock: the text `hope`"),
        (Given(("example.com",), unlock="relay"), "--unlock: `relay`, and this site has none"),
        (Given(("example.com",), mail_server="exim", unlock="none"), "--mail-server: the text `exim`"),
        (Given(("example.com",), admin="bob@example.com", unlock="none"), "--admin: `bob@example.com`"),
    ],
)
def test_wrong_or_missing_flags(given: Given, words: str) -> None:
    with pytest.raises(BuildError, match=words):
        interview(given, None, "alice")


def test_a_password_that_is_none_is_never_shown() -> None:
    with pytest.raises(BuildError, match="--password") as caught:
        interview(Given(("example.com",), password="hunter2secret", unlock="none"), None, "alice")
    assert "hunter2secret" not in f"{caught.value}{caught.value.hint}"


@pytest.mark.parametrize(
    ("login", "address"),
    [("alice", "alice@example.com"), ("DOMAIN\\alice", "me@example.com"), ("root", "me@example.com")],
)
def test_first_mailbox_has_the_login_name_where_it_can(login: str, address: str) -> None:
    assert interview(_FLAGS, None, login).users[0].address == address


def test_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "site.yaml"
    target.write_text("mine")
    refused = _run("init", str(target), "--domain", "example.com", "--unlock", "none")
    assert refused.returncode == 1
    assert "is not overwritten" in refused.stderr
    with pytest.raises(BuildError, match="is not overwritten"):
        write_site(target, interview(_FLAGS, None, "alice"))
    assert target.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [target]


def test_dangling_link_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "site.yaml"
    target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BuildError, match="is not overwritten"):
        write_site(target, interview(_FLAGS, None, "alice"))


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cannot be written"):
        write_site(tmp_path / "no/site.yaml", interview(_FLAGS, None, "alice"))


def test_text_reads_back_as_the_same_site() -> None:
    users = [{"address": "no@example.com", "aliases": ["yes@example.com"]}, {"address": "1@example.com"}]
    site = Site.model_validate({"version": 1, "domains": ["example.com"], "users": users, "disk": {"unlock": "none"}})
    text = site_text(site)
    assert parse_site(text, "text") == site
    assert max(map(len, text.splitlines())) <= 100
