"""`site.yaml` in and out: every problem at once and at its line; what is written can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.document import SiteError, dump_site, parse_site, read_site
from model.problems import Kind
from model.report import annotate
from model.site import DataDisk, Disk, MailServer, Site, UnlockPolicy, User

# Line 5 is the first after it.
HEAD = """\
version: 1
domains: [example.com]
disk: {unlock: none}
users:
"""
ALICE = "  - address: alice@example.com\n"
GOOD = HEAD + ALICE
JSON = """\
{"version": 1, "domains": ["example.com"], "disk": {"unlock": "none"},
 "users": [{"address": "alice@example.com"}]}
"""

HASH = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHRzYWx0c2E$dGFndGFndGFndGFndGFndGFndGFndGFndGFndGFndGE"


def problems(text: str) -> list[tuple[str, int]]:
    """Give kind and line of each problem."""
    with pytest.raises(SiteError) as refused:
        parse_site(text, "site.yaml")
    assert all(problem.found and problem.expected and problem.remedy for problem in refused.value.problems)
    return [(problem.kind.value, problem.line) for problem in refused.value.problems]


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.rstrip(),
        f"# a comment\n---\n{GOOD}...\n",
        f"%YAML 1.1\n---\n{GOOD}",
        JSON,
        f"{GOOD}    password: {HASH}\n",
        f"{GOOD}    password: 'prompt'\n",
        f"{GOOD}    aliases: [no@example.com, 'y@example.com', \"010@example.com\", 2024-01-01@example.com]\n",
    ],
)
def test_good_sites_are_taken(text: str) -> None:
    assert parse_site(text, "site.yaml").domains == ("example.com",)


SINGLE_PROBLEMS = [
    # The document as a whole.
    ("", "wrong-type", 0),
    ("# nothing\n\n", "wrong-type", 0),
    ("- version: 1\n", "wrong-type", 1),
    ("just a text\n", "wrong-type", 1),
    (f"{GOOD}---\nversion: 1\n", "syntax", 6),
    ("a: " + "[" * 1000, "syntax", 1),
    ("{a: " * 1000, "syntax", 1),
    # YAML's grammar.
    (f"{GOOD}\tpassword: generate\n", "syntax", 6),
    (f"{GOOD}   password: generate\n", "syntax", 6),
    (f"{GOOD}    aliases: [a@example.com\n", "syntax", 6),
    (f"{GOOD}    aliases: {{a@example.com]\n", "syntax", 6),
    (f"{GOOD}    aliases\n    password: generate\n", "syntax", 6),
    (f'{GOOD}    password: "generate\n', "syntax", 6),
    (f"{GOOD}    password: a: b\n", "syntax", 6),
    (f"{GOOD}    password: @home\n", "syntax", 6),
    (f'{GOOD}    password: "\\q"\n', "syntax", 6),
    (f'{GOOD}    password: "\\UFFFFFFFF"\n', "syntax", 6),
    (f"{GOOD}    password: %home\n", "syntax", 6),
    (f"{GOOD}    password: - home\n", "syntax", 6),
    (f"{GOOD}    pass\x07word: generate\n", "syntax", 6),
    (f"{GOOD}    password: !!binary\x00\n", "syntax", 6),
    # What YAML allows and we do not.
    (f"{GOOD}    aliases: &a []\n", "anchor", 6),
    (f"{GOOD}    aliases: *a\n", "anchor", 6),
    (f"{GOOD}    aliases: !!set []\n", "tag", 6),
    (f"{GOOD}    aliases: []\n    aliases: []\n", "duplicate-key", 7),
    (f"{GOOD}version: 1\n", "duplicate-key", 6),
    (f"{GOOD}? [a]\n: b\n", "bad-key", 6),
    (f"{GOOD}'': b\n", "bad-key", 6),
    # Keys.
    (f"{GOOD}1: b\n", "unknown-key", 6),
    (f"{GOOD}<<: {{admin: alice@example.com}}\n", "unknown-key", 6),
    (f"{GOOD}no: b\n", "unknown-key", 6),
    (f"{GOOD}    alias: []\n", "unknown-key", 6),
    (GOOD.replace("none", "none, key: tpm2"), "unknown-key", 3),
    (GOOD.replace("version: 1\n", ""), "missing-key", 1),
    (GOOD.replace("disk: {unlock: none}\n", ""), "missing-key", 1),
    (GOOD.replace("{unlock: none}", "{}"), "missing-key", 3),
    (f"{GOOD}  - password: generate\n", "missing-key", 6),
    # Values.
    (GOOD.replace("1", "2"), "no-choice", 1),
    (GOOD.replace("1", "'1'"), "no-choice", 1),
    (GOOD.replace("1", "1.0"), "no-choice", 1),
    (GOOD.replace("1", "true"), "no-choice", 1),
    (GOOD.replace("1", "9" * 9999), "no-choice", 1),
    (GOOD.replace("none", "no"), "no-choice", 3),
    (GOOD.replace("none", "null"), "no-choice", 3),
    (f"{GOOD}mail_server: sendmail\n", "no-choice", 6),
    (f"{GOOD}mail_server: [stalwart]\n", "no-choice", 6),
    (GOOD.replace("{unlock: none}", "none"), "wrong-type", 3),
    (GOOD.replace("[example.com]", "example.com"), "wrong-type", 2),
    (GOOD.replace("[example.com]", "{example.com: }"), "wrong-type", 2),
    (GOOD.replace("[example.com]", "[]"), "empty-list", 2),
    (f"{HEAD}  []\n", "empty-list", 5),
    (HEAD, "wrong-type", 4),
    (f"{HEAD}  {{}}\n", "wrong-type", 5),
    (f"{HEAD}  - alice@example.com\n", "wrong-type", 5),
    (f"{HEAD}  - a text of\n    two lines\n", "wrong-type", 5),
    (f"{GOOD}    aliases:\n", "wrong-type", 6),
    (f"{GOOD}    aliases: a@example.com\n", "wrong-type", 6),
    (f"{GOOD}    aliases:\n      - b@example.com\n      - 5\n", "wrong-type", 8),
    (f"{GOOD}admin: [alice@example.com]\n", "wrong-type", 6),
    (GOOD.replace("[example.com]", "[example.com, com]"), "bad-domain", 2),
    (GOOD.replace("[example.com]", "[example.com, no]"), "bad-domain", 2),
    (f"{GOOD}    aliases: [b@example]\n", "bad-domain", 6),
    (f"{GOOD}    aliases: [postmaster]\n", "bad-address", 6),
    (f"{GOOD}admin: root\n", "bad-address", 6),
    (f"{GOOD}    password: 12345\n", "bad-password", 6),
    (f"{GOOD}    password: 1999-01-01\n", "bad-password", 6),
    (f"{GOOD}    password:\n", "bad-password", 6),
    (f"{GOOD}    password: {{a: b}}\n", "bad-password", 6),
    # Between values.
    (GOOD.replace("[example.com]", "[example.com, EXAMPLE.com]"), "twice", 2),
    (f"{GOOD}  - address: Alice@example.com\n", "twice", 6),
    (f"{GOOD}    aliases: [alice@example.com]\n", "twice", 6),
    (f"{GOOD}    aliases: [b@example.com]\n  - address: b@example.com\n", "twice", 7),
    (f"{GOOD}  - address: bob@example.net\n", "foreign-domain", 6),
    (f"{GOOD}    aliases: [bob@sub.example.com]\n", "foreign-domain", 6),
    (f"{GOOD}admin: bob@example.com\n", "unknown-admin", 6),
    (f"{GOOD}admin: alice@example.net\n", "unknown-admin", 6),
]


@pytest.mark.parametrize(("text", "kind", "line"), SINGLE_PROBLEMS)
def test_one_mistake_is_one_problem_at_its_line(text: str, kind: str, line: int) -> None:
    assert problems(text) == [(kind, line)]


BOB_TWICE = """\
  - address: bob@example.org
    password: x
    nick: b
  - address: bob@example.org
