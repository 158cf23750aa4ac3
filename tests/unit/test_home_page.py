"""The administrator's page, request by request: what it shows, and whom it does not serve."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from click.testing import CliRunner

from firstboot.questions import ask, serve_questions
from home.administrator import IDLE
from home.cli import main
from home.desk import Fresh, greeting
from home.desk_client import DeskClient
from home.dns_checks import Check
from home.dns_commands import record_json
from home.dns_judges import Outcome
from home.dns_records import Need, Place, Record, RecordType, Role
from home.page.app import SESSION, make_app
from home.seen import DnsSeen
from home.status_cli import lines
from tests.unit.browser import HOST, Answer, Browser
from tests.unit.page_device import GOOD, Device
from tests.unit.page_samples import NOW, SEEN, TROUBLED, checked, record, status
from web.lan import is_neighbour

_OWN = {"host": HOST, "origin": f"https://{HOST}"}
_INSIDE = ("/", "/dns", "/dns/check", "/dns/darkpipe.zone", "/relay", "/relay/live", "/preflight", "/users", "/message")


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A device that nobody has claimed."""
    made = Device(tmp_path / "run/control")
    monkeypatch.setattr("firstboot.questions._Connection._uid", lambda _: 0 if made.is_root else 1234)
    with serve_questions(made.desk.answer, made.path, None):
        yield made


def _is_outside(answer: Answer) -> bool:
    return 'action="/sign-in"' in answer.text or 'action="/claim"' in answer.text


def test_the_page_asks_for_the_owners_own_code_where_there_is_one(tmp_path: Path) -> None:
    device = Device(tmp_path / "run/control", own_code="bluegeesefly7")
    with serve_questions(device.desk.answer, device.path, None):
        shown = device.browser.get().text
        assert "darkpipe-code.txt" in shown
        assert "eight digits" not in shown
        assert "bluegeese" not in shown
        assert device.browser.post("/claim", code="Blue geese fly 7", password=GOOD, again=GOOD).status == 303


def test_the_device_is_claimed_and_shows_how_it_is(device: Device) -> None:
    browser = device.browser
    assert "Nobody looks after this device" in browser.get().text
    other = browser.post("/claim", code=device.gate.code, password=GOOD, again=f"{GOOD}x")
    assert (other.status, "two different passwords" in other.text) == (422, True)
    assert f'name="code" value="{device.gate.code}"' in other.text, "what was typed right is not typed again"
    wrong = browser.post("/claim", code="1", password=GOOD, again=GOOD)
    assert (wrong.status, "not the one that the device shows" in wrong.text) == (422, True)
    assert GOOD not in wrong.text
    assert device.kept is None
    done = browser.post("/claim", code=device.gate.code, password=GOOD, again=GOOD)
    assert (done.status, done.headers["location"]) == (303, "/")
    assert device.gate.claimed
    cookie = next(line for line in done.cookies if line.startswith(SESSION)).lower()
    assert all(word in cookie for word in ("__host-", "httponly", "secure", "samesite=strict", "path=/"))
    assert "domain=" not in cookie
    home = browser.get()
    assert all(f">{title} <" in home.text for title in ("Mail", "Relay", "Disk", "Queue", "Services", "System"))
    assert "Mail is taken" in home.text
    assert "Connected for 3 days" in home.text
    assert "48.0 GB of 64.0 GB free" in home.text


@pytest.mark.parametrize("bait", ["a]b=1", "lonely", 'x="', "{}=1"])
def test_a_neighbour_with_a_name_beside_ours_signs_nobody_out(device: Device, bait: str) -> None:
    """evil.fritz.box may set a cookie for fritz.box, which a browser sends to darkpipe.fritz.box (RFC 6265 §8.6)."""
    browser = device.enter()
    cookie = f"{bait}; {browser.cookie}"
    shown = browser.send("GET", "/users", {"host": "darkpipe.fritz.box", "cookie": cookie})
    assert "Give one another password" in shown.text
    body = urlencode({"token": browser.token}).encode()
    own = {"host": "darkpipe.fritz.box", "origin": "https://darkpipe.fritz.box", "cookie": cookie}
    assert browser.send("POST", "/preflight/start", own, body).status == 303


def test_a_second_claimant_is_refused(device: Device) -> None:
    late = device.another("192.168.1.66")
    late.get()
    code = device.gate.code
    device.enter()
    refused = late.post("/claim", code=code, password="a password of mine", again="a password of mine")
    assert (refused.status, "has an administrator already" in refused.text) == (422, True)
    assert device.kept == f"#{GOOD}"
    assert _is_outside(late.get())


