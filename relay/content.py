"""The content of a message as DATA carries it: up to CRLF, dot, CRLF, and with every dot at a line's start doubled."""

from __future__ import annotations

_MARK = b"\r\n."
_END = b"\r\n"


class Content:
    """Takes the content out of what follows DATA, piece by piece, octet for octet (RFC 5321 §4.5.2).

    Nothing but CRLF ends a line: whoever takes a bare LF for one lets senders smuggle a second message behind the first
    (CVE-2023-51764). Lines may be of any length, and any octet may be in them; at most five octets are held back.
    """

    def __init__(self) -> None:
        # What comes first stands at the start of a line, as if a CRLF were before it.
        self._held = _END
        self._imagined = len(_END)

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Take some octets.

        Returns:
            The content in them, and what comes behind the end; None while there is no end.
        """
        text, position, found = self._held + data, 0, []
        while (mark := text.find(_MARK, position)) >= 0:
            after = text[mark + len(_MARK) : mark + len(_MARK) + len(_END)]
            if len(after) < len(_END) and _END.startswith(after):
                found.append(text[position:mark])
                return self._give(found, text[mark:]), None
            found.append(text[position : mark + len(_END)])
            position = mark + len(_MARK)
            if after == _END:
                return self._give(found, b""), text[position + len(_END) :]
        held = next(length for length in (2, 1, 0) if text.endswith(_MARK[:length], position))
        end = len(text) - held
        found.append(text[position:end])
        return self._give(found, text[end:]), None

    def _give(self, found: list[bytes], held: bytes) -> bytes:
        self._held = held
        content = b"".join(found)
        dropped = min(self._imagined, len(content))
        self._imagined -= dropped
        return content[dropped:]
