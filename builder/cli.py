"""The command line of the user's computer."""

from __future__ import annotations

import json
import signal
import sys
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from builder.commands.cache import cache
from builder.commands.diff import diff
from builder.commands.doctor import doctor
from builder.commands.flash import flash
from builder.commands.imager import imager
from builder.commands.init import init
from builder.commands.lock import lock
from builder.commands.user_data import user_data
from builder.commands.verify import sign, verify
from builder.commands.why import why
from builder.errors import BuildError
from builder.version import VERSION

if TYPE_CHECKING:
    from builder.progress import Stages
    from builder.seed import Seed
    from model.site import Site

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_YES = "--yes"


@click.group(context_settings=_HELP)
@click.version_option(VERSION, message="darkpipe %(version)s")
@click.option(_YES, is_flag=True, help="Install what is missing without asking.")
def darkpipe(yes: bool) -> None:
    """E-mail on your own hardware at home: builds the image for the device.

    \b
    Examples:
      ./darkpipe init my-site.yaml
      ./darkpipe build my-site.yaml
      ./darkpipe boot out/darkpipe-0.1.0-x64-…  --forward 2525:25 --forward 9993:993
    """


@darkpipe.command()
@click.argument("site", type=click.Path(path_type=Path))
def check(site: Path) -> None:
    """Check a site.yaml and show every problem at its line.

    \b
    Example:
      ./darkpipe check my-site.yaml
    """
    from model.document import read_site

    found = read_site(site)
    people = "1 user" if len(found.users) == 1 else f"{len(found.users)} users"
    click.echo(f"{site}: good. {people} at {', '.join(found.domains)}.")


@darkpipe.command()
def schema() -> None:
    """Print the JSON Schema of site.yaml, for editors.

    \b
    Example:
      ./darkpipe schema > site.schema.json
    """
    from model.site import site_schema

    click.echo(json.dumps(site_schema(), indent=2))


@darkpipe.command()
@click.argument("site", type=click.Path(path_type=Path), required=False)
@click.option("--without-site", is_flag=True, help="Bring no site: the device asks for one on its page.")
@click.option("--profile", default="x64", show_default=True, metavar="NAME", help="Platform to build for.")
@click.option("--all", "everything", is_flag=True, help="Build for every platform, as one release.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out"),
    show_default=True,
    metavar="PARENT",
    help="Folder in which the result's folder is made.",
)
@click.option("--refresh", is_flag=True, help="Look at Debian's archive now.")
@click.option(
    "--lock",
    "lock_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take exactly the packages of this file of `./darkpipe lock`.",
)
@click.option(
    "--packages",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="With --lock: take packages from the .deb and .whl files in this folder, and from nowhere else.",
)
@click.option(
    "--code",
    "code_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Bring the owner's code for the device's page, for a device without a screen: the one in FILE, which is made "
    "if there is none.",
)
@click.option("--seed", "seed_folder", type=click.Path(path_type=Path), hidden=True)  # its files, as they shall be
def build(
    site: Path | None,
    without_site: bool,
    profile: str,
    everything: bool,
    output: Path,
    refresh: bool,
    lock_file: Path | None,
    packages: Path | None,
    code_file: Path | None,
    seed_folder: Path | None,
) -> None:
    """Build the image that a SITE file describes, or one --without-site.

    Needs no root, no Docker and no loop devices, but on systems that are not like Debian a container engine: there the
    same build runs in a container of $DARKPIPE_CONTAINER_IMAGE (debian:trixie when unset). The last line on standard
    output is the folder with the compressed image, its manifest and checksums; with --all it holds a folder for each
    platform, and one manifest and one list of checksums for all of them.

    A look at Debian's archive holds for 24 hours. After that, or with --refresh, a build looks again, and makes the
    package layer anew if Debian has published something; with --refresh the build tools as well, which else hold for 30
    days.

    \b
    Examples:
      ./darkpipe build examples/home.yaml
      ./darkpipe build my-site.yaml --profile raspberrypi
      ./darkpipe build my-site.yaml --all --refresh
      ./darkpipe build --without-site --profile raspberrypi
      ./darkpipe build my-site.yaml --profile raspberrypi --code my-code.txt
      folder=$(./darkpipe build my-site.yaml --output /srv/images | tail -n 1)
    """
    from builder.archive import Archive
    from builder.build import SOURCE, Held, build_image, check_unlock, open_workshop
    from builder.cache import Cache
    from builder.lock import read_lock
    from builder.profile import all_profiles, find_profile
    from builder.progress import Stages
    from builder.release import build_release
    from builder.sandbox import remove_tree
    from builder.where import builds_here
    from model.document import read_site

    if (site is None) is not without_site:
        raise BuildError("an image has one SITE file, or none", "name a SITE file, or else write --without-site")
    if packages and not lock_file:
        raise BuildError(
            "--packages needs a lock that says which packages", "add --lock FILE; `./darkpipe lock` makes one"
        )
    if everything and lock_file:
        raise BuildError("--all takes no lock, which is for one platform", "build the platforms one by one")
    held = Held(read_lock(lock_file), packages) if lock_file else None
    wanted = read_site(site) if site else None
    chosen = find_profile(SOURCE / "profiles", profile)
    platforms = all_profiles(SOURCE / "profiles") if everything else (chosen,)
    for platform in platforms:  # before passwords are asked for, and a relay's keys made
        check_unlock(wanted, platform)
    stages = Stages()
    seed, next_steps = _seed(site, wanted, code_file, seed_folder, stages)
    if not builds_here():
        from builder.container import build_in_container, given

        options = given(profile=profile, all=everything, refresh=refresh, lock=lock_file, packages=packages)
        result = build_in_container(wanted, seed, options, output, stages)
        for step in next_steps:
            stages.say(step)
        click.echo(result)
        return
    store = Cache(Cache.default().root, remove_tree)
    shop = open_workshop(store, Archive.from_environment(), stages, refresh=refresh)
    if everything:
        result = build_release(shop, seed, platforms, output, written=wanted, refresh=refresh)
    else:
        result = build_image(shop, seed, chosen, output, written=wanted, refresh=refresh, held=held)
    stages.say(f"Built in {sum(stages.seconds.values()):.1f} s.")
    for step in next_steps:
        stages.say(step)
    click.echo(result)


