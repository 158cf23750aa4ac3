"""`darkpipe relay s3-key` and `darkpipe relay recover-bucket`: the bucket in which the relay's mail may lie."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from home.command import in_words, json_option, print_json
from home.drain_state import read_drained
from home.queue_keys import IDENTITIES, QueueKeyError, read_identities
from home.relay_peer import FOLDER, PEER
from home.s3_settings import S3KeyError, keep_secret_key, s3_settings, told
from home.store import Store
from model.document import read_site
from model.problems import Kind, Refusal
from model.site import S3
from stack.stack import DATA

_SERVICE = "darkpipe-drain.service"
_USER = "darkpipe-drain"
_RUN = ("setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--no-new-privs")
_MODULE = ("/usr/libexec/darkpipe-run", "home.bucket_run")


@click.command("s3-key")
@json_option
def s3_key(as_json: bool) -> None:
    """Give the device the secret key of the S3 store that `s3` in the site names; it is asked for, or read.

    It lies on the data disk, and goes to the relay with its settings.

    \b
    Examples:
      darkpipe relay s3-key
      darkpipe relay s3-key < key.txt
    """
    with in_words(as_json=as_json):
        if sys.stdin.isatty():
            text = click.prompt("Secret key of the S3 store", hide_input=True, err=True)
        else:
            text = sys.stdin.read(4096)
        keep_secret_key(FOLDER, text)
    if as_json:
        print_json({"kept": True})
    else:
        click.echo("The secret key is kept; the relay is told of it when it is reached.")


@click.command("recover-bucket")
@click.option("--relay-is-gone", is_flag=True, help="The relay is lost for good: take also what it was at work with.")
@json_option
def recover_bucket(relay_is_gone: bool, as_json: bool) -> None:
    """Fetch what a relay that is gone has left in its bucket, and tell what is missing there.

    Each message is handed over like those that the relay hands over: those that are here already come no second time.
    What was fetched is deleted in the bucket. The bucket of a relay that lives is left to it.

    \b
    Examples:
      darkpipe relay recover-bucket
      darkpipe relay recover-bucket --relay-is-gone
    """
    with in_words(as_json=as_json):
        found = _recover(relay_is_gone=relay_is_gone)
        if as_json:
            print_json(found)
        else:
            _print(found)
    if found["stopped"] or found["problems"] or any(one["left"] or one["missing"] for one in found["folders"]):
        sys.exit(1)


def _recover(*, relay_is_gone: bool) -> Mapping[str, Any]:
    given = {
        "folder": f"{DATA}/drain",
        "s3": told(s3_settings(_site_s3(), FOLDER)),
        "identities": _identities(Store().queue_keys / IDENTITIES),
        "besides": [] if relay_is_gone else _at_work(),
    }
    # Two of them would hand over the same messages.
    subprocess.run(["systemctl", "stop", _SERVICE], check=True)
    try:
        # Secrets go by a pipe: a command line is there for everybody to see.
        done = subprocess.run(
            [*_RUN, *_MODULE], input=json.dumps(given), stdout=subprocess.PIPE, text=True, check=False
        )
    finally:
        subprocess.run(["systemctl", "start", "--no-block", _SERVICE], check=True)
    if done.returncode != 0:
        raise S3KeyError("fetching has ended before its end; what is here by now is kept, and another try goes on")
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


def _site_s3() -> S3:
    path = Store().site
    relays = read_site(path).relays if path.exists() else ()
    bucket = next((relay.s3 for relay in relays if relay.s3), None)
    if bucket is None:
        raise S3KeyError(
            "the site names no bucket; `darkpipe relay settings SITE` takes one from a site.yaml that has `s3`"
        )
    return bucket


def _identities(path: Path) -> list[str]:
    found = [str(identity) for identity in read_identities(path)]
    if not found:
        raise QueueKeyError(f"{path} holds no age identity")
    return found


def _at_work(folder: Path = FOLDER) -> list[str]:
    """Give the folder that the relay has last told of; none while home has no relay.

    Raises:
        Refusal: it has told of none. Its own may be any of them, with mail that came a moment ago.
    """
    if not (folder / PEER).exists():
        return []
    drained = read_drained()
    bucket = drained.relay.bucket if drained and drained.relay else None
    if bucket is None:
        raise Refusal(
            Kind.IN_USE,
            "a relay that has not told yet where in the bucket it is at work",
            "its word, since what lies there is left to it",
            "wait until it answers (`darkpipe relay status`); if it is lost for good, say so by `--relay-is-gone`",
        )
    return [bucket.folder]


def _print(found: Mapping[str, Any]) -> None:
    for one in found["folders"]:
        written = datetime.fromtimestamp(one["written"] / 1000, UTC)
        click.echo(
            f"{one['had']} messages are here; the relay's last word in this folder is of {written:%Y-%m-%d %H:%M} UTC"
        )
        if one["missing"]:
            click.echo(
                f"{one['missing']} messages are MISSING: the relay has put them there, and they are there no more"
            )
        if one["left"]:
            click.echo(f"{one['left']} messages are not taken now, and stay in the bucket: try again later")
        for text in one["problems"]:
            click.echo(f"WRONG: {text}")
    for text in found["problems"]:
        click.echo(f"WRONG: {text}")
    if found["stopped"]:
        click.echo(f"It has stopped: {found['stopped']}")
    elif not found["folders"]:
        click.echo("No relay has left anything in the bucket.")
