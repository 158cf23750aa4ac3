"""The device's settings take effect, anew at every start: the root is read-only, so all of it lies in /run.

`render` decides what lies where and is pure; `put` writes it. A setting that cannot be used is left out and told on the
console: whatever is in the file, the device starts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from firstboot import login as account
from firstboot.console import announce
from firstboot.imager import ImagerError, look_at_imager, take_imager
from firstboot.login import LoginError
from firstboot.partitions import DiskError
from firstboot.seed import SeedError, boot_partition, is_mounted
from firstboot.why import LEFT_OUT
from firstboot.wifi import supplicant_configuration
from model.settings import Keyboard, Settings
from stack.durable import write_atomically
from stack.owners import SystemOwners
from stack.render import File
from stack.stack import Stack
from stack.volumes import make_volumes

STATE = Path("/state/settings.json")
DATA = Path("/data")
PASSWORD = DATA / "darkpipe/login-password"
HOST_KEY = Path("/state/ssh/ssh_host_ed25519_key")

SUPPLICANT = PurePosixPath("/run/wpa_supplicant/wpa_supplicant.conf")
LOCAL_TIME = PurePosixPath("/run/darkpipe/localtime")
"""Where /etc/localtime leads; while nothing is there, the time is UTC (tzset(3))."""

_ZONES = PurePosixPath("/usr/share/zoneinfo")
_SCREEN = Path("/dev/tty1")
_HOST_NAME = Path("/etc/hostname")
_PASSWD, _GROUP = Path("/etc/passwd"), Path("/etc/group")
_FOLDERS = (account.USER_RECORDS, account.AUTHORIZED_KEYS, account.SUDOERS, SUPPLICANT.parent)
_FILES = (account.SSHD, LOCAL_TIME)

_LATER = Path("/run/darkpipe/login-waits")
"""There when something could not be done because the data disk is not: darkpipe-login.service comes for it."""


class SettingsError(Exception):
    """A setting cannot take effect; the text says which, why, and what to do."""


@dataclass(frozen=True)
class Effect:
    """What the settings are in files.

    Args:
        files: by absolute path.
        links: symbolic links and where they lead.
    """

    files: Mapping[PurePosixPath, File] = field(default_factory=dict)
    links: Mapping[PurePosixPath, PurePosixPath] = field(default_factory=dict)


def look_ahead() -> Settings:
    """Read the settings while the data disk is not there yet; what the Raspberry Pi Imager has left stays where it is.

    Raises:
        SettingsError, ImagerError, SeedError, DiskError, OSError: they cannot be used.
    """
    if STATE.exists():
        return read_settings(STATE)
    with boot_partition(writable=False) as boot:
        return look_at_imager(boot, account.taken_names(_PASSWD, _GROUP)) if boot else Settings()


def take_over() -> None:
    """Move what the Raspberry Pi Imager has left on the boot partition, if there is one, to where settings are kept.

    Raises:
        ImagerError, SeedError, DiskError, OSError: it could not be taken, wholly or in part.
    """
    with boot_partition() as boot:
        if boot is None:
            return
        # A volume, and not a mere folder, before anything lies in it.
        make_volumes([one for one in Stack.load().volumes if one.name == PASSWORD.parent.name], DATA, SystemOwners())
        print(take_imager(boot, STATE, PASSWORD, account.taken_names(_PASSWD, _GROUP)))


def read_settings(path: Path) -> Settings:
    """Read the settings; a device without any has the image's own.

    Raises:
        SettingsError: the file cannot be used.
    """
    try:
        return Settings.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror}): the device starts without its settings"
        ) from error
    except ValidationError as error:
        # Without the input: it holds the keys of Wi-Fi networks.
        faults = "".join(
            f"\n  {'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False, include_context=False)
        )
        raise SettingsError(f"{path} cannot be used, the device starts without its settings:{faults}") from error


def render(settings: Settings, *, password_hash: str | None, sudo_asks: bool) -> Effect:
    """Turn settings into files.

    Args:
        password_hash: of the login's password; None when there is none that fits.
        sudo_asks: whether sudo wants it.
    """
    files: dict[PurePosixPath, File] = {}
    links: dict[PurePosixPath, PurePosixPath] = {}
    if settings.time_zone:
        links[LOCAL_TIME] = _ZONES / settings.time_zone
    if settings.wifi:
        files[SUPPLICANT] = File(supplicant_configuration(settings.wifi, settings.country).encode(), 0o600)
    if settings.login:
        files |= account.account(settings.login, password_hash)
        files |= account.sudoers(settings.login, asks=sudo_asks)
        if settings.ssh:
            files |= account.ssh(settings.login, has_password=password_hash is not None)
    return Effect(files, links)


def put(effect: Effect, root: Path = Path("/")) -> None:
    """Write the files, and remove those of settings that are no more.

    Args:
        root: what stands for `/` in a test.
    """
    for folder in _FOLDERS:
        # Also when nothing goes in: the cages of services that start later hide the folders that they find, and would
        # not hide one that was removed and made anew.
        _below(root, folder).mkdir(mode=0o755, parents=True, exist_ok=True)
        for old in _below(root, folder).iterdir():
            old.unlink()
    for file in _FILES:
        _below(root, file).unlink(missing_ok=True)
    for path, made in effect.files.items():
        write_atomically(_below(root, path), made.content, made.mode)
    for path, leads_to in effect.links.items():
        _below(root, path).symlink_to(leads_to)


def without_unusable(settings: Settings, complain: Callable[[str], object], root: Path = Path("/")) -> Settings:
    """Leave out what this system cannot do, with a word about each.

    Args:
        root: what stands for `/` in a test.
    """
    if settings.time_zone and not _is_zone(_below(root, _ZONES / settings.time_zone)):
        complain(
            f"there is no time zone `{settings.time_zone}`: the device keeps to UTC. Expected a name of the IANA "
            "database such as `Europe/Berlin`."
        )
        settings = settings.model_copy(update={"time_zone": None})
    if settings.login:
        taken = account.taken_names(_below(root, PurePosixPath(_PASSWD)), _below(root, PurePosixPath(_GROUP)))
        try:
            account.check_name(settings.login.name, taken)
        except LoginError as error:
            complain(str(error))
            settings = settings.model_copy(update={"login": None})
    if settings.ssh and not settings.login:
        complain("SSH is switched on, but there is no login that could use it: it stays off.")
        settings = settings.model_copy(update={"ssh": False})
    return settings


def set_host_name(name: str | None) -> None:
    """Give the kernel the device's name; what starts later, networkd above all, tells it to others.

    Args:
        name: None for the image's own.
    """
    socket.sethostname(name or _HOST_NAME.read_text(encoding="utf-8").strip())


def make_home(name: str, homes: Path = Path(account.HOMES)) -> None:
    """Make the login's home directory, empty."""
    homes.mkdir(mode=0o755, exist_ok=True)
    home = homes / name
    home.mkdir(mode=0o700, exist_ok=True)
    os.chown(home, account.UID, account.UID)


