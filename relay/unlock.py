"""Home's disk is unlocked with this relay's help: Tang's keys, and the peer that reaches Tang and nothing else.

The peer is let in by its key and may use one address (cryptokey routing); the firewall lets that address reach Tang's
port on one address of the relay. Without the folder there is neither peer, nor address, nor port.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from model.control import ControlError
from model.unlock import UnlockKeys
from relay import files

FOLDER = Path("var/lib/darkpipe/unlock")
PACKAGE = "tang"
_WHOLE, _SIGN, _EXCHANGE = "unlock.json", "sign.jwk", "exchange.jwk"


@dataclass(frozen=True)
class UnlockFolder:
    """Where the keys lie.

    Args:
        root: `/`, but for tests.
    """

    root: Path = Path("/")

    @property
    def path(self) -> Path:
        """The folder, which is root's."""
        return self.root / FOLDER

    def read(self) -> UnlockKeys | None:
        """Read what home has given; None when it has given nothing, or the file is damaged: home brings it again."""
        try:
            return UnlockKeys.read((self.path / _WHOLE).read_bytes())
        except (FileNotFoundError, ControlError):
            return None

    def put(self, keys: UnlockKeys) -> None:
        """Keep keys; the file that says so is written last.

        Raises:
            OSError: the disk has failed.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.path / _WHOLE).unlink(missing_ok=True)
        for name, key, uses in ((_SIGN, keys.sign, ("sign", "verify")), (_EXCHANGE, keys.exchange, ("deriveKey",))):
            # Tang tells by the uses which of them is for what.
            files.replace(self.path / name, json.dumps({**key, "key_ops": uses}, sort_keys=True).encode())
        files.replace(self.path / _WHOLE, keys.to_json())

    def remove(self) -> None:
        """Forget them.

        Raises:
            OSError: the disk has failed.
        """
        if self.path.exists():
            # First what makes the others count.
            (self.path / _WHOLE).unlink(missing_ok=True)
            files.sync_folder(self.path)
            shutil.rmtree(self.path)
