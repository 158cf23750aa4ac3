"""Rendering: from the accounts to the text of every configuration file. Pure; reads nothing but the templates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import jinja2

from model.accounts import Accounts
from stack.addresses import alias_domains, aliases, sender_logins, single_mailboxes
from stack.dkim import Key
from stack.stack import TUNNEL_INTERFACES, Stack

_SUFFIX = ".j2"


@dataclass(frozen=True)
class File:
    """A rendered file; it belongs to root and to a group."""

    content: bytes
    mode: int = 0o644
    group: str = "root"


class RenderError(Exception):
    """A template does not fit the accounts; the text names the template."""


def render(
    stack: Stack,
    accounts: Accounts,
    certificate: PurePosixPath,
    dkim_keys: Mapping[str, Sequence[Key]],
    *,
    relayed: bool = False,
) -> Mapping[PurePosixPath, File]:
    """Render the templates of all components.

    Args:
        accounts: every user has a password.
        certificate: path of the file with the mail server's key and certificate.
        dkim_keys: the keys that sign for each domain.
        relayed: whether mail to others goes out, by a relay; else it waits.

    Returns:
        The files by their path in the tree, `postfix/main.cf` for instance.

    Raises:
        RenderError: a template is wrong or names something that is not there.
    """
    context = {
        "stack": stack,
        "tunnel_interfaces": TUNNEL_INTERFACES,
        "accounts": accounts,
        "aliases": aliases(accounts),
        "alias_domains": alias_domains(accounts),
        "sender_logins": sender_logins(accounts),
        "single_mailboxes": single_mailboxes(accounts),
        "certificate": certificate,
        "dkim_keys": dkim_keys,
        "relayed": relayed,
    }
    groups = {secret.path: secret.group for secret in stack.secrets}
    files = {}
    for folder, template in _templates(stack):
        path = PurePosixPath(template.removesuffix(_SUFFIX))
        content = _render(folder, template, context)
        files[path] = File(content, 0o640, groups[path]) if path in groups else File(content)
    missing = sorted(map(str, groups.keys() - files.keys()))
    if missing:
        raise RenderError(f"there is no template for the secret file {', '.join(missing)}")
    return dict(sorted(files.items()))


def _templates(stack: Stack) -> Iterable[tuple[Path, str]]:
    for component in stack.components:
        for path in sorted(component.templates.rglob(f"*{_SUFFIX}")):
            yield component.templates, path.relative_to(component.templates).as_posix()


def _render(folder: Path, template: str, context: Mapping[str, object]) -> bytes:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        # Configuration files are no HTML; values are safe by the rules of `model.names`: no control characters.
        autoescape=False,  # noqa: S701
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    try:
        return environment.get_template(template).render(context).encode()
    except jinja2.TemplateError as error:
        raise RenderError(f"{folder / template}: {error}") from error
