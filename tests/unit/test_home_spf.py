"""SPF policies, among them the examples of RFC 7208 appendix A."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from home.dns_answer import Answer, Status
from home.spf import Result, check_host

# RFC 7208 appendix A.
_ZONE = {
    ("example.com", "A"): ("192.0.2.10", "192.0.2.11"),
    ("example.com", "MX"): ("10 mail-a.example.com", "20 mail-b.example.com"),
    ("mail-a.example.com", "A"): ("192.0.2.129",),
    ("mail-b.example.com", "A"): ("192.0.2.130",),
    ("example.org", "MX"): ("10 mail-c.example.org",),
    ("mail-c.example.org", "A"): ("192.0.2.140",),
    ("six.example", "AAAA"): ("2001:db8::25",),
    ("good.example", "TXT"): ("v=spf1 ip4:192.0.2.129 -all",),
    ("bad.example", "TXT"): ("v=spf1 -all",),
    ("loop.example", "TXT"): ("v=spf1 include:loop.example -all",),
    ("more.example", "TXT"): ("v=spf1 redirect=good.example",),
    ("unsure.example", "TXT"): ("v=spf1 exists:%{l}.example.com -all",),
}


def _look(name: str, kind: str) -> Answer:
    if name == "broken.example":
        return Answer(Status.FAILED, error="SERVFAIL")
    values = _ZONE.get((name, kind), ())
    return Answer(Status.FOUND if values else Status.NO_NAME, values)


@pytest.mark.parametrize(
    ("policy", "address", "expected"),
    [
        ("v=spf1 +all", "192.0.2.129", Result.PASS),
        ("v=spf1 a -all", "192.0.2.10", Result.PASS),
        ("v=spf1 a -all", "192.0.2.129", Result.FAIL),
        ("v=spf1 a:example.org -all", "192.0.2.10", Result.FAIL),
        ("v=spf1 mx -all", "192.0.2.129", Result.PASS),
        ("v=spf1 mx:example.org -all", "192.0.2.140", Result.PASS),
        ("v=spf1 mx mx:example.org -all", "192.0.2.140", Result.PASS),
        ("v=spf1 mx/30 mx:example.org/30 -all", "192.0.2.131", Result.PASS),
        ("v=spf1 mx/30 -all", "192.0.2.133", Result.FAIL),
        ("v=spf1 ip4:192.0.2.128/28 -all", "192.0.2.129", Result.PASS),
        ("v=spf1 ip4:192.0.2.128/28 -all", "192.0.2.65", Result.FAIL),
        ("v=spf1 ip6:2001:db8::/32 -all", "2001:db8::25", Result.PASS),
        ("v=spf1 a:six.example//64 -all", "2001:db8::1", Result.PASS),
        ("v=spf1 ip6:2001:db8::/32 -all", "192.0.2.129", Result.FAIL),
        ("v=spf1 ~all", "192.0.2.129", Result.SOFTFAIL),
        ("v=spf1 ?all", "192.0.2.129", Result.NEUTRAL),
        ("v=spf1", "192.0.2.129", Result.NEUTRAL),
        ("v=spf1 -ip4:192.0.2.129 +all", "192.0.2.129", Result.FAIL),
        ("v=spf1 include:good.example -all", "192.0.2.129", Result.PASS),
        ("v=spf1 include:bad.example ~all", "192.0.2.129", Result.SOFTFAIL),
        ("v=spf1 include:nobody.example -all", "192.0.2.129", Result.PERMERROR),
        ("v=spf1 include:loop.example -all", "192.0.2.129", Result.PERMERROR),
        ("v=spf1 redirect=more.example", "192.0.2.129", Result.PASS),
        ("v=spf1 redirect=more.example", "192.0.2.1", Result.FAIL),
        ("v=spf1 redirect=nobody.example", "192.0.2.129", Result.PERMERROR),
        ("v=spf1 redirect=%{d}.example", "192.0.2.129", Result.UNSURE),
        ("v=spf1 -all redirect=good.example", "192.0.2.129", Result.FAIL),
        ("v=spf1 include:broken.example -all", "192.0.2.129", Result.TEMPERROR),
        ("v=spf1 a:broken.example -all", "192.0.2.129", Result.TEMPERROR),
        ("v=spf1 a:x1.example a:x2.example a:x3.example +all", "192.0.2.129", Result.PERMERROR),
        ("v=spf1 " + "a " * 11 + "+all", "192.0.2.129", Result.PERMERROR),
        ("v=spf1 " + "a " * 10 + "+all", "192.0.2.129", Result.PASS),
        ("v=spf1 exists:%{ir}.example.com -all", "192.0.2.129", Result.UNSURE),
        ("v=spf1 exists:%{ir}.example.com mx -all", "192.0.2.129", Result.PASS),
        ("v=spf1 ptr -all", "192.0.2.129", Result.UNSURE),
        ("v=spf1 include:unsure.example -all", "192.0.2.129", Result.UNSURE),
        ("v=spf1 exp=explain.example mx -all", "192.0.2.129", Result.PASS),
        ("v=spf1 ip4:192.0.2 -all", "192.0.2.129", Result.PERMERROR),
        ("v=spf1 ip4 -all", "192.0.2.129", Result.PERMERROR),
        ("v=spf1 a/99 -all", "192.0.2.129", Result.PERMERROR),
        ("v=spf1 mail -all", "192.0.2.129", Result.PERMERROR),
        ("v=spf1 a:,b -all;", "192.0.2.129", Result.PERMERROR),
        ("v=spf10 +all", "192.0.2.129", Result.NONE),
    ],
)
def test_a_policy_is_followed(policy: str, address: str, expected: Result) -> None:
    judged = check_host(ip_address(address), "example.com", [policy, "something else"], _look)
    assert judged.result is expected, judged.why
    assert judged.why
