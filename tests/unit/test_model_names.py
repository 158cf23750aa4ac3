"""Domains, addresses, hosts and password settings: what is taken, and in which form."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.names import domain_name, host, mail_address
from model.passwords import password_setting
from model.problems import Kind, Refusal

SALT = "c2FsdHNhbHRzYWx0c2E"
TAG = "dGFndGFndGFndGFndGFndGFndGFndGFndGFndGFndGE"
HASH = f"$argon2id$v=19$m=65536,t=3,p=4${SALT}${TAG}"


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("example.com", "example.com"),
        ("Mail.Example.COM", "mail.example.com"),
        ("müller.example", "xn--mller-kva.example"),
        ("MÜLLER.example", "xn--mller-kva.example"),
        ("例え.jp", "xn--r8jz45g.jp"),
        ("xn--strae-oqa.example", "xn--strae-oqa.example"),
        ("4u.example", "4u.example"),
        (f"{'a' * 63}.example", f"{'a' * 63}.example"),
    ],
)
def test_a_domain_is_kept_as_dns_holds_it(written: str, canonical: str) -> None:
    assert domain_name(written) == canonical


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        ("", "write the whole domain"),
        ("localhost", "write the whole domain"),
        ("example.com.", "leave out the dot"),
        ("example..com", "correct the part"),
        ("-a.example", "correct the part `-a`"),
        ("a_b.example", "correct the part `a_b`"),
        ("exa mple.com", "correct the part"),
        (f"{'a' * 64}.example", "correct the part"),
        (".".join(["a" * 60] * 5), "at most 248 characters"),
        ("192.0.2.1", "instead of an IP address"),
        ("straße.example", "write its `xn--` form"),
        ("a\u200db.example", "write its `xn--` form"),
        ("a\u0627b.example", "write its `xn--` form"),
        ("xn--a-!.example", "correct the part"),
        ("xn--99999999999.example", "stands for no international name"),
        ("https://example.com", "correct the part"),
    ],
)
def test_what_is_no_domain_is_refused_with_a_remedy(written: str, remedy: str) -> None:
    with pytest.raises(Refusal) as refused:
        domain_name(written)
    assert refused.value.kind is Kind.BAD_DOMAIN
    assert remedy in refused.value.remedy


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("alice@example.com", "alice@example.com"),
        ("Alice.B_c-d@Example.com", "alice.b_c-d@example.com"),
        ("info@müller.example", "info@xn--mller-kva.example"),
        (f"{'a' * 64}@example.com", f"{'a' * 64}@example.com"),
    ],
)
def test_an_address_is_kept_in_lower_case(written: str, canonical: str) -> None:
    assert mail_address(written) == canonical


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("", Kind.BAD_ADDRESS),
        ("alice", Kind.BAD_ADDRESS),
        ("@example.com", Kind.BAD_ADDRESS),
        ("alice@", Kind.BAD_ADDRESS),
        ("alice@bob@example.com", Kind.BAD_ADDRESS),
        ("alice+news@example.com", Kind.BAD_ADDRESS),
        (".alice@example.com", Kind.BAD_ADDRESS),
        ("alice..b@example.com", Kind.BAD_ADDRESS),
        ("../alice@example.com", Kind.BAD_ADDRESS),
        ("-alice@example.com", Kind.BAD_ADDRESS),
        ("al ice@example.com", Kind.BAD_ADDRESS),
        ("alice:x@example.com", Kind.BAD_ADDRESS),
        ("%u@example.com", Kind.BAD_ADDRESS),
        ('"alice"@example.com', Kind.BAD_ADDRESS),
        ("jörg@example.com", Kind.BAD_ADDRESS),
        ("alice\n@example.com", Kind.BAD_ADDRESS),
        (f"{'a' * 65}@example.com", Kind.BAD_ADDRESS),
        (f"{'a' * 60}@{'.'.join(['b' * 60] * 4)}", Kind.BAD_ADDRESS),
        ("alice@localhost", Kind.BAD_DOMAIN),
        ("alice@[192.0.2.1]", Kind.BAD_DOMAIN),
        ("alice@example.com\n", Kind.BAD_ADDRESS),
    ],
)
def test_what_is_no_address_of_ours_is_refused(written: str, kind: Kind) -> None:
    with pytest.raises(Refusal) as refused:
        mail_address(written)
    assert refused.value.kind is kind


@settings(deadline=None)
@given(st.text(max_size=30))
def test_whatever_is_taken_stays_as_it_is(text: str) -> None:
    for canonical in (domain_name, mail_address, host, lambda text: mail_address(f"a@{text}.example")):
        try:
            once = canonical(text)
        except Refusal:
            continue
        assert (mail_address if "@" in once else canonical)(once) == once
        assert once.isascii()


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("MX.example.com", "mx.example.com"),
        ("203.0.113.7", "203.0.113.7"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
    ],
)
def test_a_host_is_a_name_or_an_ip_address(written: str, canonical: str) -> None:
    assert host(written) == canonical


@pytest.mark.parametrize("written", ["fe80::1%eth0", "203.0.113.700", "relay", "[2001:db8::1]"])
def test_what_is_no_host_is_refused(written: str) -> None:
    with pytest.raises(Refusal):
        host(written)


@pytest.mark.parametrize("written", ["prompt", "generate", HASH, HASH.replace("m=65536", "m=131072")])
def test_a_wish_or_a_hash_may_stand_for_a_password(written: str) -> None:
    assert password_setting(written) == written


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("", "an empty password"),
        ("correct-horse", "a password in plain text"),
        ("Prompt", "a password in plain text"),
        ("{correct}horse", "a hash of another kind"),
        ("$6$abc$correct-horse", "a hash of another kind"),
        (HASH.replace("argon2id", "argon2i"), "a hash of another kind"),
        (HASH.replace("v=19", "v=16"), "damaged"),
        (HASH[:-30], "damaged"),
        (HASH + "\n", "damaged"),
        (HASH.replace("t=3", "t=0"), "costs that cannot be"),
        (HASH.replace("m=65536", "m=31"), "costs that cannot be"),
        (HASH.replace("m=65536", "m=131073"), "too dear"),
        (HASH.replace("t=3", "t=1000000"), "too dear"),
    ],
)
def test_a_password_itself_or_a_useless_hash_is_refused_without_being_quoted(written: str, found: str) -> None:
    with pytest.raises(Refusal) as refused:
        password_setting(written)
    assert found in refused.value.found
    assert "correct" not in str(refused.value)
    assert TAG not in str(refused.value)
    assert SALT not in str(refused.value)
