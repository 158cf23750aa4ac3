"""Domains, mail addresses and hosts: what we take, and the one way in which each is written."""

from __future__ import annotations

import ipaddress
import re

from model.problems import Kind, Refusal, quoted

_LONGEST_DOMAIN = 253 - len("mail.")
"""RFC 1035 §2.3.4 leaves 253 characters for a name, and `mail.<domain>` has to be one, too."""

_LONGEST_LOCAL_PART = 64
"""RFC 5321 §4.5.3.1.1."""

_LONGEST_ADDRESS = 254
"""RFC 5321 §4.5.3.1.3: a path has 256 octets, two of them angle brackets."""

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""RFC 1123 §2.1: letters, digits and inner hyphens, at most 63."""

_DEVIATIONS = frozenset("ßς\u200c\u200d")
"""Characters that IDNA2003, all that Python has, maps to others than IDNA2008 does (UTS #46 §1.3.1): another domain."""

# Narrower than RFC 5321 §4.1.2: the name becomes a folder's name, a key in Postfix's maps and a field of Dovecot's
# password file, none of which should ever need quoting.
_LOCAL_PART = re.compile(r"[a-z0-9_][a-z0-9_-]*(?:\.[a-z0-9_-]+)*")

# Of RFC 5322 §3.2.3's atoms, what people have in their addresses: nothing that a mail server might take for a route, a
# command, a file or a comment.
_FOREIGN_LOCAL_PART = re.compile(r"[A-Za-z0-9_=][A-Za-z0-9_=+'&~-]*(?:\.[A-Za-z0-9_=+'&~-]+)*")

BEHIND_ADDRESS = re.compile(r"@[^\[]*[\s:]")
"""An address with something behind it, which may be a password that belongs into a line of its own."""

_DOMAIN = "a domain such as `example.com`"
_ADDRESS = "a mail address such as `alice@example.com`"


def domain_name(text: str) -> str:
    """Give a mail domain as DNS holds it: lower case, A-labels (RFC 5890 §2.3.2.1).

    Raises:
        Refusal: it is none.
    """
    ascii_text = _a_labels(text).lower()
    labels = ascii_text.split(".")
    if ascii_text.endswith("."):
        raise _no_domain(text, "leave out the dot at the end")
    if len(labels) < 2:
        raise _no_domain(text, "write the whole domain, with its ending", f"the single word {quoted(text)}")
    if labels[-1].isdigit():
        # RFC 3696 §2: no top-level domain is a number.
        raise _no_domain(text, "write a domain instead of an IP address")
    if len(ascii_text) > _LONGEST_DOMAIN:
        raise _no_domain(text, f"use one of at most {_LONGEST_DOMAIN} characters", f"a domain of {len(ascii_text)}")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise _no_domain(text, f"correct the part {quoted(label)}: 1 to 63 letters, digits and inner hyphens")
        if label.startswith("xn--") and not _is_punycode(label[4:]):
            raise _no_domain(text, f"correct the part {quoted(label)}, which stands for no international name")
    return ascii_text


def mail_address(text: str) -> str:
    """Give the address of a mailbox or alias in lower case, its domain as A-labels.

    Case of the local part is ours to decide, being the domain that receives (RFC 5321 §2.4).

    Raises:
        Refusal: it is none, or one that we do not give out.
    """
    if BEHIND_ADDRESS.search(text):
        raise Refusal(Kind.BAD_ADDRESS, "an address with something behind it", _ADDRESS, "write the address alone")
    local_part, at, domain = text.rpartition("@")
    if not at or not local_part or not domain:
        raise Refusal(
            Kind.BAD_ADDRESS, _text(text), _ADDRESS, "write the name of the mailbox, an `@`, and one of your domains"
        )
    name = local_part.lower()
    if "+" in name:
        raise Refusal(
            Kind.BAD_ADDRESS,
            f"{quoted(text)} with a `+`",
            _ADDRESS,
            f"leave the `+…` out: mail to {quoted(name.partition('+')[0] + '+anything@' + domain)} arrives by itself",
        )
    if not name.isascii():
        raise Refusal(
            Kind.BAD_ADDRESS,
            f"{quoted(text)}, whose name is not plain ASCII",
            _ADDRESS,
            "use letters from a to z before the `@`: many servers cannot send to any other",
        )
    if not _LOCAL_PART.fullmatch(name) or len(name) > _LONGEST_LOCAL_PART:
        raise Refusal(
            Kind.BAD_ADDRESS,
            _text(text),
            _ADDRESS,
            f"use up to {_LONGEST_LOCAL_PART} letters, digits, `_`, `-` and inner dots before the `@`",
        )
    address = f"{name}@{domain_name(domain)}"
    if len(address) > _LONGEST_ADDRESS:
        raise Refusal(
            Kind.BAD_ADDRESS, f"an address of {len(address)} characters", _ADDRESS, f"use at most {_LONGEST_ADDRESS}"
        )
    return address


def target_address(text: str) -> str:
    """Give an address that mail is to be passed on to, which may be anybody's; its domain as A-labels.

    Case of the local part is left alone: it is for the domain that receives to say what it means (RFC 5321 §2.4).
    `model.account_changes` puts the addresses of this home into their own form.

    Raises:
        Refusal: it is none, or one that only few mail servers would understand.
    """
    local_part, at, domain = text.rpartition("@")
    if not at or not domain or not _FOREIGN_LOCAL_PART.fullmatch(local_part) or len(local_part) > _LONGEST_LOCAL_PART:
        raise Refusal(
            Kind.BAD_ADDRESS,
            _text(text),
            _ADDRESS,
            f"use up to {_LONGEST_LOCAL_PART} letters, digits, inner dots and the characters `_-+=&~'` before the `@`",
        )
    address = f"{local_part}@{domain_name(domain)}"
    if len(address) > _LONGEST_ADDRESS:
        raise Refusal(
            Kind.BAD_ADDRESS, f"an address of {len(address)} characters", _ADDRESS, f"use at most {_LONGEST_ADDRESS}"
        )
    return address


def host(text: str) -> str:
    """Give the name or the IP address of a machine in its usual form (RFC 5952 for IPv6).

    Raises:
        Refusal: it is neither.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return domain_name(text)
    if getattr(address, "scope_id", None):
        raise _no_domain(text, "write a public address: one with `%` holds on a single link only")
    return str(address)


def _a_labels(text: str) -> str:
    if text.isascii():
        return text
    if _DEVIATIONS & set(text):
        raise _no_domain(text, "write its `xn--` form: `ß`, `ς` and joiners are read in two ways")
    try:
        return text.encode("idna").decode("ascii")
    except UnicodeError:
        raise _no_domain(text, "write its `xn--` form, which your registrar shows") from None


def _is_punycode(text: str) -> bool:
    try:
        return bool(text.encode("ascii").decode("punycode"))
    except UnicodeError:
        return False


def _no_domain(text: str, remedy: str, found: str = "") -> Refusal:
    return Refusal(Kind.BAD_DOMAIN, found or _text(text), _DOMAIN, remedy)


def _text(text: str) -> str:
    return f"the text {quoted(text)}" if text else "an empty text"
