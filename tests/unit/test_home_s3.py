"""The bucket in the Site, and the two secrets that go with it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from pyrage import x25519

from home.s3_settings import SEAL, SECRET_KEY, S3KeyError, keep_secret_key, s3_settings, told
from model.control import QueueSettings
from model.document import SiteError, parse_site
from model.problems import Kind
from model.s3 import Mode, S3Settings
from model.site import S3

_SITE = """\
version: 1
domains: [example.com]
disk: {unlock: none}
users: [{address: alice@example.com}]
relays:
  - address: mx.example.com
    offline: tempfail
    s3:
      endpoint: https://S3.example.net/
      bucket: my-mail
      access_key: AKIAEXAMPLE
"""


def _s3(more: str = "") -> S3:
    found = parse_site(f"{_SITE}{more}", "site.yaml").relays[0].s3
    assert found
    return found


def test_a_bucket_has_defaults_and_its_secret_key_is_asked_for_on_the_device() -> None:
    s3 = _s3()
    assert s3.endpoint == "https://S3.example.net"
    assert (s3.mode, s3.region, s3.prefix, s3.budget) == (Mode.OVERFLOW, "us-east-1", "", "20G")
    assert _s3("      mode: write-through\n      prefix: a/b\n").prefix == "a/b/"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("endpoint: http://s3.example.net", Kind.BAD_S3),
        ("endpoint: s3.example.net", Kind.BAD_S3),
        ("endpoint: https://me:word@s3.example.net", Kind.BAD_S3),
        ("endpoint: https://s3.example.net/my-mail", Kind.BAD_S3),
        ("endpoint: https://s3.example.net:99999", Kind.BAD_S3),
        ("bucket: My_Mail", Kind.BAD_S3),
        ("access_key: two words", Kind.BAD_S3),
        ("prefix: a//b", Kind.BAD_S3),
        ("region: a b", Kind.BAD_S3),
        ("mode: everything", Kind.NO_CHOICE),
        ("budget: lots", Kind.BAD_QUOTA),
        ("secret_key: wJalrXUtnFEMI", Kind.BAD_S3),
        ("secret_key: [wJalrXUtnFEMI]", Kind.BAD_S3),
        ("colour: red", Kind.UNKNOWN_KEY),
    ],
)
def test_a_wrong_setting_is_refused_with_its_line_and_no_key_is_shown(line: str, kind: Kind) -> None:
    key = line.partition(":")[0]
    kept = "".join(f"{one}\n" for one in _SITE.splitlines() if not one.strip().startswith(f"{key}:"))
    with pytest.raises(SiteError) as refused:
        parse_site(f"{kept}      {line}\n", "site.yaml")
    (problem,) = refused.value.problems
    assert (problem.path[-1], problem.kind, problem.line) == (key, kind, kept.count("\n") + 1)
    assert problem.remedy
    assert "wJalrXUtnFEMI" not in str(refused.value)
    assert "word@" not in problem.found


def test_the_relay_is_told_all_of_it(tmp_path: Path) -> None:
    keep_secret_key(tmp_path, " wJalrXUtnFEMI/K7MDENG \n")
    settings = s3_settings(_s3(), tmp_path)
    assert settings.secret_key == "wJalrXUtnFEMI/K7MDENG"
    assert s3_settings(_s3(), tmp_path) == settings
    pushed = QueueSettings(1, "mx.example.com", ("example.com",), "queue", (), 10, s3=told(settings))
    assert S3Settings.of(QueueSettings.read(pushed.to_json()).s3) == settings
    assert "wJalr" not in repr(pushed) + repr(settings)
    assert settings.seal not in repr(pushed) + repr(settings)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {SECRET_KEY: 0o600, SEAL: 0o600}


def test_without_the_secret_key_it_is_said_how_to_give_it(tmp_path: Path) -> None:
    with pytest.raises(S3KeyError, match="darkpipe relay s3-key"):
        s3_settings(_s3(), tmp_path)


@pytest.mark.parametrize("text", ["", "two words", "a\nb", "ä", "x" * 600])
def test_what_is_no_key_is_not_kept(tmp_path: Path, text: str) -> None:
    with pytest.raises(S3KeyError):
        keep_secret_key(tmp_path, text)
    assert not list(tmp_path.iterdir())


def test_two_who_make_the_seal_at_once_have_the_same_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / SECRET_KEY).write_text("secret", encoding="ascii")
    others: list[str] = []

    def generate() -> x25519.Identity:
        if not others:  # the other one comes in between
            others.append("")
            others[0] = s3_settings(_s3(), tmp_path).seal
        return x25519.Identity.generate()

    fake = SimpleNamespace(Identity=SimpleNamespace(generate=generate, from_str=x25519.Identity.from_str))
    monkeypatch.setattr("home.s3_settings.x25519", fake)
    assert s3_settings(_s3(), tmp_path).seal == others[0]
    assert (tmp_path / SEAL).read_text(encoding="ascii").strip() == others[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((SECRET_KEY, SEAL))


def test_a_damaged_seal_is_not_replaced(tmp_path: Path) -> None:
    keep_secret_key(tmp_path, "key")
    (tmp_path / SEAL).write_text("AGE-SECRET-KEY-1DAMAGED", encoding="ascii")
    with pytest.raises(S3KeyError, match="backup; to remove it gives up what lies in the bucket") as refused:
        s3_settings(_s3(), tmp_path)
    assert "DAMAGED" not in str(refused.value)
    assert (tmp_path / SEAL).read_text(encoding="ascii") == "AGE-SECRET-KEY-1DAMAGED"