"""
RELAYS = """\
relays:
  - address: relay
  - address: mx.example.com
    offline: q
  - address: MX.example.com
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version: 1\n", [("missing-key", 1)] * 3),
        (
            # Mistakes in single values do not hide those between values, nor what is not built.
            f"version: 2\ndomains: [example.com]\ndisk: {{unlock: none}}\nmail_server: maddy\nusers:\n{BOB_TWICE}",
            [
                ("no-choice", 1),
                ("not-built", 4),
                ("foreign-domain", 6),
                ("bad-password", 7),
                ("unknown-key", 8),
                ("twice", 9),
                ("foreign-domain", 9),
            ],
        ),
        (
            # A malformed domain does not make strangers of all addresses in it …
            "version: 1\ndomains: ['example,com']\ndisk: {unlock: none}\nusers: [{address: a@example.com}]\n",
            [("bad-domain", 2)],
        ),
        (
            # … but an address that looks like a slip of the pen is told.
            GOOD.replace("[example.com]", "[example.com, com]") + "  - address: bob@exmaple.com\n",
            [("bad-domain", 2), ("foreign-domain", 6)],
        ),
        (
            # Who the admin is cannot be told while an address is malformed.
            f"{HEAD}  - address: alice\nadmin: alice@example.com\n",
            [("bad-address", 5)],
        ),
        (
            f"{GOOD}{RELAYS}",
            [("not-built", 6), ("bad-domain", 7), ("no-choice", 9), ("twice", 10)],
        ),
        (
            # An alias is refused, and what it might have been is not judged.
            f"domains: &d [example.com]\n{GOOD.replace('[example.com]', '*d')}".replace("domains: *d\n", "admin: *d\n"),
            [("anchor", 1), ("anchor", 3)],
        ),
    ],
)
def test_every_problem_is_told_at_once_in_the_order_of_the_file(text: str, expected: list[tuple[str, int]]) -> None:
    assert problems(text) == expected


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (f"{GOOD}admn: alice@example.com\n", "did you mean `admin`?"),
        (f"{GOOD}mail-server: maddy\n", "did you mean `mail_server`?"),
        (f"{GOOD}    adress: x\n", "did you mean `address`?"),
        (f"{GOOD}quux: x\n", "remove the key"),
        (GOOD.replace("none", "usbkey"), "did you mean `usb-key`?"),
        # Nobody is led to a disk that is not encrypted.
        (GOOD.replace("none", "quux"), "write `unlock: passphrase`"),
        (GOOD.replace("none", ""), "write `unlock: passphrase`"),
        (GOOD.replace("{unlock: none}", "passphrase"), "write `disk: {unlock: passphrase}`"),
        (GOOD.replace("{unlock: none}", "tpm2"), "write `disk: {unlock: tpm2}`"),
        (GOOD.replace("{unlock: none}", "encrypted"), "write `disk: {unlock: passphrase}`"),
        (f"{GOOD}  - address: bob@exmaple.com\n", "did you mean `bob@example.com`?"),
        (f"{GOOD}  - address: bob@quux.org\n", "add `quux.org` to `domains`"),
        (f"{GOOD}admin: alcie@example.com\n", "did you mean `alice@example.com`?"),
        (GOOD.replace("[example.com]", "example.com"), "write `domains: [example.com]`"),
        (GOOD.replace("disk: {unlock: none}\n", ""), "add `disk: {unlock: passphrase}`"),
        (GOOD.replace("1", "'1'"), "write `version: 1`"),
        (f"{GOOD}    password: secret\n", "write `prompt`"),
        (f"{GOOD}    aliases: [alice+x@example.com]\n", "`alice+anything@example.com` arrives by itself"),
    ],
)
def test_the_remedy_fits(text: str, remedy: str) -> None:
    with pytest.raises(SiteError) as refused:
        parse_site(text, "site.yaml")
    assert remedy in refused.value.problems[0].remedy


