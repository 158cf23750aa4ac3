"""How a refused file is shown: marks below the right characters, lines that fit, and no password in sight."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.document import SiteError, parse_site, read_site
from model.report import annotate

GOLDEN = Path(__file__).parent / "golden"
SECRET = "correct-horse"
HEAD = """\
version: 1
domains: [example.com]
disk: {unlock: none}
users:
"""


def report(text: str) -> str:
    """Give the report on a site that is refused."""
    with pytest.raises(SiteError) as refused:
        parse_site(text, "site.yaml")
    return annotate(refused.value)


def test_the_report_on_many_mistakes() -> None:
    with pytest.raises(SiteError) as refused:
        read_site(GOLDEN / "site-with-mistakes.yaml")
    error = SiteError("site.yaml", refused.value.text, refused.value.problems)
    assert annotate(error) + "\n" == (GOLDEN / "site-with-mistakes.txt").read_text(encoding="utf-8")


def test_far_lines_are_left_out() -> None:
    lines = report(f"{HEAD}  - address: alice@example.com\n" + "# …\n" * 20 + "admn: x\n").splitlines()
    assert lines[:6] == [
        "site.yaml cannot be used: 1 problem",
        "",
        "  25 │ # …",
        "  26 │ admn: x",
        "     │ ^^^^ E1",
        "",
    ]


def test_a_gap_is_shown_as_one() -> None:
    text = f"version: 2\n{HEAD[11:]}  - address: alice@example.com\n    aliases: []\nadmn: x\n"
    assert "  2 │ domains: [example.com]\n  …\n  6 │     aliases: []\n" in report(text)


def test_marks_that_collide_go_to_rows_of_their_own() -> None:
    text = f"{HEAD}  - {{address: al, aliases: [b, c]}}\n"
    assert report(text).split("\n\n")[1].splitlines() == [
        "  4 │ users:",
        "  5 │   - {address: al, aliases: [b, c]}",
        "    │               ^^ E1         ^ E2",
        "    │                                ^ E3",
    ]


def test_problems_at_one_place_share_a_mark() -> None:
    assert "  1 │ version: 1\n    │ ^^^^^^^ E1-E3\n" in report("version: 1\n")


def test_marks_stand_below_wide_characters() -> None:
    text = f"{HEAD}  - address: alice@example.com\n".replace("[example.com]", "[例え.jp, example.com, x]")
    assert "  2 │ domains: [例え.jp, example.com, x]\n    │                                 ^ E1" in report(text)


def test_a_long_line_is_shown_in_stretches() -> None:
    aliases = ", ".join(f"a{number}@example.com" for number in range(40))
    text = f"{HEAD}  - address: alice@example.com\n    aliases: [x, {aliases}, y]\n"
    shown = [line for line in report(text).splitlines() if line.startswith("  6 │")]
    assert len(shown) == 2
    assert shown[0].startswith("  6 │     aliases: [x, a0@")
    assert shown[0].endswith("…")
    assert shown[1].startswith("  6 │ …")
    assert shown[1].endswith("y]")


def test_control_characters_do_not_reach_the_terminal() -> None:
    shown = report(f"{HEAD}  - address: \x1b[2Jalice\u202e@example.com\n")
    assert all(character == "\n" or character.isprintable() for character in shown)


def test_very_many_problems_are_not_all_told() -> None:
    shown = report(f"{HEAD}  - address: alice@example.com\n" + "".join(f"k{number}: 1\n" for number in range(100)))
    assert "E40" in shown
    assert "E41" not in shown
    assert shown.endswith("… and 60 more. Mend these first.")


USER = "  - address: alice@example.com\n"
WAYS_TO_WRITE_A_SECRET = [
    f"{USER}    password: {SECRET}\n",
    f"{USER}    password: '{SECRET}'\n",
    f"{USER}    password: {SECRET} {SECRET} # {SECRET}\n",
    f"{USER}    # the password: {SECRET}\n    password: x\n",
    f"{USER}    # password {SECRET}\n    alias: x\n",
    f"{USER}    password: prompt # {SECRET}\n    Password: {SECRET}\n",
    f"{USER}    password: |\n      {SECRET}\n      {SECRET}\n",
    f"{USER}    password: >-\n\n      {SECRET}\n\n      {SECRET}\n    alias: x\n",
    f'{USER}    password: "{SECRET}\n      {SECRET}"\n',
    f"{USER}    password: [{SECRET}, {{{SECRET}: {SECRET}}}]\n",
    f"{USER}    password:\n      - {SECRET}\n",
    f"{USER}    password: {{a: {SECRET}}}\n",
    f"{USER}    password: $6${SECRET}\n",
    f"{USER}    password: $argon2id${SECRET}\n",
    f"{USER}    pasword: {SECRET}\n",
    f"{USER}    passwort: {SECRET}\n",
    f"{USER}    passphrase: {SECRET}\n",
    f"{USER}    secret: {SECRET}\n",
    f"{USER}    pw: {SECRET}\n",
    f"{USER}    password: {SECRET}\n    password: {SECRET}\n",
    f"{USER}    alice: {SECRET}\n",
    f"  - alice@example.com: {SECRET}\n",
    f"  - alice@example.com:{SECRET}\n",
    f"  - alice@example.com {SECRET}\n",
    f"  - address: alice@example.com {SECRET}\n",
    f"  - address: alice@example.com:{SECRET}\n",
    f"{USER}    aliases: [bob@example.com {SECRET}]\n",
    f"  alice@example.com: {SECRET}\n",
    f"  {{alice@example.com: {SECRET}}}\n",
    f"  - {{address: alice@example.com, password: {SECRET}, alias: x}}\n",
    f"  - {{address: alice@example.com, password:{SECRET}}}\n",
    f"  - {{address: alice@example.com, password {SECRET}}}\n",
    f"{USER}    ? password {SECRET}\n    : x\n    ? password {SECRET}\n    : x\n",
    f"{USER}disk2: {{passphrase: {SECRET}}}\n",
    # Anchors, aliases and tags.
    f"{USER}    password: *{SECRET}\n",
    f"{USER}    password: &{SECRET} generate\n",
    f"{USER}    password: !{SECRET}\n",
    f"{USER}    password: !{SECRET} generate\n",
    # What is no YAML.
    f"{USER}    password: @{SECRET}\n",
    f"{USER}    password: `{SECRET}\n",
    f"{USER}    password: {SECRET}: {SECRET}\n",
    f'{USER}    password: "\\q{SECRET}"\n',
    f'{USER}    password: "{SECRET}\n',
    f"{USER}    password: '{SECRET}\n      {SECRET}: {SECRET}\n    aliases: []\n",
    f"{USER}\tpassword: {SECRET}\n",
    f"{USER}    password {SECRET}\n    aliases: []\n",
    f"{USER}    password:{SECRET}\n    aliases: []\n",
    f"{USER}    password:\n      {SECRET}\n     - {SECRET}\n",
    f"{USER}    password: {SECRET}\n   aliases: []\n",
    f"{USER}    PASSWORD = {SECRET}\n",
    f"  - {{address: alice@example.com, password: {SECRET}\n",
    f"  - {{alice@example.com: {SECRET}\n",
    f"{USER}    password: [{SECRET}\n",
    f"{USER}    password: {SECRET}\x07\n",
    f"{USER}    pas\tsword: {SECRET}\n",
    f"{USER}    pas\x07sword: |\n      {SECRET}\n",
    f"  - {{address: alice@example.com, pas]sword: {SECRET}, aliases: []}}\n",
    f"{USER}    {SECRET}\n    aliases: []\n",
]


@pytest.mark.parametrize("users", WAYS_TO_WRITE_A_SECRET)
@pytest.mark.parametrize("head", [HEAD, f"admn: x\n{HEAD}"])
def test_a_password_is_never_shown(head: str, users: str) -> None:
    with pytest.raises(SiteError) as refused:
        parse_site(head + users, "site.yaml")
    assert SECRET not in annotate(refused.value)
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(refused.value)
    assert SECRET not in repr(refused.value.problems)


@pytest.mark.parametrize(
    "tail",
    [
        f"relays:\n  - address: mx.example.com\n    alarm: {{webhook: https://x.example/{SECRET}}}\nadmn: x\n",
        f"relays:\n  - address: mx.example.com\n    alarm: {{webhook: http://x.example/{SECRET}}}\n",
        f"relays:\n  - address: mx.example.com\n    alarm: {{url: https://x.example/{SECRET}}}\n",
        f"relays:\n  - address: mx.example.com\n    alarm: https://x.example/{SECRET}\n",
        f"relays:\n  - address: mx.example.com\n    s3: {{endpoint: 'https://x:{SECRET}@y.example', bucket: abc}}\n",
        f"disk: {{unlock: {SECRET}}}\n",
        f"disk: {{unlock: passphrase, key: {SECRET}}}\n",
        f"disk: {SECRET}\n",
        f"wifi: {{ssid: home, psk: {SECRET}}}\n",
    ],
)
def test_nor_is_what_is_as_good_as_one(tail: str) -> None:
    head = HEAD.replace("disk: {unlock: none}\n", "") if tail.startswith("disk") else HEAD
    with pytest.raises(SiteError) as refused:
        parse_site(f"{head}{USER}{tail}", "site.yaml")
    assert SECRET not in annotate(refused.value)
    assert SECRET not in str(refused.value), "as on the device's page"


@pytest.mark.parametrize("unlock", ["usbkey", "luks", "encrypted", "by passphrase"])
def test_a_word_that_is_no_passphrase_is_shown(unlock: str) -> None:
    assert f"unlock: {unlock}" in report(HEAD.replace("none", unlock) + USER)


def test_the_hidden_text_does_not_tell_its_length() -> None:
    short, long = (report(f"{HEAD}{USER}    password: {'x' * length}\n") for length in (1, 50))
    assert short == long
    assert "password: ********" in short


def test_a_harmless_setting_is_shown() -> None:
    text = f"{HEAD}{USER}    password: generate\n    alias: x\n"
    assert "  6 │     password: generate\n" in report(text)


def test_what_is_no_yaml_is_shown_as_far_as_it_is_harmless() -> None:
    text = f"{HEAD}{USER}\taliases:\n    - bob@example.com\n"
    assert report(text).split("\n\n")[1].splitlines() == [
        "  5 │   - address: alice@example.com",
        "  6 │ →aliases:",
        "    │ ^ E1",
        "  7 │     - bob@example.com",
    ]
    assert "  6 │     adress ********\n    │     ^ E1\n" in report(
        f"{HEAD}{USER}    adress {SECRET}\n    aliases: []\n"
    )


def _width(line: str) -> int:
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in line)
    return len(line) + wide - sum(bool(unicodedata.combining(character)) for character in line)


SNIPPETS = st.sampled_from(
    [
        *("version: 1\n", "domains: [example.com]\n", "disk: {unlock: none}\n", "users:\n", USER, "    password: x\n"),
        *("- ", "? ", ": ", "[", "]", "{", "}", "'", '"', "|\n", "&a ", "*a", "!t ", "# ", "---\n", "\t", "\n", "  "),
        *(
            "例え",
            "e\u0301",
            "\x00",
            "\ud800",
            "\u2028",
            "\\U",
            '"\\ud800"',
            "<<: ",
            "admin: ",
            "relays: [{}]\n",
            "x" * 90,
        ),
    ]
)


@settings(deadline=None)
@given(st.lists(st.one_of(SNIPPETS, st.text(max_size=5)), max_size=25).map("".join))
def test_any_text_is_a_site_or_has_a_report_that_fits(text: str) -> None:
    try:
        parse_site(text, "site.yaml")
    except SiteError as refused:
        error = refused
    else:
        return
    shown = annotate(error)
    assert "E1" in shown
    assert all(_width(line) <= 80 for line in shown.splitlines() if " │ " in line)
    assert all(character == "\n" or character.isprintable() for character in shown)
