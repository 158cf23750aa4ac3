"""What documents, help texts and messages say, held against what is there: files, headings, commands and options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

_PATH = re.compile(r"`([a-z][a-z-]*/[\w./-]*)`")
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^]]*]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.*)$", re.MULTILINE)
_QUOTED = re.compile(
    r"`((?:sudo +)?(?:\./)?(?:darkpipe|dev)(?:\s[^`]*)?)`|<code>((?:sudo +)?(?:\./)?darkpipe [^<]*)</code>"
)
_LINE = re.compile(r"^[ #]*((?:sudo +|[A-Z_]+=\S+ +)*(?:\./(?:darkpipe|dev)|darkpipe) [^\n]*)$", re.MULTILINE)
_BARE = re.compile(r"(?<![\w./`-])darkpipe ([a-z][a-z0-9-]*)(?: ([a-z][a-z0-9-]*))?")
_OPERATORS = {"|", "&&", "||", ";", ">", "<", "&"}
_PLACEHOLDER = re.compile(r"^[A-Z][A-Z:.]*$|[…{]|^\.\.\.$")


@dataclass(frozen=True)
class Call:
    """A command line that a text shows.

    Args:
        line: where it begins in its file, from 1.
        words: the program and what follows it, up to a pipe or the like.
    """

    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.words)


def broken_links(document: Path) -> list[str]:
    """Find links of a Markdown file to files and headings that are not there.

    Args:
        document: the file. Addresses of the web are not looked at.

    Returns:
        a sentence for each, with the line.
    """
    text = document.read_text()
    faults = []
    for link in _LINK.finditer(_without_fences(text)):
        target, _, anchor = link[1].partition("#")
        if ":" in target:
            continue
        aim = document.parent / target if target else document
        if not aim.exists():
            faults.append(f"line {_line(text, link.start())}: there is no {target}")
        elif anchor and anchor not in anchors(aim.read_text()):
            faults.append(f"line {_line(text, link.start())}: {aim.name} has no heading #{anchor}")
    return faults


def missing_files(document: Path, root: Path) -> list[str]:
    """Find files and folders of the project that a Markdown file names and that are not there.

    Args:
        document: the file. What stands between backticks and begins with a folder of the project is a path.
        root: the checkout.

    Returns:
        a sentence for each, with the line.
    """
    folders = {entry.name for entry in root.iterdir() if entry.is_dir()}
    text = document.read_text()
    return [
        f"line {_line(text, name.start())}: there is no {name[1]}"
        for name in _PATH.finditer(text)
        if name[1].partition("/")[0] in folders and not (root / name[1]).exists()
    ]


def anchors(text: str) -> set[str]:
    """Return the names by which a Markdown text's headings can be reached, made in the way of GitHub.

    Args:
        text: of the file; of headings with the same words, only the first is reached.
    """
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        for heading in _HEADING.findall(_without_fences(text))
    }


def calls(text: str) -> Iterator[Call]:
    """Find the command lines of our programs in a text.

    Args:
        text: of a document, program, template or help. A call stands between backticks or in `<code>`, or has a line
            to itself.
    """
    found = {match.start(): match[1] or match[2] for match in _QUOTED.finditer(text)}
    found |= {match.start(1): match[1] for match in _LINE.finditer(text) if "`" not in match[1]}
    for start in sorted(found):
        words = _words(found[start])
        while words[0] == "sudo" or "=" in words[0]:
            words = words[1:]
        yield Call(_line(text, start), words)


def misplaced(text: str, programs: Mapping[str, click.Group]) -> list[str]:
    """Find commands in running text, without backticks, that the device's `darkpipe` does not know.

    Args:
        text: of a program or template.
        programs: as for `fault`.

    Returns:
        a sentence for each, with the line.
    """
    device, computer = programs["darkpipe"].commands, programs["./darkpipe"].commands
    faults = []
    for found in _BARE.finditer(text):
        group = device.get(found[1])
        of_computer = group is None and found[1] in computer
        unknown = isinstance(group, click.Group) and found[2] and found[2] not in group.commands
        if of_computer or unknown:
            faults.append(f"line {_line(text, found.start())}: there is no {found[0]}")
    return faults


def fault(call: Call, programs: Mapping[str, click.Command], rest: Callable[[list[str]], str | None]) -> str | None:
    """Say what of a call its program does not know, or None.

    Args:
        call: the command line. Words in capitals, with braces or with an ellipsis stand for anything.
        programs: each program's own command, by the name that it is called by.
        rest: says which of the words after `--` mean nothing to whoever gets them, or None.
    """
    name, words = call.words[0], list(call.words[1:])
    if name not in programs:
        return f"{call}: there is no program {name}"
    command = programs[name]
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    if "--" in words:
        cut = words.index("--")
        unknown = rest(words[cut + 1 :])
        words = words[:cut]
    else:
        unknown = None
    wrong = _wrong_word(command, words) or (unknown and f"{unknown} means nothing")
    return f"{call}: {wrong}" if wrong else None


def _wrong_word(command: click.Command, words: list[str]) -> str | None:
    """Say which word a command, or a group without its command, does not take."""
    takers = [one for one in command.params if isinstance(one, click.Argument) for _ in range(abs(one.nargs))]
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word in ("-h", "--help"):
            continue
        if word.startswith("-") and word != "-":
            name, _, value = word.partition("=")
            option = _option(command, name)
            if option is None:
                return f"{command.name} has no option {name}"
            if not option.is_flag and waiting and not value:
                value = waiting.pop(0)
            if value and not _allowed(option, value):
                return f"{name} takes no {value}"
        elif not _PLACEHOLDER.search(word):
            if not takers or not _allowed(takers[0], word):
                return f"{command.name} knows no {word}"
            if takers[0].nargs > 0:
                takers.pop(0)
    return None


def _option(command: click.Command, name: str) -> click.Option | None:
    options = (one for one in command.params if isinstance(one, click.Option))
    return next((one for one in options if name in (*one.opts, *one.secondary_opts)), None)


def _allowed(parameter: click.Parameter, value: str) -> bool:
    choice = parameter.type
    return not isinstance(choice, click.Choice) or bool(_PLACEHOLDER.search(value)) or value in choice.choices


def _words(line: str) -> tuple[str, ...]:
    lexer = shlex.shlex(line.rstrip("\\ "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        if word in _OPERATORS:
            break
        words.append(word)
    return tuple(words)


def _without_fences(text: str) -> str:
    """Blank out the parts between fences, so that lines and places stay."""
    return _FENCE.sub(lambda fence: re.sub(r"[^\n]", " ", fence[0]), text)


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
