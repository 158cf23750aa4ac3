"""A device that has brought no site: what is asked, who may answer, and what becomes of the answers."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import pytest

from firstboot.console_code import ConsoleCode
from firstboot.page.app import make_app
from firstboot.page.site_form import UNLOCK
from firstboot.site_asking import SiteSession
from firstboot.unlock_dialog import Dialog
from firstboot.unlock_socket import Asking, UnlockClient, serve
from firstboot.unlocking import Refused, Stage
from model.first_site import Answer
from model.owner_code import CODE_NAME
from model.site import Site, UnlockPolicy
from model.supported import working_choices
from tests.unit.browser import HOST, Browser
from tests.unit.locked_disk import GOOD, GROUPS, Disk, Screen

_ANSWERS = {"domains": "example.com", "owner": "alice@example.com", "unlock": "none"}


def test_each_policy_has_its_words_and_no_device_offers_more_than_it_has() -> None:
    assert [choice.value for choice in UNLOCK] == [UnlockPolicy(choice.value) for choice in UNLOCK]
    assert {choice.value for choice in UNLOCK} == set(UnlockPolicy)
    works = working_choices(("disk", "unlock"))
    assert works is None or works <= set(UnlockPolicy)


@dataclass
class Asked:
    """A device that asks for a site.

    Args:
        kept: what was put on the boot partition.
        broken: whether that fails.
    """

    path: Path
    kept: list[Site] = field(default_factory=list)
    broken: bool = False
    now: float = 100.0
    problems: str = ""
    draft: dict[str, str] = field(default_factory=dict)
    own: str = ""

    def session(self) -> SiteSession:
        code = ConsoleCode(lambda: self.now, self.own)
        return SiteSession(code, self.keep, (UnlockPolicy.NONE, UnlockPolicy.PASSPHRASE), self.problems, self.draft)

    def keep(self, site: Site) -> None:
        if self.broken:
            raise OSError(30, "Read-only file system")
        self.kept.append(site)

    def browser(self, address: str = "192.168.1.7") -> Browser:
        return Browser(make_app(UnlockClient(self.path), lambda: "darkpipe"), address)


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """A device that asks for a site, and has not begun."""
    return Asked(tmp_path / "run/control")


@pytest.fixture(autouse=True)
def _stranger() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("firstboot.questions._Connection._uid", lambda _: 1234)
        yield


def test_a_device_gets_its_site_by_the_form_and_then_its_passphrase_with_one_code(asked: Asked) -> None:
    session = asked.session()
    with serve(session, "AB", asked.path, group=None) as turn:
        browser = asked.browser()
        shown = browser.get().text
        assert "Set up this device" in shown
        assert 'value="passphrase"' in shown
        assert 'value="usb-key"' not in shown, "it offers what it has"
        assert 'value="none" checked' not in shown
        assert 'value="passphrase" checked' not in shown, "nothing is chosen beforehand"
        wrong = browser.post("/site", code=session.code.shown, domains="example.com", owner="<b>alice", unlock="none")
        assert wrong.status == 422
        assert "&lt;b&gt;alice" in wrong.text
        assert "<b>alice" not in wrong.text
        assert 'value="none" checked' in wrong.text, "what was typed is kept"
        assert 'aria-describedby="owner-wrong owner-hint"' in wrong.text
        assert session.code.shown not in wrong.text
        assert 'name="code"' not in wrong.text, "the code was right, and is not asked for again"
        assert asked.kept == []
        done = browser.post("/site", **{**_ANSWERS, "unlock": "passphrase"})
        assert (done.status, done.headers["location"]) == (303, "/")
        assert [site.disk.unlock for site in asked.kept] == [UnlockPolicy.PASSPHRASE]
        assert session.finished.is_set()
        session.tell("it waits for a disk")
        assert "It waits for a disk" in browser.get().text
        again = browser.post("/site", **_ANSWERS)
        assert (again.status, "has a site already" in again.text) == (422, True)
        twice = browser.post("/site", **{**_ANSWERS, "unlock": "passphrase"})
        assert (twice.status, len(asked.kept)) == (303, 1), "a button was pressed twice"
        disk = Disk()
        turn(disk.session(new=True, code=session.code))
        assert 'name="code"' not in browser.get().text
        assert 'name="code"' in asked.browser().get().text, "another browser has not shown it"
        shown = browser.post("/choose", passphrase=GOOD, again=GOOD).text
        assert len(re.findall(r"<li>(\w+)</li>", shown)) == len(GROUPS)
        assert "has a site already" in browser.post("/site", **_ANSWERS).text


def test_what_was_typed_stays_when_the_device_has_started_anew_meanwhile(asked: Asked) -> None:
    session = asked.session()
    with serve(session, "AB", asked.path, group=None):
        before, after = asked.browser(), asked.browser()
        before.get()
        after.cookies, after.token = dict(before.cookies), before.token
        code = session.code.shown
        old = after.post("/site", **_ANSWERS, code=code)
        assert (old.status, "This form was too old" in old.text) == (403, True)
        assert 'value="alice@example.com"' in old.text
        assert 'value="none" checked' in old.text
        assert code not in old.text
        # Who does not say where the form was shows nobody anything.
        body = urlencode({"token": "0" * 64, **_ANSWERS}).encode()
        assert 'alice@example.com"' not in after.send("POST", "/site", {"host": HOST}, body).text
        assert asked.kept == []
        assert after.post("/site", **_ANSWERS, code=code).status == 303


def test_a_disk_that_nobody_locks_is_there_and_not_unlocked(asked: Asked) -> None:
    session = asked.session()
    browser = asked.browser()
    with serve(session, "AB", asked.path, group=None):
        browser.get()
        assert browser.post("/site", **_ANSWERS, code=session.code.shown).status == 303
        browser.get()
    gone = browser.get().text
    assert "The disk is there" in gone
    assert "unlocked" not in gone


def test_without_the_code_nobody_is_heard_and_guesses_cost_time(asked: Asked) -> None:
    session = asked.session()
    with serve(session, "AB", asked.path, group=None):
        browser = asked.browser()
        browser.get()
        for guess in ("", "00000000x", "1"):
            wrong = browser.post("/site", **{**_ANSWERS, "code": guess, "domains": "kept.example.com"})
            assert (wrong.status, "The code is not the right one" in wrong.text) == (422, True)
            assert "kept.example.com" in wrong.text
            assert f'name="code" value="{guess}"' in wrong.text
        assert "wait 1 second" in browser.post("/site", **_ANSWERS, code=session.code.shown).text
        asked.now += 2
        browser.cookies["__Host-darkpipe-grant"] = "A" * 43
        assert "not the right one" in browser.post("/site", **_ANSWERS).text
        assert browser.cookies["__Host-darkpipe-grant"] == "", "an old grant is forgotten"
        assert asked.kept == []
        asked.now += 100
        assert browser.post("/site", **_ANSWERS, code=session.code.shown).status == 303


def test_who_has_shown_the_code_does_not_wait_for_those_who_guess(asked: Asked) -> None:
    session = asked.session()
    for _ in range(5):
        with pytest.raises(Refused):
            session.take(_ANSWERS, "1")
    assert session.take({}, session.code.grant).complaints
    session.take(_ANSWERS, session.code.grant)
    assert asked.kept


def test_other_sites_other_names_other_networks_and_long_forms_are_refused(asked: Asked) -> None:
    session = asked.session()
    with serve(session, "AB", asked.path, group=None):
        browser = asked.browser()
        browser.get()
        sent = {**_ANSWERS, "code": session.code.shown}
        token, browser.token = browser.token, "0" * 64
        assert browser.post("/site", **sent).status == 403
        browser.token = token
        assert browser.post("/site", **{**sent, "others": "x" * 9000}).status == 413
        assert browser.post("/site", **sent, **{f"more{number}": "" for number in range(30)}).status == 400
        foreign = {"host": "192.168.1.20", "origin": "https://evil.example"}
        assert browser.send("POST", "/site", foreign, b"x=1").status == 403
        assert browser.get(host="evil.example").status == 421
        assert asked.browser("203.0.113.9").get().status == 403
        assert asked.kept == []
        own = {"host": "192.168.1.20", "origin": "https://192.168.1.20"}
        long = f"token={token}&code={session.code.shown}&domains=".encode() + b"\x01" * 7000
        assert browser.send("POST", "/site", own, long).status == 422, "longer than a question may be"
        assert browser.post("/site", **sent).status == 303, "the same is heard as it is meant"


def test_what_cannot_be_kept_is_told_and_asked_again(asked: Asked) -> None:
    asked.broken = True
    session = asked.session()
    with pytest.raises(Refused, match="Read-only"):
        session.take(_ANSWERS, session.code.shown)
    assert session.view().stage is Stage.SITE
    asked.broken = False
    session.take(_ANSWERS, session.code.shown)
    assert session.view().stage is Stage.TAKEN


def test_a_way_to_unlock_that_the_device_has_not_is_refused(asked: Asked) -> None:
    session = asked.session()
    judged = session.take({**_ANSWERS, "unlock": "usb-key"}, session.code.shown)
    assert [complaint.answer for complaint in judged.complaints] == [Answer.UNLOCK]


def test_problems_of_a_wrong_file_are_shown_beside_the_form(asked: Asked) -> None:
    asked.problems = "darkpipe.yaml cannot be used.\nline 3: found <b>"
    with serve(asked.session(), "AB", asked.path, group=None):
        text = asked.browser().get().text
    assert "line 3: found <b>" in html.unescape(text)
    assert "<b>" not in text
    assert "<form" in text


def test_only_what_a_wrong_file_does_not_say_is_asked(asked: Asked) -> None:
    """The file names all but what unlocks the disk; who has not shown the code sees nothing of it."""
    asked.problems = "darkpipe.yaml on the boot partition cannot be used.\nfound no unlock"
    asked.draft = {
        "domains": "example.com",
        "owner": "alice@example.com",
        "relay": "mx.example.com",
        "offline": "tempfail",
        "data": "usb",
    }
    session = asked.session()
    with serve(session, "AB", asked.path, group=None):
        browser = asked.browser()
        shown = browser.get().text
        assert "Type the code alone" in shown
        assert "has brought no domain" not in shown
        assert "alice@example.com" not in shown
        assert 'mx.example.com"' not in shown
        assert not re.findall(r'<input name="(?!code)[^>]* required|radio[^>]* (?:required|checked)', shown)
        assert "alice@example.com" not in browser.post("/site", code="1").text
        filled = browser.post("/site", code=session.code.shown)
        assert (filled.status, asked.kept) == (422, [])
        assert 'value="alice@example.com"' in filled.text
        assert 'value="tempfail" checked' in filled.text
        assert 'value="usb" checked' in filled.text
        assert 'value="wireguard" checked' in filled.text
        assert "filled in from darkpipe.yaml" in filled.text
        assert "Nothing is chosen yet" in filled.text
        # From now on the form counts as it is: who wants no relay empties the field.
        sent = {"domains": "example.com", "owner": "alice@example.com", "data": "usb", "unlock": "none"}
        assert browser.post("/site", **sent).status == 303
        (site,) = asked.kept
        assert (site.relays, site.disk.data) == ((), "usb")


def test_who_comes_back_finds_the_form_filled_in_from_the_file(asked: Asked) -> None:
    """A telephone that was put away opens the address again; the code is not asked for then."""
    asked.draft = {"domains": "example.com", "owner": "alice@example.com", "unlock": "passphrase"}
    session = asked.session()
    with serve(session, "AB", asked.path, group=None):
        browser = asked.browser()
        browser.get()
        browser.post("/site", code=session.code.shown)
        back = browser.get().text
        assert 'value="alice@example.com"' in back
        assert 'value="passphrase" checked' in back
        assert 'name="code"' not in back
        browser.cookies["__Host-darkpipe-grant"] = "of another start of the device"
        later = browser.get().text
        assert "alice@example.com" not in later
        assert 'name="code"' in later, "who would go on without one would hear of a wrong answer"
        assert "alice@example.com" not in asked.browser().get().text
        assert session.code._failures == 0, "to look is no guess"


def test_what_a_file_says_is_seen_before_it_counts(asked: Asked) -> None:
    asked.draft = {**_ANSWERS, "relay": "mx.example.com"}
    session = asked.session()
    judged = session.take({}, session.code.shown)
    assert asked.kept == []
    assert [complaint.answer for complaint in judged.complaints] == [None]
    assert session.take(judged.answers, judged.grant).complaints == ()
    assert [site.relays[0].address for site in asked.kept] == ["mx.example.com"]


def test_the_console_shows_the_way_until_somebody_was_there(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firstboot.questions._Connection._uid", lambda _: 0)
    session = asked.session()
    shown: list[str] = []

    class Watching(Screen):
        def ask(self, question: str, *, hidden: bool, until: Callable[[], bool]) -> str | None:
            self.answers.append("")
            super().ask(question, hidden=hidden, until=until)
            shown.append("\n".join(self.shown))
            assert not until()
            session.take(_ANSWERS, session.code.shown)
            assert until()
            turn(Disk().session(new=False))
            assert until(), "however fast the disk is there"
            return None

    def lead(screen: Screen) -> bool:
        client = UnlockClient(asked.path)
        return Dialog(client, screen, "a login", lambda: ("192.168.1.20",), lambda _: None, lambda: "attic").run()

    with serve(session, "AB:CD", asked.path, group=None) as turn:
        assert not lead(Screen("")), "an Enter leads to the login"
        watching = Watching()
        monkeypatch.setattr(Dialog, "_unlock", lambda _: False)
        assert not lead(watching)
    assert "https://192.168.1.20\n" in shown[0]
    assert "AB:CD" in shown[0]
    assert f"{session.code.shown[:4]} {session.code.shown[4:]}" in shown[0]
    assert "is locked" in "\n".join(watching.shown)


def test_what_is_wrong_with_a_file_does_not_scroll_address_and_code_off_the_console(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked.problems = "\n".join(f"line {number}: found something" for number in range(1, 41))
    session = asked.session()
    monkeypatch.setattr("firstboot.questions._Connection._uid", lambda _: 0)
    screen = Screen("")
    with serve(session, "AB:CD", asked.path, group=None):
        Dialog(UnlockClient(asked.path), screen, "a login", lambda: (), lambda _: None, lambda: "attic").run()
    last = "\n".join(screen.shown).splitlines()[-20:]
    assert any(f"{session.code.shown[:4]} {session.code.shown[4:]}" in line for line in last)
    assert any("https://attic.local" in line for line in last)
    assert "line 40: found something" in "\n".join(screen.shown)


def test_an_own_code_counts_and_no_console_shows_it(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    asked.own = "myowncode1234"
    session: Asking = asked.session()
    monkeypatch.setattr("firstboot.questions._Connection._uid", lambda _: 0)
    with serve(session, "AB", asked.path, group=None):
        screen = Screen("")
        client = UnlockClient(asked.path)
        Dialog(client, screen, "a login", lambda: (), lambda _: None, lambda: "attic").run()
        assert client.see().code == ""
        page = asked.browser().get().text
        judged = client.take_site(_ANSWERS, "My-own code 1234")
    assert (judged.complaints, len(asked.kept)) == ((), 1)
    text = "\n".join(screen.shown)
    assert CODE_NAME in text
    assert not any(secret in place for secret in ("myowncode", "1234") for place in (text, page))
