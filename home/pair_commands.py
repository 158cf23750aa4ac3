"""`darkpipe pair` and `darkpipe relay`: how home and relay are with each other, and what the owner may ask for."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from home.command import HELP, json_option, print_json
from home.command import in_words as errors_in_words
from home.drain_state import read_drained
from home.drain_words import as_data, rows
from home.pair_state import REPLACEMENT, WISHES, Stage, Told, Wish, read_told
from home.relay_change import kept_site
from home.relay_peer import FOLDER
from home.store import Store
from home.tunnel_state import read_tunnel
from model.control import QueueStatus
from model.mtls import AnyHome, parse_home_end
from model.problems import Kind, Refusal
from stack.durable import write_atomically

_PATIENCE = 20.0
"""Seconds for the service to take up a wish."""

_WORDS = {
    Stage.NO_RELAY: "This device has no relay.",
    Stage.CALLING: "Home calls its relay, which has not answered yet.",
    Stage.INSTALLING: "Home has found its relay, which installs its software. This takes some minutes.",
    Stage.OFFERING: "Home and relay exchange keys.",
    Stage.CONFIRMING: "Home and relay confirm their new keys.",
    Stage.PAIRED: "Home and relay are paired.",
    Stage.CHANGING: "Home and relay are paired, and change to new keys.",
    Stage.SILENT: "Home and relay are paired. The relay does not answer now.",
    Stage.REBUILT: (
        "Home and relay were paired. Now a relay answers that was built anew from the same user-data.\n"
        "If it was you who has built it, `darkpipe pair --again` claims it. Mail that waited on the old one is not on "
        "it; what lies in a bucket of S3 is fetched by `darkpipe relay recover-bucket` then."
    ),
    Stage.BROKEN: "Files about the relay cannot be used.",
}


@click.command("pair")
@click.option("--again", is_flag=True, help="Claim a relay that was built anew from the same user-data.")
@click.option("--restored", is_flag=True, help="Say that this device, restored from a backup, counts from now on.")
@json_option
def pair(again: bool, restored: bool, as_json: bool) -> None:
    """Show how far home and relay are with each other.

    Pairing itself needs no command: home calls its relay by itself.

    \b
    Examples:
      darkpipe pair
      darkpipe pair --again
    """
    if again and restored:
        raise click.UsageError("--again and --restored exclude each other")
    if again or restored:
        _ask(Wish.AGAIN if again else Wish.RESTORED, as_json=as_json)
        return
    told = _read()
    if as_json:
        print_json(told.model_dump(mode="json", exclude={"written"}))
        return
    for line in in_words(told):
        click.echo(line)


@click.group("relay", context_settings=HELP)
def relay() -> None:
    """The relay: how it is, what it is to do, and its keys.

    \b
    Examples:
      darkpipe relay status
      darkpipe relay settings
      darkpipe relay rotate-keys
    """


@relay.command("status")
@json_option
def relay_status(as_json: bool) -> None:
    """Show tunnel, pairing, software, what waits on the relay, and how fetching it goes.

    \b
    Examples:
      darkpipe relay status
      darkpipe relay status --json
    """
    told, tunnel, drained = _read(), read_tunnel(), read_drained()
    if as_json:
        print_json(
            {
                "pairing": told.model_dump(mode="json", exclude={"written"}),
                "tunnel": tunnel and tunnel.model_dump(mode="json"),
                **as_data(drained),
            }
        )
        return
    for line in in_words(told):
        click.echo(line)
    if tunnel and tunnel.relay:
        at = f" at {tunnel.endpoint}" if tunnel.endpoint else ""
        click.echo(f"tunnel      {'up' if tunnel.up else 'DOWN'}, to {tunnel.relay}{at}")
    if told.software:
        click.echo(f"software    {told.software[:16]}")
    if told.settings or told.recipients:
        click.echo(f"told        settings {told.settings}, recipients {told.recipients}")
    for name, text in rows(drained, datetime.now(UTC), time.monotonic()):
        click.echo(f"{name:<12}{text}")


@relay.command("rotate-keys")
@json_option
def rotate_keys(as_json: bool) -> None:
    """Change to new keys, of the tunnel and of the control plane; it happens by itself every 30, 60 or 90 days.

    Which of them is `rotation` of the relay in the site: 90 days, unless it says otherwise (`darkpipe relay settings`).

    Connections through the tunnel go on after some seconds.

    \b
    Example:
      darkpipe relay rotate-keys
    """
    _ask(Wish.ROTATE, as_json=as_json)


@relay.command("replace")
@click.option("--yes", is_flag=True, help="Do not ask.")
def replace_relay(yes: bool) -> None:
    """Turn to a new relay: read home's half of its bootstrap from standard input, and forget the old relay's keys.

    On the computer, `./darkpipe user-data home.yaml --renew` makes new keys and the user-data for the new server, and
    its file of keys, copied to this device, is given to this command. The old server should be destroyed: nobody speaks
    with it.

    \b
    Example:
      darkpipe relay replace --yes < mx.example.com.json
    """
    bootstrap = read_bootstrap(sys.stdin.buffer.read())
    _read()
    with errors_in_words(as_json=False):
        if not kept_site(Store()).relays:
            raise Refusal(
                Kind.NOT_SET_UP,
                "this device's site without a relay: none would be told to take mail, and none would be sent by it",
                "a site that names one",
                "give the device a relay on its page, under Relay, and then these keys",
            )
    drained = read_drained()
    click.echo(waiting(drained.relay if drained else None))
    if not yes:
        raise click.UsageError("with --yes, home turns to the new relay now")
    with errors_in_words(as_json=False):
        write_atomically(FOLDER / WISHES / REPLACEMENT, bootstrap.model_dump_json().encode(), 0o600)
    click.echo(f"Home pairs with {bootstrap.relay} as soon as it answers: `darkpipe pair` shows how far it is.")


def read_bootstrap(content: bytes) -> AnyHome:
    """Read home's half, alone or in the computer's file with both.

    Raises:
        ClickException: it is something else.
    """
    try:
        data = json.loads(content)
        return parse_home_end(data.get("home", data))
    except (ValueError, AttributeError):
        raise click.ClickException(
            "found no bootstrap on standard input, expected the file that `./darkpipe user-data` has made in the "
            "folder with the keys, such as home.keys/mx.example.com.json"
        ) from None


def waiting(queue: QueueStatus | None) -> str:
    """Account for what is on the relay that goes."""
    if queue is None:
        return "What waits on the old relay is not known: it has not been asked since this device started."
    if not queue.count:
        return "When the old relay was last asked, nothing waited on it."
    return (
        f"On the old relay {queue.count} messages wait, {queue.octets} octets, and go with it, but for those in a "
        "bucket of S3 (`darkpipe relay recover-bucket`). While it still runs, home can drain it first: "
        "`darkpipe relay status`."
    )


def in_words(told: Told) -> Iterator[str]:
    """Tell how far home and relay are."""
    yield _WORDS[told.stage]
    if told.trouble:
        yield told.trouble
    if told.changed:
        since = datetime.fromtimestamp(told.changed, UTC)
        yield f"keys        of {since:%Y-%m-%d %H:%M} UTC; relay {told.relay_id[:8]}, epoch {told.home_epoch}"


def _read() -> Told:
    told = read_told()
    if told is None:
        raise click.ClickException("darkpipe-pair does not run: `systemctl status darkpipe-pair`")
    return told


def ask(
    wish: Wish,
    folder: Path = FOLDER,
    read: Callable[[], Told | None] = read_told,
    patience: float = _PATIENCE,
) -> str:
    """Lay a wish before the service.

    Returns:
        What became of it; empty when the service has not taken it up in time. It stays, and is taken up later.
    """
    path = folder / WISHES / wish
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(0o600)
    end = time.monotonic() + patience
    while path.exists():
        if time.monotonic() >= end:
            return ""
        time.sleep(0.2)
    time.sleep(0.2)
    told = read()
    return told.wish.partition(": ")[2] if told and told.wish.startswith(f"{wish}: ") else ""


def _ask(wish: Wish, *, as_json: bool) -> None:
    _read()
    with errors_in_words(as_json=as_json):
        said = ask(wish)
    if as_json:
        print_json({"said": said})
    else:
        click.echo(f"{said[:1].upper()}{said[1:]}." if said else "darkpipe-pair is busy, and takes this up afterwards.")