def test_signing_in_and_out(device: Device) -> None:
    old = device.enter().cookies[SESSION]
    browser = device.another()
    assert 'action="/sign-in"' in browser.get().text
    wrong = browser.post("/sign-in", password="<script>")
    assert (wrong.status, "<script>" in wrong.text) == (422, False)
    assert "This is not the password." in wrong.text
    assert browser.post("/sign-in", password=GOOD).status == 303
    assert "How the device is" in browser.get().text
    kept = browser.cookies[SESSION]
    assert browser.post("/sign-out").status == 303
    assert SESSION not in browser.cookie
    browser.cookies[SESSION] = kept  # somebody has copied it before
    assert _is_outside(browser.get())
    browser.cookies[SESSION] = old
    assert not _is_outside(browser.get()), "the other session goes on"


def test_who_was_not_signed_out_does_not_look_so(device: Device) -> None:
    """A restart of the page makes all forms old, and sessions go on: the desk has them."""
    browser = device.enter()
    browser.get("/users")
    browser.app = device.app()
    answer = browser.post("/sign-out")
    assert (answer.status, "nothing was done" in answer.text, _is_outside(answer)) == (403, True, False)
    assert browser.post("/sign-out").status == 303, "the form that is there now"
    assert _is_outside(browser.get())
    assert _is_outside(browser.post("/sign-out", token="x")), "who has no session"


@pytest.mark.parametrize("cookie", ["", "x", "a" * 43, "../../etc/passwd", "{}"])
def test_nothing_is_shown_without_a_session(device: Device, cookie: str) -> None:
    device.enter()
    stranger = device.another()
    stranger.cookies[SESSION] = cookie
    for path in _INSIDE:
        assert _is_outside(stranger.get(path)), path
    assert device.looked == []
    # The same paths look when there is a session: the checks above can fail.
    assert not any(_is_outside(device.browser.get(path)) for path in _INSIDE)
    assert device.looked == ["status", "records", "check", "records"]


def test_the_desk_itself_shows_nothing_without_a_session(device: Device) -> None:
    """Whoever has broken into the page can ask what it can ask: nothing, as long as nobody signs in."""
    device.enter()
    for question in ({"do": "status"}, {"do": "status", "session": "x"}, {"do": "dns", "check": True, "session": ""}):
        answer = ask(device.path, question, 5) or {}
        assert answer in ({"signed-out": True}, {"refused": "this is no question"})
    assert ask(device.path, {"do": "forget"}, 5) == {"refused": "there is no such question"}
    assert (device.gate.claimed, device.looked) == (True, [])
    device.is_root = True
    assert ask(device.path, {"do": "forget"}, 5) == {}
    assert not device.gate.claimed


def test_code_and_fingerprint_are_for_root(device: Device) -> None:
    assert asdict(DeskClient(device.path).see()) == {"claimed": False, "code": "", "fingerprint": "", "own_code": False}
    device.is_root = True
    seen = DeskClient(device.path).see()
    assert (seen.code, seen.fingerprint) == (device.gate.code, "AB:CD")
    assert device.gate.code not in device.browser.get().text


def test_a_session_that_nobody_uses_ends(device: Device) -> None:
    browser = device.enter()
    device.now += IDLE + 1
    assert 'action="/sign-in"' in browser.get().text


def test_passwords_are_not_guessed_quickly(device: Device) -> None:
    device.enter()
    thief = device.another("192.168.1.66")
    thief.get()
    answers = [thief.post("/sign-in", password=f"guess {number}").text for number in range(20)]
    assert sum("not the password" in text for text in answers) == 3
    assert "wait 1 second" in answers[-1]
    assert 'action="/sign-in"' in thief.get().text


@pytest.mark.parametrize("path", ["/claim", "/sign-in", "/sign-out"])
def test_a_form_of_another_site_is_not_heard(device: Device, path: str) -> None:
    browser = device.browser if path == "/claim" else device.enter()
    browser.get("/dns") if path == "/sign-out" else browser.get()
    fields = {"code": device.gate.code, "password": GOOD, "again": GOOD}
    body = urlencode({"token": browser.token, **fields}).encode()
    before = (device.kept, browser.cookies.get(SESSION))
    assert browser.send("POST", path, {**_OWN, "origin": "https://evil.example"}, body).status == 403
    for origin in ("null", f"http://{HOST}", f"https://{HOST}:8443", "https://[", f"https://{HOST}@evil.example"):
        assert browser.send("POST", path, {**_OWN, "origin": origin}, body).status == 403
    forged = urlencode({"token": "0" * 64, **fields}).encode()
    assert browser.send("POST", path, _OWN, forged).status == 403
    assert browser.send("POST", path, {**_OWN, "cookie": "__Host-darkpipe=" + "0" * 32}, body).status == 403
    assert (device.kept, browser.cookies.get(SESSION)) == before
    assert path != "/sign-out" or not _is_outside(browser.get())
    assert browser.send("POST", path, _OWN, body).status == 303, "as it is meant, it is heard"


