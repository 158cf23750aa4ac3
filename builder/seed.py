"""The seed: what is personal about an image, as files on its boot partition that the device takes over and wipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model.document import SEED_NAME, dump_site, read_site
from model.mtls import AnyHome, read_home_end
from model.owner_code import CODE_NAME, parse_code
from model.site import Site
from model.tunnel import HOME_FILE


@dataclass(frozen=True)
class Seed:
    """All of it.

    Args:
        site: passwords are hashes or left to the device; None: the device asks for a site on its page.
        tunnel: home's end of the tunnel; None without a relay.
        code: the owner's, for the device's page, in the form of `model.owner_code.bare_code`; empty without one.
    """

    site: Site | None = None
    tunnel: AnyHome | None = None
    code: str = field(default="", repr=False)

    def files(self) -> Mapping[str, str]:
        """Give texts by file names; what is in them is secret."""
        found = {SEED_NAME: dump_site(self.site)} if self.site else {}
        if self.tunnel:
            found[HOME_FILE] = f"{self.tunnel.model_dump_json(indent=2)}\n"
        if self.code:
            found[CODE_NAME] = f"{self.code}\n"
        return found


def read_seed(folder: Path) -> Seed:
    """Read what `Seed.files` gave, from files in a folder.

    Raises:
        model.document.SiteError, model.owner_code.CodeError, OSError, pydantic.ValidationError: somebody has
            changed it.
    """
    site, tunnel, code = folder / SEED_NAME, folder / HOME_FILE, folder / CODE_NAME
    return Seed(
        read_site(site) if site.exists() else None,
        read_home_end(tunnel.read_bytes()) if tunnel.exists() else None,
        parse_code(code.read_bytes(), code.name) if code.exists() else "",
    )
