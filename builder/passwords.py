"""First passwords: asked for on the terminal, hashed here, so that only a hash leaves this computer."""

from __future__ import annotations

import sys
from collections.abc import Callable

from model.problems import Refusal
from model.site import Site
from stack.passwords import check_password, hash_password


def settle_passwords(site: Site, ask: Callable[[str], str], say: Callable[[str], None]) -> Site:
    """Replace each `password: prompt` by a hash, or by `generate` where nobody can be asked.

    Args:
        ask: asks twice for the password of an address and returns it.
        say: tells the user something.
    """
    interactive = sys.stdin.isatty() and sys.stderr.isatty()
    users = []
    for user in site.users:
        password = user.password
        if password == "prompt" and interactive:
            password = hash_password(_good_one(user.address, ask, say))
        elif password == "prompt":
            say(f"No terminal: the device will make a password for {user.address} and show it once on its console.")
            password = "generate"
        users.append(user.model_copy(update={"password": password}))
    return site.model_copy(update={"users": tuple(users)})


def _good_one(address: str, ask: Callable[[str], str], say: Callable[[str], None]) -> str:
    """Ask until there is one that the device would take as well."""
    while True:
        try:
            return check_password(ask(address))
        except Refusal as refusal:
            say(f"Found {refusal.found}; expected {refusal.expected}. To do: {refusal.remedy}.")
