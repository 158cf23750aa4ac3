"""Documents, help texts, messages and pages name files, headings, commands and options that are there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from builder.cli import darkpipe
from firstboot.imager import read_imager
from home.cli import main as on_device
from home.status import Status
from stack.stack import Stack
from tests.dev import OWN_TESTS, dev
from tests.documents import Call, anchors, broken_links, calls, fault, misplaced, missing_files

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
PROGRAMS = {"./darkpipe": darkpipe, "darkpipe": on_device, "./dev": dev}
SPEAKING = ("*.py", "*.html", "*.yaml", "*.j2", "*.sh", "*.service")
FOLDERS = ("bootstrap", "builder", "components", "examples", "firstboot", "home", "model", "profiles", "relay", "stack")


def test_links_lead_to_files_and_headings() -> None:
    faults = {document.name: broken_links(document) for document in DOCUMENTS}
    assert {name: found for name, found in faults.items() if found} == {}


def test_documents_name_files_that_are_there(tmp_path: Path) -> None:
    faults = {document.name: missing_files(document, REPOSITORY) for document in DOCUMENTS}
    assert {name: found for name, found in faults.items() if found} == {}
    (tmp_path / "text.md").write_text("`home/drain.py`, `home/dr.py` and\n`relay/nothing/`, `example.net/home`\n")
    assert missing_files(tmp_path / "text.md", REPOSITORY) == [
        "line 1: there is no home/dr.py",
        "line 2: there is no relay/nothing/",
    ]


def test_documents_name_commands_that_are_there() -> None:
    found, number = judged(DOCUMENTS)
    assert found == []
    assert number > 100  # the search itself works


def test_messages_and_help_name_commands_that_are_there() -> None:
    found, number = judged([*speaking(), REPOSITORY / "tests/dev.py", *(REPOSITORY / "tests").glob("*/command.py")])
    assert found == []
    assert number > 200


def test_messages_name_no_command_of_the_other_computer() -> None:
    assert misplaced("see darkpipe build, or darkpipe disk shut", PROGRAMS) == [
        "line 1: there is no darkpipe build",
        "line 1: there is no darkpipe disk shut",
    ]
    faults = {str(file.relative_to(REPOSITORY)): misplaced(file.read_text(), PROGRAMS) for file in speaking()}
    assert {name: found for name, found in faults.items() if found} == {}


def test_the_fields_of_the_status_are_all_explained() -> None:
    text = (REPOSITORY / "docs/architecture.md").read_text().partition("## Is it well?")[2].partition("\n## ")[0]
    explained = {
        name for row in re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert explained == set(Status.model_fields)


def test_the_ports_are_those_of_the_stack() -> None:
    text = (REPOSITORY / "docs/architecture.md").read_text().partition("## Ports")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|", text, re.MULTILINE)
    stack = Stack.load(REPOSITORY / "components")
    zones = {"lan": stack.ports, "home": stack.home_ports, "tunnel": stack.tunnel_ports, "device": stack.device_ports}
    told = {zone: {int(number) for number in re.findall(r"\b\d{2,}\b", cell)} for zone, cell in rows}
    assert told == {zone: {port.port for port in ports} for zone, ports in zones.items()}


def test_the_login_of_the_first_evening_is_taken() -> None:
    text = (REPOSITORY / "docs/first-evening.md").read_text()
    (shown,) = re.findall(r"```yaml\n(#cloud-config\n.*?)```", text, re.DOTALL)
    settings = read_imager({"user-data": shown.encode()}).settings
    assert settings.ssh
    assert settings.login
    assert settings.login.name == "alice"
    assert settings.login.keys


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`darkpipe disk lock`", "disk knows no lock"),
        ("`darkpipe why STAGE`", "main knows no why"),
        ("<code>sudo darkpipe page hide</code>", "page knows no hide"),
        ("```sh\n./darkpipe build home.yaml --profil x64\n```", "build has no option --profil"),
        ("    DARKPIPE_CONTAINER=always ./darkpipe build --without-syte", "build has no option --without-syte"),
        ("`darkpipe disk change-policy stick`", "change-policy knows no stick"),
        ("`darkpipe disk status --json --loud | jq`", "status has no option --loud"),
        ("`darkpipe apply now`", "apply knows no now"),
        ("`./dev test unit -- -k no_such_test`", "no_such_test means nothing"),
        ("`./dev test unit -- --no-such-option`", "--no-such-option means nothing"),
        ("`./dev test fresh --suit bookworm`", "fresh has no option --suit"),
        ("`./dev fly`", "dev knows no fly"),
        ("`./darkpipe boot … --disk=FILE | cat --not-ours`", None),
        ("`darkpipe user add carol@example.com --quota 5G`", None),
    ],
)
def test_planted_commands(tmp_path: Path, text: str, found: str | None) -> None:
    (tmp_path / "text.md").write_text(text)
    faults, number = judged([tmp_path / "text.md"])
    assert number == 1
    assert [one.rpartition(": ")[2] for one in faults] == ([found] if found else [])


def test_planted_links(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# What it's for\n```sh\n# no heading\n```\n")
    document = tmp_path / "one.md"
    document.write_text("[a](other.md#what-its-for)\n[b](https://example.com/x#y)\n")
    assert broken_links(document) == []
    document.write_text("[a](other.md#no-heading)\n\n[b](gone.md) and [c](#nowhere)\n")
    assert broken_links(document) == [
        "line 1: other.md has no heading #no-heading",
        "line 3: there is no gone.md",
        "line 3: one.md has no heading #nowhere",
    ]


def test_anchors_are_those_of_github() -> None:
    assert anchors("# The `disk`: how, when?\n## Home's end_\n") == {"the-disk-how-when", "homes-end_"}


@cache
def speaking() -> tuple[Path, ...]:
    """The files whose texts people read: programs, pages, templates, and comments in data."""
    return tuple(file for folder in FOLDERS for kind in SPEAKING for file in (REPOSITORY / folder).rglob(kind))


def judged(files: list[Path]) -> tuple[list[str], int]:
    """The faults of all command lines in some files, and how many lines there were."""
    shown = [(file, call) for file in files for call in calls(file.read_text())]
    faults = [(file, call, fault(direct(call), PROGRAMS, for_pytest)) for file, call in shown]
    return [f"{file.name}:{call.line}: {found}" for file, call, found in faults if found], len(shown)


def direct(call: Call) -> Call:
    """`./dev test fresh` is the command `fresh`, as tests/dev.py has it."""
    own = call.words[:2] == ("./dev", "test") and call.words[2:3] and call.words[2] in OWN_TESTS
    return Call(call.line, ("./dev", *call.words[2:])) if own else call


def for_pytest(words: list[str]) -> str | None:
    """The first word that selects no test and is no option, or None."""
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word == "-k":
            names: list[str] = re.findall(r"\w+", waiting.pop(0))
            unknown = [name for name in names if name not in {"or", "and", "not"} and name not in names_of_tests()]
            if unknown:
                return unknown[0]
        elif word in ("--hypothesis-profile", "--flaps", "--home-profile"):
            waiting = waiting[1:]
        elif word not in ("-x", "PYTEST", "OPTION...") and f'"{word}"' not in options():
            return word
    return None


@cache
def options() -> str:
    return (REPOSITORY / "tests/conftest.py").read_text()


@cache
def names_of_tests() -> str:
    modules = [
        file
        for tier in ("unit", "network", "machine", "images")
        for file in (REPOSITORY / "tests" / tier).rglob("test_*.py")
    ]
    functions = (re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE) for file in modules)
    return " ".join([*(file.stem for file in modules), *(name for names in functions for name in names)])