def test_a_second_one_names_the_line_of_the_first() -> None:
    with pytest.raises(SiteError) as refused:
        parse_site(f"{GOOD}    aliases: [b@example.com]\n  - address: b@example.com\n", "site.yaml")
    assert refused.value.problems[0].found.endswith("the first is in line 6")


def test_columns_are_those_of_the_file() -> None:
    with pytest.raises(SiteError) as refused:
        parse_site(GOOD.replace("[example.com]", "[example.com, müller.example, com]"), "site.yaml")
    span = refused.value.problems[0].span
    assert span is not None
    assert (span.line, span.column, span.end_line, span.end_column) == (2, 40, 2, 43)


def test_an_avalanche_of_aliases_stays_small() -> None:
    layers = "".join(f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]\n" for number in range(1, 10))
    found = problems(f"a0: &a0 [x]\n{layers}")
    assert {kind for kind, _ in found} == {"anchor", "unknown-key", "missing-key"}


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(GOOD, encoding="utf-8")
    assert read_site(path) == parse_site(GOOD, "site.yaml")


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(GOOD, encoding="utf-8-sig")
    assert read_site(path) == parse_site(GOOD, "site.yaml")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (GOOD.encode("utf-16"), "no UTF-8"),
        (f"{GOOD}# Größe\n".encode("latin-1"), "line 6 that are no UTF-8"),
        (b"#" * (1024 * 1024 + 1), "more than 1024 KiB"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_bytes(content)
    with pytest.raises(SiteError) as refused:
        read_site(path)
    (problem,) = refused.value.problems
    assert problem.kind is Kind.UNREADABLE
    assert found in problem.found


def test_a_file_that_is_not_there_is_told_like_any_problem(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(SiteError) as refused:
            read_site(path)
        assert refused.value.problems[0].kind is Kind.UNREADABLE
        assert str(path) in annotate(refused.value)


NAMES = st.from_regex(r"[a-z0-9_][a-z0-9_-]{0,10}(\.[a-z0-9_-]{1,5})?", fullmatch=True)
DOMAINS = st.sampled_from(["example.com", "no.example", "müller.example", "010.example", "1e3.example", "x.xn--p1ai"])
PASSWORDS = st.sampled_from(["prompt", "generate", HASH])


@st.composite
def sites(draw: st.DrawFn) -> Site:
    """Make any site that works today."""
    domains = draw(st.lists(DOMAINS, min_size=1, unique=True))
    names = draw(st.lists(NAMES, min_size=1, max_size=8, unique=True))
    addresses = [f"{name}@{draw(st.sampled_from(domains))}" for name in names]
    first_alias = draw(st.integers(1, len(addresses)))
    aliases = tuple(addresses[first_alias:])
    users = tuple(
        User(
            address=address,
            aliases=aliases if index == 0 else (),
            catch_all=tuple(domains[1:]) if index == 0 else (),
            quota=draw(st.sampled_from([None, "50M", "5G"])),
            password=draw(PASSWORDS),
        )
        for index, address in enumerate(addresses[:first_alias])
    )
    return Site(
        version=1,
        domains=tuple(domains),
        users=users,
        admin=draw(st.sampled_from(addresses)),
        mail_server=MailServer.POSTFIX_DOVECOT,
        disk=Disk(unlock=UnlockPolicy.NONE, data=draw(st.sampled_from(DataDisk))),
    )


@settings(deadline=None)
@given(sites())
def test_what_is_written_is_read_again(site: Site) -> None:
    text = dump_site(site)
    assert parse_site(text, "seed") == site
    assert dump_site(parse_site(text, "seed")) == text


def test_a_seed_spells_everything_out() -> None:
    assert dump_site(parse_site(GOOD, "site.yaml")) == (
        "version: 1\n"
        "domains:\n"
        "- example.com\n"
        "users:\n"
        "- address: alice@example.com\n"
        "  aliases: []\n"
        "  catch_all: []\n"
        "  quota: null\n"
        "  password: generate\n"
        "admin: alice@example.com\n"
        "mail_server: postfix-dovecot\n"
        "relays: []\n"
        "disk:\n"
        "  unlock: none\n"
        "  data: system\n"
    )
