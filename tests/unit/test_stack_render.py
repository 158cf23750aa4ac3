"""Rendering the shipped templates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest

from stack.render import Account, File, RenderError, render
from stack.stack import Stack
from tests.unit.stack_samples import COMPONENTS, HASH, sample_stack, site

CERTIFICATE = PurePosixPath("/data/tls/mail.pem")
ACCOUNTS = (Account("alice@example.com", HASH), Account("bob@example.org", HASH))


def _shipped() -> Mapping[PurePosixPath, File]:
    return render(Stack.load(COMPONENTS), site("  - {address: bob@example.org}\n"), ACCOUNTS, CERTIFICATE)


def _lines(name: str) -> list[str]:
    text = _shipped()[PurePosixPath(name)].content.decode()
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def test_every_daemon_gets_its_files() -> None:
    assert [str(path) for path in _shipped()] == [
        "dovecot/dovecot.conf",
        "dovecot/users",
        "nftables/ruleset.nft",
        "postfix/main.cf",
        "postfix/master.cf",
        "postfix/virtual_aliases",
        "postfix/virtual_mailboxes",
        "unbound/unbound.conf",
    ]


def test_nothing_is_left_of_the_templates() -> None:
    for path, file in _shipped().items():
        text = file.content.decode()
        assert "{%" not in text, path
        assert "{{" not in text, path
        assert text.endswith("\n"), path
        assert not [line for line in text.splitlines() if line != line.rstrip()], path


def test_hashes_are_for_dovecot_only() -> None:
    files = _shipped()
    users = files.pop(PurePosixPath("dovecot/users")) if isinstance(files, dict) else None
    assert users == File(users.content if users else b"", 0o640, "dovecot")
    assert all(HASH.encode() not in file.content and file == File(file.content) for file in files.values())


def test_the_password_file_is_dovecots() -> None:
    # passwd-file: user:password:uid:gid:gecos:home:shell:extra
    assert _lines("dovecot/users") == [f"{account.address}:{{ARGON2ID}}{HASH}::::::" for account in ACCOUNTS]


def test_postfix_knows_domains_mailboxes_and_aliases() -> None:
    main = _lines("postfix/main.cf")
    assert "virtual_mailbox_domains = example.com example.org" in main
    assert "virtual_alias_domains = mx.example.com" in main
    assert "myhostname = mx.example.com" in main
    assert _lines("postfix/virtual_mailboxes") == ["alice@example.com mailbox", "bob@example.org mailbox"]
    assert "sales@example.org alice@example.com" in _lines("postfix/virtual_aliases")


def test_no_program_that_could_send_outside_is_started() -> None:
    programs = [line.split()[7] for line in _lines("postfix/master.cf")]
    assert not {"smtp", "relay", "pipe", "local", "virtual"} & set(programs)


def test_the_firewall_opens_the_ports_of_the_stack_and_is_else_the_one_of_the_boot() -> None:
    rendered = _lines("nftables/ruleset.nft")
    ports = [line for line in rendered if " dport " in line and "comment" in line]
    assert [line.strip() for line in ports] == [
        'tcp dport 25 accept comment "smtp"',
        'tcp dport 993 accept comment "imaps"',
    ]
    static = (COMPONENTS / "firewall/files/etc/nftables.conf").read_text().splitlines()
    closed = [line for line in static if line.strip() and not line.lstrip().startswith("#")]
    assert [line for line in rendered if line not in ports] == closed


def test_the_same_input_gives_the_same_bytes() -> None:
    assert _shipped() == _shipped()


def test_an_unknown_name_is_an_error_of_its_template(tmp_path: Path) -> None:
    stack = sample_stack(tmp_path)
    (tmp_path / "one/templates/one/main.conf.j2").write_text("{{ site.colour }}\n")
    with pytest.raises(RenderError, match=r"one/main\.conf\.j2: .*colour"):
        render(stack, site(), ACCOUNTS, CERTIFICATE)


def test_a_secret_without_a_template_is_an_error(tmp_path: Path) -> None:
    stack = sample_stack(tmp_path)
    (tmp_path / "two/templates/two/secret.j2").unlink()
    with pytest.raises(RenderError, match="two/secret"):
        render(stack, site(), ACCOUNTS, CERTIFICATE)
