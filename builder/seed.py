"""The seed: what is personal about an image, as files on its boot partition that the device takes over and wipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.document import SEED_NAME, dump_site, read_site
from model.mtls import AnyHome, read_home_end
from model.site import Site
from model.tunnel import HOME_FILE


@dataclass(frozen=True)
class Seed:
    """All of it.

    Args:
        site: passwords are hashes or left to the device; None: the device asks for a site on its page.
        tunnel: home's end of the tunnel; None without a relay.
    """

    site: Site | None = None
    tunnel: AnyHome | None = None

    def files(self) -> Mapping[str, str]:
        """Give texts by file names; what is in them is secret."""
        found = {SEED_NAME: dump_site(self.site)} if self.site else {}
        if self.tunnel:
            found[HOME_FILE] = f"{self.tunnel.model_dump_json(indent=2)}\n"
        return found


def read_seed(folder: Path) -> Seed:
    """Read what `Seed.files` gave, from files in a folder.

    Raises:
        model.document.SiteError, OSError, pydantic.ValidationError: somebody has changed it.
    """
    tunnel = folder / HOME_FILE
    return Seed(read_site(folder / SEED_NAME), read_home_end(tunnel.read_bytes()) if tunnel.exists() else None)