def ensure_host_key(path: Path, scratch: Path = Path("/run/darkpipe")) -> str | None:
    """Make the key by which SSH clients know this device again, if there is none yet.

    Args:
        scratch: a folder in memory, where nothing is left of it.

    Returns:
        The fingerprint of a key that was made now, else None.

    Raises:
        SettingsError: it cannot be kept.
    """
    if path.exists():
        return None
    made = scratch / "new-host-key"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(mode=0o700, parents=True)
    try:
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(made / "key"))
        # `256 SHA256:… no comment (ED25519)`
        fingerprint = _run("ssh-keygen", "-l", "-E", "sha256", "-f", str(made / "key")).split()[1]
        path.parent.mkdir(mode=0o700, exist_ok=True)
        # sshd(8) derives the public half from it.
        write_atomically(path, (made / "key").read_bytes(), 0o600)
    except OSError as error:
        raise SettingsError(f"the device's SSH key cannot be kept ({error}): SSH stays off") from error
    finally:
        shutil.rmtree(made)
    return fingerprint


def set_keyboard(keyboard: Keyboard, screen: Path = _SCREEN) -> None:
    """Give the console the keyboard's layout; it does nothing on a device without a screen.

    Raises:
        SettingsError: XKB does not know this layout.
    """
    if not screen.exists():
        return
    layout = ("-layout", keyboard.layout, "-variant", keyboard.variant, "-model", keyboard.model)
    keymap = _run("ckbcomp", *layout)
    # Outside of a terminal loadkeys(1) cannot see that the console speaks Unicode.
    _run("loadkeys", "--quiet", "--unicode", "--console", str(screen), given=keymap)


