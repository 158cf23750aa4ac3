"""`darkpipe page`: where the page is, and what it asks for."""

from __future__ import annotations

import os
import socket

import click

from firstboot.lan import home_addresses, page_places
from home.administrator import Denied
from home.command import HELP, in_words, json_option, print_json
from home.desk import greeting
from home.desk_client import DeskClient

_user = os.geteuid


class NoPageError(OSError):
    """The page does not answer."""


def _desk() -> DeskClient:
    if _user() != 0:
        words = click.get_current_context().command_path.split()[1:]
        raise NoPageError(f"this is for root: sudo darkpipe {' '.join(words)}")
    return DeskClient()


@click.group("page", context_settings=HELP)
def page() -> None:
    """The device's page for its administrator, in a browser at home.

    \b
    Examples:
      darkpipe page show
      darkpipe page forget-password
    """


@page.command("show")
@json_option
def show_command(as_json: bool) -> None:
    """Show where the page is, as a QR code too, its certificate's fingerprint, and the code until it is claimed.

    \b
    Examples:
      darkpipe page show
      darkpipe page show --json
    """
    with in_words(as_json=as_json):
        try:
            seen = _desk().see()
        except Denied as error:
            raise NoPageError(str(error)) from None
        name, addresses = socket.gethostname(), home_addresses()
        places = page_places(name, addresses)
        if as_json:
            told = {"claimed": seen.claimed, "code": seen.code, "fingerprint": seen.fingerprint, "places": [*places]}
            print_json({**told, "own_code": seen.own_code})
        else:
            click.echo(greeting(name, addresses, seen.fingerprint, seen.code, own_code=seen.own_code))


@page.command("forget-password")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def forget_command(yes: bool, as_json: bool) -> None:
    """Forget the administrator's password. All sessions end, and the page can be claimed anew, with a new code.

    \b
    Example:
      darkpipe page forget-password
    """
    with in_words(as_json=as_json):
        desk = _desk()
        if not yes:
            click.confirm("Forget the password of the page?", abort=True)
        try:
            desk.forget()
        except Denied as error:
            raise NoPageError(str(error)) from None
        told = "The password is forgotten. `darkpipe page show` shows the code to claim the page anew."
        if as_json:
            print_json({"claimed": False})
        else:
            click.echo(told)
