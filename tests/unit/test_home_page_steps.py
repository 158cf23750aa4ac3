"""The pages of the steps, request by request: what each shows, asks for, and refuses; and the guide above them all."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from firstboot.questions import ask, serve_questions
from home.administrator import IDLE
from home.desk_facts import MailServer, Watched, mail_server
from home.dns_judges import Outcome
from home.page.guide import Mark, has_shown_mail, next_step, steps
from home.pair_state import Stage
from home.relay_view import Origin, RelayView
from home.seen import DnsSeen, Seen
from home.trial_message import Fate
from stack.certificate import ensure_certificate
from tests.unit.browser import HOST
from tests.unit.page_device import Device
from tests.unit.page_samples import FRESH, NOW, checked, facts, message, pairing, preflight, status
from tests.unit.stack_samples import accounts

_OWN = {"host": HOST, "origin": f"https://{HOST}"}
_SECRET = "three words or so"
_TEXT = "#cloud-config\n# <b>not bold</b>\n"
_HERE = RelayView(
    origin=Origin.HERE,
    name="mx.example.com",
    mail_host="mail.example.com",
    address="mx.example.com",
    text=_TEXT,
    size=13_371,
    limit=16_384,
)

_FORMS: dict[str, dict[str, str]] = {
    "/relay/begin": {"offline": "tempfail", "transport": "mtls"},
    "/relay/make": {"ssh_key": "ssh-ed25519 AAAA me", "anew": "yes"},
    "/relay/address": {"address": " 203.0.113.7 "},
    "/relay/claim": {},
    "/preflight/start": {},
    "/users/add": {"address": "carol@example.com", "password": _SECRET, "again": _SECRET},
    "/users/password": {"address": "bob@example.com", "password": _SECRET, "again": _SECRET},
    "/message/send": {"sender": "bob@example.com", "password": _SECRET, "recipient": "bob@example.net"},
}
_ASKED: dict[str, dict[str, Any]] = {
    "/relay/begin": {"do": "begin-relay", "offline": "tempfail", "transport": "mtls"},
    "/relay/make": {"do": "make-relay", "ssh_key": "ssh-ed25519 AAAA me", "anew": True},
    "/relay/address": {"do": "point-relay", "address": "203.0.113.7"},
    "/relay/claim": {"do": "claim-relay"},
    "/preflight/start": {"do": "preflight"},
    "/users/add": {"do": "add-user", "address": "carol@example.com", "password": _SECRET},
    "/users/password": {"do": "set-password", "address": "bob@example.com", "password": _SECRET},
    "/message/send": {
        "do": "send-test",
        "sender": "bob@example.com",
        "password": _SECRET,
        "recipient": "bob@example.net",
    },
}


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A device that nobody has claimed."""
    made = Device(tmp_path / "run/control")
    monkeypatch.setattr("firstboot.questions._Connection._uid", lambda _: 1234)
    with serve_questions(made.desk.answer, made.path, None):
        yield made


@pytest.mark.parametrize("path", _FORMS)
def test_a_form_asks_for_its_one_change_and_leads_back(device: Device, path: str) -> None:
    browser = device.enter()
    page = path.rpartition("/")[0]
    browser.get(page)
    done = browser.post(path, **_FORMS[path])
    assert (done.status, done.headers.get("location", "").partition("?")[0]) == (303, page)
    assert device.asked == [_ASKED[path]]


@pytest.mark.parametrize("path", _FORMS)
def test_what_is_refused_is_told_on_its_page_and_quotes_no_password(device: Device, path: str) -> None:
    browser = device.enter()
    browser.get(path.rpartition("/")[0])
    device.refused = "found <i>this</i>; expected that"
    answer = browser.post(path, **_FORMS[path])
    assert answer.status == 422
    assert 'role="alert">Found &lt;i&gt;this&lt;/i&gt;; expected that.</p>' in answer.text
    assert f'action="{path}"' in answer.text or path in {"/relay/begin", "/relay/address", "/relay/claim"}
    assert _SECRET not in answer.text
    if f'action="{path}"' in answer.text:
        typed = [value for name, value in _FORMS[path].items() if name in {"address", "ssh_key", "recipient"}]
        assert all(f'value="{value}"' in answer.text or f"selected>{value}<" in answer.text for value in typed)