@pytest.mark.parametrize("path", ["/claim", "/sign-in", "/sign-out"])
def test_a_link_changes_nothing(device: Device, path: str) -> None:
    browser = device.enter()
    assert browser.get(f"{path}").status == 405
    assert not _is_outside(browser.get())


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/sign-in", "How the device is"),
        ("/users/add", "Give one another password"),
        ("/message/send", "A test message"),
        ("/preflight/start", "Can mail come and go?"),
        ("/nothing", "How the device is"),
        ("//evil.example/", "How the device is"),
    ],
)
def test_an_address_without_a_page_leads_to_one(device: Device, path: str, shown: str) -> None:
    """A telephone that opens its tabs again asks for the address of the form that was sent last."""
    browser = device.enter()
    assert shown in browser.walk(path).text
    assert device.asked == []
    assert 'action="/sign-in"' in device.another().walk(path).text


def test_a_form_of_the_page_that_unlocked_the_disk_leads_to_the_page_that_is_there_now(device: Device) -> None:
    answer = device.browser.walk("/unlock", "POST")
    assert (answer.status, "Nobody looks after this device" in answer.text) == (200, True)


@pytest.mark.parametrize("host", ["evil.example", "192.168.1.20.evil.example", "darkpipe.evil.example", ""])
def test_another_name_is_not_served(device: Device, host: str) -> None:
    browser = device.enter()
    for path in (*_INSIDE, "/style.css"):
        answer = browser.get(path, host=host)
        assert (answer.status, "<" in answer.text) == (421, False)
    body = urlencode({"token": browser.token}).encode()
    assert browser.send("POST", "/sign-out", {"host": host, "origin": f"https://{host}"}, body).status == 421
    assert device.looked == []


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.168.1.7", True),
        ("10.0.2.2", True),
        ("::ffff:192.168.1.7", True),
        ("fe80::1%lan0", True),
        ("fd00::7", True),
        ("127.0.0.1", True),
        ("203.0.113.9", False),
        ("::ffff:203.0.113.9", False),
        ("2001:db8::1", False),
        ("", False),
        ("x", False),
    ],
)
def test_who_is_a_neighbour(device: Device, address: str, expected: bool) -> None:
    assert is_neighbour(address) is expected
    assert (device.another(address).get().status == 200) is expected


def test_nothing_foreign_is_loaded_or_frames_it(device: Device) -> None:
    browser = device.enter()
    for path in (*_INSIDE, "/style.css", "/nothing"):
        answer = browser.get(path)
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'")
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        scripts = re.findall(r"<script[^>]*>", answer.text)
        assert set(scripts) <= {'<script src="/page.js" defer>'}
        assert not re.search(r'style="|http:|\bon[a-z]+="', answer.text)
        assert answer.text.count("src=") == len(scripts)


def test_a_damaged_file_hides_nothing_of_what_is_known(device: Device) -> None:
    device.damaged, device.status = "accounts.json is damaged: bring it back from a backup", TROUBLED
    text = device.enter().get().text
    assert "Accounts.json is damaged: bring it back from a backup." in text
    assert "Keeps mail away: dovecot does not work" in text
    assert "All steps are done" not in text
    device.status = status()
    assert "Mail is taken" not in device.browser.get().text, "nobody knows of the pre-flight"


def test_what_is_wrong_stands_on_top(device: Device) -> None:
    device.status = TROUBLED
    text = device.enter().get().text
    assert text.index("Keeps mail away: dovecot does not work") < text.index("No mail is taken")
    assert "journalctl -b -u dovecot" in text
    assert "The disk has 3.1 GB" in text
    assert "Not reached for 3 days" in text
    assert "2 errors of kind read_errs" in text
    assert "2 of 3 in trouble" in text
    assert "3 messages on the way" in text
    assert "the oldest for 1 day" in text


