"""Where page, console and SSH find darkpipe-disk.service while it waits: for a site, or for what unlocks the disk.

It is there from the first question on until the disk is mounted, so that whoever answers one question sees the next at
the same address, and shows the code once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from firstboot.console import announce
from firstboot.console_code import ConsoleCode
from firstboot.owner_code import read_code
from firstboot.page.certificate import ensure_page_certificate
from firstboot.seed import SeedError, boot_partition, misnamed_seeds, wipe_partial
from firstboot.site_asking import SiteSession
from firstboot.tpm import open_tpm
from firstboot.unlock_socket import Asking, leave_failure, serve
from firstboot.why import reason
from firstboot.wipe import wipe
from model.document import SEED_NAME, SiteError, dump_site, read_site
from model.first_site import answers_in
from model.owner_code import CodeError
from model.report import annotate
from model.site import Disk as Wish
from model.site import Site, UnlockPolicy
from stack.certificate import CertificateError
from stack.durable import write_atomically

_LOOK_AGAIN = 1.0

_REPLACED = "Mend it and start the device again, or answer on its page: that replaces the file."
_RENAME = "Rename it and start the device again, or answer on its page."
_BESIDE = f"There is a file {{}} beside it: if you mean that one, give it the name {SEED_NAME} in place of the other."

Boot = Callable[..., AbstractContextManager[Path | None]]
Serve = Callable[[Asking, str], AbstractContextManager[Callable[[Asking], None]]]


class Door:
    """What one start of the device asks of people.

    Args:
        state: folder where `state` is mounted, with the page's certificate.
        boot: mounts the boot partition (`boot_partition`).
        open_socket: answers whoever asks (`unlock_socket.serve`).
        policies: give the ways to unlock the disk that this device has.
    """

    def __init__(
        self,
        state: Path,
        boot: Boot = boot_partition,
        open_socket: Serve = serve,
        policies: Callable[[], Sequence[UnlockPolicy]] | None = None,
        tell: Callable[[str], object] = announce,
    ) -> None:
        self._state, self._boot, self._serve, self._say = state, boot, open_socket, tell
        self._policies = policies or policies_here
        self._opened = ExitStack()
        self._turn: Callable[[Asking], None] | None = None
        self._code: ConsoleCode | None = None
        self._asking: SiteSession | None = None
        self.can_ask = False
        """Whether a site could be kept: known once `wish` was asked. Without a boot partition there is no place."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)

    @property
    def code(self) -> ConsoleCode:
        """The code of this start."""
        if self._code is None:
            own, refusal = None, ""
            try:
                with self._boot(writable=False) as boot:
                    own = read_code(boot) if boot else None
            except (CodeError, OSError, SeedError) as error:
                refusal = f"Your own code is not taken: {error}."
                self._say(f"DarkPipe: {refusal}")
            self._code = ConsoleCode(time.monotonic, own or "", refusal)
        return self._code

    def open(self, asking: Asking) -> None:
        """Let something be asked about from now on.

        Raises:
            OSError, CertificateError: there can be no page.
        """
        if self._turn is None:
            fingerprint = ensure_page_certificate(self._state)
            self._turn = self._opened.enter_context(self._serve(asking, fingerprint))
        else:
            self._turn(asking)

    def wish(self) -> Wish | None:
        """Read from the seed where data is to lie, and whether encrypted; None when there is none.

        One that cannot be used is explained, and a person is waited for who gives another one.

        Raises:
            OSError, SeedError, DiskError, CertificateError: the boot partition cannot be used, or there can be no page.
        """
        with self._boot(writable=False) as boot:
            self.can_ask = boot is not None
            seed = boot / SEED_NAME if boot else None
            if seed is None or not seed.is_file():
                return None
            try:
                return read_site(seed).disk
            except SiteError as error:
                wrong = error
            beside = [_BESIDE.format(name) for name in misnamed_seeds(seed.parent)]
        self._say("\n\n".join([annotate(wrong), *beside]))
        print(wrong, flush=True)
        return self._ask("\n".join([reason(wrong), *beside, _REPLACED]), lambda: False, answers_in(wrong.text))

    def ask(self, until: Callable[[], bool]) -> Wish | None:
        """Ask for a site, and wait for one.

        Args:
            until: tells that there is no use in waiting any more.

        Returns:
            What it says of the disk; None when it came to no answer.

        Raises:
            OSError, SeedError, DiskError, CertificateError: as `wish`.
        """
        with self._boot(writable=False) as boot:
            names = misnamed_seeds(boot) if boot else ()
        rows = [f"There is a file {name} on the boot partition: is it {SEED_NAME}? {_RENAME}" for name in names]
        return self._ask("\n".join(rows), until)

    def tell(self, text: str) -> None:
        """Say what goes on, to somebody who has given a site and waits."""
        if self._asking:
            self._asking.tell(text)

    def _ask(self, problems: str, until: Callable[[], bool], draft: Mapping[str, str] | None = None) -> Wish | None:
        if self._asking is None:
            self._asking = SiteSession(self.code, self._keep, self._policies(), problems, draft)
            self.open(self._asking)
            print("the device has brought no site, and asks for one", flush=True)
        while not self._asking.finished.wait(_LOOK_AGAIN):
            if until():
                return None
        return self._asking.site.disk if self._asking.site else None

    def _keep(self, site: Site) -> None:
        """Put a site where one put there by hand would lie; a cut leaves it, or none, or the wrong one of before."""
        with self._boot(writable=True) as boot:
            if boot is None:
                raise SeedError("there is no boot partition")
            wipe_partial(boot)
            if (seed := boot / SEED_NAME).is_file():
                wipe(seed)  # it may hold a secret, which a rename would leave on the disk
            write_atomically(seed, dump_site(site).encode(), 0o600)


def leave_trouble(state: Path, text: str) -> None:
    """Have the page, and `darkpipe disk unlock` over SSH, say why there is no disk: many a device has no screen.

    Args:
        state: folder where `state` is mounted, with the page's certificate.
    """
    with suppress(CertificateError, OSError):  # then there is no page, and SSH is left
        ensure_page_certificate(state)
    leave_failure(text)


def policies_here() -> tuple[UnlockPolicy, ...]:
    """Give the ways to unlock the data disk that this device has, in the model's order."""
    tpm = open_tpm() is not None
    return tuple(policy for policy in UnlockPolicy if tpm or policy is not UnlockPolicy.TPM2)