@pytest.mark.parametrize("path", _FORMS)
def test_a_form_of_another_site_or_without_a_session_changes_nothing(device: Device, path: str) -> None:
    browser = device.enter()
    browser.get(path.rpartition("/")[0])
    body = urlencode({"token": browser.token, **_FORMS[path]}).encode()
    assert browser.send("POST", path, {**_OWN, "origin": "https://evil.example"}, body).status == 403
    forged = urlencode({"token": "0" * 64, **_FORMS[path]}).encode()
    old = browser.send("POST", path, _OWN, forged)
    assert (old.status, "This form was too old" in old.text, _SECRET in old.text) == (403, True, False)
    assert path != "/users/add" or 'value="carol@example.com"' in old.text, "what was typed stays"
    assert browser.get(path).status == 405
    stranger = device.another("192.168.1.66")
    stranger.get()
    assert 'action="/sign-in"' in stranger.post(path, **_FORMS[path]).text
    assert device.asked == []


@pytest.mark.parametrize("path", _FORMS)
def test_who_was_signed_out_meanwhile_hears_that_nothing_was_done(device: Device, path: str) -> None:
    browser = device.enter()
    browser.get(path.rpartition("/")[0])
    device.now += IDLE + 1
    answer = browser.post(path, **_FORMS[path])
    assert (answer.status, 'action="/sign-in"' in answer.text) == (403, True)
    assert "What you have sent was not done" in answer.text
    assert "was not done" not in browser.get("/users").text
    assert device.asked == []


def test_the_users_page_says_what_a_mail_app_wants_to_know(device: Device) -> None:
    browser = device.enter()
    text = browser.get("/users").text
    assert "<dd>mail.example.com</dd>" in text
    assert ":".join(["9F"] * 32) in text
    device.facts = facts(mail_server=MailServer(host="mail.example.com", fingerprint=""))
    assert "fingerprint" not in browser.get("/users").text


