"""Answers that make a site, as a device asks for them that has brought none."""

from __future__ import annotations

import pytest
import yaml

from model.document import dump_site, parse_site
from model.first_site import Answer, NoSiteError, answers_in, first_site
from model.site import DataDisk, OfflinePolicy, Site, Transport, UnlockPolicy

_ANSWERS = {"domains": "example.com", "owner": "alice@example.com", "unlock": "none"}


def test_answers_make_the_site_of_a_file() -> None:
    site = first_site(
        {
            **_ANSWERS,
            "domains": "Example.com, example.org",
            "owner": "alice@example.com sales@example.org",
            "others": "bob@example.com\r\n\r\n  carol@example.org\n",
            "relay": " mx.example.com ",
            "offline": "tempfail",
            "transport": "mtls",
            "data": "usb",
            "unlock": "passphrase",
        }
    )
    assert parse_site(dump_site(site), "x") == site
    assert site.domains == ("example.com", "example.org")
    assert [user.address for user in site.users] == ["alice@example.com", "bob@example.com", "carol@example.org"]
    assert (site.users[0].aliases, site.admin) == (("sales@example.org",), "alice@example.com")
    assert {user.password for user in site.users} == {"generate"}
    assert (site.relays[0].offline, site.relays[0].transport) == (OfflinePolicy.TEMPFAIL, Transport.MTLS)
    assert (site.disk.data, site.disk.unlock) == (DataDisk.USB, UnlockPolicy.PASSPHRASE)
    assert first_site(_ANSWERS).relays == ()


@pytest.mark.parametrize(
    ("wrong", "answer", "words"),
    [
        ({"domains": ""}, Answer.DOMAINS, "No domain yet"),
        ({"domains": "example"}, Answer.DOMAINS, "single word"),
        ({"domains": "example.com: [x]\ndisk"}, Answer.DOMAINS, "a domain such as"),
        ({"domains": "example.com example.com"}, Answer.DOMAINS, "a second time"),
        ({"owner": ""}, Answer.OWNER, "No address yet"),
        ({"owner": "alice"}, Answer.OWNER, "a mail address such as"),
        ({"owner": "alice@exampel.com"}, Answer.OWNER, "did you mean"),
        ({"owner": 'alice@example.com, password: "x"'}, Answer.OWNER, "a mail address such as"),
        ({"others": "bob"}, Answer.OTHERS, "a mail address such as"),
        ({"others": "alice@example.com"}, Answer.OTHERS, "a second time"),
        ({"relay": "not a host"}, Answer.RELAY, "host"),
        ({"relay": "mx.example.com", "offline": "burn"}, Answer.OFFLINE, "burn"),
        ({"relay": "mx.example.com", "transport": "pigeon"}, Answer.TRANSPORT, "pigeon"),
        ({"data": "moon"}, Answer.DATA, "moon"),
        ({"unlock": ""}, Answer.UNLOCK, "no default"),
        ({"unlock": "magic"}, Answer.UNLOCK, "magic"),
        ({"unlock": "none\nusers: []"}, Answer.UNLOCK, "none"),
    ],
)
def test_what_is_wrong_is_told_at_its_answer(wrong: dict[str, str], answer: Answer, words: str) -> None:
    with pytest.raises(NoSiteError) as refused:
        first_site({**_ANSWERS, **wrong})
    told = [complaint for complaint in refused.value.complaints if complaint.answer is answer]
    assert told, refused.value
    assert words.lower() in told[0].text.lower()


@pytest.mark.parametrize("relay", [{"relay": ""}, {"relay": "mx.example.com", "transport": "mtls"}])
def test_who_wants_the_relays_help_without_one_hears_of_the_form_and_not_of_a_file(relay: dict[str, str]) -> None:
    with pytest.raises(NoSiteError) as error:
        first_site({**_ANSWERS, "unlock": "relay", **relay})
    (complaint,) = error.value.complaints
    assert complaint.answer is Answer.UNLOCK
    assert "name or address above, with WireGuard" in complaint.text
    assert "`" not in complaint.text


_FILE = """\
domains: [example.com, example.org]
users:
  - address: alice@example.com
    aliases: [info@example.org]
    password: a secret of mine
  - address: bob@example.com
relays:
  - {address: mx.example.com, transport: pigeon}
disk: {data: usb}
colour: green
"""


def test_what_a_file_says_is_read_as_a_person_would_type_it() -> None:
    found = answers_in(_FILE)
    assert found == {
        "domains": "example.com example.org",
        "owner": "alice@example.com info@example.org",
        "others": "bob@example.com",
        "relay": "mx.example.com",
        "data": "usb",
    }
    site = first_site({**found, "unlock": "none"})
    assert [user.address for user in site.users] == ["alice@example.com", "bob@example.com"]
    assert answers_in(dump_site(site)) == {**found, "offline": "queue", "transport": "wireguard", "unlock": "none"}


@pytest.mark.parametrize(
    "text",
    ["", "x", "- 1", "domains: [", "domains: 1", "users: [1, {address: [x]}]", "relays: {}", "disk: usb", "a: *b"],
)
def test_a_file_that_says_nothing_of_it_fills_in_nothing(text: str) -> None:
    assert answers_in(text) == {}


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(NoSiteError) as refused:
        first_site({"others": "bob", "data": "moon"})
    answers = {complaint.answer for complaint in refused.value.complaints}
    assert answers >= {Answer.DOMAINS, Answer.OWNER, Answer.OTHERS, Answer.DATA, Answer.UNLOCK}


@pytest.mark.parametrize("answer", list(Answer))
@pytest.mark.parametrize(
    "bait",
    [
        "\nevil: 1",
        "example.com\nevil: 1",
        "x: {evil: 1}",
        "# evil",
        "!!python/object:evil x",
        "&a [*a]",
        "\x00evil",
        "'\"",
    ],
)
def test_no_answer_makes_another_key(answer: Answer, bait: str) -> None:
    """Whatever is typed: either it is refused, or the file has the keys of a site, with single values."""
    given = {**_ANSWERS, answer: f"{_ANSWERS.get(answer, '')}{bait}"}
    try:
        site = first_site(given)
    except NoSiteError:
        return
    text = dump_site(site)
    assert set(yaml.safe_load(text)) == set(Site.model_fields)
    assert parse_site(text, "x") == site
    assert "evil:" not in text