def _seed(
    site: Path | None, wanted: Site | None, code_file: Path | None, folder: Path | None, stages: Stages
) -> tuple[Seed, list[str]]:
    """Give the seed of an image, as it lies in a folder or made now; and what the user does next."""
    from builder.bootstrap import has_bootstrap, open_bootstrap
    from builder.page_code import open_code
    from builder.passwords import settle_passwords
    from builder.seed import Seed, read_seed

    if folder:
        return read_seed(folder), []
    next_steps, code, tunnel = [], "", None
    if code_file:
        code = open_code(code_file)
        next_steps.append(f"The device's page asks for the code in {code_file}.")
    if not site or not wanted:
        return Seed(code=code), next_steps
    if wanted.relays:
        if not has_bootstrap(site, wanted.relays[0]):
            then = f"./darkpipe user-data {site}"
            next_steps.append(f"The image has the keys of a new relay. What makes that relay: {then}")
        tunnel = open_bootstrap(site, wanted.relays[0]).home
    return Seed(settle_passwords(wanted, _ask_password, stages.say), tunnel, code), next_steps


@darkpipe.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--forward", "forwards", multiple=True, metavar="HOST:GUEST", help="Forward a local TCP port; repeatable."
)
@click.option(
    "--disk",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep the machine's disk in FILE; one that is there is used as it is.",
)
@click.option(
    "--size", type=click.IntRange(5, 100_000), default=16, show_default=True, metavar="GB", help="Size of a new disk."
)
@click.option(
    "--memory",
    type=click.IntRange(256, 1_000_000),
    default=2048,
    show_default=True,
    metavar="MiB",
    help="Memory of the machine.",
)
@click.option("--detach", is_flag=True, help="Run in the background; print one JSON line with pid and console file.")
@click.option(
    "--wait",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Return when the service on this guest port has greeted.",
)
@click.option(
    "--usb-disk",
    "usb_disks",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False, writable=True),
    metavar="FILE",
    help="Plug in FILE as a USB disk; it lies beside the FILE of --disk; repeatable.",
)
@click.option(
    "--tpm",
    type=click.Path(path_type=Path, exists=True, file_okay=False, writable=True),
    metavar="FOLDER",
    help="Give it a TPM 2.0 that keeps its state in FOLDER, beside the FILE of --disk.",
)
@click.option("--offline", is_flag=True, help="No network behind the machine; forwarded ports work.")
@click.option("--shell", is_flag=True, help="Log in as root on the console by itself (development only).")
@click.option(
    "--log-writes",
    is_flag=True,
    help="Log all that is written to the disk of --disk FILE in FILE.writes, for tests of power cuts.",
)
@click.option(
    "--clock",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%S"]),
    metavar="TIME",
    help="What its clock shows when it is switched on, in UTC, such as 2020-01-01T00:00:00: a clock without a battery.",
)
def boot(
    folder: Path,
    forwards: tuple[str, ...],
    disk: Path | None,
    size: int,
    memory: int,
    detach: bool,
    wait: int | None,
    usb_disks: tuple[Path, ...],
    tpm: Path | None,
    offline: bool,
    shell: bool,
    log_writes: bool,
    clock: datetime | None,
) -> None:
    """Start a built image in QEMU; its console is this terminal (Ctrl-A X ends it).

    Changes are thrown away unless --disk names a file. --wait implies --detach. The console file of --detach may show
    first passwords; it is readable for you only, and removed after a week by the next --detach.

    \b
    Examples:
      ./darkpipe boot out/darkpipe-…  --forward 2525:25 --forward 9993:993
      ./darkpipe boot out/darkpipe-…  --detach --forward 2525:25 --wait 25
      ./darkpipe boot out/darkpipe-…  --disk home.img --shell
    """
    from builder.boot import boot_attached, boot_detached
    from builder.emulator import Forward, Machine
    from builder.where import must_be_here

    must_be_here("start the image in a virtual machine of your own, with UEFI: zstd -d out/…/….img.zst")
    if log_writes and disk is None:
        raise click.UsageError("--log-writes needs --disk FILE")
    if any(disk is None or path.resolve().parent != disk.resolve().parent for path in usb_disks):
        raise click.UsageError("--usb-disk FILE needs --disk with a file in the same folder")
    if tpm and (disk is None or tpm.resolve().parent != disk.resolve().parent):
        raise click.UsageError("--tpm FOLDER needs --disk with a file beside it")
    machine = Machine(
        folder=folder,
        forwards=tuple(Forward.parse(text) for text in forwards),
        disk=disk,
        size=size * 10**9,
        memory=memory,
        offline=offline,
        shell=shell,
        log_writes=log_writes,
        usb_disks=tuple(path.resolve() for path in usb_disks),
        clock=clock,
        tpm=tpm.resolve() if tpm else None,
    )
    if detach or wait is not None:
        boot_detached(machine, wait)
    else:
        sys.exit(boot_attached(machine))


