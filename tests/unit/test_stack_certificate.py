"""The self-signed certificate, judged by a TLS client."""

from __future__ import annotations

import itertools
import ssl
import stat
from pathlib import Path

import pytest

from stack.certificate import CertificateError, ensure_certificate
from tests.unit.power_cut import at_every_step

NAMES = ["mail.example.com", "mx.example.com"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mail.pem"


def _handshake(path: Path, name: str) -> None:
    """Let a client that trusts the certificate connect to a server that has it."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(path)
    client_context = ssl.create_default_context(cafile=str(path))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    for side in itertools.islice(itertools.cycle([client, server]), 6):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert client.version() == "TLSv1.3"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_good_for_both_names(path: Path, name: str) -> None:
    assert ensure_certificate(path, NAMES)
    _handshake(path, name)


def test_it_is_good_for_no_other_name(path: Path) -> None:
    ensure_certificate(path, NAMES)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"example\.com"):
        _handshake(path, "example.com")


def test_only_root_may_read_the_key(path: Path) -> None:
    ensure_certificate(path, NAMES)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_is_kept_while_it_fits(path: Path) -> None:
    ensure_certificate(path, NAMES)
    before = path.read_bytes()
    assert not ensure_certificate(path, list(reversed(NAMES)))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "names", [["mail.example.com"], [*NAMES, "mx2.example.com"], ["mail.example.org", "mx.example.org"]]
)
def test_other_names_make_another_one(path: Path, names: list[str]) -> None:
    ensure_certificate(path, NAMES)
    assert ensure_certificate(path, names)
    _handshake(path, names[0])


def test_one_that_is_about_to_expire_is_replaced(path: Path) -> None:
    ensure_certificate(path, NAMES, days=20)
    assert ensure_certificate(path, NAMES)
    assert not ensure_certificate(path, NAMES)


@pytest.mark.parametrize("content", ["", "no certificate at all\n"])
def test_a_damaged_one_is_replaced(path: Path, content: str) -> None:
    path.write_text(content)
    assert ensure_certificate(path, NAMES)
    _handshake(path, NAMES[0])


def test_one_that_has_lost_its_key_is_replaced(path: Path) -> None:
    ensure_certificate(path, NAMES)
    path.write_text(path.read_text().partition("-----END PRIVATE KEY-----\n")[2])
    assert ensure_certificate(path, NAMES)


def test_a_long_name_fits(path: Path) -> None:
    names = [f"mail.{'long-' * 10}name.{'more-' * 10}name.example.com"]
    assert ensure_certificate(path, names)
    _handshake(path, names[0])


def test_a_power_cut_leaves_the_old_pair_or_the_new_one(path: Path) -> None:
    ensure_certificate(path, ["old.example.com"])
    for _ in at_every_step(lambda: ensure_certificate(path, NAMES)):
        try:
            _handshake(path, NAMES[0])
        except ssl.SSLCertVerificationError:
            _handshake(path, "old.example.com")
        ensure_certificate(path, ["old.example.com"])


def test_without_openssl_there_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CertificateError, match="openssl cannot be run"):
        ensure_certificate(path, NAMES)
    assert not path.exists()
