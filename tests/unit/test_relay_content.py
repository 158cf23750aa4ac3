"""The content of DATA: every octet of it, and nothing behind its end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.content import Content

_NEAR_THE_END = st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"a", b"\0", b"\xff"])).map(b"".join)


def _stuffed(content: bytes) -> bytes:
    """Write content as a client sends it (RFC 5321 §4.5.2), its last line with an end."""
    lines = content.removesuffix(b"\r\n").split(b"\r\n") if content else []
    return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines) + b".\r\n"


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[begin:end] for begin, end in zip([0, *ends], [*ends, len(data)], strict=True)]


def _read(pieces: list[bytes]) -> tuple[bytes, bytes | None]:
    reader, found = Content(), b""
    for index, piece in enumerate(pieces):
        octets, rest = reader.feed(piece)
        found += octets
        if rest is not None:
            return found, rest + b"".join(pieces[index + 1 :])
    return found, None


@given(
    _NEAR_THE_END | st.binary(), st.lists(st.integers(0, 10**6)), st.sampled_from([b"", b"MAIL FROM:<>\r\n", b".\r\n"])
)
def test_it_is_what_was_sent_however_it_comes_in(content: bytes, places: list[int], behind: bytes) -> None:
    content = content and content.removesuffix(b"\r\n") + b"\r\n"
    assert _read(_cut(_stuffed(content) + behind, places)) == (content, behind)


@given(_NEAR_THE_END, st.lists(st.integers(0, 10**6)))
def test_any_octets_are_read_in_the_same_way_in_one_piece_and_in_many(data: bytes, places: list[int]) -> None:
    """What stays held back in the one stays so in the other."""
    assert _read(_cut(data, places)) == _read([data])


@pytest.mark.parametrize(
    "end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\r\n.\r\r\n", b"\r\n..\r\n"]
)
def test_nothing_else_ends_it(end: bytes) -> None:
    """SMTP smuggling."""
    assert _read([b"first" + end + b"MAIL FROM:<evil@example.net>\r\n"])[1] is None


def test_a_line_may_be_of_any_length_and_little_is_held_back() -> None:
    reader, sent, found = Content(), 0, 0
    for _ in range(200):
        octets, rest = reader.feed(b"x" * 1000)
        assert rest is None
        sent, found = sent + 1000, found + len(octets)
        assert sent - found <= 5
    assert reader.feed(b"\r\n.\r\nQUIT\r\n") == (b"\r\n", b"QUIT\r\n")


def test_an_empty_message_is_one() -> None:
    assert _read([b".\r\n"]) == (b"", b"")
    assert _read([b".", b"\r", b"\nRSET\r\n"]) == (b"", b"RSET\r\n")