def _is_zone(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"TZif"  # RFC 9636 §3.1
    except OSError:
        return False


def _below(root: Path, path: PurePosixPath) -> Path:
    return root / path.relative_to("/")


def _run(*argv: str, given: str = "") -> str:
    done = subprocess.run(argv, input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SettingsError(f"{' '.join(argv)} failed: {done.stderr.strip() or done.returncode}")
    return done.stdout


class Complaints:
    """What could not take effect, told on the console and in the log; the rest goes on."""

    def __init__(self, tell: Callable[[str], object] = announce) -> None:
        self.texts: list[str] = []
        self._tell = tell

    def add(self, text: str) -> None:
        """Tell one."""
        self.texts.append(text)
        self._tell(f"DarkPipe: {text}")
        print(text, file=sys.stderr)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Tell why the steps inside could not be finished."""
        try:
            yield
        except (SettingsError, LoginError, ImagerError, SeedError, DiskError, OSError) as error:
            self.add(str(error))


def take_effect(settings: Settings, complaints: Complaints, *, locked: bool = False) -> None:
    """Do all that settings say, as far as it can be done.

    Args:
        locked: whether the data disk, and with it the login's password, is not there yet.
    """
    settings = without_unusable(settings, complaints.add)
    password_hash, sudo_asks = None, True
    if settings.login and not locked:
        with complaints.caught():
            password_hash = account.read_password_hash(PASSWORD)
            sudo_asks = password_hash is not None
    if settings.ssh:
        settings = settings.model_copy(update={"ssh": False})
        with complaints.caught():
            if fingerprint := ensure_host_key(HOST_KEY):
                announce(f"DarkPipe: this device's SSH key was made. Its fingerprint: {fingerprint}")
            settings = settings.model_copy(update={"ssh": True})
    with complaints.caught():
        set_host_name(settings.hostname)
    with complaints.caught():
        put(render(settings, password_hash=password_hash, sudo_asks=sudo_asks))
        if settings.login:
            make_home(settings.login.name)
    if settings.keyboard:
        with complaints.caught():
            set_keyboard(settings.keyboard)


def keep_left_out(texts: Sequence[str], path: Path) -> None:
    """Keep what was complained of for the device's status: who has no screen, and no login by this very fault, sees it.

    Args:
        texts: none: all has taken effect.
    """
    with contextlib.suppress(OSError):  # the console has said it all the same
        path.unlink(missing_ok=True)
        if texts:
            write_atomically(path, "\n".join(texts).encode(), 0o600)


def main(arguments: Sequence[str]) -> int:
    """Run by darkpipe-settings.service and darkpipe-login.service; exit status 1 when something was left out.

    Args:
        arguments: `early` when the data disk may still be locked; what needs it is then left to a second call.
    """
    complaints = Complaints()
    settings = Settings()
    locked = "early" in arguments and not is_mounted(DATA)
    if locked:
        with complaints.caught():
            settings = look_ahead()
        if settings.login or not STATE.exists():
            _LATER.parent.mkdir(mode=0o755, exist_ok=True)
            _LATER.touch()
    else:
        with complaints.caught():
            take_over()
        with complaints.caught():
            settings = read_settings(STATE)
    take_effect(settings, complaints, locked=locked)
    keep_left_out(complaints.texts, LEFT_OUT)
    return 1 if complaints.texts else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