@pytest.mark.parametrize(
    ("outcomes", "mood", "text"),
    [
        ({Outcome.GOOD: 9}, "good", "All 9 records are there"),
        ({Outcome.GOOD: 7, Outcome.WARNING: 2}, "good", "What mail needs is there; 2 of 9 records should be looked at"),
        ({Outcome.GOOD: 8, Outcome.WAITING: 1}, "watch", "The records are not everywhere yet"),
        ({Outcome.GOOD: 7, Outcome.WRONG: 2}, "bad", "2 of 9 records are wrong or not to be found"),
        (None, "none", "Nobody has looked"),
    ],
)
def test_the_state_of_dns_stands_beside_that_of_mail_relay_and_disk(
    device: Device, outcomes: dict[Outcome, int] | None, mood: str, text: str
) -> None:
    dns = DnsSeen(at=NOW, outcomes=outcomes) if outcomes else None
    device.status = status(seen=SEEN.model_copy(update={"dns": dns}))
    shown = device.enter().get().text
    found = re.search(rf'<section class="card {mood}"[^>]*>\n<h2[^>]*>DNS (.*?)</section>', shown, re.DOTALL)
    assert found
    assert text in found[1]
    assert '<a href="/dns/check">Check the records</a>' in found[1]
    assert not dns or "looked at 2026-03-01 12:00 UTC" in found[1]
    # `darkpipe status` says the same.
    assert f"dns            {text}" in "\n".join(lines(device.status))


def test_what_records_would_break_and_what_is_doubtful_is_told_beside_them(device: Device) -> None:
    device.rows = [record(), record(type="CAA", need="recommended"), record(type="PTR", place="provider")]
    device.doubts = ["The address may be <b>another</b>."]
    shown = device.enter().get("/dns").text
    assert "from then on new mail\ncomes here" in shown
    assert "The address may be &lt;b&gt;another&lt;/b&gt;." in shown
    labels = re.findall(r'<label for="value\d">(.*?)</label>', shown)
    assert labels == ["Value", "Value, recommended", "Value, set at the relay's provider"]


def test_records_are_shown_to_be_copied_and_checked(device: Device) -> None:
    browser = device.enter()
    shown = browser.get("/dns").text
    assert ">10 mx.example.com.</textarea>" in shown
    assert re.findall('data-copy="(.*?)"', shown) == re.findall('<textarea id="(.*?)"', shown) != []
    seen = {"server": "ns1.example.net", "values": [], "error": ""}
    good = {"found": ["v=DMARC1; p=reject"], "type": "TXT", "servers": [seen, {**seen, "server": "ns2.example.net"}]}
    device.rows = [checked("good", **good), checked("wrong", value="<b>v=spf1", type="TXT")]
    text = browser.get("/dns/check").text
    assert "It is published" in text
    assert "<dt>Found at ns1.example.net, ns2.example.net</dt><dd>v=DMARC1; p=reject</dd>" in text, (
        "good in other words"
    )
    assert text.count("Found") == text.count(">Expected</label>") == text.count("Without it nothing arrives.") == 2
    assert all(word in text for word in ("10 mail.other.example.", "replace it", "&lt;b&gt;v=spf1"))
    zone = browser.get("/dns/darkpipe.zone")
    assert zone.headers["content-type"].startswith("text/plain")
    assert zone.text == "$ORIGIN example.com.\n"


def test_the_pages_samples_are_what_the_commands_print() -> None:
    shown = record()
    own = Record("example.com", RecordType.MX, "", "example.com", Role.MX, Need.REQUIRED, "", "", Place.ZONE)
    assert record_json(own).keys() == shown.keys()
    assert checked("good").keys() == Check(own, Outcome.GOOD, (), "", "").as_json().keys()


def test_a_desk_that_is_away_is_told(tmp_path: Path) -> None:
    browser = Browser(make_app(DeskClient(tmp_path / "nothing"), lambda: "darkpipe"))
    answer = browser.get()
    assert (answer.status, "does not answer" in answer.text) == (503, True)


def test_many_readers_ask_the_services_once() -> None:
    now, looked = [0.0], []

    def look() -> Mapping[str, Any]:
        looked.append(now[0])
        return {"at": now[0]}

    fresh = Fresh(look, 3.0, lambda: now[0])
    assert [fresh()["at"] for _ in range(5)] == [0.0] * 5
    now[0] = 4.0
    assert (fresh()["at"], looked) == (4.0, [0.0, 4.0])


@pytest.mark.parametrize("words", [("page", "show"), ("page", "forget-password")])
def test_who_is_not_root_is_told_so_and_not_to_wait(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    monkeypatch.setattr("home.page_commands._user", lambda: 1000)
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, f"this is for root: sudo darkpipe {' '.join(words)}" in done.output) == (1, True)


def test_the_console_says_all_that_one_needs() -> None:
    text = greeting("darkpipe", (HOST, "[fd00::1]"), ":".join(["AB"] * 32), "12345678")
    assert f"https://{HOST}\n" in text
    assert "https://darkpipe.local\n" in text
    assert "1234 5678" in text
    assert text.count("AB") == 32
    claimed = greeting("darkpipe", (HOST,), ":".join(["AB"] * 32), "")
    assert f"https://{HOST}\n" in claimed
    assert "code" not in claimed
