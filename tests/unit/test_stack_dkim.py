"""The keys that sign outgoing mail, and the records that the world needs to check them."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from stack.dkim import Algorithm, DkimError, Key, Record, ensure_keys, records, signing_keys
from tests.unit.stack_samples import OwnOwners

DOMAINS = ("example.com", "example.org")


def _made(folder: Path, *domains: str) -> dict[str, bytes]:
    ensure_keys(folder, domains, OwnOwners())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_each_domain_has_two_keys_of_its_own(tmp_path: Path) -> None:
    made = _made(tmp_path, *DOMAINS)
    assert set(made) == {f"dp1-{algorithm}.{domain}.key" for domain in DOMAINS for algorithm in Algorithm}
    assert len(set(made.values())) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}
    for domain in DOMAINS:
        assert made[f"dp1-rsa.{domain}.key"].startswith(b"-----BEGIN PRIVATE KEY-----\n")
        # The form that rspamd reads.
        assert len(base64.b64decode(made[f"dp1-ed25519.{domain}.key"], validate=False)) == 32


def test_keys_stay(tmp_path: Path) -> None:
    made = _made(tmp_path, *DOMAINS)
    assert _made(tmp_path, *DOMAINS) == made
    # Also those of a domain that has gone, until it comes back.
    assert _made(tmp_path, "example.com") == made
    assert _made(tmp_path, "example.com", "example.net").items() > made.items()


def test_what_a_cut_has_left_out_is_made(tmp_path: Path) -> None:
    made = _made(tmp_path, "example.com")
    (tmp_path / "dp1-ed25519.example.com.key").unlink()
    (tmp_path / ".dp1-ed25519.example.com.key.new").write_text("half")
    again = _made(tmp_path, "example.com")
    assert again.keys() == made.keys()
    assert again["dp1-rsa.example.com.key"] == made["dp1-rsa.example.com.key"]


def test_the_newest_generation_signs_and_all_are_published(tmp_path: Path) -> None:
    made = _made(tmp_path, *DOMAINS)
    for algorithm in Algorithm:
        (tmp_path / f"dp10-{algorithm}.example.com.key").write_bytes(made[f"dp1-{algorithm}.example.org.key"])
    signing = signing_keys(tmp_path, DOMAINS)
    assert [key.selector for key in signing["example.com"]] == ["dp10-rsa", "dp10-ed25519"]
    assert [key.selector for key in signing["example.org"]] == ["dp1-rsa", "dp1-ed25519"]
    names = [record.name for record in records(tmp_path, ["example.com"])]
    assert names == [
        f"{selector}._domainkey.example.com" for selector in ("dp1-rsa", "dp1-ed25519", "dp10-rsa", "dp10-ed25519")
    ]


def test_what_will_sign_is_known_before_it_is_made(tmp_path: Path) -> None:
    expected = [Key("example.com", 1, algorithm, tmp_path) for algorithm in Algorithm]
    assert list(signing_keys(tmp_path, ["example.com"])["example.com"]) == expected
    assert list(tmp_path.iterdir()) == []
    assert records(tmp_path, ["example.com"]) == []


def test_the_public_key_of_rfc_8463_comes_from_its_private_key(tmp_path: Path) -> None:
    # RFC 8463 appendix A.1 and A.2
    (tmp_path / "dp1-ed25519.football.example.com.key").write_text("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=\n")
    found = records(tmp_path, ["football.example.com"])
    assert [record.value for record in found] == ["v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]


def test_an_rsa_record_is_a_public_key_of_2048_bits(tmp_path: Path) -> None:
    _made(tmp_path, "example.com")
    value = records(tmp_path, ["example.com"])[0].value
    prefix = "v=DKIM1; k=rsa; p="
    assert value.startswith(prefix)
    assert len(base64.b64decode(value.removeprefix(prefix), validate=True)) == 294  # RFC 3279 §2.3.1 with 2048 bits


def test_a_zone_line_holds_strings_of_255_characters_at_most() -> None:
    record = Record("example.com", "dp1-rsa", "dp1-rsa._domainkey.example.com", "x" * 300)
    start = "dp1-rsa._domainkey.example.com. IN TXT "
    assert record.zone_line == f'{start}"{"x" * 255}" "{"x" * 45}"'


@pytest.mark.parametrize("content", ["", "no base64!", "c2hvcnQ="])
@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_damaged_key_is_told(tmp_path: Path, algorithm: Algorithm, content: str) -> None:
    name = f"dp1-{algorithm}.example.com.key"
    (tmp_path / name).write_text(content)
    with pytest.raises(DkimError, match=name.replace(".", r"\.")):
        records(tmp_path, ["example.com"])
