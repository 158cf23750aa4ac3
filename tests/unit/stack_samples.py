"""A stack and a site for the tests of `stack`."""

from __future__ import annotations

import os
from pathlib import Path

from model.accounts import Accounts, first_accounts
from model.document import parse_site
from model.site import Site
from stack.stack import Stack

REPOSITORY = Path(__file__).resolve().parents[2]
COMPONENTS = REPOSITORY / "components"

HASH = "$argon2id$v=19$m=65536,t=3,p=4$LD3QgrbgHeQ1ZNn2eLPchQ$F1o6j8aDr6uyyD6dQd+6j1qElWujI4fv3Ql39q5o06E"


class OwnOwners:
    """Gives every file to whoever runs the test."""

    def ids(self, user: str, group: str) -> tuple[int, int]:
        assert user
        assert group
        return os.getuid(), os.getgid()


def site(users: str = "", domains: str = "example.com, example.org") -> Site:
    """A site of two domains; Alice is the administrator.

    Args:
        users: more users, as YAML list items.
    """
    text = f"""\
version: 1
domains: [{domains}]
admin: alice@example.com
disk: {{unlock: none}}
users:
  - {{address: alice@example.com, aliases: [sales@example.org], password: "{HASH}"}}
{users}"""
    return parse_site(text, "site.yaml")


def accounts(users: str = "", domains: str = "example.com, example.org") -> Accounts:
    """The accounts that `site` makes, those without a password with Alice's."""
    made = first_accounts(site(users, domains))
    with_hash = (user.model_copy(update={"password_hash": user.password_hash or HASH}) for user in made.users)
    return made.model_copy(update={"users": tuple(with_hash)})


def sample_stack(folder: Path, **checks: list[list[str]]) -> Stack:
    """A stack of two services, `one` and `two`, each with a template, and `two` with a secret.

    Args:
        checks: the services' checks.
    """
    for name in ("one", "two"):
        templates = folder / name / "templates" / name
        templates.mkdir(parents=True)
        secrets = f"secrets: [{{path: {name}/secret, group: mail}}]\n" if name == "two" else ""
        description = f"description: {name}\n{secrets}services: [{{name: {name}, check: {checks.get(name, [])}}}]\n"
        (folder / name / "component.yaml").write_text(description)
        (templates / "main.conf.j2").write_text(f"# {name}\nhost = {{{{ accounts.mail_host }}}}\n")
    (folder / "two/templates/two/secret.j2").write_text(
        "{% for u in accounts.users %}\n{{ u.address }}\n{% endfor %}\n"
    )
    return Stack.load(folder)
