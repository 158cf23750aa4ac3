"""An independent judge of DKIM signatures: dkimpy, as Debian has it (dkim_judge.py)."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Verdict:
    """What is to be thought of one signature."""

    selector: str
    domain: str
    good: bool


def judge(message: bytes, records: Mapping[str, str]) -> list[Verdict]:
    """Judge each DKIM signature of a message, from the top.

    Args:
        records: the TXT records that there are in the world.
    """
    done = subprocess.run(
        ["/usr/bin/python3", str(Path(__file__).with_name("dkim_judge.py"))],
        input=json.dumps(records).encode() + b"\n" + message,
        capture_output=True,
        check=True,
    )
    return [Verdict(**found) for found in json.loads(done.stdout)]


_SIGN = """
import sys, dkim
message = sys.stdin.buffer.read()
sys.stdout.buffer.write(dkim.sign(message, b"s1", b"example.net", open(sys.argv[1], "rb").read()) + message)
"""


def signed(message: bytes, folder: Path) -> tuple[bytes, Mapping[str, str]]:
    """Sign a message by dkimpy for example.net, with a new key; gives it, and the record for `judge`.

    Args:
        folder: for the key.
    """
    key = folder / "key"
    subprocess.run(["openssl", "genrsa", "-traditional", "-out", str(key), "2048"], check=True, capture_output=True)
    public = subprocess.run(
        ["openssl", "rsa", "-in", str(key), "-pubout", "-outform", "DER"], check=True, capture_output=True
    ).stdout
    made = subprocess.run(
        ["/usr/bin/python3", "-c", _SIGN, str(key)], input=message, capture_output=True, check=True
    ).stdout
    return made, {"s1._domainkey.example.net": f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"}
