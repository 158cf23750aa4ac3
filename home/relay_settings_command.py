"""`darkpipe relay settings`: what the relay does with mail while home is away, shown and changed."""

from __future__ import annotations

import re

import click
import yaml

from home.command import in_words, json_option, print_json
from home.drain_state import Doing, read_drained
from home.relay_change import change_relay, kept_site
from home.relay_peer import FOLDER, PEER
from home.store import Store
from model.document import LARGEST, SiteError, read_content
from model.report import annotate
from model.site import Site

_SITE = re.compile(rb"^(?:\xef\xbb\xbf)?version *:", re.MULTILINE)
"""What a site file has, perhaps behind an editor's mark (RFC 3629 §6), and what this command shows has not."""


@click.command("settings")
@click.argument("file", metavar="[FILE|-]", required=False)
@json_option
def relay_settings(file: str | None, as_json: bool) -> None:
    """Show what this device's site says of its relay, or take it from a file, `-` for standard input.

    The file is a site file, of which nothing but `relays` is taken, or what this command has shown, changed. The relay
    hears of it within half a minute, or when it answers again. Another relay, or another transport, is no setting: see
    `darkpipe relay replace`.

    \b
    Examples:
      darkpipe relay settings > relays.yaml
      darkpipe relay settings relays.yaml
    """
    with in_words(as_json=as_json):
        if file is None:
            _show(kept_site(Store()), as_json=as_json)
            return
        changed = change_relay(Store(), _read(file, as_json=as_json), _in_bucket())
    if as_json:
        print_json({"changed": list(changed)})
    elif changed:
        click.echo(f"Changed: {', '.join(changed)}. The relay is told as soon as it answers.")
        if "s3" in changed:
            click.echo("A bucket needs its secret key: `darkpipe relay s3-key`, if it was not given before.")
    else:
        click.echo("It is so already: nothing has changed.")


def _in_bucket() -> int | None:
    """Give the octets of mail that the relay has in its bucket; None when nobody knows now."""
    if not (FOLDER / PEER).exists():
        return 0  # there is no relay that could have put any there
    drained = read_drained()
    # What it said before it went out of reach is old: it may have put there what came since.
    if drained is None or drained.relay is None or drained.doing in {Doing.AWAY, Doing.FENCED}:
        return None
    # One that has not answered since the relay's start may be named wrong, or be gone for good: it can be changed.
    return drained.relay.bucket.octets if drained.relay.bucket else 0


def _read(file: str, *, as_json: bool) -> Site:
    try:
        with click.open_file(file, "rb") as opened:
            content = opened.read(LARGEST + 1)
        if not _SITE.search(content):
            # Behind it, so that the lines in complaints are those of the file.
            content += b"\n" + _rest(kept_site(Store())).encode()
        return read_content(content, "standard input" if file == "-" else file)
    except SiteError as error:
        if as_json:
            raise
        raise click.ClickException(annotate(error)) from None


def _rest(site: Site) -> str:
    """Write what a site says besides its relay, without hashes of passwords, which a complaint would show."""
    told = site.model_dump(mode="json", exclude={"relays": True, "users": {"__all__": {"password"}}})
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True)


def _show(site: Site, *, as_json: bool) -> None:
    told = {"relays": [relay.model_dump(mode="json", exclude_none=True) for relay in site.relays]}
    if as_json:
        print_json(told)
    else:
        click.echo(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), nl=False)
