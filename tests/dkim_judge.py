"""Runs under Debian's own Python, which has dkimpy: judges the DKIM signatures of a message by given records.

Standard input is a line of JSON, the records (name without a dot at the end, to text), then the message. It prints a
JSON list with a verdict for each signature, from the top.
"""

from __future__ import annotations

import json
import sys

import dkim  # type: ignore[import-not-found]  # of Debian's Python


def main() -> None:
    """Judge the message on standard input."""
    records = json.loads(sys.stdin.buffer.readline())
    message = sys.stdin.buffer.read()

    def look_up(name: bytes, timeout: int = 5) -> bytes:  # noqa: ARG001  # dkimpy's signature
        text: str = records.get(name.decode().rstrip("."), "")
        return text.encode()

    count = sum(name.lower() == b"dkim-signature" for name, _ in dkim.DKIM(message).headers)
    verdicts = []
    for index in range(count):
        judge = dkim.DKIM(message)
        try:
            good = judge.verify(idx=index, dnsfunc=look_up)
        except dkim.DKIMException as error:
            print(error, file=sys.stderr)
            good = False
        fields = {name.decode(): value.decode() for name, value in judge.signature_fields.items()}
        verdicts.append({"selector": fields.get("s"), "domain": fields.get("d"), "good": bool(good)})
    json.dump(verdicts, sys.stdout)


main()
