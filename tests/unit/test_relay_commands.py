"""SMTP's commands: what they say, and what is none."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.commands import LONGEST_ADDRESS, Command, Path, SyntaxFault, decode_xtext, parse_forward


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"NOOP", ("NOOP", b"")),
        (b"mail  FROM:<a@b> SIZE=1 ", ("MAIL", b"FROM:<a@b> SIZE=1")),
        (b"Ehlo [192.0.2.1]", ("EHLO", b"[192.0.2.1]")),
    ],
)
def test_a_line_is_a_command_and_its_argument(line: bytes, expected: tuple[str, bytes]) -> None:
    command = Command.parse(line)
    assert (command.verb, command.argument) == expected


@pytest.mark.parametrize(
    "line", [b"", b" NOOP", b"NO-OP", b"NOOP\0", b"MAIL FROM:<a\rb>", b"MAIL FROM:<a\nb>", b"\xff"]
)
def test_what_is_no_command_is_refused(line: bytes) -> None:
    with pytest.raises(SyntaxFault):
        Command.parse(line)


@pytest.mark.parametrize(
    ("argument", "address", "parameters"),
    [
        (b"FROM:<>", "", {}),
        (b"from: <a@example.com>", "a@example.com", {}),
        (b'FROM:<"a> b\\""@example.com> SIZE=5', '"a> b\\""@example.com', {"SIZE": "5"}),
        (b"FROM:<@one.example,@two.example:a@example.com>", "a@example.com", {}),
        ("FROM:<bücher@bücher.example> SMTPUTF8 body=8bitmime".encode(), "bücher@bücher.example",
         {"SMTPUTF8": None, "BODY": "8bitmime"}),
        (b"FROM:<a@b> ENVID=x+3Dy", "a@b", {"ENVID": "x+3Dy"}),
        (b"FROM:<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]", {}),
    ],
)  # fmt: skip
def test_a_path_is_an_address_and_parameters(argument: bytes, address: str, parameters: dict[str, str | None]) -> None:
    path = Path.parse(argument, "FROM")
    assert (path.address, dict(path.parameters)) == (address, parameters)


@pytest.mark.parametrize(
    "argument",
    [
        b"", b"FROM", b"FROM:", b"FROM:a@b", b"FROM:<a@b", b'FROM:<"a@b>', b"TO:<a@b>", b"FROM:<\xff@b>",
        b"FROM:<a\x01@b>",
        b"FROM:<a@b>SIZE=1", b"FROM:<a@b> SIZE=1 SIZE=2", b"FROM:<a@b> SIZE=", b"FROM:<a@b> =1",
        b"FROM:<" + b"a" * LONGEST_ADDRESS + b"@b>",
    ],
)  # fmt: skip
def test_what_is_no_path_is_refused(argument: bytes) -> None:
    with pytest.raises(SyntaxFault):
        Path.parse(argument, "FROM")


@given(st.binary(max_size=80))
def test_any_octets_are_a_command_or_refused(octets: bytes) -> None:
    with contextlib.suppress(SyntaxFault):
        command = Command.parse(octets)
        Path.parse(command.argument, "TO")
    with contextlib.suppress(SyntaxFault):
        parse_forward(octets)


def test_what_is_forwarded_is_decoded_and_the_unknown_told() -> None:
    said = parse_forward(b"NAME=[UNAVAILABLE] ADDR=2001:db8::1 PORT=4711 helo=a+2Bb+20c IDENT=[TEMPUNAVAIL]")
    assert said == {"NAME": None, "ADDR": "2001:db8::1", "PORT": "4711", "HELO": "a+b c", "IDENT": None}


@pytest.mark.parametrize("helo", [b"B+FCro-NAS", b"a+0D", b"a+00", b""])
def test_a_greeting_that_is_no_text_is_unknown_and_keeps_no_mail_away(helo: bytes) -> None:
    assert parse_forward(b"ADDR=192.0.2.7 HELO=" + helo) == {"ADDR": "192.0.2.7", "HELO": None}


@pytest.mark.parametrize("words", [b"ADDR", b"=x", b"A1=x", b"HELO=a+2", b"HELO=\xff", b"HELO=a=b", b"OTHER=x"])
def test_what_is_not_forwarded_so_is_refused(words: bytes) -> None:
    with pytest.raises(SyntaxFault):
        parse_forward(words)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_xtext_is_decoded(text: str) -> None:
    encoded = "".join(
        character if "!" <= character <= "~" and character not in "+=" else
        "".join(f"+{octet:02X}" for octet in character.encode())
        for character in text
    )  # fmt: skip
    assert decode_xtext(encoded) == text
