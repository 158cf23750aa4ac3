"""The questions of `./darkpipe init`: each says what it means, and each answer is checked by the model at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from builder.errors import BuildError
from model.document import check_values
from model.first_site import mailbox, relays, words
from model.names import mail_address
from model.passwords import GENERATE, PROMPT
from model.problems import Finding, Path, Refusal
from model.site import Disk, MailServer, Relay, Site, User
from model.supported import working_choices

_DONE = ""
"""What Enter alone gives where there is no default value."""


class Terminal(Protocol):
    """Somebody who can be asked."""

    def say(self, text: str) -> None:
        """Show a paragraph."""

    def ask(self, prompt: str, default: str | None) -> str:
        """Give the line that was typed, or the default for an empty one; None means that there is no default."""


@dataclass(frozen=True)
class Given:
    """Answers that came as flags, and are not asked for.

    Args:
        domains: none: ask.
        users: one text for each mailbox: its address, then aliases, separated by commas or spaces.
        password: `generate`, `prompt` or a hash, for all mailboxes.
        relay: name or IP address; an empty one means none.
    """

    domains: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    password: str | None = None
    admin: str | None = None
    mail_server: str | None = None
    relay: str | None = None
    unlock: str | None = None


@dataclass(frozen=True)
class Question:
    """One thing to know.

    Args:
        path: the key of `site.yaml` that the answer fills.
        flag: the option that answers it.
        prompt: what is asked, as short as a prompt is.
        meaning: what the answer does.
        recommended: what most people should answer, and why.
        default: what Enter means; None where the answer must be typed.
    """

    path: Path
    flag: str
    prompt: str
    meaning: str
    recommended: str
    default: str | None


def interview(given: Given, terminal: Terminal | None, login: str) -> Site:
    """Ask for what was not given.

    Args:
        terminal: None takes the default of each question that was not answered by a flag.
        login: the user's name on this computer, offered as the name of the first mailbox.

    Raises:
        BuildError: a flag's value is refused, or an answer is missing and nobody can be asked for it.
    """
    missing = [
        flag for flag, value in (("--domain", given.domains), ("--unlock", given.unlock)) if not (value or terminal)
    ]
    if missing:
        message = f"nobody can be asked here (no terminal), and {' and '.join(missing)} cannot be guessed"
        raise BuildError(message, "give each as a flag; see `./darkpipe init --help`")
    return _Interview(given, terminal).run(login)


class _Interview:
    """The answers so far, in the shape of `site.yaml`."""

    def __init__(self, given: Given, terminal: Terminal | None) -> None:
        self._given = given
        self._terminal = terminal
        self._data: dict[str, Any] = {"version": 1}

    def run(self, login: str) -> Site:
        given = self._given
        domains = " ".join(given.domains) if given.domains else None
        self._settle(_domains(), domains, lambda text: self._data.update(domains=words(text)))
        self._mailboxes(login)
        self._settle(_password(), given.password, self._set_password)
        addresses = self._addresses()
        if given.admin is not None or len(addresses) > 1:
            self._settle(_admin(addresses), given.admin, lambda text: self._data.update(admin=text))
        if given.mail_server is not None or len(working_choices(("mail_server",)) or MailServer) > 1:
            self._settle(_mail_server(), given.mail_server, lambda text: self._data.update(mail_server=text))
        self._settle(_relay(self._data["domains"][0]), given.relay, self._set_relay)
        self._settle(_unlock(), given.unlock, lambda text: self._data.update(disk={"unlock": text}))
        return Site.model_validate(self._data)

    def _mailboxes(self, login: str) -> None:
        """Ask for mailboxes until Enter says that there are no more."""
        users: list[dict[str, Any]] = []
        self._data["users"] = users
        texts: Sequence[str | None] = self._given.users or (None,)
        for text in texts:
            self._mailbox(users, text, _first_address(login, self._data["domains"][0]))
        while not self._given.users and self._terminal is not None and self._mailbox(users, None, _DONE):
            pass

    def _mailbox(self, users: list[dict[str, Any]], given: str | None, default: str) -> bool:
        number = len(users)

        def put(text: str) -> None:
            del users[number:]
            if words(text):
                users.append(mailbox(text))

        self._settle(_mailbox(number, default), given, put)
        return len(users) > number

    def _set_password(self, text: str) -> None:
        for user in self._data["users"]:
            user["password"] = text

    def _set_relay(self, text: str) -> None:
        self._data["relays"] = relays(text)

    def _addresses(self) -> list[str]:
        return [address for user in self._data["users"] for address in (user["address"], *user["aliases"])]

    def _settle(self, question: Question, given: str | None, put: Callable[[str], None]) -> None:
        """Find an answer that the model takes: the flag's, else the user's, else the default."""
        if given is not None or self._terminal is None:
            put(given if given is not None else question.default or "")
            if finding := self._refusal(question.path):
                found = f"{question.flag}: {finding.found}; expected {finding.expected}"
                raise BuildError(found, finding.remedy)
            return
        self._terminal.say(f"{question.meaning}\nRecommended: {question.recommended}")
        while True:
            put(self._terminal.ask(question.prompt, question.default).strip())
            finding = self._refusal(question.path)
            if finding is None:
                return
            self._terminal.say(f"Found {finding.found}; expected {finding.expected}. To do: {finding.remedy}.")

    def _refusal(self, path: Path) -> Finding | None:
        """The first thing that the model says against a path or what holds it; the rest is not answered yet."""
        for finding in check_values(self._data):
            shorter = min(len(finding.path), len(path))
            if shorter and finding.path[:shorter] == path[:shorter]:
                return finding
        return None


def _domains() -> Question:
    return Question(
        ("domains",),
        "--domain",
        "Your domains",
        _description(Site, "domains"),
        "a domain that you have registered; several are separated by spaces. There is no default.",
        None,
    )


def _mailbox(number: int, default: str) -> Question:
    return Question(
        ("users", number),
        "--user",
        f"Mailbox {number + 1}" + (" (Enter: no more)" if default == _DONE else ""),
        f"{_description(User, 'address')} After it, separated by spaces, its aliases. {_description(User, 'aliases')}",
        "one mailbox for each person; postmaster@ and abuse@ reach the administrator without being listed."
        if number == 0
        else "Enter, when everybody is listed.",
        default,
    )


def _password() -> Question:
    return Question(
        ("users", 0, "password"),
        "--password",
        "First passwords",
        _description(User, "password"),
        f"`{GENERATE}` if you will see the device's screen at its first start, else `{PROMPT}`.",
        GENERATE,
    )


def _admin(addresses: Sequence[str]) -> Question:
    return Question(
        ("admin",),
        "--admin",
        "Administrator",
        _description(Site, "admin"),
        "whoever looks after the device.",
        addresses[0],
    )


def _mail_server() -> Question:
    works = working_choices(("mail_server",)) or MailServer
    return Question(
        ("mail_server",),
        "--mail-server",
        "Mail server",
        f"{_description(Site, 'mail_server')} {_choices(works)}",
        "the default, which is the one that most people know.",
        MailServer.POSTFIX_DOVECOT,
    )


def _relay(primary: str) -> Question:
    return Question(
        ("relays",),
        "--relay",
        "Relay (Enter: none)",
        f"{_description(Site, 'relays')} While home is away it keeps mail, encrypted to a key that only your device "
        f"has. {_description(Relay, 'address')}",
        f"mx.{primary}, if you are to rent a server, which `./darkpipe user-data` makes a relay. Enter for a trial.",
        _DONE,
    )


def _unlock() -> Question:
    return Question(
        ("disk", "unlock"),
        "--unlock",
        "Unlock the disk by",
        _description(Disk, "unlock"),
        "one of the others than `none`, so that a thief cannot read your mail.",
        None,
    )


def _description(model: type[Site | User | Disk | Relay], name: str) -> str:
    return model.model_fields[name].description or ""


def _choices(works: Iterable[StrEnum]) -> str:
    return f"Works today: {', '.join(f'`{choice}`' for choice in works)}."


def _first_address(login: str, domain: str) -> str:
    try:
        return mail_address(f"{login}@{domain}" if login != "root" else f"me@{domain}")
    except Refusal:
        return f"me@{domain}"