def test_the_door_has_the_mail_server_s_certificate(tmp_path: Path) -> None:
    file = tmp_path / "mail.pem"
    assert mail_server(accounts(), file) == MailServer(host="mail.example.com", fingerprint="")
    ensure_certificate(file, ["mail.example.com"])
    shown = subprocess.run(
        ["openssl", "x509", "-in", file, "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert mail_server(accounts(), file).fingerprint == shown.stdout.strip().rpartition("=")[2]
    file.write_text("-----BEGIN CERTIFICATE-----\n")
    assert mail_server(accounts(), file).fingerprint == ""


@pytest.mark.parametrize("path", ["/relay", "/relay/live", "/preflight", "/users", "/message"])
def test_nobody_without_a_session_sees_a_step(device: Device, path: str) -> None:
    device.relay = _HERE
    device.enter()
    answer = device.another("192.168.1.66").get(path)
    assert 'action="/sign-in"' in answer.text
    assert "cloud-config" not in answer.text


def test_the_hand_is_not_to_be_asked_without_a_session(device: Device) -> None:
    device.enter()
    asked = {"do": "hand", "ask": {"do": "preflight"}}
    assert ask(device.path, {**asked, "session": "x"}, 5) == {"signed-out": True}
    assert ask(device.path, {"do": "facts", "session": ""}, 5) == {"signed-out": True}
    assert device.asked == []


def test_two_different_passwords_and_what_is_too_long_are_refused_at_once(device: Device) -> None:
    browser = device.enter()
    browser.get("/users")
    other = browser.post("/users/add", address="carol@example.com", password=_SECRET, again=f"{_SECRET}x")
    assert (other.status, "two different passwords" in other.text) == (422, True)
    long = browser.post("/users/add", address="c" * 2000, password=_SECRET, again=_SECRET)
    assert (long.status, "too long" in long.text) == (422, True)
    none = browser.post("/relay/begin", offline="queue")
    assert (none.status, "Choose one of each." in none.text, "too long" in none.text) == (422, True, False)
    assert device.asked == []


def test_the_user_data_stand_there_to_be_copied_as_they_are(device: Device) -> None:
    device.relay, device.facts = _HERE, FRESH
    text = device.enter().get("/relay").text
    assert "# &lt;b&gt;not bold&lt;/b&gt;\n</textarea>" in text
    assert "13,371 of 16,384 octets" in text
    assert "UDP 51820" in text
    assert '<a href="/dns">' in text
    assert "Hetzner Cloud" in text
    assert "Choose a provider above" in text
    assert "no notes on any provider" not in text, "there are some"
    assert "Choose a provider above" not in device.browser.get("/relay", query="provider=hetzner").text
    device.relay = _HERE.model_copy(update={"mtls": True, "ssh": True, "address": "203.0.113.7"})
    text = device.browser.get("/relay").text
    assert "TCP 22 and TCP 1194" in text.replace("\n", " ")
    assert "UDP 51820" not in text


@pytest.mark.parametrize(
    ("origin", "has", "has_not"),
    [
        (Origin.NOWHERE, 'value="queue" required checked', "/relay/make"),
        (Origin.TO_MAKE, "Make the user-data</button>", 'name="anew"'),
        (Origin.ELSEWHERE, "./darkpipe user-data site.yaml", "textarea"),
        (Origin.SPENT, "this device has removed it", "textarea"),
    ],
)
def test_each_origin_of_user_data_is_told(device: Device, origin: Origin, has: str, has_not: str) -> None:
    device.relay = RelayView(origin=origin, name="mx.example.com", address="mx.example.com")
    text = device.enter().get("/relay").text
    assert has in text
    assert has_not not in text
    # Whatever was made elsewhere, the device can make other ones.
    assert (">Make other user-data here<" in text) is (origin is Origin.ELSEWHERE)


def test_new_keys_in_the_place_of_others_need_a_tick(device: Device) -> None:
    device.relay = _HERE
    browser = device.enter()
    assert 'name="anew" value="yes" required' in browser.get("/relay").text
    browser.post("/relay/make", ssh_key="")
    assert device.asked == [{"do": "make-relay", "ssh_key": "", "anew": False}]


def test_a_relay_that_was_built_anew_is_claimed_by_a_button(device: Device) -> None:
    browser = device.enter()
    assert "Claim the relay" not in browser.get("/relay").text
    device.facts = facts(pairing=pairing(Stage.REBUILT))
    assert 'action="/relay/claim"' in browser.get("/relay").text


def test_how_far_the_relay_is_comes_alone_as_well(device: Device) -> None:
    device.facts = facts(pairing=pairing(Stage.CALLING, "mx.example.com has no address in DNS"))
    browser = device.enter()
    for path in ("/relay", "/relay/live"):
        text = browser.get(path).text
        assert "which has not answered yet" in text
        assert "Mx.example.com has no address in DNS" in text
    assert not browser.get("/relay/live").text.startswith("<!doctype")


def test_a_preflight_under_way_is_waited_for_and_not_begun_twice(device: Device) -> None:
    browser = device.enter()
    device.facts = facts(preflight=preflight(None, finished_at=None, steps=()), preflight_runs=True)
    text = browser.get("/preflight").text
    assert "under way" in text
    assert 'data-reload="/preflight"' in text
    assert '<a href="/preflight">Look again</a>' in text
    assert 'action="/preflight/start"' not in text
    device.facts = facts(preflight=preflight(Outcome.WRONG))
    text = browser.get("/preflight").text
    assert "Something keeps mail away" in text
    assert "data-reload" not in text
    assert "Port 25 to the world" in text
    device.facts = facts(preflight=preflight(None, steps=(), error="accounts.json is damaged"))
    assert "accounts.json is damaged" in browser.get("/preflight").text


def test_what_became_of_the_message_stands_there_with_the_servers_words(device: Device) -> None:
    browser = device.enter()
    device.facts = facts(message=message(Fate.DEFERRED, "451 4.7.1 <b>Greylisted</b>"))
    text = browser.get("/message").text
    assert "451 4.7.1 &lt;b&gt;Greylisted&lt;/b&gt;" in text
    assert "will be tried again" in text
    assert '<a href="/dns/check">check the DNS records</a>' in text
    assert 'data-reload="/message"' in text
    assert '<a href="/message">Look again</a>' in text
    device.facts = facts(message=message(Fate.SENT))
    text = browser.get("/message").text
    assert "The other server has taken it" in text
    assert "into the folder for spam" in text
    assert "data-reload" not in text


def test_who_has_no_password_for_the_message_is_led_to_one(device: Device) -> None:
    """A password that the device made stood on a console, which nobody may have looked at."""
    browser = device.enter()
    browser.get("/message")
    device.refused = "this is not the password of alice@example.com"
    text = browser.post("/message/send", **_FORMS["/message/send"]).text
    assert '<a href="/users">give it another one</a>' in text[text.index("</h1>") :]


def test_a_message_to_this_device_itself_is_no_proof(device: Device) -> None:
    """Whoever has a new address likes to write to it first."""
    browser = device.enter()
    device.facts = facts(message=message(Fate.SENT), message_stays=True)
    text = browser.get("/message").text
    assert "never left this device" in text
    assert "The other server has taken it" not in text
    step = next(step for step in steps(status(), device.facts) if step.title == "Test message")
    assert (step.mark, "send one elsewhere" in step.text) == (Mark.TO_DO, True)
    device.facts = facts(message=message(Fate.SENT))
    assert "never left this device" not in browser.get("/message").text


def test_the_guide_says_what_comes_next_until_all_is_done(device: Device) -> None:
    device.facts = FRESH
    browser = device.enter()
    text = browser.get().text
    assert '<details class="guide" open>' in text
    assert text.count('aria-current="step"') == 1
    current = text[text.index('aria-current="step"') :]
    assert current.index('href="/relay"') < current.index("</li>")
    device.facts = facts()
    text = browser.get().text
    assert "All steps are done" in text
    assert '<details class="guide">' in text
    assert 'aria-current="step"' not in text


def test_nobody_is_told_that_mail_works_before_a_preflight_has_passed(device: Device) -> None:
    browser = device.enter()
    assert "Mail is taken" in browser.get().text
    bad = [preflight(Outcome.WRONG), preflight(Outcome.UNKNOWN), preflight(None, finished_at=None)]
    for last in (None, *bad, preflight(relay="0" * 32)):
        device.facts = facts(preflight=last)
        text = browser.get().text
        assert "Mail is taken" not in text
        assert "no pre-flight has shown" in text


@pytest.mark.parametrize(
    ("change", "title", "mark"),
    [
        ({"relay": ""}, "Relay", Mark.NONE),
        ({"relay": ""}, "Pre-flight", Mark.NONE),
        ({"relay": "", "dns": None}, "DNS", Mark.NONE),
        ({"relay": "", "message": None}, "Test message", Mark.NONE),
        ({"pairing": None}, "Relay", Mark.TROUBLE),
        ({"pairing": pairing(Stage.NO_RELAY)}, "Relay", Mark.TO_DO),
        ({"pairing": pairing(Stage.INSTALLING)}, "Relay", Mark.WAITING),
        ({"pairing": pairing(Stage.SILENT)}, "Relay", Mark.TROUBLE),
        ({"pairing": pairing(Stage.CHANGING)}, "Relay", Mark.DONE),
        # A relay without settings takes no mail, and a pre-flight would find a fault that is none.
        ({"pairing": pairing(Stage.PAIRED, settings=0)}, "Relay", Mark.WAITING),
        ({"dns": None}, "DNS", Mark.TO_DO),
        ({"dns": {Outcome.GOOD: 3, Outcome.WAITING: 1}}, "DNS", Mark.WAITING),
        ({"dns": {Outcome.GOOD: 3, Outcome.WRONG: 1, Outcome.WAITING: 2}}, "DNS", Mark.TROUBLE),
        ({"dns": {Outcome.GOOD: 3, Outcome.WRONG: 0}}, "DNS", Mark.DONE),
        ({"preflight": preflight(Outcome.WARNING)}, "Pre-flight", Mark.DONE),
        ({"preflight": preflight(None, finished_at=None)}, "Pre-flight", Mark.TROUBLE),
        ({"preflight": preflight(None, error="x")}, "Pre-flight", Mark.TROUBLE),
        ({"preflight": preflight(relay="0" * 32)}, "Pre-flight", Mark.TO_DO),
        ({"message": None}, "Test message", Mark.TO_DO),
        ({"message": message(Fate.BOUNCED)}, "Test message", Mark.TROUBLE),
    ],
)
def test_each_step_follows_from_what_is_seen(change: dict[str, Any], title: str, mark: Mark) -> None:
    if isinstance(change.get("dns"), dict):
        change = {"dns": {"at": NOW, "outcomes": change["dns"]}}
    seen = type(facts()).model_validate({**facts().model_dump(), **change})
    assert next(step.mark for step in steps(status(), seen) if step.title == title) is mark


def test_what_a_check_of_dns_has_found_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "dns.json"
    rows = [checked("good"), checked("good", type="A", value="203.0.113.7"), checked("wrong")]
    watched = Watched(lambda _: {"records": rows, "unknown": ["no address"], "zone": ""}, path, lambda: NOW)
    watched(False)
    assert watched.seen is None
    watched(True)
    for seen in (watched.seen, Watched(lambda _: {}, path).seen):
        outcomes = {Outcome.GOOD: 2, Outcome.WRONG: 1, Outcome.UNKNOWN: 1}
        assert seen == DnsSeen(at=NOW, outcomes=outcomes, relay=("203.0.113.7",), domains=("example.com",))
        assert seen.worst is Outcome.WRONG
    path.write_text("{")
    assert watched.seen is None


def test_who_has_no_relay_is_not_told_that_mail_comes_and_goes(device: Device) -> None:
    device.status = status(tunnel=None, seen=Seen())
    device.facts = facts(relay="", pairing=None, dns=None, preflight=None, message=None)
    text = device.enter().get().text
    assert "Mail is taken at home only" in text
    assert '<a href="/relay">Give it a relay</a>' in text
    assert "All is done that needs no relay" in text
    assert "All steps are done" not in text
    assert 'aria-current="step"' not in text, "no page is next that can show nothing"


def test_a_device_without_a_relay_has_nothing_to_show_first() -> None:
    assert has_shown_mail(facts(relay="", preflight=None))
    assert next_step(steps(status(), facts())) is None


def test_a_password_that_was_changed_is_told(device: Device) -> None:
    """The page looks as before otherwise, and nobody knows whether it was done."""
    browser, told = device.enter(), "bob@example.com has the new password"
    browser.get("/users")
    done = browser.post("/users/password", **_FORMS["/users/password"])
    query = done.headers["location"].removeprefix("/users?")
    assert told in browser.get("/users", query=query).text
    assert told not in browser.get("/users").text
    assert "nobody@" not in browser.get("/users", query="changed=nobody@example.com").text
    wrong = browser.post("/users/password", **{**_FORMS["/users/password"], "again": "another"})
    assert wrong.status == 422
    assert told not in wrong.text