for command in (cache, diff, doctor, flash, imager, init, lock, sign, user_data, verify, why):
    darkpipe.add_command(command)


class _Ended(BaseException):
    """Somebody ends the program; like KeyboardInterrupt it is no error that anything should handle on its way."""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise _Ended


def _ask_password(address: str) -> str:
    try:
        answer: str = click.prompt(f"Password for {address}", hide_input=True, confirmation_prompt=True, err=True)
    except UnicodeDecodeError:
        return "\udcff"  # what is no UTF-8 is refused in words, as on the device
    return answer


def main() -> None:
    """Run the program; every error that a user can act on is told in words, with a remedy, and exit status 1."""
    from model.document import SiteError
    from model.report import annotate

    # The launcher takes --yes anywhere on the line; for the program it means nothing more.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    arguments = [argument for argument in sys.argv[1:] if argument != _YES]
    try:
        darkpipe.main(arguments, prog_name="darkpipe", standalone_mode=False)
    except click.exceptions.Abort:
        _fail("interrupted; nothing half-made is left", status=130)
    except (KeyboardInterrupt, _Ended):
        _fail("interrupted; nothing half-made is left", status=130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SiteError as error:
        click.echo(annotate(error), err=True)
        sys.exit(1)
    except BuildError as error:
        _fail(str(error), error.hint)
    except OSError as error:
        # A full disk shows up anywhere; everything else that is likely has a text of its own.
        where = f": {error.filename}" if error.filename else ""
        _fail(f"{error.strerror or error}{where}", "is the disk full, or a folder not yours?")


def _fail(message: str, hint: str = "", status: int = 1) -> None:
    click.echo(f"darkpipe: {message}", err=True)
    if hint:
        click.echo(f"Hint: {hint}{'' if hint.endswith('?') else '.'}", err=True)
    sys.exit(status)
