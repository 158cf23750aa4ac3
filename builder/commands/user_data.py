"""`./darkpipe user-data`: the text that makes a relay of a VPS."""

from __future__ import annotations

from pathlib import Path

import click

_FIRST_LINE = b"#cloud-config\n"


@click.command("user-data")
@click.argument("site", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--provider", metavar="NAME", default="generic", help="Whose notes to show; default: nobody's.")
@click.option(
    "--ssh-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Public key that may log in to the relay; without it SSH is off.",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write to a file.")
@click.option("--renew", is_flag=True, help="Make new keys, for a new relay in the place of the one that there is.")
def user_data(site: Path, provider: str, ssh_key: Path | None, output: Path | None, renew: bool) -> None:
    """Write the user-data that makes the relay of SITE out of a fresh VPS.

    Paste it into the form in which you order the VPS. It is the same text every time: the keys of the tunnel are made
    once and kept in a folder beside SITE, named like it and ending in .keys, which nobody but you may read. An image
    that is built from SITE holds the other half of them.

    With --renew the keys are new ones: user-data from before make no relay that this device speaks with any more, as
    soon as the device has been given its half by `darkpipe relay replace`. The former keys stay in the folder until
    the next time.

    \b
    Examples:
      ./darkpipe user-data my-site.yaml
      ./darkpipe user-data my-site.yaml --provider hetzner --ssh-key ~/.ssh/id_ed25519.pub --output relay.yaml
      ./darkpipe user-data my-site.yaml --renew --output relay.yaml
    """
    from bootstrap.ends import make_bootstrap
    from builder.bootstrap import bootstrap_file, has_bootstrap, keys_folder, open_bootstrap
    from builder.errors import BuildError
    from builder.user_data import next_steps, providers, public_key
    from builder.user_data import user_data as written
    from model.document import read_site
    from stack.durable import write_atomically

    known = providers()
    if provider not in known:
        raise BuildError(f"--provider {provider}: found a name that is not known", f"known are: {', '.join(known)}")
    wanted = read_site(site)
    if not wanted.relays:
        raise BuildError(
            f"{site}: found no relay, and user-data are for one",
            "add `relays: [{address: mx.example.com}]` with your own domain",
        )
    key = public_key(ssh_key.read_text(encoding="utf-8", errors="replace")) if ssh_key else ""
    if output:
        _check_output(output)
    relay = wanted.relays[0]
    written(wanted, make_bootstrap(relay), key)  # what is refused is refused before keys change
    new = not has_bootstrap(site, relay)
    text = written(wanted, open_bootstrap(site, relay, renew=renew), key)
    if output:
        try:
            write_atomically(output, text.encode(), 0o600)
        except OSError as error:
            raise BuildError(
                f"{output} cannot be written: {error.strerror}", "name a file in a folder of yours"
            ) from error
    else:
        click.echo(text, nl=False)
    if renew and not new:
        click.echo(
            f"The keys are new. A device that runs learns its half from {(file := bootstrap_file(site, relay))}:\n"
            f"copy it there, give it to\n  sudo darkpipe relay replace --yes < {file.name}\nand delete the copy.",
            err=True,
        )
    elif new:
        # After a rename of the site's file, for instance, whose keys have kept their name.
        click.echo(f"The keys are new, in {keys_folder(site)}. An image or a relay made before has others.", err=True)
    click.echo(next_steps(wanted, text, known[provider], key), nl=False, err=True)


def _check_output(output: Path) -> None:
    """Refuse to write where no file can be, and over a file that is something else: the site, a key."""
    from builder.errors import BuildError

    if not output.absolute().parent.is_dir():
        raise BuildError(f"{output} cannot be written: there is no such folder", "name a file in a folder of yours")
    if not output.exists():
        return
    try:
        # Nothing else is opened: a pipe would never give a line, and a device would be replaced by a file.
        begins = output.open("rb").read(len(_FIRST_LINE)) if output.is_file() else b"?"
    except OSError as error:
        raise BuildError(f"{output} cannot be read: {error.strerror}", "name another file") from error
    if begins not in {b"", _FIRST_LINE}:
        raise BuildError(f"{output} is there already, and is no user-data", "name another file, or remove it first")
